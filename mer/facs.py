"""Action units of the Facial Action Coding System, and the emotions that they show.

Emotions are prototypes and major variants of the FACS Investigator's Guide (Ekman, Friesen and Hager 2002, table 10-1);
contempt is that of Matsumoto and Ekman (2004). Left out are units that move no skin of a face seen from the front, and
those that mer.synthetic.motion does not have.
"""

import re
from collections.abc import Sequence

import numpy as np

LATERAL = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 20, 24)  # each half of the face has its own
CENTRAL = (17, 25, 26)
# What a network tells: every lateral unit on the left half of the picture, on the right half, and the others.
TARGETS = (*(f"L{u}" for u in LATERAL), *(f"R{u}" for u in LATERAL), *(str(u) for u in CENTRAL))
UNITS = (*LATERAL, *CENTRAL)  # what coders tell, whichever half moves
UPPER = frozenset({1, 2, 4, 5, 6, 7, 9})  # the others move the lower half
CLASSES = ("negative", "positive", "surprise")
# Emotion -> variants; L: one half alone.
EMOTIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "anger": (("4", "5", "7", "10"), ("4", "5", "7", "24"), ("4", "7", "24"), ("4", "7"), ("4", "5", "7", "17", "24")),
    "disgust": (("9",), ("9", "17"), ("10",), ("10", "17"), ("9", "26"), ("10", "25")),
    "fear": (("1", "2", "4", "5", "20", "25"), ("1", "2", "4", "5"), ("1", "2", "4"), ("5", "20"), ("1", "4", "20")),
    "sadness": (("1", "4", "15"), ("1", "4", "15", "17"), ("15", "17"), ("1", "4"), ("6", "15")),
    "contempt": (("L14",), ("L12", "L14"), ("L10", "L14")),
    "happiness": (("6", "12"), ("12",), ("6", "12", "25"), ("L12",)),
    "surprise": (("1", "2", "5", "26"), ("1", "2", "5"), ("1", "2", "26"), ("5", "26"), ("1", "2")),
}
OF_CLASS = {
    "negative": ("anger", "disgust", "fear", "sadness", "contempt"), "positive": ("happiness",),
    "surprise": ("surprise",),
}  # fmt: skip


def coded_units(texts: Sequence[str]) -> np.ndarray:
    """Which of UNITS the coders of a label sheet saw in each clip, on either half of the face.

    Read are codes as CASME II, SAMM and CAS(ME)3 write them: `4+7`, `R12`, `L12A` (a half, an intensity), `AU4`,
    `ref(7B)`, `10A/B`. Where the coders left it open, `L12 or L14` or `4?`, these units are unknown. The halves are not
    told apart: a mirrored clip has the same codes.

    Args:
        texts: column `aus` of an index, one a clip; "" where nobody coded.

    Returns:
        (N, len(UNITS)) float32: 1 seen, 0 not seen, NaN unknown. A text without a number is unknown as a whole.
    """
    found = np.full((len(texts), len(UNITS)), np.nan, np.float32)
    for row, text in zip(found, texts, strict=True):
        if not re.search(r"\d", text):
            continue
        row[:] = 0
        for term in re.split(r"[+,;]", text):
            codes = [int(code) for code in re.findall(r"\d+", term) if len(code) <= 2]
            for code in codes:
                if code in UNITS and row[UNITS.index(code)] != 1:
                    row[UNITS.index(code)] = np.nan if _OPEN.search(term) else 1
    return found


_OPEN = re.compile(r"\bor\b|\?|\d[a-z]*\s*/\s*[a-z]*\d", re.IGNORECASE)  # between codes; `10A/B` is one of them
