"""Weights of MagNet on faces whose true motion is known: how far each of them magnifies, and what the picture costs.

    python -m benchmarks.magnet_weights --weights assets/weights/magnet.safetensors magnet_epoch12_loss7.28e-02.pth
    python -m benchmarks.magnet_weights --weights … --picture docs/images/magnet.png --save

Prints one JSON line. The faces are synthetic people of a seed that no preset uses, 112 px, in noise of about half a
grey level; each makes one expression without any movement of the head. The true picture at any amplitude is rendered,
so nothing is estimated by optical flow:

magnified   By how much the motion of frame b was enlarged, in units of the factor: the s in 0 .. 1.5 for which the face
            rendered with (1 + s * factor) times b's motion is nearest to the network's answer; 1 is right. Mean over
            people, by peak motion (px at 112 px) and factor.
psnr        dB between the answer and the true magnified face, and for comparison between frame b and that face: a
            network that gives b back has the latter.
still       Mean change in grey levels when both frames show the same moment, with noise of their own.

Factors are bounded by 0.6 / (largest slope of the motion), beyond which the rendered face would fold.
"""

import argparse
import os
from pathlib import Path

import cv2
import numpy as np

from benchmarks._report import add_options, report
from mer.magnification.magnet import load_magnet, magnify_pair
from mer.synthetic import clip as make
from mer.synthetic.face import SIZE, crop_side
from mer.synthetic.motion import backward_map, pixels, render, slope

SEED = 77  # of people whom no preset knows
SIDE = 112
PEOPLE = 8
PEAKS = (0.15, 0.3, 0.5, 0.75)  # px at 112 px, half of what the corpus has at 224 px
FACTORS = (2.0, 4.0, 8.0, 13.0)
SHARES = np.linspace(0, 1.5, 31)
STILL = np.eye(2, 3)
UNITS = ("1+2", "4", "12", "15+17", "4+9", "6+12", "10", "2")  # of one person each


class Face:
    """One person with one motion of peak 1 px at SIDE."""

    def __init__(self, number: int):
        rng = make.stream(SEED, 0, number)
        self.person = make.identity(SEED, number + 1, 0)
        self.motion = make.draw_motion(rng, self.person, UNITS[number], 1.0, make.style(SEED, number + 1))
        self.field = self.motion.bumps.grid()
        landmarks = self.motion.landmarks
        self.side = crop_side(landmarks)
        left, top = (landmarks[:, 0].min() + landmarks[:, 0].max() - self.side) / 2, landmarks[:, 1].max() - self.side
        axis = ((np.arange(SIDE) + 0.5) * self.side / SIDE - 0.5).astype(np.float32)
        self.places = np.stack(np.meshgrid(axis + np.float32(left), axis + np.float32(top)), -1)
        self.most = 0.6 / slope(self.field) / (self.side / SIDE)  # px at SIDE

    def seen(self, peak: float) -> np.ndarray:
        """(SIDE, SIDE, 3) float32: the face with its motion at `peak` px at SIDE, without noise."""
        where = backward_map(self.field, float(peak) * self.side / SIDE, STILL) if peak else pixels(SIZE)
        where = cv2.remap(where, self.places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return render(self.person, self.motion.pose, where)


def noisy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # Sensor noise of 1.2 grey levels at twice the size, of which a crop averages four pixels.
    return make.to_bytes(make.noisy(image, 0.6, rng))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def measure(models: dict[str, object], faces: list[Face]) -> dict[str, dict]:
    cells: dict[str, dict] = {name: {} for name in models}
    still: dict[str, list] = {name: [] for name in models}
    for number, face in enumerate(faces):
        rng = np.random.default_rng([SEED, number])
        rest = face.seen(0)
        pair = noisy(rest, rng), noisy(rest, rng)
        for name, model in models.items():
            out = magnify_pair(model, *pair, FACTORS).astype(float)
            still[name].append([float(np.abs(o - rest).mean()) for o in out])
        for peak in PEAKS:
            a, b = noisy(rest, rng), noisy(face.seen(peak), rng)
            factors = [f for f in FACTORS if (1 + 1.5 * f) * peak <= face.most]
            if not factors:
                continue
            outs = {name: magnify_pair(model, a, b, factors).astype(float) for name, model in models.items()}
            for k, factor in enumerate(factors):
                true = [face.seen((1 + s * factor) * peak) for s in SHARES]
                target = face.seen((1 + factor) * peak)
                for name, out in outs.items():
                    share = SHARES[int(np.argmin([np.mean((out[k] - t) ** 2) for t in true]))]
                    cell = cells[name].setdefault(f"{peak:g} px, factor {factor:g}", [])
                    cell.append((share, psnr(out[k], target), psnr(b, target)))
    found = {}
    for name in models:
        table = {
            key: dict(zip(("magnified", "psnr", "psnr_of_b"), np.mean(rows, 0).round(2).tolist(), strict=True))
            | {"faces": len(rows)}
            for key, rows in cells[name].items()
        }
        levels = np.mean(still[name], 0).round(2).tolist()
        error = np.mean([abs(row["magnified"] - 1) for row in table.values()])
        found[name] = {
            "cells": table, "still": dict(zip(map(str, FACTORS), levels, strict=True)),
            "mean_error_of_magnification": round(float(error), 3),
            "mean_gain_of_psnr": round(float(np.mean([r["psnr"] - r["psnr_of_b"] for r in table.values()])), 2),
        }  # fmt: skip
    return found


def picture(models: dict[str, object], faces: list[Face], path: Path) -> None:
    """Two faces with 0.5 px: rows onset, apex, and at each factor the truth and every network's answer."""
    from mer.evaluation import canvas

    peak, columns = 0.5, ["truth", *models]
    rows = [(face, factor) for face in faces[:4:2] for factor in FACTORS[:3]]
    with canvas.grid(len(rows), 2 + len(columns)) as (figure, axes):
        for line, (face, factor) in zip(axes, rows, strict=True):
            rng = np.random.default_rng(SEED)
            a, b = noisy(face.seen(0), rng), noisy(face.seen(peak), rng)
            shown = [a, b, make.to_bytes(face.seen(min((1 + factor) * peak, face.most)))]
            shown += [magnify_pair(model, a, b, [factor])[0] for model in models.values()]
            for axis, image, name in zip(line, shown, ["onset", "apex, 0.5 px further", *columns], strict=True):
                axis.imshow(image)
                axis.set_title(name if name.startswith(("onset", "apex")) else f"{name}, factor {factor:g}", fontsize=8)
                axis.axis("off")
        canvas.heading(figure, "MagNet's weights on faces that they have not seen")
        canvas.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", type=Path, help="files; the public one too where MER_REFERENCE has it")
    parser.add_argument("--picture", type=Path)
    add_options(parser)
    options = parser.parse_args()
    public = Path(os.environ.get("MER_REFERENCE", "../shared/reference")) / "magnet"
    paths = [*(options.weights or [Path("assets/weights/magnet.safetensors")]), *sorted(public.glob("*.pth"))]
    models = {("public" if path.parent == public else path.stem): load_magnet(path) for path in paths}
    faces = [Face(number) for number in range(PEOPLE)]
    if options.picture:
        picture(models, faces, options.picture)
    report("magnet_weights", measure(models, faces), ("torch", "numpy"), options.save)


if __name__ == "__main__":
    main()
