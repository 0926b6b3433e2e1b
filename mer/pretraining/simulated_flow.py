"""Task `simulated_flow`: a network learns action units and emotions from flow maps that nobody recorded.

Every step draws new maps (mer.synthetic.flow_maps), brings them into the form of the public releases (each channel
stretched, mer.stretch) and mirrors none, as the simulator shows both sides alike. The loss is
the cross entropy of each unit, present or not, and of the emotion's class. No label of a corpus has a part in it.
"""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mer.errors import MerError
from mer.facs import CLASSES, TARGETS
from mer.pretraining import Context, Made, load_network, loop
from mer.storage.files import digest
from mer.stretch import stretched
from mer.synthetic.flow_maps import FlowMaps, Nuisance, changed_nuisance, draw

HELD_OUT = 4096  # maps of a stream of their own, by which the note says what was learned


def run(entry: dict[str, Any], context: Context) -> Made:
    how = changed_nuisance(entry["nuisance"], f"{context.where}.nuisance")
    module = load_network(entry["network"])
    if getattr(module, "PRETRAINED", None) != CLASSES:
        raise MerError(f"{context.where}.network: {entry['network']} tells no action units; take action_units")
    with torch.random.fork_rng():
        torch.manual_seed(context.seed)
        network = module.build_pretrained(**entry["knobs"])
    scores = train(
        network, how, steps=entry["steps"], batch_size=entry["batch_size"], lr=entry["lr"],
        weight_decay=entry["weight_decay"], emotion=entry["emotion"], seed=context.seed, device=context.device,
        checkpoint=context.checkpoint, code=context.code, progress=context.progress,
    )  # fmt: skip
    about = f"task: simulated_flow, {entry['steps']} steps of {entry['batch_size']} simulated maps"
    return Made(network, {"weights": about, **{name: f"{value:.3f}" for name, value in scores.items()}})


def train(
    network: torch.nn.Module,
    how: Nuisance,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    weight_decay: float = 1e-4,
    emotion: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Any = None,
    every: int = 50,
    code: str = "",
    progress: bool = False,
) -> dict[str, float]:
    """Train a network in place on maps that are drawn for it, with a rate that falls as half a cosine.

    Args:
        network: maps (B, 3, 28, 28) to logits (B, units + classes).
        how: what the maps have beside the expression.
        lr: the first learning rate, of AdamW with `weight_decay`. emotion: weight of the class in the loss.
        seed: from which all maps come. checkpoint, every, code: as for mer.pretraining.loop.train and the other tasks.

    Returns:
        On maps that were not learned from: `uar` of the classes, and `auc`, the mean over the units of the area under
        the ROC curve.

    Raises:
        MerError: a loss or gradient that is not finite.
    """
    network.to(device)
    initial = [[name, float(value.double().sum())] for name, value in network.state_dict().items()]
    key = digest("simulated_flow", repr(how), steps, batch_size, lr, weight_decay, emotion, seed, initial, code, device)

    @functools.lru_cache(maxsize=1)
    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        return _tensors(draw(np.random.default_rng([seed, 1, step]), batch_size, nuisance=how), device)

    def objective(step: int) -> Tensor:
        maps, units, label = batch(step)
        logits = network(maps)
        unit = F.binary_cross_entropy_with_logits(logits[:, : len(TARGETS)], units)
        return unit + emotion * F.cross_entropy(logits[:, len(TARGETS) :], label)

    loop.train(
        network, objective, task="simulated_flow", steps=steps, key=key, checkpoint=checkpoint, every=every,
        optimizer=torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay), progress=progress,
        rate=lambda step: lr * 0.5 * (1 + np.cos(np.pi * step / steps)),
        step_seed=lambda step: int(np.random.default_rng([seed, 2, step]).integers(2**31)),
    )  # fmt: skip
    return scores(network, draw(np.random.default_rng([seed, 3]), HELD_OUT, nuisance=how), device)


@torch.inference_mode()
def scores(network: torch.nn.Module, maps: FlowMaps, device: str = "cpu") -> dict[str, float]:
    """uar and auc, as `train` returns them."""
    from sklearn.metrics import recall_score, roc_auc_score

    inputs, _, _ = _tensors(maps, device)
    logits = torch.cat([network(part) for part in inputs.split(256)]).cpu().numpy()
    both = [k for k in range(len(TARGETS)) if 0 < maps.units[:, k].sum() < len(maps.units)]
    return {
        "uar": float(recall_score(maps.label, logits[:, len(TARGETS) :].argmax(1), average="macro")),
        "auc": float(np.mean([roc_auc_score(maps.units[:, k], logits[:, k]) for k in both])),
    }


def _tensors(maps: FlowMaps, device: str) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.from_numpy(a).to(device) for a in (stretched(maps.flow), maps.units, maps.label))  # type: ignore[return-value]
