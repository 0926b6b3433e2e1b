"""Eulerian magnification; writes data/cache/<corpus>/<crop>-<recipe>/{frames,apex_frame}.h5.

    python -m stages.magnify_eulerian synthetic-box224-msmmt

Product `frames`: the magnified clip, (T, size, size, 3) uint8, which later stages read like a crop's frames. Product
`apex_frame`: its apex alone, (size, size, 3). A run reads a crop's frames (`box224/frames`), or the corpus's own frames
before any crop (`landmarks`): then the crop's box is looked for in the magnified apex, as DCMA does it (D-02).
"""

import functools
import hashlib

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
        at = first + clip.position(int(apex[clip.id]))
        keep = slice(at, at + 1)
    if recipe["filter"] in CAUSAL:  # what comes later cannot matter
        numbers = numbers[: max(keep.stop, SHORTEST)]
    return numbers, keep


def compute(
    clip: Clip, *, source: ClipCache, reads: str, product: str, apex: ClipCache, recipe: dict, crop: dict
) -> dict:
    numbers, keep = frames_needed(clip, product, apex, recipe)
    full, size = reads == "landmarks", crop_size(crop["crop"])
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
        apex_at = 0 if product == "apex_frame" else clip.position(int(apex[clip.id]))
        transform = clip_transform(magnified[apex_at], source[clip.id], **crop)
        magnified = warp(magnified, transform, size)
    return {"data": magnified[0] if product == "apex_frame" else magnified, "transform": transform}


def fingerprint(clip: Clip, *, source: ClipCache, reads: str, product: str, apex: ClipCache, recipe: dict) -> str:
    full = reads == "landmarks"
    where = source[clip.id].tolist() if full else hashlib.sha256(source[clip.id]).hexdigest()
    # The apex is where a whole frame's crop is looked for; a clip of a crop does not depend on it.
    at = int(apex[clip.id]) if full or product == "apex_frame" else None
    around = [clip.path(n) for n in clip.numbers_around(recipe["around"])] if recipe["around"] else []
    return digest(clip.digest, clip.fps, at, where, files_digest(around))


def main(stage):
    item, section = stage.item, stage.section
    index = f"data/index/{item.corpus}.csv"
    source = ClipCache(f"data/cache/{item.corpus}/{item.reads}.h5", item.reads.split("/")[-1])
    apex = ClipCache(f"data/cache/{item.corpus}/{item.crop}/apex.h5", "apex")
    rows, excluded = available(clips(read_index(index)), index, source, apex)
    recipe = section.recipes[item.recipe].model_dump()
    align = stage.params.align
    crop = crop_options(item.crop, top_margin=align.top_margin, rotate=align.rotate, box=align.box)
    params = {"recipe": recipe, "reads": item.reads} | ({"crop": crop} if item.reads == "landmarks" else {})
    what = {"source": source, "reads": item.reads, "product": item.product, "apex": apex, "recipe": recipe}
    build_product(
        f"data/cache/{item.corpus}/{item.crop}-{item.recipe}/{item.product}.h5", rows,
        functools.partial(compute, crop=crop, **what), functools.partial(fingerprint, **what), kind=item.product,
        ragged=item.product == "frames", params=params, code=stage.code(), spool=stage.spool, engine=stage.engine,
        on_error=section.on_error, excluded=excluded,
    )  # fmt: skip


if __name__ == "__main__":
    run("magnify_eulerian", main)
