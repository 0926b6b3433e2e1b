"""DCMA against the same network as one writes it first: faces a second in training and inference, and what it costs.

    python -m benchmarks.dcma --save                        # printed size, on the CPU
    python -m benchmarks.dcma --device cuda --batch 32      # the same on a GPU

Prints one JSON line. `plain` is benchmarks/_plain_dcma.py: channels first, float32, layer after layer. The others have
channels last and kernels that are spread: `network` in float32, `bf16` under autocast, `compiled` that by torch.compile
(recipe.compiled). Training is a forward and a backward pass; the forms run in turns, times are medians. Outputs and
gradients are compared first. `cost` is DCMA's Table 13 for one face, by torch's counter: two operations for a product
and its sum; `weights_only` is two for each weight, whatever the size of the map, which is what the paper's 6.26 M is
(D-19).
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import _plain_dcma
from benchmarks._report import add_options, report
from mer import models

CLASSES = 3
SETTINGS = {
    "dense, mixed attention": {}, "dense, no attention": {"attention": "none"},
    "residual, mixed attention": {"features": "residual"},
}  # fmt: skip


class Bench:
    """A network, a batch, and both passes in each form. knobs: of the network, beside its `size` in px."""

    def __init__(self, *, size: int, batch: int, device: str, compiled: bool, **knobs: Any):
        self.device, self.batch = torch.device(device), batch
        torch.manual_seed(0)
        self.network = models.build("dcma", CLASSES, start="random", size=size, **knobs).to(self.device)
        generator = torch.Generator().manual_seed(0)
        faces = torch.randint(0, 256, (batch, size, size, 3), generator=generator, dtype=torch.uint8)
        self.faces, self.labels = faces.to(self.device), (torch.arange(batch) % CLASSES).to(self.device)
        self.forms: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
            "plain": (lambda faces: _plain_dcma.forward(self.network, faces), False),
            "network": (self.network, False),
            "bf16": (self.network, True),
        }
        if compiled:
            self.forms["compiled"] = torch.compile(self.network), True

    def training(self, form: str) -> float:
        """Seconds of a forward and a backward pass."""
        call, half = self.forms[form]
        self.network.train().zero_grad()
        start = self.now()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            value = F.cross_entropy(call(self.faces), self.labels)
        value.backward()
        return self.now() - start

    @torch.no_grad()
    def inference(self, form: str) -> float:
        """Seconds of a forward pass in evaluation mode."""
        call, half = self.forms[form]
        self.network.eval()
        start = self.now()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            call(self.faces)
        return self.now() - start

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def compare(self) -> dict[str, float | None]:
        """How far gradients are from those of `plain`: the norm of the difference over the norm; None: not finite."""
        found = {}
        for form in self.forms:
            self.training(form)
            found[form] = torch.cat([p.grad.flatten() for p in self.network.parameters()]).float()
        plain = found.pop("plain")
        apart = {form: float((g - plain).norm() / plain.norm()) for form, g in found.items()}
        return {form: float(f"{value:.1e}") if math.isfinite(value) else None for form, value in apart.items()}

    def passes(self, repeats: int) -> dict[str, dict]:
        """Of training and of inference: faces a second of each form, and times as fast as `plain`."""
        out = {}
        for name, run in (("training", self.training), ("inference", self.inference)):
            seconds: dict[str, list[float]] = {form: [] for form in self.forms}
            for repeat in range(repeats + 1):
                for form, values in seconds.items():
                    took = run(form)
                    if repeat:  # the first one compiles, and chooses algorithms
                        values.append(took)
            median = {form: statistics.median(values) for form, values in seconds.items()}
            out[name] = {
                "faces_per_s": {form: round(self.batch / s, 1) for form, s in median.items()},
                "times_as_fast": {form: round(median["plain"] / s, 2) for form, s in median.items()},
            }
        return out


def cost(size: int) -> dict[str, dict[str, int]]:
    """Table 13: of one face."""
    found = {}
    for name, knobs in SETTINGS.items():
        network = models.build("dcma", CLASSES, start="random", size=size, **knobs).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, size, size, 3, dtype=torch.uint8))
        parameters = sum(p.numel() for p in network.parameters())
        weights = sum(p.numel() for p in network.parameters() if p.dim() > 1)
        found[name] = {
            "parameters": parameters, "operations": counter.get_total_flops(), "weights_only": 2 * weights,
        }  # fmt: skip
    return found


def measure(args: argparse.Namespace) -> dict:
    bench = Bench(size=args.size, batch=args.batch, device=args.device, compiled=args.compiled)
    return {
        "size": args.size, "batch": args.batch, "device": args.device, "threads": torch.get_num_threads(),
        "gradient_apart": bench.compare(), **bench.passes(args.repeats), "cost": cost(args.size),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-compiled", dest="compiled", action="store_false", help="without a C++ compiler")
    add_options(parser)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    report("dcma" if args.device == "cpu" else "dcma_gpu", measure(args), ("torch",), args.save)


if __name__ == "__main__":
    main()
