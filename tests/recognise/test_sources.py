"""What a user may give: videos, folders of frames, two images, arrays; and what is no clip."""

import cv2
import numpy as np
import pytest

from mer.recognise import sources
from tests.helpers.refusals import refused

RATE = 50.0


def frame(number: int) -> np.ndarray:
    """A plain picture that says its number: left and right half have different levels."""
    picture = np.full((48, 64, 3), 40 + 4 * number, np.uint8)
    picture[:, 32:] = 200
    return picture


def write_video(path, count=12, fps=RATE, codec="FFV1", pictures=None):
    pictures = [frame(n) for n in range(count)] if pictures is None else pictures
    height, width = pictures[0].shape[:2]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, (width, height))
    assert video.isOpened()
    for picture in pictures:
        video.write(np.ascontiguousarray(picture[..., ::-1]))
    video.release()
    return path


def write_folder(folder, numbers):
    folder.mkdir()
    for n in numbers:
        cv2.imwrite(str(folder / f"img{n}.png"), frame(n % 50)[..., ::-1])
    return folder


def numbers(paths) -> list[int]:
    return [round((int(cv2.imread(str(path))[24, 8, 1]) - 40) / 4) for path in paths]


@pytest.mark.parametrize(("suffix", "codec"), [("avi", "FFV1"), ("mp4", "mp4v"), ("mov", "mp4v"), ("avi", "MJPG")])
def test_a_video_is_its_frames(tmp_path, suffix, codec):
    found = sources.opened(write_video(tmp_path / f"a.{suffix}", codec=codec), tmp_path / "f")
    assert numbers(found.frames) == list(range(12))
    assert (found.fps, found.apex) == (RATE, None)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(None, None, (0, 11)), (0.04, None, (2, 11)), (None, 0.1, (0, 5)), (0.1, 0.16, (5, 8)), (0.03, 0.09, (2, 4)),
     (0.1, 9.0, (5, 11))],
)  # fmt: skip
def test_seconds_choose_frames(tmp_path, start, end, expected):
    video, folder = write_video(tmp_path / "a.avi"), write_folder(tmp_path / "a", range(12))
    for found in (sources.opened(video, tmp_path / "f", start=start, end=end),
                  sources.opened(folder, tmp_path / "g", start=start, end=end, fps=RATE)):  # fmt: skip
        assert numbers(found.frames) == list(range(expected[0], expected[1] + 1))


def test_an_apex_in_seconds_counts_from_the_recordings_begin(tmp_path):
    video = write_video(tmp_path / "a.avi")
    assert sources.opened(video, tmp_path / "f", start=0.04, apex=0.1).apex == 5 - 2
    refused("the apex is frame -1 of 10", sources.opened, video, tmp_path / "g", start=0.04, apex=0.02)
    refused("the apex is frame 12 of 12", sources.opened, video, tmp_path / "h", apex=0.24)


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    found = sources.opened(write_folder(tmp_path / "a", [9, 10, 8, 2]), tmp_path / "f", fps=100)
    assert numbers(found.frames) == [2, 8, 9, 10]


def test_arrays_are_kept_to_the_bit(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    found = sources.array(frames, 200, tmp_path / "f", apex=2)
    for path, expected in zip(found.frames, frames, strict=True):
        np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], expected)
    assert (found.fps, found.apex) == (200, 2)


def test_two_images_are_onset_and_apex(tmp_path):
    write_folder(tmp_path / "a", [1, 5])
    found = sources.pair(tmp_path / "a/img1.png", tmp_path / "a/img5.png")
    assert numbers(found.frames) == [1, 5]
    assert found.apex == 1
    refused("there is no such image", sources.pair, tmp_path / "a/img1.png", tmp_path / "no.png")


def test_what_is_no_clip(tmp_path):
    (tmp_path / "text.avi").write_text("no video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.avi").write_bytes(write_video(tmp_path / "a.avi").read_bytes()[:400])
    opened, scratch = sources.opened, tmp_path / "f"
    refused("there is no such video or folder", opened, tmp_path / "none.avi", scratch)
    refused(r"text.avi: OpenCV cannot decode it; convert it: ffmpeg", opened, tmp_path / "text.avi", scratch)
    refused("cut.avi: (OpenCV cannot decode it|no frame could be decoded)", opened, tmp_path / "cut.avi", scratch)
    refused("empty: has no frame", opened, tmp_path / "empty", scratch, fps=100)
    refused("a folder of frames does not say how many", opened, write_folder(tmp_path / "b", [1, 2]), scratch)
    refused("is one image; a clip is a video", opened, tmp_path / "b/img1.png", scratch)
    refused("has 1 frames between 0 s and its end", opened, write_folder(tmp_path / "c", [1]), scratch, fps=100)
    refused("has 0 frames between 5 s", opened, tmp_path / "a.avi", scratch, start=5.0)
    refused("has 1 frames between 0.1 s and 0.1 s", opened, tmp_path / "a.avi", scratch, start=0.1, end=0.1)
    refused("--from is -1.0", opened, tmp_path / "a.avi", scratch, start=-1.0)
    refused("--to is nan", opened, tmp_path / "a.avi", scratch, end=float("nan"))


def test_a_video_that_is_cut_off_is_refused_where_frames_are_missing(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(60)]
    whole = write_video(tmp_path / "a.avi", pictures=pictures)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    said = refused(r"cut.avi: ends after \d+ of \d+ frames", sources.opened, cut, tmp_path / "f")
    assert "--to" in said
    assert len(sources.opened(cut, tmp_path / "g", end=0.2).frames) == 11  # what is there
    (tmp_path / "scratch").mkdir()
    windows = sources.recording(cut).windows(tmp_path / "scratch", 0.2, 0.1, 1)
    refused(r"cut.avi: ends after \d+ of", list, windows)


def test_a_recording_is_no_clip(tmp_path):
    long = write_video(tmp_path / "long.avi", 101, fps=10, pictures=[frame(n % 12) for n in range(102)])
    refused("long.avi: lasts more than 10 s, so it is a recording", sources.opened, long, tmp_path / "f")
    assert not (tmp_path / "f").exists()  # said before anything is decoded
    assert len(sources.opened(long, tmp_path / "f", end=10.0).frames) == 101
    folder = write_folder(tmp_path / "a", range(102))
    refused("lasts more than 10 s", sources.opened, folder, tmp_path / "g", fps=10)


def test_a_frame_rate_at_which_half_a_second_shows_nothing_is_said(tmp_path):
    slow = write_video(tmp_path / "slow.avi", fps=5)
    refused("slow.avi: has 5 frames a second; a micro-expression lasts half a second", sources.opened, slow, tmp_path)
    refused("0 frames a second are none", sources.array, np.zeros((3, 8, 8, 3), np.uint8), 0, tmp_path / "f")
    refused("has 7.5 frames a second", sources.array, np.zeros((3, 8, 8, 3), np.uint8), 7.5, tmp_path / "f")


@pytest.mark.parametrize(
    "frames",
    [np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8),
     np.zeros((3, 8, 8, 4), np.uint8)],
)  # fmt: skip
def test_arrays_of_another_form_are_refused(frames, tmp_path):
    refused(r"needed are \(T, H, W, 3\) uint8, RGB", sources.array, frames, 100, tmp_path / "f")


def test_a_variable_frame_rate_is_refused_and_rounded_times_are_none(tmp_path, monkeypatch):
    """OpenCV writes no such file, so the decoder's times are put in its place."""
    even = [n * 1000 / 30 for n in range(20)]
    sources._check_even("a.mp4", even)
    sources._check_even("a.mp4", [float(round(t)) for t in even])  # whole milliseconds
    sources._check_even("a.mp4", [0.0] * 20)  # a decoder that does not say
    uneven = even[:10] + [t + 25 for t in even[10:]]
    refused(r"a.mp4: has a variable frame rate \(33.3 to 58.3 ms", sources._check_even, "a.mp4", uneven)
    video, times = write_video(tmp_path / "a.avi"), iter(uneven)
    read = sources.video

    @sources.contextlib.contextmanager
    def jittering(path, fps=None):
        with read(path, fps) as (rate, count, frames):
            yield rate, count, ((picture, next(times)) for picture, _ in frames)

    monkeypatch.setattr(sources, "video", jittering)
    refused("a.avi: has a variable frame rate", sources.opened, video, tmp_path / "f")


# ---- windows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("count", [3, 8, 9, 14, 20, 37])
def test_windows_see_every_frame_and_share_what_they_shall(tmp_path, count, folder, every):
    if folder:
        path = write_folder(tmp_path / "a", range(count))
        found = sources.recording(path, fps=RATE)
    else:
        found = sources.recording(write_video(tmp_path / "a.avi", count))
    (tmp_path / "scratch").mkdir()
    kept, windows = list(range(count))[::every], []
    for first, source in found.windows(tmp_path / "scratch", 8 / RATE * every, 3 / RATE * every, every):
        assert numbers(source.frames) == kept[first : first + len(source.frames)]  # there while they are looked at
        assert source.fps == RATE / every
        windows.append((first, len(source.frames)))
        assert len(list((tmp_path / "scratch").iterdir())) <= 8  # a long recording does not fill the disk
    assert [first for first, _ in windows] == [n * 5 for n in range(len(windows))]
    assert all(length == 8 for _, length in windows[:-1])
    assert windows[-1][0] + windows[-1][1] == len(kept)
