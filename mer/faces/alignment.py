"""Crops: one affine transform a clip, fixed by the landmarks of its onset frame.

A fixed crop keeps what moves: nothing is re-aligned from frame to frame, so flow measures the face, not the cropper.
"""

import numpy as np

from mer.errors import MerError, suggestion


def _box(landmarks: np.ndarray, size: int, top_margin: float) -> np.ndarray:
    """Landmark bounding box, `top_margin` of its height added above (U-23), made square about its centre.

    Square, so that a pixel is as wide as it is high and strain keeps its meaning.
    """
    (x0, y0), (x1, y1) = landmarks.min(0), landmarks.max(0)
    y0 -= top_margin * (y1 - y0)
    side = max(x1 - x0, y1 - y0)
    scale = size / side
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    shift = size / 2 - 0.5 - scale * centre
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


# name -> (size in px, landmarks -> transform)
CROPS = {"box224": (224, _box)}


def crop_transform(landmarks: np.ndarray, crop: str = "box224", *, top_margin: float = 0.2) -> np.ndarray:
    """The (2, 3) float64 affine transform from frame pixels to crop pixels, (x, y, 1) -> (x, y).

    Args:
        landmarks: (68, 2) px, of the onset frame.
        crop: `box224`: UAMRN's landmark box (fidelity U-23).
        top_margin: share of the box's height added above the brows.
    """
    if crop not in CROPS:
        raise MerError(f"crop {crop!r} is unknown; {suggestion(crop, CROPS)}")
    landmarks = np.asarray(landmarks, dtype=np.float64)
    if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all() or (np.ptp(landmarks, axis=0) < 8).any():
        raise MerError(f"crop {crop}: landmarks {landmarks.shape} are not 68 points of a face at least 8 px wide")
    size, transform = CROPS[crop]
    return transform(landmarks, size, top_margin)


def align_clip(
    frames: np.ndarray, landmarks: np.ndarray, crop: str = "box224", *, top_margin: float = 0.2
) -> np.ndarray:
    """Crop a clip by the landmarks of its first frame.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        landmarks: (68, 2) px in the first frame.
        crop, top_margin: see crop_transform.

    Returns:
        (T, size, size, 3) uint8. Bicubic; a face larger than the crop is smoothed first, so that nothing aliases.
        What lies outside the frame repeats its border.
    """
    import cv2

    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise MerError(f"align_clip: frames are {frames.shape} {frames.dtype}; needed is (T, H, W, 3) uint8 RGB, T > 0")
    transform = crop_transform(landmarks, crop, top_margin=top_margin)
    size = CROPS[crop][0]
    scale = np.sqrt(abs(np.linalg.det(transform[:, :2])))
    # The Gaussian whose width together with a pixel's own (0.5) makes the pixel of the smaller image.
    sigma = 0.5 * np.sqrt(max(0.0, 1 / scale**2 - 1))
    out = np.empty((len(frames), size, size, 3), dtype=np.uint8)
    for t, frame in enumerate(frames):
        smooth = cv2.GaussianBlur(frame, (0, 0), sigma) if sigma > 0.2 else frame
        out[t] = cv2.warpAffine(smooth, transform, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return out
