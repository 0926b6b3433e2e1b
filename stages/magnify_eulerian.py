"""Eulerian magnification; writes data/cache/<corpus>/<chain>/{frames,apex_frame}.h5.

    python -m stages.magnify_eulerian synthetic-box224-msmmt

Product `frames`: the magnified clip, (T, size, size, 3) uint8, which later stages read like a crop's frames. Product
`apex_frame`: its apex alone, (size, size, 3). The source is a crop's frames (chain box224-msmmt); or landmarks, which
stand for the corpus's own frames before any crop (chain dcma-box112): then the crop's box is looked for in the
magnified apex, as DCMA does it (D-02).
"""

import functools
import hashlib
from pathlib import Path

import numpy as np

from mer.clips import Clip, clips, files_digest, read_index, read_paths
from mer.errors import MerError
from mer.faces.alignment import clip_transform, crop_options, crop_size, warp
from mer.magnification.eulerian import CAUSAL, SHORTEST, band_of_clip, magnify
from mer.storage.cache import ClipCache, available, build_product, digest
from stages._run import run

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
    settings = {name: recipe[name] for name in FILTER} | {"fps": recipe["fps"] or clip.fps, "keep": keep}
    try:
        if full or recipe["around"]:
            frames = np.stack(list(read_paths([clip.path(number) for number in numbers])))
        else:
            frames = source[clip.id][: len(numbers)]
        if not full:
            transform = source.extra("transform", clip.id)
            if recipe["around"]:
                frames = warp(frames, transform, size)
        if recipe["band"] == "clip":
            settings |= band_of_clip(clip.n_frames, settings["fps"], recipe["low"], recipe["high"])
        magnified = magnify(frames, **settings)
    except MerError as error:
        raise MerError(f"{clip.id}: {error}; or leave such clips out with magnify_eulerian.on_error: exclude") from None
    if full:
        apex_at = 0 if product == "apex_frame" else int(apex[clip.id])
        transform = clip_transform(magnified[apex_at], source[clip.id], **crop)
        magnified = warp(magnified, transform, size)
    return {"data": magnified[0] if product == "apex_frame" else magnified, "transform": transform}


def fingerprint(clip: Clip, *, source: ClipCache, full: bool, product: str, apex: ClipCache, recipe: dict) -> str:
    where = source[clip.id].tolist() if full else hashlib.sha256(source[clip.id]).hexdigest()
    # The apex is where a whole frame's crop is looked for; a clip of a crop does not depend on it.
    at = int(apex[clip.id]) if full or product == "apex_frame" else None
    around = [clip.path(n) for n in clip.numbers_around(recipe["around"])] if recipe["around"] else []
    return digest(clip.digest, clip.fps, at, where, files_digest(around))


def main(stage, *, index: str, source: str, apex: str, crop: str, recipe: str, out: str):
    cache, section = ClipCache(source), stage.section
    apexes = ClipCache(apex, "apex")
    rows, excluded = available(clips(read_index(index)), index, cache, apexes)
    settings = section.recipes[recipe].model_dump()
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
