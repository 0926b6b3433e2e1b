"""truth.h5 is read without the renderer."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

from mer.errors import MerError
from mer.synthetic.truth import read_truth


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "truth.h5", "w") as file:
        group = file.create_group("sub01/EP01_01")
        group.attrs.update(onset=3, apex=8, offset=12, peak=0.75)
        group["flow"] = np.full((2, 4, 4), 0.5, np.float16)
        group["landmarks_onset"] = np.ones((68, 2), np.float32)
        group["landmarks_apex"] = np.full((68, 2), 2, np.float32)
    return tmp_path / "truth.h5"


def test_the_truth_of_a_clip(path):
    truth = read_truth(path, "sub01/EP01_01")
    assert {name: truth[name] for name in ("onset", "apex", "offset", "peak")} == {
        "onset": 3, "apex": 8, "offset": 12, "peak": 0.75,
    }  # fmt: skip
    assert truth["flow"].dtype == np.float32
    assert (truth["flow"] == 0.5).all()
    assert (truth["landmarks_apex"] - truth["landmarks_onset"] == 1).all()


def test_a_clip_or_a_file_that_is_not_there(path):
    with pytest.raises(MerError, match=r"truth\.h5: holds no clip"):
        read_truth(path, "sub99/EP01_01")
    with pytest.raises(MerError, match="no such file"):
        read_truth(path.with_name("none.h5"), "sub01/EP01_01")


def test_reading_needs_neither_renderer_nor_scipy(root):
    code = "import sys, mer.synthetic.truth; print(*(m for m in sys.modules if m.startswith(('mer.', 'scipy'))))"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == {"mer.errors", "mer.synthetic", "mer.synthetic.truth"}
