"""Line 9: what Eulerian magnification could gain on a GPU; there is no such program yet.

Frames a second of the least that it would have to do there: move uint8 frames to the device and back, and take each
through a pyramid and back up, with torch's convolutions and no filter in time. Beside it, `magnify` as it is, in one
process; the pipeline runs one on every core, so a GPU pays only where the ratio is well above their number.
"""

import functools

import torch
from torch.nn import functional as F

from benchmarks.gpu import _data
from benchmarks.gpu._run import Line, Session, rounded, timed
from mer.magnification.eulerian import RECIPES, magnify

NUMBER, TITLE = 9, "Eulerian magnification"
FRAMES, SIZE, FPS, LEVELS = 67, 224, 200, 5  # of CASME II: its mean length and rate; 224 px halved five times


def cpu(session: Session) -> dict:
    clip = _data.clip(*session.pick((FRAMES, SIZE), (8, 40)))
    return {
        name: {"frames_per_s": rounded(len(clip) / timed(session, lambda r=recipe: magnify(clip, FPS, **r)))}
        for name, recipe in RECIPES.items()
    }


def pyramid(frames: torch.Tensor, levels: int) -> torch.Tensor:
    """Down and up again by the filter 1 4 6 4 1: (T, 3, H, W) -> (T, 3, H, W)."""
    row = torch.tensor([1.0, 4, 6, 4, 1], device=frames.device) / 16
    kernel = (row[:, None] * row).expand(3, 1, 5, 5).contiguous()
    bands = []
    for _ in range(levels):
        bands.append(frames)
        frames = F.conv2d(F.pad(frames, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=3)
    for band in reversed(bands):
        up = F.conv_transpose2d(frames, 4 * kernel, stride=2, padding=2, output_padding=1, groups=3)
        frames = band + up[..., : band.shape[-2], : band.shape[-1]]
    return frames


def ceiling(session: Session) -> dict:
    clip = torch.from_numpy(_data.clip(*session.pick((FRAMES, SIZE), (8, 40))))
    levels = session.pick(LEVELS, 2)
    if session.device.type == "cuda":
        clip = clip.pin_memory()
    still = clip.to(session.device).permute(0, 3, 1, 2).float()

    def moved(work=lambda x: x) -> torch.Tensor:
        return work(clip.to(session.device, non_blocking=True)).cpu()

    def both(frames: torch.Tensor) -> torch.Tensor:
        out = pyramid(frames.permute(0, 3, 1, 2).float(), levels)
        return out.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    programs = {"moved": moved, "pyramid": lambda: pyramid(still, levels), "both": lambda: moved(both)}
    with torch.no_grad():
        return {name: rounded(len(clip) / timed(session, work)) for name, work in programs.items()}


def measure(line: Line) -> dict:
    now = line.part("cpu", functools.partial(cpu, line.session))
    most = line.part("ceiling", functools.partial(ceiling, line.session))
    if now is None or most is None:
        return {}
    fastest = max(found["frames_per_s"] for found in now.values())
    return {"cpu_frames_per_s": fastest, "ceiling_frames_per_s": most["both"],
            "times_faster_at_most": rounded(most["both"] / fastest, 3)}  # fmt: skip
