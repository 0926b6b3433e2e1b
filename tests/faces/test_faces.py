"""Landmarks and crops: real faces, closed forms, and what is refused."""

import numpy as np
import pytest
import skimage.data

from mer.errors import MerError
from mer.faces import (
    CROPS,
    NoFaceError,
    align_clip,
    crop_corners,
    crop_size,
    crop_transform,
    detect_landmarks,
    face_box,
    find_face,
    find_onset_face,
    outside_share,
    warp,
)
from mer.faces.alignment import INNER_EYES, TEMPLATE, apply, clip_transform, eye_alignment, frame_warp, invert


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
    with pytest.raises(NoFaceError, match=r"no face found in a 200x200 image; look at the frame, raise landmarks.ups"):
        detect_landmarks(np.zeros((200, 200, 3), np.uint8))
    # dlib itself reports four here: two badges of the suit score under 0.2 and do not count
    with pytest.raises(MerError, match=r"^2 faces found in a 1024x512 image; crop the frame to one face, or raise"):
        detect_landmarks(np.hstack([portrait, portrait]))
    with pytest.raises(MerError, match=r"\(H, W, 3\) uint8"):
        detect_landmarks(portrait[..., 0])
    with pytest.raises(MerError, match="8 px at least"):
        detect_landmarks(portrait[:5])
    with pytest.raises(MerError, match="did you mean 'dlib'"):
        detect_landmarks(portrait, backend="dlb")
    with pytest.raises(MerError, match="dlib brings its own"):
        detect_landmarks(portrait, weights="somewhere")


def test_upsampling_finds_a_small_face(portrait, points):
    import cv2

    small = cv2.resize(portrait, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    with pytest.raises(MerError, match="no face"):
        detect_landmarks(small, upsample=0)
    face = find_face(small, upsample=1)
    assert face.attempt == "upsampled"
    # in pixels of the small picture: 3 px there are 6 of the portrait's, a fifteenth of the face
    assert np.abs(face.landmarks - points / 2).max() < 3


def cut(portrait, points):
    """The portrait cut at the landmarks, 5 % inside their box: brows, jaw and chin touch the border or are lost."""
    low, high = points.min(0).astype(int), points.max(0).astype(int)
    inset = int(0.05 * (high - low)[0])
    low, high = low + inset, high - inset
    return np.ascontiguousarray(portrait[low[1] : high[1], low[0] : high[0]]), low


def test_padding_finds_a_face_cut_at_the_brows(portrait, points):
    tight, corner = cut(portrait, points)
    with pytest.raises(NoFaceError, match=r"the likeliest place scores 0\.\d\d, a face 0\.3"):
        find_face(tight, padded=False)
    face = find_face(tight)
    assert face.attempt == "padded"
    assert face.score > 0.6
    inner = slice(27, 68)  # nose, eyes, mouth; the jaw is outside the picture
    # 5 px are a twentieth of the face; the predictor starts from a box that is a few px off
    assert np.abs(face.landmarks[inner] + corner - points[inner]).max() < 5
    assert np.abs(face.box + np.tile(corner, 2) - find_face(portrait).box).max() < 15


def test_a_full_frame_face_carries_box_and_score(portrait, points):
    face = find_face(portrait)
    assert face.attempt == "full"
    assert face.score > 1
    assert np.array_equal(face.landmarks, points)
    (x0, y0, x1, y1), eyes = face.box, points[36:48].mean(0)
    assert x0 < eyes[0] < x1
    assert y0 < eyes[1] < y1


@pytest.mark.parametrize("form", ["face", "landmarks", "box"])
def test_a_hint_says_which_of_two_faces(portrait, points, form):
    hint = {"face": find_face(portrait), "landmarks": points, "box": find_face(portrait).box}[form]
    twice = np.hstack([portrait, portrait])
    # the neighbour's window changes by a pyramid step at most: 4 px
    assert np.abs(detect_landmarks(twice, hint=hint) - points).max() < 4
    with pytest.raises(MerError, match="2 faces"):
        detect_landmarks(twice, hint=np.array([0, 400, 50, 450]))
    with pytest.raises(MerError, match="hint"):
        detect_landmarks(portrait, hint=np.zeros(3))


def test_a_hint_places_landmarks_where_no_detector_sees_a_face(portrait, points):
    """An empty frame takes the hint as it is, with the lowest score; a weak candidate at the hint keeps its own."""
    empty = np.full_like(portrait, 128)
    face = find_face(empty, hint=find_face(portrait))
    assert face.attempt == "hint"
    assert face.score == -1
    assert np.array_equal(face.box, find_face(portrait).box)
    tight, corner = cut(portrait, points)
    weak = find_face(tight, padded=False, hint=points - corner)
    assert weak.attempt == "hint"
    assert -1 < weak.score < 0.3
    assert np.abs(weak.landmarks[27:] + corner - points[27:]).max() < 6  # a fifteenth of the face


def test_an_onset_without_a_face_takes_the_hint_of_the_next_frame(portrait, points):
    empty = np.full_like(portrait, 128)
    read = []

    def frames():
        for k, image in enumerate([empty, empty, portrait, portrait]):
            read.append(k)
            yield image

    face = find_onset_face(frames())
    assert read == [0, 1, 2]
    assert face.attempt == "hint"
    assert np.array_equal(face.box, find_face(portrait).box)
    assert np.array_equal(find_onset_face([portrait, empty]).landmarks, points)
    with pytest.raises(NoFaceError, match="no face"):
        find_onset_face([empty, empty])
    with pytest.raises(MerError, match="2 faces"):
        find_onset_face([np.hstack([portrait, portrait]), portrait])
    with pytest.raises(MerError, match="no frame"):
        find_onset_face([])


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


# ---- the other crops ------------------------------------------------------------------------------------------


def turned(points, degrees, about=(220.0, 130.0)):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points - about) @ turn.T + about


# 1e-6 px is float64 rounding (1e-16) of coordinates below 1e3, through a few products, with room to spare
EXACT = 1e-6


def test_inner_eye_corners_land_on_the_template(points):
    assert np.abs(apply(eye_alignment(points), points[list(INNER_EYES)]) - TEMPLATE).max() < EXACT
    linear = eye_alignment(points)[:, :2]
    assert np.abs(linear @ linear.T - np.linalg.det(linear) * np.eye(2)).max() < EXACT  # turn and scale only
    assert np.linalg.det(linear) > 0  # not mirrored


@pytest.mark.parametrize("size", [None, 224])
def test_innereye_is_the_box_of_the_aligned_landmarks(points, size):
    edge = size or 256
    inside = apply(crop_transform(points, "innereye256", size=size), points)
    right, left = inside[list(INNER_EYES)]
    assert abs(right[1] - left[1]) < EXACT  # level
    assert left[0] > right[0]
    span = inside.max(0) - inside.min(0)
    assert span.max() == pytest.approx(edge, abs=EXACT)
    assert np.abs((inside.max(0) + inside.min(0)) / 2 - (edge - 1) / 2).max() < EXACT  # centred


@pytest.mark.parametrize("degrees", [-30, 7, 170])
def test_a_turned_head_gives_the_same_innereye_crop(points, degrees):
    straight = apply(crop_transform(points, "innereye256"), points)
    other = turned(points.astype(float), degrees) * 1.7 + (31, -12)
    assert np.abs(apply(crop_transform(other, "innereye256"), other) - straight).max() < EXACT


def test_a_turned_picture_gives_the_same_innereye_pixels(portrait, points):
    """The pixels, not only the points: a smooth picture turned by 20 degrees, cut by the turned landmarks."""
    import cv2

    smooth = cv2.GaussianBlur(portrait, (0, 0), 3)
    centre = (225.0, 135.0)
    matrix = cv2.getRotationMatrix2D(centre, -20, 1.0)
    rotated = cv2.warpAffine(smooth, matrix, (512, 512), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    a = align_clip(smooth[None], points, "innereye256").astype(float)
    b = align_clip(rotated[None], apply(matrix, points), "innereye256").astype(float)
    # one more interpolation of a picture without detail under 3 px: 1 grey level on average, 2 of 8-bit rounding
    assert np.abs(a - b).mean() < 1
    assert np.abs(a - b).max() < 8  # at edges of full contrast: 1/32 px of OpenCV's coordinates, twice


@pytest.mark.parametrize("degrees", [-25, 0, 12])
def test_box224_turned_by_the_eye_line(points, degrees):
    other = turned(points.astype(float), degrees)
    inside = apply(crop_transform(other, rotate=True), other)
    assert abs(inside[36:42].mean(0)[1] - inside[42:48].mean(0)[1]) < EXACT
    level = apply(crop_transform(points, rotate=True), points)
    assert np.abs(inside - level).max() < EXACT * 10  # float32 landmarks turned in float64


def test_box112_on_whole_pixels_is_a_slice(portrait):
    """A 112 px box at pixel (170, 60): no pixel is interpolated, so the crop is the frame's own bytes."""
    box = np.array([170, 60, 282, 172]) - 0.5
    out = align_clip(portrait[None], None, "box112", box=box)
    assert np.array_equal(out[0], portrait[60:172, 170:282])


def test_box112_without_a_box_is_the_landmark_box(points):
    """D-04: the landmark box when detection fails, as box224 but smaller: scale 112 to 224, edge on edge."""
    small, large = crop_transform(points, "box112"), crop_transform(points, "box224")
    assert np.abs((apply(small, points) + 0.5) * 2 - (apply(large, points) + 0.5)).max() < EXACT
    with pytest.raises(MerError, match=r"box112: box .* at least 8 px"):
        crop_transform(points, "box112", box=np.zeros(4))


def test_d04_the_box_of_box112_is_a_parameter(portrait, points, tmp_path):
    """D-04: `align.box` haar crops by OpenCV's detection, landmarks by the landmarks; both from the onset frame."""
    import cv2

    from mer.clips import Clip
    from mer.faces.landmarks import face_box
    from stages.align import compute

    assert cv2.imwrite(str(tmp_path / "img1.png"), portrait[:, :, ::-1])
    clip = Clip("c/s/1", "c", "s", "1", "", "", 1, 1, 1, "annotated", 200.0, str(tmp_path / "img{}.png"), "", "")
    crops = {box: compute(clip, landmarks={clip.id: points}, crop="box112", box=box) for box in ("haar", "landmarks")}
    found = np.asarray(face_box(portrait, points), dtype=np.float64)
    corners = crop_corners(crops["haar"]["transform"], 112)
    assert np.abs(corners[[0, 2]].ravel() - found).max() < 1e-9  # Haar's boxes are square
    assert np.array_equal(crops["landmarks"]["transform"], crop_transform(points, "box112"))
    assert not np.array_equal(crops["haar"]["data"], crops["landmarks"]["data"])


def test_none224_is_the_whole_frame():
    """Blocks of 2 x 3 px of one value shrink to a pixel each; no landmarks are needed."""
    values = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    assert np.array_equal(align_clip(values, None, "none224"), values)
    wide = np.zeros((1, 100, 300, 3), np.uint8)
    corners = crop_corners(crop_transform(None, "none224", shape=wide.shape[1:3]), 224)
    assert np.abs(corners - np.array([[-0.5, -0.5], [299.5, -0.5], [299.5, 99.5], [-0.5, 99.5]])).max() < EXACT
    with pytest.raises(MerError, match="shape"):
        crop_transform(None, "none224")


def test_none224_smooths_the_axis_that_shrinks():
    """Stripes one pixel wide, 1120 px across: grey along the shrunken axis; the other keeps its detail."""
    stripes = np.zeros((1, 224, 1120, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert align_clip(stripes, None, "none224")[0, :, 10:-10].std() < 6  # 8-bit and kernel cut-off; unsmoothed over 50
    bars = np.zeros((1, 224, 1120, 3), np.uint8)
    bars[:, ::2] = 255
    assert np.array_equal(align_clip(bars, None, "none224")[0, :, 0], bars[0, :, 0])


@pytest.mark.parametrize("crop", CROPS)
def test_every_crop_is_fixed_over_the_clip_and_can_be_drawn_back(portrait, points, crop):
    clip = np.stack([portrait, np.zeros_like(portrait), portrait])
    out = align_clip(clip, points, crop)
    size = crop_size(crop)
    assert out.shape == (3, size, size, 3)
    assert np.array_equal(out[0], out[2])
    transform = crop_transform(points, crop, shape=portrait.shape[:2])
    assert np.abs(apply(invert(transform), apply(transform, points)) - points).max() < EXACT
    corners = crop_corners(transform, size)
    edge = np.array([[0, 0], [size, 0], [size, size], [0, size]]) - 0.5
    assert np.abs(apply(transform, corners) - edge).max() < EXACT
    # clockwise from the top left: the shoelace area in a y-down frame is positive, and that of the crop / scale
    x, y = corners.T
    area = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2
    assert area == pytest.approx(size**2 / np.linalg.det(transform[:, :2]))


def test_smoothing_only_what_is_read_changes_nothing(portrait):
    """A small shrinking crop in a large frame against the same crop with the whole frame smoothed."""
    import cv2

    big = cv2.resize(portrait, (1400, 1400), interpolation=cv2.INTER_CUBIC)
    marks = np.random.default_rng(3).uniform((400, 200), (820, 560), (68, 2))
    matrix = crop_transform(marks, "box112")
    sigma = 0.5 * np.sqrt(1 / matrix[0, 0] ** 2 - 1)
    whole = cv2.warpAffine(
        cv2.GaussianBlur(big, (0, 0), sigma), matrix, (112, 112), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    difference = np.abs(align_clip(big[None], marks, "box112")[0].astype(int) - whole)
    # the shift of the origin can tip a coordinate to the next 1/32 px
    assert (difference > 0).mean() < 0.01
    assert difference.max() <= 3


@pytest.mark.parametrize("crop", ["box224", "innereye256", "none224"])
@pytest.mark.parametrize("seed", range(3))
def test_the_map_made_once_gives_the_bytes_of_warpaffine(crop, seed):
    """Transforms of all kinds on noise, where a coordinate 1/32 px off changes most bytes; parts out of the frame."""
    import cv2

    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (1, 150, 190, 3), dtype=np.uint8)
    marks = rng.uniform(-20, 170, (68, 2))
    matrix = crop_transform(marks, crop, shape=frame.shape[1:3])
    size = crop_size(crop)
    expected = cv2.warpAffine(frame[0], matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    out = align_clip(frame, marks, crop)[0]
    # the inverse is numpy's here and OpenCV's there: the last bit of a coordinate may tip it to the next 1/32 px
    assert (out != expected).mean() < 1e-3


def test_share_outside_the_frame():
    """A crop hanging half over the left edge, and one inside."""
    half = crop_transform(None, "box112", box=np.array([-56, 0, 56, 112]) - 0.5)
    assert outside_share(half, 112, (200, 200)) == pytest.approx(0.5)
    inside = crop_transform(None, "box112", box=np.array([0, 0, 112, 112]) - 0.5)
    assert outside_share(inside, 112, (200, 200)) == 0


@pytest.mark.parametrize("size", [8, 2000])
def test_impossible_sizes_are_refused(points, size):
    with pytest.raises(MerError, match=r"outside 16\.\.1024"):
        crop_transform(points, size=size)


def test_what_cannot_be_aligned_is_refused(points):
    with pytest.raises(MerError, match="rotate turns box224 only"):
        crop_transform(points, "innereye256", rotate=True)
    one_eyed = points.copy()
    one_eyed[42] = one_eyed[39]
    with pytest.raises(MerError, match=r"the eyes are 0\.0 px apart"):
        crop_transform(one_eyed, "innereye256")


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


@pytest.mark.parametrize("crop", ["box224", "innereye256", "box112"])
def test_landmarks_of_another_picture_are_refused(points, crop):
    """The crop would repeat the frame's border: the same picture in every frame."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 200, 300, 3)).astype(np.uint8)
    low, high = points.min(0), points.max(0)
    marks = 40 + (points - low) * (160 / (high - low))
    assert align_clip(frames, marks, crop).shape[0] == 2
    assert align_clip(frames, marks - (0, 150), crop).shape[0] == 2  # the chin is left
    for away in ((0, -400), (0, 300), (-300, 0), (400, 0)):
        with pytest.raises(
            MerError, match=rf"crop {crop}: landmarks of .* px, none of which lies in the 300x200 frame"
        ):
            align_clip(frames, marks + away, crop)
    with pytest.raises(MerError, match=r"box112: box of 400\.\.460, 10\.\.70 px lies outside the 300x200 frame"):
        align_clip(frames, marks, "box112", box=np.array([400, 10, 460, 70]))


@pytest.mark.parametrize("frame", [np.zeros((20, 30, 4), np.uint8), np.zeros((20, 30), np.uint8),
                                   np.zeros((20, 30, 3)), np.zeros((20, 31, 3), np.uint8)])  # fmt: skip
def test_a_frame_of_another_kind_is_not_warped(frame):
    """OpenCV leaves the result as it was, which is whatever stood in memory."""
    transform = crop_transform(None, "none224", shape=(20, 30))
    out = np.empty((224, 224, 3), np.uint8)
    with pytest.raises(MerError, match=r"warp: frame is .*; needed is \(20, 30, 3\) uint8 RGB"):
        frame_warp(transform, 224, (20, 30))(frame, out)
    if frame.shape[1] == 30:  # `warp` has the size from the frames
        with pytest.raises(MerError, match="warp: frame is"):
            warp(frame[None], transform, 224)


def test_a_face_is_looked_for_in_one_rgb_picture(portrait, points):
    clip, grey, four = portrait[None], portrait[..., 0], np.dstack([portrait, portrait[..., :1]])
    for image in (clip, grey, four, portrait / 255, portrait.transpose(2, 0, 1)):
        for function in (
            detect_landmarks,
            lambda i: face_box(i, points),
            lambda i: clip_transform(i, points, "box224"),
        ):
            with pytest.raises(MerError, match=r"needed is \(H, W, 3\) uint8 RGB"):
                function(image)
    with pytest.raises(MerError, match=r"needed is \(H, W, 3\) uint8 RGB"):
        find_onset_face(portrait)  # its rows are no frames


def test_unknown_crop(points):
    with pytest.raises(MerError, match="crop 'box244' is unknown; did you mean 'box224'"):
        crop_transform(points, "box244")
