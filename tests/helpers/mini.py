"""Clips of fictional mini-corpora in every real layout (mer.fictional.layouts), as the tests need them.

By default the frames are a few grey pixels, which is all that `index` needs. Faces, which the later stages need, come
from the caller.
"""

from functools import partial

import numpy as np

from mer.fictional import layouts
from mer.fictional.layouts import PREFACE as PREFACE
from mer.fictional.layouts import Picture as Picture
from mer.fictional.layouts import Take
from mer.fictional.layouts import draw as draw
from mer.fictional.layouts import write_sheet as write_sheet

CASME2 = (
    Take(1, "EP01_01", 46, 49, 52, "happiness", "12"),
    Take(1, "EP01_02f", 11, "/", 16, "disgust"),
    Take(2, "EP02_01", 5, 8, 9, "repression", "15"),
    Take(2, "EP02_02", 120, 120, 124, "surprise", "1+L2"),
    Take(3, "EP03_01", 21, 24, 24, "others", "?"),
    Take(3, "EP03_02", 31, 33, 36, "sadness"),
)
SAMM = (
    Take(6, "006_1_2", 9998, 10000, 10003, "Anger", "4+7"),
    Take(6, "006_1_3", 3912, 3914, 3916, "Happiness", "12+15 "),
    Take(7, "007_4_2", 98, 101, 104, "Other"),
    Take(11, "011_2_1", 20, 22, 25, "Contempt"),
    Take(11, "011_2_2", 40, 42, 45, "Surprise"),
    Take(12, "012_3_1", 7, 9, 12, "Sadness"),
)
CASME3 = (
    Take(1, "a", 5, 8, 10, "others"),
    Take(1, "a", 12, 14, 16, "disgust"),  # two in one video
    Take(14, "J", 3, 4, 7, "Others"),
    Take(14, "b", 1, 1, 5, "happy"),
    Take(160, "c", 30, 31, 33, "surprise"),
    Take(160, "c", 31, 32, 36, "sad"),  # overlapping
)
SMIC = (
    Take(1, "s1_ne_01", 17581039, 17581041, 17581044, "negative"),
    Take(1, "s1_po_01", 61250, 61252, 61256, "positive"),  # six digits on disk: 061250
    Take(3, "s3_ne_16", 409046, 409049, 409052, "negative"),
    Take(20, "s20_sur_02", 300000, 300003, 300007, "surprise"),
)


def tiny(subject: int, number: int) -> np.ndarray:
    """(4, 6) grey pixels that differ between frames."""
    return np.full((4, 6), (37 * subject + number) % 256, np.uint8)


casme2 = partial(layouts.casme2, takes=CASME2, picture=tiny)
samm = partial(layouts.samm, takes=SAMM, picture=tiny)
casme3 = partial(layouts.casme3, takes=CASME3, picture=tiny)
smic = partial(layouts.smic, takes=SMIC, picture=tiny)
