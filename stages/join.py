"""Copies the products of several corpora into one composite, and joins their indices.

    python -m stages.join composite-box224

Ids begin with the corpus, so clips and subjects of different corpora stay apart; nothing is computed anew. Which clips
count is the selection's business (mer/corpora/megc2019.py for MEGC2019).
"""

from pathlib import Path

import pandas as pd

from mer.cache import CacheWriter, ClipCache
from mer.clips import read_index, write_index
from mer.errors import MerError
from stages._run import run


def main(stage):
    item = stage.item
    composite = stage.key.removesuffix(f"-{item.chain}")
    parts = list(dict.fromkeys(item.parts))
    write_index(Path(f"data/index/{composite}.csv"), pd.concat([read_index(f"data/index/{c}.csv") for c in parts]))
    for kind in dict.fromkeys(item.products):
        caches = [ClipCache(f"data/cache/{c}/{item.chain}/{kind}.h5", kind) for c in parts]
        join(Path(f"data/cache/{composite}/{item.chain}/{kind}.h5"), caches, stage.spool)


def join(path: Path, caches: list[ClipCache], scratch: Path) -> None:
    """One product from several. Raises MerError unless they were made with the same parameters."""
    for cache in caches[1:]:
        if cache.params != caches[0].params:
            raise MerError(
                f"{cache.path}: was made with {cache.params}, {caches[0].path} with {caches[0].params}; "
                "a composite needs the same parameters in all of its parts: run dvc repro"
            )
    excluded = {clip_id: reason for cache in caches for clip_id, reason in cache.excluded.items()}
    where = {clip_id: cache for cache in caches for clip_id in cache.ids}
    with CacheWriter(
        path, kind=caches[0].kind, ragged=caches[0].ragged, params=caches[0].params, excluded=excluded, scratch=scratch
    ) as writer:
        for clip_id in sorted(where):
            cache = where[clip_id]
            writer.append(clip_id, cache[clip_id], key=cache.keys[cache.ids.index(clip_id)], **cache.extras(clip_id))


if __name__ == "__main__":
    run("join", main)
