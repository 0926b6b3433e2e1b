"""A tiny project that begins with magnified sequences: what a model reads, and what comes behind, without the frames.

Fifteen clips of three people are written by hand in place of a corpus, and weights in place of a pretraining;
tests/stages/test_graph.py runs the whole way from frames.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mer.clips import COLUMNS, write_index
from mer.networks.resnet import ResNet18
from mer.params import load
from mer.products import named_factors
from mer.storage.cache import CacheWriter
from mer.storage.weights import save_weights
from tests.helpers.in_process import command
from tests.helpers.project import edit, make_project

EXPERIMENT = "synthetic-uamrn"
SEQUENCE = "synthetic-box224-magnet-linspace_2_13_8"
EMBED = f"{SEQUENCE}-resnet18-layer2-4"
MAGNET = "data/cache/synthetic/box224-magnet-linspace_2_13_8/magnet.h5"
EMBEDDING = "data/cache/synthetic/box224-magnet-linspace_2_13_8-resnet18-layer2-4/embedding.h5"
WEIGHTS = "data/weights/resnet18.safetensors"
MAGNIFIED = "2 steps, none of them made here"  # what the product written by hand says of MagNet
DRAWN = "drawn with seed 0"  # what the file of weights says of itself


def begin(root: Path, folder: Path) -> Path:
    """A project up to its magnified sequences, and with weights of a ResNet-18."""
    make_project(root, folder)

    def small(params):
        params["runtime"].update(workers=1, device="cpu")
        params["uamrn"].update(factors="linspace_2_13_8", tap="layer2", grid=4, n_h=2, samples=2)

    edit(folder, small)
    # Classes of different sizes, as gamma is held against them.
    emotions = ["others", "happiness", "disgust", "repression", "surprise"] * 3
    emotions[6] = "others"
    rows = pd.DataFrame(dict.fromkeys(COLUMNS, ""), index=range(15))
    rows["clip"] = [f"EP01_{k % 5 + 1:02d}" for k in range(15)]
    rows["corpus"], rows["subject"] = "synthetic", [f"sub{k // 5 + 1:02d}" for k in range(15)]
    rows["id"] = rows["corpus"] + "/" + rows["subject"] + "/" + rows["clip"]
    rows["emotion"], rows["fps"], rows["onset"], rows["apex"], rows["offset"] = emotions, 200.0, 1, 5, 9
    write_index(folder / "data/index/synthetic.csv", rows)
    write_magnified(folder, rows["id"])
    save_weights(drawn(0), folder / WEIGHTS, {"weights": DRAWN})
    return folder


def drawn(seed: int) -> ResNet18:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNet18()


def write_magnified(folder: Path, ids, excluded=None, **params) -> None:
    """Still textures and motions, grown by the factors; 32 px. params: of the product, beside its networks."""
    factors = named_factors(load(folder / "params.yaml").knobs["uamrn"]["factors"])
    params = {"networks": {"magnet": MAGNIFIED}, **params}
    with CacheWriter(folder / MAGNET, kind="magnet", ragged=False, params=params, excluded=excluded) as file:
        for clip_id in ids:
            rng = np.random.default_rng([ord(letter) for letter in clip_id])
            still, motion = rng.uniform(60, 200, (32, 32, 3)), rng.normal(0, 4, (32, 32, 3))
            frames = still + factors[:, None, None, None] * motion
            file.append(clip_id, frames.clip(0, 255).astype(np.uint8), factors=factors)


@contextlib.contextmanager
def copied(source: Path, target: Path) -> Iterator[Path]:
    """Code is the source's own, products are links: no stage writes into a file that is there. Removed at the end."""
    shutil.copytree(source / "data", target / "data", copy_function=os.link)
    for name in ("params.yaml", "plan.yaml"):
        shutil.copyfile(source / name, target / name)
    for name in ("mer", "stages", "dvc.yaml"):
        (target / name).symlink_to(source / name)
    yield target
    shutil.rmtree(target)  # each holds 45 MB of weights


def train(folder: Path, *arguments: str, **changes) -> tuple[int, list[str]]:
    """Stage train with changes to the experiment; arguments: instead of those in plan.yaml."""
    edit(folder, lambda p: p["experiments"][EXPERIMENT].update(changes))
    return command(folder, "train", EXPERIMENT, *arguments)


def protocol(folder: Path) -> dict:
    return json.loads((folder / f"data/predictions/{EXPERIMENT}/run.json").read_text())["protocol"]
