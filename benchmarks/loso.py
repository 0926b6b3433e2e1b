"""Leave-one-subject-out training against the released code's way: seconds a fold and epoch, and the same predictions.

    python -m benchmarks.loso --quick        # under 40 s: the speed-up on this machine and whether predictions agree
    python -m benchmarks.loso --save         # also folds in parallel, a transformer, time outside compute, memory

Prints one JSON line. STSTNet on the 442 flow clips of the MEGC 2019 release where they lie (`--flow`, else the
reference data, MER_REFERENCE), else on noise of that size; Adam at 5e-5, batches of 256, as released: 68 folds of 800
epochs. The peer (benchmarks/_fold_by_fold.py) trains one fold after another on two threads, `mer` two folds at a time
in two processes of one thread. Both take a few epochs of a few folds in turns; the median over rounds is what counts.

    speedup             seconds a fold and epoch, peer / mer. Too high where other work runs beside it, which slows the
                        peer far more: its two threads wait for each other. Look at `load_average`, or at
    speedup_cpu         processor seconds a fold and epoch, peer on one thread / mer
    same_predictions    from the same weights, with the same batches and dropout masks, no probability is 1e-3 off and
                        the classes are the same wherever the two largest are further apart than that (with other masks
                        or another order, 4 epochs take them 4e-3 apart)
    table               K folds in parallel: seconds a fold and epoch, share of the time outside of operators (CPU) or
                        kernels (GPU), peak memory in MiB
"""

import argparse
import functools
import itertools
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import _fold_by_fold as peer
from benchmarks._report import add_options, report
from mer import models
from mer.loso.loop import train_folds
from mer.loso.optim import Schedule
from mer.loso.stacked_folds import vmap_obstacle
from mer.loso.task import Task, TrainingPlan
from mer.models import ststnet
from mer.networks import random_layers
from mer.parallel import single_threaded

ROOT = Path(__file__).parent.parent
LR, BATCH, FOLDS, EPOCHS = 5e-5, 256, 68, 800
TOLERANCE = 1e-3


# ---- data -------------------------------------------------------------------------------------------------------


def load(flow: Path) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """(where from, inputs (N, 3, 28, 28) grey levels, labels (N,), subjects (N,))."""
    if flow.is_dir():
        from benchmarks import ststnet_release

        table, images = ststnet_release.load(flow)
        return "megc2019_flow", ststnet.prepare(images), table["label"].to_numpy(), table["subject"].to_numpy()
    rng = np.random.default_rng(0)
    subjects = np.array([f"s{i:02d}" for i in rng.permutation(np.arange(442) % FOLDS)])
    return "synthetic", rng.integers(0, 256, (442, 3, 28, 28)).astype(np.float32), rng.integers(0, 3, 442), subjects


def tasks_of(subjects: np.ndarray) -> list[Task]:
    return [
        Task(name, number, np.flatnonzero(subjects != name), np.flatnonzero(subjects == name))
        for number, name in enumerate(np.unique(subjects))
    ]


def plan(epochs: int, batch_size: int = BATCH, lr: float = LR) -> TrainingPlan:
    return TrainingPlan(schedule=Schedule(lr=lr, epochs=epochs), batch_size=batch_size)


build_ststnet = functools.partial(models.build, "ststnet", 3)


# ---- speed ------------------------------------------------------------------------------------------------------


def one_fold(whose: str, flow: Path, number: int, epochs: int) -> tuple[float, float, float]:
    """Start and end of a fold by the machine's clock, and its processor seconds; in a worker."""
    inputs, labels, tasks = _loaded(flow)
    with single_threaded():
        start, cpu = time.monotonic(), time.process_time()
        if whose == "mer":
            train_folds([tasks[number]], inputs, labels, build_ststnet, plan(epochs), ids=range(len(labels)))
        else:
            peer.train_fold(inputs, labels, _mask(tasks[number], labels), epochs=epochs)
        return start, time.monotonic(), time.process_time() - cpu


@functools.cache
def _loaded(flow: Path):
    _, inputs, labels, subjects = load(flow)
    return torch.from_numpy(inputs), torch.tensor(labels), tasks_of(subjects)


def speed(flow: Path, rounds: int, epochs: int, patience: float) -> dict:
    """At most `rounds` rounds, fewer when `patience` seconds are over."""
    inputs, labels, tasks = _loaded(flow)
    ours, theirs, cpu = [], [], {"mer": [], "fold_by_fold": []}
    torch.set_num_threads(2)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        run = functools.partial(pool.map, one_fold)
        list(run(["mer"] * 4, [flow] * 4, range(4), [4] * 4))  # starts the workers, warms them up
        peer.train_fold(inputs, labels, _mask(tasks[0], labels), epochs=2)
        begin = time.monotonic()
        for i in range(rounds):
            if ours and time.monotonic() - begin > patience:
                break
            numbers = [(2 * i) % len(tasks), (2 * i + 1) % len(tasks)]
            times = list(run(["mer"] * 2, [flow] * 2, numbers, [epochs] * 2))
            ours.append((max(end for _, end, _ in times) - min(start for start, _, _ in times)) / (2 * epochs))
            cpu["mer"] += [seconds / epochs for *_, seconds in times]
            start = time.monotonic()
            peer.train_fold(inputs, labels, _mask(tasks[numbers[0]], labels), epochs=epochs)
            theirs.append((time.monotonic() - start) / epochs)
        times = list(run(["fold_by_fold"] * 2, [flow] * 2, [0, 1], [epochs] * 2))
        cpu["fold_by_fold"] += [seconds / epochs for *_, seconds in times]
    cpu = {name: statistics.median(values) for name, values in cpu.items()}
    mer, fold_by_fold = statistics.median(ours), statistics.median(theirs)
    return {
        "speedup": round(fold_by_fold / mer, 2),
        "speedup_by_round": [round(b / a, 2) for a, b in zip(ours, theirs, strict=True)],
        "speedup_cpu": round(cpu["fold_by_fold"] / cpu["mer"], 2),
        "seconds_per_fold_epoch": {"mer": round(mer, 4), "fold_by_fold": round(fold_by_fold, 4)},
        "cpu_seconds_per_fold_epoch": {name: round(seconds, 4) for name, seconds in cpu.items()},
        "hours_for_all": {
            "mer": round(mer * FOLDS * EPOCHS / 3600, 2),
            "fold_by_fold": round(fold_by_fold * FOLDS * EPOCHS / 3600, 2),
        },
        "rounds": len(ours),
        "epochs": epochs,
    }


def _mask(task: Task, labels) -> torch.Tensor:
    return torch.zeros(len(labels), dtype=torch.bool).index_fill(0, torch.from_numpy(task.test), True)


# ---- the same predictions -----------------------------------------------------------------------------------------


class SharedMasks(nn.Module):
    """A stream's part of the masks that one dropout layer of ours has over all 16 channels."""

    def __init__(self, p: float, stream: int, channels: slice):
        super().__init__()
        self.whole, self.stream, self.channels, self.step = random_layers.Dropout(p), stream, channels, 0

    def forward(self, x):
        if not self.training:
            return x
        self.whole.key = torch.from_numpy(random_layers.keys([self.stream], [self.step], 1)[0, 0])
        self.whole.calls, self.step = 0, self.step + 1
        return x * self.whole(torch.ones(len(x), 16, *x.shape[2:]))[:, self.channels]


class OurOrder(torch.utils.data.Sampler):
    """The fold's own permutations, one an epoch, as positions among its training rows."""

    def __init__(self, task: Task):
        self.rng, self.train = np.random.default_rng(task.stream), task.train

    def __iter__(self):
        return iter(np.searchsorted(self.train, self.rng.permutation(self.train)).tolist())

    def __len__(self):
        return len(self.train)


def peers_network(task: Task) -> peer.TripleStream:
    """The peer with the weights that our network starts from, and our masks."""
    with torch.random.fork_rng():
        torch.manual_seed(task.stream)
        whole = build_ststnet().state_dict()
    edges = np.cumsum((0, *ststnet.STREAMS)).tolist()
    cuts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    remaining = iter(cuts)
    network = peer.TripleStream(3, drop=lambda p: SharedMasks(p, task.stream, next(remaining)))
    state = network.state_dict()
    for name, value in whole.items():
        layer, _, part = name.partition(".")
        if layer == "fc":
            state[name] = value
            continue
        for i, cut in enumerate(cuts, start=1):
            state[f"{ {'conv': 'conv', 'norm': 'bn'}[layer] }{i}.{part}"] = value[cut] if value.dim() else value
    network.load_state_dict(state)
    return network


def agreement(flow: Path, folds: int, epochs: int) -> dict:
    """The biggest folds, whose test clips are the most. Ours are trained alone and in parallel."""
    inputs, labels, tasks = _loaded(flow)
    tasks = sorted(tasks, key=lambda t: -len(t.test))[:folds]
    theirs, largest, same = [], {}, True
    with single_threaded():
        for task in tasks:
            options = {"network": peers_network(task), "sampler": OurOrder(task), "epochs": epochs}
            theirs.append(peer.train_fold(inputs, labels, _mask(task, labels), **options).numpy())
        theirs = np.concatenate(theirs)
        top = np.sort(theirs, axis=1)
        clear = top[:, -1] - top[:, -2] > TOLERANCE
        for name, together in (("alone", False), ("side_by_side", True)):
            options = {"ids": range(len(labels)), "in_parallel": together}
            outcomes = train_folds(tasks, inputs, labels, build_ststnet, plan(epochs), **options)
            ours = np.concatenate([o.probability for o in outcomes])
            same &= bool((ours.argmax(1) == theirs.argmax(1))[clear].all())
            largest[name] = float(f"{np.abs(ours - theirs).max():.2g}")
            same &= largest[name] < TOLERANCE
    return {
        "same_predictions": same,
        "largest_difference": largest,
        "compared": {"folds": folds, "epochs": epochs, "clips": int(clear.sum()), "of": len(theirs)},
    }


# ---- the table ----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * width, width))

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Of ViT-S's size: 12 blocks, width 384, 6 heads, 21 M parameters; 49 patches of 4x4."""

    def __init__(self, classes: int = 3, width: int = 384):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.place = nn.Parameter(0.02 * torch.randn(49, width))
        self.blocks = nn.Sequential(*[Block(width, 6) for _ in range(12)])
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x):
        x = self.patches(x / 255).flatten(2).transpose(1, 2) + self.place
        return self.fc(self.norm(self.blocks(x)).mean(1))


def cell(flow: Path, model: str, together: int, device: str) -> dict:
    """One line of the table; in a process of its own, whose memory is the cell's."""
    inputs, labels, tasks = _loaded(flow)
    build = {"ststnet": build_ststnet, "transformer": Transformer}[model]
    # On a CPU an epoch of the transformer takes minutes: 16 clips, and the rest by proportion.
    clips = len(labels) if model == "ststnet" or device == "cuda" else 16
    inputs, labels = inputs[:clips].to(device), labels[:clips].to(device)
    tasks = [Task(t.name, t.stream, np.delete(np.arange(clips), k % clips), np.array([k % clips]))
             for k, t in enumerate(tasks[:together])]  # fmt: skip
    how = plan(3 if device == "cpu" else 5, batch_size=BATCH if model == "ststnet" else 32, lr=1e-4)

    def run(epochs: TrainingPlan) -> float:
        start = time.monotonic()
        train_folds(tasks, inputs, labels, build, epochs, ids=range(clips))
        if device == "cuda":
            torch.cuda.synchronize()
        return time.monotonic() - start

    with single_threaded():
        obstacle = vmap_obstacle(build, inputs, how)
        if obstacle:
            return {"model": model, "together": together, "not_possible": obstacle}
        one, many = plan(1, how.batch_size, LR), how
        run(one)
        # The difference is that of epochs: building the networks and testing them are in both.
        seconds = (run(many) - run(one)) / (many.schedule.epochs - 1) / together * (442 / clips)
        outside = _outside(lambda: run(one), device)
    return {
        "model": model,
        "together": together,
        "seconds_per_fold_epoch": round(seconds, 4),
        "outside_compute": round(outside, 3),
        "peak_mib": round(torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else _peak_memory()),
        "clips": clips,
    }


def _outside(work, device: str) -> float:
    """Share of the wall time in which no kernel runs (GPU), or which no operator takes (CPU, one thread)."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=kinds) as record:
        wall = work() * 1e6
    key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    names = record.key_averages()
    return max(0.0, 1 - sum(getattr(e, key) for e in names if device == "cuda" or e.key.startswith("aten::")) / wall)


def _peak_memory() -> float:
    """MiB of this process so far (the counter of getrusage also has the parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def table(flow: Path, device: str) -> list[dict]:
    rows = []
    for model in ("ststnet", "transformer"):
        for together in (1, 8, FOLDS):
            if device == "cpu" and model == "transformer" and together == FOLDS:
                # 68 times 21 M parameters with gradients and moments alone are 23 GB.
                rows.append({"model": model, "together": together, "not_possible": "needs a GPU's memory"})
                continue
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                rows.append(pool.submit(cell, flow, model, together, device).result())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    reference = Path(os.environ.get("MER_REFERENCE", ROOT / "../shared/reference"))
    parser.add_argument("--flow", type=Path, default=reference / "megc2019_flow", help="folder of the flow release")
    parser.add_argument("--quick", action="store_true", help="speed-up and agreement only, in less than 40 s")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="of the table; a GPU where there is one")
    add_options(parser)
    args = parser.parse_args()
    source = load(args.flow)[0]
    result = {"data": source, **(speed(args.flow, 5, 30, 12) if args.quick else speed(args.flow, 9, 60, 240))}
    result |= agreement(args.flow, 2, 4 if args.quick else 20)
    if not args.quick:
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        result |= {"device": device, "table": table(args.flow, device)}
    report("loso", result, ("torch", "numpy"), args.save)


if __name__ == "__main__":
    main()
