"""Several processes that train one network, each on its rows of the same batch; gradients are averaged.

Started by `torchrun` or whatever else sets RANK, WORLD_SIZE and MASTER_ADDR. Alone, nothing is set up.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mer.errors import MerError

STARTERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # processes that srun or mpirun started


@dataclass(frozen=True)
class World:
    """rank: of this process, 0..size - 1. device: cpu, or the GPU of this process."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    def rows(self, batch: int) -> slice:
        """Which rows of a batch of all processes are this one's."""
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def wrapped(self, network: nn.Module) -> nn.Module:
        """The same network, whose backward pass averages gradients over the processes."""
        if self.size == 1:
            return network
        places = [torch.device(self.device)] if self.device.startswith("cuda") else None
        return nn.parallel.DistributedDataParallel(network, device_ids=places, broadcast_buffers=False)

    def check_same(self, value: int, what: str) -> None:
        """Raise MerError unless all processes have the same number."""
        if self.size == 1:
            return
        ends = torch.tensor([value, -value], device=self.device)
        torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX)
        most, least = int(ends[0]), -int(ends[1])
        if most != least:
            raise MerError(
                f"{what}: the processes have {least} to {most}; all need the same files, on a disk that they share"
            )

    def mean(self, value: Tensor) -> Tensor:
        """Of a tensor over the processes, without gradient."""
        value = value.detach().clone()
        if self.size > 1:
            torch.distributed.all_reduce(value)
            value /= self.size
        return value


def check_batch(batch: int, size: int, where: str) -> None:
    """Raise MerError unless a batch can be divided among `size` processes."""
    if batch % size:
        raise MerError(
            f"{where} is {batch}, which {size} processes cannot share evenly; take a multiple of {size}, such as "
            f"{max(1, round(batch / size)) * size}, or start another number of processes (runtime.launcher)"
        )


@contextmanager
def world(device: str) -> Iterator[World]:
    """This process among those that were started together. device: cpu or cuda; GPUs are given out by LOCAL_RANK."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    for name in STARTERS:
        if "WORLD_SIZE" not in os.environ and int(os.environ.get(name, "1")) > 1:
            raise MerError(
                f"runtime.launcher: {name} is {os.environ[name]} and WORLD_SIZE is not set, so each process would "
                "train alone; start the worker by torchrun, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            )
    if size == 1:
        yield World(device=device)
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield World(int(os.environ["RANK"]), size, device)
    finally:
        torch.distributed.destroy_process_group()
