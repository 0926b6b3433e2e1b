"""Crops: one affine transform a clip, fixed by the face in its onset frame.

A fixed crop keeps what moves: nothing is re-aligned from frame to frame, so flow measures the face, not the cropper.
Transforms are (2, 3) float64 from frame pixels to crop pixels, (x, y, 1) -> (x, y), pixel centres at integers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mer.errors import MerError, suggestion
from mer.faces.landmarks import check_image, face_box


@dataclass(frozen=True)
class Crop:
    """What a crop is made of: its own size in px, what it reads (`landmarks`, `box`, `frame`), where it comes from."""

    size: int
    reads: str
    source: str


CROPS = {
    "box224": Crop(224, "landmarks", "UAMRN, fidelity U-23"),
    "innereye256": Crop(256, "landmarks", "MSMMT, fidelity S-26"),
    "box112": Crop(112, "box", "DCMA, fidelity D-02 and D-04"),
    "none224": Crop(224, "frame", "Micron-BERT, fidelity 3.2"),
}

# Landmarks of the inner eye corners (the subject's right and left), and where S-26 sends them: a level pair, 60 px
# apart, in an upright picture of about 256 px. The box of the aligned landmarks is cut next, so of the template only
# its level line reaches the crop.
INNER_EYES = (39, 42)
TEMPLATE = np.array([[97.5, 96.0], [157.5, 96.0]])


def crop_transform(
    landmarks: np.ndarray | None,
    crop: str = "box224",
    *,
    top_margin: float = 0.2,
    size: int | None = None,
    rotate: bool = False,
    box: np.ndarray | None = None,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """The (2, 3) float64 affine transform from frame pixels to crop pixels.

    Args:
        landmarks: (68, 2) px, of the onset frame. Not needed for `none224`, nor for `box112` with a box.
        crop: `box224`: the square about the landmark box. `innereye256`: the frame is turned until the inner eye
            corners are level, then the square about the landmark box. `box112`: the square about a detection box, or
            about the landmark box where there is none. `none224`: the whole frame, stretched to a square.
        top_margin: share of the landmark box's height added above the brows; `box224` and `box112` (U-23).
        size: edge of the crop in px; None = the crop's own.
        rotate: `box224` with the line through the eyes' centres level (U-23's alternative).
        box: (4,) detection box x0, y0, x1, y1 in px, pixel edges; `box112` only.
        shape: (height, width) of the frame. `none224` needs it; the other crops compare it with the face.

    Raises:
        MerError: an unknown crop, an option that is not this crop's, a size out of range; landmarks or a box that are
            no face of 8 px or more, or lie wholly outside the frame.
    """
    if crop not in CROPS:
        raise MerError(f"crop {crop!r} is unknown; {suggestion(crop, CROPS)}")
    size = crop_size(crop, size)
    if rotate and crop != "box224":
        raise MerError(f"crop {crop}: rotate turns box224 only; set align.rotate to false")
    if crop == "none224":
        return _whole(shape, size)
    if crop == "box112" and box is not None:
        box = np.asarray(box, dtype=np.float64)
        if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] - box[:2] < 8).any():
            raise MerError(f"crop {crop}: box {box.tolist()} is not x0, y0, x1, y1 of a face at least 8 px wide")
        if shape is not None and ((box[2:] <= -0.5) | (box[:2] >= np.array(shape[::-1]) - 0.5)).any():
            raise MerError(f"crop {crop}: box of {_area(box.reshape(2, 2))} lies outside the {_size(shape)} frame")
        return _square(box.reshape(2, 2), size, 0.0)
    landmarks = np.asarray(landmarks, dtype=np.float64)
    if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all() or (np.ptp(landmarks, axis=0) < 8).any():
        raise MerError(f"crop {crop}: landmarks {landmarks.shape} are not 68 points of a face at least 8 px wide")
    # A face may reach over the border, but a crop of the border alone is the same in every frame.
    if shape is not None and not ((landmarks > -0.5) & (landmarks < np.array(shape[::-1]) - 0.5)).all(1).any():
        raise MerError(
            f"crop {crop}: landmarks of {_area(landmarks)}, none of which lies in the {_size(shape)} frame; find them "
            "in this clip's own frames"
        )
    if crop == "innereye256":
        return _aligned_square(eye_alignment(landmarks), landmarks, size, 0.0)
    if rotate:
        eyes = np.stack([landmarks[36:42].mean(0), landmarks[42:48].mean(0)])
        return _aligned_square(_similarity(eyes, TEMPLATE), landmarks, size, top_margin)
    return _square(landmarks, size, top_margin)


def crop_options(crop: str, *, top_margin: float, rotate: bool, box: str) -> dict:
    """The parameters of align that this crop uses, for `clip_transform`; the others cannot change it."""
    options = {"crop": crop, "top_margin": top_margin, "rotate": rotate and crop == "box224"}
    return options | {"box": box} if CROPS[crop].reads == "box" else options


def clip_transform(
    frame: np.ndarray, landmarks: np.ndarray, crop: str, *, box: str = "haar", **options: Any
) -> np.ndarray:
    """The transform of a whole clip, by one of its frames: `crop_transform`, a box being looked for where one is read.

    Args:
        frame: (H, W, 3) uint8 RGB.
        landmarks: (68, 2) px of the onset frame; they say which of several boxes is the face.
        crop, options: see `crop_options`.
        box: `haar`, OpenCV's detection, and the landmarks' box where it finds none; `landmarks` (D-04).
    """
    check_image("clip_transform", frame)
    if CROPS[crop].reads == "box" and box == "haar":
        options["box"] = face_box(frame, landmarks)
    return crop_transform(landmarks, crop, shape=frame.shape[:2], **options)


def eye_alignment(landmarks: np.ndarray) -> np.ndarray:
    """The (2, 3) similarity (turn, scale, shift) that puts the inner eye corners on TEMPLATE (S-26)."""
    return _similarity(np.asarray(landmarks, dtype=np.float64)[list(INNER_EYES)], TEMPLATE)


def crop_size(crop: str, size: int | None = None) -> int:
    """Edge of a crop in px: `size`, or the crop's own."""
    if size is None:
        return CROPS[crop].size
    if not 16 <= size <= 1024:
        raise MerError(f"align.size: {size} px is outside 16..1024; leave it out for {crop}'s own {CROPS[crop].size}")
    return int(size)


def crop_corners(transform: np.ndarray, size: int) -> np.ndarray:
    """(4, 2) float64: the crop's corners in frame pixels, clockwise from the top left; outer edges of its pixels."""
    low, high = -0.5, size - 0.5
    return apply(invert(transform), np.array([[low, low], [high, low], [high, high], [low, high]]))


def outside_share(transform: np.ndarray, size: int, shape: tuple[int, int]) -> float:
    """Share of a crop's pixels that lie outside the (height, width) frame and only repeat its border, 0..1."""
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    x, y = apply(invert(transform), np.stack([x.ravel(), y.ravel()], axis=1)).T
    inside = (x >= -0.5) & (x <= shape[1] - 0.5) & (y >= -0.5) & (y <= shape[0] - 0.5)
    return float(1 - inside.mean())


def apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 2) through a (2, 3) transform."""
    return np.asarray(points) @ transform[:, :2].T + transform[:, 2]


def invert(transform: np.ndarray) -> np.ndarray:
    """The (2, 3) transform back: from crop pixels to frame pixels."""
    linear = np.linalg.inv(transform[:, :2])
    return np.hstack([linear, -linear @ transform[:, 2:]])


def align_clip(
    frames: np.ndarray,
    landmarks: np.ndarray | None,
    crop: str = "box224",
    *,
    top_margin: float = 0.2,
    size: int | None = None,
    rotate: bool = False,
    box: np.ndarray | None = None,
) -> np.ndarray:
    """Crop a clip by the face in its first frame.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        landmarks: (68, 2) px in the first frame.
        crop, top_margin, size, rotate, box: see crop_transform.

    Returns:
        (T, size, size, 3) uint8. Bicubic; a face larger than the crop is smoothed first, so that nothing aliases.
        What lies outside the frame repeats its border.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise MerError(f"align_clip: frames are {frames.shape} {frames.dtype}; needed is (T, H, W, 3) uint8 RGB, T > 0")
    transform = crop_transform(
        landmarks, crop, top_margin=top_margin, size=size, rotate=rotate, box=box, shape=frames.shape[1:3]
    )
    return warp(frames, transform, crop_size(crop, size))


def warp(frames: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """(T, H, W, 3) uint8 through one transform to (T, size, size, 3); see align_clip."""
    out = np.empty((len(frames), size, size, 3), dtype=np.uint8)
    one = frame_warp(transform, size, frames.shape[1:3])
    for frame, place in zip(frames, out, strict=True):
        one(frame, place)
    return out


def frame_warp(transform: np.ndarray, size: int, shape: tuple[int, int]) -> Callable[[np.ndarray, np.ndarray], None]:
    """What crops every frame of a clip: a function (frame (H, W, 3) uint8, out (size, size, 3) uint8) -> None.

    `shape` is the frames' (height, width); the function raises MerError for a frame of another shape or type. What
    depends on the transform alone is done once, here.
    """
    import cv2

    # The Gaussian whose width together with a pixel's own (0.5) makes the pixel of the smaller image. A column of the
    # transform is what one frame pixel along that axis becomes.
    scale = np.linalg.norm(transform[:, :2], axis=0)
    sigma_x, sigma_y = 0.5 * np.sqrt(np.maximum(0.0, 1 / scale**2 - 1))
    smooth = max(sigma_x, sigma_y) > 0.2  # below that the kernel is one pixel wide
    rows = columns = slice(None)
    if smooth:
        rows, columns = _read_by(transform, size, shape, margin=4 * max(sigma_x, sigma_y) + 4)
        transform = transform.copy()
        transform[:, 2] += transform[:, :2] @ (columns.start, rows.start)
    whole, fraction = _fixed_map(transform, size)

    def one(frame: np.ndarray, out: np.ndarray) -> None:
        # OpenCV would make a result of its own and leave `out` as it is.
        if frame.shape != (*shape, 3) or frame.dtype != np.uint8:
            raise MerError(f"warp: frame is {frame.shape} {frame.dtype}; needed is {(*shape, 3)} uint8 RGB")
        if smooth:  # 0.001, since OpenCV reads 0 as "the same as the other axis"
            frame = cv2.GaussianBlur(frame[rows, columns], (0, 0), max(sigma_x, 1e-3), sigmaY=max(sigma_y, 1e-3))
        cv2.remap(frame, whole, fraction, cv2.INTER_CUBIC, dst=out, borderMode=cv2.BORDER_REPLICATE)

    return one


def _fixed_map(transform: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """OpenCV's fixed-point map of an affine transform: whole source pixels, and the fraction in steps of 1/32 px.

    warpAffine makes it anew for every frame, a fifth of its time; a clip needs it once. Same numbers: the terms of x
    and of y are rounded to 1/1024 px each, their sum to 1/32 px.
    """
    back = invert(transform)
    pixel = np.arange(size)
    along_x = np.rint(back[:, 0, None] * pixel * 1024).astype(np.int64)
    along_y = np.rint((back[:, 1, None] * pixel + back[:, 2, None]) * 1024).astype(np.int64)
    steps = (along_x[:, None, :] + along_y[:, :, None] + 16) >> 5
    whole = np.clip(steps >> 5, -32768, 32767).astype(np.int16)
    fraction = ((steps[1] & 31) * 32 + (steps[0] & 31)).astype(np.uint16)
    return np.ascontiguousarray(whole.transpose(1, 2, 0)), fraction


def _read_by(transform: np.ndarray, size: int, shape: tuple[int, int], margin: float) -> tuple[slice, slice]:
    """Rows and columns of the frame that a crop and `margin` px about it reach: smoothing the rest is lost work."""
    corners = crop_corners(transform, size)
    limit = np.array(shape[::-1])
    low = np.clip(np.floor(corners.min(0) - margin), 0, limit - 1).astype(int)
    high = np.clip(np.ceil(corners.max(0) + margin) + 1, low + 1, limit).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _area(points: np.ndarray) -> str:
    (x0, y0), (x1, y1) = points.min(0), points.max(0)
    return f"{x0:.0f}..{x1:.0f}, {y0:.0f}..{y1:.0f} px"


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _square(points: np.ndarray, size: int, top_margin: float) -> np.ndarray:
    """The bounding box of points, `top_margin` of its height added above (U-23), made square about its centre.

    Square, so that a pixel is as wide as it is high and strain keeps its meaning.
    """
    (x0, y0), (x1, y1) = points.min(0), points.max(0)
    y0 -= top_margin * (y1 - y0)
    side = max(x1 - x0, y1 - y0)
    scale = size / side
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    shift = size / 2 - 0.5 - scale * centre
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


def _aligned_square(alignment: np.ndarray, landmarks: np.ndarray, size: int, top_margin: float) -> np.ndarray:
    """First the alignment, then the square about the aligned landmarks, in one transform (pixels are read once)."""
    square = _square(apply(alignment, landmarks), size, top_margin)
    return np.hstack([square[:, :2] @ alignment[:, :2], apply(square, alignment[None, :, 2]).T])


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The one turn, scale and shift that takes two points to two points; as complex numbers z -> a z + b."""
    (s0, s1), (t0, t1) = (points[:, 0] + 1j * points[:, 1] for points in (source, target))
    if abs(s1 - s0) < 2:
        raise MerError(f"the eyes are {abs(s1 - s0):.1f} px apart; look at the landmarks, or exclude the clip")
    a = (t1 - t0) / (s1 - s0)
    b = t0 - a * s0
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _whole(shape: tuple[int, int] | None, size: int) -> np.ndarray:
    """The whole frame stretched to a square, outer pixel edges on outer pixel edges."""
    if shape is None:
        raise MerError("crop none224: needs the frame's shape (height, width); give crop_transform shape=")
    sy, sx = size / shape[0], size / shape[1]
    return np.array([[sx, 0, sx / 2 - 0.5], [0, sy, sy / 2 - 0.5]])
