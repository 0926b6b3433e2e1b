"""Candidates for micro-expressions in whole recordings, as csv.

A recording is read in windows that overlap, each with its own crop, so a head may wander through the picture. Its
length costs 3 MB of disk a second until it is done, for the grey levels of the crops, and hardly any memory.
"""

import csv
import io
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mer.errors import MerError
from mer.faces.alignment import apply
from mer.motion import candidates as motion
from mer.motion.candidates import Candidate
from mer.products import frames, landmarks
from mer.recognise.chain import Chain
from mer.recognise.sources import Recording, Source

CROP = frames("box224")
WINDOW = 4.0  # s
MOST_RATE = 60.0  # frames a second that are looked at: of a faster recording every second, third, ... frame
EYES = (range(36, 42), range(42, 48))  # of the 68 landmarks
AROUND = (1.5, 2.4)  # times the width and the height of an open eye: what lids move
COLUMNS = ("recording", "kind", "onset_s", "apex_s", "offset_s", "strength_px", "loudness")


@dataclass(frozen=True)
class Spotted:
    """candidates: (onset, apex, offset) in s, and what was found; gaps: (from, to) in s, and why nothing is known."""

    name: str
    candidates: list[tuple[float, float, float, Candidate]]
    gaps: list[tuple[float, float, str]]


@dataclass(frozen=True)
class _Window:
    first: int  # of the looked-at frames of the recording
    grey: np.ndarray
    seen: np.ndarray
    strength: np.ndarray


def spot(recording: Recording, chain: Chain, *, progress: Callable[[float], None] | None = None) -> Spotted:
    """The candidates of a recording.

    Args:
        chain: its parameters say how faces are found and cropped.
        progress: is told the seconds that are done.

    Raises:
        MerError: it cannot be decoded, comes at uneven times, or has too few frames a second; no window has a face.
    """
    every = math.ceil(recording.rate / MOST_RATE)
    rate = recording.rate / every
    reach = motion.reach_of(rate)
    span = max(2 * motion.LONGEST, 2 * reach / rate)
    windows: list[_Window] = []
    gaps: list[tuple[float, float, str]] = []
    with tempfile.TemporaryDirectory(prefix="mer-spot-") as folder:
        for number, (first, source) in enumerate(recording.windows(Path(folder), WINDOW, span, every)):
            last = first + len(source.frames) - 1
            try:
                windows.append(_look(first, source, chain, rate, Path(folder) / f"products{number}"))
            except MerError as error:
                gaps.append((first / rate, last / rate, str(error).removeprefix(f"{source.name}: ")))
            if progress is not None:
                progress(last / rate)
        if not windows:
            raise MerError(f"{recording.name}: {gaps[0][2]}")
        found = _gathered(windows, rate)
    begin = recording.first / recording.rate
    return Spotted(
        recording.name,
        [(begin + one.onset / rate, begin + one.apex / rate, begin + one.offset / rate, one) for one in found],
        [(begin + a, begin + b, why) for a, b, why in gaps],
    )


def _look(first: int, source: Source, chain: Chain, rate: float, scratch: Path) -> _Window:
    scratch.mkdir()
    try:
        clip, (points, crop) = chain.products(source, [landmarks(), CROP], scratch)
        grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in crop[clip.id]])
        seen = beside_eyes(apply(crop.extra("transform", clip.id), points[clip.id]), grey.shape[1:])
    finally:
        shutil.rmtree(scratch)
    kept = scratch.with_suffix(".npy")
    np.save(kept, grey)  # on disk, since intervals are looked for once the noise of the whole is known
    return _Window(first, np.load(kept, mmap_mode="r"), seen, motion.comes_and_goes(grey, rate, seen))


def beside_eyes(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels that no eyelid moves. points: (68, 2) px of the same picture."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    seen = np.ones(shape, bool)
    for eye in EYES:
        corners = points[list(eye)]
        (cx, cy), (width, height) = (corners.max(0) + corners.min(0)) / 2, np.ptp(corners, axis=0)
        # Half open eyes are flat, so the height is that of an open one, a third of its width, at least.
        rx, ry = AROUND[0] * width / 2, AROUND[1] * max(height, width / 3) / 2
        seen &= ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 > 1
    return seen


def _gathered(windows: Sequence[_Window], rate: float) -> list[Candidate]:
    """Candidates of all windows: the noise is that of all; a peak belongs to the window that sees most around it."""
    length = max(w.first + len(w.strength) for w in windows)
    strength = np.full(length, np.nan)
    for w in windows:
        part = strength[w.first : w.first + len(w.strength)]
        np.copyto(part, w.strength, where=np.isnan(part))
    found = []
    for at, loud in motion.peaks(strength, rate):
        around = [(min(at - w.first, w.first + len(w.strength) - 1 - at), w.first, w) for w in windows]
        w = max(around)[-1]
        local = motion.candidates(w.grey, rate, [(at - w.first, loud)], w.strength, w.seen)
        found += [Candidate(w.first + one.onset, at, w.first + one.offset, one.strength, one.loud) for one in local]
    return found


def as_csv(spotted: Sequence[Spotted]) -> str:
    """Every line is a candidate, a movement that comes and goes within half a second, whatever it may be."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in spotted:
        for onset, apex, offset, candidate in one.candidates:
            writer.writerow([one.name, "candidate", *(f"{t:.3f}" for t in (onset, apex, offset)),
                             f"{candidate.strength:.4f}", f"{candidate.loud:.1f}"])  # fmt: skip
    return out.getvalue()
