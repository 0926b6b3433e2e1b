"""Micron-BERT's pretraining: pairs a second of step and loader, use of the device, and what the paper's run costs.

    python -m benchmarks.micronbert --save                                   # small, on the CPU
    python -m benchmarks.micronbert --device cuda --paper --save             # printed size, bf16

Prints one JSON line. `step`: a training step of eqs. (8) to (15) on a batch that is there, in each form: `fused`, as it
is; `checkpointing`, which keeps no activations of layers; `maps`, where each attention map is formed, as an
implementation that reads them does. The forms run in turns, times are medians; a pair is two frames, and three are
encoded: the swapped one, the other, and its crop. `operations` are those of torch's counter, forward and backward;
`of_matmul` is the share of what a matrix product reaches in the same type in the same run, of 2048 x 2048 numbers on a
CPU and 8192 x 8192 on a GPU. Memory is the peak during a step beyond what was there before, on a CPU in a process of
its own for each form. `loader`: shards of --frames frames, read at random from the system's memory and checked, alone
by --readers threads; `together`: steps whose batches are read meanwhile, beside steps on one batch. `paper` is
arithmetic: 8 million pairs, 100 epochs, at the step's rate on 1, 8 and 32 such devices; the paper says three days on 32
A100 (section 5.2).
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._report import add_options, report, resident
from mer.models import micronbert
from mer.networks import vit
from mer.pretraining import frame_pairs
from mer.pretraining.distributed import World
from mer.storage.cache import CacheWriter
from mer.storage.shards import Shards

SMALL, PAPER = {"size": 112, "width": 128, "layers": 2}, {"size": 224, "width": 512, "layers": 4}
FORMS = ("fused", "checkpointing", "maps")
PAIRS, EPOCHS, DEVICES, DAYS = 8_000_000, 100, (1, 8, 32), 3
DRAW = {"ratio": 0.5, "min_block": 4, "min_aspect": 0.3, "count": "once"}


class Bench:
    """The autoencoder with its losses, an optimiser, a batch, and shards of random frames.

    knobs: of the network. batch: pairs. half: bfloat16 autocast. folder: where shards of `frames` frames are written;
    None: there are none, and no `pairs`.
    """

    pairs: frame_pairs.Pairs

    def __init__(
        self, knobs: dict, *, batch: int, device: str, half: bool, folder: Path | None = None, frames: int = 1024
    ):
        self.knobs, self.batch, self.half, self.device = knobs, batch, half, torch.device(device)
        torch.manual_seed(0)
        network = micronbert.build_pretrained(**knobs)
        self.losses = frame_pairs.Losses(network, gamma=1, beta=1, agreement="mse", target="imagenet").to(self.device)
        self.optimizer = torch.optim.AdamW(self.losses.parameters(), lr=1e-4)
        self.world = World(device=device)
        self.options = {"seed": 0, "crop_area": [0.4, 1.0], **DRAW}
        if folder is not None:
            write_shards(folder, frames, knobs["size"])
            self.pairs = frame_pairs.Pairs(Shards(folder), [5, 11], "frames", 0)
        shape = (2, batch, knobs["size"], knobs["size"], 3)
        random = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        rows = slice(0, batch)
        self.fixed = frame_pairs.prepared(network, random.to(self.device), 0, batch, rows, **self.options)

    def step(self, batch: frame_pairs.Batch) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss = self.losses(batch)[0]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def form(self, name: str) -> float:
        """Seconds of a step."""
        self.losses.network.backbone.checkpointing = name == "checkpointing"
        with mock.patch.object(vit, "attention", formed if name == "maps" else vit.attention):
            start = self.now()
            self.step(self.fixed)
            return self.now() - start

    def one(self) -> frame_pairs.Batch:
        """The first pair of the batch."""
        return frame_pairs.Batch(*(None if part is None else part[:1] for part in self.fixed))

    def peak(self, name: str) -> float:
        """MiB that a step needs beyond what is there before it: weights, the optimiser's state and the batch."""
        whole, self.fixed = self.fixed, self.one()
        self.form(name)  # what the first step loads once
        self.fixed = whole
        self.losses.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.form(name)
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        before = resident("VmRSS")
        self.form(name)
        return resident("VmHWM") - before

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def formed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by a map of each head, which is kept for the backward pass."""
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v


def write_shards(folder: Path, frames: int, size: int) -> None:
    rng = np.random.default_rng(0)
    with CacheWriter(folder / "s.h5", kind="recording_frames", ragged=True, params={}) as shard:
        for k in range(0, frames, 256):
            one = rng.integers(0, 256, (256, size, size, 3), dtype=np.uint8)
            shard.append(f"c/s/r/{k}", one, fps=np.float64(200))


def median_of(run: Callable[[], float], repeats: int) -> float:
    run()
    return statistics.median(run() for _ in range(repeats))


def matmul_rate(bench: Bench, side: int | None = None) -> float:
    """Operations a second of a product of two square matrices, in the type of the step; side: None: see above."""
    side = side or (8192 if bench.device.type == "cuda" else 2048)
    a = torch.randn(side, side, device=bench.device, dtype=torch.bfloat16 if bench.half else None)

    def once() -> float:
        start = bench.now()
        a @ a
        return bench.now() - start

    return 2 * side**3 / median_of(once, 9)


def operations(bench: Bench) -> int:
    """Of a step, forward and backward, by torch's counter; it counts those of one pair, of which there are `batch`."""
    with FlopCounterMode(display=False) as counter, mock.patch.object(vit, "attention", formed):
        bench.losses.network.backbone.checkpointing = False
        bench.losses(bench.one())[0].backward()
    return bench.batch * counter.get_total_flops()


def loader(bench: Bench, readers: int, most: int) -> dict[str, float]:
    """Pairs a second: read alone, and trained on while they are read. most: steps, if there are as many."""
    steps = min(most, len(bench.pairs) // bench.batch)
    with ThreadPoolExecutor(readers) as pool:

        def alone() -> float:
            start = time.perf_counter()
            done = [pool.submit(bench.pairs.read, k, bench.batch, slice(0, bench.batch)) for k in range(steps)]
            for future in done:
                future.result()
            return time.perf_counter() - start

        read = bench.batch * steps / median_of(alone, 3)
        batches = frame_pairs.Batches(
            bench.losses.network, bench.pairs, pool, steps, bench.batch, bench.world, **bench.options
        )
        took = []
        for k in range(steps):
            start = bench.now()
            bench.step(batches(k))
            took.append(bench.now() - start)
    together = bench.batch / statistics.median(took[1:])
    return {"pairs_per_s": round(read, 1), "together_pairs_per_s": round(together, 1)}


def paper(pairs: float) -> dict[str, Any]:
    """What the paper's run takes on devices that make as many pairs a second each."""
    return {
        "days": {str(n): round(PAIRS * EPOCHS / pairs / n / 86400, 2) for n in DEVICES},
        "papers_days_on_32_a100": DAYS,
        "papers_pairs_per_s_of_each": round(PAIRS * EPOCHS / (DAYS * 86400) / 32, 1),
    }


def made(args: argparse.Namespace, folder: Path | None = None) -> Bench:
    return Bench(
        PAPER if args.paper else SMALL, batch=args.batch, device=args.device, half=args.device == "cuda",
        folder=folder, frames=args.frames,
    )  # fmt: skip


def measure(args: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bench = made(args, Path(folder))
        seconds: dict[str, list[float]] = {form: [] for form in FORMS}
        for repeat in range(args.repeats + 1):
            for form, values in seconds.items():
                took = bench.form(form)
                if repeat:  # the first one chooses algorithms
                    values.append(took)
        bench.losses.network.backbone.checkpointing = False
        step = {form: statistics.median(values) for form, values in seconds.items()}
        read, counted = loader(bench, args.readers, args.repeats + 2), operations(bench)
        rate = matmul_rate(bench)
    pairs = args.batch / step["fused"]
    return {
        **bench.knobs, "batch": args.batch, "device": args.device, "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in bench.losses.parameters()),
        "step": {
            "pairs_per_s": {form: round(args.batch / s, 2) for form, s in step.items()},
            "times_as_fast_as_maps": {form: round(step["maps"] / s, 2) for form, s in step.items()},
            "peak_mb": peaks(bench, arguments),
            "operations": counted,
            "of_matmul": round(counted / step["fused"] / rate, 3),
            "of_peak": None if args.peak is None else round(counted / step["fused"] / args.peak / 1e12, 3),
        },
        "loader": read | {"times_the_step": round(read["pairs_per_s"] / pairs, 1), "readers": args.readers},
        "paper": paper(pairs),
    }  # fmt: skip


def peaks(bench: Bench, arguments: list[str]) -> dict[str, float]:
    """MiB by form; on a CPU each in a process of its own."""
    if bench.device.type == "cuda":
        return {form: round(bench.peak(form), 1) for form in FORMS}
    found = {}
    for form in FORMS:
        command = [sys.executable, "-m", "benchmarks.micronbert", *arguments, "--peak-of", form]
        found[form] = round(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout), 1)
    return found


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--paper", action="store_true", help="224 px, d 512, 4 + 4 layers")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--frames", type=int, default=1024, help="of the shards; a multiple of 256")
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--peak", type=float, help="TFLOPS of the device by its data sheet, in the type of the step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak-of", choices=FORMS, help=argparse.SUPPRESS)
    add_options(parser)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(made(args).peak(args.peak_of))
        return
    kept = [a for a in arguments if a != "--save"]
    name = "micronbert" if args.device == "cpu" else "micronbert_gpu"
    report(name, measure(args, kept), ("torch", "h5py"), args.save)


if __name__ == "__main__":
    main()
