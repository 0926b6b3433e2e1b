"""What a frozen network makes of magnified frames; writes data/cache/<corpus>/<chain>/embedding.h5, (L, width) a clip.

    python -m stages.embed synthetic-box224-magnet-linspace_2_13_8-resnet18-layer2-4

A model reads it in place of the frames while its backbone is not trained: so a frame goes through that once, not in
every epoch, fold and pass. Which function makes the features, and its settings, are in the model's READS.
"""

import functools
import hashlib
import importlib
import inspect
from pathlib import Path

from mer.clips import Clip, clips, read_index
from mer.errors import MerError
from mer.models import check_value
from mer.storage.cache import ClipCache, available, build_product, digest
from mer.storage.weights import digest_of, provenance, stamp, subjects_seen
from stages._run import run


def compute(clip: Clip, *, by: str, sequence: ClipCache, weights: str, device: str, **settings) -> dict:
    features = importlib.import_module(f"mer.{by}").features
    data = features(sequence[clip.id], weights, device=device, **settings)
    return {"data": data, "factors": sequence.extra("factors", clip.id)}


def fingerprint(clip: Clip, *, sequence: ClipCache, weights: str, device: str) -> str:
    # The kind of device decides the last bits: a product never mixes two.
    factors = sequence.extra("factors", clip.id).tolist()
    return digest(hashlib.sha256(sequence[clip.id]).hexdigest(), factors, weights, device)


def typed(by: str, settings: list[str]) -> dict:
    """`tap=layer2`, `grid=4` as the keyword arguments of the function that makes the features."""
    function = importlib.import_module(f"mer.{by}").features
    known = inspect.signature(function, eval_str=True).parameters
    found = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in known:
            raise MerError(f"mer.{by}.features has no argument {name!r}; correct the model's READS")
        kind = known[name].annotation
        found[name] = {"True": True, "False": False}.get(text, text) if kind is bool else _number(text, kind)
        check_value(f"mer.{by}.features, {name}", found[name], kind)
    return found


def _number(text: str, kind):
    if kind not in (int, float):
        return text
    try:
        return kind(text)
    except ValueError:
        return text  # check_value says what is wrong with it


def main(stage, *, index: str, sequence: str, weights: str, by: str, settings: list[str], out: str):
    how, frames = typed(by, settings), ClipCache(sequence)
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
