"""Identities of the synthetic corpus: one portrait, warped, toned, lit and textured into many neutral faces.

The portrait is `skimage.data.astronaut()` (NASA, public domain). Coordinates are (x, y) pixels, y down, pixel
centres at integers. There are three systems, and names say which: *source* (the 512 x 512 portrait), *frame* (the
SIZE x SIZE picture of a clip whose head stands in its canonical pose) and *canvas* (the frame plus MARGIN on each
side, sampled OVERSAMPLE times as densely; what clips are rendered from).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.interpolate import RBFInterpolator

from mer.synthetic import mouth

# dlib's 68 points on the portrait: the median over 40 detections in frames of it with other tone, light and texture,
# half of them mirrored.
PORTRAIT_LANDMARKS = np.array(
    [
        *[(178.9, 103.2), (179.3, 114.8), (180.5, 126.5), (181.6, 138.1), (184.4, 149.7), (190.9, 159.5)],
        *[(199.3, 168.3), (209.1, 175.3), (220.7, 178.1), (232.8, 176.7), (243.5, 170.7), (253.7, 162.7)],
        *[(260.7, 153.0), (265.4, 142.3), (268.2, 130.2), (270.5, 119.0), (271.4, 106.9), (185.8, 93.9)],
        *[(191.9, 88.3), (200.3, 86.9), (208.6, 88.8), (216.1, 92.5), (236.1, 93.4), (244.0, 90.7)],
        *[(251.9, 90.2), (259.8, 92.0), (264.9, 97.6), (225.6, 102.3), (225.4, 110.7), (225.4, 118.6)],
        *[(224.9, 127.4), (214.2, 130.7), (218.9, 132.5), (224.0, 134.4), (229.6, 133.0), (234.2, 131.6)],
        *[(195.1, 100.9), (200.3, 97.6), (206.8, 98.6), (212.3, 103.7), (205.8, 104.1), (199.8, 103.7)],
        *[(237.5, 105.1), (243.5, 100.4), (250.0, 100.4), (255.1, 104.1), (250.0, 106.5), (243.5, 106.0)],
        *[(200.7, 139.0), (209.1, 139.0), (217.5, 139.5), (223.5, 140.9), (229.1, 140.0), (237.0, 140.0)],
        *[(244.9, 140.9), (237.0, 151.1), (228.6, 155.3), (222.1, 155.8), (216.1, 154.4), (207.7, 149.7)],
        *[(203.5, 140.4), (217.5, 142.7), (223.0, 144.1), (229.1, 143.2), (242.1, 141.8), (228.9, 149.7)],
        *[(222.6, 150.2), (216.5, 149.3)],
    ]
)

# What dlib adds to the points of a face whose mouth was closed, portrait px: the median over 60 faces, mirrored ones
# turned back. It puts a jaw where it has seen jaws of calm faces, and the corners of a small mouth outside of it.
DLIB_AT_REST = np.array(
    [
        *[(-0.0, 1.6), (-0.1, 1.9), (-0.0, 2.1), (0.2, 2.2), (0.7, 2.0), (0.2, 1.8), (0.7, 0.9), (0.5, 0.4)],
        *[(0.2, -0.1), (-0.2, -0.2), (0.2, 0.4), (-0.5, 1.3), (-0.3, 1.7), (-0.5, 1.4), (-0.5, 2.1), (-0.4, 1.7)],
        *[(0.2, 1.6), (0.3, -0.0), (-0.0, -0.3), (0.0, -0.0), (0.1, -0.0), (0.3, -0.2), (-0.4, 0.1), (-0.3, 0.2)],
        *[(-0.0, 0.1), (-0.1, -0.1), (0.2, 0.4), (0.0, -0.4), (0.1, -0.5), (-0.0, -0.4), (0.4, -0.7), (0.6, 0.5)],
        *[(0.6, 0.4), (0.3, 0.0), (-0.2, 0.3), (-0.2, 0.3), (-0.1, 0.3), (0.1, 0.2), (-0.1, -0.1), (-0.1, -0.0)],
        *[(0.1, 0.2), (-0.2, 0.1), (0.3, -0.2), (0.1, -0.0), (-0.0, 0.2), (0.0, 0.2), (0.1, -0.0), (0.2, 0.2)],
        *[(-1.7, -1.3), (0.4, -0.2), (1.1, 0.4), (0.7, 0.8), (0.2, 0.5), (0.1, 0.0), (1.1, -0.5), (-0.4, 0.5)],
        *[(-1.0, -0.0), (-0.0, -0.1), (0.7, -0.0), (-0.2, 0.3), (-0.6, -0.7), (0.9, 0.7), (0.5, 1.0), (-0.1, 0.8)],
        *[(0.0, 0.0), (-0.2, -0.0), (0.4, 0.2), (0.8, 0.0)],
    ]
)

# MIRROR[k] is the iBUG point that point k becomes in a mirrored face.
MIRROR = np.array(
    [
        *range(16, -1, -1),
        *range(26, 16, -1),
        *(27, 28, 29, 30, 35, 34, 33, 32, 31),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
    ]
)

SIZE = 320  # frame height and width, pixels
SCALE = 2.15  # frame pixels per source pixel: the landmark box plus 20 % height becomes about 224 px wide
CENTRE_SOURCE = np.array([225.6, 126.0])  # the middle of the face in the portrait ...
CENTRE_FRAME = np.array([159.5, 166.0])  # ... and where it stands in a frame: a little low, hair needs room
MARGIN = 24  # frame pixels around the frame, so that drift never shows a border
# cv2.remap rounds coordinates to 1/32 of a source pixel; on a canvas three times as dense that is 1/96 frame px,
# a rounding error of at most 0.005 px against motions of 0.3 px.
OVERSAMPLE = 3
LINE = 0.45  # share of the light that the line between closed lips swallows


@dataclass(frozen=True)
class Identity:
    """One person, neutral, the mouth closed.

    canvas: (C, C, 3) float32 RGB 0..255, `oversample` pixels a frame pixel. landmarks: (68, 2) float64, frame pixels,
    as dlib sees them; drawn: where they were drawn. gain: (3,), what the complexion does to colours.
    """

    canvas: np.ndarray
    landmarks: np.ndarray
    drawn: np.ndarray
    gain: np.ndarray
    oversample: int = OVERSAMPLE


def crop_side(landmarks: np.ndarray) -> float:
    """Side in px of the square crop a 224 px face is measured in: landmark box with 20 % of its height on top."""
    width, height = np.ptp(landmarks, axis=0)
    return float(max(width, 1.2 * height))


def to_canvas(points: np.ndarray, oversample: int = OVERSAMPLE) -> np.ndarray:
    """Frame pixels to canvas pixels; any shape (..., 2)."""
    return (points + MARGIN + 0.5) * oversample - 0.5


def draw_identity(rng: np.random.Generator, oversample: int = OVERSAMPLE) -> Identity:
    """A random person. Everything is drawn from `rng`: mirror image, geometry, tone, light, texture.

    oversample: of the canvas. With another one the same generator gives the same person, but for the skin's grain.
    """
    import skimage.data

    portrait = skimage.data.astronaut()
    source, rest = PORTRAIT_LANDMARKS, np.concatenate([PORTRAIT_LANDMARKS[:48], mouth.CLOSED])
    centre, dlib = CENTRE_SOURCE, DLIB_AT_REST
    if rng.random() < 0.5:
        portrait = portrait[:, ::-1]
        flip = np.array([portrait.shape[1] - 1.0, 0.0])
        source, rest = np.abs(flip - source)[MIRROR], np.abs(flip - rest)[MIRROR]
        centre, dlib = np.abs(flip - centre), (dlib * (-1, 1))[MIRROR]

    landmarks = new_geometry(rest - centre, rng) * SCALE + CENTRE_FRAME
    canvas = _warp_portrait(portrait, source, centre, landmarks, oversample)
    skin = _skin_mask(landmarks, oversample)[..., None]
    everywhere, gain = _tone(rng)
    light = _light(canvas.shape[0], rng)[..., None]
    canvas *= everywhere * (1 - skin) + gain * skin
    canvas += skin * _texture(canvas.shape[0], oversample, rng)[..., None]
    canvas *= light
    return Identity(np.clip(canvas, 2, 252, out=canvas), landmarks + SCALE * dlib, landmarks, gain, oversample)


def new_geometry(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move the 68 points (source px about the face centre) into another person's; changes stay below about 8 %."""
    new = points.copy()
    spread = rng.standard_normal(12)

    def stretch(index: np.ndarray, x: float = 0.0, y: float = 0.0) -> None:
        middle = new[index].mean(0)
        new[index] = (new[index] - middle) * (1 + np.array([x, y])) + middle

    eyes, brows = (np.arange(36, 42), np.arange(42, 48)), (np.arange(17, 22), np.arange(22, 27))
    mouth, nose, jaw = np.arange(48, 68), np.arange(27, 36), np.arange(17)
    stretch(mouth, 0.07 * spread[0], 0.07 * spread[1])
    stretch(nose, 0.07 * spread[2], 0.05 * spread[3])
    for side, sign in ((0, -1), (1, 1)):
        stretch(eyes[side], 0.05 * spread[4], 0.06 * spread[5])
        new[eyes[side]] += (sign * 0.8 * spread[6], 0.5 * spread[7])
        new[brows[side]] += (sign * 0.8 * spread[6], 1.0 * spread[8])
    new[mouth] += (0.0, 1.2 * spread[9])
    lower = np.clip(points[jaw, 1] / 50, 0, 1)
    new[jaw, 0] *= 1 + 0.045 * spread[10] * lower
    new[jaw, 1] += 1.5 * spread[11] * lower
    new *= 1 + 0.03 * rng.standard_normal(2)
    # Neighbouring points of one feature lie 5 px apart: a scatter of 0.25 px keeps their order.
    return new + 0.25 * rng.standard_normal(new.shape)


def _warp_portrait(
    portrait: np.ndarray, source: np.ndarray, centre: np.ndarray, landmarks: np.ndarray, oversample: int
) -> np.ndarray:
    """Thin-plate warp of the portrait that takes `source` to `landmarks`, lips closed: a canvas (C, C, 3) float32."""
    low, high = -MARGIN - 40.0, SIZE - 1 + MARGIN + 40.0
    edge = np.linspace(low, high, 6)
    frame = np.array([(x, y) for x in edge for y in edge if x in (low, high) or y in (low, high)])
    anchors = np.concatenate([landmarks[:60], frame])  # the lips' edges, points 60 to 67, meet: no warp does that
    # The backward map (frame -> source) is fitted directly, so nothing has to be inverted.
    values = np.concatenate([source[:60], (frame - CENTRE_FRAME) / SCALE + centre])
    spline = RBFInterpolator(anchors, values, kernel="thin_plate_spline")
    # The warp is smooth: a grid of one node per 4 frame pixels, enlarged, is within 0.02 source pixels of the spline.
    node = np.arange(-MARGIN - 4, SIZE + MARGIN + 8, 4.0)
    grid = spline(np.stack(np.meshgrid(node, node), -1).reshape(-1, 2)).reshape(len(node), len(node), 2)
    canvas = (SIZE + 2 * MARGIN) * oversample
    at = ((np.arange(canvas) + 0.5) / oversample - 0.5 - MARGIN - node[0]) / 4.0
    hat = np.clip(1 - np.abs(at[:, None] - np.arange(len(node))), 0, None)
    x, y = (hat @ grid[..., i] @ hat.T for i in (0, 1))
    apart = landmarks.copy()
    apart[60:] = RBFInterpolator(values, anchors, kernel="thin_plate_spline")(source[60:])
    axis = np.arange(canvas, dtype=float)
    rows, shade = mouth.close(axis, axis, to_canvas(landmarks, oversample), to_canvas(apart, oversample))
    columns = np.broadcast_to(axis.astype(np.float32), rows.shape)
    x, y = (cv2.remap(v.astype(np.float32), columns, rows.astype(np.float32), cv2.INTER_LINEAR) for v in (x, y))

    reach = 120  # source px about the face's centre; the canvas needs 90
    left, top = (centre - reach).astype(int)
    part = np.ascontiguousarray(portrait[top : top + 2 * reach, left : left + 2 * reach])
    big = 4  # enlarged once with a cubic kernel, which leaves no pixel staircase
    large = cv2.resize(part, None, fx=big, fy=big, interpolation=cv2.INTER_CUBIC)
    large = cv2.GaussianBlur(large.astype(np.float32), (0, 0), 0.4 * big)
    x, y = (((v + 0.5 - low) * big - 0.5).astype(np.float32) for v, low in ((x, left), (y, top)))
    warped = cv2.remap(large, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return warped * (1 - LINE * shade[..., None].astype(np.float32))


def _skin_mask(landmarks: np.ndarray, oversample: int) -> np.ndarray:
    """(C, C) float32 0..1: face, forehead and neck, soft at its edge."""
    size = (SIZE + 2 * MARGIN) * oversample
    height = np.array([0.0, np.ptp(landmarks[:, 1])])
    forehead = landmarks[17:27] - 0.22 * height
    neck = landmarks[4:13] + 0.25 * height
    hull = cv2.convexHull(to_canvas(np.concatenate([landmarks, forehead, neck]), oversample).astype(np.int32))
    mask = cv2.fillConvexPoly(np.zeros((size, size), np.float32), hull, 1.0)
    return cv2.GaussianBlur(mask, (0, 0), 4.0 * oversample)


def _tone(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Another complexion: gains (3,) float32 of the whole picture, a little, and of the skin, darker or lighter."""
    level = rng.uniform(0.75, 1.06)
    tint = np.array([1.0, 1.0 - rng.uniform(0.0, 0.06), 1.0 - rng.uniform(0.0, 0.12)])
    everywhere = rng.uniform(0.85, 1.05) * (1 + 0.03 * rng.standard_normal(3))
    return everywhere.astype(np.float32), (everywhere.mean() * level * tint).astype(np.float32)


def _texture(size: int, oversample: int, rng: np.random.Generator) -> np.ndarray:
    """(C, C) float32 band-limited noise, wavelengths of about 4 to 14 frame px, rms 3 to 5 grey levels.

    The enlarged portrait has nothing finer than 4 px, and optical flow needs structure everywhere on the skin.
    """
    white = rng.standard_normal((size, size), dtype=np.float32)
    fine = cv2.GaussianBlur(white, (0, 0), 0.9 * oversample)
    band = fine - cv2.GaussianBlur(fine, (0, 0), 2.2 * oversample)
    return band * (rng.uniform(3.0, 5.0) / band.std())


def _light(size: int, rng: np.random.Generator) -> np.ndarray:
    """(C, C) float32 gain: light from one side, strength up to 20 % from edge to centre."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.2)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    return (1 + strength * (np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None])).astype(np.float32)
