"""Unfinished work whose bytes are not those that were written counts as absent: computed again, to the same bytes."""

import json
import random
from dataclasses import dataclass

import numpy as np
import pytest

from mer.errors import MerError
from mer.storage.build import build_product
from mer.storage.cache import ClipCache
from mer.storage.spool import Spool, content_of, summed_line


@dataclass(frozen=True)
class Item:
    id: str
    content: int


ITEMS = [Item(f"c/s{i // 3}/{i}", i) for i in range(8)]


def compute(item: Item) -> dict:
    """Extras in an order that is not that of their names, as landmarks have them."""
    data = np.random.default_rng(item.content).integers(0, 255, (2048,), dtype=np.uint8)
    return {"data": data, "box": np.arange(4) + item.content, "score": np.float64(item.content),
            "attempt": np.int64(item.content)}  # fmt: skip


class Work:
    """compute, noting which items it was called for; raises at `fail`."""

    def __init__(self, fail=None):
        self.seen, self.fail = [], fail

    def __call__(self, item):
        if item.content == self.fail:
            raise MerError(f"{item.id}: unreadable")
        self.seen.append(item.content)
        return compute(item)


def build(path, items=ITEMS, work=compute):
    build_product(
        path, items, work, lambda item: str(item.content), kind="landmarks", ragged=False, params={}, code="v1",
        spool=path.parent / ".partial",
    )  # fmt: skip


@pytest.fixture
def reference(tmp_path):
    build(tmp_path / "reference" / "a.h5")
    return (tmp_path / "reference" / "a.h5").read_bytes()


@pytest.fixture
def stopped(tmp_path):
    """A run that was stopped after six clips; returns the product's path."""
    with pytest.raises(MerError):
        build(tmp_path / "a.h5", work=Work(fail=6))
    return tmp_path / "a.h5"


# ---- the last finished product --------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [[], [3], [0, 7], list(range(8))])
def test_the_bytes_do_not_depend_on_what_was_kept(tmp_path, changed):
    """A stage that was killed when its product stood, but before DVC had recorded it, runs once more."""
    path = tmp_path / "a.h5"
    build(path, [Item(i.id, 100 + i.content if i.content in changed else i.content) for i in ITEMS])
    path.unlink()
    work = Work()
    build(path, work=work)
    assert work.seen == changed
    build(tmp_path / "fresh" / "a.h5")
    assert path.read_bytes() == (tmp_path / "fresh" / "a.h5").read_bytes()


def damaged(content: bytes, start: int, count: int, how) -> bytes:
    return content[:start] + how(content[start : start + count]) + content[start + count :]


HOWS = {"zeroed": lambda part: bytes(len(part)), "flipped": lambda part: bytes(b ^ 1 for b in part)}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("at", range(0, 26_000, 1024))
def test_a_damaged_previous_product_is_a_shortcut_lost(tmp_path, reference, at, how):
    """A kilobyte of previous.h5: of its seal, its tables or its data, in which case only that clip is computed."""
    path, previous = tmp_path / "a.h5", tmp_path / ".partial/previous.h5"
    build(path)
    path.unlink()
    content = previous.read_bytes()
    start, end = json.loads(content[:512].partition(b"\n")[0])["data"]
    previous.unlink()
    other = damaged(content, at, 1024, HOWS[how])
    previous.write_bytes(other)
    changed = [place for place in range(at, min(at + 1024, len(content))) if content[place] != other[place]]
    work = Work()
    build(path, work=work)
    around = any(not start <= place < end for place in changed)
    assert work.seen == (list(range(8)) if around else sorted({(place - start) // 2048 for place in changed}))
    assert path.read_bytes() == reference


def test_a_previous_product_that_cannot_be_read_now_is_left_alone(tmp_path, monkeypatch):
    path, previous = tmp_path / "a.h5", tmp_path / ".partial/previous.h5"
    build(path)
    path.unlink()
    inode = previous.stat().st_ino

    def fail(self, *args):
        raise MerError("permission denied")

    monkeypatch.setattr(ClipCache, "__init__", fail)
    work = Work(fail=7)
    with pytest.raises(MerError, match="unreadable"):
        build(path, work=work)
    assert work.seen == list(range(7))
    assert previous.stat().st_ino == inode


# ---- the journal ----------------------------------------------------------------------------------------------------


def test_any_changed_character_of_the_journal_costs_its_clip_alone(stopped):
    """Another dtype, another name of a key, a bare number: whatever stays valid JSON, too."""
    rows = stopped.parent / ".partial/1.rows"
    content = rows.read_bytes()
    lines = content.splitlines(keepends=True)
    assert len(lines) == 6
    rng = random.Random(0)
    begin = sum(map(len, lines[:2]))
    for place in range(begin, begin + len(lines[2])):  # of the third line
        for new in {content[place] ^ 1, content[place] ^ 0x80, *rng.sample(b'019"a{}[]', 2)} - {content[place]}:
            rows.write_bytes(content[:place] + bytes([new]) + content[place + 1 :])
            with Spool(stopped.parent / ".partial") as spool:
                there = [json.loads(line)["key"] in spool for line in lines]
            line_break = content[place : place + 1] == b"\n"
            assert there == [True, True, False, not line_break, True, True], (place, new)
    rows.write_bytes(content)


@pytest.mark.parametrize(
    "line",
    [b"5", b"null", b"[]", b'{"key": 5}', b"", b"\xff\xfe", b"9" * 5000, b"[" * 100_000, summed_line({"key": "x"})],
)
def test_a_strange_line_of_the_journal_is_passed_over(stopped, reference, line):
    rows = stopped.parent / ".partial/1.rows"
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join([*lines[:3], line.removesuffix(b"\n") + b"\n", *lines[3:]]))
    work = Work()
    build(stopped, work=work)
    assert work.seen == [6, 7]
    assert stopped.read_bytes() == reference


def test_other_files_in_the_spool_disturb_nothing(stopped, reference):
    folder = stopped.parent / ".partial"
    for name in ("notes.part", "2.rows", "x.block", ".hidden", "lock"):
        (folder / name).write_bytes(b"\xff\x00strange")
    build(stopped)
    assert stopped.read_bytes() == reference


# ---- blocks and parts -----------------------------------------------------------------------------------------------


@pytest.fixture
def block(tmp_path):
    """A spool with one block of four pages; (spool, its bytes)."""
    with Spool(tmp_path) as spool:
        spool.put("k", {"data": np.random.default_rng(0).random((4, 512)), "gamma": np.float32(1)})
        assert "k" in spool
        yield spool, spool.path("k").read_bytes()


def test_two_pages_of_a_block_that_changed_places(block):
    spool, content = block
    start = content.index(b"\n") + 1
    pages = [content[start + 4096 * i : start + 4096 * (i + 1)] for i in range(4)]
    pages[1], pages[2] = pages[2], pages[1]
    spool.path("k").write_bytes(content[:start] + b"".join(pages) + content[start + 4 * 4096 :])
    assert "k" not in spool


def test_any_changed_character_of_a_block_makes_it_absent(block):
    spool, content = block
    for place in range(content.index(b"\n") + 200):
        for new in {content[place] ^ 1, content[place] ^ 0x80, ord("0")} - {content[place]}:
            spool.path("k").write_bytes(content[:place] + bytes([new]) + content[place + 1 :])
            assert "k" not in spool, (place, new)


def test_a_block_under_the_name_of_another(block):
    spool, content = block
    spool.path("other").write_bytes(content)
    assert "k" in spool
    assert "other" not in spool


def test_two_pages_of_a_part_that_changed_places(stopped, reference):
    part = stopped.parent / ".partial/1.part"
    row = content_of((stopped.parent / ".partial/1.rows").read_bytes().splitlines(keepends=True)[2])
    content, at = bytearray(part.read_bytes()), row["at"]
    content[at : at + 512], content[at + 512 : at + 1024] = content[at + 512 : at + 1024], content[at : at + 512]
    part.write_bytes(content)
    work = Work()
    build(stopped, work=work)
    assert work.seen == [2, 6, 7]
    assert stopped.read_bytes() == reference
