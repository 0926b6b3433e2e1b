"""The workers of a dask scheduler: the same bytes as here, in order, also when a worker dies; and what is refused.

The scheduler and its workers are real processes on loopback.
"""

import functools
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest

from mer import cluster, parallel
from mer.errors import MerError
from mer.parallel import Engine, map_clips
from mer.storage.build import build_product

pytest.importorskip("distributed", reason="dask is not installed: pip install -e '.[dask]'")


@dataclass(frozen=True)
class Clip:
    id: str
    number: int


CLIPS = [Clip(f"s{n % 4}/{n:02d}", n) for n in range(24)]


def compute(clip, *, notes=None, slow=0.0):
    """A small picture of a clip; in the folder `notes` stands which process has made it."""
    if notes is not None:
        (notes / f"{clip.number}.{os.getpid()}").touch()
    time.sleep(slow)
    rng = np.random.default_rng(clip.number)
    return {"data": rng.random((4, 4), dtype=np.float32)}


def fingerprint(clip):
    return str(clip.number)


class Cluster:
    """A scheduler and workers in a folder, each a process; `address` is the scheduler's file."""

    def __init__(self, folder, workers=2, threads=1):
        self.address, self.processes = str(folder / "scheduler.json"), []
        root = os.getcwd()
        environment = os.environ | {"PYTHONPATH": root, "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
        common = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", self.address]
        commands = [["dask_scheduler", *common, "--port", "0"]]
        commands += [["dask_worker", *common, "--nthreads", str(threads), "--no-nanny", "--local-directory",
                      str(folder / f"w{n}")] for n in range(workers)]  # fmt: skip
        for name, *arguments in commands:
            command = [sys.executable, "-m", f"distributed.cli.{name}", *arguments]
            with (folder / f"{len(self.processes)}.log").open("w") as log:
                self.processes.append(subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log))
        self.wait(workers)

    def wait(self, workers):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if os.path.exists(self.address):
                from distributed import Client

                with Client(scheduler_file=self.address, timeout=20, set_as_default=False) as client:
                    if workers:
                        client.wait_for_workers(workers, timeout=60)
                return
            time.sleep(0.1)
        raise TimeoutError("the scheduler has not started")

    def end(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def two(tmp_path, root, monkeypatch):
    monkeypatch.chdir(root)
    started = Cluster(tmp_path)
    yield started
    started.end()


def product(folder, name, engine, **more):
    build_product(
        folder / f"{name}.h5", CLIPS, functools.partial(compute, **more), fingerprint, kind="flow", ragged=False,
        params={"a": 1}, code="c", spool=folder / f"{name}.spool", engine=engine,
    )  # fmt: skip
    return (folder / f"{name}.h5").read_bytes()


def who(item):
    return os.getpid(), parallel.threads(), os.getcwd()


def fail(item):
    if item == 3:
        raise MerError("item 3 is bad; leave it out")
    return item


def test_a_product_has_the_same_bytes_and_work_is_done_by_both_workers(two, tmp_path):
    engine = Engine(scheduler=two.address)
    (tmp_path / "notes").mkdir()
    # A little work each, so that none of the two workers is done before the other has begun.
    ours = product(tmp_path, "there", engine, notes=tmp_path / "notes", slow=0.02)
    assert ours == product(tmp_path, "here", Engine(workers=1))
    makers = [path.suffix for path in (tmp_path / "notes").iterdir()]
    assert set(makers) == {f".{process.pid}" for process in two.processes[1:]}
    assert len(makers) == len(CLIPS)
    # Each on one thread, in this project's folder; results in the order of the items, also of fewer than workers.
    found = map_clips(who, range(6), engine)
    assert {(threads, folder) for _, threads, folder in found} == {(1, os.getcwd())}
    assert map_clips(str, [7], engine) == ["7"]
    assert map_clips(str, [], engine) == []


def test_what_fails_is_raised_as_it_is_and_the_results_before_it_have_been_told(two):
    told = []
    with pytest.raises(MerError, match="item 3 is bad; leave it out"):
        map_clips(fail, range(40), Engine(scheduler=two.address), each=told.append)
    assert told == [0, 1, 2]
    assert map_clips(str, range(3), Engine(scheduler=two.address)) == ["0", "1", "2"]  # they go on


def test_a_worker_that_is_killed_loses_nothing(two, tmp_path):
    (tmp_path / "notes").mkdir()
    victim = two.processes[1]
    killed = []

    def kill_after(result):
        if len(list((tmp_path / "notes").iterdir())) > 6 and not killed:
            killed.append(victim.pid)
            victim.send_signal(signal.SIGKILL)

    work = functools.partial(compute, notes=tmp_path / "notes", slow=0.1)
    found = map_clips(work, CLIPS, Engine(scheduler=two.address), each=kill_after)
    assert killed
    assert victim.wait() == -signal.SIGKILL
    for clip, result in zip(CLIPS, found, strict=True):
        np.testing.assert_array_equal(result["data"], compute(clip)["data"])
    ours = product(tmp_path, "there", Engine(scheduler=two.address))
    assert ours == product(tmp_path, "here", Engine(workers=1))


def test_workers_that_are_all_gone_end_the_run_in_one_line(two, monkeypatch):
    monkeypatch.setattr(cluster, "LOOK", 0.3)
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with pytest.raises(MerError, match=r"has lost all of its workers, .*; start them again, then run dvc repro"):
        map_clips(end_at_five, range(8), Engine(scheduler=two.address))


def test_an_item_that_ends_every_worker_is_named(tmp_path, root, monkeypatch):
    """dask gives an item to four workers in all."""
    monkeypatch.chdir(root)
    started = Cluster(tmp_path, workers=5)
    try:
        with pytest.raises(MerError, match=r"^5 ended every worker that it was given to"):
            map_clips(end_at_five, range(8), Engine(scheduler=started.address))
    finally:
        started.end()


def end_at_five(item):
    if item == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_workers_that_would_not_give_the_same_are_refused(two, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "digest_of_code", lambda: "other")
    with pytest.raises(MerError, match=r"have other code of mer, or other versions of its libraries; bring them up"):
        map_clips(str, range(3), Engine(scheduler=two.address))


def test_several_threads_and_no_workers_are_refused(tmp_path, root, monkeypatch):
    monkeypatch.chdir(root)
    for workers, threads, message in ((1, 2, "have several threads"), (0, 1, "has no workers; start some")):
        folder = tmp_path / str(workers)
        folder.mkdir()
        started = Cluster(folder, workers, threads)
        try:
            with pytest.raises(MerError, match=message):
                map_clips(str, range(3), Engine(scheduler=started.address))
        finally:
            started.end()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://127.0.0.1:1", "no scheduler answers at tcp://127.0.0.1:1"),
        ("nonsense://x", "no scheduler answers at nonsense://x"),
        ("there/is/none.json", "there/is/none.json is not there; dask scheduler --scheduler-file"),
    ],
)
def test_a_scheduler_that_does_not_answer_is_one_line(address, message, monkeypatch):
    monkeypatch.setattr(cluster, "TIMEOUT", 1)
    with pytest.raises(MerError, match=message):
        map_clips(str, range(3), Engine(scheduler=address))


def test_without_dask_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MerError, match=r"dask, which is not installed; pip install -e '\.\[dask\]'"):
        map_clips(str, range(3), Engine(scheduler="tcp://127.0.0.1:1"))


def test_a_worker_that_comes_later_is_checked_by_each_item(monkeypatch):
    """It was not there when the run began."""
    with pytest.raises(MerError, match=r"^a worker on .* has other code of mer, or other versions of its libraries"):
        cluster._on_worker(b"", "name", os.getcwd(), "of the run", 3)
