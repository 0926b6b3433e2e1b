"""68 facial landmarks, iBUG order, (x, y) in pixels."""

import functools
import importlib.util
from pathlib import Path

import numpy as np

from mer.errors import MerError, suggestion


def detect_landmarks(image: np.ndarray, backend: str = "dlib", *, upsample: int = 1) -> np.ndarray:
    """The landmarks of the one face in an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        backend: `dlib` (histogram-of-gradients detector, regression-tree landmarks; MSMMT's choice).
        upsample: how often the image is doubled when no face is found, for faces under 80 px.

    Returns:
        (68, 2) float32, (x, y) px.

    Raises:
        MerError: no face, or more than one.
    """
    image = np.ascontiguousarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise MerError(f"detect_landmarks: image is {image.shape} {image.dtype}; needed is (H, W, 3) uint8 RGB")
    if backend != "dlib":
        raise MerError(f"landmarks.backend {backend!r} is unknown; {suggestion(backend, ['dlib'])}")
    detector, predictor = _dlib()
    for times in range(upsample + 1):
        boxes = detector(image, times)
        if len(boxes):
            break
    if len(boxes) != 1:
        found = "no face" if not len(boxes) else f"{len(boxes)} faces"
        raise MerError(
            f"{found} found in a {image.shape[1]}x{image.shape[0]} image; "
            + ("raise landmarks.upsample or look at the frame" if not len(boxes) else "crop the frame to one face")
        )
    shape = predictor(image, boxes[0])
    return np.array([(p.x, p.y) for p in shape.parts()], dtype=np.float32)


@functools.cache
def _dlib():
    import dlib

    # The package cannot be imported (it needs pkg_resources, which is gone), so its file is found beside it.
    package = importlib.util.find_spec("face_recognition_models")
    if package is None:
        raise MerError("landmarks.backend dlib: face_recognition_models is not installed; run make repro to install it")
    model = Path(package.origin).parent / "models" / "shape_predictor_68_face_landmarks.dat"
    return dlib.get_frontal_face_detector(), dlib.shape_predictor(str(model))
