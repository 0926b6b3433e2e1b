"""MSMMT's training step against three separate passes that keep all attention maps: images a second, and memory.

    python -m benchmarks.msmmt --save                       # a small one, on the CPU
    python -m benchmarks.msmmt --device cuda --paper        # two ViT-B/16, 256 px, batch 16, bfloat16

Prints one JSON line. `separate` is benchmarks/_separate_msmmt.py with the same weights; the others are the network with
each value of `keep`. Forward and backward pass of the loss; the forms run in turns, times are medians. An image is a
modality of a clip. Memory is the peak during a step, in a process of its own for each form on a CPU (resident, less
what is resident before), and as CUDA counts it on a GPU. Losses and gradients are compared first.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor

from benchmarks import _separate_msmmt
from benchmarks._report import add_options, report, resident
from mer import models
from mer.models import msmmt
from mer.networks import random_layers

FORMS = ("separate", "all", "attention", "layers")
PAPER = {"size": 256, "width": 768, "layers": 12, "heads": 12, "batch": 16}
CLASSES = 5


class Bench:
    """A network, a batch, and a step in each form."""

    def __init__(self, args: argparse.Namespace):
        self.device, self.half = torch.device(args.device), args.half
        torch.manual_seed(0)
        knobs = {name: getattr(args, name) for name in ("size", "width", "layers", "heads")}
        self.network = models.build("msmmt", CLASSES, start="random", **knobs).train().to(self.device)
        random_layers.attach(self.network)
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(args.batch, 6, args.size, args.size, generator=generator)
        x[:, :3] *= 255
        self.batch = x.to(self.device), (torch.arange(args.batch) % CLASSES).to(self.device)

    def loss(self, form: str) -> Tensor:
        random_layers.begin(self.network)
        self.network.keep = "all" if form == "separate" else form
        x, y = self.batch
        call = self.network if form != "separate" else lambda x: _separate_msmmt.forward(self.network, x)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return msmmt.loss(call, x, y, torch.full((len(y),), 1 / len(y), device=self.device))

    def step(self, form: str) -> float:
        """Seconds."""
        self.network.zero_grad()
        self.synchronize()
        start = time.perf_counter()
        self.loss(form).backward()
        self.synchronize()
        return time.perf_counter() - start

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def compare(self) -> dict:
        """How far the loss and the gradient of the network are from those of the peer, relative to the largest."""
        found = {}
        for form in FORMS:
            self.network.zero_grad()
            value = self.loss(form)
            value.backward()
            found[form] = value.item(), torch.cat([p.grad.flatten() for p in self.network.parameters()])
        loss, gradient = found.pop("separate")
        most = gradient.abs().max()
        return {
            form: {"loss": abs(v - loss) / abs(loss), "gradient": float((g - gradient).abs().max() / most)}
            for form, (v, g) in found.items()
        }

    def peak(self, form: str) -> float:
        """MB that a step needs beside what is there before it, gradients included."""
        if self.device.type == "cuda":
            self.network.zero_grad()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step(form)
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        whole = self.batch
        self.batch = tuple(part[:2] for part in whole)  # what the first step loads once
        self.step(form)
        before, self.batch = resident("VmRSS"), whole
        self.step(form)
        return resident("VmHWM") - before


def peaks(bench: Bench, arguments: list[str]) -> dict[str, float]:
    if bench.device.type == "cuda":
        return {form: round(bench.peak(form), 1) for form in FORMS}
    found = {}
    for form in FORMS:
        command = [sys.executable, "-m", "benchmarks.msmmt", *arguments, "--peak-of", form]
        found[form] = round(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout), 1)
    return found


def measure(args: argparse.Namespace, arguments: list[str]) -> dict:
    bench = Bench(args)
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    differences = bench.compare()
    for _ in range(args.repeats):
        for form in FORMS:
            seconds[form].append(bench.step(form))
    memory = peaks(bench, arguments)
    median = {form: statistics.median(values) for form, values in seconds.items()}
    return {
        "size": args.size, "width": args.width, "layers": args.layers, "heads": args.heads, "batch": args.batch,
        "device": args.device, "precision": "bf16" if args.half else "float32", "threads": torch.get_num_threads(),
        "images_per_s": {form: round(2 * args.batch / s, 2) for form, s in median.items()},
        "times_as_fast": {form: round(median["separate"] / s, 2) for form, s in median.items()},
        "peak_mb": memory,
        "share_of_memory": {form: round(mb / memory["separate"], 2) for form, mb in memory.items()},
        "differences": json.loads(json.dumps(differences), parse_float=lambda x: float(f"{float(x):.1e}")),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--paper", action="store_true", help="the paper's size, and bfloat16 on a GPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak-of", choices=FORMS, help=argparse.SUPPRESS)
    add_options(parser)
    args = parser.parse_args(arguments)
    args.half = args.paper and args.device == "cuda"
    if args.paper:
        vars(args).update(PAPER)
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(Bench(args).peak(args.peak_of))
        return
    name = "msmmt" if args.device == "cpu" else "msmmt_gpu"
    report(name, measure(args, [a for a in arguments if a != "--save"]), ("torch",), args.save)


if __name__ == "__main__":
    main()
