"""Where a corpus's frames lie, and the index of its clips.

The wrapping folders differ from download to download, so a reader says only how a clip's own folders are called
(`sub01/EP02_01f`), and they are looked for up to three levels down. Frames are recognised by the number at the end of
their name (`img46.jpg`, `reg_img46.jpg`, `006_05562.jpg`, `image061250.jpg`, `175.jpg`), as jpg, jpeg, png or bmp.
Names are compared without letter case and in Unicode's composed form: on some disks `Müller` has two spellings.
"""

import bisect
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mer.clips import composed
from mer.corpora.sheets import (
    ENDINGS,
    RowErrors,
    SheetFormat,
    corrections,
    fits,
    former_names,
    read_sheet,
)
from mer.errors import MerError, listed
from mer.storage.files import unreadable

DEPTH = 3  # levels of wrapping folders: CAS(ME)3 ships part_A/data/part_A/spNO.1, the deepest of all
FRAME = re.compile(r"^(.*?)(\d+)\.(jpe?g|png|bmp)$", re.IGNORECASE | re.ASCII)
COLUMNS = [
    *("id", "corpus", "subject", "clip", "emotion", "aus"),
    *("onset", "apex", "offset", "apex_source", "fps", "frame", "absent", "edition"),
]
DIGITS = 15  # of a frame's number: more fit into no column of integers
JUNK = frozenset({"__macosx"})  # what Macs put into archives: a copy of the tree that holds no picture


# ---- finding ----------------------------------------------------------------------------------------------------


def corpus_folder(root: str | Path, corpus: str) -> Path:
    """`root` as a path. Raises MerError when it is no folder, FileError when the system does not hand it out."""
    root = Path(root)
    if not os.path.isdir(root):  # unlike Path's, False also for a path that is too long
        raise MerError(f"{root}: there is no such folder; unpack the corpus there or correct corpora.{corpus}.raw")
    try:
        os.scandir(root).close()  # a glob finds nothing in such a folder, and says nothing
    except OSError as error:
        raise unreadable(root, error) from None
    return root


def find_sheet(root: Path, headings: dict[str, str]) -> Path:
    """The one label sheet in `root` or, where none lies there, up to two folders below.

    Other sheets that the owners ship beside it (CASME II's objective classes) do not count: they lack columns.
    Raises MerError when there is none, or when several have the columns.
    """
    for below in ("", "*/", "*/*/"):
        found = sheets_in(root, below)
        if found:
            break
    if len(found) > 1:
        found = [p for p in found if fits(p, headings)] or found
    if len(found) != 1:
        names = listed(sorted(p.relative_to(root).as_posix() for p in found)) or "none"
        raise MerError(
            f"{root}: needs exactly one label sheet (*.xlsx), found {names}; *.xls and *.csv are read too: "
            "put the corpus's own sheet there and no other"
        )
    check_inside(found[0], root, "label sheet")
    return found[0]


def sheets_in(root: Path, below: str = "") -> list[Path]:
    """The sheets in `root`, or in its folders `below`, without what spreadsheet programs and Macs leave beside them."""
    return [
        p
        for p in sorted(root.glob(f"{below}*"))
        if p.suffix.lower() in ENDINGS
        and p.name[0] not in "~."
        and not JUNK & {part.lower() for part in p.relative_to(root).parts}
    ]


def check_inside(path: str | Path, root: Path, what: str) -> None:
    """Raise MerError for a link out of the corpus folder; `root` itself may be one."""
    if not os.path.realpath(path).startswith(os.path.join(os.path.realpath(root), "")):
        raise MerError(f"{path}: is a link out of {root}; copy the {what} there, or make the whole folder a link")


def _is(kind: str, entry: os.DirEntry) -> bool:
    """Whether an entry is a `dir` or a `file`, or a link to one; a link to itself is neither."""
    try:
        return entry.is_dir() if kind == "dir" else entry.is_file()
    except OSError:
        return False


class Tree:
    """Folders below a root, each listed once; names are compared as `normalise` leaves them, in composed form.

    `skip` are folders never entered, in lower case, besides JUNK.
    """

    def __init__(self, root: Path, normalise: Callable[[str], str] = str.lower, skip: Iterable[str] = ()):
        self.root, self.skip = root, JUNK | frozenset(skip)
        self.normalise = lambda name: composed(normalise(composed(name)))
        self._listed: dict[Path, dict[str, Path]] = {}

    def children(self, folder: Path) -> dict[str, Path]:
        """Normalised name -> subfolder. Raises MerError when two subfolders have one name (`1` and `sub01`)."""
        if folder not in self._listed:
            found: dict[str, Path] = {}
            with os.scandir(folder) as entries:
                names = sorted(e.name for e in entries if _is("dir", e) and e.name.lower() not in self.skip)
            for name in names:
                if name.startswith("."):
                    continue
                key = self.normalise(name)
                if key in found:
                    raise MerError(f"{folder}: folders {found[key].name} and {name} are one name; keep one of them")
                found[key] = folder / name
            self._listed[folder] = found
        return self._listed[folder]

    def find(self, base: Path, parts: Iterable[str]) -> Path | None:
        """The folder `parts` below `base`, if there is one."""
        folder: Path | None = base
        for part in parts:
            if folder is None:
                return None
            folder = self.children(folder).get(self.normalise(part))
        return folder

    def base(self, starts: set[str]) -> Path:
        """The one folder, `root` or up to DEPTH below, with a subfolder named as one of `starts`.

        `root` when there is none. Raises MerError when there are several (raw and cropped frames side by side).
        """
        starts = {self.normalise(s) for s in starts}
        found, level, seen = [], [self.root], {os.path.realpath(self.root)}
        for _ in range(DEPTH + 1):
            below = []
            for folder in level:
                children = self.children(folder)
                if starts & children.keys():
                    found.append(folder)
                for name, path in children.items():
                    # Each once: folders that link to each other have more paths than can be walked.
                    place = os.path.realpath(path)
                    if name not in starts and place not in seen:
                        seen.add(place)
                        below.append(path)
            level = below
        if len(found) > 1:
            raise MerError(
                f"{self.root}: frames lie in {len(found)} places: {listed(found)}; leave one there, and make the other "
                "a corpus of its own"
            )
        return found[0] if found else self.root


@dataclass(frozen=True)
class Frames:
    """The frames of a folder: a path pattern with `{}` or `{:05d}` for the number, and the numbers, ascending."""

    pattern: str
    prefix: str
    numbers: tuple[int, ...]

    def path(self, number: int) -> str:
        return self.pattern.format(number)


def read_frames(folder: Path, root: Path, prefer: str, example: str) -> Frames:
    """What frames a folder holds.

    Args:
        folder: the clip's.
        root: the corpus's, which no frame may lead out of.
        prefer: regular expression of the names' part before the number, which decides when there are several kinds.
        example: how they are called, for messages.

    Raises:
        MerError: no frame, names that fit no one pattern, a frame that is no file (a pipe, a folder, a dead link) or a
            link out of `root`.
    """
    kinds: dict[tuple[str, str], list[str]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            found = None if entry.name.startswith(".") else FRAME.match(entry.name)
            if not found:
                continue
            if len(found[2]) > DIGITS:
                raise MerError(f"{entry.path}: a frame's number has {DIGITS} digits at most; rename the frames")
            if not _is("file", entry):
                raise MerError(f"{entry.path}: is no file, but a folder, a pipe or a dead link; put the frame there")
            if entry.is_symlink():
                check_inside(entry.path, root, "frame")
            kinds.setdefault((found[1], found[3]), []).append(found[2])
    if not kinds:
        raise MerError(f"{folder}: has no frame named {example}; unpack the clip again")
    if len(kinds) > 1:
        wanted = {k: v for k, v in kinds.items() if re.fullmatch(prefer, k[0], re.IGNORECASE)}
        if len(wanted) != 1:
            names = listed(f"{prefix}{digits[0]}.{end}" for (prefix, end), digits in sorted(kinds.items()))
            raise MerError(f"{folder}: holds frames of several kinds: {names}; leave those named {example}")
        kinds = wanted
    (prefix, ending), digits = next(iter(kinds.items()))
    widths = {len(d) for d in digits if d[0] == "0" and len(d) > 1}
    width = widths.pop() if widths else 0
    if widths or any(len(d) < width for d in digits):
        raise MerError(f"{folder}: frame numbers are padded to several widths; name them all alike, {example}")
    literal = f"{folder.as_posix()}/{prefix}".replace("{", "{{").replace("}", "}}")
    place = f"{{:0{width}d}}" if width else "{}"
    return Frames(f"{literal}{place}.{ending}", prefix, tuple(sorted(int(d) for d in digits)))


# ---- index ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How a corpus's clips lie on disk.

    Attributes:
        fps: frames a second.
        folders: (subject, video, clip) -> the places where the clip's frames may lie, each as folder names below the
            folder with all of them; the first one that exists counts.
        normalise_folder: folder names are equal when this makes them so.
        prefer, example: see `read_frames`.
        skip: folders never entered, in lower case.
        gaps: how many frames of a clip may lack, where the owners' own copy lacks some.
        share: what share of the clip they may be at most.
        ends: whether onset and offset may be among them; they move to the next frame inside the clip.
        shared: whether several clips lie in one folder.
    """

    fps: float
    folders: Callable[[str, str, str], list[tuple[str, ...]]]
    normalise_folder: Callable[[str], str]
    prefer: str
    example: str
    skip: frozenset[str] = frozenset()
    gaps: int = 0
    share: float = 1.0
    ends: bool = False
    shared: bool = False


def read_with_sheet(
    root: str | Path, corpus: str, sheet_format: SheetFormat, layout: Layout, on_error: str
) -> pd.DataFrame:
    """The index of a corpus that has a label sheet: its rows, each checked against the frames on disk.

    Returns the table that `index_table` makes. Raises MerError as it, `find_sheet` and `read_sheet` do.
    """
    errors = RowErrors(on_error, corpus)
    root = corpus_folder(root, corpus)
    sheet = find_sheet(root, sheet_format.headings)
    table = read_sheet(sheet, sheet_format, errors)
    tree = Tree(root, layout.normalise_folder, layout.skip)
    names = former_names(sheet_format)
    places = [
        [
            place
            for clip in (r.clip, *names.get((r.subject, r.clip), ()))
            for place in layout.folders(r.subject, r.video, clip)
        ]
        for r in table.itertuples()
    ]
    base = tree.base({place[0] for options in places for place in options})
    found = [next((f for p in options if (f := tree.find(base, p))), None) for options in places]
    too_many = sheet_format.too_many(len(table) + len(errors.excluded))
    return index_table(table, found, f"{sheet.name}{too_many}", root, corpus, sheet_format.corpus, layout, errors)


def index_table(
    table: pd.DataFrame, folders: list[Path | None], source: str, root: Path, corpus: str, reader: str, layout: Layout,
    errors: RowErrors,
) -> pd.DataFrame:  # fmt: skip
    """The index of annotated clips whose folders are known.

    Args:
        table: as `read_sheet` returns it.
        folders: of every row, None where there is none.
        source: what named the clips, for messages.
        reader: whose corrections for cropped frames apply.

    Returns:
        DataFrame with the columns of mer.clips.COLUMNS but `digest`, and with `edition` (see `sheets.edition`).
        `absent`: the numbers of frames that lack between onset and offset, separated by spaces; an onset, apex or
        offset that lacks moves to the nearest frame. `.attrs["excluded"]`: (clip id, reason); `.attrs["corrected"]` as
        in `read_sheet`, with what moved; `.attrs["edition"]`.

    Raises:
        MerError: absent folders (the first five and the count), two clips in one folder, a folder or frame that is a
            link out of `root`, an annotation outside the clip, a missing frame.
    """
    lost = [f"{r.subject}/{r.clip}" for r, f in zip(table.itertuples(), folders, strict=True) if f is None]
    if lost and errors.on_error == "stop":
        raise MerError(f"{root}: {len(lost)} clips of {source} have no folder: {listed(lost)}; unpack them")
    if not layout.shared:
        _check_apart(table, folders, source, root)
    edition = table.attrs.get("edition", "")
    shortened = corrections(reader)
    shortened = shortened[shortened["when"] == "cropped"]
    cache: dict[Path, Frames] = {}
    rows, corrected = [], list(table.attrs.get("corrected", []))
    for row, folder in zip(table.to_dict("records"), folders, strict=True):
        key = (row["subject"], row["clip"])
        try:
            if folder is None:
                raise MerError(f"{root}: clip {'/'.join(key)} of {source} has no folder; unpack it")
            if folder not in cache:
                check_inside(folder, root, "clip")
                cache[folder] = read_frames(folder, root, layout.prefer, layout.example)
            frames = cache[folder]
            if frames.prefix.lower().startswith("reg_"):
                mine = shortened[(shortened["subject"] == key[0]) & (shortened["clip"] == key[1])]
                for item in mine.to_dict("records"):
                    if row[item["column"]] == int(item["old"]):
                        row[item["column"]] = int(item["new"])
                        corrected.append(("/".join(key), *(item[c] for c in ("column", "old", "new", "reason"))))
            present = _present(folder, frames, row, layout)
            moved = _move(row, present, folder)
            corrected += [("/".join(key), *change, "no such frame, the nearest one") for change in moved]
            absent = sorted(set(range(row["onset"], row["offset"] + 1)).difference(present))
        except MerError as error:
            errors.add(*key, error)
            continue
        rows.append(
            row
            | {
                "id": f"{corpus}/{key[0]}/{key[1]}",
                "corpus": corpus,
                "fps": layout.fps,
                "frame": frames.pattern,
                "absent": " ".join(map(str, absent)),
                "edition": edition,
            }
        )
    if not rows:
        raise MerError(f"{root}: every clip was left out, the first because: {errors.excluded[0][1]}")
    index = pd.DataFrame(rows, columns=COLUMNS)
    index.attrs |= {"excluded": errors.excluded, "corrected": corrected, "edition": edition}
    return index


def _check_apart(table: pd.DataFrame, folders: list[Path | None], source: str, root: Path) -> None:
    """Raise MerError when two clips have one folder, as `1` and `01` do where both mean the same."""
    taken: dict[Path, str] = {}
    for row, folder in zip(table.itertuples(), folders, strict=True):
        clip = f"{row.subject}/{row.clip}"
        if folder is not None and taken.setdefault(folder, clip) != clip:
            raise MerError(f"{root}: clips {taken[folder]} and {clip} of {source} have one folder, {folder}; delete "
                           "one of the rows, or correct its name")  # fmt: skip


def _present(folder: Path, frames: Frames, row: dict, layout: Layout) -> list[int]:
    """The frames from onset to offset that there are, ascending. Raises MerError when too many lack."""
    onset, offset = row["onset"], row["offset"]
    first, last = frames.numbers[0], frames.numbers[-1]
    # Counted, not listed: a sheet can say 0 to 999999999.
    start, end = bisect.bisect_left(frames.numbers, onset), bisect.bisect_right(frames.numbers, offset)
    present, length = list(frames.numbers[start:end]), offset - onset + 1
    lack = length - len(present)
    ends = {onset, offset} <= set(present)
    if lack <= min(layout.gaps, layout.share * length) and (ends or layout.ends):
        return present
    if onset < first or offset > last:
        raise MerError(
            f"{folder}: the label sheet says frames {onset} to {offset}, on disk are {first} to {last}; "
            "the annotation points outside the clip: correct the row or unpack the whole clip"
        )
    absent = next(n for n, there in enumerate([*present, None], start=onset) if n != there)
    allowed = f" (this corpus is known to lack up to {layout.gaps})" if layout.gaps else ""
    raise MerError(f"{frames.path(absent)}: frame is missing ({lack} of {length} are){allowed}; unpack the clip again")


def _move(row: dict, present: list[int], folder: Path) -> list[tuple[str, str, str]]:
    """Move, in place, onset, apex and offset to frames that there are: (column, old, new) of each that moved."""
    moved = []
    before = dict(row)
    for column in ("onset", "apex", "offset"):
        nearest = min(present, key=lambda n: abs(n - before[column]))  # of two as near, the earlier
        if nearest != row[column]:
            moved.append((column, str(row[column]), str(nearest)))
            row[column] = nearest
    if row["apex"] == row["onset"] and before["apex"] != before["onset"]:
        raise MerError(
            f"{folder}: the frames from onset {before['onset']} to apex {before['apex']} are missing; unpack the clip "
            "again"
        )
    return moved
