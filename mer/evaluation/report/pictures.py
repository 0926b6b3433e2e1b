"""Pictures of the pipeline inside the page: shrunk, and as text.

A picture is WebP: without loss where that costs little (plots have few colours), else at a quality at which the colour
wheel of flow stays smooth. Equal pictures are equal text, for the same libraries.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mer.storage.files import damaged, unreadable

# Largest width in px and quality of WebP; later ones where all pictures together are more than BUDGET.
LEVELS = ((1600, 92), (1200, 88), (900, 84), (640, 78))
BUDGET = 8_500_000  # bytes before base64, which makes 4 of 3
LITTLE = 1.4  # how many times the lossy size a picture without loss may have, and
HOPELESS = 2.6  # its PNG, which is up to twice as large: where it is larger, the time is not spent
LOSSLESS = 101  # OpenCV's quality for it


@dataclass(frozen=True)
class Embedded:
    """A picture as the page shows it, with its size in px."""

    uri: str
    width: int
    height: int


def embed(paths: Sequence[Path], budget: int = BUDGET) -> dict[Path, Embedded]:
    """The pictures as data URIs, all shrunk alike until they fit; those that do not fit even then are left out.

    Args:
        paths: PNG files.
        budget: bytes of all together.

    Raises:
        FileError: a file that cannot be read, or is no picture.
    """
    sizes: dict[Path, tuple[bytes, int, int]] = {}
    for widest, quality in LEVELS:
        sizes = {path: _encoded(path, widest, quality) for path in paths}
        if sum(len(data) for data, _, _ in sizes.values()) <= budget:
            break
    found, used = {}, 0
    for path, (data, width, height) in sizes.items():
        used += len(data)
        if used > budget:
            break
        found[path] = Embedded(f"data:image/webp;base64,{base64.b64encode(data).decode()}", width, height)
    return found


def _encoded(path: Path, widest: int, quality: int) -> tuple[bytes, int, int]:
    import cv2

    image = _read(path)
    height, width = image.shape[:2]
    if width > widest:
        height, width = max(1, round(height * widest / width)), widest
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    lossy = _webp(image, quality)
    if path.stat().st_size <= HOPELESS * len(lossy):
        exact = _webp(image, LOSSLESS)
        if len(exact) <= LITTLE * len(lossy):
            return exact, width, height
    return lossy, width, height


def _webp(image: np.ndarray, quality: int) -> bytes:
    import cv2

    return cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def _read(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR; what is transparent is white, as the pictures are drawn for it."""
    import cv2

    try:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise unreadable(path, error) from None
    image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if len(content) else None
    if image is None or image.dtype != np.uint8:
        raise damaged(path, "it is no picture")
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.float32) / 255
        return np.round(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return image
