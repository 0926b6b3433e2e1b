"""Corpora: what their label sheets say, where their frames lie, and which clips a class count selects."""

import importlib

import pandas as pd

from mer.errors import MerError, suggestion

# Classes in label order and the emotions of the sheet that each takes. Emotions are compared in lower case, and always
# within one corpus: CASME II's `sadness` is dropped where SAMM's is negative (fidelity 0.1, D-15).
_CASME2 = {
    3: {"negative": {"disgust", "repression"}, "positive": {"happiness"}, "surprise": {"surprise"}},
    5: {name: {name} for name in ("happiness", "disgust", "repression", "surprise", "others")},
}
_THREE = {3: {name: {name} for name in ("negative", "positive", "surprise")}}
SELECTIONS = {"casme2": _CASME2, "synthetic": _CASME2, "megc2019_flow": _THREE}


def reader(name: str):
    """The module that reads corpora of this layout: it has `read_annotations(path)` and `read_corpus(root, …)`."""
    return importlib.import_module(f"mer.corpora.{name}")


def select(table: pd.DataFrame, corpus: str, classes: int) -> pd.DataFrame:
    """The rows of a corpus that a class count keeps.

    Args:
        table: what a reader's `read_annotations` returns, or an index; needs a column `emotion`.
        corpus: whose class lists apply.
        classes: 3, 4, 5 or 7, as far as the corpus has that selection.

    Returns:
        A copy of the rows with an integer column `label`, and the class names in label order in
        `.attrs["class_names"]`. Rows of other emotions are left out.

    Raises:
        MerError: no such corpus or selection, or a class without a clip.
    """
    if corpus not in SELECTIONS:
        raise MerError(f"corpus {corpus!r} has no class lists; {suggestion(corpus, SELECTIONS)}")
    selections = SELECTIONS[corpus]
    if classes not in selections:
        raise MerError(f"classes is {classes}: corpus {corpus} has selections of {sorted(selections)} classes")
    label_of = {e: i for i, emotions in enumerate(selections[classes].values()) for e in emotions}
    label = table["emotion"].str.strip().str.lower().map(label_of)
    rows = table[label.notna()].assign(label=label[label.notna()].astype(int))
    names = list(selections[classes])
    rows.attrs["class_names"] = names
    absent = [name for i, name in enumerate(names) if not (rows["label"] == i).any()]
    if absent:
        raise MerError(f"{corpus}, {classes} classes: no clip of {', '.join(absent)}; check the label sheet's emotions")
    return rows
