"""truth.h5 is read without the renderer, and only as it was written."""

import subprocess
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from mer.storage.seal import SEALED, read_seal
from mer.synthetic.truth import read_truth, write_truth
from stages import landmarks
from tests.helpers.refusals import refused

CLIPS = ["sub01/EP01_01", "sub01/EP01_02", "sub02/EP01_01"]
REMEDY = r"; run python -m tools\.repair \S*truth\.h5, then dvc repro$"


def motion(k: int) -> dict:
    return {
        "flow": np.full((2, 4, 4), 0.5 + k),
        "landmarks_onset": np.full((68, 2), 1 + k, np.float32),
        "landmarks_apex": np.full((68, 2), 2 + k, np.float32),
        "onset": 3 + k, "apex": 8 + k, "offset": 12 + k, "peak": 0.75 + k,
    }  # fmt: skip


@pytest.fixture
def path(tmp_path):
    write_truth(tmp_path / "truth.h5", ((clip, motion(k)) for k, clip in enumerate(CLIPS)))
    return tmp_path / "truth.h5"


def test_the_truth_of_a_clip(path):
    for k, clip in enumerate(CLIPS):
        truth, written = read_truth(path, clip), motion(k)
        assert truth.keys() == written.keys()
        for name in ("onset", "apex", "offset", "peak"):
            assert truth[name] == written[name]
            assert type(truth[name]) is type(written[name])
        for name in ("flow", "landmarks_onset", "landmarks_apex"):
            assert truth[name].dtype == np.float32
            np.testing.assert_array_equal(truth[name], written[name])


def test_a_clip_or_a_file_that_is_not_there(path):
    refused(r"truth\.h5: holds no clip 'sub99/EP01_01'; names look like", read_truth, path, "sub99/EP01_01")
    refused(r"none\.h5: there is no such product; run dvc repro", read_truth, path.with_name("none.h5"), CLIPS[0])


def test_a_changed_byte_anywhere_is_refused(path, monkeypatch):
    """Outside of the flow HDF5 does not even see the file: it may never return from a damaged one."""
    content, seal = path.read_bytes(), read_seal(path)
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with monkeypatch.context() as patch:
            if not seal.start <= place < seal.end:
                patch.setattr(h5py, "File", lambda *a, **k: pytest.fail("HDF5 has seen a damaged file"))
            clip = CLIPS[max(0, min(2, (place - seal.start) // 64))]  # whose flow has 64 bytes
            refused(rf"truth\.h5: is damaged: .*{REMEDY}", read_truth, path, clip)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda data: data[:-300], r"it has \d+ bytes, and \d+ were written"),
        (lambda data: data[: len(data) // 2], r"it has \d+ bytes, and \d+ were written"),
        (lambda data: b"", "it is empty"),
        (lambda data: bytes(SEALED) + data[SEALED:], "it does not begin as a product does"),
        (lambda data: data[:SEALED] + bytes(96) + data[SEALED + 96 :], "what describes its data has changed"),
    ],
    ids=["end", "half", "empty", "seal", "superblock of HDF5"],
)
def test_a_file_that_was_cut_or_lost_its_head(path, damage, what):
    path.write_bytes(damage(path.read_bytes()))
    refused(rf"truth\.h5: is damaged: {what}{REMEDY}", read_truth, path, CLIPS[0])


def test_a_file_of_an_older_version(path):
    """It had neither seal nor sums."""
    with h5py.File(path, "w") as file:
        file.create_group(CLIPS[0])["flow"] = np.zeros((2, 4, 4), np.float16)
    refused(rf"truth\.h5: is no product of schema 2, but of an older version .*{REMEDY}", read_truth, path, CLIPS[0])


def test_stage_landmarks_refuses_a_damaged_one(path):
    clip = SimpleNamespace(
        frame=f"{path.parent}/corpus/sub01/EP01_01/img{{}}.jpg", subject="sub01", clip="EP01_01"
    )  # fmt: skip
    found = landmarks.compute(clip, backend="truth")
    np.testing.assert_array_equal(found["data"], motion(0)["landmarks_onset"])
    content = path.read_bytes()
    path.write_bytes(content.replace(np.float32(1).tobytes() * 2, np.float32(9).tobytes() * 2, 1))
    refused(rf"truth\.h5: is damaged: what describes its data has changed{REMEDY}", landmarks.compute, clip,
            backend="truth")  # fmt: skip


def test_reading_needs_neither_renderer_nor_scipy(root):
    code = "import sys, mer.synthetic.truth; print(*(m for m in sys.modules if m.startswith(('mer.', 'scipy'))))"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == {"mer.errors", "mer.synthetic", "mer.synthetic.truth"}
