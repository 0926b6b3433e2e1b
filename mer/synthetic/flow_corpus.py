"""A corpus of simulated flow maps (mer.synthetic.flow_maps), in the form of the public releases; no recordings.

Every subject is one face in one crop, and shows the three classes in turn. Column `aus` tells the action units of
the expression, without the `companion`: L is the person's left, the right half of the picture.
"""

import numpy as np
import pandas as pd

from mer.facs import CENTRAL, LATERAL, TARGETS
from mer.facs import CLASSES as NAMES
from mer.stretch import stretched
from mer.synthetic.flow_maps import Nuisance, simulate, unit_weights

SEES = {"L": "R", "R": "L"}  # a half of the picture -> the person's


def made(
    corpus: str, *, subjects: int, clips: int, seed: int, nuisance: Nuisance | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """The corpus: its index, and its flow.

    Args:
        corpus: the name that ids begin with.
        subjects: how many faces.
        clips: how many maps of each.
        seed: all that is random comes from it.
        nuisance: what is in a map beside the expression; None: Nuisance().

    Returns:
        (one row a clip with mer.clips.COLUMNS, (N, 3, 28, 28) float32 in its order): u and v in grey levels about the
        middle one, strain 0..255, each stretched by itself (mer.stretch).
    """
    how, rng = nuisance or Nuisance(), np.random.default_rng([seed, 4])
    who = np.repeat(np.arange(subjects), clips)
    label = np.tile(np.arange(clips) % len(NAMES), subjects)
    weights = unit_weights(rng, label, how)
    flow = simulate(rng, weights, nuisance=how, subject=who)
    subject = pd.Series([f"s{number + 1:03d}" for number in who])
    clip = pd.Series([f"m{number + 1:03d}" for number in np.tile(np.arange(clips), subjects)])
    table = pd.DataFrame({
        "id": f"{corpus}/" + subject + "/" + clip, "corpus": corpus, "subject": subject, "clip": clip,
        "emotion": [NAMES[one] for one in label], "aus": [_text(row > 0) for row in weights], "onset": 0, "apex": 0,
        "offset": 0, "apex_source": "simulated", "fps": 0.0, "frame": "", "absent": "", "edition": "simulated",
        "digest": "",
    })  # fmt: skip
    return table, stretched(flow)


def _text(moves: np.ndarray) -> str:
    """Which of TARGETS move, as label sheets write it: `4+L12`; a unit of both halves without a letter."""
    there = {target for target, moving in zip(TARGETS, moves, strict=True) if moving}
    written = [str(unit) for unit in CENTRAL if str(unit) in there]
    for unit in LATERAL:
        halves = [half for half in "LR" if f"{half}{unit}" in there]
        written += [str(unit)] if len(halves) == 2 else [f"{SEES[half]}{unit}" for half in halves]
    return "+".join(sorted(written, key=lambda code: int(code.lstrip("LR"))))
