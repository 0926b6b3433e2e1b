"""What becomes of flow when the face is mirrored, turned or scaled: its vectors change with it (fidelity S-13).

Flow images have the channels u, v and, third if there is one, strain, which is the same in every frame of reference.
"""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mer.errors import MerError
from mer.shapes import MOST_CHANNELS

if TYPE_CHECKING:
    from torch import Tensor

Flow = TypeVar("Flow", np.ndarray, "Tensor")


def mirror_flow(flow: Flow) -> Flow:
    """The flow of the mirrored face: columns reversed, u negated.

    Args:
        flow: (..., 2 or 3, H, W), numpy array or torch tensor.

    Returns:
        The same shape and kind, a copy.
    """
    _check("mirror_flow", flow)
    mirrored = flow[..., ::-1].copy() if isinstance(flow, np.ndarray) else flow.flip(-1)
    mirrored[..., 0, :, :] *= -1
    return mirrored


def turn_flow(flow: Flow, degrees: "float | np.ndarray | Tensor", scale: "float | np.ndarray | Tensor" = 1.0) -> Flow:
    """The flow of the face turned clockwise (as seen on the screen) and scaled about the picture's centre.

    Args:
        flow: (N, 2 or 3, H, W) float32 px, numpy array or torch tensor (stays on its device).
        degrees, scale: numbers, or one per flow (N,). The picture is turned by the angle and enlarged by the scale;
            vectors turn and grow with it, strain does neither.

    Returns:
        The same shape and kind; bilinear, the border repeated where the picture does not reach.
    """
    import torch

    _check("turn_flow", flow)
    if flow.ndim != 4:
        raise MerError(f"turn_flow: flow is {tuple(flow.shape)}; needed is (N, 2 or 3, H, W)")
    image = torch.from_numpy(np.ascontiguousarray(flow)) if isinstance(flow, np.ndarray) else flow
    turned = turn_images(image, degrees, scale, vectors=(0, 1))
    return turned.numpy() if isinstance(flow, np.ndarray) else turned


def turn_images(
    images: "Tensor",
    degrees: "float | np.ndarray | Tensor",
    scale: "float | np.ndarray | Tensor" = 1.0,
    *,
    vectors: tuple[int, int] | None = None,
) -> "Tensor":
    """Pictures turned clockwise (as seen on the screen) and scaled about their centre.

    Args:
        images: (N, C, H, W) floating torch tensor, on any device.
        degrees, scale: numbers, or one per picture (N,).
        vectors: the two channels that hold vectors, to the right and down; they turn and grow with the picture.

    Returns:
        The same shape; bilinear, the border repeated where the picture does not reach.
    """
    import torch
    import torch.nn.functional as F

    if images.ndim == 4 and 0 < images.shape[-1] <= MOST_CHANNELS < min(images.shape[1:3]):
        raise MerError(
            f"turn: images are {tuple(images.shape)}, channels last; needed is (N, C, H, W): permute them first"
        )
    if images.ndim != 4 or not images.dtype.is_floating_point:
        raise MerError(f"turn: images are {tuple(images.shape)} {images.dtype}; needed is (N, C, H, W) float")
    # To find where a pixel comes from, the turn goes back and the scale is undone.
    scale = torch.as_tensor(scale, dtype=images.dtype, device=images.device)
    if not (scale > 0).all():
        raise MerError("turn: scale must be positive")
    cos, sin = _turn(degrees, 1 / scale, images)
    height, width = images.shape[-2:]
    # In affine_grid's units: both axes run from -1 to 1.
    back = torch.zeros(len(images), 2, 3, dtype=images.dtype, device=images.device)
    back[:, 0, 0], back[:, 0, 1] = cos, sin * height / width
    back[:, 1, 0], back[:, 1, 1] = -sin * width / height, cos
    grid = F.affine_grid(back, list(images.shape), align_corners=False)
    turned = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if vectors is not None:
        cos, sin = (part[:, None, None] for part in _turn(degrees, scale, images))
        u, v = (turned[:, channel].clone() for channel in vectors)
        turned[:, vectors[0]], turned[:, vectors[1]] = cos * u - sin * v, sin * u + cos * v
    return turned


def _turn(
    degrees: "float | np.ndarray | Tensor", scale: "float | np.ndarray | Tensor", like: "Tensor"
) -> "tuple[Tensor, Tensor]":
    """scale * cos and scale * sin of the angles, (N,) each."""
    import torch

    parts = [torch.as_tensor(x, dtype=like.dtype, device=like.device) for x in (degrees, scale)]
    for name, value in zip(("degrees", "scale"), parts, strict=True):
        if value.shape not in ((), (1,), (len(like),)) or not torch.isfinite(value).all():
            raise MerError(f"turn: {name} has shape {tuple(value.shape)}; needed is one number, or one a picture")
    angle, scale = torch.deg2rad(parts[0]).expand(len(like)), parts[1].expand(len(like))
    return scale * torch.cos(angle), scale * torch.sin(angle)


def _check(name: str, flow: "np.ndarray | Tensor") -> None:
    if flow.ndim < 3 or flow.shape[-3] not in (2, 3):
        raise MerError(f"{name}: flow is {tuple(flow.shape)}; needed is (..., 2 or 3, H, W): u, v and strain")
