"""Copies the products of several corpora into one composite, and joins their indices.

    python -m stages.join composite-box224

Ids begin with the corpus, so clips and subjects of different corpora stay apart; nothing is computed anew. Which clips
count is the selection's business (mer/corpora/megc2019.py for MEGC2019).
"""

from pathlib import Path

import pandas as pd

from mer import corpora
from mer.clips import read_index, write_index
from mer.errors import MerError
from mer.storage.cache import CacheWriter, ClipCache
from stages._run import run


def main(stage):
    item = stage.item
    composite = stage.key.removesuffix(f"-{item.chain}")
    parts = list(dict.fromkeys(item.parts))
    table = pd.concat([read_index(f"data/index/{c}.csv") for c in parts], ignore_index=True)
    check_counts(stage.key, item, table)
    write_index(Path(f"data/index/{composite}.csv"), table)
    for kind in dict.fromkeys(item.products):
        caches = [ClipCache(f"data/cache/{c}/{item.chain}/{kind}.h5", kind) for c in parts]
        join(Path(f"data/cache/{composite}/{item.chain}/{kind}.h5"), caches)


def check_counts(key: str, item, table: pd.DataFrame) -> None:
    """Raise MerError unless the selection has as many clips and subjects as expected."""
    selected = corpora.select(table, item.labels, item.classes)
    found = {"clips": len(selected), "subjects": len(selected[["corpus", "subject"]].drop_duplicates())}
    for what, wanted in item.expect.model_dump().items():
        if wanted is not None and found[what] != wanted:
            raise MerError(
                f"data/index/{key}: has {found[what]} {what} in {item.classes} classes, join.runs.{key}.expect.{what} "
                f"says {wanted}; complete the corpora, or correct the number"
            )


def join(path: Path, caches: list[ClipCache]) -> None:
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
        path, kind=caches[0].kind, ragged=caches[0].ragged, params=caches[0].params, excluded=excluded
    ) as writer:
        for clip_id in sorted(where):
            cache = where[clip_id]
            writer.append(clip_id, cache[clip_id], key=cache.keys[cache.ids.index(clip_id)], **cache.extras(clip_id))


if __name__ == "__main__":
    run("join", main)
