"""Segments of recordings."""

import numpy as np
import pandas as pd
import pytest

from mer.clips import COLUMNS
from mer.corpora.casme3 import read_corpus
from mer.errors import FileError
from mer.recordings import by_subject, cut, of_corpus, of_pool
from tests.helpers import mini
from tests.helpers.refusals import refused

# ---- segments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "segments"),
    [
        (range(1, 601), [(1, 256), (257, 256), (513, 88)]),
        (range(256), [(0, 256)]),
        (range(256 + 31), [(0, 287)]),  # the rest is joined to the segment before it
        (range(256 + 32), [(0, 256), (256, 32)]),
        (range(512 + 31), [(0, 256), (256, 287)]),
        ([7], [(7, 1)]),
        ([3, 4, 5, 9, 10, 20], [(3, 3), (9, 2), (20, 1)]),  # nothing is joined over a gap
        ([*range(300), *range(301, 310)], [(0, 256), (256, 44), (301, 9)]),
    ],
)
def test_a_recording_is_cut_at_gaps_and_after_256_frames(numbers, segments):
    assert cut(numbers) == segments


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """The mini-corpus of CAS(ME)3 in whole videos, one frame removed, as an index."""
    root = mini.casme3(tmp_path_factory.mktemp("casme3"))
    next(root.rglob("spNO.160/c/color/34.jpg")).unlink()
    return read_corpus(root).assign(digest="")


def test_a_recording_of_several_clips_counts_once_with_the_frames_around_them(videos):
    segments = of_corpus(videos)
    found = {segment.id: (segment.first, segment.count, segment.start) for segment in segments}
    # Clips a 5..10 and 12..16, J 3..7, b 1..5, c 30..33 and 31..36, with two frames on either side.
    assert found == {
        "casme3/spNO.1/spNO.1/a/color/3": (3, 16, 3),
        "casme3/spNO.14/spNO.14/b/color/0": (0, 8, 0),
        "casme3/spNO.14/spNO.14/j/color/1": (1, 9, 1),
        "casme3/spNO.160/spNO.160/c/color/28": (28, 6, 28),
        "casme3/spNO.160/spNO.160/c/color/35": (35, 4, 28),
    }
    assert {segment.fps for segment in segments} == {30.0}
    assert [path.name for path in segments[-1].paths] == ["35.jpg", "36.jpg", "37.jpg", "38.jpg"]
    assert segments[-1].start_path.name == "28.jpg"
    assert all(path.is_file() for segment in segments for path in segment.paths)
    assert {subject: len(mine) for subject, mine in by_subject(segments).items()} == {
        "spNO.1": 1, "spNO.14": 2, "spNO.160": 2
    }  # fmt: skip


def index(*rows: dict) -> pd.DataFrame:
    common = dict.fromkeys(COLUMNS, "") | {"corpus": "c", "subject": "s1", "onset": 1, "apex": 1, "offset": 2}
    return pd.DataFrame([common | {"id": f"c/s1/{k}", "fps": 25.0} | row for k, row in enumerate(rows)])


def put(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder.as_posix()


def test_names_of_frames_are_those_of_the_index(tmp_path):
    folder = put(tmp_path / "a{b}", "img_008.jpg", "img_009.jpg", "img_9.jpg", "other_010.jpg", "img_010.png", "x.txt")
    frame = f"{folder}/img_{{:03d}}.jpg".replace("a{b}", "a{{b}}")
    (segment,) = of_corpus(index({"frame": frame}))
    assert (segment.id, segment.first, segment.count) == ("c/s1/a{b}/img_/8", 8, 2)
    assert all(path.is_file() for path in segment.paths)


def test_the_frame_rate_of_stills_is_unknown(tmp_path):
    (segment,) = of_corpus(index({"frame": put(tmp_path / "a", "1.jpg") + "/{}.jpg", "fps": 0.0}))
    assert np.isnan(segment.fps)


def test_recordings_that_do_not_fit_the_index_are_refused(tmp_path):
    frame = put(tmp_path / "a", "1.jpg", "2.jpg") + "/{}.jpg"
    refused("two subjects, c/s1 and c/s2", of_corpus, index({"frame": frame}, {"frame": frame, "subject": "s2"}))
    refused("at 25 and 30 frames a second", of_corpus, index({"frame": frame}, {"frame": frame, "fps": 30.0}))
    refused("numbers folders", of_corpus, index({"frame": f"{tmp_path}/{{}}/a.jpg"}))
    refused("no frame named img<number>.png", of_corpus, index({"frame": f"{tmp_path}/a/img{{}}.png"}))
    refused("no frame named <number>.jpg", of_corpus, index({"frame": f"{tmp_path}/absent/{{}}.jpg"}))
    for name in ("a/b", "", ".."):
        refused("cannot be the name of a file", by_subject, of_corpus(index({"frame": frame, "subject": name})))


def test_a_pool_has_a_folder_a_subject_and_one_a_clip(tmp_path):
    put(tmp_path / "sub102/clip01", "img1.jpg", "img2.jpg")
    put(tmp_path / "sub101/clip02", "img1.jpg", "img2.jpg", "img10.jpg")
    segments = of_pool(tmp_path, 200.0)
    assert [segment.id for segment in segments] == [
        "pool/sub101/clip02/1", "pool/sub101/clip02/10", "pool/sub102/clip01/1"
    ]  # fmt: skip
    assert {segment.fps for segment in segments} == {200.0}
    for folder in (tmp_path / "absent", tmp_path / "sub102/clip01"):
        with pytest.raises(FileError, match="dvc repro"):
            of_pool(folder)
