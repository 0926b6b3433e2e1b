"""Line 1: every kernel and one training step of every network, on the device against the CPU.

Differences are absolute, in the unit of what is compared, or shares of its largest value where `relative` says so.
float32 is without TF32; MagNet also runs with it, as torch has convolutions on a GPU.

Not here, since they run on a CPU alone: optical_strain (NumPy; what it makes of the flow is compared), dynamic_image,
eulerian, linear.
"""

import copy
import functools

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, vmap

from benchmarks.gpu import _data, _steps
from benchmarks.gpu._run import Line, Session, check
from mer.loso.stacked_adam import StackedAdam
from mer.magnification import moving_layers
from mer.motion.strain import optical_strain
from mer.motion.transforms import mirror_flow, turn_images
from mer.motion.tvl1 import tvl1
from mer.networks import random_layers
from mer.networks.norm import MaskedBatchNorm

NUMBER, TITLE = 1, "CPU against CUDA"


def settings(session: Session) -> dict:
    return {"weights": session.weights.name if session.weights else "random"}


# ---- motion ---------------------------------------------------------------------------------------------------------


def flow(session: Session) -> list[dict]:
    """At single pixels rounding decides which value is the median, so the mean is what tells."""
    prev, following, _ = _data.known_pairs(session.pick(6, 2), session.pick(224, 40))
    prev, following = torch.from_numpy(prev), torch.from_numpy(following)
    host = tvl1(prev, following)
    a, b = prev.to(session.device), following.to(session.device)
    together = tvl1(a, b).cpu()
    single = torch.stack([tvl1(*pair).cpu() for pair in zip(a, b, strict=True)])
    strains = [optical_strain(f.numpy()) for f in (together, host)]
    return [
        check("tvl1, mean px", together, host, 5e-4, of=torch.mean),
        check("tvl1, largest px", together, host, 0.25),
        check("tvl1, batched equals single, mean px", together, single, 5e-4, of=torch.mean),
        check("tvl1, batched equals single, largest px", together, single, 0.25),
        check("optical_strain of that flow, mean", *strains, 5e-4, of=torch.mean),
    ]


def transforms(session: Session) -> list[dict]:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(5, 3, 28, 28)).astype(np.float32) * 20)
    degrees, scale = (
        torch.from_numpy(x.astype(np.float32)) for x in (rng.uniform(-15, 15, 5), rng.uniform(0.9, 1.1, 5))
    )
    turned = turn_images(images, degrees, scale, vectors=(0, 1))
    on = [x.to(session.device) for x in (images, degrees, scale)]
    found = turn_images(*on, vectors=(0, 1))
    single = torch.cat([turn_images(*(x[k : k + 1] for x in on), vectors=(0, 1)) for k in range(5)])
    return [
        check("turn_images", found, turned, 1e-4, relative=True),
        check("turn_images, batched equals single", found, single, 1e-6, relative=True),
        check("mirror_flow", mirror_flow(on[0]), mirror_flow(images), 0),
    ]


def layers(session: Session) -> list[dict]:
    scenes = moving_layers.draw([], batch_size=3, size=session.pick(96, 16), seed=0, step=0)
    found, expected = (moving_layers.paint(scenes, device) for device in (session.device, "cpu"))
    names = moving_layers.Quadruples._fields
    return [check(f"moving_layers, {n}", f, e, 1e-4) for n, f, e in zip(names, found, expected, strict=True)]


# ---- parts of the engine --------------------------------------------------------------------------------------------


def dropout(session: Session) -> list[dict]:
    """Places at which a mask differs: none may."""
    shape, folds = session.pick((64, 16, 10, 10), (4, 3, 5, 5)), 4
    words = torch.from_numpy(
        random_layers.keys(range(7, 7 + folds), range(folds), 2)[:, 1]
    )  # of each fold's second layer

    def alone(drop, fold: int, ones):
        random_layers.begin(drop)
        return functional_call(drop, {"key": words[fold].to(ones.device)}, (ones,))

    results = []
    for p, axes in ((0.5, None), (0.1, None), (0.5, 2), (0.3, 1)):
        drop = random_layers.Dropout(p, axes).train()
        ones = torch.ones(shape)
        expected = torch.stack([alone(drop, k, ones) for k in range(folds)]) > 0
        ones = ones.to(session.device)
        ways = {
            "": torch.stack([alone(drop, k, ones) for k in range(folds)]),
            ", channels last": torch.stack(
                [alone(drop, k, ones.to(memory_format=torch.channels_last)) for k in range(folds)]
            ),
        }
        random_layers.begin(drop)
        side = vmap(lambda key, x, drop=drop: functional_call(drop, {"key": key}, (x,)), randomness="error")
        ways[", folds side by side"] = side(words.to(session.device), ones.expand(folds, *shape))
        differing = {way: (mask.cpu() > 0) != expected for way, mask in ways.items()}
        name = f"Dropout({p}, axes={axes})"
        results += [check(name + way, d.sum(), torch.zeros(()), 0) for way, d in differing.items()]
    return results


def batch_norm(session: Session) -> list[dict]:
    """With padding, against nn.BatchNorm2d on the real rows in float64."""
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(9, 6, 7, 7, generator=generator)
    pull = torch.randn(9, 6, 7, 7, generator=generator)
    real = torch.arange(9) < 7
    norm = nn.BatchNorm2d(6)
    nn.init.normal_(norm.weight, 1, 0.3, generator)
    nn.init.normal_(norm.bias, 0, 0.3, generator)

    def step(layer, x, pull) -> list[torch.Tensor]:
        x = x.clone().requires_grad_()
        out = layer(x)
        gradients = torch.autograd.grad((out * pull).sum(), [x, layer.weight, layer.bias])
        return [out[: real.sum()], gradients[0][: real.sum()], *gradients[1:], layer.running_mean, layer.running_var]

    expected = step(copy.deepcopy(norm).double(), x[real].double(), pull[real].double())
    names = ("output", "gradient", "gradient of weight", "gradient of bias", "running mean", "running variance")
    results = []
    for kind, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        layer = MaskedBatchNorm(copy.deepcopy(norm)).to(session.device).train()
        layer.rows = real.to(session.device)
        weight = pull * real[:, None, None, None]
        found = step(layer, x.to(session.device, kind), weight.to(session.device, kind))
        label = str(kind).removeprefix("torch.")
        results += [
            check(f"MaskedBatchNorm, {label}, {name}", f, e, tolerance, relative=True)
            for name, f, e in zip(names, found, expected, strict=True)
        ]
    return results


def adam(session: Session) -> list[dict]:
    """Three folds, ten steps, some of which a fold sits out; against torch's own, fold by fold, on the CPU."""
    rng, folds, size = np.random.default_rng(0), 3, session.pick(10_000, 50)
    start = torch.from_numpy(rng.normal(size=(folds, size)).astype(np.float32))
    steps = [
        (torch.from_numpy(rng.normal(size=(folds, size)).astype(np.float32)), rng.uniform(1e-4, 1e-2, folds),
         rng.random(folds) < 0.7) for _ in range(10)
    ]  # fmt: skip
    results = []
    for optimizer, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        ours = start.clone().to(session.device)
        stacked = StackedAdam(ours, weight_decay=0.01, optimizer=optimizer)
        theirs = [start[k].clone().requires_grad_() for k in range(folds)]
        plain = [kind([p], weight_decay=0.01) for p in theirs]
        for gradient, rates, active in steps:
            stacked.step(gradient.to(session.device), rates, active)
            for k in np.flatnonzero(active):
                theirs[k].grad, plain[k].param_groups[0]["lr"] = gradient[k].clone(), rates[k]
                plain[k].step()
        results.append(check(f"StackedAdam against {kind.__name__}", ours, torch.stack(theirs), 1e-6, relative=True))
    return results


PARTS = {
    "tvl1, strain": flow, "transforms": transforms, "moving layers": layers, "dropout": dropout,
    "batch norm": batch_norm, "adam": adam, "ststnet": _steps.ststnet, "transformer": _steps.transformer,
    "uamrn": _steps.uamrn_step, "msmmt": _steps.msmmt_step, "attention map": _steps.attention_map,
    "sparse attention": _steps.sparse_attention, "magnet": _steps.magnet, "magnet training": _steps.magnet_step,
}  # fmt: skip


def measure(line: Line) -> dict:
    for name, work in PARTS.items():
        line.part(name, functools.partial(work, line.session), needs=line.session.pick(15, 1))
    checks = [c for part in line.parts.values() for c in part["result"]]
    wrong = [c["name"] for c in checks if not c["passed"]]
    return {"checks": len(checks), "passed": not wrong, "not_passed": wrong}
