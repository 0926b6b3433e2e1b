"""Recognises clips of one's own with a trained recogniser, and says how much to make of it.

    python -m mer.recognise clip.avi --with data/recognisers/synthetic-ststnet
    recognise(frames, fps, "data/recognisers/synthetic-ststnet").probability

sources.py     a video, a folder of frames, two images, an array  ->  frames and a row of an index
chain.py       ->  the products that the model reads, by the pipeline's own stages
recogniser.py  ->  probabilities, calibrated, and how unusual the clip is
measures.py    what is measured of a clip, to say how unlike those of the training it is
page.py        ->  one HTML page
recordings.py  candidates for micro-expressions in whole recordings  ->  csv
bundle.py      what a recogniser is on disk; stage fit@<experiment> writes it
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mer.recognise.recogniser import Answer


def recognise(
    frames: np.ndarray | Sequence[np.ndarray], fps: float, recogniser: str | Path, *, apex: int | None = None,
    device: str = "cpu",
) -> "Answer":  # fmt: skip
    """The answer of a recogniser for one clip, from onset to offset.

    Args:
        frames: (T, H, W, 3) uint8 RGB with one face, T >= 2.
        fps: frames a second.
        recogniser: its folder.
        apex: position of the apex, 0 = onset; None: the frame with the most flow from the onset.

    Returns:
        mer.recognise.recogniser.Answer.

    Raises:
        MerError: no recogniser, or a damaged one; frames of another shape; no face, or several; a frame rate in which
            nothing of half a second shows.
    """
    from mer.recognise import sources
    from mer.recognise.recogniser import Recogniser

    one = Recogniser(recogniser, device)
    with tempfile.TemporaryDirectory(prefix="mer-recognise-") as folder:
        return one.recognise(sources.array(frames, fps, Path(folder) / "frames", apex=apex))
