"""Landmarks and crops: real faces, closed forms, and what is refused."""

import numpy as np
import pytest
import skimage.data

from mer.errors import MerError
from mer.faces import align_clip, crop_transform, detect_landmarks


@pytest.fixture(scope="module")
def portrait():
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def points(portrait):
    return detect_landmarks(portrait)


def test_landmarks_of_a_portrait(points):
    """Order and place by anatomy: jaw, brows, nose, eyes, mouth, the subject's right on the image's left."""
    assert points.shape == (68, 2)
    assert points.dtype == np.float32
    right_eye, left_eye, mouth, chin, nose = (points[s].mean(0) for s in (slice(36, 42), slice(42, 48), slice(48, 68),
                                                                          slice(8, 9), slice(30, 31)))  # fmt: skip
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_eye[1] < nose[1] < mouth[1] < chin[1]
    # The eyes of this well-known picture, by hand: centres near (206, 101) and (249, 103).
    assert np.abs(right_eye - (206, 101)).max() < 3
    assert np.abs(left_eye - (249, 103)).max() < 3


def test_no_face_and_two_faces_are_refused(portrait):
    with pytest.raises(MerError, match="no face found in a 200x200 image"):
        detect_landmarks(np.zeros((200, 200, 3), np.uint8))
    with pytest.raises(MerError, match="faces found in a 1024x512 image; crop the frame to one face"):
        detect_landmarks(np.hstack([portrait, portrait]))
    with pytest.raises(MerError, match=r"\(H, W, 3\) uint8"):
        detect_landmarks(portrait[..., 0])
    with pytest.raises(MerError, match="did you mean 'dlib'"):
        detect_landmarks(portrait, backend="dlb")


def test_upsampling_finds_a_small_face(portrait):
    import cv2

    small = cv2.resize(portrait, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    with pytest.raises(MerError, match="no face"):
        detect_landmarks(small, upsample=0)
    detect_landmarks(small, upsample=1)


def test_the_box_is_the_landmarks_with_a_fifth_of_its_height_on_top(points):
    matrix = crop_transform(points)
    inside = points @ matrix[:, :2].T + matrix[:, 2]
    (x0, y0), (x1, y1) = inside.min(0), inside.max(0)
    scale = matrix[0, 0]
    assert matrix[1, 1] == scale  # square pixels
    assert matrix[0, 1] == matrix[1, 0] == 0  # not rotated
    width, height = x1 - x0, (y1 - y0) * 1.2
    assert max(width, height) == pytest.approx(224, abs=1e-3)
    # centred: the margin counts as part of the box; pixel centres are at integers, so edges at -0.5 and 223.5
    assert (x0 + x1) / 2 == pytest.approx(111.5, abs=1e-3)
    assert (y1 + y0 - 0.2 * (y1 - y0)) / 2 == pytest.approx(111.5, abs=1e-3)


def test_a_clip_is_cropped_by_one_transform(portrait, points):
    """A ramp shows where every pixel of the crop comes from, and that all frames are cut alike."""
    x, y = np.meshgrid(np.arange(256), np.arange(256))
    ramp = np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8)
    marks = (points - points.min(0)) / np.ptp(points, axis=0).max() * 190 + 40
    out = align_clip(np.stack([ramp, ramp]), marks)
    assert out.shape == (2, 224, 224, 3)
    assert np.array_equal(out[0], out[1])
    inverse = np.linalg.inv(np.vstack([crop_transform(marks), [0, 0, 1]]))
    j, i = np.meshgrid(np.arange(8, 216), np.arange(8, 216))
    source = np.einsum("ab,bij->aij", inverse[:2], np.stack([j, i, np.ones_like(j)]).astype(float))
    inside = ((source > 3) & (source < 252)).all(0)
    # 8-bit rounding 0.5, and 1/32 px rounding of the coordinate by OpenCV
    assert np.abs(out[0, 8:216, 8:216, 0] - source[0])[inside].max() <= 0.6
    assert np.abs(out[0, 8:216, 8:216, 1] - source[1])[inside].max() <= 0.6


def test_a_large_face_does_not_alias():
    """One-pixel stripes on a face four times the crop's size become even grey."""
    stripes = np.zeros((1, 1100, 1100, 3), np.uint8)
    stripes[:, :, ::2] = 255
    marks = np.random.default_rng(0).uniform(150, 950, (68, 2))
    out = align_clip(stripes, marks)[0, 20:-20, 20:-20].astype(float)
    assert out.std() < 4  # unsmoothed sampling gives over 50
    assert abs(out.mean() - 127.5) < 2


def test_outside_the_frame_repeats_its_border():
    frame = np.full((1, 100, 100, 3), 77, np.uint8)
    marks = np.random.default_rng(1).uniform(-30, 130, (68, 2))
    assert (align_clip(frame, marks) == 77).all()


@pytest.mark.parametrize(
    ("frames", "marks", "message"),
    [
        (np.zeros((0, 9, 9, 3), np.uint8), None, "T > 0"),
        (np.zeros((2, 9, 9), np.uint8), None, r"\(T, H, W, 3\)"),
        (np.zeros((2, 9, 9, 3)), None, "float64"),
        (None, np.zeros((68, 2)), "at least 8 px wide"),
        (None, np.full((68, 2), np.nan), "not 68 points"),
        (None, np.zeros((5, 2)), "not 68 points"),
    ],
)
def test_wrong_input_is_refused(frames, marks, message, points):
    frames = np.zeros((2, 9, 9, 3), np.uint8) if frames is None else frames
    with pytest.raises(MerError, match=message):
        align_clip(frames, points if marks is None else marks)


def test_unknown_crop(points):
    with pytest.raises(MerError, match="crop 'box244' is unknown; did you mean 'box224'"):
        crop_transform(points, "box244")
