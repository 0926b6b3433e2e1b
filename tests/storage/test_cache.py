"""Product files and the spool: what comes back, what a kill leaves, and that equal work gives equal bytes."""

import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mer.errors import FileError, MerError
from mer.parallel import Engine
from mer.storage.build import available, build_product, check_same_clips
from mer.storage.cache import CacheWriter, ClipCache
from mer.storage.spool import Spool
from tests.helpers.refusals import refused


@dataclass(frozen=True)
class Item:
    id: str
    content: int


def compute(item: Item) -> dict:
    return {"data": np.full((item.content % 5 + 1, 4), item.content, np.uint8), "transform": np.eye(2) * item.content}


def fingerprint(item: Item) -> str:
    return str(item.content)


ITEMS = [Item(f"c/s{i // 3}/{i}", i) for i in range(9)]


def build(path, items=ITEMS, work=compute, engine=None, code="v1", **params):
    build_product(
        path, items, work, fingerprint, kind="frames", ragged=True, params=params, code=code,
        spool=path.parent / ".partial", engine=engine or Engine(),
    )  # fmt: skip


class Counting:
    """compute, counted; `fail` raises on that item."""

    def __init__(self, fail=None):
        self.seen, self.fail = [], fail

    def __call__(self, item):
        if item.content == self.fail:
            raise MerError(f"{item.id}: unreadable")
        self.seen.append(item.content)
        return compute(item)


def test_ragged_and_fixed_products_come_back(tmp_path):
    build(tmp_path / "a.h5", margin=0.2)
    cache = ClipCache(tmp_path / "a.h5", "frames")
    assert len(cache) == 9
    assert cache.params == {"margin": 0.2}
    for item in reversed(ITEMS):
        assert np.array_equal(cache[item.id], compute(item)["data"])
        assert np.array_equal(cache.extra("transform", item.id), compute(item)["transform"])
    assert np.array_equal(cache.frame(ITEMS[4].id, 4), np.full(4, 4))
    assert [len(a) for a in cache.load()] == [i % 5 + 1 for i in range(9)]
    with CacheWriter(tmp_path / "b.h5", kind="flow", ragged=False, params={}) as writer:
        for i in range(5):
            writer.append(f"x{i}", np.full((3, 2, 2), i, np.float32))
    fixed = ClipCache(tmp_path / "b.h5")
    assert fixed["x3"].shape == (3, 2, 2)
    assert fixed.load(["x4", "x0", "x4"])[:, 0, 0, 0].tolist() == [4, 0, 4]


def test_golden_bytes(tmp_path):
    """A refactor of the writer must not change a byte (h5py as pinned in constraints.txt)."""
    build(tmp_path / "a.h5", margin=0.2)
    assert hashlib.sha256((tmp_path / "a.h5").read_bytes()).hexdigest() == GOLDEN


# Made on Linux x86-64 with h5py 3.16.0. When h5py is upgraded on purpose, look at h5dump of both and renew it.
GOLDEN = "33bb1caaca9bc652d64feb5ca79bd2b00b122decf16343609da5ee94939ba560"


def test_equal_work_gives_equal_bytes_at_any_time_and_with_any_workers(tmp_path):
    build(tmp_path / "1" / "a.h5")
    time.sleep(1.1)  # HDF5 keeps object times in whole seconds
    build(tmp_path / "2" / "a.h5", engine=Engine(workers=2))
    assert (tmp_path / "1" / "a.h5").read_bytes() == (tmp_path / "2" / "a.h5").read_bytes()


def test_a_failed_run_keeps_what_was_finished(tmp_path):
    whole = tmp_path / "whole" / "a.h5"
    build(whole)
    path = tmp_path / "a.h5"
    first = Counting(fail=6)
    with pytest.raises(MerError, match="unreadable"):
        build(path, work=first)
    assert not path.exists()
    second = Counting()
    build(path, work=second)
    assert first.seen == [0, 1, 2, 3, 4, 5]
    assert second.seen == [6, 7, 8]
    assert path.read_bytes() == whole.read_bytes()


def test_a_corrected_row_computes_its_own_clip_only(tmp_path):
    path = tmp_path / "a.h5"
    build(path)
    path.unlink()  # as DVC does before it runs a stage
    corrected = [Item(i.id, 100 if i.content == 4 else i.content) for i in ITEMS]
    work = Counting()
    build(path, corrected, work)
    assert work.seen == [100]
    fresh = tmp_path / "fresh" / "a.h5"
    build(fresh, corrected)
    assert path.read_bytes() == fresh.read_bytes()


@pytest.mark.parametrize("change", [{"code": "v2"}, {"margin": 0.3}])
def test_changed_code_or_parameters_reuse_nothing(tmp_path, change):
    path = tmp_path / "a.h5"
    with pytest.raises(MerError):
        build(path, work=Counting(fail=6))
    work = Counting()
    build(path, work=work, **change)
    assert work.seen == list(range(9))
    again = Counting()
    build(path, work=again)
    assert again.seen == list(range(9))


def test_the_previous_product_costs_no_second_copy(tmp_path):
    build(tmp_path / "a.h5")
    assert os.stat(tmp_path / "a.h5").st_ino == os.stat(tmp_path / ".partial" / "previous.h5").st_ino
    assert not list((tmp_path / ".partial").glob("*.block"))


def test_a_second_writer_names_the_first(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c",
         "import sys, time; from mer.storage.spool import Spool\n"
         "with Spool(sys.argv[1]): print('held', flush=True); time.sleep(60)", str(tmp_path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(MerError, match=f"process {holder.pid}"), Spool(tmp_path, patience=0.3):
            pass
        holder.send_signal(signal.SIGKILL)
        with Spool(tmp_path, patience=5):  # the lock ended with its holder
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_half_written_blocks_are_swept(tmp_path):
    (tmp_path / "k.123.tmp").write_bytes(b"half")
    with Spool(tmp_path) as spool:
        assert "k" not in spool
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-8], lambda b: b[:4], lambda b: b[:-8] + bytes(8), lambda b: b + b"x", lambda b: bytes(len(b))],
    ids=["cut", "cut in the header", "hole", "longer", "all zero"],
)
def test_a_damaged_block_counts_as_absent(tmp_path, damage):
    """What a machine that stopped, or a full disk, may leave behind."""
    with Spool(tmp_path) as spool:
        spool.put("k", {"data": np.arange(1.0, 5.0), "score": np.float32(1)})
        assert "k" in spool
        assert spool.get("k")["score"].shape == ()
        whole = spool.path("k").read_bytes()
        spool.path("k").write_bytes(damage(whole))
        assert "k" not in spool


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda b: b"", "it is empty"),
        (lambda b: b[:100], "it does not begin as a product does"),
        (lambda b: b[:-200], r"it has \d+ bytes, and \d+ were written"),
        (lambda b: b + b"x", r"it has \d+ bytes, and \d+ were written"),
        (lambda b: bytes(len(b)), "it does not begin as a product does"),
        (lambda b: b[:512] + bytes(len(b) - 512), "what describes its data has changed"),
    ],
    ids=["empty", "cut in the seal", "cut", "longer", "all zero", "zero behind the seal"],
)
def test_a_product_that_is_not_whole_is_named_with_the_remedy(tmp_path, damage, what):
    path = tmp_path / "a.h5"
    build(path)
    path.write_bytes(damage(path.read_bytes()))
    remedy = rf"; run python -m tools\.repair {re.escape(str(path))}, then dvc repro$"
    refused(f"a\\.h5: is damaged: {what}{remedy}", ClipCache, path)


def test_wrong_kind_missing_file_missing_clip(tmp_path):
    path = tmp_path / "a.h5"
    build(path)
    with pytest.raises(MerError, match=r"holds 'frames', needed is 'flow'"):
        ClipCache(path, "flow")
    with pytest.raises(MerError, match="no such product"):
        ClipCache(tmp_path / "b.h5")
    with pytest.raises(MerError, match="did you mean 'c/s1/3'"):
        ClipCache(path)["c/s1/33"]
    with pytest.raises(MerError, match="1 of the 2 clips of index are missing: c/x/1"):
        check_same_clips(["c/s0/0", "c/x/1"], ClipCache(path), "index")


def test_one_product_holds_one_shape(tmp_path):
    def write():
        with CacheWriter(tmp_path / "a.h5", kind="flow", ragged=False, params={}) as writer:
            writer.append("a", np.zeros((2, 2)))
            writer.append("b", np.zeros((2, 3)))

    with pytest.raises(MerError, match="one product holds one shape"):
        write()
    assert not list(tmp_path.iterdir())


def test_no_clip_at_all(tmp_path):
    with pytest.raises(MerError, match="no clip to write"):
        build(tmp_path / "a.h5", [])


@pytest.mark.parametrize(
    ("file", "damage", "lost"),
    [
        ("1.part", lambda b: b[:-1] + bytes([b[-1] ^ 1]), [5]),
        ("1.part", lambda b: b[:-1], [5]),
        ("1.rows", lambda b: b + b'{"key": "torn', []),
        ("1.rows", lambda b: b"\n".join(b.splitlines()[:4]) + b'\n{"key"', [4, 5]),
        ("1.rows", lambda b: b"", [0, 1, 2, 3, 4, 5]),
    ],
    ids=["a flipped bit", "cut", "a torn line", "a torn line in the middle", "an empty journal"],
)
def test_damaged_work_of_a_killed_run_is_computed_again(tmp_path, file, damage, lost):
    path = tmp_path / "a.h5"
    with pytest.raises(MerError):
        build(path, work=Counting(fail=6))
    victim = tmp_path / ".partial" / file
    victim.write_bytes(damage(victim.read_bytes()))
    work = Counting()
    build(path, work=work)
    assert work.seen == [*lost, 6, 7, 8]
    for item in ITEMS:
        assert np.array_equal(ClipCache(path)[item.id], compute(item)["data"])


@pytest.mark.parametrize("damage", [lambda b, n: b[:n], lambda b, n: b[:n] + bytes(len(b) - n)], ids=["cut", "zeroed"])
@pytest.mark.parametrize("victim", ["1.part", "previous.h5"])
def test_damaged_copies_of_finished_clips_are_never_taken(tmp_path, victim, damage):
    """A machine that stops may have lost pages of the growing product, or of the last finished one."""
    path, spool = tmp_path / "a.h5", tmp_path / ".partial"
    build(path)
    path.unlink()
    corrected = [Item(i.id, 100 if i.content == 7 else i.content) for i in ITEMS]
    with pytest.raises(MerError):
        build(path, corrected, Counting(fail=100))
    data = (spool / victim).read_bytes()
    (spool / victim).write_bytes(damage(data, len(data) // 2))
    work = Counting()
    build(path, corrected, work)
    assert 100 in work.seen
    fresh = tmp_path / "fresh" / "a.h5"
    build(fresh, corrected)
    assert path.read_bytes() == fresh.read_bytes()


def test_a_good_part_is_not_given_up_for_a_longer_damaged_one(tmp_path):
    path, spool = tmp_path / "a.h5", tmp_path / ".partial"
    for fail in (4, 7):
        with pytest.raises(MerError):
            build(path, work=Counting(fail=fail))
        if fail == 4:
            first = [(spool / name).read_bytes() for name in ("1.part", "1.rows")]
    for name, data in zip(("1.part", "1.rows"), first, strict=True):
        (spool / name).write_bytes(data)
    longer = next(p for p in spool.glob("*.part") if p.stem != "1")
    longer.write_bytes(bytes(len(longer.read_bytes())))
    work = Counting()
    build(path, work=work)
    assert work.seen == [4, 5, 6, 7, 8]


def test_what_a_product_cannot_hold_is_refused_where_it_comes(tmp_path):
    with CacheWriter(tmp_path / "a.h5", kind="flow", ragged=True, params={}) as writer:
        writer.append("a", np.zeros((1, 2)), score=np.float64(1))
        with pytest.raises(MerError, match=r"score of clip b is \(2,\) float64; one product holds numbers of one form"):
            writer.append("b", np.zeros((1, 2)), score=np.zeros(2))
        with pytest.raises(MerError, match=r"clip c is empty \(\(0, 2\)\)"):
            writer.append("c", np.zeros((0, 2)), score=np.float64(1))
    assert ClipCache(tmp_path / "a.h5").ids == ["a"]
    writer = CacheWriter(tmp_path / "b.h5", kind="flow", ragged=False, params={})
    with pytest.raises(MerError, match="holds numbers"):
        writer.append("a", np.zeros(2), name=np.array("x"))
    writer.abandon()


def test_another_disk_for_the_products(tmp_path, monkeypatch):
    """data/cache may be a mount of its own: renaming across file systems fails, copying does not."""
    real = Path.replace

    def replace(self, target):
        if self.suffix == ".part":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    build(tmp_path / "a.h5")
    assert len(ClipCache(tmp_path / "a.h5")) == 9


def test_a_full_disk_leaves_no_half_block(tmp_path, monkeypatch):
    with Spool(tmp_path) as spool:
        monkeypatch.setattr(Path, "replace", lambda *a: pytest.fail("not reached"))
        with pytest.raises(OSError, match="full"):
            spool.put("k", {"data": Full()})
        assert [p.name for p in tmp_path.iterdir()] == ["lock"]


class Full:
    """Stands for an array whose bytes do not fit."""

    def __array__(self, dtype=None, copy=None):
        raise OSError(errno.ENOSPC, "full")


def test_a_run_killed_twice_goes_on_after_the_second(tmp_path):
    path, spool = tmp_path / "a.h5", tmp_path / ".partial"
    for fail in (3, 6, 1):  # the third stops before the first's rows are copied: nothing of them may be lost
        with pytest.raises(MerError):
            build(path, work=Counting(fail=fail), items=[i for i in ITEMS if i.content != 1] if fail != 1 else ITEMS)
    assert len(list(spool.glob("*.part"))) == 2  # what adds nothing has gone
    work = Counting()
    build(path, work=work)
    assert work.seen == [1, 6, 7, 8]
    build(tmp_path / "whole" / "a.h5")
    assert path.read_bytes() == (tmp_path / "whole" / "a.h5").read_bytes()
    assert sorted(p.name for p in spool.iterdir()) == ["lock", "previous.h5"]


def test_what_cannot_be_opened_is_not_called_truncated(tmp_path):
    (tmp_path / "a.h5").mkdir()
    refused(
        r"a\.h5: is a directory; a folder stands where a file is needed: move it away", ClipCache, tmp_path / "a.h5"
    )


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EAGAIN, errno.ESTALE])
def test_an_error_of_the_system_is_not_called_damage(tmp_path, monkeypatch, code):
    """Not when the file is opened, nor when a clip is read: the file may be sound, so nothing says to remove it."""
    build(tmp_path / "a.h5")
    cache = ClipCache(tmp_path / "a.h5")

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("builtins.open", fail)
    for read, argument in ((ClipCache, tmp_path / "a.h5"), (cache.__getitem__, ITEMS[0].id)):
        said = refused(re.escape(f"{tmp_path}/a.h5: ") + f"(?i:.*{os.strerror(code)})", read, argument)
        assert not {"repair", "delete", "damaged"} & set(re.findall("[a-z]+", said))


def test_a_hard_linked_output_is_replaced_not_written_through(tmp_path):
    from mer.storage.files import replace_file

    (tmp_path / "cached").write_text("old")
    os.link(tmp_path / "cached", tmp_path / "out")
    replace_file(tmp_path / "out", b"new")
    assert (tmp_path / "cached").read_text() == "old"
    assert (tmp_path / "out").read_text() == "new"


def test_what_cannot_be_computed_may_be_excluded_and_is_listed(tmp_path):
    path = tmp_path / "a.h5"
    build_product(
        path, ITEMS, Counting(fail=4), fingerprint, kind="frames", ragged=True, params={}, code="v1",
        spool=tmp_path / ".partial", on_error="exclude", excluded={"c/s9/9": "no folder"},
    )  # fmt: skip
    cache = ClipCache(path)
    assert cache.excluded == {"c/s1/4": "c/s1/4: unreadable", "c/s9/9": "no folder"}
    assert cache.ids == [i.id for i in ITEMS if i.content != 4]
    rows, excluded = available(ITEMS, "index", cache)
    assert [r.content for r in rows] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert excluded == cache.excluded
    # Once it can be computed, it alone is, and it comes back at its place.
    work = Counting()
    build(path, work=work)
    assert work.seen == [4]
    assert ClipCache(path).ids == [i.id for i in ITEMS]
    assert ClipCache(path).excluded == {}


@pytest.mark.parametrize("engine", [Engine(), Engine(workers=2)], ids=["here", "in workers"])
def test_a_damaged_input_excludes_no_clip(tmp_path, engine):
    """The clip is sound: the product would be made of fewer clips, and nothing would say so."""
    source = tmp_path / "in" / "a.h5"
    build(source)
    cache, content = ClipCache(source), bytearray(source.read_bytes())
    content[content.index(cache[ITEMS[4].id].tobytes())] ^= 1
    source.write_bytes(content)

    def copied(item):
        return {"data": cache[item.id]}

    with pytest.raises(FileError, match=rf"clip {ITEMS[4].id} has other bytes.*; run python -m tools\.repair"):
        build_product(
            tmp_path / "b.h5", ITEMS, copied, fingerprint, kind="frames", ragged=True, params={}, code="v1",
            spool=tmp_path / ".partial", engine=engine, on_error="exclude",
        )  # fmt: skip
    assert not (tmp_path / "b.h5").exists()


def test_hdf5_that_cannot_open_a_file_is_not_called_damage(tmp_path, monkeypatch):
    build(tmp_path / "a.h5")

    def fail(*args, **kwargs):
        raise OSError(errno.EMFILE, "Unable to synchronously open file (unable to open file: errno = 24)")

    monkeypatch.setattr("h5py.File", fail)
    refused(r"a\.h5: too many open files; raise the limit", ClipCache, tmp_path / "a.h5")
