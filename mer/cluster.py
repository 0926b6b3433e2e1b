"""map_clips on the workers of a dask scheduler: other processes, other machines, a queue of SLURM, PBS or Kubernetes.

Every worker sees this project's folder under the same path, has the same code, and computes on one thread. Results come
back in the order of the items to the one process that writes, so a product has the same bytes as on this machine alone.
"""

import collections
import functools
import hashlib
import itertools
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mer.errors import MerError, listed
from mer.imports import versions

AHEAD = 4  # items a worker that wait or are computed before the oldest is taken: memory of the scheduler stays small
TIMEOUT = 20  # seconds until a scheduler that does not answer is given up
LOOK = 5  # seconds after which it is looked whether there are workers
PATIENCE = 300  # seconds without a worker, in which a queue may start some again
HERE = Path(__file__).parent
# What a library reads as it is loaded: `limit_threads` does not reach one that is imported for a clip. joblib's workers
# get the same.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMBA_NUM_THREADS",
     "NUMEXPR_NUM_THREADS"), "1",
)  # fmt: skip
OTHER_CODE = "other code of mer, or other versions of its libraries; bring them up to date there, and start them again"


def results(fn: Callable, items: Sequence, address: str, label: str) -> Iterator[Any]:
    """fn(item) of each item, in their order.

    Args:
        address: of the scheduler, such as tcp://node1:8786, or the path of a scheduler file (`dask scheduler
            --scheduler-file`).

    Raises:
        MerError: dask is not installed, no scheduler answers, it has no workers, one that has other code, another
            folder or several threads; or an item ended several workers.
        What fn raises, unchanged; the items before it have been handed out.
    """
    import cloudpickle

    client = _connected(address)
    from distributed import CancelledError, KilledWorker

    waiting: collections.deque = collections.deque()
    try:
        workers = _checked(client, address)
        own = digest_of_code()
        payload = cloudpickle.dumps(fn)
        # A task and no scattered data: what a lost worker held is made again.
        function = client.submit(bytes, payload, pure=False)
        name = hashlib.sha256(payload).hexdigest()
        root, unsent = os.getcwd(), iter(items)
        window = max(workers, 1) * AHEAD

        def send(n: int) -> None:
            for item in itertools.islice(unsent, n):
                waiting.append((item, client.submit(_on_worker, function, name, root, own, item, pure=False)))

        send(window)
        while waiting:
            item, future = waiting[0]
            try:
                first = _finished(future, client, address, label)
                done = [first, *_also_finished(waiting, client)]
                for _ in done:
                    waiting.popleft()
                send(len(done))
                yield from done
            except KilledWorker:
                who = str(getattr(item, "id", None) or getattr(item, "name", None) or item)[:200]
                raise MerError(
                    f"{who} ended every worker that it was given to, perhaps because memory is short; give the workers "
                    f"more, then run dvc repro, which goes on after the finished {label}"
                ) from None
            except CancelledError:
                raise MerError(
                    f"the scheduler at {address} is gone; start it and its workers, then run dvc repro, which goes on "
                    f"after the finished {label}"
                ) from None
    finally:
        client.cancel([future for _, future in waiting], reason="the run has ended")
        client.close(timeout=TIMEOUT)


def _finished(future: Any, client: Any, address: str, label: str) -> Any:
    """Its result. Raises MerError where all workers are gone for so long that none will come back by itself."""
    alone_since = None
    while True:
        try:
            return future.result(timeout=LOOK)
        except TimeoutError:
            if future.done():  # meanwhile, or by a TimeoutError of `fn`
                return future.result()
            if client.nthreads():
                alone_since = None
                continue
            alone_since = alone_since or time.monotonic()
            if time.monotonic() - alone_since > PATIENCE:
                raise MerError(
                    f"the scheduler at {address} has lost all of its workers, perhaps because memory is short; start "
                    f"them again, then run dvc repro, which goes on after the finished {label}"
                ) from None


def _also_finished(waiting: Sequence[tuple[Any, Any]], client: Any) -> list:
    """Results of those behind the first that are there too: fetched in one message, as each costs a round trip."""
    done = itertools.takewhile(lambda one: one[1].status == "finished", itertools.islice(waiting, 1, None))
    futures = [future for _, future in done]

    async def fetched() -> list:
        return await client.gather(futures, asynchronous=True)

    try:
        return client.sync(fetched, callback_timeout=LOOK) if futures else []
    except Exception:  # a worker that held some is lost: all are asked for one by one, which raises what each raises
        return []


def _connected(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise MerError(
            "runtime.scheduler needs dask, which is not installed; pip install -e '.[dask]', or empty runtime.scheduler"
        ) from None
    where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    if "scheduler_file" in where and not Path(address).is_file():
        raise MerError(
            f"runtime.scheduler: {address} is not there; dask scheduler --scheduler-file {address} writes it"
        )
    try:
        return Client(**where, timeout=TIMEOUT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MerError(
            f"runtime.scheduler: no scheduler answers at {address} ({said}); start one with dask scheduler, or empty "
            "runtime.scheduler to compute on this machine"
        ) from None


def _checked(client: Any, address: str) -> int:
    """How many workers there are. Raises MerError where one cannot give the results that this machine would."""
    threads = client.nthreads()
    if not threads:
        raise MerError(
            f"runtime.scheduler: the scheduler at {address} has no workers; start some: dask worker {address} "
            "--nthreads 1"
        )
    several = [name for name, n in threads.items() if n != 1]
    if several:
        raise MerError(f"workers {listed(several)} have several threads; start them with --nthreads 1, one a core")
    with tempfile.NamedTemporaryFile(dir=".", prefix=".mer-cluster-") as seen:
        found = client.run(_digest_there, os.path.abspath(seen.name))
    own = digest_of_code()
    other = [name for name, digest in found.items() if digest != own]
    if other:
        lost = [name for name in other if found[name] is None]
        if lost:
            raise MerError(
                f"workers {listed(lost)} do not see {os.getcwd()}; start them where this project's folder is"
            )
        raise MerError(f"workers {listed(other)} have {OTHER_CODE}")
    return len(threads)


def _digest_there(path: str) -> str | None:
    """On a worker: of the code that it would compute with; None where it does not see the file, so not the folder."""
    return digest_of_code() if os.path.exists(path) else None


@functools.cache
def digest_of_code() -> str:
    """Of the files of mer/ and stages/, by their names and bytes, and of the libraries that make numbers."""
    found = hashlib.sha256(versions().encode())
    for path in sorted([*HERE.rglob("*.py"), *(HERE.parent / "stages").glob("*.py")]):
        found.update(path.relative_to(HERE.parent).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def _on_worker(payload: bytes, name: str, root: str, code: str, item: Any) -> Any:
    if digest_of_code() != code:  # it came while the others worked, or the code was edited meanwhile
        raise MerError(f"a worker on {os.uname().nodename} has {OTHER_CODE}")
    if os.getcwd() != root:
        os.chdir(root)
    if root not in sys.path:
        sys.path.insert(0, root)  # stages/ and tools/ are no packages that are installed
    return _function(name, payload)(item)


_loaded: dict[str, Callable] = {}


def _function(name: str, payload: bytes) -> Callable:
    """Unpickled once a worker; an earlier one is forgotten with its arrays."""
    from mer.parallel import limit_threads

    if name not in _loaded:
        _loaded.clear()
        os.environ.update(ONE_THREAD)
        _loaded[name] = pickle.loads(payload)
        limit_threads()
    return _loaded[name]
