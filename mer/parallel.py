"""The one seam for fan-out over clips and folds.

Every worker computes on one thread: the machine is filled by processes, and a result does not
depend on how many there are (floating-point sums would change with the number of threads).
"""

import contextlib
import functools
import os
import pickle
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
from tqdm import tqdm

from mer.errors import MerError, listed

MOST_WORKERS = 256  # processes; beyond, starting them takes longer than any work here


@dataclass(frozen=True)
class Engine:
    """How work is fanned out: `workers` processes on this machine, 0 means one per core; or the workers of a dask
    scheduler, by its address or the file that it writes (mer.cluster).
    """

    workers: int = 1
    progress: bool = False
    scheduler: str = ""

    def count(self, n_items: int) -> int:
        wanted = self.workers or joblib.cpu_count()  # heeds affinity and container limits
        return max(1, min(wanted, n_items, MOST_WORKERS))


SERIAL = Engine()


def map_clips(
    fn: Callable,
    items: Iterable,
    engine: Engine = SERIAL,
    label: str = "clips",
    each: Callable[[Any], str | None] | None = None,
) -> list:
    """[fn(item) for item in items], fanned out; results in the order of `items`.

    `each(result)` is called here, in order, while the workers go on; what it returns is shown as text. The first
    exception of a worker is raised here, unchanged; items that finished before it have finished. Raises MerError where
    a worker was killed, as the kernel does when memory is short, with the items that were at work.
    """
    items = list(items)
    workers = engine.count(len(items))
    bar = tqdm(total=len(items), desc=label, unit="", disable=not engine.progress, mininterval=0.5, smoothing=0.1)
    with bar:
        if engine.scheduler:
            from mer import cluster

            results = []
            for result in cluster.results(fn, items, engine.scheduler, label):
                results.append(result)
                _tell(each, result, bar)
            return results
        if workers == 1:
            results = []
            with single_threaded():
                for item in items:
                    results.append(fn(item))
                    _tell(each, results[-1], bar)
            return results

        import cloudpickle
        from joblib.externals.loky import get_reusable_executor
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        remove_leftovers()
        with (
            # With this process's number, so that what it leaves behind when it is killed can be told from what is used.
            tempfile.TemporaryDirectory(prefix=f"mer-{os.getpid()}-") as folder,
            joblib.parallel_config(
                backend="loky", n_jobs=workers, inner_max_num_threads=1, initializer=_die_with, initargs=(os.getpid(),)
            ),
        ):
            # `fn` may hold arrays and long lists of clips: it travels to a worker once, not with every item.
            path = os.path.join(folder, "fn")
            with open(path, "wb") as file:
                cloudpickle.dump(fn, file)
            # One item a task and no batching ahead: a kill loses at most one item per worker.
            pool = joblib.Parallel(return_as="generator", batch_size=1, pre_dispatch="2*n_jobs")
            results = []
            try:
                for result in pool(joblib.delayed(_in_worker)(path, item) for item in items):
                    results.append(result)
                    _tell(each, result, bar)
            except TerminatedWorkerError:
                raise MerError(
                    f"a worker process was killed at {listed(_at_work(folder)) or 'its start'}, perhaps because memory "
                    f"is short; lower runtime.workers ({workers} were at work) and run dvc repro, which goes on after "
                    f"the finished {label}"
                ) from None
            finally:
                # Workers are not handed on to the next call: loky takes the growth by another module's imports for a
                # memory leak, stops the worker and warns from a thread.
                get_reusable_executor().shutdown(wait=True)
        return results


def _tell(each: Callable[[Any], str | None] | None, result: Any, bar: tqdm) -> None:
    text = each(result) if each is not None else None
    if text:
        bar.set_postfix_str(text, refresh=False)
    bar.update()


_limited = False


def threads() -> int:
    """How many threads code of our own may start here: one in a worker, else one a core."""
    return 1 if _limited else joblib.cpu_count()


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """One thread for BLAS, OpenMP, OpenCV, (when it is loaded) torch, and `threads()`, in this process."""
    undo = limit_threads()
    try:
        yield
    finally:
        undo()


def limit_threads() -> Callable[[], None]:
    """What `single_threaded` does; returns what undoes it."""
    import sys

    import cv2  # also when `fn` has not asked for it yet: it would come with threads
    import threadpoolctl

    global _limited
    torch = sys.modules.get("torch")  # loaded later, it finds OMP_NUM_THREADS=1 in a worker
    before = torch.get_num_threads() if torch else 1, _limited
    _limited = True
    if torch:
        torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pools = threadpoolctl.threadpool_limits(1)

    def undo() -> None:
        global _limited
        pools.restore_original_limits()
        if torch:
            torch.set_num_threads(before[0])
        _limited = before[1]
        cv2.setNumThreads(-1)

    return undo


def _in_worker(path: str, item: Any) -> Any:
    note = Path(path).with_name(f"{os.getpid()}.item")
    note.write_text(str(getattr(item, "id", None) or getattr(item, "name", None) or item)[:200], encoding="utf-8")
    result = _function(path)(item)
    note.unlink(missing_ok=True)
    return result


def _at_work(folder: str) -> list[str]:
    """The items at which workers are, or were when they ended."""
    return sorted(path.read_text(encoding="utf-8") for path in Path(folder).glob("*.item"))


def remove_leftovers() -> None:
    """Remove what killed processes of this user have left in /tmp and in shared memory (loky's and joblib's names)."""
    for folder, pattern in (
        (tempfile.gettempdir(), r"mer-(\d+)-"),
        ("/dev/shm", r"joblib_memmapping_folder_(\d+)_"),
        ("/dev/shm", r"sem\.loky-(\d+)-"),
    ):
        try:
            entries = list(os.scandir(folder))
        except OSError:  # no such folder on this system
            continue
        for entry in entries:
            match = re.match(pattern, entry.name)
            try:
                if match is None or _alive(int(match[1])) or entry.stat(follow_symlinks=False).st_uid != os.getuid():
                    continue
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
            except OSError:  # another process has removed it meanwhile
                continue


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@functools.lru_cache(maxsize=1)
def _function(path: str) -> Callable:
    with open(path, "rb") as file:
        fn = pickle.load(file)
    # After the modules that `fn` brings, and for the worker's whole life: asking every library anew costs 2 ms an item.
    # What is imported later reads the limits that loky has put into the environment.
    limit_threads()
    return fn


def _die_with(parent: int) -> None:
    """End this worker when its parent is gone: killed -9, it tells its workers nothing. Called as a worker starts."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
