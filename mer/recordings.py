"""Recordings without labels: which frames they have, and how stage frames divides them.

A *segment* is at most SEGMENT consecutive frames of one recording (SHORTEST - 1 more where the rest would be shorter).
Recordings are cut, so that one of minutes never lies in memory whole, and between frames that lack, so that two frames
`gap` apart in a segment are `gap` apart in time. Labels, onsets and offsets play no part.
"""

import math
import os
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mer.clips import check_subjects, clips
from mer.errors import FileError, MerError
from mer.storage.files import unreadable

if TYPE_CHECKING:
    import pandas as pd

SEGMENT = 256  # frames
SHORTEST = 32  # frames; a rest with fewer belongs to the segment before it
POOL = "pool"  # what stands for the corpus in ids of a synthetic pool


@dataclass(frozen=True)
class Segment:
    """Consecutive frames `first` .. `first + count - 1` of one recording; id `<corpus>/<subject>/<recording>/<first>`.

    `frame` is the path of a frame with `{}` (or `{:05d}`) for its number. `start` is the number of the recording's
    first frame, whose size the others must have. `fps` is NaN where the frame rate is unknown.
    """

    id: str
    corpus: str
    subject: str
    frame: str
    first: int
    count: int
    start: int
    fps: float

    @property
    def paths(self) -> list[Path]:
        # Made when they are asked for: those of 8 million frames would fill gigabytes.
        return [Path(self.frame.format(number)) for number in range(self.first, self.first + self.count)]

    @property
    def start_path(self) -> Path:
        return Path(self.frame.format(self.start))


def of_corpus(table: "pd.DataFrame") -> list[Segment]:
    """The segments of every recording that a clip of the index (mer.clips.read_index) lies in, each recording once.

    Read are all frames that the recording's folder has on disk, also before the onset and after the offset.

    Raises:
        MerError: one recording under two subjects or frame rates; frames that are numbered by their folders; a folder
            without frames; a subject whose name cannot be a file's.
        FileError: the system does not hand a folder out.
    """
    found: dict[str, tuple[str, str, float]] = {}
    for clip in clips(table):
        rate = clip.fps or math.nan  # 0 stands for none
        corpus, subject, fps = found.setdefault(clip.frame, (clip.corpus, clip.subject, rate))
        if (corpus, subject) != (clip.corpus, clip.subject):
            raise MerError(
                f"{clip.frame}: is a recording of two subjects, {corpus}/{subject} and {clip.corpus}/{clip.subject}; "
                "correct the subject in the label sheet"
            )
        if repr(rate) != repr(fps):  # NaN is not equal to itself
            raise MerError(f"{clip.frame}: is a recording at {fps:g} and {rate:g} frames a second; correct fps")
    places = {frame: _split(frame) for frame in found}
    # With the last folder, so that also the name of a single recording says something.
    common = os.path.commonpath([os.path.abspath(folder.parent) for folder, _, _ in places.values()])
    segments = []
    for frame, (corpus, subject, fps) in sorted(found.items()):
        folder, prefix, _ = places[frame]
        recording = (Path(os.path.relpath(os.path.abspath(folder), common)) / prefix).as_posix()
        segments += _segments(frame, corpus, subject, recording, fps)
    return segments


def of_pool(folder: str | Path, fps: float = math.nan) -> list[Segment]:
    """The segments of a synthetic pool (mer.synthetic.pool): `<folder>/<subject>/<clip>/img<number>.jpg`.

    Raises FileError where the folder is missing or has no clip.
    """
    folder = Path(folder)
    segments = []
    for subject in _folders(folder):
        for clip in _folders(subject):
            literal = clip.as_posix().replace("{", "{{").replace("}", "}}")
            segments += _segments(f"{literal}/img{{}}.jpg", POOL, subject.name, clip.name, fps)
    if not segments:
        raise FileError(f"{folder}: has no clip of a synthetic pool; run dvc repro")
    return segments


def by_subject(segments: Iterable[Segment]) -> dict[str, list[Segment]]:
    """Subject -> its segments, of one corpus. Raises MerError for names that cannot be those of files."""
    found: dict[str, list[Segment]] = {}
    for segment in segments:
        found.setdefault(segment.subject, []).append(segment)
    for subject, (one, *_) in found.items():
        # It also becomes the name of a spool, which `..` would put elsewhere.
        if not subject or subject.startswith(".") or "/" in subject:
            raise MerError(f"{one.id}: subject {subject!r} cannot be the name of a file; rename it in the label sheet")
    check_subjects(((POOL, subject) for subject in found), "stage frames")
    return found


def cut(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Frame numbers, ascending, as segments (first, count)."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    found = []
    for first, count in runs:
        while count >= SEGMENT + SHORTEST:
            found.append((first, SEGMENT))
            first, count = first + SEGMENT, count - SEGMENT
        # Up to SEGMENT + SHORTEST - 1 frames, so that no rest is shorter than SHORTEST.
        found.append((first, count))
    return found


def _segments(frame: str, corpus: str, subject: str, recording: str, fps: float) -> list[Segment]:
    numbers = _numbers(frame)
    name = f"{corpus}/{subject}/{recording}"
    return [
        Segment(f"{name}/{first}", corpus, subject, frame, first, count, numbers[0], fps)
        for first, count in cut(numbers)
    ]


def _numbers(frame: str) -> list[int]:
    """The numbers of a recording's frames on disk, ascending."""
    folder, prefix, suffix = _split(frame)
    form = re.compile(f"{re.escape(prefix)}([0-9]+){re.escape(suffix)}")
    try:
        names = {name: int(match[1]) for name in os.listdir(folder) if (match := form.fullmatch(name))}
    except FileNotFoundError:
        names = {}
    except OSError as error:
        raise unreadable(folder, error) from None
    # Another padding than the index has is another file.
    numbers = sorted(number for name, number in names.items() if os.path.basename(frame.format(number)) == name)
    if not numbers:
        raise MerError(f"{folder}: has no frame named {prefix}<number>{suffix}; unpack the recording again")
    return numbers


def _split(frame: str) -> tuple[Path, str, str]:
    """Folder of a recording, and what stands before and behind the number in the names of its frames."""
    parts = [""]
    for literal, field, *_ in string.Formatter().parse(frame):  # a doubled brace ends a literal, too
        parts[-1] += literal
        if field is not None:
            parts.append("")
    head, tail = parts[0], "".join(parts[1:])
    if "/" in tail:
        raise MerError(f"{frame}: numbers folders, not files; frames of a recording must lie in one folder")
    folder, _, prefix = head.rpartition("/")
    return Path(folder), prefix, tail


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except FileNotFoundError:
        raise FileError(f"{folder}: there is no such folder; run dvc repro") from None
    except OSError as error:
        raise unreadable(folder, error) from None
