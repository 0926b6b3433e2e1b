"""What is measured of a clip, to say how unlike those of the training it is."""

import numpy as np

from mer.evaluation.calibration import LEAST
from mer.recognise.bundle import Range
from mer.storage.cache import ClipCache

MEASURES = {
    "fps": ("frame rate", "frames a second"), "face_px": ("height of the face", "px"),
    "motion_px": ("motion from onset to apex", "px"), "entropy": ("uncertainty", "nats"),
}  # fmt: skip


def measures(fps: float, points: np.ndarray, flow: np.ndarray, probability: np.ndarray) -> dict[str, float | None]:
    """Of a clip, by the names of Card.seen; None where it cannot be said."""
    return {
        "fps": fps or None, "face_px": float(np.ptp(points[:, 1])), "motion_px": motion(flow),
        "entropy": float(entropy(probability[None])[0]),
    }  # fmt: skip


def motion(flow: np.ndarray) -> float:
    """The 95 % quantile of the flow's magnitude, px: that of (3, H, W), u, v and strain."""
    return float(np.quantile(np.hypot(flow[0], flow[1]), 0.95))


def entropy(probability: np.ndarray) -> np.ndarray:
    """(N,) nats, of (N, C)."""
    p = np.maximum(probability, LEAST)
    return -(p * np.log(p)).sum(1)


def unusual(measured: dict[str, float | None], seen: dict[str, Range | None]) -> list[str]:
    """In words, which measures lie outside the 5 to 95 % of what the training saw."""
    said = []
    for name, (what, unit) in MEASURES.items():
        value, span = measured.get(name), seen.get(name)
        if value is None or span is None or span.low <= value <= span.high:
            continue
        if name == "entropy" and value < span.low:  # more certain than usual is no warning
            continue
        side = "below" if value < span.low else "above"
        said.append(f"{what} {value:.3g} {unit}, {side} the {span.low:.3g} to {span.high:.3g} of the training")
    return said


def looked_at(caches: dict[str, ClipCache], ids: list[str]) -> dict[str, list[float]]:
    """face_px and motion_px of clips of a corpus, from its own products; empty lists without them."""
    points, flows = caches.get("landmarks"), caches.get("flow")
    return {
        "face_px": [float(np.ptp(points[i][:, 1])) for i in ids] if points is not None else [],
        "motion_px": [motion(flows[i]) for i in ids] if flows is not None else [],
    }
