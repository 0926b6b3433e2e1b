"""The Clip record and the index table that every stage shares.

Frame numbers are the label sheet's own; `frames` counts from onset to offset, both included.
A clip's id is `<corpus>/<subject>/<clip>` (a macro set's image `<set>/<image>`), so clips and subjects of different
corpora never collide.
"""

import bisect
import contextlib
import hashlib
import itertools
import numbers
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mer.errors import MerError, listed
from mer.storage.files import damaged, unreadable
from mer.storage.tables import read_table, write_table

if TYPE_CHECKING:  # a worker reads frames, not tables, and starts a third sooner without pandas
    import pandas as pd

COLUMNS = (
    *("id", "corpus", "subject", "clip", "emotion", "aus"),
    *("onset", "apex", "offset", "apex_source", "fps", "frame", "absent", "edition", "digest"),
)
FRAME_NUMBERS = ("onset", "apex", "offset")
NAMES = ("id", "corpus", "subject", "clip")
LONGEST = 1_000_000  # frames of a clip: 83 minutes at 200 fps
FASTEST = 1e6  # frames a second; the fastest cameras for faces have 1e4
THEIRS = "what the reader returns (docs/corpora.md)"  # for remedies
MAX_PIXELS = 2**26  # of a frame, twice those of 8K film; SAMM's, the largest of a corpus, have 2**21
MAX_BYTES = 4 * MAX_PIXELS + 2**20  # of a frame's file: four bytes a pixel, and the rest
MAX_SCANS = 200  # of a progressive JPEG, which usually has ten
LOST_BLOCK = bytes(4096)  # the smallest part of a file that a file system loses
TRUTH = "truth.h5"  # beside the frames of a rendered corpus
SECTOR = 512  # bytes: what disks and copies lose begins and ends at multiples of it


@dataclass(frozen=True)
class Clip:
    """One row of the index.

    `frame` is the path of a frame with `{}` (or `{:05d}`) for its number. `absent` are the numbers between onset and
    offset that the corpus does not have, separated by spaces (four clips of SMIC-HS have such gaps). `edition` is the
    owners' release of the label sheet that the row was read from. `digest` is that of the bytes of the frames: through
    it a replaced frame changes the index, and with it all that was computed from the clip.
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
    edition: str = ""

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


def composed(name: str) -> str:
    """A name in Unicode's composed form. Sheets and disks write `ü` as one character, or as `u` and two dots."""
    return unicodedata.normalize("NFC", name)


def hidden(name: str) -> str:
    """The first character of a name that is not seen or that steers a terminal, as an escape; "" where there is none.

    Two subjects whose names differ in such a character alone look like one.
    """
    return next((ascii(c)[1:-1] for c in name if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")), "")


def same_name(name: str) -> str:
    """What is equal for names that differ in letter case or Unicode form only: on some disks they are one folder."""
    return composed(composed(name).casefold())


def check_subjects(subjects: Iterable[tuple[str, str]], where: str) -> None:
    """Raise MerError where (corpus, subject) differ in letter case or Unicode form only: one person would be two."""
    names: dict[tuple[str, str], tuple[str, str]] = {}
    for corpus, subject in dict.fromkeys(subjects):
        other = names.setdefault((same_name(corpus), same_name(subject)), (corpus, subject))
        if other != (corpus, subject):
            # In ASCII, for their letters may look alike.
            both = " and ".join(ascii("/".join(name)) for name in (other, (corpus, subject)))
            raise MerError(
                f"{where}: subjects {both} differ in letter case or Unicode form only, and would be tested by a model "
                "that was trained on the same person; write them alike in the label sheet"
            )


def check_counts(found: dict[str, int], wanted: dict[str, int | None], where: str, parameter: str) -> None:
    """Raise MerError unless what was found has the counts that are wanted; None: whatever it is."""
    for what, count in wanted.items():
        if count is not None and found[what] != count:
            remedy = "complete the corpus" if found[what] < count else "it may be another edition: bring that one"
            raise MerError(f"{where}: has {found[what]} {what}, {parameter}.{what} says {count}; {remedy}, or correct "
                           "the number")  # fmt: skip


def checked(table: "pd.DataFrame", where: str, columns: Sequence[str] = COLUMNS[:-1]) -> "pd.DataFrame":
    """What a reader returns, as an index holds it: frame numbers int64, fps float64, text elsewhere.

    Args:
        table: one row a clip. Numbers may be Python's or numpy's.
        where: begins messages.
        columns: those that are needed and checked; further ones stay as they are. `digest` is not the reader's.

    Raises:
        MerError: no table, no clip or a missing column. And, naming the clip: a cell of another type; an fps that is
            not above 0 and finite (0 stands for none where the clip is a still); numbers that cannot be those of a
            clip; a path that takes no frame number; an `absent` that names other frames than the clip's, or all.
    """
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise MerError(f"{where}: is a {type(table).__name__}, needed is a pandas.DataFrame; correct {THEIRS}")
    missing = [column for column in columns if column not in table]
    if missing or table.empty:
        what = f"no column {listed(missing)}" if missing else "no clip"
        raise MerError(f"{where}: has {what}; correct {THEIRS}")
    rows: list[dict] = table[list(columns)].to_dict("records")
    for number, row in enumerate(rows):
        named = isinstance(row["id"], str) and row["id"] != ""
        clip = f"clip {row['id']}" if named else f"row {number} (subject {row['subject']!r}, clip {row['clip']!r})"
        for column in columns:
            needed = _needed(column, row)
            if needed:
                raise MerError(
                    f"{where}: {clip}: {column} is {row[column]!r:.60}, needed is {needed}; correct {THEIRS}"
                )
        check_numbers(f"{where}: {clip}", row["onset"], row["apex"], row["offset"])
        inside = range(row["onset"], row["offset"] + 1)
        absent = row["absent"].split()
        if not set(absent) <= set(map(str, inside if absent else ())) or len(set(absent)) == len(inside):
            raise MerError(
                f"{where}: {clip}: absent is {row['absent']!r:.60}, needed are some of the frame numbers "
                f"{row['onset']} to {row['offset']}, separated by spaces; correct {THEIRS}"
            )
    kinds = {**dict.fromkeys(FRAME_NUMBERS, np.int64), "fps": np.float64}
    return table.assign(**{name: np.array([row[name] for row in rows], kind) for name, kind in kinds.items()})


def _needed(column: str, row: dict) -> str:
    """What a cell must be, where it is something else; "" where it is right."""
    value = row[column]
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if column in FRAME_NUMBERS:
        fits = real and isinstance(value, numbers.Integral) and 0 <= int(value) < 2**63
        return "" if fits else "a frame number: a whole number from 0, no text"
    if column == "fps":
        fits = real and (0 < value <= FASTEST or (value == 0 and row["onset"] == row["offset"]))
        return "" if fits else "a number of frames a second, above 0, no text"
    if not isinstance(value, str):
        return 'text, "" for none'
    if column == "id" and not value:
        return "<corpus>/<subject>/<clip>"
    if column in NAMES and hidden(value):
        return f"a name whose characters can be seen, without {hidden(value)}"
    if column == "frame":
        try:
            value.format(row["onset"])
        except (ValueError, LookupError, AttributeError, TypeError):
            return "a path with {} for the frame number, and other braces doubled"
    return ""


def write_index(path: Path, table: "pd.DataFrame") -> None:
    """Write the index in the order of `id`, replacing `path` in one step.

    Raises MerError on what `checked` refuses, and on ids that occur twice, or differ in the case of letters alone (some
    disks have one folder for both), and on what `check_subjects` refuses.
    """
    table = checked(table, str(path), COLUMNS)
    repeated = table["id"][table["id"].map(same_name).duplicated()]
    if len(repeated):
        raise MerError(f"{path}: clip ids occur twice: {listed(repeated)}; a label sheet must name every clip once")
    check_subjects(zip(table["corpus"], table["subject"], strict=True), str(path))
    write_table(path, table.sort_values("id")[list(COLUMNS)])


def check_numbers(where: str, onset: int, apex: int, offset: int) -> None:
    """Raise MerError for a clip that ends before it begins or would fill the memory, and for an apex outside of it."""
    if not 0 <= offset - onset < LONGEST:
        raise MerError(f"{where}: has frames {onset} to {offset}, needed are 1 to {LONGEST} of them; correct the row")
    if not onset <= apex <= offset:
        raise MerError(f"{where}: apex {apex} is none of its frames {onset} to {offset}; correct the row")


def read_index(path: Path) -> "pd.DataFrame":
    """The index table: numbers in onset, apex, offset and fps, text elsewhere, also where a subject is named 007 or NA.

    Raises MerError where it is missing, or another than `write_index` writes.
    """
    import pandas as pd

    if not Path(path).exists():
        raise MerError(f"{path}: there is no such index; run dvc repro")
    table = pd.DataFrame(read_table(path, COLUMNS), columns=list(COLUMNS), dtype=str)
    if table.empty:
        raise damaged(path, "it has no clip")
    for column, kind in (*dict.fromkeys(FRAME_NUMBERS, np.int64).items(), ("fps", np.float64)):
        try:
            table[column] = table[column].astype(kind)
        except (ValueError, OverflowError) as error:
            raise damaged(path, f"{column} holds no number ({error})") from None
    for row in table.itertuples():
        check_numbers(f"{path}: clip {row.id}", row.onset, row.apex, row.offset)
    check_subjects(zip(table["corpus"], table["subject"], strict=True), str(path))
    return table


def write_excluded(path: str | Path, excluded: list[tuple[str, str]]) -> None:
    """List the clips that an index leaves out: id and reason, a row each."""
    import pandas as pd

    write_table(path, pd.DataFrame(sorted(excluded), columns=["id", "reason"]))


def write_corrected(path: str | Path, corrected: list[tuple[str, str, str, str, str]]) -> None:
    """List what the reader has corrected in the label sheet: clip id, column, old and new value, reason, a row each."""
    import pandas as pd

    rows = [tuple(map(str, row)) for row in sorted(corrected)]
    write_table(path, pd.DataFrame(rows, columns=["id", "column", "old", "new", "reason"]))


def read_excluded(path: str | Path) -> dict[str, str]:
    """Clip id -> reason. Raises MerError where the list is missing, or another than `write_excluded` has written."""
    return {row[0]: row[1] for row in read_table(path, ("id", "reason"))}


def clips(table: "pd.DataFrame") -> list[Clip]:
    """The rows of an index as records."""
    return [
        Clip(**{**row, "onset": int(row["onset"]), "apex": int(row["apex"]), "offset": int(row["offset"])})
        for row in table[list(COLUMNS)].to_dict("records")
    ]


def read_frame(path: str | Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB; grey images are repeated over the channels.

    Read are JPEG, PNG and BMP with at most 8 bits a channel and MAX_PIXELS pixels.

    Raises:
        FileError: the system does not hand it out.
        MerError: no such file, or a pipe or folder; another kind of image, too large, more than 8 bits a channel, or
            damaged. Decoders fill in what a file has lost and say nothing, so the file is checked first: a JPEG by
            libjpeg's own warnings, a BMP for zeros that cut its rows; a PNG has checksums. docs/corpora.md says what
            damage stays unseen.
    """
    import cv2

    data = _read_bytes(path)
    size = _check_image(path, data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if size else None
    except cv2.error:
        image = None
    if image is None:
        raise _unsound(path, f"cannot be read as an image ({len(data)} bytes)")
    return image


def _unsound(path: str | Path, what: str, remedy: str = "replace the file") -> MerError:
    """For a frame that cannot be what was written. A rendered one is an output, damaged in DVC's cache as well."""
    if any((folder / TRUTH).is_file() for folder in Path(path).parents):
        return damaged(path, f"it {what}")
    return MerError(f"{path}: {what}; {remedy}")


# Other kinds that OpenCV reads; a damaged file of these is read as far as it goes.
_OTHER_KINDS = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"GIF8": "GIF", b"RIFF": "WebP", b"\0\0\0\x0c": "JPEG 2000"}


def _check_image(path: str | Path, data: bytes) -> tuple[int, int] | None:
    """(width, height) by the file's header; None where it has none. Raises MerError as `read_frame`."""
    number = int.from_bytes
    bits, size = 8, None
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) >= 33:
        bits, size = data[24], (number(data[16:20], "big"), number(data[20:24], "big"))
    elif data.startswith(b"\xff\xd8"):
        bits, size = _jpeg_header(data)
    elif data.startswith(b"BM") and len(data) >= 34:
        size = number(data[18:22], "little"), abs(number(data[22:26], "little", signed=True))
    elif data[:4] in _OTHER_KINDS:
        raise MerError(f"{path}: is a {_OTHER_KINDS[data[:4]]} file; frames are read as JPEG, PNG or BMP: convert it")
    if size is None:
        return None
    _check_pixels(path, *size)
    if data.startswith(b"\x89PNG") and not _has_its_chunks(data):
        return None
    if bits > 8:
        _check_depth(path, data, bits)
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(path, data)
    elif data.startswith(b"BM"):
        _check_bmp(path, data, *size)
    return size


def _check_pixels(path: str | Path, width: int, height: int) -> None:
    """Raise MerError for more pixels than a frame has, before they take their memory."""
    if width * height > MAX_PIXELS:
        raise MerError(f"{path}: is {width}x{height}, a frame has at most {MAX_PIXELS} pixels; scale the corpus down")


def _has_its_chunks(data: bytes) -> bool:
    """Whether no chunk of a PNG is longer than the file: OpenCV takes the memory that it says before it reads it."""
    place = 8
    while place + 8 <= len(data):
        kind, length = data[place + 4 : place + 8], int.from_bytes(data[place : place + 4], "big")
        place += 12 + length  # besides, four bytes each: its length, its kind, its checksum
        if kind == b"IEND":
            break
    return place <= len(data)


def _check_bmp(path: str | Path, data: bytes, width: int, height: int) -> None:
    """Raise MerError where zeros stand that are no black area, but what a failed disk or copy has left."""
    start, bits, packing = (int.from_bytes(data[a:b], "little") for a, b in ((10, 14), (28, 30), (30, 34)))
    used, stride = (width * bits + 7) // 8, (width * bits + 31) // 32 * 4  # bytes of a row, without and with padding
    by_run_lengths = packing in (1, 2)  # there a black area is no row of zeros
    if not by_run_lengths and not 0 < height * stride <= len(data) - start:
        return  # the decoder refuses it
    count = 0 if by_run_lengths else height * stride
    rows = np.frombuffer(data, np.uint8)[start : start + count].reshape(-1, stride or 1)[:, :used]
    begin = data.find(LOST_BLOCK, start)
    while begin >= 0:
        end = _end_of_zeros(data, begin)
        if by_run_lengths or _cuts_a_row(rows, stride, start, begin, end):
            raise MerError(
                f"{path}: is a damaged BMP ({len(LOST_BLOCK)} or more zero bytes cut the picture, from byte {begin} to "
                f"{end - 1}, as of a copy that was not finished); replace the file, or, where the picture is that "
                "black, save it as PNG"
            )
        begin = data.find(LOST_BLOCK, end)


def _end_of_zeros(data: bytes, place: int) -> int:
    """Where the zeros that begin at `place` end."""
    while data.startswith(LOST_BLOCK, place):
        place += len(LOST_BLOCK)
    rest = data[place : place + len(LOST_BLOCK)]
    return place + len(rest) - len(rest.lstrip(b"\0"))


def _cuts_a_row(rows: np.ndarray, stride: int, start: int, begin: int, end: int) -> bool:
    """Whether zeros in a BMP, bytes `begin` to `end`, are lost content and no black area.

    rows (H, W) uint8, as they stand in the file: from byte `start`, every `stride` bytes. A black area of as many bytes
    is as wide as the picture. It begins and ends with a row, or where the next shape in the picture has its edge; lost
    content begins and ends anywhere in a row.
    """
    inside = []
    for place, beside in ((begin, -1), (end, 1)):
        number, column = divmod(place - start, stride)
        if not (number < len(rows) and 0 < column < rows.shape[1]):
            continue  # the zeros end with a row or with the picture
        inside.append(place % SECTOR)
        if 0 <= number + beside < len(rows):
            row, other = rows[number, ::-beside], rows[number + beside, ::-beside]  # so that the zeros stand behind
            seen = column if beside < 0 else rows.shape[1] - column
            if _breaks_off(row, other, seen, at_block=place % len(LOST_BLOCK) == 0):
                return True
    # A shape's edges are at multiples of a sector once in 2**18 times.
    return inside == [0, 0]


def _breaks_off(row: np.ndarray, beside: np.ndarray, seen: int, *, at_block: bool) -> bool:
    """Whether `row` is black behind its first `seen` bytes, though by the row beside it the picture goes on there.

    The picture goes on where the mean of the row beside is far above 0 over the black part, and the means of both rows
    are about equal over the rest. At the blurred or interpolated edge of a shape the last row is darker than the one
    beside it. At a sharp edge it is not, but a shape is narrower than the picture, and black on both its sides.

    at_block: whether the zeros end at a block of the file, as a shape does once in 2**12 times. Then the black sides
    count for nothing.
    """
    shown, same, lost = row[:seen], beside[:seen], beside[seen:]
    if min(np.count_nonzero(shown), np.count_nonzero(lost)) < 16:  # noise leaves fewer black by chance
        return False
    mean = same.mean()
    if lost.mean() < 4 * max(abs(shown.mean() - mean), mean / 32):  # rows of a picture differ by 1/32 anyway
        return False
    return at_block or max(map(_longest_black, (shown, lost))) <= len(row) / 16


def _longest_black(row: np.ndarray) -> int:
    """The most zeros in succession."""
    return int(np.diff(np.flatnonzero(row), prepend=-1, append=len(row)).max()) - 1


def _jpeg_header(data: bytes) -> tuple[int, tuple[int, int] | None]:
    """(bits a channel, (width, height)) of a JPEG; (8, None) where its header ends before them."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the frame header, not tables
            height, width = (int.from_bytes(data[place + n : place + n + 2], "big") for n in (5, 7))
            return data[place + 4], (width, height)
        # A marker may be preceded by any number of 0xFF, and some have no length.
        bare = marker == 0x01 or 0xD0 <= marker <= 0xD7
        length = 0 if bare else int.from_bytes(data[place + 2 : place + 4], "big")
        place += 1 if marker == 0xFF else 2 + length
    return 8, None


def _check_jpeg(path: str | Path, data: bytes) -> None:
    """Raise MerError where libjpeg has something to warn of: it warns, fills in grey, and goes on."""
    import simplejpeg

    try:
        if data.count(b"\xff\xda") > MAX_SCANS:
            raise ValueError(f"more than {MAX_SCANS} scans")
        with contextlib.suppress(KeyError):  # of a subsampling that simplejpeg has no name for
            height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
            _check_pixels(path, width, height)  # again: libjpeg may pass over what `_jpeg_header` takes for a segment
        # An eighth of the size: every code is read, few pixels are computed.
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        raise _unsound(path, f"is a damaged JPEG ({error})") from None


def _check_depth(path: str | Path, data: bytes, bits: int) -> None:
    """Raise MerError for an image of more than 8 bits a channel, unless 8 of them say all: v * 257 or v * 256."""
    import cv2

    remedy = "convert all frames of the corpus in one way, by"
    if data.startswith(b"\xff\xd8"):
        raise MerError(f"{path}: has {bits} bits a channel, frames have 8; {remedy} dividing by {2 ** (bits - 8)}")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise _unsound(path, f"cannot be read as an image ({len(data)} bytes)")
    levels: np.ndarray = np.asarray(image, np.uint16)
    if levels.ndim == 3 and levels.shape[2] == 4:
        levels = levels[:, :, :3]  # without the transparency, which uses all bits
    if not (levels & 255).any() or (levels >> 8 == levels & 255).all():
        return
    used = int(np.bitwise_or.reduce(levels, axis=None))
    top = used.bit_length()
    low = (used & -used).bit_length()
    raise MerError(
        f"{path}: has {bits} bits a channel, of which {top - low + 1} are used (bits {low} to {top}, the largest value "
        f"is {int(levels.max())}); frames have 8, the upper 8 of these would keep {2 ** max(0, top - 8)} grey levels; "
        f"{remedy} dividing by {2 ** max(0, top - 8)}, and save them as 8-bit PNG"
    )


def read_frames(clip: Clip) -> Iterator[np.ndarray]:
    """The frames onset..offset one by one, (H, W, 3) uint8 RGB.

    Raises MerError when their sizes differ, and after the last one as `check_frames`.
    """
    yield from read_paths(clip.paths())
    check_frames(clip)


def check_frames(clip: Clip) -> None:
    """Raise MerError unless the frames have the bytes that the index was made of; without a digest nothing is known.

    DVC takes a file of the same size and date for the same, so it does not see a bit that has changed on the disk.
    """
    if clip.digest and files_digest(clip.paths()) != clip.digest:
        # Which of them is another is not known, so the remedy is for their folder.
        raise _unsound(
            Path(clip.path(clip.onset)).parent,
            f"holds the frames of {clip.id}, which are not those that were indexed",
            f"bring the frames anew, or, if they were meant to change, run dvc repro -f index@{clip.corpus}",
        )


def read_paths(paths: Iterable[str | Path]) -> Iterator[np.ndarray]:
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


def files_digest(paths: Iterable[str | Path]) -> str:
    """SHA-256 over the bytes of the files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        data = _read_bytes(path)
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _read_bytes(path: str | Path) -> bytes:
    try:
        # Not blocking: opening a pipe waits for its other end, which may never come.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise MerError(f"{path}: is no file, but a pipe or a device; put the frame itself there")
            if found.st_size > MAX_BYTES:
                raise MerError(f"{path}: has {found.st_size} bytes, a frame at most {MAX_BYTES}; replace the file")
            return file.read()
    except FileNotFoundError:
        raise MerError(f"{path}: frame is missing; unpack the corpus again or correct the label sheet") from None
    except IsADirectoryError:
        raise MerError(f"{path}: is no file, but a folder; put the frame itself there") from None
    except OSError as error:
        raise unreadable(path, error) from None
