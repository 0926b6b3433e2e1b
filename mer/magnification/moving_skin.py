"""Moving skin: pairs of frames of one face whose smooth motion is known and magnified, to train MagNet on.

A face is no layer that moves as a whole: muscles pull the skin, and what lies between is stretched. Here the motion is
a sum of bumps, as wide as those of action units, over a drift of the head. With d(x) the displacement in px at place x
and one `factor` a scene, frame b is the image moved by d, the target by (1 + factor) * d; samples are those of
mer.magnification.moving_layers, which says what a, b, magnified and c are.

Shapes: B samples, K bumps; frames (B, 3, H, W) float32, RGB in [-1, 1]; displacements (x, y) in px, right and down.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mer.errors import MerError
from mer.magnification import moving_layers
from mer.magnification.moving_layers import DISPLACEMENT, FACTOR, LARGEST, REACH, Quadruples

BUMPS = (1, 6)
WIDTH = (4.0, 18.0)  # px: those of action units of faces of 100 px and what a larger face would show
DRIFT = 0.5  # of the head, in displacements of the fastest place
# Where a field grows by 1 px a px the skin would fold; the inverse map is found by iteration, which needs less.
STEEPEST = 0.6
ITERATIONS = 40  # 0.6 ** 40 of 10 px is 1e-8 px; most fields need ten
LEAST_FACTOR = 1.0  # steep fields are magnified less than FACTOR says
STILL = 0.05  # share of scenes in which nothing moves


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
        images: one (H, W, 3) uint8 RGB at least, from `size` + 2 * REACH px on.
        batch_size, size: B, and the side of the frames in px.
        seed, step: from which everything is drawn.
        difficulty: 0..1; how large the magnified motions and how many the changes of colour are.
        device: where the frames are painted.

    Raises:
        MerError: no images, and what moving_layers.quadruples refuses.
    """
    moving_layers.check(images, batch_size=batch_size, size=size)
    if not len(images):
        raise MerError("moving skin: there are no images; give portraits, or train on layers alone")
    rng = np.random.default_rng([seed, step, 1])
    points = grid(size)
    parts = []
    for _ in range(batch_size):
        piece = moving_layers.piece(images[int(rng.integers(len(images)))], size, rng)
        if rng.random() < 0.5:
            piece = piece[:, ::-1]
        field, factor = draw_field(size, difficulty, rng)
        drawn = moving_layers.colours(size, difficulty, rng)
        skin = torch.from_numpy(np.ascontiguousarray(piece.transpose(2, 0, 1))).to(device)
        still, moved, magnified = (
            seen(skin, field.origin(points, amount), size) for amount in (0.0, 1.0, 1.0 + factor)
        )
        gain, offset, noise = (torch.from_numpy(x).to(device) for x in drawn)
        one, other = (lambda x, k=k, g=gain, o=offset: x * g[k, :, None, None] + o[k, :, None, None] for k in (0, 1))
        parts.append((
            (one(still) + noise[0]).clamp(-1, 1), (other(moved) + noise[1]).clamp(-1, 1), other(magnified), one(moved),
            torch.tensor(factor, dtype=torch.float32, device=device),
        ))  # fmt: skip
    return Quadruples(*(torch.stack(part) for part in zip(*parts, strict=True)))


class Field:
    """A smooth motion: bumps and a drift. centres (K, 2), vectors (K, 2), widths (K,), drift (2,), all px."""

    def __init__(self, centres: np.ndarray, vectors: np.ndarray, widths: np.ndarray, drift: np.ndarray):
        self.centres, self.vectors, self.widths, self.drift = map(torch.from_numpy, (centres, vectors, widths, drift))

    def at(self, points: Tensor) -> Tensor:
        """Displacement (N, 2) px at points (N, 2)."""
        apart = ((points[:, None] - self.centres) ** 2).sum(-1)
        return torch.exp(-0.5 * apart / self.widths**2) @ self.vectors + self.drift

    def steepest(self, points: Tensor) -> float:
        """The largest norm of the bumps' own change per px, among points (N, 2)."""
        apart = points[:, None] - self.centres
        weight = torch.exp(-0.5 * (apart**2).sum(-1) / self.widths**2)
        change = torch.einsum("nk,nki,kj->nij", weight / self.widths**2, apart, self.vectors)
        return float(change.square().sum((1, 2)).sqrt().max())

    def origin(self, points: Tensor, amount: float) -> Tensor:
        """Where (N, 2) the points were before they moved by `amount` times the field; slopes below 1 / amount."""
        if amount == 0:
            return points
        x = points
        for _ in range(ITERATIONS):
            before, x = x, points - amount * self.at(x)
            if float((x - before).abs().max()) < 1e-4:
                break
        return x


def draw_field(size: int, difficulty: float, rng: np.random.Generator) -> tuple[Field, float]:
    """A motion of a frame of `size` px, and the factor it is magnified by."""
    count = int(rng.integers(BUMPS[0], BUMPS[1] + 1))
    centres = rng.uniform(-0.1, 1.1, (count, 2)) * size
    angle, speed = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.2, 1, count)
    widths = np.array([moving_layers.log_uniform(rng, *WIDTH) for _ in range(count)])
    drift = rng.uniform(-1, 1, 2) * DRIFT
    vectors = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    field = Field(centres, vectors, widths, drift)
    points = grid(size)
    peak = float(field.at(points).norm(dim=1).max())
    largest = moving_layers.between(LARGEST, difficulty)
    fastest = moving_layers.log_uniform(rng, DISPLACEMENT[0], min(DISPLACEMENT[1], largest / FACTOR[0]))
    # px of the fastest place after which the skin would fold
    bound = STEEPEST * peak / max(field.steepest(points), 1e-9)
    fastest = min(fastest, bound / (1 + LEAST_FACTOR))
    most = min(FACTOR[1], largest / fastest, bound / fastest - 1)
    factor = moving_layers.log_uniform(rng, min(FACTOR[0], most), most)
    if rng.random() < STILL:
        fastest = 0.0
    return Field(centres, vectors * (fastest / peak), widths, drift * (fastest / peak)), factor


def grid(size: int) -> Tensor:
    """The places of a frame of `size` px, row by row: (size * size, 2) float64."""
    return torch.from_numpy(np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(-1, 2).astype(float))


def seen(skin: Tensor, points: Tensor, size: int) -> Tensor:
    """What a piece (3, S, S), on the finer grid, shows at `points` (size * size, 2), px of the frame: (3, size, size).

    Cubic interpolation by Keys' kernel with a = -1/2, which keeps a ramp exact: a place is seen where it is. OpenCV and
    torch take -3/4, which shifts it by up to 0.02 px of the frame: a third of the smallest motion.
    """
    side = skin.shape[-1]
    pixel = moving_layers.FINER * (points + REACH + 0.5) - 0.5
    first = pixel.floor()
    (x, y), (wx, wy) = first.long().T, (kernel(part) for part in (pixel - first).T)
    rows = (y[:, None] + torch.arange(-1, 3)).clamp(0, side - 1).to(skin.device)
    columns = (x[:, None] + torch.arange(-1, 3)).clamp(0, side - 1).to(skin.device)
    taps = skin[:, rows[:, :, None], columns[:, None, :]]
    weights = (wy[:, :, None] * wx[:, None, :]).to(skin)
    return (taps * weights).sum((-2, -1)).view(3, size, size).clamp(-1, 1)


def kernel(part: Tensor) -> Tensor:
    """Weights (N, 4) of the pixels -1, 0, 1, 2 for places (N,) 0..1 after pixel 0: Keys 1981, eq. 15."""
    near, far = torch.stack([part, 1 - part], -1), torch.stack([1 + part, 2 - part], -1)
    inner, outer = 1.5 * near**3 - 2.5 * near**2 + 1, -0.5 * far**3 + 2.5 * far**2 - 4 * far + 2
    return torch.stack([outer[:, 0], inner[:, 0], inner[:, 1], outer[:, 1]], -1)
