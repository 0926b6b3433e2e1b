"""Line 1's networks: a training step of each, and what MagNet makes of frames, on the device against the CPU."""

import copy
import functools
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu import _data
from benchmarks.gpu._run import Session, check, tf32
from benchmarks.loso import Transformer
from mer import models
from mer.loso.loop import train_folds
from mer.loso.optim import Schedule
from mer.loso.stacked_folds import vmap_obstacle
from mer.loso.task import Task, TrainingPlan, cross_entropy
from mer.magnification import moving_layers
from mer.magnification.magnet import MagNet, load_magnet, magnify_pair
from mer.models import msmmt, uamrn
from mer.networks.resnet import ResNet18
from mer.networks.vit import attention_with_map
from mer.pretraining.moving_layers import objective

# ---- networks of the engine -----------------------------------------------------------------------------------------


def one_step(
    session: Session,
    name: str,
    build,
    folds: int,
    clips: int,
    lr: float,
    shape=(3, 28, 28),
    loss=cross_entropy,
    **asked,
) -> list[dict]:
    """Loss and probabilities after a step of folds of several sizes: alone and side by side, float32 and bfloat16."""
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.integers(0, 256, (clips, *shape)).astype(np.float32))
    inputs = inputs if len(shape) == 3 else inputs / 255
    labels = torch.from_numpy(rng.integers(0, 3, clips))
    tests = [np.arange(1 + k) for k in range(folds)]
    tasks = [Task(str(k), 11 + k, np.setdiff1d(np.arange(clips), t), t) for k, t in enumerate(tests)]

    def trained(device, together: bool, half: bool = False) -> tuple[torch.Tensor, ...]:
        plan = TrainingPlan(schedule=Schedule(lr=lr, epochs=1), batch_size=256, bf16=half, loss=loss, **asked)
        on = inputs.to(device), labels.to(device)
        with tf32(False):
            outcomes = train_folds(tasks, *on, build, plan, ids=range(clips), in_parallel=together)
        probability = np.concatenate([o.probability for o in outcomes])
        weights = [torch.from_numpy(o.explained_training["weight"]) for o in outcomes if o.explained_training]
        losses = torch.tensor([o.train_losses[0] for o in outcomes])
        return losses, torch.from_numpy(probability), *([torch.cat(weights)] if weights else [])

    results = []

    def compare(what: str, found, expected, tolerance: float, probability: float) -> None:
        results.append(check(f"{name}, {what}: loss", found[0], expected[0], tolerance, relative=True))
        results.append(check(f"{name}, {what}: probability after it", found[1], expected[1], probability))
        if len(found) > 2:
            results.append(check(f"{name}, {what}: gamma after it", found[2], expected[2], probability, relative=True))

    host = trained("cpu", together=False)
    alone, side = (trained(session.device, together) for together in (False, True))
    compare("alone", alone, host, 1e-4, 1e-3)
    compare("side by side", side, host, 1e-4, 1e-3)
    compare("side by side equals alone", side, alone, 1e-4, 1e-3)
    half = [trained(session.device, together, half=True) for together in (False, True)]
    compare("alone, bf16 against float32", half[0], alone, 2e-2, 5e-2)
    compare("side by side, bf16 against float32", half[1], alone, 2e-2, 5e-2)
    how = TrainingPlan(schedule=Schedule(lr=lr, epochs=1), batch_size=256, loss=loss)
    reason = vmap_obstacle(build, inputs.to(session.device), how)
    return [*results, {"name": f"{name}: can stand side by side", "reason": reason, "passed": reason is None}]


def ststnet(session: Session) -> list[dict]:
    build = functools.partial(models.build, "ststnet", 3)
    return one_step(session, "STSTNet", build, folds=4, clips=session.pick(64, 12), lr=5e-5)


def transformer(session: Session) -> list[dict]:
    build = functools.partial(Transformer, width=session.pick(384, 12))
    return one_step(session, "transformer", build, folds=2, clips=session.pick(16, 6), lr=1e-5)


def uamrn_step(session: Session) -> list[dict]:
    """With full attention: near a plane rounding decides about a bucket, and a pair more or less is no rounding."""
    length = session.pick(32, 4)
    size = session.pick({"d_model": 256}, {"d_model": 16, "blocks": 1, "samples": 2})
    size |= {"factors": f"linspace_2_13_{length}"}
    knobs = {"features": True, "tap": "layer1", "grid": 1, "mask": "full", **size}
    build = functools.partial(models.build, "uamrn", 3, **knobs)
    shape = (length, 64)
    return one_step(
        session,
        "UAMRN",
        build,
        folds=2,
        clips=session.pick(24, 6),
        lr=1e-5,
        shape=shape,
        loss=uamrn.loss,
        explain=uamrn.explain,
        explain_training=uamrn.explain_training,
    )


def msmmt_step(session: Session) -> list[dict]:
    """Both modalities, contrast and all, small."""
    size = session.pick({"width": 192, "layers": 4}, {"width": 16, "layers": 2})
    knobs = {"size": 128, "heads": 2, "start": "random", "pairs": "supervised", **size}
    build = functools.partial(models.build, "msmmt", 3, **knobs)
    clips = session.pick(24, 6)
    return one_step(session, "MSMMT", build, folds=2, clips=clips, lr=1e-5, shape=(6, 128, 128), loss=msmmt.loss)


def attention_map(session: Session) -> list[dict]:
    """Attention, the mean of its maps and the gradient through both, of random vectors."""
    generator = torch.Generator().manual_seed(0)
    shape = session.pick((4, 12, 257, 64), (2, 2, 17, 8))
    q, k, v, of_out = torch.randn(4, *shape, generator=generator).unbind()
    of_mean = torch.randn(shape[0], shape[2], shape[2], generator=generator)

    def found(device) -> list[torch.Tensor]:
        given = [x.to(device).requires_grad_() for x in (q, k, v)]
        out, mean = attention_with_map(*given)
        loss = (out * of_out.to(device)).sum() + (mean * of_mean.to(device)).sum()
        return [out, mean, *torch.autograd.grad(loss, given)]

    with tf32(False):
        pairs = zip(("output", "map", "gradient of q", "gradient of k", "gradient of v"), found(session.device),
                    found("cpu"), strict=True)  # fmt: skip
        return [check(f"attention with its map: {name}", a, b, 1e-4, relative=True) for name, a, b in pairs]


def sparse_attention(session: Session) -> list[dict]:
    """Eq. 6 with the same buckets on both devices; their numbers by themselves; the frozen features of frames."""
    generator = torch.Generator().manual_seed(0)
    length, width = session.pick((512, 512), (24, 8))
    q, k, v = torch.randn(3, 2, 2, length, width, generator=generator).unbind()
    planes = torch.randn(2, 4, 3, width, generator=generator)
    hashed = uamrn.tags(q, planes), uamrn.tags(k, planes)
    on = [x.to(session.device) for x in (q, k, v, *hashed)]
    masked, _ = uamrn.attention(q, k, v, *hashed, "pre_softmax")
    differing = [
        (uamrn.tags(x.to(session.device), planes.to(session.device)).cpu() != tag).double().mean()
        for x, tag in zip((q, k), hashed, strict=True)
    ]
    network = ResNet18("layer2", 4, freeze=True)
    frames = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=generator)
    with tf32(False), torch.inference_mode():
        expected = network(frames)
        features = network.to(session.device)(frames.to(session.device))
        return [
            check("sparse attention, masked", uamrn.attention(*on, "pre_softmax")[0], masked, 1e-4, relative=True),
            check("sparse attention, bucketed", uamrn.bucketed_attention(*on), masked, 1e-4, relative=True),
            check("share of vectors in another bucket", torch.stack(differing), torch.zeros(2), 1e-3),
            check("frozen features of frames", features, expected, 1e-4, relative=True),
        ]


# ---- MagNet ---------------------------------------------------------------------------------------------------------


def network(weights: Path | None) -> MagNet:
    """With weights of a file, or random ones that leave a picture: with torch's own, 36 layers fade."""
    if weights is not None:
        return load_magnet(weights)
    model = MagNet().eval()
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        size = 0.5 if "blk" in name or name.startswith("decoder.cba_2") else 1
        p.data = torch.randn(p.shape, generator=generator) * size / p[0].numel() ** 0.5
    return model


def magnet(session: Session) -> list[dict]:
    """Outputs in units of the largest; frames in grey levels."""
    host = network(session.weights)
    model = copy.deepcopy(host).to(session.device)
    side, factors = session.pick(112, 16), np.linspace(2, 13, session.pick(8, 3))
    frames = _data.clip(8, side)
    a, b = (torch.from_numpy(frames[k]).permute(0, 3, 1, 2).float() / 127.5 - 1 for k in ([0, 1, 2], [5, 6, 7]))
    amount = torch.tensor([2.0, 5.0, 9.0])
    on = [x.to(session.device) for x in (a, b, amount)]
    pair, results = (frames[0], frames[6]), []

    def grey(name: str, found, expected, largest: float, mean: float) -> None:
        found, expected = (torch.from_numpy(x.astype(np.int16)) for x in (found, expected))
        results.append(check(f"magnify_pair, {name}, largest grey levels", found, expected, largest))
        results.append(check(f"magnify_pair, {name}, mean grey levels", found, expected, mean, of=torch.mean))

    with torch.no_grad(), tf32(False):
        expected, found = host(a, b, amount), model(*on)
        single = torch.cat([model(*(x[k : k + 1] for x in on)) for k in range(3)])
        results.append(check("MagNet", found, expected, 1e-4, relative=True))
        results.append(check("MagNet, batched equals single", found, single, 1e-4, relative=True))
        grey("float32", strict := magnify_pair(model, *pair, factors), magnify_pair(host, *pair, factors), 1, 0.01)
        grey("batched equals single", strict, magnify_pair(model, *pair, factors, batch=1), 1, 0.01)
    with torch.no_grad():
        results.append(check("MagNet, torch's TF32", model(*on), found, 1e-2, relative=True))
        grey("torch's TF32", magnify_pair(model, *pair, factors), strict, 2, 0.2)
        grey("bf16 against float32", magnify_pair(model, *pair, factors, bf16=True), strict, 3, 0.3)
    return results


def magnet_step(session: Session) -> list[dict]:
    """Loss and gradient on one batch."""
    scenes = moving_layers.draw([], batch_size=2, size=session.pick(64, 16), seed=0, step=0)
    batch = moving_layers.paint(scenes)

    def step(device, half: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        model = network(session.weights).to(device).train()
        given = moving_layers.Quadruples(*(x.to(device) for x in batch))
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
            loss = objective(model, given)
        return loss, torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    host = step("cpu")
    with tf32(False):
        strict = step(session.device)
    ways = {"float32": (strict, 1e-4, 1e-3), "torch's TF32": (step(session.device), 1e-2, 5e-2),
            "bf16": (step(session.device, half=True), 2e-2, 0.15)}  # fmt: skip
    return [
        check(f"MagNet's training, {way}: {what}", found[k], host[k], tolerance[k], relative=True)
        for way, (found, *tolerance) in ways.items()
        for k, what in enumerate(("loss", "gradient"))
    ]
