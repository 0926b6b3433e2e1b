"""python -m mer.recognise and mer.recognise.recognise: what they answer, and what they say of bad input."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest

from mer.clips import clips, read_index
from mer.recognise import recognise, sources
from mer.recognise.__main__ import main
from mer.recognise.bundle import Range
from mer.recognise.measures import entropy, unusual
from mer.recognise.recogniser import Recogniser
from mer.stretch import stretched
from tests.helpers.refusals import refused
from tests.recognise.test_bundle import rewrite
from tests.recognise.test_sources import write_video

NAMES = ("synthetic-linear", "synthetic-ststnet")


@pytest.fixture(scope="module")
def row(flows):
    rows = clips(read_index(flows / "data/index/synthetic.csv"))
    return next(row for row in rows if row.apex_source == "annotated")


@pytest.fixture(scope="module")
def frames(flows, row):
    """(T, H, W, 3) RGB of a clip of the corpus."""
    return np.stack([cv2.imread(str(flows / row.frame.format(n)))[..., ::-1] for n in row.numbers])


@pytest.fixture(scope="module")
def folders(flows):
    return [str(flows / "data/recognisers" / name) for name in NAMES]


@pytest.fixture(scope="module")
def video(frames, tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.avi", fps=200, pictures=list(frames))


def test_frames_in_memory_are_those_on_disk(flows, folders, row, frames):
    """JPEG decoders differ by a grey level; PNG of the decoded frames is what both see here."""
    apex = row.apex - row.onset
    answer = recognise(frames, row.fps, folders[1], apex=apex)
    paths = tuple(flows / row.frame.format(n) for n in row.numbers)
    other = Recogniser(folders[1]).recognise(sources.Source(row.id, paths, row.fps, apex))
    assert np.abs(answer.raw - other.raw).max() < 0.02
    assert answer.best == other.best
    assert answer.probability.sum() == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "levels", "most"), [("FFV1", 0, 0), ("MJPG", 2, 0.1)])
def test_a_video_gives_what_its_frames_give_to_the_codecs_loss(folders, frames, tmp_path, codec, levels, most):
    """FFV1 loses nothing, so neither does the answer; MJPG loses grey levels, and the answer moves a little."""
    path = write_video(tmp_path / "a.avi", fps=200, codec=codec, pictures=list(frames))
    with sources.video(path) as (_, _, pictures):
        decoded = np.stack([picture[..., ::-1] for picture, _ in pictures])
    loss = np.abs(decoded.astype(float) - frames).mean()
    assert loss <= levels
    assert (loss > 0) == (codec == "MJPG")
    one = Recogniser(folders[1])
    spotted = one.recognise(sources.opened(path, tmp_path / "f"))
    of_decoded = one.recognise(sources.array(decoded, 200, tmp_path / "g"))
    of_frames = one.recognise(sources.array(frames, 200, tmp_path / "h"))
    np.testing.assert_array_equal(spotted.raw, of_decoded.raw)
    assert abs(spotted.apex - of_frames.apex) <= (3 if most else 0)  # 15 ms: at the apex the motion hardly changes
    of_video = one.recognise(sources.opened(path, tmp_path / "k", apex=of_frames.apex / 200))
    assert np.abs(of_video.raw - of_frames.raw).max() <= most


def test_the_apex_is_spotted_where_nobody_gives_it(folders, row, frames):
    answer = recognise(frames, row.fps, folders[1])
    assert abs(answer.apex - (row.apex - row.onset)) <= 3


def test_two_images_are_enough_for_models_that_read_flow(flows, folders, row):
    onset, apex = (flows / row.frame.format(n) for n in (row.onset, row.apex))
    one = Recogniser(folders[1])
    answer = one.recognise(sources.pair(onset, apex))
    paths = tuple(flows / row.frame.format(n) for n in row.numbers)
    whole = one.recognise(sources.Source(row.id, paths, row.fps, row.apex - row.onset))
    np.testing.assert_allclose(answer.raw, whole.raw, atol=1e-6)
    assert answer.measured["fps"] is None  # two images have none, and nothing is said of it
    assert not any("frame rate" in line for line in answer.unusual)


# ---- the command ----------------------------------------------------------------------------------------------------


def test_one_line_a_clip(folders, video, capsys):
    assert main([str(video), "--with", folders[1]]) == 0
    said = capsys.readouterr().out
    probability = [float(p) for p in re.findall(r" (0\.\d\d|1\.00)", said.split(";")[0])]
    assert re.match(rf"{video}: (happiness|disgust|repression|surprise|others) [01]\.\d\d \(", said)
    assert len(probability) == 5
    assert probability == sorted(probability, reverse=True)
    assert said.count("\n") == 1


def test_json_is_a_line_a_clip_and_recogniser(folders, video, frames, tmp_path, capsys):
    folder = tmp_path / "frames"
    folder.mkdir()
    for n, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{n}.png"), frame[..., ::-1])
    assert main([str(video), str(folder), "--with", *folders, "--fps", "200", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["clip"], line["recogniser"]) for line in lines] == [
        (str(clip), name) for clip in (video, folder) for name in NAMES
    ]
    for line in lines:
        assert sum(line["probability"].values()) == pytest.approx(1, abs=1e-5)
        assert line["class"] == max(line["probability"], key=line["probability"].get)
        assert set(line["measured"]) == {"fps", "face_px", "motion_px", "entropy"}


def test_the_page_shows_what_was_seen_side_by_side(folders, video, tmp_path):
    assert main([str(video), "--with", *folders, "--html", str(tmp_path / "p.html")]) == 0
    page = (tmp_path / "p.html").read_text()
    assert page.count("data:image/jpeg;base64") == 4  # onset with landmarks, apex, magnified, flow
    for text in (*NAMES, "with its landmarks", "its motion 4 times as large", "flow from onset to apex",
                 "On people whom it had not seen", "Judging a person", "90 % of the training"):  # fmt: skip
        assert text in page
    assert "<script" not in page
    assert 'src="http' not in page


def test_two_recognisers_of_one_experiment_keep_their_own_training(folders, video, tmp_path):
    """As two versions of it, side by side."""
    copy = shutil.copytree(folders[1], tmp_path / "older")

    def older(card):
        card["seen"]["fps"] = {"low": 11.0, "middle": 12.0, "high": 13.0}

    rewrite(copy, older)
    assert main([str(video), "--with", folders[1], str(copy), "--html", str(tmp_path / "p.html")]) == 0
    page = (tmp_path / "p.html").read_text()
    assert "<td>200 to 200</td>" in page
    assert "<td>11 to 13</td>" in page


def test_bad_clips_are_a_line_each_and_cost_the_others_nothing(folders, video, frames, tmp_path, capsys):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (8, 320, 320, 3), dtype=np.uint8)
    two = [np.concatenate([frame, frame], axis=1) for frame in frames[:8]]
    write_video(tmp_path / "noface.avi", fps=200, pictures=list(noise))
    write_video(tmp_path / "two.avi", fps=200, pictures=two)
    (tmp_path / "text.mp4").write_text("no")
    given = [str(tmp_path / name) for name in ("noface.avi", "two.avi", "text.mp4", "none.mov")]
    assert main([*given, str(video), "--with", folders[1]]) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert out.startswith(str(video))
    said = [line for line in err.splitlines() if line.startswith("recognise: ")]
    assert len(said) == 4
    for line, path, what in zip(said, given, ("no face", "2 faces", "cannot decode", "there is no such"), strict=True):
        assert path in line
        assert what in line
        assert "mer-recognise-" not in line  # a scratch folder says nothing to a user


@pytest.mark.parametrize(
    ("given", "said"),
    [(["a.avi"], "--with"), (["--with", "x"], "name clips"), (["--onset", "a", "--with", "x"], "go together"),
     (["a.avi", "--onset", "a", "--apex-image", "b", "--with", "x"], "name clips, or"),
     (["a.avi", "--spot", "c.csv", "--json", "--with", "x"], "--spot looks for apexes"),
     (["a.avi", "--from", "now", "--with", "x"], "invalid float")],
)  # fmt: skip
def test_arguments_that_make_no_sense(given, said, capsys):
    with pytest.raises(SystemExit) as end:
        main(given)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_is_no_recogniser_is_one_line(video, tmp_path, capsys):
    assert main([str(video), "--with", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "is no recogniser" in said


# ---- how unusual ----------------------------------------------------------------------------------------------------


def test_what_lies_outside_of_the_training_is_said():
    seen = {"fps": Range(low=200, middle=200, high=200), "motion_px": Range(low=0.3, middle=0.5, high=1.0),
            "face_px": None, "entropy": Range(low=0.1, middle=0.5, high=1.2)}  # fmt: skip
    usual = {"fps": 200.0, "motion_px": 0.5, "face_px": 3.0, "entropy": 0.01}
    assert unusual(usual, seen) == []  # more certain than usual is no warning
    said = unusual({"fps": 30.0, "motion_px": 2.5, "face_px": None, "entropy": 1.4}, seen)
    assert [line.split(",")[0] for line in said] == [
        "frame rate 30 frames a second", "motion from onset to apex 2.5 px", "uncertainty 1.4 nats",
    ]  # fmt: skip
    assert "below the 200 to 200" in said[0]
    assert "above the 0.3 to 1 of" in said[1]


def test_a_clip_of_little_motion_is_called_unusual(folders, frames):
    still = np.repeat(frames[:1], 12, axis=0)
    answer = recognise(still, 200, folders[1])
    assert any(line.startswith("motion from onset to apex 0 px, below") for line in answer.unusual)


def test_entropy_in_nats():
    found = entropy(np.array([[0.25] * 4, [1, 0, 0, 0], [0.5, 0.5, 0, 0]]))
    np.testing.assert_allclose(found, [np.log(4), 0, np.log(2)], atol=1e-9)


# ---- flow in the form of a release ----------------------------------------------------------------------------------


def test_flow_becomes_that_of_a_release_as_its_reader_has_it():
    flow = np.random.default_rng(0).normal(size=(2, 3, 56, 56)).astype(np.float32)
    flow[1, 0] = 0.5  # nothing moves sideways
    found = stretched(flow)
    assert found.shape == (2, 3, 28, 28)
    for k in range(2):
        for c in range(3):
            small = flow[k, c].reshape(28, 2, 28, 2).mean((1, 3))  # the area of two by two
            if np.ptp(small) == 0:
                np.testing.assert_array_equal(found[k, c], 0)
                continue
            expected = (small - small.min()) / np.ptp(small) * 255 - (127.5 if c < 2 else 0)
            assert np.abs(found[k, c] - expected).max() <= 0.5 + 1e-3  # rounded to whole levels


def test_frames_of_another_form_are_refused_by_the_function(folders):
    refused(r"frames: are .3, 8, 8. uint8; needed are", recognise, np.zeros((3, 8, 8), np.uint8), 200, folders[1])
