"""Features of magnified frames by a frozen ResNet-18; writes data/cache/<corpus>/<crop>/embedding.h5.

    python -m stages.embed synthetic-box224

(L, width) float32 a clip: what UAMRN reads in place of the frames while its backbone is not trained (U-21). So a frame
goes through that once, not in every epoch, fold and pass. Which stage of it is tapped, and how its maps are pooled, are
UAMRN's own knobs (U-20).
"""

import functools
import hashlib

from mer.clips import Clip, clips, read_index
from mer.errors import MerError
from mer.networks.resnet import CHANNELS, features
from mer.parallel import Engine
from mer.storage.cache import ClipCache, available, build_product, digest
from mer.storage.weights import digest_of, told_of
from stages._run import run


def compute(clip: Clip, *, magnet: ClipCache, weights: str, tap: str, grid: int, device: str) -> dict:
    return {"data": features(magnet[clip.id], weights, tap, grid, device), "factors": magnet.extra("factors", clip.id)}


def fingerprint(clip: Clip, *, magnet: ClipCache, weights: str, device: str) -> str:
    # The kind of device decides the last bits: a product never mixes two.
    factors = magnet.extra("factors", clip.id).tolist()
    return digest(hashlib.sha256(magnet[clip.id]).hexdigest(), factors, weights, device)


def knobs(section: dict) -> dict:
    """tap and grid, where a ResNet can be cut so: nothing else has looked at them if no experiment has them."""
    for name in ("tap", "grid"):
        if name not in section:
            raise MerError(f"params.yaml: uamrn.{name} is missing; copy it from conf/base.yaml")
    tap, grid = section["tap"], section["grid"]
    if tap not in CHANNELS:
        raise MerError(f"params.yaml: uamrn.tap is {tap!r}; valid: {', '.join(CHANNELS)}")
    if type(grid) is not int or grid < 1:
        raise MerError(f"params.yaml: uamrn.grid is {grid!r}; needed is a whole number from 1")
    return {"tap": tap, "grid": grid}


def main(stage):
    item, how = stage.item, knobs(stage.params.knobs.get("uamrn", {}))
    index = f"data/index/{item.corpus}.csv"
    magnet = ClipCache(f"data/cache/{item.corpus}/{item.crop}/magnet.h5", "magnet")
    rows, excluded = available(clips(read_index(index)), index, magnet)
    weights = f"data/weights/{item.weights}.safetensors"
    content = digest_of(weights)
    networks = magnet.params["networks"] | {item.weights: told_of(weights)}
    # A GPU is fed by one process.
    engine = stage.engine if stage.device == "cpu" else Engine(workers=1, progress=True)
    build_product(
        f"data/cache/{item.corpus}/{item.crop}/embedding.h5", rows,
        functools.partial(compute, magnet=magnet, weights=weights, device=stage.device, **how),
        functools.partial(fingerprint, magnet=magnet, weights=content, device=stage.device),
        kind="embedding", ragged=False, params={"knobs": how, "weights": content, "networks": networks},
        code=stage.code(), spool=stage.spool, engine=engine, excluded=excluded,
    )  # fmt: skip


if __name__ == "__main__":
    run("embed", main)
