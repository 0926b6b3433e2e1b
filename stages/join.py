"""Copies one product of several corpora into one file; writes data/cache/<composite>/<chain>/<kind>.h5.

    python -m stages.join composite-box224-flow

Nothing is computed anew. Ids begin with the corpus, so clips of different corpora stay apart.
"""

from pathlib import Path

from mer.errors import MerError
from mer.storage.cache import CacheWriter, ClipCache
from stages._run import run


def main(stage, *, parts: list[str], out: str):
    join(Path(out), [ClipCache(part) for part in parts])


def join(path: Path, caches: list[ClipCache]) -> None:
    """One product from several. Raises MerError unless they were made with the same parameters."""
    for cache in caches[1:]:
        if _form(cache) != _form(caches[0]):
            raise MerError(
                f"{cache.path}: was made with {cache.params}, {caches[0].path} with {caches[0].params}; "
                "a composite needs the same parameters in all of its parts: run dvc repro"
            )
    excluded = {clip_id: reason for cache in caches for clip_id, reason in cache.excluded.items()}
    where = {clip_id: cache for cache in caches for clip_id in cache.ids}
    sources = {"source": " and ".join(c.params["source"] for c in caches)} if "source" in caches[0].params else {}
    params = caches[0].params | sources
    with CacheWriter(path, kind=caches[0].kind, ragged=caches[0].ragged, params=params, excluded=excluded) as writer:
        for clip_id in sorted(where):
            cache = where[clip_id]
            writer.append(clip_id, cache[clip_id], key=cache.keys[cache.ids.index(clip_id)], **cache.extras(clip_id))


def _form(cache: ClipCache) -> list:
    """What parts must have in common. Flow as it was released names its source, and any two sources have one form."""
    return ["source" in cache.params, {name: value for name, value in cache.params.items() if name != "source"}]


if __name__ == "__main__":
    run("join", main)
