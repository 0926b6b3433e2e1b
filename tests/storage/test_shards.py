"""Frames of shards: in any order, from many threads, damaged."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mer.errors import FileError
from mer.storage.cache import CacheWriter
from mer.storage.shards import KIND, Shards
from tests.helpers.refusals import refused

LENGTHS = {"c/s1": (5, 3), "c/s2": (1, 9), "d/s1": (4,)}


def frames_of(segment: str, count: int, size: int = 8) -> np.ndarray:
    rng = np.random.default_rng([*segment.encode()])
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def write(folder, lengths, *, size=8, fps=25.0, kind=KIND):
    """A folder of shards, one a subject."""
    for subject, counts in lengths.items():
        with CacheWriter(folder / f"{subject.split('/')[1]}.h5", kind=kind, ragged=True, params={}) as shard:
            for k, count in enumerate(counts):
                name = f"{subject}/r{k}/1"
                shard.append(name, frames_of(name, count, size), fps=np.float64(fps))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two corpora, each with a subject s1."""
    base = tmp_path_factory.mktemp("shards")
    c = write(base / "c", {name: counts for name, counts in LENGTHS.items() if name[0] == "c"})
    return [c, write(base / "d", {"d/s1": LENGTHS["d/s1"]}, fps=np.nan)]


def test_folders_are_joined_and_every_frame_is_that_which_was_written(folders):
    shards = Shards(folders)
    assert shards.subjects == ["c/s1", "c/s2", "d/s1"]
    assert shards.size == 8
    assert shards.lengths.tolist() == [5, 3, 1, 9, 4]
    assert np.array_equal(shards.fps, [25.0] * 4 + [np.nan], equal_nan=True)
    names = [f"{subject}/r{k}/1" for subject, counts in LENGTHS.items() for k in range(len(counts))]
    for segment, name in enumerate(names):
        written = frames_of(name, int(shards.lengths[segment]))
        for t, frame in enumerate(written):
            assert np.array_equal(shards.read(segment, t), frame)
    for place in ((5, 0), (-1, 0), (0, 5), (0, -1)):
        with pytest.raises(IndexError):
            shards.read(*place)


def test_excluded_subjects_are_left_out_and_unknown_ones_refused(folders):
    shards = Shards(folders, exclude=["c/s1"])
    assert shards.subjects == ["c/s2", "d/s1"]
    assert shards.lengths.tolist() == [1, 9, 4]
    assert np.array_equal(shards.read(1, 8), frames_of("c/s2/r1/1", 9)[8])
    refused(r"no subject 'c/s3'; did you mean 'c/s[12]'", Shards, folders, ["c/s3", "d/s1"])
    refused(r"no frames outside the excluded subjects \(3 of 3\); name fewer", Shards, folders, list(LENGTHS))


def test_the_digest_is_that_of_the_content_in_use(folders, tmp_path):
    whole = Shards(folders).digest
    assert Shards([*map(str, folders)]).digest == whole
    assert Shards(folders, exclude=["d/s1"]).digest == Shards(folders[0]).digest != whole
    other = write(tmp_path / "d", {"d/s1": LENGTHS["d/s1"]}, fps=30.0)
    assert Shards([folders[0], other]).digest != whole


def test_folders_that_hold_no_frames_or_others_are_refused(folders, tmp_path):
    for empty in (tmp_path, tmp_path / "absent", []):
        with pytest.raises(FileError, match="dvc repro"):
            Shards(empty)
    with pytest.raises(FileError, match=r"large/s4.h5: holds frames \(16, 16, 3\) uint8"):
        Shards([folders[0], write(tmp_path / "large", {"c/s4": (2,)}, size=16)])
    with pytest.raises(FileError, match=r"s1.h5: has frames of c/s1, as"):
        Shards([folders[0], write(tmp_path / "again", {"c/s1": (2,)})])
    with pytest.raises(FileError, match="holds 'frames', needed is 'recording_frames'"):
        Shards(write(tmp_path / "other", {"c/s4": (2,)}, kind="frames"))


def test_a_damaged_frame_is_refused_with_the_file_and_the_others_are_read(tmp_path):
    write(tmp_path, {"c/s1": (5, 3)})
    written = frames_of("c/s1/r1/1", 3)
    path = tmp_path / "s1.h5"
    data = bytearray(path.read_bytes())
    data[data.index(written[1].tobytes()) + 50] ^= 1
    path.write_bytes(data)
    shards = Shards(tmp_path)
    with pytest.raises(FileError, match=r"s1.h5: is damaged: frame 1 of segment c/s1/r1/1 has other bytes"):
        shards.read(1, 1)
    assert np.array_equal(shards.read(1, 2), written[2])
    os.truncate(path, len(data) // 4)
    with pytest.raises(FileError, match="has become shorter"):
        shards.read(1, 2)


def test_threads_read_the_same_frames(folders):
    shards = Shards(folders)
    every = [(k, t) for k, length in enumerate(shards.lengths.tolist()) for t in range(length)]
    places = [every[i] for i in np.random.default_rng(1).integers(0, len(every), 2000)]
    alone = [shards.read(*place) for place in places]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda place: shards.read(*place), places))
    assert np.array_equal(alone, together)


def test_files_are_closed_with_their_shards_and_do_not_travel_to_processes(folders):
    before = len(os.listdir("/proc/self/fd"))
    shards = Shards(folders)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    with pytest.raises(TypeError, match="make them anew"):
        pickle.dumps(shards)
    del shards
    assert len(os.listdir("/proc/self/fd")) == before
