"""What becomes of flow when the face is mirrored, turned or scaled: its vectors change with it (fidelity S-13).

Flow images have the channels u, v and, third if there is one, strain, which is the same in every frame of reference.
"""

import numpy as np

from mer.errors import MerError


def mirror_flow(flow):
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


def turn_flow(flow, degrees, scale=1.0):
    """The flow of the face turned clockwise (as seen on the screen) and scaled about the picture's centre.

    Args:
        flow: (N, 2 or 3, H, W) float32 px, numpy array or torch tensor (stays on its device).
        degrees, scale: numbers, or one per flow (N,). The picture is turned by the angle and enlarged by the scale;
            vectors turn and grow with it, strain does neither.

    Returns:
        The same shape and kind; bilinear, the border repeated where the picture does not reach.
    """
    import torch
    import torch.nn.functional as F

    _check("turn_flow", flow)
    if flow.ndim != 4:
        raise MerError(f"turn_flow: flow is {tuple(flow.shape)}; needed is (N, 2 or 3, H, W)")
    image = torch.from_numpy(np.ascontiguousarray(flow)) if isinstance(flow, np.ndarray) else flow
    if not image.dtype.is_floating_point:
        raise MerError(f"turn_flow: flow is {image.dtype}; needed is float, in pixels")
    angle, scale = (torch.as_tensor(x, dtype=image.dtype, device=image.device) for x in (degrees, scale))
    for name, value in (("degrees", angle), ("scale", scale)):
        if value.shape not in ((), (1,), (len(image),)) or not torch.isfinite(value).all():
            raise MerError(f"turn_flow: {name} has shape {tuple(value.shape)}; needed is one number, or one a flow")
    if not (scale > 0).all():
        raise MerError("turn_flow: scale must be positive")
    angle, scale = torch.deg2rad(angle).expand(len(image)), scale.expand(len(image))
    cos, sin = torch.cos(angle), torch.sin(angle)
    height, width = image.shape[-2:]
    # Where each pixel of the result comes from, in affine_grid's units: both axes run from -1 to 1.
    back = torch.zeros(len(image), 2, 3, dtype=image.dtype, device=image.device)
    back[:, 0, 0], back[:, 0, 1] = cos / scale, sin / scale * height / width
    back[:, 1, 0], back[:, 1, 1] = -sin / scale * width / height, cos / scale
    grid = F.affine_grid(back, list(image.shape), align_corners=False)
    turned = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    cos, sin, scale = (part[:, None, None] for part in (cos, sin, scale))
    u, v = turned[:, 0].clone(), turned[:, 1].clone()
    turned[:, 0], turned[:, 1] = scale * (cos * u - sin * v), scale * (sin * u + cos * v)
    return turned.numpy() if isinstance(flow, np.ndarray) else turned


def _check(name: str, flow) -> None:
    if flow.ndim < 3 or flow.shape[-3] not in (2, 3):
        raise MerError(f"{name}: flow is {tuple(flow.shape)}; needed is (..., 2 or 3, H, W): u, v and strain")
