"""Pictures with known motion, made from noise: a GPU machine holds no photographs."""

import functools

import cv2
import numpy as np
import scipy.ndimage

BORDER = 16  # px round a picture that motion may reach into


def texture(side: int, rng: np.random.Generator, channels: int = 1) -> np.ndarray:
    """(side, side, channels) float64 grey levels 20..235, details of 3 to 40 px."""
    out = np.zeros((side, side, channels))
    for width in (1.2, 2.5, 5, 12):
        noise = scipy.ndimage.gaussian_filter(rng.normal(size=out.shape), (width, width, 0), mode="wrap")
        out += noise / noise.std() * width**0.5
    low, high = out.min(), out.max()
    return 20 + 215 * (out - low) / (high - low)


def smooth_motion(side: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """(2, side, side) px, the largest vector `size` px."""
    width = side / 7.5
    field = scipy.ndimage.gaussian_filter(rng.normal(size=(2, side, side)), (0, width, width), mode="reflect")
    return field / np.hypot(*field).max() * size


def moved(image: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """`image` (side + 2 BORDER)^2 x C seen at x + motion(x): (side, side, C); what is at x there is at x + motion(x)
    in the middle of `image`."""
    y, x = np.mgrid[: motion.shape[1], : motion.shape[2]] + BORDER
    planes = [
        scipy.ndimage.map_coordinates(image[..., c], [y + motion[1], x + motion[0]], order=5, mode="mirror")
        for c in range(image.shape[-1])
    ]
    return np.stack(planes, axis=-1)


def middle(image: np.ndarray) -> np.ndarray:
    return image[BORDER:-BORDER, BORDER:-BORDER]


def eight_bit(image: np.ndarray) -> np.ndarray:
    return np.rint(image).clip(0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=1)
def known_pairs(count: int, side: int, size: float = 1.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """prev, next (N, side, side) uint8 with noise of 0 to 2 grey levels, and the flow (N, 2, side, side) between."""
    prev, following, truth = [], [], []
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        image, motion = texture(side + 2 * BORDER, rng), smooth_motion(side, size, rng)
        noise = k % 3 * rng.normal(size=(2, side, side))
        prev.append(eight_bit(moved(image, motion)[..., 0] + noise[0]))
        following.append(eight_bit(middle(image)[..., 0] + noise[1]))
        truth.append(motion)
    return np.stack(prev), np.stack(following), np.stack(truth).astype(np.float32)


def clip(frames: int, side: int, seed: int = 0) -> np.ndarray:
    """(frames, side, side, 3) uint8: a texture that moves to the right and back by 1.5 px, noise of a grey level."""
    rng = np.random.default_rng(seed)
    image = texture(side + 2 * BORDER, rng, channels=3).astype(np.float32)
    out = np.empty((frames, side, side, 3), np.uint8)
    for t in range(frames):
        move = np.array([[1, 0, 1.5 * np.sin(np.pi * t / frames) - BORDER], [0, 1, -BORDER]])
        frame = cv2.warpAffine(image, move, (side, side), flags=cv2.INTER_CUBIC)
        out[t] = eight_bit(frame + rng.normal(size=frame.shape))
    return out
