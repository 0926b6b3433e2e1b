"""Moving layers: pairs of frames whose magnified motion is known, to train MagNet on.

After the synthetic data of Oh et al. 2018 ("Learning-based Video Motion Magnification", ECCV, section on the dataset):
cut-outs with soft edges lie over a background, and every layer moves as a whole by a vector of its own. With d the
displacement of a layer in px and one `factor` a scene, a sample is

    a           the layers where they are
    b           moved by d
    magnified   moved by (1 + factor) * d: by factor * d beyond b, as in (M) of mer.magnification.magnet
    c           moved by d, as b

b and magnified are in other colours than a and c. So a and c should have one texture, b and magnified one texture, and
b and c one shape. Faces are what is magnified in the end, so photographs come from the caller, beside procedural
textures of many scales.

A layer is not an image that is warped from frame to frame: it is a smooth function, the sum of a kernel around each
pixel of a finer grid, and every frame samples this function anew where its pixels are. A displacement of 0.05 px is
therefore as exact as one of 5 px (OpenCV's warps round to 1/32 px).

Shapes: B samples, L layers; frames (B, 3, H, W) float32, RGB in [-1, 1]; displacements (x, y) in px, to the right and
down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from mer.errors import MerError

# Micro-expressions move a 224 px face by some tenths of a px to 2 or 3 px; 0.05 px is what the noise leaves to be seen.
DISPLACEMENT = (0.05, 3.0)  # px, log-uniform, of the fastest layer
FACTOR = (2.0, 20.0)  # log-uniform; what UAMRN asks for, 2 to 13, and some more
LARGEST = (4.0, 10.0)  # px, of factor * d, at difficulty 0 and 1; above, the public weights, too, break down
REACH = 17  # px of a layer beyond the frame on every side: (1 + factor) * d, 13 at most, and the kernel's width

LAYERS = (1, 3)  # cut-outs over the background
STILL = 0.05  # share of scenes in which nothing moves
BACKGROUND_ONLY = 0.15  # ... without cut-outs
BACKGROUND_STILL = 0.2  # ... with cut-outs that move over a still background
PHOTOGRAPH = 0.7  # share of layers that are cut from an image, if there are any
FAINT = 0.25  # share of layers with little contrast: skin has little of it
BLURRED = 0.25  # share of layers that are out of focus

# Frames of one clip are taken in a moment under one light: the colours that tell texture from shape differ mildly.
RECOLOURED = (0.1, 0.5)  # share of scenes in which b's colours are not a's, at difficulty 0 and 1
GAIN = (0.7, 1.0)  # contrast of the paler frames
NOISE = (0.0, 1.0)  # standard deviation, grey levels of 255, of a and b; the target has none

FINER = 2  # pixels of a layer's grid for one of the frame
LOBES = 3  # of the Lanczos kernel


class Quadruples(NamedTuple):
    """B samples. a, b, magnified, c: (B, 3, size, size) float32 in [-1, 1]; factor: (B,) float32."""

    a: Tensor
    b: Tensor
    magnified: Tensor
    c: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Scenes:
    """B scenes of L layers, the background first; all that is drawn at random, nothing painted.

    layers: (B, L, 4, S, S) float32, colours in [-1, 1] and opacity in [0, 1], on the finer grid
    displacement: (B, L, 2) float64, px of the frame, (x, y)
    factor: (B,) float64
    gain, offset: (B, 2, 3) float32, of the colours of (a and c, b and magnified)
    noise: (B, 2, 3, size, size) float32 in units of the frames, for a and b
    """

    layers: np.ndarray
    displacement: np.ndarray
    factor: np.ndarray
    gain: np.ndarray
    offset: np.ndarray
    noise: np.ndarray


def quadruples(
    images: Sequence[np.ndarray],
    *,
    batch_size: int,
    size: int,
    seed: int,
    step: int,
    difficulty: float = 1.0,
    device: str | torch.device = "cpu",
) -> Quadruples:
    """The batch of a training step; the same for equal arguments, whatever was drawn before.

    Args:
        images: (H, W, 3) uint8 RGB each, of any size from `size` + 2 * REACH px on; none: only textures.
        batch_size, size: B, and the side of the frames in px.
        seed, step: from which everything is drawn.
        difficulty: 0..1; how large the magnified motions and how many the changes of colour are.
        device: where the frames are painted.

    Raises:
        MerError: images of another kind or too small, a size or batch below 1, a difficulty outside 0..1.
    """
    scenes = draw(images, batch_size=batch_size, size=size, seed=seed, step=step, difficulty=difficulty)
    return paint(scenes, device)


def draw(
    images: Sequence[np.ndarray], *, batch_size: int, size: int, seed: int, step: int, difficulty: float = 1.0
) -> Scenes:
    """What `quadruples` paints, drawn at random; arguments and errors are its own."""
    check(images, batch_size=batch_size, size=size)
    if not 0 <= difficulty <= 1:
        raise MerError(f"moving layers: difficulty is {difficulty}; needed is 0..1")
    rng = np.random.default_rng([seed, step])
    scenes = [_scene(images, size, difficulty, rng) for _ in range(batch_size)]
    most = max(len(layers) for layers, *_ in scenes)
    side = FINER * (size + 2 * REACH)
    layers = np.zeros((batch_size, most, 4, side, side), np.float32)  # what is not there is transparent
    displacement = np.zeros((batch_size, most, 2))
    for i, (some, moved, *_) in enumerate(scenes):
        layers[i, : len(some)], displacement[i, : len(some)] = some, moved
    factor, gain, offset, noise = (np.stack(part) for part in list(zip(*scenes, strict=True))[2:])
    return Scenes(layers, displacement, factor, gain, offset, noise)


def paint(scenes: Scenes, device: str | torch.device = "cpu") -> Quadruples:
    """The frames of scenes."""
    size = scenes.noise.shape[-1]
    layers = torch.from_numpy(scenes.layers).to(device)
    still, moved, magnified = (
        frames(layers, amount[:, None, None] * scenes.displacement, size)
        for amount in (np.zeros_like(scenes.factor), np.ones_like(scenes.factor), 1 + scenes.factor)
    )
    gain, offset, noise = (torch.from_numpy(x).to(device) for x in (scenes.gain, scenes.offset, scenes.noise))
    one, other = (lambda x, k=k: x * gain[:, k, :, None, None] + offset[:, k, :, None, None] for k in (0, 1))
    factor = torch.from_numpy(scenes.factor.astype(np.float32)).to(device)
    a, b = ((frame + noise[:, k]).clamp(-1, 1) for k, frame in enumerate((one(still), other(moved))))
    return Quadruples(a, b, other(magnified), one(moved), factor)


def frames(layers: Tensor, displacement: np.ndarray, size: int) -> Tensor:
    """Layers, each displaced, one over the other as seen by a camera.

    Args:
        layers: (B, L, 4, S, S), S = FINER * (size + 2 * REACH): colours and opacity; the first layer counts as opaque.
        displacement: (B, L, 2), px of the frame, at most REACH - LOBES - 1 in either direction.

    Returns:
        (B, 3, size, size) of the layers' type, clipped to [-1, 1].
    """
    batch, count, channels, side, _ = layers.shape
    across, down = (sampling(size, displacement[..., axis]).to(layers) for axis in (0, 1))
    rows = torch.matmul(layers.flatten(2, 3), across.mT).view(batch, count, channels, side, size)
    seen = torch.matmul(down[:, :, None], rows)
    out = seen[:, 0, :3]
    for k in range(1, count):
        opacity = seen[:, k, 3:].clamp(0, 1)  # the kernel overshoots at edges
        out = out + opacity * (seen[:, k, :3] - out)
    return out.clamp(-1, 1)


def sampling(size: int, shift: np.ndarray) -> Tensor:
    """Matrices that sample a layer, moved by `shift` px, at the pixels of a frame, along one axis.

    A row is a Lanczos kernel as wide as a pixel of the frame, so that what the frame cannot show does not alias.

    Args:
        shift: (...) px of the frame.

    Returns:
        (..., size, S) float64, rows of sum 1.
    """
    shift = np.asarray(shift, np.float64)
    pixel = FINER * (REACH - shift + 0.5) - 0.5  # where in the layer the first pixel looks; the next FINER further on
    first = np.ceil(pixel - FINER * LOBES).astype(int)
    x = (first[..., None] + np.arange(2 * FINER * LOBES) - pixel[..., None]) / FINER
    weight = np.sinc(x) * np.sinc(x / LOBES)
    weight /= weight.sum(-1, keepdims=True)
    matrix = np.zeros((*shift.shape, size, FINER * (size + 2 * REACH)))
    row = np.arange(size)[:, None]
    for place in np.ndindex(shift.shape):
        matrix[place][row, first[place] + FINER * row + np.arange(weight.shape[-1])] = weight[place]
    return torch.from_numpy(matrix)


# ---- scenes ---------------------------------------------------------------------------------------------------------


def _scene(images: Sequence[np.ndarray], size: int, difficulty: float, rng: np.random.Generator) -> tuple:
    """(layers (L, 4, S, S), displacement (L, 2), factor, gain (2, 3), offset (2, 3), noise (2, 3, size, size))."""
    kind = rng.choice(4, p=[STILL, BACKGROUND_ONLY, BACKGROUND_STILL, 1 - STILL - BACKGROUND_ONLY - BACKGROUND_STILL])
    count = 1 if kind == 1 else 1 + rng.integers(LAYERS[0], LAYERS[1] + 1)
    side = FINER * (size + 2 * REACH)
    layers = np.empty((count, 4, side, side), np.float32)
    for k in range(count):
        layers[k, :3] = _texture(images, size, rng).transpose(2, 0, 1)
        layers[k, 3] = _cut_out(size, rng) if k else 1
    largest = between(LARGEST, difficulty)
    fastest = log_uniform(rng, DISPLACEMENT[0], min(DISPLACEMENT[1], largest / FACTOR[0]))
    factor = log_uniform(rng, FACTOR[0], min(FACTOR[1], max(FACTOR[0], largest / fastest)))
    angle, speed = rng.uniform(0, 2 * np.pi, count), rng.uniform(0, 1, count)
    speed[rng.integers(kind == 2, count)] = 1
    if kind == 0:
        speed[:] = 0
    if kind == 2:
        speed[0] = 0
    displacement = fastest * speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return layers, displacement, factor, *colours(size, difficulty, rng)


def colours(size: int, difficulty: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """gain (2, 3), offset (2, 3) and noise (2, 3, size, size) of a scene, as in `Scenes`."""
    gain, offset = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    if rng.random() < between(RECOLOURED, difficulty):
        paler = rng.integers(2)
        gain[paler] = rng.uniform(*GAIN, 3)
        offset[paler] = rng.uniform(-1, 1, 3) * (1 - gain[paler])  # what was in [-1, 1] stays there
    noise = rng.standard_normal((2, 3, size, size), np.float32) * np.float32(rng.uniform(*NOISE) / 127.5)
    return gain, offset, noise


def _texture(images: Sequence[np.ndarray], size: int, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) float32 in [-1, 1]: a piece of an image, or a procedural texture; in a random orientation."""
    if len(images) and rng.random() < PHOTOGRAPH:
        texture = piece(images[int(rng.integers(len(images)))], size, rng)
    else:
        texture = _procedural(size, rng)
    if rng.random() < BLURRED:
        texture = cv2.GaussianBlur(texture, (0, 0), FINER * log_uniform(rng, 0.7, 4))
    if rng.random() < FAINT:
        mean = texture.mean((0, 1))
        texture = mean + (texture - mean) * np.float32(rng.uniform(0.1, 0.5))
    texture = np.rot90(texture, int(rng.integers(4)))
    return texture[:, ::-1] if rng.random() < 0.5 else texture


def piece(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square of the image, from one pixel of it for one of the frame up to the whole of it or four for one."""
    least = size + 2 * REACH
    edge = round(log_uniform(rng, least, min(*image.shape[:2], 4 * least)))
    top, left = (rng.integers(length - edge + 1) for length in image.shape[:2])
    part = image[top : top + edge, left : left + edge].astype(np.float32) / 127.5 - 1
    side = FINER * least
    return np.clip(
        cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA if edge > side else cv2.INTER_CUBIC), -1, 1
    )


def _procedural(size: int, rng: np.random.Generator) -> np.ndarray:
    """Two colours mixed by a field, with a little coloured noise of another scale.

    Soft fields shade from one colour to the other, hard ones make blobs, bars and edges.
    """
    shape = rng.integers(3)
    if shape == 0:
        field = _noise(size, 1, log_uniform(rng, 3, 40), rng)[..., 0]
    else:
        x, y = _grid(size)
        angle = rng.uniform(0, np.pi)
        along = x * np.cos(angle) + y * np.sin(angle)
        if shape == 1:
            field = np.sin(2 * np.pi * along / log_uniform(rng, 4, 40) + rng.uniform(0, 2 * np.pi))
        else:
            field = (along + 6 * _noise(size, 1, log_uniform(rng, 10, 40), rng)[..., 0] - rng.uniform(-20, 20)) / 4
    field = np.tanh(log_uniform(rng, 0.5, 6) * field)[..., None].astype(np.float32)
    one, other = rng.uniform(-0.9, 0.9, (2, 3)).astype(np.float32)
    grain = _noise(size, 3, log_uniform(rng, 2, 20), rng) * np.float32(rng.uniform(0, 0.25))
    return np.clip((one + other) / 2 + (one - other) / 2 * field + grain, -1, 1)


def _cut_out(size: int, rng: np.random.Generator) -> np.ndarray:
    """(S, S) float32 opacity: an ellipse with a bent outline and a soft edge, its middle inside the frame."""
    x, y = _grid(size)
    middle = rng.uniform(-0.4, 0.4, 2) * size
    angle = rng.uniform(0, np.pi)
    x, y = x - middle[0], y - middle[1]
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    radii = rng.uniform(0.12, 0.4, 2) * size
    distance = (1 - np.hypot(x / radii[0], y / radii[1])) * radii.min()  # px, inside the outline
    distance += rng.uniform(0, 0.15) * size * _noise(size, 1, rng.uniform(0.1, 0.4) * size, rng)[..., 0]
    return (0.5 + 0.5 * np.tanh(distance / log_uniform(rng, 0.7, 6))).astype(np.float32)


def _noise(size: int, channels: int, wavelength: float, rng: np.random.Generator) -> np.ndarray:
    """(S, S, channels) float32, mean 0, deviation about 1, details of about `wavelength` px of the frame."""
    side = size + 2 * REACH
    cells = max(2, round(2 * side / wavelength))
    coarse = rng.standard_normal((cells, cells, channels), np.float32)
    fine = cv2.resize(coarse, (FINER * side, FINER * side), interpolation=cv2.INTER_CUBIC)
    return fine.reshape(FINER * side, FINER * side, channels)


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x, y of a layer's pixels, px of the frame from its middle."""
    side = FINER * (size + 2 * REACH)
    place = ((np.arange(side, dtype=np.float32) + 0.5) / FINER) - (size / 2 + REACH)
    return place[None, :], place[:, None]


def log_uniform(rng: np.random.Generator, least: float, most: float) -> float:
    return float(np.exp(rng.uniform(np.log(least), np.log(most))))


def between(ends: tuple[float, float], difficulty: float) -> float:
    return ends[0] + difficulty * (ends[1] - ends[0])


def check(images: Sequence[np.ndarray], *, batch_size: int, size: int) -> None:
    """Raise MerError unless `draw` can make samples of these."""
    if size < 1 or batch_size < 1:
        raise MerError(f"moving layers: size is {size}, batch_size {batch_size}; needed is 1 at least")
    least = size + 2 * REACH
    for i, image in enumerate(images):
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            found = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
            raise MerError(f"moving layers: image {i} is {found}; needed is (H, W, 3) uint8, RGB: convert it first")
        if min(image.shape[:2]) < least:
            raise MerError(
                f"moving layers: image {i} is {image.shape[1]}x{image.shape[0]} px; needed is {least} px at least for "
                f"frames of {size} px: leave it out, or take size {min(image.shape[:2]) - 2 * REACH} at most"
            )
