"""Backends other than dlib: OpenCV's Haar cascade, and the face-alignment package on random weights."""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import urllib.error

import numpy as np
import pytest
import skimage.data

from mer.errors import MerError
from mer.faces import backends, detect_landmarks, face_box, find_face
from mer.parallel import remove_leftovers


@pytest.fixture(scope="module")
def portrait():
    return skimage.data.astronaut()


# ---- haar -------------------------------------------------------------------------------------------------------


def test_haar_box_with_dlib_landmarks_inside(portrait):
    face = find_face(portrait, "haar")
    assert face.attempt == "full"
    assert face.score > backends.Haar.min_score
    width, height = face.box[2:] - face.box[:2]
    assert width == height  # the cascade's window is square
    # the same predictor from another box: a twentieth of the face, 5 px
    assert np.abs(face.landmarks - detect_landmarks(portrait)).mean() < 5


def test_haar_box_is_the_cascades_own(portrait):
    """Against the plain OpenCV calls; outer pixel edges, so half a pixel to the left of the first pixel's centre."""
    import cv2

    grey = cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY)
    ((x, y, w, h),) = backends.haar_cascade().detectMultiScale(grey, 1.1, 5, minSize=(85, 85))
    assert np.array_equal(find_face(portrait, "haar").box, np.array([x, y, x + w, y + h]) - 0.5)


def test_haar_doubles_small_pictures(portrait):
    import cv2

    large = find_face(portrait, "haar")
    small = cv2.resize(portrait, None, fx=1 / 6, fy=1 / 6, interpolation=cv2.INTER_AREA)  # a face of 16 px
    face = find_face(small, "haar", upsample=1)
    assert face.attempt in ("upsampled", "padded")
    assert np.abs((face.box + 0.5) * 6 - (large.box + 0.5)).max() < 15  # 2.5 px of the small picture


def test_two_and_no_faces_are_refused_by_haar_too(portrait):
    with pytest.raises(MerError, match=r"^2 faces found in a 1024x512 image"):
        detect_landmarks(np.hstack([portrait, portrait]), "haar")
    with pytest.raises(MerError, match="no face found"):
        detect_landmarks(np.zeros((200, 200, 3), np.uint8), "haar")


def test_where_haar_fails_the_box_is_that_of_dlibs_landmarks(portrait):
    """D-04: fidelity's fallback. A head turned by 25 degrees is beyond the cascade's frontal windows, not dlib's."""
    import cv2

    matrix = cv2.getRotationMatrix2D((225.0, 135.0), 25, 1.0)
    rotated = cv2.warpAffine(portrait, matrix, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    face = find_face(rotated, "haar")
    assert face.attempt == "dlib"
    low, high = face.landmarks.min(0), face.landmarks.max(0)
    assert np.array_equal(face.box, [*low, *high])


def test_face_box_takes_the_candidate_at_the_landmarks(portrait):
    points = detect_landmarks(portrait)
    box = face_box(portrait, points)
    assert np.array_equal(box, find_face(portrait, "haar").box)
    twice = np.hstack([portrait, portrait])
    assert np.abs(face_box(twice, points) - box).max() < 5  # a step of the cascade's scales is a tenth
    assert np.abs(face_box(twice, points + np.array([512, 0])) - box - (512, 0, 512, 0)).max() < 15
    assert face_box(portrait, points + np.array([150, 250])) is None
    assert face_box(np.zeros_like(portrait), points) is None


def test_opencv_without_haar_files_names_the_remedy(monkeypatch):
    import cv2

    monkeypatch.setattr(cv2.data, "haarcascades", "/nowhere/")
    with pytest.raises(MerError, match="brings no Haar files; pip install 'opencv-python<5'"):
        backends.haar_cascade()


# ---- face_alignment -------------------------------------------------------------------------------------------

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("face_alignment") is None,
    reason="face-alignment is not installed (pip install face-alignment)",
)
FAN, S3FD = backends.FaceAlignment.files


def test_missing_package_names_the_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "face_alignment", None)  # what Python does for a blocked import
    with pytest.raises(MerError, match=r"cannot be imported .* pip install face-alignment, or set landmarks.backend"):
        backends.FaceAlignment()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of the real architectures and names, random; S3FD's biases make it see one face in a picture of 64 px.

    Its six scales give one map of positions each; the coarsest has so few here that all are one face.
    """
    import torch
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models.fan import FAN as Fan

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save(Fan(4).state_dict(), folder / FAN)
    net = s3fd()
    state = net.state_dict()
    for name, value in state.items():
        if "mbox_conf" in name or "mbox_loc" in name:
            value.zero_()
        if name.endswith("mbox_conf.bias"):
            value[-1] = 6.0 if name.startswith("conv7_2") else -6.0  # logit of "face"; the others' are 0
    torch.save(state, folder / S3FD)
    return folder


@pytest.fixture
def fresh():
    """Loaded models are kept for a process; these tests load others."""
    backends.backend.cache_clear()
    yield
    backends.backend.cache_clear()


@needs_package
@pytest.mark.slow
def test_face_alignment_loads_a_folder_and_finds_the_face(weights, fresh):
    """The package's true path: its own loader, both networks, its own decoding; 90 MB each."""
    import torch

    before = torch.hub.get_dir()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    face = find_face(image, "face_alignment", weights=weights)
    assert torch.hub.get_dir() == before
    assert face.landmarks.shape == (68, 2)
    assert face.landmarks.dtype == np.float32
    assert np.isfinite(face.landmarks).all()
    assert face.attempt == "full"
    assert face.score == pytest.approx(1 / (1 + np.exp(-6)), abs=1e-6)  # float32 softmax of the biases (0, 6)
    # S3FD's coarsest prior, moved nowhere, all its location weights being 0: edge 512, centred on a stride of 128
    assert np.abs(face.box[2:] - face.box[:2] - 512).max() < 1e-3
    assert np.abs((face.box[:2] + 256) % 128 - 64).max() < 1e-3
    # nothing compiled, nothing that depends on the run: the same points again
    assert np.array_equal(face.landmarks, find_face(image, "face_alignment", weights=weights).landmarks)
    hinted = find_face(image, "face_alignment", weights=weights, min_score=0.9999, padded=False, hint=face.box)
    assert hinted.attempt == "hint"
    assert np.array_equal(hinted.landmarks, face.landmarks)


@needs_package
@pytest.mark.slow
def test_face_alignment_reads_torch_hubs_cache(weights, tmp_path, monkeypatch, fresh):
    """Without `weights`, what an earlier download left is used, and nothing is fetched."""
    import torch

    (tmp_path / "checkpoints").mkdir()
    for name in (FAN, S3FD):
        (tmp_path / "checkpoints" / name).symlink_to(weights / name)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("fetched"))
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    try:
        image = np.full((64, 64, 3), 90, np.uint8)
        assert find_face(image, "face_alignment").landmarks.shape == (68, 2)
    finally:
        torch.hub.set_dir(before)


@needs_package
def test_weights_that_cannot_be_fetched_name_the_remedy(tmp_path, monkeypatch, fresh):
    import torch

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    try:
        with pytest.raises(MerError, match=rf"cannot be fetched .*no network.*{FAN} and {S3FD} into a folder"):
            find_face(np.zeros((64, 64, 3), np.uint8), "face_alignment")
    finally:
        torch.hub.set_dir(before)


@needs_package
def test_a_folder_without_the_files_or_with_broken_ones(tmp_path, fresh):
    image = np.zeros((64, 64, 3), np.uint8)
    (tmp_path / FAN).write_bytes(b"not a model")
    with pytest.raises(MerError, match=f"lacks {S3FD}; put the file there"):
        find_face(image, "face_alignment", weights=tmp_path)
    shutil.copy(tmp_path / FAN, tmp_path / S3FD)
    with pytest.raises(MerError, match="is truncated or not face-alignment's"):
        find_face(image, "face_alignment", weights=tmp_path)


def test_what_a_killed_process_leaves_of_the_folder_of_links_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # read TMPDIR again, and forget it afterwards
    (tmp_path / "tmp").mkdir()
    (tmp_path / "a").touch()
    code = "import os, sys; from mer.faces import backends\nwith backends._hub_folder(sys.argv[1], ['a']): os._exit(1)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list((tmp_path / "tmp").glob("mer-*"))) == 1
    remove_leftovers()
    assert not list((tmp_path / "tmp").glob("mer-*"))
