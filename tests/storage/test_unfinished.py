"""Unfinished work within its limit: what goes first, what frees nothing, what runs."""

import os

import pytest

from mer.storage.unfinished import Unfinished, keep_within, lock_of, remove, unfinished


def leave(folder, stage, size, changed):
    (folder / stage).mkdir(parents=True)
    path = folder / stage / "a.block"
    path.write_bytes(bytes(size))
    os.utime(path, (changed, changed))
    return path


def names(folder):
    return {path.name for path in folder.iterdir()} - {"locks"}


def test_the_oldest_goes_first_and_no_more_than_has_to(tmp_path):
    for stage, size, changed in (("train@b", 400, 20), ("train@a", 300, 10), ("flow@c", 200, 30)):
        leave(tmp_path, stage, size, changed)
    assert [one.stage for one in unfinished(tmp_path)] == ["train@a", "train@b", "flow@c"]
    assert keep_within(900, "x", tmp_path) == []
    assert keep_within(899, "x", tmp_path) == [Unfinished("train@a", 300, 10.0)]
    assert names(tmp_path) == {"train@b", "flow@c"}
    assert [one.stage for one in keep_within(0, "x", tmp_path)] == ["train@b", "flow@c"]


def test_own_work_and_what_runs_stay(tmp_path):
    for stage in ("train@a", "train@b", "train@c"):
        leave(tmp_path, stage, 100, 10)
    with lock_of("train@b", tmp_path):
        assert [one.stage for one in keep_within(0, "train@a", tmp_path)] == ["train@c"]
        assert not remove("train@b", tmp_path)
    assert names(tmp_path) == {"train@a", "train@b"}
    assert remove("train@b", tmp_path)


def test_links_to_a_finished_product_free_nothing_and_stay(tmp_path):
    path = leave(tmp_path / "partial", "flow@a", 500, 10)
    os.link(path, tmp_path / "flow.h5")
    assert unfinished(tmp_path / "partial")[0].size == 0
    assert keep_within(0, "x", tmp_path / "partial") == []
    assert path.exists()


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: (folder / "locks").mkdir(parents=True)])
def test_nothing_unfinished(tmp_path, make):
    make(tmp_path / "p")
    assert unfinished(tmp_path / "p") == []
    assert keep_within(0, "x", tmp_path / "p") == []
