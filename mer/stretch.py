"""Flow in the form of the public releases: every channel of every map stretched by itself."""

import numpy as np

from mer.errors import MerError

SIZE = 28  # px


def check_flow(who: str, flow: np.ndarray) -> None:
    """Raise MerError for what are no flow images of SIZE px or more; who: the model that reads them."""
    if flow.ndim != 4 or flow.shape[1] != 3 or not flow.size or min(flow.shape[2:]) < SIZE:
        raise MerError(f"{who} reads flow images (N, 3, H, W) of {SIZE} px or more, not {flow.shape}")


def stretched(flow: np.ndarray) -> np.ndarray:
    """Flow images in px, (N, 3, H, W), as the public releases have them: (N, 3, 28, 28) float32.

    Each channel of each image is stretched to 0..255 and rounded to whole levels; u and v are about the middle one. A
    channel without any motion is the middle (u, v) or 0 (strain).
    """
    import cv2

    small = np.empty((len(flow), 3, SIZE, SIZE), np.float32)
    for image, place in zip(flow, small, strict=True):
        place[...] = cv2.resize(image.transpose(1, 2, 0), (SIZE, SIZE), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    low, high = small.min((2, 3), keepdims=True), small.max((2, 3), keepdims=True)
    grey = np.round((small - low) * (255 / np.where(high > low, high - low, 1)))
    grey[:, :2] = np.where((high > low)[:, :2], grey[:, :2] - 127.5, 0)
    return grey
