"""A picture of simulated flow: every action unit alone, and maps of each class in the form of the public releases."""

from pathlib import Path

import numpy as np

from mer.evaluation.canvas import flow_colours, grid, heading, legend, save
from mer.facs import CENTRAL, CLASSES, LATERAL, TARGETS
from mer.stretch import stretched
from mer.synthetic.flow_maps import NONE, draw, simulate

COLUMNS = 8


def draw_simulated(path: Path, seed: int = 0) -> None:
    """Write the picture, as PNG."""
    units, n = (*LATERAL, *CENTRAL), len(LATERAL)
    weights = np.zeros((len(units), len(TARGETS)), np.float32)
    for row, unit in zip(weights, units, strict=True):
        places = [LATERAL.index(unit), n + LATERAL.index(unit)] if unit in LATERAL else [2 * n + CENTRAL.index(unit)]
        row[places] = 1
    # One face for all of them: equal random numbers, one map at a time.
    alone = [simulate(np.random.default_rng(seed), row[None], size=112, nuisance=NONE)[0, :2] for row in weights]
    drawn = draw(np.random.default_rng(seed), 40 * len(CLASSES))
    released = stretched(drawn.flow)
    released[:, :2] += 127.5
    with grid(-(-len(units) // COLUMNS) + len(CLASSES), COLUMNS) as (figure, axes):
        for a, unit, motion in zip(axes.flat, units, alone, strict=False):
            a.imshow(flow_colours(motion, largest=float(np.hypot(*motion).max())))
            a.set_title(f"AU {unit}", fontsize=8)
        for line, name in zip(axes[-len(CLASSES) :], CLASSES, strict=True):
            chosen = released[drawn.label == CLASSES.index(name)][:COLUMNS]
            for a, one in zip(line, chosen, strict=True):
                a.imshow(np.clip(one, 0, 255).astype(np.uint8).transpose(1, 2, 0), interpolation="nearest")
            line[0].set_title(name, fontsize=8, loc="left")
        heading(figure, "Simulated flow: action units alone; each class as released (red u, green v, blue strain)")
        legend(figure)
        save(figure, path)
