"""Draws what a network that was pretrained on pairs of frames restores; writes metrics/pretraining/<name>.json and, in
the folder <name>, pairs.png and the loss curve.

    python -m stages.restore micronbert
"""

from pathlib import Path

import numpy as np
import torch

from mer.evaluation import restored
from mer.evaluation.reports import write_json
from mer.pretraining import load_network
from mer.pretraining.frame_pairs import Batch, Pairs, prepared
from mer.storage.shards import Shards
from mer.storage.weights import weights_about
from stages._run import chosen, run

MOST = 256  # pairs that the numbers are of
AT_ONCE = 32


def main(stage):
    entry, key = chosen(stage.params.pretrain.runs, stage.key, "pretrain.runs"), stage.key
    path, folder = Path("data/weights") / f"{key}.safetensors", Path("metrics/pretraining")
    network = load_network(entry.network).load_user_weights(path, **entry.knobs, size=entry.size)
    shards = Shards([Path("data/frames", name) for name in entry.shards()], exclude=entry.exclude_subjects)
    pairs = Pairs(shards, entry.gap, entry.unit, stage.params.pretrain.seed + 1)  # other gaps and blocks than trained
    found, shown = measured(network.to(stage.device).eval(), pairs, entry, stage.params.pretrain.seed + 1)
    points = restored.points_of(weights_about(path).get("loss", []))
    content = {"steps": int(points[-1, 0]) if len(points) else None, **found}
    write_json(folder / f"{key}.json", content)
    swapped = network.pretext == "swap"
    restored.pairs_figure(shown, folder / key / "pairs.png", key, "swapped" if swapped else "masked")
    if len(points):  # a file of the user's own has no curve
        restored.loss_figure(points, found["given_back"] if swapped else None, folder / key / "loss.png", key)


@torch.no_grad()
def measured(network, pairs: Pairs, entry, seed: int) -> tuple[dict, restored.Pictures]:
    """The numbers of MOST pairs, and pictures of the first of them that are of different recordings."""
    how = {name: getattr(entry, name) for name in ("ratio", "min_block", "min_aspect", "count")}
    device = next(network.parameters()).device
    batch = min(MOST, len(pairs))
    places = np.stack(pairs.places(0, batch), 1)
    _, drawn = np.unique(places[:, 0], return_index=True)
    drawn = np.sort(drawn)[: restored.ROWS]
    parts: dict[str, list] = {}
    for start in range(0, batch, AT_ONCE):
        rows = slice(start, min(batch, start + AT_ONCE))
        frames = torch.from_numpy(pairs.read(0, batch, rows)).to(device)
        given = prepared(network, frames, 0, batch, rows, seed=seed, crop_area=None, **how)
        for name, value in of_batch(network, given, frames, entry.target, drawn - start).items():
            parts.setdefault(name, []).append(value)
    one = {name: np.concatenate(values) for name, values in parts.items()}
    both = (one["diagonal"], one["opposite"]) if "diagonal" in one else None
    found = restored.numbers(one["errors"], one["copied"], one["cells"], both, one["contexts"])
    side = round(one["cells"].shape[1] ** 0.5)
    square = {n: one[n][drawn].reshape(-1, side, side) for n in ("cells", "diagonal", "scores") if n in one}
    names = [f"part {s}, {a} and {b}" for s, a, b in places[drawn].tolist()]
    cells = square.pop("cells")
    shown = restored.Pictures(one["first"], one["other"], one["given"], one["restored"], cells, square, names)
    return found, shown


def of_batch(network, batch: Batch, frames: torch.Tensor, target: str, drawn: np.ndarray) -> dict[str, np.ndarray]:
    """What `numbers` and `Pictures` need of a batch of b rows, by name: (b, …); pictures of the rows `drawn` only.

    frames: (2, b, H, W, 3) uint8. drawn: rows counted from the first of this batch; those outside it are left out.
    """
    found = network(batch.first, batch.other, batch.cells)
    opposite = None
    if found.diagonal is not None:
        opposite = network(batch.first, batch.other, ~batch.cells).diagonal
    rows = torch.from_numpy(drawn[(drawn >= 0) & (drawn < len(batch.first))]).to(frames.device)
    wanted, copied = (network.wanted(images, target) for images in (batch.first, batch.other))
    grey = network.images(found, batch.first, target)[rows]
    given = network.grey_levels(network.seen(batch.first, batch.other, batch.cells))[rows]
    made = {
        "errors": (found.patches.float() - wanted).square().mean(-1), "cells": batch.cells,
        "copied": (copied - wanted).square().mean(-1),
        "diagonal": found.diagonal, "opposite": opposite, "scores": found.scores,
        "contexts": network.backbone.contexts(batch.other),
        "first": frames[0][rows], "other": frames[1][rows], "given": picture(given), "restored": picture(grey),
    }  # fmt: skip
    return {name: value.cpu().numpy() for name, value in made.items() if value is not None}


def picture(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) grey levels as (B, H, W, 3) uint8."""
    return images.round().clamp(0, 255).to(torch.uint8).movedim(1, -1)


if __name__ == "__main__":
    run("restore", main)
