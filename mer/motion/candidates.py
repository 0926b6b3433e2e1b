"""Where in a recording something quick comes and goes: candidates for micro-expressions, not micro-expressions.

A micro-expression moves the face and moves it back, within half a second. At each frame the flow from `reach` before it
and the flow to `reach` after it are compared: where something comes and goes they are opposite, where the face moves
on, as in a slow expression, they are equal, and where the head moves as a whole both are removed. A blink comes and
goes too, so the eyes do not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mer.errors import MerError
from mer.motion.head import without_head_motion
from mer.motion.spotting import flows_between

SHORTEST, LONGEST = 1 / 25, 0.5  # s, of a micro-expression
REACH = 1 / 6  # s: from onset to apex of most; a slow expression has hardly begun to turn back by then
FEWEST = 3  # frames in REACH
LOUD = 6.0  # times the noise, which is the spread of the strength over the recording
KEPT = 0.75  # s: the longest clip of SMIC-HS lasts 0.71 s; what lasts longer is a slow expression
SETTLED = 0.9  # share of the way back at which a movement has ended


@dataclass(frozen=True)
class Candidate:
    """Positions of frames, 0 = the first of the recording. strength: px; loud: times the noise above the usual."""

    onset: int
    apex: int
    offset: int
    strength: float
    loud: float


def reach_of(rate: float) -> int:
    """REACH in frames. Raises MerError for fewer frames a second than can show a micro-expression."""
    reach = round(REACH * rate)
    if reach < FEWEST:
        raise MerError(
            f"{rate:g} frames a second are too few to look for micro-expressions; needed are {FEWEST / REACH:g} or more"
        )
    return reach


def comes_and_goes(grey: np.ndarray, rate: float, seen: np.ndarray | None = None) -> np.ndarray:
    """How much of the face's motion at each frame is taken back.

    Args:
        grey: (T, H, W) uint8, the crop of one face, fixed over the frames.
        rate: frames a second.
        seen: (H, W) bool, the pixels that count; None: all.

    Returns:
        (T,) float64 px: the root of the mean of -before . after where that is positive, else 0; before and after are
        the flows over REACH without the head's motion. NaN for the frames within REACH of an end.

    Raises:
        MerError: as `reach_of`; another shape; no pixel counts.
    """
    if grey.ndim != 3 or (seen is not None and (seen.shape != grey.shape[1:] or not seen.any())):
        raise MerError(
            f"comes_and_goes: clip is {grey.shape}, seen {getattr(seen, 'shape', None)}; needed is (T, H, W)"
        )
    reach, found = reach_of(rate), np.full(len(grey), np.nan)
    flows: list[np.ndarray] = []  # of the last `reach` frames
    for t, flow in enumerate(flows_between(grey[:-reach], grey[reach:])):
        after = without_head_motion(flow, seen)
        flows.append(after)
        if len(flows) > reach:
            back = -(flows.pop(0) * after).sum(0)
            found[t] = np.sqrt(max(0.0, float((back if seen is None else back[seen]).mean())))
    return found


def peaks(strength: np.ndarray, rate: float, loud: float = LOUD) -> list[tuple[int, float]]:
    """(position, times the noise above the median) where the strength peaks, at most one in LONGEST.

    Args:
        strength: (T,) px of the whole recording; NaN where nothing is known.
        loud: the least that counts.
    """
    from scipy.signal import find_peaks

    known = strength[np.isfinite(strength) & (strength > 0)]
    if not len(known):
        return []
    usual = float(np.median(known))
    noise = 1.4826 * float(np.median(np.abs(known - usual)))  # of a normal distribution
    if noise == 0:
        return []
    found, _ = find_peaks(np.nan_to_num(strength), height=usual + loud * noise, distance=max(1, round(LONGEST * rate)))
    return [(int(at), float((strength[at] - usual) / noise)) for at in found]


def candidates(grey: np.ndarray, rate: float, at: Sequence[tuple[int, float]], strength: np.ndarray,
               seen: np.ndarray | None = None) -> list[Candidate]:  # fmt: skip
    """Those peaks whose movement lasts between SHORTEST and KEPT.

    Args:
        grey, rate, seen: as for `comes_and_goes`; at: of `peaks`, as positions in `grey`; strength: (T,).
    """
    found = []
    for apex, loud in at:
        onset, offset = interval(grey, apex, rate, seen)
        if SHORTEST <= (offset - onset) / rate <= KEPT:
            found.append(Candidate(onset, apex, offset, float(strength[apex]), loud))
    return found


def interval(grey: np.ndarray, apex: int, rate: float, seen: np.ndarray | None = None) -> tuple[int, int]:
    """Onset and offset of a movement: the nearest frames before and after its apex that are as far from it as any.

    Args:
        grey, seen: as for `comes_and_goes`; apex: a position in it.

    Returns:
        Positions, each within LONGEST of the apex.
    """
    span = round(LONGEST * rate)

    def end(way: Sequence[int]) -> int:
        apart = []
        for flow in flows_between(np.broadcast_to(grey[apex], (len(way), *grey.shape[1:])), grey[list(way)]):
            motion = np.hypot(*without_head_motion(flow, seen))
            apart.append(float((motion if seen is None else motion[seen]).mean()))
        return next((t for t, d in zip(way, apart, strict=True) if d >= SETTLED * max(apart)), apex)

    return end(range(apex - 1, max(-1, apex - span - 1), -1)), end(range(apex + 1, min(len(grey), apex + span + 1)))
