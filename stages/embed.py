"""What a frozen network makes of magnified frames; writes data/cache/<corpus>/<chain>/embedding.h5, (L, width) a clip.

    python -m stages.embed synthetic-box224-magnet-linspace_2_13_8-resnet18-layer2-4

A model reads it in place of the frames while its backbone is not trained: so a frame goes through that once, not in
every epoch, fold and pass. Which function makes the features, and its settings, are in the model's READS.
"""

import functools
import hashlib
import importlib
from pathlib import Path

from mer.clips import Clip, clips, read_index
from mer.storage.build import available, build_product
from mer.storage.cache import ClipCache
from mer.storage.files import digest
from mer.storage.weights import digest_of, provenance, stamp, subjects_seen
from mer.validation import settings_of_embedding
from stages._run import run


def compute(clip: Clip, *, by: str, sequence: ClipCache, weights: str, device: str, **settings) -> dict:
    features = importlib.import_module(f"mer.{by}").features
    data = features(sequence[clip.id], weights, device=device, **settings)
    return {"data": data, "factors": sequence.extra("factors", clip.id)}


def fingerprint(clip: Clip, *, sequence: ClipCache, weights: str, device: str) -> str:
    # The kind of device decides the last bits: a product never mixes two.
    factors = sequence.extra("factors", clip.id).tolist()
    return digest(hashlib.sha256(sequence[clip.id]).hexdigest(), factors, weights, device)


def main(stage, *, index: str, sequence: str, weights: str, by: str, out: str, settings: list[str] | None = None):
    how, frames = settings_of_embedding(by, settings or ()), ClipCache(sequence)
    rows, excluded = available(clips(read_index(index)), index, frames)
    content = digest_of(weights)
    networks = frames.params["networks"] | {Path(weights).stem: provenance(weights)}
    seen = set(frames.params.get("subjects_seen", ())) | subjects_seen(weights)
    build_product(
        out, rows, functools.partial(compute, by=by, sequence=frames, weights=weights, device=stage.device, **how),
        functools.partial(fingerprint, sequence=frames, weights=content, device=stage.device),
        kind="embedding", ragged=False, params={"knobs": how, "weights": content, "networks": networks} | stamp(seen),
        code=stage.code(), spool=stage.spool, engine=stage.one_process, excluded=excluded,
    )  # fmt: skip


if __name__ == "__main__":
    run("embed", main)
