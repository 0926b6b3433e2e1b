"""Training of MagNet on moving layers, after Oh et al. 2018 ("Learning-based Video Motion Magnification", ECCV).

    loss = |output - magnified| + regularisation * (|texture_a - texture_c| + |texture_b - texture_magnified|
                                                    + |shape_b - shape_c|)

with |.| the mean absolute value; a, b, c and magnified are those of mer.magnification.moving_layers.

The paper trains from random weights for days. `start` instead lays linear Eulerian magnification (Wu et al. 2012) into
the weights, b + factor * (b - a) on brightness: the decoder paints colours from `texture`, brightness from `shape`, and
every residual block begins as the identity. That is right for motions that stay small after magnification, so a short
training keeps what it has and learns to clean it, where random weights learn no more than to give b back. For the same
reason training begins with motions that stay small, and with frames that seldom change their colours (`difficulty`).

Measured on two rendered faces of 112 px moved by 0.25 to 1 px, factors 2 to 8: motion beyond b in units of factor * d,
and the mean error of a still pair in grey levels.

    the start, untrained                  0.86 to 0.39    1.9    large motions overshoot at edges
    1000 steps of 4 x 32 px, lr 1e-3      0.59 to 0.36    2.3    error on scenes of difficulty 0 down by 28 %
    the public weights                    0.09 to 0.91    3.6    small motions hardly grow

Many small steps did better than few large ones at equal cost; random weights came to 10 grey levels.
"""

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mer.clips import read_frame
from mer.errors import MerError
from mer.magnification import moving_layers, moving_skin
from mer.magnification.magnet import MULTIPLE, Conv, MagNet, Residual
from mer.magnification.moving_layers import Quadruples, Scenes
from mer.pretraining import Context, Made, loop
from mer.storage.files import digest

SMALLEST = 16  # px; below, most of a frame moves out of it
AHEAD = 8  # batches drawn ahead for a GPU, which would wait for them
LONGEST = 1.0  # norm of the gradient; scenes that are magnified 20 times would throw the weights far
WARMUP = 0.1  # share of the steps in which the rate grows to `lr`, while Adam learns the gradients' sizes
HARD_AFTER = 5000  # steps after which scenes are as difficult as they get
BETAS = (0.9, 0.99)  # Adam's; the usual 0.999 remembers 1000 steps, more than a short training has


def run(entry: dict[str, Any], context: Context) -> Made:
    """The task `moving_layers`: MagNet, trained on textures and, where there is a pool, on its portraits.

    Args:
        entry: steps, batch_size, size, lr, regularisation and first as for `train`.

    Raises:
        MerError: the pool has not been made, a portrait cannot be read, and what `train` refuses.
    """
    images = [] if context.pool is None else portraits(context.pool / "macro")
    how = {name: entry[name] for name in ("steps", "batch_size", "size", "lr", "regularisation", "first")}
    how["skin"] = entry["skin"] if images else 0.0
    network = train(
        images, **how, seed=context.seed, device=context.device, checkpoint=context.checkpoint, code=context.code,
        progress=context.progress,
    )  # fmt: skip
    return Made(network, {"weights": f"trained here, {entry['steps']} steps"})


def portraits(folder: Path) -> list[np.ndarray]:
    """The images of `pool/macro`, (H, W, 3) uint8 RGB. Raises MerError as mer.macro.pool.listed_images does."""
    from mer.macro.pool import listed_images  # brings pandas, which a machine without a pool may lack

    return [read_frame(path) for path in sorted(Path(row["image"]) for row in listed_images(folder))]


def train(
    images: Sequence[np.ndarray],
    *,
    steps: int,
    batch_size: int,
    size: int,
    lr: float,
    seed: int = 0,
    device: str | torch.device = "cpu",
    regularisation: float = 0.1,
    first: Literal["linear", "random"] = "linear",
    skin: float = 0.0,
    bf16: bool = False,
    checkpoint: str | Path | None = None,
    every: int = 50,
    code: str = "",
    progress: bool = False,
) -> MagNet:
    """MagNet, trained for `steps` batches with Adam; the rate falls to 0 along half a cosine.

    On a CPU, equal arguments give equal bits, also when the training is killed and goes on from its checkpoint. On a
    GPU the order of sums, and so the last bits, may change from run to run.

    Args:
        images: (H, W, 3) uint8 RGB each, at least `size` + 2 * moving_layers.REACH px; none: only textures are seen.
        batch_size, size: frames a step and their side in px, a multiple of 4.
        lr: the highest learning rate.
        seed: from which weights and batches are drawn.
        device: `cpu` or `cuda`. bf16: compute in bfloat16 where torch.autocast does so; on a GPU only.
        regularisation: weight of what holds texture and shape apart.
        first: the weights to begin with: `linear` as `start` lays them; `random`, as in the paper, for long schedules.
        skin: share of each batch that is mer.magnification.moving_skin, smooth motion of one image; 0, as in the paper:
            all of it is moving layers.
        checkpoint: a file that is written every `every` steps and left behind at the end; a later call with the same
            arguments, images and `code` goes on from it, one with others ignores it. None: nothing is kept.
        code: a digest of the code that the weights depend on.

    Returns:
        The network on `device`, in evaluation mode.

    Raises:
        MerError: arguments out of range, images of another kind, or a loss that is not finite: the weights before that
            step are sound.
    """
    _check(
        images, steps=steps, batch_size=batch_size, size=size, lr=lr, regularisation=regularisation, skin=skin,
        every=every,
    )  # fmt: skip
    device = torch.device(device)
    if bf16 and device.type != "cuda":
        raise MerError(f"moving_layers: bf16 is on, but device is {device}; it is meant for cuda: switch it off")
    content = [[list(i.shape), hashlib.sha256(np.ascontiguousarray(i).data).hexdigest()] for i in images]
    key = digest(steps, batch_size, size, lr, seed, device.type, regularisation, first, skin, bf16, content, code)
    model = (start if first == "linear" else random_start)(MagNet(), seed).to(device)
    arguments = {"size": size, "seed": seed}
    with ThreadPoolExecutor() as pool:
        batch = _Batches(images, steps, device, pool, batch_size, skin, arguments)
        loop.train(
            model, lambda step: objective(model, batch(step), regularisation), task="moving_layers", steps=steps,
            key=key, optimizer=torch.optim.Adam(model.parameters(), lr=lr, betas=BETAS),
            rate=lambda step: rate(step, steps, lr), checkpoint=checkpoint, every=every, max_norm=LONGEST,
            autocast=torch.bfloat16 if bf16 else None, progress=progress,
        )  # fmt: skip
    return model


def objective(model: MagNet, batch: Quadruples, regularisation: float = 0.1) -> Tensor:
    """The loss above, a scalar."""
    a, b, magnified, c, factor = batch
    texture, shape = (x.chunk(4) for x in model.encoder(torch.cat([a, b, magnified, c])))
    moved = shape[1] + model.manipulator(shape[0], shape[1], factor.view(-1, 1, 1, 1))
    apart = F.l1_loss(texture[0], texture[3]) + F.l1_loss(texture[1], texture[2]) + F.l1_loss(shape[1], shape[3])
    return F.l1_loss(model.decoder(texture[1], moved), magnified) + regularisation * apart


def rate(step: int, steps: int, lr: float) -> float:
    """The learning rate of step 0, 1, …: grows evenly, then falls along half a cosine."""
    warming = min(1.0, (step + 1) / max(1.0, WARMUP * steps))
    return lr * warming * (1 + math.cos(math.pi * step / steps)) / 2


def difficulty(step: int) -> float:
    """0..1, of the scenes of step 0, 1, …; see mer.magnification.moving_layers."""
    return min(1.0, step / HARD_AFTER)


# ---- the first weights ----------------------------------------------------------------------------------------------


@torch.no_grad()
def random_start(model: MagNet, seed: int) -> MagNet:
    """Normal weights with the deviation of He et al. 2015, for rectifiers."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * math.sqrt(2 / weight[0].numel()))
    return model


@torch.no_grad()
def start(model: MagNet, seed: int) -> MagNet:
    """Set the weights so that the network magnifies linearly: output = b + factor * (b - a) in brightness.

    Every value is carried by two channels, its positive part and the positive part of its negative, which rectifiers
    leave as they are. `shape` holds the mean of red, green and blue at each of 2x2 pixels, and the manipulator is the
    identity on it. `texture` holds the colours in the mean of 4x4 pixels. The decoder interpolates the pixels from
    `shape` (see `interpolation`) and takes the hue from `texture`. What lies in no such channel is random and reaches
    no output yet; neither does what residual blocks add.
    """
    random_start(model, seed)
    for module in model.modules():
        if isinstance(module, Residual):
            module.cba_2.conv2d.weight.zero_()
    colours, pixels = range(3), range(4)
    encoder, manipulator, decoder = model.encoder, model.manipulator, model.decoder

    w = _cleared(encoder.cba_1, 6)  # channels 2c, 2c + 1: colour c
    for c in colours:
        w[2 * c, c, 3, 3], w[2 * c + 1, c, 3, 3] = 1, -1
    w = _cleared(encoder.cba_2, 14)  # 2k, 2k + 1: brightness of pixel k of the 2x2; 8 + 2c, ...: their mean in colour c
    for k in pixels:
        for c in colours:
            _carry(w, 2 * k, 2 * c, 1 + k // 2, 1 + k % 2, 1 / 3)
    for c in colours:
        _carry(w, 8 + 2 * c, 2 * c, slice(1, 3), slice(1, 3), 1 / 4)
    w = _cleared(encoder.motion_cba, 8)
    for k in pixels:
        w[2 * k, 2 * k, 1, 1] = w[2 * k + 1, 2 * k + 1, 1, 1] = 1
    w = _cleared(encoder.texture_cba, 6)
    for c in colours:
        _carry(w, 2 * c, 8 + 2 * c, slice(1, 3), slice(1, 3), 1 / 4)

    w = _cleared(manipulator.g, 8)
    for k in pixels:
        _carry(w, 2 * k, 2 * k, 1, 1, 1)
    w = _cleared(manipulator.h_conv, 8)
    for k in pixels:  # all of the change into the first of the two channels; the decoder takes their difference
        w[2 * k, 2 * k, 1, 1], w[2 * k, 2 * k + 1, 1, 1] = 1, -1

    w = _cleared(decoder.cba_1, 14)  # 2k, 2k + 1: brightness; 8 + 2c, ...: colour c less the mean of the three
    for k in pixels:
        _carry(w, 2 * k, 32 + 2 * k, 1, 1, 1)
    for c in colours:
        for other in colours:
            _carry(w, 8 + 2 * c, 2 * other, 1, 1, (c == other) - 1 / 3)
    w = _cleared(decoder.cba_2, 3)
    fine = [torch.from_numpy(kernel).float() for kernel in interpolation()]
    smooth = torch.tensor([1, 2, 2, 2, 2, 2, 1]) / 12  # four equal neighbours become a slope
    for c in colours:
        for k in pixels:
            kernel = fine[k // 2][:, None] * fine[k % 2]
            w[c, 2 * k], w[c, 2 * k + 1] = kernel, -kernel
        w[c, 8 + 2 * c], w[c, 9 + 2 * c] = smooth[:, None] * smooth, -smooth[:, None] * smooth
    return model


def interpolation() -> tuple[np.ndarray, np.ndarray]:
    """Kernels (7,), (7,) with which a row is restored from its even and its odd pixels, each of them doubled.

    The decoder's last layer sees every channel of `shape` doubled, and the same kernel has to serve for even and odd
    pixels: only stripes of one pixel are lost. Least squares for a row whose neighbours correlate by 0.95, as in
    photographs.
    """
    left, right = np.zeros((14, 14)), np.zeros(14)
    for pixel in (0, 1):
        pair = 2 * ((np.arange(-3, 4) + pixel) // 2)
        seen = np.concatenate([pair, pair + 1])
        left = left + 0.95 ** abs(seen[:, None] - seen)
        right = right + 0.95 ** abs(seen - pixel)
    kernels = np.linalg.solve(left + 1e-3 * np.eye(14), right)  # doubled pixels occur twice: the sum has no inverse
    return kernels[:7], kernels[7:]


def _cleared(layer: Conv, outputs: int) -> Tensor:
    """The weight of a convolution, its first `outputs` channels 0."""
    weight = layer.conv2d.weight
    weight[:outputs] = 0
    return weight


def _carry(weight: Tensor, output: int, source: int, row: Any, column: Any, gain: float) -> None:
    """Let the two channels from `output` on carry `gain` times the value that the two from `source` on carry."""
    for sign, o in ((1, output), (-1, output + 1)):
        weight[o, source, row, column] += sign * gain
        weight[o, source + 1, row, column] -= sign * gain


# ---- steps ----------------------------------------------------------------------------------------------------------


class _Batches:
    """The batch of a step; for a GPU, those of the next steps are drawn meanwhile on other threads."""

    def __init__(
        self,
        images: Sequence[np.ndarray],
        steps: int,
        device: torch.device,
        pool: ThreadPoolExecutor,
        batch_size: int,
        skin: float,
        arguments: dict[str, Any],
    ):
        self.images, self.steps, self.device, self.pool, self.arguments = images, steps, device, pool, arguments
        self.of_skin = round(skin * batch_size)
        self.of_layers = batch_size - self.of_skin
        self.drawn: dict[int, Future] = {}

    def __call__(self, step: int) -> Quadruples:
        if self.device.type == "cpu":
            layers = moving_layers.quadruples(self.images, **self.how(step, self.of_layers)) if self.of_layers else None
            return joined(layers, self.skin(step))
        for k in range(step, min(step + AHEAD + 1, self.steps)):
            if k not in self.drawn:
                self.drawn[k] = self.pool.submit(self.draw, k)
        scenes, skin = self.drawn.pop(step).result()
        return joined(None if scenes is None else moving_layers.paint(scenes, self.device), skin)

    def draw(self, step: int) -> tuple[Scenes | None, Quadruples | None]:
        """Scenes of layers, to be painted where the network is, and pictures of skin."""
        scenes = moving_layers.draw(self.images, **self.how(step, self.of_layers)) if self.of_layers else None
        return scenes, self.skin(step)

    def skin(self, step: int) -> Quadruples | None:
        return moving_skin.quadruples(self.images, **self.how(step, self.of_skin)) if self.of_skin else None

    def how(self, step: int, count: int) -> dict[str, Any]:
        return {"batch_size": count, "step": step, "difficulty": difficulty(step), **self.arguments}


def joined(layers: Quadruples | None, skin: Quadruples | None) -> Quadruples:
    """One batch, where the layers are."""
    if layers is None or skin is None:
        (found,) = (part for part in (layers, skin) if part is not None)
        return found
    return Quadruples(*(torch.cat([x, y.to(x.device)]) for x, y in zip(layers, skin, strict=True)))


def _check(
    images: Sequence[np.ndarray],
    *,
    steps: int,
    batch_size: int,
    size: int,
    lr: float,
    regularisation: float,
    skin: float,
    every: int,
) -> None:
    for name, value in (("steps", steps), ("batch_size", batch_size), ("every", every)):
        if value < 1:
            raise MerError(f"moving_layers: {name} is {value}; needed is 1 at least")
    if size < SMALLEST or size % MULTIPLE:
        raise MerError(f"moving_layers: size is {size}; needed is a multiple of {MULTIPLE} px, {SMALLEST} at least")
    if not 0 < lr < math.inf:
        raise MerError(f"moving_layers: lr is {lr}; needed is a finite number above 0")
    if not 0 <= regularisation < math.inf:
        raise MerError(f"moving_layers: regularisation is {regularisation}; needed is 0 or a finite number above")
    if not 0 <= skin <= 1:
        raise MerError(f"moving_layers: skin is {skin}; needed is a share of the batch, 0..1")
    if skin and not images:
        raise MerError(f"moving_layers: skin is {skin}, but there are no images; give portraits, or set it to 0")
    moving_layers.check(images, batch_size=batch_size, size=size)
