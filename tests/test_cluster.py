"""The workers of a dask scheduler: the same bytes as here, in order, also when a worker dies; and what is refused.

The scheduler and its workers are real processes on loopback.
"""

import functools
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
import psutil
import pytest

from mer import cluster, parallel
from mer.errors import MerError
from mer.parallel import Engine, map_clips
from mer.storage.build import build_product
from mer.storage.cache import ClipCache
from tests.helpers.cluster import Cluster
from tests.helpers.processes import wait

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


def threads_of_libraries(item):
    """Of each pool that a library has in this process: BLAS, OpenMP, OpenCV, torch, numba."""
    import cv2
    import numba
    import threadpoolctl
    import torch

    np.ones((64, 64)) @ np.ones((64, 64))
    found = {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    return found | {"opencv": cv2.getNumThreads(), "torch": torch.get_num_threads(), "numba": numba.get_num_threads()}


def pick(clip, *, bad):
    """As `compute`, but for one clip that has a fault."""
    if clip.id == bad:
        raise MerError(f"clip {clip.id} has no face; exclude it")
    return compute(clip)


def listening():
    """Ports at which this process listens."""
    return {c.laddr for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}


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


@pytest.mark.parametrize("engine", ["here", "there"])
def test_a_clip_with_a_fault_is_named_or_left_out_as_on_error_says(two, tmp_path, engine):
    how = {"here": Engine(workers=2), "there": Engine(scheduler=two.address)}[engine]
    work = functools.partial(pick, bad=CLIPS[7].id)

    def build(path, clips, on_error, engine):
        build_product(path, clips, work, fingerprint, kind="flow", ragged=False, params={}, code="c", engine=engine,
                      spool=path.with_suffix(".spool"), on_error=on_error)  # fmt: skip
        return ClipCache(path)

    with pytest.raises(MerError, match=rf"^clip {CLIPS[7].id} has no face; exclude it$"):
        build(tmp_path / "stopped.h5", CLIPS, "stop", how)
    product = build(tmp_path / "excluded.h5", CLIPS, "exclude", how)
    assert product.excluded == {CLIPS[7].id: f"clip {CLIPS[7].id} has no face; exclude it"}
    assert list(product.ids) == [clip.id for clip in CLIPS if clip != CLIPS[7]]
    build(tmp_path / "one.h5", CLIPS, "exclude", Engine(workers=1))
    assert (tmp_path / "excluded.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()


@pytest.mark.parametrize("engine", ["here", "there"])
def test_every_library_has_one_thread_on_a_worker(two, engine):
    how = {"here": Engine(workers=2), "there": Engine(scheduler=two.address)}[engine]
    for found in map_clips(threads_of_libraries, range(4), how):
        assert set(found.values()) == {1}, found


def test_a_run_that_is_cancelled_leaves_the_workers_free(two, tmp_path):
    (tmp_path / "notes").mkdir()

    def stop(result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_clips(functools.partial(compute, notes=tmp_path / "notes", slow=0.2), CLIPS * 20,
                  Engine(scheduler=two.address), each=stop)  # fmt: skip
    from distributed import Client

    with Client(scheduler_file=two.address, timeout=20, set_as_default=False) as client:
        wait(lambda: not any(client.processing().values()), "the workers to be free", 10)
    # At most what was sent ahead was begun, not the 480.
    assert len(list((tmp_path / "notes").iterdir())) <= 2 * cluster.AHEAD + 2
    assert map_clips(str, range(3), Engine(scheduler=two.address)) == ["0", "1", "2"]


def test_no_port_is_opened_here_or_on_this_machine(two):
    """Neither by dask's client nor by processes of this machine."""
    before, seen = listening(), []
    map_clips(str, range(6), Engine(scheduler=two.address), each=lambda result: seen.append(listening()))
    map_clips(str, range(6), Engine(workers=2), each=lambda result: seen.append(listening()))
    assert len(seen) == 12
    assert all(ports == before for ports in seen)


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


def test_a_run_through_a_scheduler_opens_no_port(two):
    """It connects; the scheduler and the workers listen, on loopback alone where they were told so."""
    seen, ended = set(), threading.Event()

    def watch():
        while not ended.is_set():
            seen.update((c.status, c.laddr.ip) for c in psutil.Process().net_connections(kind="inet"))
            time.sleep(0.01)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        map_clips(who, range(20), Engine(scheduler=two.address))
    finally:
        ended.set()
        watching.join()
    assert ("ESTABLISHED", "127.0.0.1") in seen
    assert psutil.CONN_LISTEN not in {status for status, _ in seen}
    for process in two.processes:
        listening = [
            c for c in psutil.Process(process.pid).net_connections(kind="inet") if c.status == psutil.CONN_LISTEN
        ]
        assert listening
        assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
