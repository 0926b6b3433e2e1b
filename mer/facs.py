"""Action units of the Facial Action Coding System, and the emotions that they show.

Emotions are prototypes and major variants of the FACS Investigator's Guide (Ekman, Friesen and Hager 2002, table 10-1);
contempt is that of Matsumoto and Ekman (2004). Left out are units that move no skin of a face seen from the front, and
those that mer.synthetic.motion does not have.
"""

LATERAL = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 20, 24)  # each half of the face has its own
CENTRAL = (17, 25, 26)
# What a network tells: every lateral unit on the left half of the picture, on the right half, and the others.
TARGETS = (*(f"L{u}" for u in LATERAL), *(f"R{u}" for u in LATERAL), *(str(u) for u in CENTRAL))
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
