"""Corpora: what their label sheets say, where their frames lie, and which clips a class count selects.

A corpus is one module here, found by its name. It declares `CLASSES`: for every class count the classes in label
order, each with the emotions of the sheet that it takes. A module that reads a layout also has
`read_annotations(path)` and `read_corpus(root, corpus)`.
"""

import importlib
import pkgutil
from types import ModuleType

import pandas as pd

from mer.errors import MerError, suggestion

ALIASES = {"composite": "megc2019"}  # the literature's short name for the MEGC2019 composite


def names() -> list[str]:
    """The corpora that have class lists."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("synthetic"))


def load(name: str) -> ModuleType:
    """The module of a corpus. Raises MerError for an unknown one."""
    name = ALIASES.get(name, name)
    if name not in names():
        raise MerError(f"corpus {name!r} has no class lists; {suggestion(name, [*names(), *ALIASES])}")
    return importlib.import_module(f"mer.corpora.{name}")


def class_lists(corpus: str, classes: int) -> dict[str, set[str]]:
    """Class name -> emotions, in label order. Raises MerError for an unknown corpus or selection."""
    selections = load(corpus).CLASSES
    if classes not in selections:
        raise MerError(f"classes is {classes}: corpus {corpus} has selections of {sorted(selections)} classes")
    return selections[classes]


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
    lists = class_lists(corpus, classes)
    label_of = {e: i for i, emotions in enumerate(lists.values()) for e in emotions}
    label = table["emotion"].astype(str).str.strip().str.lower().map(label_of)
    rows = table[label.notna()].assign(label=label[label.notna()].astype(int))
    rows.attrs["class_names"] = list(lists)
    absent = [name for i, name in enumerate(lists) if not (rows["label"] == i).any()]
    if absent:
        raise MerError(f"{corpus}, {classes} classes: no clip of {', '.join(absent)}; check the label sheet's emotions")
    return rows
