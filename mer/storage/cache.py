"""HDF5 product files: one array a clip.

    data      (N, ...) one item a clip, or, where clips have lengths of their own, (sum of T, ...); contiguous
    offsets   (N + 1,) int64, only in a ragged product: clip i is data[offsets[i]:offsets[i + 1]]
    ids       (N,) clip ids, in index order
    keys      (N,) digest of everything clip i was computed from
    sums      (N,) uint64, of the bytes of clip i and its extras (mer.storage.spool.checksum)
    extra/x   (N, ...) small per-clip values, such as the transform of a crop
    attributes: schema, kind, ragged, parameters (JSON), excluded (JSON: clip id -> reason, where `on_error` allowed it)

No time stands in it, so equal work gives equal bytes. A finished HDF5 file that is reopened and appended to would not,
and DVC deletes outputs before it runs a stage: so unfinished work lives in a *spool* (mer/storage/spool.py), a folder
outside the graph, and the finished product is renamed into place. A hard link to it stays in the spool (no second
copy on disk), so that a run after one corrected row computes one clip.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import h5py
import numpy as np

from mer.errors import MerError, listed, suggestion
from mer.parallel import SERIAL, Engine, map_clips
from mer.storage.spool import Part, Spool, checksum

SCHEMA = 1


def digest(*parts: Any) -> str:
    """SHA-256 of JSON-able parts, the same on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def replace_file(path: str | Path, data: bytes) -> None:
    """Put `data` at `path` by a rename: the old file may be a hard link into DVC's cache, which must stay as it is."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".tmp")
    part.write_bytes(data)
    part.replace(path)


# ------------------------------------------------------------------------------------------------ reading


class ClipCache:
    """A product file, read clip by clip: `len(cache)`, `cache.ids`, `cache[clip_id]`, `cache.load()`.

    `cache[clip_id]` is (T, ...) in a ragged product and the item itself otherwise. Safe to pickle: a worker opens the
    file anew. Raises MerError when the file is missing, truncated, of another schema or of another kind than asked for.
    """

    def __init__(self, path: str | Path, kind: str | None = None):
        self.path = Path(path)
        with self._open() as file:
            try:
                self.schema, self.kind = int(file.attrs["schema"]), str(file.attrs["kind"])
                self.ragged, self.params = bool(file.attrs["ragged"]), json.loads(file.attrs["parameters"])
                self.excluded: dict[str, str] = json.loads(file.attrs.get("excluded", "{}"))
                self.ids = [i.decode() for i in file["ids"][:]]
                self.keys = [k.decode() for k in file["keys"][:]]
                self._sums = file["sums"][:]
                self._offsets: np.ndarray = file["offsets"][:] if self.ragged else np.empty(0, np.int64)
                self.shape, self.dtype = file["data"].shape, file["data"].dtype
            except KeyError as error:
                raise MerError(f"{self.path}: is not a product of this project ({error.args[0]})") from None
            except (OSError, TypeError, ValueError) as error:  # what HDF5 makes of damaged tables
                raise MerError(f"{self.path}: is damaged ({error}); delete it and run dvc repro") from None
        if self.schema != SCHEMA:
            raise MerError(f"{self.path}: has schema {self.schema}, this version reads {SCHEMA}; run dvc repro")
        if kind is not None and self.kind != kind:
            raise MerError(f"{self.path}: holds {self.kind!r}, needed is {kind!r}; correct the path in params.yaml")
        self._row = {clip_id: i for i, clip_id in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._row

    def __getitem__(self, clip_id: str) -> np.ndarray:
        with self._open() as file:
            return self._read(file, self._index(clip_id))

    def frame(self, clip_id: str, t: int) -> np.ndarray:
        """Item `t` of a ragged clip without reading the others."""
        i = self._index(clip_id)
        length = int(self._offsets[i + 1] - self._offsets[i])
        if not 0 <= t < length:
            raise MerError(f"{self.path}: clip {clip_id} has {length} frames, frame {t} was asked for; run dvc repro")
        with self._open() as file:
            return file["data"][self._offsets[i] + t]

    def extra(self, name: str, clip_id: str) -> np.ndarray:
        """A small value kept beside the clip (e.g. `transform`)."""
        with self._open() as file:
            return file["extra"][name][self._index(clip_id)]

    def extras(self, clip_id: str) -> dict[str, np.ndarray]:
        """All small values kept beside the clip."""
        with self._open() as file:
            row = self._index(clip_id)
            return {name: values[row] for name, values in file["extra"].items()} if "extra" in file else {}

    def whole(self, clip_id: str) -> bool:
        """Whether what is kept of a clip still has its sum."""
        try:
            found = checksum(self[clip_id], *self.extras(clip_id).values())
        except (OSError, MerError):
            return False
        return found == int(self._sums[self._index(clip_id)])

    def load(self, ids: Sequence[str] | None = None) -> np.ndarray | list[np.ndarray]:
        """The clips `ids` (default: all), in that order: (N, ...), or a list of (T, ...) when ragged."""
        rows = range(len(self)) if ids is None else [self._index(i) for i in ids]
        with self._open() as file:
            if self.ragged:
                return [self._read(file, i) for i in rows]
            data = np.empty((len(rows), *self.shape[1:]), self.dtype)
            for place, i in enumerate(rows):
                file["data"].read_direct(data, np.s_[i], np.s_[place])
            return data

    def _read(self, file: h5py.File, i: int) -> np.ndarray:
        if self.ragged:
            return file["data"][self._offsets[i] : self._offsets[i + 1]]
        return file["data"][i]

    def _index(self, clip_id: str) -> int:
        try:
            return self._row[clip_id]
        except KeyError:
            raise MerError(
                f"{self.path}: has no clip {clip_id!r} ({len(self)} clips); {suggestion(clip_id, self.ids[:2000])}"
                if len(self) < 20
                else f"{self.path}: has no clip {clip_id!r} among its {len(self)}; run dvc repro to make it again"
            ) from None

    @contextlib.contextmanager
    def _open(self) -> Iterator[h5py.File]:
        if not self.path.exists():
            raise MerError(f"{self.path}: there is no such product; run dvc repro, or correct the path in params.yaml")
        try:
            with open(self.path, "rb"):  # what is wrong with the file itself, before HDF5 says it in its own way
                pass
        except OSError as error:
            raise MerError(
                f"{self.path}: cannot be opened ({error.strerror}); correct the path or its rights"
            ) from None
        try:
            file = h5py.File(self.path, "r")
        except BlockingIOError:
            raise MerError(f"{self.path}: is being written by another process; wait for it") from None
        except OSError as error:
            raise MerError(
                f"{self.path}: is truncated or not HDF5 ({error}); delete it and run dvc checkout or dvc repro"
            ) from None
        with file:
            yield file


# ------------------------------------------------------------------------------------------------ writing


class CacheWriter:
    """Writes one product in one pass, in the order of `append`; `close()` (or the end of `with`) renames it into place.

    Every clip brings `data` ((T, ...) if ragged, else the item) and the same extras. Left by an exception, nothing
    stands at `path`. Memory: one clip.

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
        self._keys: list[str] = []
        self._sums: list[int] = []
        self._offsets = [0]
        self._form: tuple[tuple[int, ...], np.dtype] | None = None
        self._extras: dict[str, list[np.ndarray]] = {}

    def append(self, clip_id: str, data: np.ndarray, *, key: str = "", **extras: Any) -> None:
        rows = np.asarray(data) if self.ragged else np.asarray(data)[None]
        if not rows.size:
            raise MerError(f"{self.path}: clip {clip_id} is empty ({rows.shape}); check what it is computed from")
        if self._form is None:
            self._form = rows.shape[1:], rows.dtype
            self._extras = {name: [] for name in extras}
            self._start = self._frame(1, *self._form)
            self._part.begin(self._start)
        if (rows.shape[1:], rows.dtype) != self._form:
            raise MerError(
                f"{self.path}: clip {clip_id} is {rows.shape[1:]} {rows.dtype}, the clips before it "
                f"{self._form[0]} {self._form[1]}; one product holds one shape"
            )
        extras = {name: np.array(extras[name]) for name in self._extras}  # a view would keep a whole block in memory
        for name, value in extras.items():
            first = self._extras[name][0] if self._extras[name] else value
            if (value.shape, value.dtype) != (first.shape, first.dtype) or value.dtype.kind not in "biuf":
                raise MerError(
                    f"{self.path}: {name} of clip {clip_id} is {value.shape} {value.dtype}; one product holds "
                    f"numbers of one form, here {first.shape} {first.dtype}"
                )
        self._sums.append(self._part.append(key, rows if self.ragged else rows[0], extras))
        self._ids.append(clip_id)
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
            self._part.finish(head, skeleton.read())
        self._skeleton.unlink()
        return self._part.path

    def _frame(self, n_rows: int, shape: tuple[int, ...], dtype: np.dtype) -> int:
        """Write the file with `n_rows` rows of data left out (a hole); returns where they belong, in bytes."""
        options = {"track_times": False}
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        with h5py.File(self._skeleton, "w", libver="v110", track_order=False) as file:
            file.attrs.update(self._attributes)
            data = file.create_dataset("data", shape=(n_rows, *shape), dtype=dtype, dcpl=layout, **options)
            start = data.id.get_offset()
            file.attrs["excluded"] = json.dumps(self.excluded, sort_keys=True)
            file.create_dataset("ids", data=np.array([i.encode() for i in self._ids], dtype="S"), **options)
            file.create_dataset("keys", data=np.array([k.encode() for k in self._keys], dtype="S64"), **options)
            file.create_dataset("sums", data=np.array(self._sums, dtype=np.uint64), **options)
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


# ----------------------------------------------------------------------------------------------- building


def build_product(
    path: str | Path,
    clips: Sequence,
    compute: Callable[..., dict[str, np.ndarray]],
    fingerprint: Callable[..., str],
    *,
    kind: str,
    ragged: bool,
    params: dict,
    code: str,
    spool: str | Path,
    engine: Engine = SERIAL,
    label: str = "clips",
    on_error: Literal["stop", "exclude"] = "stop",
    excluded: dict[str, str] | None = None,
) -> None:
    """Compute one array a clip, resumably, and write the product at `path` in the order of `clips`.

    compute(clip) -> {"data": array, and extras}; fingerprint(clip) -> digest of the content that compute reads. A
    clip's key also covers `params` and `code` (a digest of the code that makes the numbers), so a block is reused only
    if computing it again would give the same. Killed anywhere, the next call goes on after the last finished clips.
    Raises what compute raises; blocks finished before it stay. With `on_error` "exclude" a clip whose compute raises
    MerError is left out instead and listed with its reason, beside those that `excluded` hands on from the inputs.
    """
    path = Path(path)
    with Spool(spool) as work:
        previous = _previous(work)
        kept = {key: clip_id for clip_id, key in zip(previous.ids, previous.keys, strict=True)} if previous else {}
        one = functools.partial(
            _one, compute=compute, fingerprint=fingerprint, common=digest(SCHEMA, kind, params, code), spool=work,
            previous=previous, kept=kept, on_error=on_error,
        )  # fmt: skip
        part = work.new_part()
        writer = CacheWriter(path, kind=kind, ragged=ragged, params=params, excluded=excluded, part=part)
        waiting = iter(clips)

        def append(result: tuple[str | None, str]) -> None:
            clip, (key, how) = next(waiting), result
            if key is None:
                writer.excluded[clip.id] = how
                return
            if how == KEPT and previous is not None:  # it is kept there
                arrays = {"data": previous[kept[key]], **previous.extras(kept[key])}
            else:
                arrays = work.get(key)  # `_one` has written it, or looked into it
            writer.append(clip.id, arrays.pop("data"), key=key, **arrays)
            work.drop(key)

        try:
            # Written while the workers go on: reading the blocks back costs little then, and much afterwards.
            done = map_clips(one, clips, engine, label, each=append)
            report_reused(sum(how in (REUSED, KEPT) for _, how in done), len(done), label, engine)
            out = [how for key, how in done if key is None]
            if out and engine.progress:
                print(f"excluded {len(out)} of {len(done)} {label}: {listed(out, 3)}", file=sys.stderr)
            finished = writer.finish()
        except BaseException:
            writer.abandon()
            raise
        _keep(finished, work.folder / "previous.h5")
        _move(finished, path)
        work.clear()


# How a clip came by: computed now, found in the spool, or kept in the last finished product.
COMPUTED, REUSED, KEPT = "computed", "reused", "kept"


def _one(
    clip: Any,
    *,
    compute: Callable[..., dict[str, np.ndarray]],
    fingerprint: Callable[..., str],
    common: str,
    spool: Spool,
    previous: ClipCache | None,
    kept: dict[str, str],
    on_error: str,
) -> tuple[str | None, str]:
    """The clip's key and how it came by; or None and why it is excluded."""
    try:
        key = digest(common, clip.id, fingerprint(clip))
        if key in spool:
            return key, REUSED
        if previous is not None and key in kept and previous.whole(kept[key]):
            return key, KEPT
        spool.put(key, compute(clip))
    except MerError as error:
        if on_error == "stop":
            raise
        return None, str(error)
    return key, COMPUTED


def report_reused(reused: int, total: int, label: str, engine: Engine) -> None:
    """Tell whoever watches how much of an interrupted or corrected run did not have to run again."""
    if engine.progress and reused:
        print(f"{reused} of {total} {label} were finished earlier", file=sys.stderr)


def _previous(spool: Spool) -> ClipCache | None:
    """The product of the last finished run, if it can still be read; it is only a shortcut."""
    path = spool.folder / "previous.h5"
    if not path.exists():
        return None
    try:
        return ClipCache(path)
    except MerError:
        path.unlink()
        return None


def _move(finished: Path, path: Path) -> None:
    try:
        finished.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = path.with_name(path.name + ".tmp")  # data/cache lies on another disk than data/.partial
        shutil.copyfile(finished, beside)
        beside.replace(path)
        finished.unlink()


def _keep(finished: Path, link: Path) -> None:
    fresh = link.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    try:
        os.link(finished, fresh)
    except OSError:  # a file system without hard links: a later run then computes every clip again
        link.unlink(missing_ok=True)
        return
    fresh.replace(link)


def available(clips: Sequence, index: str | Path, *caches: ClipCache) -> tuple[list, dict[str, str]]:
    """The clips of the index that no product excludes, and those that one does with the reason.

    Raises MerError unless every product holds all the others.
    """
    excluded = {clip_id: reason for cache in caches for clip_id, reason in cache.excluded.items()}
    rows = [clip for clip in clips if clip.id not in excluded]
    for cache in caches:
        check_same_clips([clip.id for clip in rows], cache, index)
    return rows, excluded


def check_same_clips(ids: Sequence[str], cache: ClipCache, index: str | Path) -> None:
    """Raise MerError unless the product holds every clip of the index."""
    missing = [i for i in ids if i not in cache]
    if missing:
        raise MerError(
            f"{cache.path}: {len(missing)} of the {len(ids)} clips of {index} are missing: {listed(missing)}; "
            "run dvc repro"
        )
