"""HDF5 product files: one array a clip.

    user block  512 bytes: the seal, one line of JSON, see `Seal`
    data        (N, ...) one item a clip, or, where clips have lengths of their own, (sum of T, ...); contiguous
    offsets     (N + 1,) int64, only in a ragged product: clip i is data[offsets[i]:offsets[i + 1]]
    ids         (N,) clip ids, in index order
    keys        (N,) digest of everything clip i was computed from
    sums        (N,) or (sum of T,) uint32: CRC-32 of the bytes of data[i] (mer.storage.spool.checksum)
    extra/x     (N, ...) small per-clip values, such as the transform of a crop; written in the order of their names
    attributes: schema, kind, ragged, parameters (JSON), excluded (JSON: clip id -> reason, where `on_error` allowed it)

The seal guards all bytes but the data, and is compared before HDF5 sees the file: HDF5 may never return from a damaged
one. The sums guard the data and are compared whenever some are read; they are of single frames, so that reading one
frame stays cheap.

No time stands in the file, so equal work gives equal bytes. A finished HDF5 file that is reopened and appended to would
not, and DVC deletes outputs before it runs a stage: so unfinished work lives in a *spool* (mer/storage/spool.py), a
folder outside the graph, and the finished product is renamed into place. A hard link to it stays in the spool (no
second copy on disk), so that a run after one corrected row computes one clip.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from mer.errors import FileError, MerError, listed, suggestion
from mer.storage.files import damaged, unreadable
from mer.storage.seal import SCHEMA, SEALED, Seal, read_seal, sealed
from mer.storage.spool import Part, checksum

NUMBERS = "biuf"  # kinds of dtype that a product holds


# ------------------------------------------------------------------------------------------------ reading


class ClipCache:
    """A product file, read clip by clip: `len(cache)`, `cache.ids`, `cache[clip_id]`, `cache.load()`.

    `cache[clip_id]` is (T, ...) in a ragged product and the item itself otherwise. Safe to pickle: a worker opens the
    file anew. Raises FileError when the file is missing, damaged, of another schema or of another kind than asked for,
    and wherever a clip is read whose bytes are not those that were written.
    """

    def __init__(self, path: str | Path, kind: str | None = None):
        self.path = Path(path)
        seal = read_seal(self.path)
        try:
            # Nobody writes into a finished product, and some network disks cannot lock.
            with h5py.File(self.path, "r", locking=False) as file:
                self._read_tables(file, seal)
        # Sealed by another program.
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # HDF5's own errors have none
                raise unreadable(self.path, error) from None
            raise FileError(f"{self.path}: is not a product of this project ({error}); run dvc repro") from None
        if kind is not None and self.kind != kind:
            raise FileError(f"{self.path}: holds {self.kind!r}, needed is {kind!r}; run dvc repro")
        self._row = {clip_id: i for i, clip_id in enumerate(self.ids)}

    def _read_tables(self, file: h5py.File, seal: Seal) -> None:
        """Everything but the data. Raises ValueError, KeyError or TypeError for what the writer does not write."""
        self.schema, self.kind = int(file.attrs["schema"]), str(file.attrs["kind"])
        self.ragged, self.params = bool(file.attrs["ragged"]), dict(json.loads(file.attrs["parameters"]))
        self.excluded: dict[str, str] = dict(json.loads(file.attrs["excluded"]))
        if not all(isinstance(reason, str) for reason in self.excluded.values()):
            raise ValueError("excluded holds more than reasons")
        data = _contiguous(file, "data", seal.size)
        self.shape, self.dtype, self._start = data.shape, data.dtype, seal.start
        if data.id.get_offset() != seal.start or seal.start + data.nbytes != seal.end:
            raise ValueError("its data are not where they should be")
        if not self.shape or self.dtype.kind not in NUMBERS:
            raise ValueError(f"its data are {self.shape} {self.dtype}")
        self.ids = [i.decode() for i in _table(file, "ids", seal.size, "S")]
        self.keys = [k.decode() for k in _table(file, "keys", seal.size, "S")]
        self._sums = _table(file, "sums", seal.size, "u")
        count = len(self.ids)
        self._offsets = np.arange(count + 1)
        if self.ragged:
            self._offsets = _table(file, "offsets", seal.size, "i").astype(np.int64)
        names = sorted(_group(file, "extra")) if "extra" in file else []
        self._extras = {name: _table(file, f"extra/{name}", seal.size, NUMBERS, flat=False) for name in names}
        lengths = [len(self.keys), len(self._offsets) - 1, *map(len, self._extras.values())]
        if not count or set(lengths) != {count} or len(set(self.ids)) != count:
            raise ValueError("its tables do not fit together")
        ends = self._offsets[0], self._offsets[-1], len(self._sums)
        if ends != (0, self.shape[0], self.shape[0]) or (np.diff(self._offsets) < 1).any():
            raise ValueError("its clips do not fit its data")

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._row

    def __getitem__(self, clip_id: str) -> np.ndarray:
        return self._clip(self._index(clip_id))

    def frame(self, clip_id: str, t: int) -> np.ndarray:
        """Item `t` of a ragged clip without reading the others."""
        i = self._index(clip_id)
        length = int(self._offsets[i + 1] - self._offsets[i])
        if not 0 <= t < length:
            raise FileError(f"{self.path}: clip {clip_id} has {length} frames, frame {t} was asked for; run dvc repro")
        return self._rows(int(self._offsets[i]) + t, 1)[0]

    def extra(self, name: str, clip_id: str) -> np.ndarray:
        """A small value kept beside the clip (e.g. `transform`)."""
        if name not in self._extras:
            raise FileError(f"{self.path}: has no {name!r} beside its clips; {suggestion(name, self._extras)}")
        return self._extras[name][self._index(clip_id)]

    def extras(self, clip_id: str) -> dict[str, np.ndarray]:
        """All small values kept beside the clip, in the order of their names."""
        row = self._index(clip_id)
        return {name: values[row] for name, values in self._extras.items()}

    def whole(self, clip_id: str) -> bool:
        """Whether the data of a clip still have their sums."""
        try:
            self[clip_id]
        except MerError:
            return False
        return True

    def load(self, ids: Sequence[str] | None = None) -> np.ndarray | list[np.ndarray]:
        """The clips `ids` (default: all), in that order: (N, ...), or a list of (T, ...) when ragged."""
        rows = range(len(self)) if ids is None else [self._index(i) for i in ids]
        if self.ragged:
            return [self._clip(i) for i in rows]
        data = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, i in enumerate(rows):
            data[place] = self._clip(i)
        return data

    def _clip(self, i: int) -> np.ndarray:
        first, end = int(self._offsets[i]), int(self._offsets[i + 1])
        rows = self._rows(first, end - first)
        return rows if self.ragged else rows[0]

    def _rows(self, first: int, count: int) -> np.ndarray:
        """Rows of the data, compared with their sums. They lie in one piece, so HDF5 is not needed to read them."""
        rows = np.empty((count, *self.shape[1:]), self.dtype)
        left = rows.reshape(-1).view(np.uint8).data
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self._start + first * rows[0].nbytes)
                while left:
                    done = file.readinto(left)
                    if not done:
                        raise damaged(self.path, "it has become shorter while it was read")
                    left = left[done:]
        except FileNotFoundError:
            raise FileError(f"{self.path}: has gone while it was read; run dvc repro") from None
        except OSError as error:
            raise unreadable(self.path, error) from None
        for row, array in enumerate(rows, start=first):
            if checksum(array) != self._sums[row]:
                i = int(np.searchsorted(self._offsets, row, side="right")) - 1
                what = f"frame {row - self._offsets[i]} of clip {self.ids[i]} has" if self.ragged else ""
                raise damaged(self.path, f"{what or f'clip {self.ids[i]} has'} other bytes than were written")
        return rows

    def _index(self, clip_id: str) -> int:
        try:
            return self._row[clip_id]
        except KeyError:
            raise FileError(
                f"{self.path}: has no clip {clip_id!r} ({len(self)} clips); {suggestion(clip_id, self.ids[:2000])}"
                if len(self) < 20
                else f"{self.path}: has no clip {clip_id!r} among its {len(self)}; run dvc repro to make it again"
            ) from None


def _group(file: h5py.File, name: str) -> h5py.Group:
    """A group of the file's own. Raises ValueError for a link to another place."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Group):
        raise ValueError(f"{name} is no group of its own")
    return file[name]


def _table(file: h5py.File, name: str, size: int, kinds: str, *, flat: bool = True) -> np.ndarray:
    """The values of a dataset. Raises ValueError unless their dtype is of these kinds and, `flat`, they are (N,)."""
    dataset = _contiguous(file, name, size)
    # Of objects, HDF5 would follow references and lengths that the file names.
    if dataset.dtype.kind not in kinds or not dataset.shape or (flat and len(dataset.shape) != 1):
        raise ValueError(f"{name} is {dataset.shape} {dataset.dtype}")
    return dataset[:]


def _contiguous(file: h5py.File, name: str, size: int) -> h5py.Dataset:
    """A dataset whose bytes lie in one piece in this file. Raises ValueError for any other.

    A link, a virtual dataset or an external one may read other files, or zeros where they are gone; and one that says
    more than it has would take all memory.
    """
    parent, _, _ = name.rpartition("/")
    if parent:
        _group(file, parent)
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link")
    dataset = file[name]
    layout = dataset.id.get_create_plist().get_layout() if isinstance(dataset, h5py.Dataset) else None
    if layout != h5py.h5d.CONTIGUOUS or dataset.is_virtual or dataset.external:
        raise ValueError(f"{name} does not lie in one piece in the file")
    place = dataset.id.get_offset()
    if place is None or dataset.id.get_storage_size() != dataset.nbytes or place + dataset.nbytes > size:
        raise ValueError(f"{name} is larger than the file")
    return dataset


# ------------------------------------------------------------------------------------------------ writing


class CacheWriter:
    """Writes one product in one pass, in the order of `append`; `close()` (or the end of `with`) renames it into place.

    Every clip brings `data` ((T, ...) if ragged, else the item), finite, and the same extras, which may be anything.
    Left by an exception, nothing stands at `path`. Memory: one clip.

    The data go to their place in the finished file at once; HDF5's own bytes before and after them are put there at the
    end. So what a killed run has written can be read by the next, if the file is a `part` of its spool.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        kind: str,
        ragged: bool,
        params: dict,
        excluded: dict[str, str] | None = None,
        part: Part | None = None,
    ):
        self.path = Path(path)
        self.ragged = ragged
        self.excluded = dict(excluded or {})  # may grow until the end
        self._attributes = {
            "schema": SCHEMA, "kind": kind, "ragged": ragged, "parameters": json.dumps(params, sort_keys=True)
        }  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = part or Part(self.path.with_name(self.path.name + ".tmp"))
        self._ids: list[str] = []
        self._taken: set[str] = set()
        self._keys: list[str] = []
        self._sums: list[int] = []
        self._offsets = [0]
        self._form: tuple[tuple[int, ...], np.dtype] | None = None
        self._extras: dict[str, list[np.ndarray]] = {}

    def append(self, clip_id: str, data: np.ndarray, *, key: str = "", **extras: Any) -> None:
        rows = np.asarray(data) if self.ragged else np.asarray(data)[None]
        if not rows.size:
            raise MerError(f"{self.path}: clip {clip_id} is empty ({rows.shape}); check what it is computed from")
        if rows.dtype.kind not in NUMBERS:
            raise MerError(f"{self.path}: clip {clip_id} is {rows.dtype}; a product holds numbers")
        if clip_id in self._taken:
            raise MerError(f"{self.path}: clip {clip_id} comes twice; a product holds a clip once")
        check_finite(clip_id, rows, f"{self.path}: ")
        if self._form is None:
            self._form = rows.shape[1:], rows.dtype
            self._extras = {name: [] for name in sorted(extras)}  # one order, whoever computed or kept the clip
            self._start = self._frame(1, *self._form)
            self._part.begin(self._start)
        if (rows.shape[1:], rows.dtype) != self._form:
            raise MerError(
                f"{self.path}: clip {clip_id} is {rows.shape[1:]} {rows.dtype}, the clips before it "
                f"{self._form[0]} {self._form[1]}; one product holds one shape"
            )
        if extras.keys() != self._extras.keys():
            raise MerError(
                f"{self.path}: clip {clip_id} has {listed(sorted(extras)) or 'nothing'} beside its data, the clips "
                f"before it {listed(self._extras) or 'nothing'}; one product holds the same for all"
            )
        extras = {name: np.array(extras[name]) for name in self._extras}  # a view would keep a whole block in memory
        for name, value in extras.items():
            first = self._extras[name][0] if self._extras[name] else value
            if (value.shape, value.dtype) != (first.shape, first.dtype) or value.dtype.kind not in NUMBERS:
                raise MerError(
                    f"{self.path}: {name} of clip {clip_id} is {value.shape} {value.dtype}; one product holds "
                    f"numbers of one form, here {first.shape} {first.dtype}"
                )
        self._part.append(key, rows if self.ragged else rows[0], extras)
        self._sums += [checksum(row) for row in rows]
        self._ids.append(clip_id)
        self._taken.add(clip_id)
        self._keys.append(key)
        self._offsets.append(self._offsets[-1] + len(rows))
        for name, values in self._extras.items():
            values.append(extras[name])

    def finish(self) -> Path:
        """Write what belongs to the whole file; returns the finished scratch file, not yet in place."""
        if self._form is None:
            self.abandon()
            raise MerError(f"{self.path}: there is no clip to write; check the index and what was excluded")
        start = self._frame(self._offsets[-1], *self._form)
        if start != self._start:  # HDF5 places what comes before the data without looking at their number
            raise RuntimeError(f"{self.path}: HDF5 puts the data at {start}, not at {self._start}")
        with open(self._skeleton, "rb") as skeleton:
            head = skeleton.read(start)
            skeleton.seek(self._part.end)
            tail = skeleton.read()
        self._part.finish(sealed(head, self._part.end, tail), tail)
        self._skeleton.unlink()
        return self._part.path

    def _frame(self, n_rows: int, shape: tuple[int, ...], dtype: np.dtype) -> int:
        """Write the file with `n_rows` rows of data left out (a hole); returns where they belong, in bytes."""
        options = {"track_times": False}
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        with h5py.File(self._skeleton, "w", libver="v110", track_order=False, userblock_size=SEALED) as file:
            file.attrs.update(self._attributes)
            data = file.create_dataset("data", shape=(n_rows, *shape), dtype=dtype, dcpl=layout, **options)
            start = data.id.get_offset()
            file.attrs["excluded"] = json.dumps(self.excluded, sort_keys=True)
            file.create_dataset("ids", data=np.array([i.encode() for i in self._ids], dtype="S"), **options)
            file.create_dataset("keys", data=np.array([k.encode() for k in self._keys], dtype="S64"), **options)
            file.create_dataset("sums", data=np.array(self._sums, dtype=np.uint32), **options)
            if self.ragged:
                file.create_dataset("offsets", data=np.asarray(self._offsets, dtype=np.int64), **options)
            for name, values in self._extras.items():
                if values:
                    file.create_dataset(f"extra/{name}", data=np.stack(values), **options)
        return start

    @property
    def _skeleton(self) -> Path:
        return self._part.path.with_suffix(".frame.tmp")

    def close(self) -> None:
        self.finish().replace(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def abandon(self) -> None:
        """Leave nothing behind but, in a spool, what the next run can use."""
        self._skeleton.unlink(missing_ok=True)
        self._part.abandon()


def check_finite(clip_id: str, data: np.ndarray, where: str = "") -> None:
    """Raise MerError for data with values that are not finite: they would spread into whatever is made of them."""
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise MerError(
            f"{where}clip {clip_id}: {int((~np.isfinite(data)).sum())} of {data.size} values that were computed are "
            "not finite; look at its frames, or exclude it (on_error)"
        )
