"""Eulerian magnification; writes data/cache/<corpus>/<chain>/{frames,apex_frame}.h5.

    python -m stages.magnify_eulerian synthetic-box224-msmmt

Product `frames`: the magnified clip, (T, size, size, 3) uint8, which later stages read like a crop's frames. Product
`apex_frame`: its apex alone, (size, size, 3). The source is a crop's frames (chain box224-msmmt); or landmarks, which
stand for the corpus's own frames before any crop (chain dcma-box112): then the crop's box is looked for in the
magnified apex, as DCMA does it (D-02).
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mer.clips import Clip, check_frames, clips, files_digest, read_index, read_paths
from mer.errors import FileError, MerError
from mer.faces.alignment import clip_transform, crop_options, crop_size, warp
from mer.magnification.eulerian import CAUSAL, SHORTEST, band_of_clip, magnify_frames
from mer.storage.build import available, build_product
from mer.storage.cache import ClipCache
from mer.storage.files import digest
from stages._run import chosen, run

FILTER = ("alpha", "low", "high", "filter", "lambda_c", "chroma")


def frames_needed(clip: Clip, product: str, apex: ClipCache, recipe: dict) -> tuple[list[int], slice]:
    """Numbers of the frames that the filter has to see, and which of them are kept."""
    numbers = clip.numbers_around(recipe["around"])
    first = numbers.index(clip.numbers[0])
    keep = slice(first, first + clip.n_frames)
    if product == "apex_frame":
        at = first + int(apex[clip.id])
        keep = slice(at, at + 1)
    if recipe["filter"] in CAUSAL:  # what comes later cannot matter
        numbers = numbers[: max(keep.stop, SHORTEST)]
    return numbers, keep


def compute(
    clip: Clip, *, source: ClipCache, full: bool, product: str, apex: ClipCache, recipe: dict, crop: dict
) -> dict:
    numbers, keep = frames_needed(clip, product, apex, recipe)
    size = crop_size(crop["crop"])
    settings = {name: recipe[name] for name in FILTER} | {"fps": recipe["fps"] or clip.fps}
    try:
        if recipe["band"] == "clip":
            settings |= band_of_clip(clip.n_frames, settings["fps"], recipe["low"], recipe["high"])
        transform = None if full else source.extra("transform", clip.id)
        frames = _Frames(clip, numbers, source, None if full else (transform, size), full or bool(recipe["around"]))
        images: Iterable[np.ndarray] = magnify_frames(frames, len(numbers), **settings, keep=keep)
        if full:
            if product == "apex_frame":
                images = list(images)
                (magnified,) = images
            else:
                at = keep.start + int(apex[clip.id])
                (magnified,) = magnify_frames(frames, len(numbers), **settings, keep=slice(at, at + 1))
            transform = clip_transform(magnified, source[clip.id], **crop)
        data = np.empty((keep.stop - keep.start, size, size, 3), np.uint8)
        for image, place in zip(images, data, strict=True):
            place[...] = warp(image[None], transform, size)[0] if full else image
        if frames.whole:
            check_frames(clip)
    except FileError:
        raise
    except MerError as error:
        raise MerError(f"{clip.id}: {error}; or leave such clips out with magnify_eulerian.on_error: exclude") from None
    return {"data": data[0] if product == "apex_frame" else data, "transform": transform}


class _Frames:
    """The frames of `numbers`, one by one, as often as is asked: a clip of minutes does not fit into memory whole."""

    def __init__(self, clip: Clip, numbers: list[int], source: ClipCache, warped: tuple | None, whole: bool):
        self.clip, self.numbers, self.source, self.warped, self.whole = clip, numbers, source, warped, whole

    def __iter__(self) -> Iterator[np.ndarray]:
        if not self.whole:
            yield from (self.source.frame(self.clip.id, t) for t in range(len(self.numbers)))
            return
        for frame in read_paths([self.clip.path(number) for number in self.numbers]):
            yield frame if self.warped is None else warp(frame[None], *self.warped)[0]


def fingerprint(clip: Clip, *, source: ClipCache, full: bool, product: str, apex: ClipCache, recipe: dict) -> str:
    if full:
        where = source[clip.id].tolist()
    else:
        sums = hashlib.sha256()
        for t in range(clip.n_frames):
            sums.update(source.frame(clip.id, t))
        where = sums.hexdigest()
    # The apex is where a whole frame's crop is looked for; a clip of a crop does not depend on it.
    at = int(apex[clip.id]) if full or product == "apex_frame" else None
    around = [clip.path(n) for n in clip.numbers_around(recipe["around"])] if recipe["around"] else []
    return digest(clip.digest, clip.fps, at, where, files_digest(around))


def main(stage, *, index: str, source: str, apex: str, crop: str, recipe: str, out: str):
    section = stage.section
    settings = chosen(section.recipes, recipe, "magnify_eulerian.recipes").model_dump()
    cache = ClipCache(source)
    apexes = ClipCache(apex, "apex")
    rows, excluded = available(clips(read_index(index)), index, cache, apexes)
    align = stage.params.align
    options = crop_options(crop, top_margin=align.top_margin, rotate=align.rotate, box=align.box)
    product, full = Path(out).stem, cache.kind == "landmarks"
    reads = "landmarks" if full else f"{crop}/frames"
    params = {"recipe": settings, "reads": reads} | ({"crop": options} if full else {})
    what = {"source": cache, "full": full, "product": product, "apex": apexes, "recipe": settings}
    build_product(
        out, rows, functools.partial(compute, crop=options, **what), functools.partial(fingerprint, **what),
        kind=product, ragged=product == "frames", params=params, code=stage.code(), spool=stage.spool,
        engine=stage.engine, on_error=section.on_error, excluded=excluded,
    )  # fmt: skip


if __name__ == "__main__":
    run("magnify_eulerian", main)
