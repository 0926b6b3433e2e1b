"""Detectors and landmark predictors, one class a backend; `mer.faces.landmarks` decides what counts as a face.

A backend has `detect(image, times, least)` -> (boxes (N, 4) float64, scores (N,) float64), the image doubled `times`
times, candidates scoring `least` or more; `landmarks(image, box)` -> (68, 2) float32; `min_score`, from which on a
candidate counts as a face; `lowest`, the score of a box that no detector confirmed. Boxes are x0, y0, x1, y1 in px of
the image given, outer pixel edges (pixel 0 spans -0.5..0.5).
"""

import contextlib
import functools
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mer.errors import MerError, listed, suggestion


class Backend(Protocol):
    """As the module's docstring says."""

    min_score: float
    lowest: float

    def detect(self, image: np.ndarray, times: int, least: float) -> tuple[np.ndarray, np.ndarray]: ...

    def landmarks(self, image: np.ndarray, box: np.ndarray) -> np.ndarray: ...


class Dlib:
    """Histogram-of-gradients detector and regression-tree landmarks; MSMMT's choice (fidelity 2.2)."""

    # Seen: faces 1.1 to 1.5 (0.4 to 2.0 when cut off at the brows and padded), what is no face 0.15 at most. Halfway.
    min_score = 0.3
    lowest = -1.0

    def __init__(self) -> None:
        import dlib

        self._detector = dlib.get_frontal_face_detector()
        self._predictor = dlib_predictor()

    def detect(self, image: np.ndarray, times: int, least: float) -> tuple[np.ndarray, np.ndarray]:
        boxes, scores, _ = self._detector.run(image, times, least)
        boxes = [(b.left() - 0.5, b.top() - 0.5, b.right() + 0.5, b.bottom() + 0.5) for b in boxes]
        return np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores, dtype=np.float64)

    def landmarks(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        return predict(self._predictor, image, box)


class Haar:
    """OpenCV's Haar cascade for the box (DCMA, fidelity D-04), dlib's 68 points inside it."""

    # The cascade's last-stage weight. Seen: faces 2.9 to 10, other things 2.3 at most once they are a sixth of the
    # frame; smaller ones reach 4.7 (gravel), hence `smallest`. A face in these corpora fills a quarter and more.
    min_score = 2.6
    lowest = 0.0
    smallest = 1 / 6

    def __init__(self) -> None:
        self._cascade = haar_cascade()
        self._predictor = dlib_predictor()

    def detect(self, image: np.ndarray, times: int, least: float) -> tuple[np.ndarray, np.ndarray]:
        import cv2

        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        grey, scale = _doubled(grey, times)
        # Doubling is for faces that are small: of the frame too.
        side = max(24, round(min(grey.shape) * self.smallest / scale))
        boxes, _, weights = self._cascade.detectMultiScale3(
            grey, scaleFactor=1.1, minNeighbors=5, minSize=(side, side), outputRejectLevels=True
        )
        boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        weights = np.array(weights, dtype=np.float64).reshape(-1)
        boxes[:, 2:] += boxes[:, :2]
        keep = weights >= least
        return (boxes[keep] / scale) - 0.5, weights[keep]

    def landmarks(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        return predict(self._predictor, image, box)


class FaceAlignment:
    """The face-alignment package: S3FD boxes, 2D-FAN landmarks; UAMRN's choice (fidelity 1.2)."""

    min_score = 0.5  # the package's own: S3FD's probability
    lowest = 0.0
    files = ("2DFAN4-11f355bf06.pth.tar", "s3fd-619a316812.pth")
    source = "https://www.adrianbulat.com/downloads/python-fan"

    def __init__(self, weights: str | Path | None = None, device: str = "cpu"):
        try:
            import face_alignment
        except ImportError as error:
            raise MerError(
                f"landmarks.backend face_alignment: the package cannot be imported ({error}); "
                "pip install face-alignment, or set landmarks.backend to dlib"
            ) from None
        with _hub_folder(weights, self.files):
            try:
                # compile=False: torch.compile needs a C++ compiler and a minute.
                self._model = face_alignment.FaceAlignment(
                    face_alignment.LandmarksType.TWO_D, device=device, face_detector="sfd", compile=False
                )
            except OSError as error:  # urllib's errors are OSErrors
                raise MerError(
                    f"landmarks.backend face_alignment: its weights cannot be fetched from {self.source} ({error}); "
                    f"put {' and '.join(self.files)} into a folder and name it as landmarks.weights, or set "
                    "landmarks.backend to dlib"
                ) from None
            except Exception as error:  # torch.load and load_state_dict raise many kinds
                reason = str(error).strip().split("\n")[0][:200]
                raise MerError(
                    f"{weights or 'torch hub cache'}: {' or '.join(self.files)} is truncated or not face-alignment's "
                    f"({type(error).__name__}: {reason}); delete it and fetch it again from {self.source}"
                ) from None

    def detect(self, image: np.ndarray, times: int, least: float) -> tuple[np.ndarray, np.ndarray]:
        image, scale = _doubled(image, times)
        detector = self._model.face_detector
        detector.filter_threshold = least
        found = np.array(detector.detect_from_image(image), dtype=np.float64).reshape(-1, 5)
        return found[:, :4] / scale, found[:, 4]

    def landmarks(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        points = self._model.get_landmarks_from_image(image, detected_faces=[np.asarray(box)])
        return np.asarray(points[0], dtype=np.float32)


BACKENDS: dict[str, Callable[..., Backend]] = {"dlib": Dlib, "face_alignment": FaceAlignment, "haar": Haar}


@functools.lru_cache(maxsize=4)
def backend(name: str, weights: str | None = None, device: str = "cpu") -> Backend:
    """The backend, loaded once a process. Raises MerError for an unknown name or missing weights."""
    if name not in BACKENDS:
        raise MerError(f"landmarks.backend {name!r} is unknown; {suggestion(name, BACKENDS)}")
    if name == "face_alignment":
        return FaceAlignment(weights, device)
    if weights is not None:
        raise MerError(f"landmarks.weights: {name} brings its own; leave it out, or set landmarks.backend")
    return BACKENDS[name]()


@functools.cache
def dlib_predictor() -> Any:
    import dlib

    # The package cannot be imported (it needs pkg_resources, which is gone), so its file is found beside it.
    package = importlib.util.find_spec("face_recognition_models")
    if package is None or package.origin is None:
        raise MerError("landmarks.backend dlib: face_recognition_models is not installed; run make repro to install it")
    return dlib.shape_predictor(str(Path(package.origin).parent / "models" / "shape_predictor_68_face_landmarks.dat"))


def predict(predictor: Any, image: np.ndarray, box: np.ndarray) -> np.ndarray:
    import dlib

    x0, y0, x1, y1 = (round(float(v)) for v in (box[0] + 0.5, box[1] + 0.5, box[2] - 0.5, box[3] - 0.5))
    shape = predictor(image, dlib.rectangle(x0, y0, x1, y1))
    return np.array([(p.x, p.y) for p in shape.parts()], dtype=np.float32)


def haar_cascade() -> Any:
    import cv2

    folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
    path = Path(folder) / "haarcascade_frontalface_default.xml"
    if not folder or not path.is_file():
        raise MerError(
            f"landmarks.backend haar: OpenCV {cv2.__version__} brings no Haar files; pip install 'opencv-python<5' "
            "and remove any opencv-contrib-*"
        )
    return cv2.CascadeClassifier(str(path))


def _doubled(image: np.ndarray, times: int) -> tuple[np.ndarray, int]:
    import cv2

    scale = 2**times
    if times:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    return image, scale


@contextlib.contextmanager
def _hub_folder(weights: str | Path | None, files: Sequence[str]) -> Iterator[None]:
    """While it lasts, torch.hub finds `files` in the folder `weights`; None leaves torch.hub's own cache."""
    if weights is None:
        yield
        return
    weights = Path(weights)
    missing = [f for f in files if not (weights / f).is_file()]
    if missing:
        raise MerError(f"landmarks.weights: {weights} lacks {listed(missing)}; put the file there")
    import torch

    before = torch.hub.get_dir()
    # With this process's number, as mer.parallel.remove_leftovers looks for it.
    with tempfile.TemporaryDirectory(prefix=f"mer-{os.getpid()}-") as folder:
        checkpoints = Path(folder) / "checkpoints"
        checkpoints.mkdir()
        for name in files:
            (checkpoints / name).symlink_to((weights / name).resolve())
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)
