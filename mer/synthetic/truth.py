"""What no real corpus has: the true motion and landmarks of every clip of the synthetic corpus, from its truth.h5.

`mer.synthetic.corpus` writes the file. This module imports nothing of the renderer, so that a stage that only reads the
file does not depend on it.
"""

from pathlib import Path

import numpy as np

from mer.errors import MerError


def read_truth(path: Path, clip: str) -> dict:
    """The true motion of one clip of `truth.h5`; `clip` is "sub01/EP01_01".

    flow (2, H, W) float32: displacement onset -> apex in px, head drift included; landmarks_onset and landmarks_apex
    (68, 2) float32; onset, apex, offset: frame numbers; peak: px of the expression alone, on a 224 px face.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if clip not in file:
                raise MerError(f"{path}: holds no clip {clip!r}; names look like 'sub01/EP01_01'")
            group = file[clip]
            truth = {name: group[name][()].astype(np.float32) for name in group}
            truth |= {name: int(group.attrs[name]) for name in ("onset", "apex", "offset")}
            truth["peak"] = float(group.attrs["peak"])
            return truth
    except FileNotFoundError:
        raise MerError(f"{path}: there is no such file; run dvc repro synthesize") from None
