"""How many folds fit into a device's memory in parallel."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from mer.loso.loop import train_folds
from mer.loso.task import Task, TrainingPlan

COPIES = 4  # of a fold's parameters: themselves, their gradient and Adam's two moments
SHARE = 0.6  # of the free memory; operators need the rest for a moment, and so do other processes


def bytes_of_a_fold(
    build: Callable[[], nn.Module], inputs: Tensor, labels: Tensor, plan: TrainingPlan, targets: Tensor | None = None
) -> int:
    """What training one fold keeps in memory: its parameters, and what a batch's forward pass saves for the backward.

    Measured on one step of a network that is thrown away. `inputs` do not count: all folds share them.
    """
    network = build()
    parameters = sum(p.numel() * p.element_size() for p in network.parameters())
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = np.arange(min(plan.batch_size, len(inputs)))
    short = dataclasses.replace(plan.schedule, kind="constant", epochs=1, warmup=0, lr=1e-9, lowest=0.0)
    one = TrainingPlan(schedule=short, batch_size=plan.batch_size, loss=plan.loss, bf16=plan.bf16)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        task = Task("memory", 0, rows, rows[:1])
        ids = [""] * len(inputs)
        train_folds([task], inputs, labels, build, one, ids=ids, targets=targets, in_parallel=False)
    return COPIES * parameters + sum(saved.values())


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


def folds_that_fit(
    build: Callable[[], nn.Module], inputs: Tensor, labels: Tensor, plan: TrainingPlan, processes: int = 1,
    targets: Tensor | None = None,
) -> int:  # fmt: skip
    """How many folds fit, at least 1. processes: how many processes train as many folds each."""
    try:
        one = bytes_of_a_fold(build, inputs, labels, plan, targets)
    except torch.cuda.OutOfMemoryError:  # training raises it again, with the fold and a remedy
        torch.cuda.empty_cache()
        return 1
    free = SHARE * free_bytes(inputs.device) / processes - (processes > 1) * inputs.nbytes
    return max(1, int(free / one))
