"""Several folds, trained in parallel with their parameters in one tensor.

The parameters of K folds are one tensor (K, P), their buffers tensors (K, …). One step runs every network on a batch of
its own (torch.func.vmap). Rows that pad a batch to the longest one have weight 0 in the loss and in batch norm.

Shapes: K folds, B rows of a batch, C classes, P parameters.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mer.errors import MerError
from mer.loso.augmentation import AS_IT_IS
from mer.loso.one_fold import SingleFold
from mer.loso.stacked_adam import StackedAdam
from mer.loso.task import LabelledClips, Loss, Task, TrainingPlan, autocast, compiled, new_network, weight_dtype
from mer.networks import norm, random_layers


def vmap_obstacle(
    build: Callable[[], nn.Module], inputs: Tensor, plan: TrainingPlan, targets: Tensor | None = None
) -> str | None:
    """Why the network cannot be trained with others in parallel; None if it can. Tried on the first three clips.

    Obstacles are operations that vmap does not support, random numbers drawn outside layers, and clips that are not the
    first axis throughout (padding would change their dropout or batch norm).
    """
    plan = dataclasses.replace(plan, augment=None)  # changes clips before the network reads them
    rows = np.arange(min(3, len(inputs)))
    labels = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
    clips = LabelledClips(inputs, labels, [str(i) for i in range(len(inputs))], targets)
    tasks = [Task(str(k), k, rows, rows) for k in range(2)]
    batches = [rows, rows[:-1]]  # the second is padded

    def perturbed() -> nn.Module:
        """A head of zeros, as some networks start with, would hide every difference."""
        network = build()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return network

    try:
        stacked_folds = StackedFolds(tasks, clips, perturbed, plan)
        found = stacked_folds.losses(batches, [None, None])
        torch.autograd.grad(found.sum(), stacked_folds.flat)  # what fails in the backward pass alone
        losses = found.detach().double().tolist()
        with torch.no_grad():
            for task, batch, stacked in zip(tasks, batches, losses, strict=True):
                single = SingleFold(task, clips, perturbed, plan).losses([batch], [None]).item()
                # Another mask or other statistics change the loss of three clips by far more.
                if not math.isclose(single, stacked, rel_tol=0.05 if plan.bf16 else 1e-3, abs_tol=1e-4):
                    return f"its loss is {stacked:.6g} with stacked folds and {single:.6g} with a single one"
    except (MerError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # vmap refuses in many ways
        return " ".join(str(error).split())[:300]
    return None


class StackedFolds:
    """`Folds` of several folds."""

    def __init__(self, tasks: Sequence[Task], clips: LabelledClips, build: Callable[[], nn.Module], plan: TrainingPlan):
        self.clips, self.plan = clips, plan
        self.streams, self.first_row = [t.stream for t in tasks], [int(t.train[0]) for t in tasks]
        device = clips.inputs.device
        flat, buffers = [], []
        for task in tasks:
            network = new_network(task, build, device)
            norm.attach(network)
            # A tied parameter appears once, so it stays tied. Without a gradient (frozen) it is nothing but a buffer.
            params = dict(network.named_parameters())
            frozen = {name: p.detach() for name, p in params.items() if not p.requires_grad}
            flat.append(torch.cat([p.detach().reshape(-1) for name, p in params.items() if name not in frozen]))
            buffers.append(dict(network.named_buffers()) | frozen)
        self.base = network
        self.shapes = {name: p.shape for name, p in params.items() if name not in frozen}
        self.flat = torch.stack(flat).requires_grad_()
        self.buffers = {name: torch.stack([b[name] for b in buffers]) for name in buffers[0]}
        self.sources = random_layers.sources(network)
        self.norms = [name for name, m in network.named_modules() if isinstance(m, norm.MaskedBatchNorm)]
        self.adam = StackedAdam(self.flat, weight_decay=plan.weight_decay, optimizer=plan.optimizer)
        # Nothing in here may refer to self: a cycle would keep the memory of finished folds until Python looks for it.
        self.forward = compiled(vmap(functools.partial(_loss_of_one, network, plan.loss), randomness="error"), plan)
        self.best: dict[str, Tensor] = {}
        self.epoch = 0

    def params(self) -> dict[str, Tensor]:
        """Views (K, …) of the one tensor; split, whose backward puts all gradients together in one go."""
        parts = self.flat.split([s.numel() for s in self.shapes.values()], dim=1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.unflatten(1, shape) if shape else part[:, 0] for (name, shape), part in named}

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def losses(self, rows: Sequence[np.ndarray | None], drawn: Sequence[np.ndarray | None]) -> Tensor:
        padded, real = self._pad(rows)
        x, y = self.clips.take(padded)
        if self.plan.augment is not None:
            every = np.tile(AS_IT_IS, (*real.shape, 1))
            every[real] = np.concatenate([d for d in drawn if d is not None])
            x = self.plan.augment(x.flatten(0, 1), every.reshape(-1, len(AS_IT_IS))).unflatten(0, real.shape)
        row_weight = torch.from_numpy(real / np.maximum(real.sum(1, keepdims=True), 1)).to(x.device, weight_dtype(x))
        self._begin_step(torch.from_numpy(real).to(x.device))
        with autocast(x.device, self.plan):
            return self.forward(self.params(), self.buffers, x, y, row_weight, *self.clips.more(padded))

    def _pad(self, rows: Sequence[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
        """(K, B) rows and which of them are real; padding repeats a training clip of the fold."""
        filled = [np.empty(0, dtype=np.int64) if r is None else r for r in rows]
        real = np.arange(max(len(r) for r in filled)) < np.array([len(r) for r in filled])[:, None]
        padded = np.repeat(np.array(self.first_row)[:, None], real.shape[1], axis=1)
        padded[real] = np.concatenate(filled)
        return padded, real

    def _begin_step(self, real: Tensor) -> None:
        random_layers.begin(self.base)
        words = random_layers.words(list(self.sources.values()), self.streams, self.adam.steps, self.epoch)
        for name, word in zip(self.sources, torch.from_numpy(words).to(real.device).unbind(1), strict=True):
            self.buffers[f"{name}.key" if name else "key"] = word
        for name in self.norms:
            self.buffers[f"{name}.rows" if name else "rows"] = real

    def update(self, losses: Tensor, rates: list[float], active: list[bool]) -> None:
        (gradient,) = torch.autograd.grad(losses.sum(), self.flat)
        self.adam.step(gradient, rates, active)

    def probabilities(self, rows: list[np.ndarray], size: int) -> list[np.ndarray]:
        self.base.eval()
        found: list[list[np.ndarray]] = [[] for _ in rows]
        with torch.no_grad(), autocast(self.clips.inputs.device, self.plan):
            params = self.params()
            for start in range(0, max(len(r) for r in rows), size):
                part = [r[start : start + size] for r in rows]
                x, _ = self.clips.take(self._pad(part)[0])
                call = vmap(lambda p, b, x: functional_call(self.base, (p, b), (x,)), randomness="error")
                out = call(params, self.buffers, x).double().softmax(-1).cpu().numpy()
                for k, r in enumerate(part):
                    found[k].append(out[k, : len(r)])
        self.base.train()
        return [np.concatenate(f) if f else np.empty(0) for f in found]

    def state(self) -> dict[str, Tensor]:
        """Parameters (K, P) under "", and the buffers (K, …) that belong to a network's state dict, by name."""
        saved = self.base.state_dict()
        return {"": self.flat.detach(), **{n: b for n, b in self.buffers.items() if n in saved}}

    def remember(self, which: list[int]) -> None:
        if not self.best:
            self.best = {name: value.clone() for name, value in self.state().items()}
        for name, value in self.state().items():
            self.best[name][which] = value[which]

    def recall(self, which: list[int]) -> None:
        for name, value in self.state().items():
            value[which] = self.best[name][which]

    def select(self, which: list[int]) -> None:
        kept = torch.tensor(which, device=self.flat.device)
        self.streams, self.first_row = [self.streams[i] for i in which], [self.first_row[i] for i in which]
        self.flat = self.flat.detach()[kept].requires_grad_()
        self.adam.select(self.flat, kept)
        self.buffers = {name: value[kept] for name, value in self.buffers.items()}
        self.best = {name: value[kept] for name, value in self.best.items()}

    def network_of(self, k: int) -> nn.Module:
        """A copy."""
        network = copy.deepcopy(self.base)
        values = {**self.params(), **self.buffers}
        for name, own in [*network.named_parameters(), *network.named_buffers()]:
            own.data = values[name][k].detach().clone()
        return network


def _loss_of_one(
    base: nn.Module, loss: Loss, params: dict, buffers: dict, x: Tensor, y: Tensor, row_weight: Tensor, *more: Tensor
) -> Tensor:
    """The loss of one fold, under vmap."""
    return loss(lambda inputs: functional_call(base, (params, buffers), (inputs,)), x, y, row_weight, *more)
