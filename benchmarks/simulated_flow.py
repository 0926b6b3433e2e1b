"""How many simulated flow maps a minute, and how that compares with one field by SciPy's radial basis functions.

    python -m benchmarks.simulated_flow --save

Prints one JSON line. Maps are those that pretraining draws (28x28, all nuisances), in batches, by one process and by as
many as there are cores, each on one thread. The peer interpolates the displacements of 68 landmarks to the same grid
(thin plates, scipy.interpolate.RBFInterpolator): the field of one clip alone, without strain or any nuisance. Medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from scipy.interpolate import RBFInterpolator

from benchmarks._report import add_options, report
from mer.cluster import ONE_THREAD
from mer.synthetic import flow_maps

BATCH, BATCHES, FIELDS, SIZE = 256, 12, 60, 28
DRAWING = f"""
import time, numpy as np
from mer.synthetic.flow_maps import draw
rng = np.random.default_rng(0)
draw(rng, {BATCH})
start = time.perf_counter()
for _ in range({BATCHES}): draw(rng, {BATCH})
print({BATCH * BATCHES} / (time.perf_counter() - start))
"""


def maps_a_second(processes: int) -> float:
    """By so many processes at once."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", DRAWING], stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD
        )
        for _ in range(processes)
    ]
    return sum(float(process.communicate()[0]) for process in started)


def fields_a_second() -> float:
    """Fields of SciPy, from 68 points of faces and random displacements."""
    rng = np.random.default_rng(0)
    points = flow_maps.faces(rng, FIELDS, flow_maps.NONE)
    axis = (np.arange(SIZE) + 0.5) / SIZE
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    start = time.perf_counter()
    for one in points:
        RBFInterpolator(one, rng.normal(size=(68, 2)), kernel="thin_plate_spline")(grid)
    return FIELDS / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    add_options(parser)
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    found: dict[str, list[float]] = {"one": [], "all": [], "scipy": []}
    for _ in range(given.repeats):
        found["one"].append(maps_a_second(1))
        found["all"].append(maps_a_second(cores))
        found["scipy"].append(fields_a_second())
    one, every, peer = (statistics.median(found[name]) for name in ("one", "all", "scipy"))
    result = {
        "maps_a_second": {"one_process": round(one), f"{cores}_processes": round(every)},
        "maps_a_minute": round(60 * every),
        "scipy_fields_a_second": round(peer),
        "ratio_to_scipy_on_one_core": round(one / peer, 1),
        "repeats": given.repeats,
    }
    report("simulated_flow", result, ("numpy", "scipy"), given.save)


if __name__ == "__main__":
    main()
