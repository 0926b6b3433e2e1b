"""The MEGC2019 composite: CASME II, SAMM and SMIC-HS together, in three classes; its table is an index joined of them.

MEGC leaves out two clips of CASME II, and merges emotions per corpus: sadness and fear are negative in SAMM and left
out in CASME II (fidelity 0.1, D-15). So a row belongs to it, or not, by its corpus too: see `keep`.
"""

import pandas as pd

from mer.errors import MerError, listed

# Emotions by corpus; those of CASME II and SAMM are their own three classes.
KEPT = {
    "casme2": {"disgust", "repression", "happiness", "surprise"},
    "samm": {"anger", "contempt", "disgust", "fear", "sadness", "happiness", "surprise"},
    "smic": {"negative", "positive", "surprise"},
}
# One has no apex in the sheet as shipped, the other its apex on the onset.
LEFT_OUT = {("casme2", "sub04", "EP12_01f"), ("casme2", "sub05", "EP09_05f")}
CLASSES = {
    3: {
        "negative": {"negative", "disgust", "repression", "anger", "contempt", "fear", "sadness"},
        "positive": {"positive", "happiness"},
        "surprise": {"surprise"},
    }
}
FACTS = {"selections": {3: {"subjects": 68, "counts": {"negative": 250, "positive": 109, "surprise": 83}}}}
PARTS = {"casme2": 145, "samm": 133, "smic": 164}  # clips


def keep(table: pd.DataFrame) -> pd.Series:
    """Which rows of an index are clips of the composite, as a boolean column.

    Args:
        table: an index with columns corpus, subject, clip, emotion. A corpus is casme2, samm or smic, also with an
            ending (`casme2-cropped`).

    Raises:
        MerError: a column is missing, another corpus, or a clip in two variants of one corpus.
    """
    missing = [c for c in ("corpus", "subject", "clip", "emotion") if c not in table]
    if missing:
        raise MerError(
            f"composite: columns {listed(missing)} are missing; select from an index joined of casme2, samm and smic"
        )
    corpus = table["corpus"].str.split("-").str[0]
    other = sorted(set(table["corpus"][~corpus.isin(list(KEPT))]))
    if other:
        raise MerError(f"composite: has rows of {listed(other)}; it is made of {listed(KEPT)}, leave others out")
    keys = pd.DataFrame({"corpus": corpus, "subject": table["subject"], "clip": table["clip"]})
    twice = table[keys.duplicated()]
    if len(twice):
        names = listed(twice["corpus"] + "/" + twice["subject"] + "/" + twice["clip"])
        raise MerError(f"composite: {len(twice)} clips occur twice: {names}; join one variant of a corpus")
    emotion = table["emotion"].astype(str).str.strip().str.lower()
    return pd.Series(
        [
            mood in KEPT[key[0]] and tuple(key) not in LEFT_OUT
            for mood, key in zip(emotion, keys.itertuples(index=False, name=None), strict=True)
        ],
        index=table.index,
        dtype=bool,
    )
