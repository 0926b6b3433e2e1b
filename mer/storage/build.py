"""Making a product: one array a clip, by workers, resumable; and the clips that several products have in common."""

import errno
import functools
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mer.errors import FileError, MerError, listed
from mer.parallel import SERIAL, Engine, map_clips
from mer.storage.cache import CacheWriter, ClipCache, check_finite
from mer.storage.files import digest
from mer.storage.seal import SCHEMA
from mer.storage.spool import Spool


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
    MerError is left out instead and listed with its reason, beside those that `excluded` hands on from the inputs. A
    FileError is raised all the same: it is no fault of the clip.
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
        arrays = compute(clip)
        check_finite(clip.id, np.asarray(arrays["data"]))
        spool.put(key, arrays)
    except FileError:
        raise
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
    """The product of the last finished run, if it can still be read; it is only a shortcut, and replaced at the end."""
    try:
        return ClipCache(spool.folder / "previous.h5")
    except MerError:
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
