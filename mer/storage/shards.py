"""Shards of frames without labels, read one by one in any order: what pretraining streams.

A *shard* is a product with the segments (mer.recordings) of one subject, (T, size, size, 3) uint8 RGB each, and their
frame rates; its file is `<subject>.h5` in a folder of stage frames. Frames are raw: JPEG of quality 95 is wrong by 1.22
grey levels in the mean, and frames 8 apart differ by 1.30 (docs/log.md).
"""

import hashlib
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer.errors import FileError, MerError, listed, suggestion
from mer.storage.cache import ClipCache
from mer.storage.files import damaged, unreadable
from mer.storage.spool import checksum

KIND = "recording_frames"


class _Shard(ClipCache):
    """A product whose file stays open: a disk on a network takes longer to open a file than to read a frame."""

    def __init__(self, path: Path):
        super().__init__(path, KIND)
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise unreadable(path, error) from None
        weakref.finalize(self, os.close, self._file)
        self.lengths, self.starts, self.sums = np.diff(self._offsets), self._offsets[:-1], self._sums
        self.rates = np.array([self.extra("fps", segment) for segment in self.ids], float)

    def read(self, segment: int, t: int) -> np.ndarray:
        """Frame `t` of a segment, compared with its sum. Any number of threads may read."""
        frame = np.empty(self.shape[1:], self.dtype)
        row = int(self.starts[segment]) + t
        left, place = frame.reshape(-1).view(np.uint8).data, self._start + row * frame.nbytes
        try:
            while left:
                done = os.preadv(self._file, [left], place)  # has no position that threads would share
                if not done:
                    raise damaged(self.path, "it has become shorter while it was read")
                left, place = left[done:], place + done
        except OSError as error:
            raise unreadable(self.path, error) from None
        if checksum(frame) != self.sums[row]:
            raise damaged(self.path, f"frame {t} of segment {self.ids[segment]} has other bytes than were written")
        return frame

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("shards hold open files: make them anew in the other process")


class Shards:
    """The frames of folders of shards, read one by one in any order, by any number of threads.

    Args:
        folders: one, or several that are joined.
        exclude: `<corpus>/<subject>` that are left out, such as those a model is tested on.

    Attributes:
        size: edge of the frames in px.
        lengths: (segments,) int64, frames.
        fps: (segments,) float64, NaN where unknown.
        subjects: `<corpus>/<subject>` that are in use, sorted.
        digest: of the content that is in use.

    Raises:
        FileError: no shard in a folder, one that cannot be read or is damaged, frames of several sizes, a subject in
            two folders.
        MerError: `exclude` names subjects that there are not, or all that there are.
    """

    def __init__(self, folders: str | Path | Sequence[str | Path], exclude: Sequence[str] = ()):
        folders = [folders] if isinstance(folders, str | Path) else list(folders)
        left_out = frozenset(exclude)
        shards = [_Shard(path) for folder in folders for path in _files(Path(folder))]
        self.size = _common_size(shards)
        places = [
            (k, i, "/".join(name.split("/")[:2])) for k, one in enumerate(shards) for i, name in enumerate(one.ids)
        ]
        _check_once(places, shards)
        known = {subject for *_, subject in places}
        unknown = sorted(left_out - known)
        if unknown:
            raise MerError(
                f"exclude_subjects: {listed(folders)} has no subject {unknown[0]!r}; {suggestion(unknown[0], known)}"
            )
        self.subjects = sorted(known - left_out)
        if not self.subjects:
            raise MerError(
                f"exclude_subjects: {listed(folders)} has no frames outside the excluded subjects ({len(known)} of "
                f"{len(known)}); name fewer, or add a corpus of other people"
            )
        used = [(k, i) for k, i, subject in places if subject not in left_out]
        self._shards = shards
        self._shard, self._place = np.array(used, np.int64).reshape(-1, 2).T
        self.lengths = np.array([shards[k].lengths[i] for k, i in used], np.int64)
        self.fps = np.array([shards[k].rates[i] for k, i in used], np.float64)
        self.digest = self._digest()

    def read(self, segment: int, t: int) -> np.ndarray:
        """One frame, (size, size, 3) uint8 RGB. Raises FileError where it has other bytes than were written."""
        if not (0 <= segment < len(self.lengths) and 0 <= t < self.lengths[segment]):
            raise IndexError(f"frame {t} of segment {segment} was asked for, of {len(self.lengths)} segments")
        return self._shards[self._shard[segment]].read(int(self._place[segment]), int(t))

    def _digest(self) -> str:
        found = hashlib.sha256(f"{self.size}".encode())
        for k, i, fps in zip(self._shard.tolist(), self._place.tolist(), self.fps.tolist(), strict=True):
            shard = self._shards[k]
            first, count = int(shard.starts[i]), int(shard.lengths[i])
            found.update(f"{shard.ids[i]} {count} {fps} ".encode())
            found.update(shard.sums[first : first + count].astype("<u4").tobytes())
        return found.hexdigest()


def _files(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.h5"))
    if not paths:
        raise FileError(f"{folder}: has no shard of frames; run dvc repro")
    return paths


def _common_size(shards: list[_Shard]) -> int:
    """The edge of the frames of all shards, in px."""
    if not shards:
        raise FileError("no folder with shards of frames was named; run dvc repro")
    first = tuple(shards[0].shape[1:])
    for shard in shards:
        if not shard.ragged or shard.dtype != np.uint8 or shard.shape[1:] != (first[0], first[0], 3):
            raise FileError(
                f"{shard.path}: holds frames {shard.shape[1:]} {shard.dtype}, needed are squares with three colours, "
                f"uint8, of one size ({shards[0].path} has {first}); run dvc repro"
            )
    return int(first[0])


def _check_once(places: list[tuple[int, int, str]], shards: list[_Shard]) -> None:
    """Raise FileError for a subject in two shards: its frames would count twice."""
    shard_of: dict[str, int] = {}
    for k, _, subject in places:
        other = shard_of.setdefault(subject, k)
        if other != k:
            raise FileError(f"{shards[k].path}: has frames of {subject}, as {shards[other].path} has; remove one")
