"""What a training needs to end with the same bits whether it was killed or not: its checkpoint and fixed conditions."""

import io
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from mer.storage.cache import replace_file

THREADS = 2  # of a CPU: sums in convolutions depend on how many there are, so the number is fixed


def resume(path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Take up a checkpoint of this key; the steps it has behind it, 0 without one.

    Args:
        path: of `keep`; None, or no such file: there is no checkpoint. A damaged one is said on stderr and ignored.
        key: tells of which training it is; one of another training is ignored.
        model, optimizer: changed in place where the checkpoint is taken up.
    """
    if path is None or not Path(path).is_file():
        return 0
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        found = kept["key"]
    except Exception as error:  # a damaged file fails in any way; it is worth no more than none, but that is said
        reason = str(error).partition("\n")[0] or type(error).__name__
        print(f"{path}: the checkpoint is damaged ({reason}); training begins anew", file=sys.stderr)
        return 0
    if found != key:
        return 0
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    return kept["step"]


def keep(path, key: str, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the checkpoint of a training that has `step` steps behind it; killed meanwhile, it leaves the old one."""
    buffer = io.BytesIO()
    state = {"key": key, "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, buffer)
    replace_file(path, buffer.getvalue())


@contextmanager
def fixed_threads(device: torch.device, threads: int = THREADS):
    """Inside, torch computes on `threads` threads of the CPU, with cuDNN's repeatable kernels on a GPU."""
    before, repeatable = torch.get_num_threads(), torch.backends.cudnn.deterministic
    if device.type == "cpu":
        torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.deterministic = repeatable
