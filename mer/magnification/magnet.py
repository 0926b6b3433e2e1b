"""MagNet: learned motion magnification (Oh et al. 2018, "Learning-based Video Motion Magnification", ECCV).

Shapes: B pairs, L factors; frames (B, 3, H, W), RGB in [-1, 1]. The encoder makes of a frame

    texture  (B, 32, H/4, W/4)    what it looks like
    shape    (B, 32, H/2, W/2)    where it is

and with h and g, the two parts of the manipulator, the decoder paints

    (M)   frame = decode(texture_b, shape_b + h(factor * g(shape_b - shape_a)))

In (M) the network is the one whose weights are public (ZhengPeng7/motion_magnification_learning-based, MIT). The paper
prints shape_a for the first term; with these weights that gives another picture (after a motion of 1 px, pixels differ
by up to 0.5 of the range of 2, by 0.03 in the mean).
No convolution has a bias. h and g are made of convolutions and rectifiers alone, so (M) is, for factors above 0,

    (H)   h(factor * g(d)) = factor * h(g(d))

and the manipulator has to run only once a pair, whatever the number of factors.

What the public weights do with textured photographs moved by d px: beyond the apex, the motion grows by about 0.85 *
factor * d where factor * d is 4 to 10 px; by less below (0.5 at 2 px, 0.15 at 0.5 px); above 13 to 16 px it breaks
down. A still pair comes back to 4 to 6 grey levels in the mean, its finest details blurred.
"""

import contextlib
import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from mer.errors import MerError, listed, suggestion
from mer.storage.weights import read_weights

NETWORK = "magnet"  # its name in pretrain.runs, see mer.pretraining
SMALLEST = 5  # px; below, a quarter of it has nothing to reflect
MULTIPLE = 4  # px; texture is at a quarter of the size
SOURCE = "the public weights come from ZhengPeng7/motion_magnification_learning-based on GitHub (MIT)"

CONVENTIONS = ("network", "one_plus")  # U-02


class Conv(nn.Module):
    """Convolution without bias, borders reflected; `relu`: rectified."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, relu: bool = True):
        super().__init__()
        self.conv2d = nn.Conv2d(
            inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode="reflect", bias=False
        )
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2d(x)
        return F.relu(x) if self.relu else x


class Residual(nn.Module):
    """x + two convolutions of it; the sum is not rectified."""

    def __init__(self, channels: int):
        super().__init__()
        self.cba_1 = Conv(channels, channels)
        self.cba_2 = Conv(channels, channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cba_2(self.cba_1(x))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cba_1 = Conv(3, 16, 7)
        self.cba_2 = Conv(16, 32, stride=2)
        self.resblks = residuals(3, 32)
        self.texture_cba = Conv(32, 32, stride=2)
        self.texture_resblks = residuals(2, 32)
        self.motion_cba = Conv(32, 32)
        self.motion_resblks = residuals(2, 32)

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> texture (B, 32, H/4, W/4), shape (B, 32, H/2, W/2)."""
        x = self.resblks(self.cba_2(self.cba_1(frame)))
        return self.texture_resblks(self.texture_cba(x)), self.motion_resblks(self.motion_cba(x))


class Manipulator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g = Conv(32, 32)
        self.h_conv = Conv(32, 32, relu=False)
        self.h_resblk = Residual(32)

    def forward(self, shape_a: Tensor, shape_b: Tensor, factor: Tensor | float) -> Tensor:
        """h(factor * g(shape_b - shape_a)), (B, 32, H/2, W/2)."""
        return self.h_resblk(self.h_conv(factor * self.g(shape_b - shape_a)))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resblks = residuals(9, 64)
        self.cba_1 = Conv(64, 32)  # of the doubled x
        self.cba_2 = Conv(32, 3, 7, relu=False)

    def forward(self, texture: Tensor, shape: Tensor) -> Tensor:
        """texture (B, 32, H/4, W/4), shape (B, 32, H/2, W/2) -> (B, 3, H, W), not clamped."""
        x = self.resblks(torch.cat([double(texture), shape], dim=1))
        x = F.relu(conv_of_doubled(x, self.cba_1.conv2d.weight))
        return conv_by_fours(x, self.cba_2.conv2d.weight)


class MagNet(nn.Module):
    """The network; module names are those of the public weight file. 42 tensors, 877,968 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.manipulator = Manipulator()
        self.decoder = Decoder()

    def forward(self, a: Tensor, b: Tensor, factor: Tensor | float) -> Tensor:
        """(M): `b`, with its motion since `a` made larger.

        Args:
            a, b: (B, 3, H, W) RGB in [-1, 1], at least 5x5 px. Where a side is no multiple of 4 px, both are continued
                by reflection and the result is cropped.
            factor: multiplies the difference as it is: a number, or a tensor (B,).

        Returns:
            (B, 3, H, W), about [-1, 1], not clamped.

        Raises:
            MerError: the frames are no two batches of RGB of one shape, or `factor` is neither a number nor (B,).
        """
        _check_batches(a, b)
        height, width = a.shape[-2:]
        factor = torch.as_tensor(factor, dtype=a.dtype, device=a.device)
        if factor.shape not in ((), (len(a),)):
            raise MerError(f"magnet: factor is {tuple(factor.shape)}; needed is a number or ({len(a)},), one a pair")
        _, shape_a = self.encoder(whole(a))
        texture, shape_b = self.encoder(whole(b))
        shape = shape_b + self.manipulator(shape_a, shape_b, factor.reshape(-1, 1, 1, 1))
        return self.decoder(texture, shape)[..., :height, :width]


def residuals(count: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(channels) for _ in range(count)))


def double(x: Tensor) -> Tensor:
    """Every value becomes 2x2 of them."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def conv_of_doubled(x: Tensor, weight: Tensor) -> Tensor:
    """`Conv` without rectifier of `double(x)`, kernel 3x3, in four ninths of the multiplications.

    Of three neighbours in `double(x)` two are one value of x: their weights can be added first. What a pixel sees is
    2x2 of x, with weights that depend on whether its row and column are even. (B, C, h, w) -> (B, O, 2h, 2w).
    """
    batch, _, h, w = x.shape
    outputs = len(weight)
    for dim in (2, 3):  # even: before | here, here; odd: here, here | after
        before, here, after = weight.unbind(dim)
        even, odd = torch.stack([before, here + after], dim), torch.stack([before + here, after], dim)
        weight = torch.cat([even, odd])
    seen = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight)  # as `double` reflected: its last two are equal
    seen = seen.view(batch, 2, 2, outputs, h + 1, w + 1)  # odd column, odd row
    # Channels last, as the next convolution likes it best.
    out = seen.new_empty(batch, h, 2, w, 2, outputs).permute(0, 5, 1, 2, 3, 4)
    for row in (0, 1):
        for column in (0, 1):
            out[:, :, :, row, :, column] = seen[:, column, row, :, row : row + h, column : column + w]
    return out.reshape(batch, outputs, 2 * h, 2 * w)


def conv_by_fours(x: Tensor, weight: Tensor) -> Tensor:
    """`Conv` without rectifier, for few outputs and even sides: 2x2 pixels at a time, as if they were channels.

    Processors compute 16 channels in the time of three. (B, C, H, W) -> (B, O, H, W).
    """
    reach = weight.shape[-1] // 2
    fours = [F.pad(weight, (column, 1 - column, row, 1 - row)) for row in (0, 1) for column in (0, 1)]
    x = F.pad(x, (reach, reach, reach, reach), mode="reflect")
    return F.pixel_shuffle(F.conv2d(x, torch.stack(fours, dim=1).flatten(0, 1), stride=2), 2)


def whole(x: Tensor) -> Tensor:
    """Continued by reflection, to the right and down, to multiples of 4 px."""
    down, right = (-side % MULTIPLE for side in x.shape[-2:])
    return F.pad(x, (0, right, 0, down), mode="reflect") if down or right else x


# ---- weights --------------------------------------------------------------------------------------------------------


def load_magnet(path: str | Path, device: str | torch.device = "cpu") -> MagNet:
    """The network with the weights of a file, in evaluation mode on `device`.

    Args:
        path: the public weights, a torch file, or a file of `save_weights`; told apart by the suffix `.safetensors`. In
            a torch file, a checkpoint that holds the weights beside other things, and names that start with `module.`
            (nn.DataParallel), are understood.
        device: where the network shall be, as torch names it. The file is read on the CPU, wherever it was written.

    Raises:
        MerError: no such file, not a file of weights, or other tensors than MagNet's: which miss, which are too many,
            which differ in shape. A device that torch does not know, or CUDA where there is none.
    """
    try:
        device = torch.device(device)
    except RuntimeError:
        raise MerError(f"{path}: device is {device!r}, which torch does not know; take 'cpu' or 'cuda'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MerError(f"{path}: device is {device}, but torch finds no CUDA here; take device='cpu'")
    model = MagNet()
    model.load_state_dict(read_weights(path, model.state_dict(), "MagNet", SOURCE))
    return model.to(device).eval()


build_pretrained, load_user_weights = MagNet, load_magnet  # see mer.pretraining


@functools.lru_cache(maxsize=1)
def loaded_magnet(path: str, device: str = "cpu") -> MagNet:
    """`load_magnet`, once a process however many clips it magnifies; the file must not change meanwhile."""
    return load_magnet(path, device)


# ---- pairs of frames ------------------------------------------------------------------------------------------------


def magnify_pair(
    model: MagNet,
    onset: np.ndarray,
    apex: np.ndarray,
    factors: ArrayLike,
    convention: str = "network",
    batch: int = 8,
    *,
    bf16: bool = False,
) -> np.ndarray:
    """The apex frame with its motion since the onset made larger, once for every factor.

    Each frame is encoded once, the manipulator runs once (H), and only the decoder runs for every factor. The result is
    `MagNet.forward`'s, factor by factor, rounded to grey levels. The network computes where its weights are; its
    training mode is left as it was, and no gradient is kept.

    Args:
        onset, apex: (H, W, 3) uint8 RGB of one size, at least 5x5 px.
        factors: (L,) above 0, in any order.
        convention: what the network is given (U-02): `network` the factor as it is, as it was trained; `one_plus` one
            more, as UAMRN's equations 1 and 2 print it.
        batch: how many factors are decoded at a time; more need more memory, and change nothing else.
        bf16: decode in bfloat16; faster on processors that have it. Off by 0.1 grey levels in the mean, by 1 at most,
            on photographs with the public weights.

    Returns:
        (L, H, W, 3) uint8 RGB, in the order of `factors`.

    Raises:
        MerError: frames that are grey, not uint8, too small or of two sizes; no factor, or one that is not above 0; a
            convention or batch that there is not.
    """
    if convention not in CONVENTIONS:
        raise MerError(f"magnify.factor_convention: {convention!r} is none; {suggestion(convention, CONVENTIONS)}")
    if batch < 1:
        raise MerError(f"magnify: batch is {batch}; needed is 1 at least")
    _check_frames(onset, apex)
    factors = _checked_factors(factors) + (convention == "one_plus")
    height, width = onset.shape[:2]
    device = next(model.parameters()).device
    out = np.empty((len(factors), height, width, 3), dtype=np.uint8)
    # Only the decoder: the encoder runs once, and in float32 it halves the error.
    kind = torch.bfloat16 if bf16 else torch.float32
    decoder = copy.deepcopy(model.decoder).bfloat16() if bf16 else model.decoder
    with torch.no_grad(), evaluation(model):
        pair = torch.from_numpy(np.stack([onset, apex])).to(device).permute(0, 3, 1, 2)
        texture, shape = model.encoder(whole(pair.float() / 127.5 - 1))
        change = model.manipulator(shape[:1], shape[1:], 1.0)
        texture, shape = texture[1:], shape[1:]
        for k in range(0, len(factors), batch):
            chunk = torch.as_tensor(factors[k : k + batch], dtype=torch.float32, device=device).reshape(-1, 1, 1, 1)
            moved = (shape + chunk * change).to(kind).contiguous(memory_format=torch.channels_last)
            kept = texture.expand(len(chunk), -1, -1, -1).to(kind).contiguous(memory_format=torch.channels_last)
            frames = decoder(kept, moved)
            levels = ((frames[..., :height, :width].float() + 1) * 127.5).round().clamp(0, 255)
            out[k : k + batch] = levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return out


def linear_abs(onset: np.ndarray, apex: np.ndarray, factors: ArrayLike) -> np.ndarray:
    """UAMRN's equation 2 as printed, on pixels (U-03): onset + (1 + factor) * |apex - onset|, clipped.

    For comparison only: with the sign, the direction of the motion is lost. Arguments, result and errors are those of
    `magnify_pair`.
    """
    _check_frames(onset, apex)
    difference = np.abs(apex.astype(np.float64) - onset)
    frames = [np.clip(np.rint(onset + (1 + factor) * difference), 0, 255) for factor in _checked_factors(factors)]
    return np.stack(frames).astype(np.uint8)


@contextlib.contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode; then every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _checked_factors(factors: ArrayLike) -> np.ndarray:
    """(L,) float64."""
    try:
        values = np.atleast_1d(np.asarray(factors, dtype=np.float64))
    except (TypeError, ValueError):
        raise MerError(f"magnify: factors are {factors!r}; needed are numbers above 0") from None
    if values.ndim != 1 or not len(values):
        raise MerError(f"magnify: factors are {values.shape}; needed is (L,), one factor at least")
    wrong = values[~((values > 0) & np.isfinite(values))]
    if len(wrong):
        raise MerError(f"magnify: factors has {listed(f'{w:g}' for w in wrong)}; needed are finite numbers above 0")
    return values


def _check_frames(onset: Any, apex: Any) -> None:
    for name, frame in (("onset", onset), ("apex", apex)):
        if not isinstance(frame, np.ndarray):
            raise MerError(f"magnify: {name} is {type(frame).__name__}; needed is an (H, W, 3) uint8 array, RGB")
        shape, dtype = frame.shape, frame.dtype
        if len(shape) != 3 or shape[-1] != 3:
            remedy = "; a grey frame: repeat it three times" if len(shape) == 2 or shape[-1] == 1 else ""
            raise MerError(f"magnify: {name} is {shape}; needed is (H, W, 3) RGB{remedy}")
        if dtype != np.uint8:
            levels = " (NaN among them)" if dtype.kind == "f" and np.isnan(frame).any() else ""
            raise MerError(f"magnify: {name} is {dtype}{levels}; needed is uint8, 0..255: convert the frame first")
        if min(shape[:2]) < SMALLEST:
            raise MerError(f"magnify: {name} is {shape}; needed is {SMALLEST}x{SMALLEST} px at least")
    if onset.shape != apex.shape:
        raise MerError(
            f"magnify: onset is {onset.shape}, apex {apex.shape}; both must have one size: crop them by one box"
        )


def _check_batches(a: Tensor, b: Tensor) -> None:
    for name, frames in (("a", a), ("b", b)):
        shape = tuple(frames.shape)
        if len(shape) != 4 or shape[1] != 3 or min(shape[-2:]) < SMALLEST or not frames.is_floating_point():
            raise MerError(
                f"magnet: {name} is {shape} {frames.dtype}; needed is (B, 3, H, W) float, RGB in [-1, 1], at least "
                f"{SMALLEST}x{SMALLEST} px"
            )
    if a.shape != b.shape:
        raise MerError(f"magnet: a is {tuple(a.shape)}, b {tuple(b.shape)}; both must have one shape")
