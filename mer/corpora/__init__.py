"""Corpora: what their label sheets say, where their frames lie, and which clips a class count selects.

A corpus is one module here, found by its name. It declares `CLASSES`: for every class count the classes in label
order, each with the emotions of the sheet that it takes; and, where emotions alone do not decide which clips belong to
it, `keep(table)`. A module that reads a layout also has `read_annotations(path)` and
`read_corpus(root, corpus, on_error)`.
"""

import importlib
import numbers
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from mer.errors import MerError, suggestion

# The literature's short name for the MEGC2019 composite; the synthetic corpus, which has CASME II's layout and classes.
ALIASES = {"composite": "megc2019", "synthetic": "casme2"}


def names() -> list[str]:
    """The corpora and macro-expression sets that have class lists."""
    return sorted(_packages())


def module_name(name: str) -> str:
    """The module of a corpus or macro-expression set, dotted. Raises MerError for an unknown one."""
    name, known = ALIASES.get(name, name), _packages()
    if name not in known:
        raise MerError(f"corpus {name!r} has no class lists; {suggestion(name, [*known, *ALIASES])}")
    return f"{known[name]}.{name}"


def _packages() -> dict[str, str]:
    """Name -> package, of the modules that declare CLASSES. None is imported for it."""
    declares = re.compile(r"^CLASSES\b", re.MULTILINE)
    found = {}
    for package in ("mer.macro", "mer.corpora"):
        for path in Path(__file__).parents[2].joinpath(*package.split(".")).glob("*.py"):
            if declares.search(path.read_text(encoding="utf-8")):
                found[path.stem] = package
    return found


def load(name: str) -> ModuleType:
    """The module of a corpus or macro-expression set. Raises MerError for an unknown one."""
    return importlib.import_module(module_name(name))


def class_lists(corpus: str, classes: int) -> dict[str, set[str]]:
    """Class name -> emotions, in label order. Raises MerError for an unknown corpus or selection."""
    selections = load(corpus).CLASSES
    given: Any = classes
    if isinstance(given, bool) or not isinstance(given, numbers.Integral):
        raise MerError(
            f"classes is {classes!r}; needed is a whole number: corpus {corpus} has selections of {sorted(selections)} "
            "classes"
        )
    if classes not in selections:
        raise MerError(f"classes is {classes}: corpus {corpus} has selections of {sorted(selections)} classes")
    return selections[classes]


def select(table: pd.DataFrame, corpus: str, classes: int) -> pd.DataFrame:
    """The rows of a corpus that a class count keeps.

    Args:
        table: what a reader's `read_annotations` returns, or an index; needs a column `emotion`, for the composite
            also `corpus`, `subject` and `clip`.
        corpus: whose class lists apply.
        classes: 3, 4, 5 or 7, as far as the corpus has that selection.

    Returns:
        A copy of the rows with an integer column `label`, and the class names in label order in
        `.attrs["class_names"]`. Rows of other emotions are left out.

    Raises:
        MerError: no such corpus or selection, or a class without a clip.
    """
    lists = class_lists(corpus, classes)
    if hasattr(load(corpus), "keep"):
        table = table[load(corpus).keep(table)]
    label_of = {e: i for i, emotions in enumerate(lists.values()) for e in emotions}
    label = table["emotion"].astype(str).str.strip().str.lower().map(label_of)
    rows = table[label.notna()].assign(label=label[label.notna()].astype(int))
    rows.attrs["class_names"] = list(lists)
    absent = [name for i, name in enumerate(lists) if not (rows["label"] == i).any()]
    if absent:
        raise MerError(f"{corpus}, {classes} classes: no clip of {', '.join(absent)}; check the label sheet's emotions")
    return rows
