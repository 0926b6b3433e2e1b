"""The Clip record and the index table that every stage shares.

Frame numbers are the label sheet's own; `frames` counts from onset to offset, both included.
A clip's id is `<corpus>/<subject>/<clip>` (a macro set's image `<set>/<image>`), so clips and subjects of different
corpora never collide.
"""

import bisect
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mer.errors import MerError, listed
from mer.storage.cache import replace_file

if TYPE_CHECKING:  # a worker reads frames, not tables, and starts a third sooner without pandas
    import pandas as pd

COLUMNS = (
    *("id", "corpus", "subject", "clip", "emotion", "aus"),
    *("onset", "apex", "offset", "apex_source", "fps", "frame", "absent", "digest"),
)


@dataclass(frozen=True)
class Clip:
    """One row of the index.

    `frame` is the path of a frame with `{}` (or `{:05d}`) for its number. `absent` are the numbers between onset and
    offset that the corpus does not have, separated by spaces (four clips of SMIC-HS have such gaps). `digest` is that
    of the bytes of the frames: through it a replaced frame changes the index, and with it all that was computed from
    the clip.
    """

    id: str
    corpus: str
    subject: str
    clip: str
    emotion: str
    aus: str
    onset: int
    apex: int
    offset: int
    apex_source: str
    fps: float
    frame: str
    absent: str
    digest: str

    @property
    def numbers(self) -> list[int]:
        """The frame numbers from onset to offset that there are, in order."""
        gaps = {int(n) for n in self.absent.split()}
        return [n for n in range(self.onset, self.offset + 1) if n not in gaps]

    @property
    def n_frames(self) -> int:
        return len(self.numbers)

    def position(self, number: int) -> int:
        """Where frame `number` stands in the clip, 0 = onset; for an absent one, the last that there is before it."""
        return max(0, bisect.bisect_right(self.numbers, number) - 1)

    def numbers_around(self, seconds: float) -> list[int]:
        """`numbers`, with those of the recording up to `seconds` before and after, as far as there are files."""
        reach = round(seconds * self.fps)
        before = itertools.takewhile(self._exists, range(self.onset - 1, self.onset - reach - 1, -1))
        after = itertools.takewhile(self._exists, range(self.offset + 1, self.offset + reach + 1))
        return [*reversed(list(before)), *self.numbers, *after]

    def _exists(self, number: int) -> bool:
        return self.path(number).is_file()

    def path(self, number: int) -> Path:
        return Path(self.frame.format(number))

    def paths(self) -> list[Path]:
        """The frames onset..offset, in order."""
        return [self.path(n) for n in self.numbers]


def check_counts(found: dict[str, int], wanted: dict[str, int | None], where: str, parameter: str) -> None:
    """Raise MerError unless what was found has the counts that are wanted; None: whatever it is."""
    for what, count in wanted.items():
        if count is not None and found[what] != count:
            raise MerError(
                f"{where}: has {found[what]} {what}, {parameter}.{what} says {count}; complete the corpus, or correct "
                "the number"
            )


def write_index(path: Path, table: "pd.DataFrame") -> None:
    """Write the index in the order of `id`, replacing `path` in one step. Raises MerError on a repeated id."""
    repeated = table["id"][table["id"].duplicated()]
    if len(repeated):
        raise MerError(f"{path}: clip ids occur twice: {listed(repeated)}; a label sheet must name every clip once")
    text = table.sort_values("id")[list(COLUMNS)].to_csv(index=False, lineterminator="\n")
    replace_file(path, text.encode())


def read_index(path: Path) -> "pd.DataFrame":
    """The index table, ids and subjects as text."""
    import pandas as pd

    try:
        text = dict.fromkeys(
            ("id", "corpus", "subject", "clip", "emotion", "aus", "apex_source", "frame", "absent", "digest"), str
        )
        table = pd.read_csv(path, dtype=text, keep_default_na=False)
    except FileNotFoundError:
        raise MerError(f"{path}: there is no such index; run dvc repro, or correct the path in params.yaml") from None
    except ValueError as error:  # pandas' parser and decoding errors are ValueErrors
        raise MerError(f"{path}: cannot be read as an index ({error}); delete it and run dvc repro") from None
    missing = [c for c in COLUMNS if c not in table]
    if missing:
        raise MerError(f"{path}: columns {listed(missing)} are missing; run dvc repro to make the index again")
    return table


def write_excluded(path: str | Path, excluded: list[tuple[str, str]]) -> None:
    """List the clips that an index leaves out: id and reason, a row each."""
    import pandas as pd

    table = pd.DataFrame(sorted(excluded), columns=["id", "reason"])
    replace_file(path, table.to_csv(index=False, lineterminator="\n").encode())


def read_excluded(path: str | Path) -> dict[str, str]:
    """Clip id -> reason."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return dict(zip(table["id"], table["reason"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise MerError(f"{path}: cannot be read as a list of exclusions ({error}); run dvc repro") from None


def clips(table: "pd.DataFrame") -> list[Clip]:
    """The rows of an index as records."""
    return [
        Clip(**{**row, "onset": int(row["onset"]), "apex": int(row["apex"]), "offset": int(row["offset"])})
        for row in table[list(COLUMNS)].to_dict("records")
    ]


def read_frame(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB; grey images are repeated over the channels."""
    import cv2

    raw = np.frombuffer(_read_bytes(path), dtype=np.uint8)
    image = cv2.imdecode(raw, cv2.IMREAD_COLOR_RGB) if raw.size else None
    if image is None:
        raise MerError(f"{path}: cannot be read as an image ({raw.size} bytes); replace the file")
    return image


def read_frames(clip: Clip) -> Iterator[np.ndarray]:
    """The frames onset..offset one by one, (H, W, 3) uint8 RGB. Raises MerError when their sizes differ."""
    return read_paths(clip.paths())


def read_paths(paths: Iterable[Path]) -> Iterator[np.ndarray]:
    """The frames of one clip, as `read_frames`."""
    first = None
    for path in paths:
        frame = read_frame(path)
        first = frame.shape if first is None else first
        if frame.shape != first:
            raise MerError(
                f"{path}: is {frame.shape[1]}x{frame.shape[0]}, the clip's first frame {first[1]}x{first[0]}; "
                "all frames of a clip must have one size"
            )
        yield frame


def read_clip(clip: Clip) -> np.ndarray:
    """All frames onset..offset as (T, H, W, 3) uint8 RGB."""
    return np.stack(list(read_frames(clip)))


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the bytes of the files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        data = _read_bytes(path)
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise MerError(f"{path}: frame is missing; unpack the corpus again or correct the label sheet") from None
    except OSError as error:
        raise MerError(f"{path}: cannot be read ({error.strerror}); unpack the corpus again") from None
