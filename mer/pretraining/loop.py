"""The training loop of all tasks. A training ends with the same bits whether it was killed on the way or not.

A task gives the loss of step 0, 1, …, and draws everything at random as a function of the step. So the checkpoint needs
no more than the weights, the optimiser's state and the number of steps; threads and kernels are fixed. What a task
finds out on the way, such as validation losses, is the state of a `Watch` and goes into the checkpoint with them.
"""

import io
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mer.errors import FileError, MerError
from mer.pretraining.distributed import World
from mer.storage.files import replace_file
from mer.storage.weights import load_torch

THREADS = 2  # of a CPU: sums in convolutions depend on how many there are, so the number is fixed


class Watch(Protocol):
    """What looks at the network after each step: it may end the training, and `rate` may read what it has seen.

    All that it does is a function of the step, the weights and its own state.
    """

    @property
    def ended(self) -> bool:
        """Whether no further step is made."""

    def after(self, step: int) -> None:
        """Called when step 0, 1, … is made; leaves the weights, and the network in training mode."""

    def state_dict(self) -> dict[str, Any]:
        """What it has seen: tensors, numbers, and lists and dicts of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave; the tensors are on the CPU."""


def train(
    network: nn.Module,
    objective: Callable[[int], Tensor],
    *,
    task: str,
    steps: int,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    key: str,
    checkpoint: str | Path | None = None,
    every: int = 50,
    max_norm: float = math.inf,
    autocast: torch.dtype | None = None,
    step_seed: Callable[[int], int] | None = None,
    watch: Watch | None = None,
    world: World | None = None,
    progress: bool = False,
) -> None:
    """Train a network in place, for `steps` steps at most; afterwards it is in evaluation mode.

    Args:
        network: on the device that it shall be trained on.
        objective: the loss of a step, a scalar, with the network as it is then; a function of the step and the weights.
        task: for messages and the progress bar.
        optimizer: of the parameters that are trained.
        rate: the learning rate of a step.
        key: a digest of all that the weights depend on.
        checkpoint: a file that is written every `every` steps and left behind at the end; a later call with the same
            key goes on from it, one with another key ignores it. None: nothing is kept.
        max_norm: a longer gradient is shortened to it.
        autocast: the type in which torch.autocast computes the loss; None: as the weights are.
        step_seed: of torch's generator before a step, for a network that draws (dropout). The caller's generator stays
            as it is. None: nothing is seeded.
        watch: is asked after each step, and may end the training. None: all steps are made.
        world: several processes that make the same steps: the first of them keeps the checkpoint, all take it up. None:
            this one alone.
        progress: show a bar.

    Raises:
        MerError: a loss or gradient that is not finite; the weights are those before that step.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    device, world = parameters[0].device, world or World()
    with fixed_threads(device), torch.random.fork_rng(enabled=step_seed is not None):
        network.train()
        done = resume(checkpoint, key, network, optimizer, watch)
        world.check_same(done, f"{task}: steps in the checkpoint")
        with tqdm(total=steps, initial=done, desc=task, unit="step", disable=not progress, mininterval=0.5) as bar:
            for step in range(done, steps):
                if watch is not None and watch.ended:
                    break
                if step_seed is not None:
                    torch.manual_seed(step_seed(step))
                with torch.autocast(device.type, autocast, enabled=autocast is not None):
                    loss = objective(step)
                value = world.mean(loss).item()
                if not math.isfinite(value):
                    raise _not_finite(task, step, steps, f"loss is {value}")
                optimizer.zero_grad()
                loss.backward()
                # Also without a limit, to know the norm: nothing is longer than infinity.
                if not torch.isfinite(nn.utils.clip_grad_norm_(parameters, max_norm)):
                    raise _not_finite(task, step, steps, "the gradient is not finite")
                for group in optimizer.param_groups:
                    group["lr"] = rate(step)
                optimizer.step()
                if watch is not None:
                    watch.after(step)
                bar.set_postfix(loss=f"{value:.3f}", refresh=False)
                bar.update()
                last = step + 1 == steps or (watch is not None and watch.ended)
                if checkpoint is not None and world.rank == 0 and ((step + 1) % every == 0 or last):
                    keep(checkpoint, key, step + 1, network, optimizer, watch)
        network.eval()


def _not_finite(task: str, step: int, steps: int, what: str) -> MerError:
    return MerError(f"{task}: step {step + 1} of {steps}: {what}; the weights before it were sound: lower lr")


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def resume(
    path: str | Path | None,
    key: str,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    watch: Watch | None = None,
) -> int:
    """Take up a checkpoint of this key; the steps it has behind it, 0 without one.

    Args:
        path: of `keep`; None, or no such file: there is no checkpoint. A damaged one is said on stderr and ignored, and
            `keep` writes over it.
        key: tells of which training it is; one of another training is ignored.
        network, optimizer, watch: changed in place where the checkpoint is taken up.

    Raises FileError where the system does not hand it out, MemoryError where it does not fit: it may be sound then.
    """
    if path is None or not Path(path).is_file():
        return 0
    try:
        kept = load_torch(path)
        found, step, weights, state = (kept[name] for name in ("key", "step", "model", "optimizer"))
        seen = kept["watch"] if watch is not None and found == key else {}
    except (FileError, MemoryError):
        raise
    except Exception as error:  # a damaged file fails in any way; it is worth no more than none, but that is said
        reason = str(error).partition("\n")[0] or type(error).__name__
        print(f"{path}: the checkpoint is damaged ({reason}); training begins anew", file=sys.stderr)
        return 0
    if found != key:
        return 0
    network.load_state_dict(weights)
    optimizer.load_state_dict(state)
    if watch is not None:
        watch.load_state_dict(seen)
    return step


def keep(
    path: str | Path,
    key: str,
    step: int,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    watch: Watch | None = None,
) -> None:
    """Write the checkpoint of a training that has `step` steps behind it; killed meanwhile, it leaves the old one."""
    buffer = io.BytesIO()
    state = {"key": key, "step": step, "model": network.state_dict(), "optimizer": optimizer.state_dict()}
    state |= {} if watch is None else {"watch": watch.state_dict()}
    torch.save(state, buffer)
    replace_file(path, buffer.getvalue())


# ---- fixed conditions -----------------------------------------------------------------------------------------------


@contextmanager
def fixed_threads(device: torch.device) -> Iterator[None]:
    """Inside, torch computes on `THREADS` threads of the CPU, with cuDNN's repeatable kernels on a GPU."""
    before, repeatable = torch.get_num_threads(), torch.backends.cudnn.deterministic
    if device.type == "cpu":
        torch.set_num_threads(THREADS)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.deterministic = repeatable
