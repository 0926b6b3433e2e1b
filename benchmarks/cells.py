"""The cells of the papers' tables that a network is trained for: benchmarks/gpu/cells.json, which line 10 measures.

    python -m benchmarks.cells

A GPU machine reads no params.yaml, so what follows from the presets is written down, and a test compares. A cell is an
experiment: model, all of its knobs, its whole recipe, seeds, and the clips and subjects of its corpus as published.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mer import corpora, models
from mer.loso.recipe import Recipe
from mer.params import Params, parse
from mer.plan import labels_of, reader_of
from tools import preset

PATH = Path(__file__).parent / "gpu/cells.json"
TABLES = ("uamrn", "msmmt", "micronbert", "dcma")  # presets
COMPOSITE = (442, 68)  # MEGC2019 (fidelity 0.1)


def counts(params: Params, corpus: str, classes: int) -> tuple[int, int]:
    """(clips, subjects) of a selection, as published."""
    entry = params.corpora[corpus]
    if entry.parts is not None:
        assert (entry.expect.clips, entry.expect.subjects) == COMPOSITE
        return COMPOSITE
    chosen = corpora.load(reader_of(corpus, entry)).FACTS["selections"][classes]
    return sum(chosen["counts"].values()), chosen["subjects"]


def cells(table: str) -> list[dict[str, Any]]:
    params = parse(YAML(typ="safe").load(preset.compose(table)))
    found = []
    for name, experiment in params.experiments.items():
        spec = models.load(experiment.model)
        if spec.recipe is None:
            continue  # an estimator takes no GPU
        corpus = params.corpora[experiment.corpus]
        assert labels_of(experiment.corpus, corpus) in corpora.names()
        classes, settings = experiment.classes or corpus.classes, params.train.of(experiment)
        clips, subjects = counts(params, experiment.corpus, classes)
        knobs = params.knobs_of(experiment)
        found.append({
            "experiment": name, "model": spec.name, "classes": classes, "clips": clips, "subjects": subjects,
            "seeds": len(settings.seeds) or 1, "held_out": settings.held_out, "selection": settings.selection,
            "knobs": spec.all_knobs(knobs), "recipe": asdict(Recipe.of_model(spec, experiment.recipe, knobs)),
        })  # fmt: skip
    return found


def text() -> str:
    """A line a cell."""
    tables = []
    for table in TABLES:
        lines = ",\n".join(f"  {json.dumps(cell)}" for cell in cells(table))
        tables.append(f' "{table}": [\n{lines}\n ]')
    return "{\n" + ",\n".join(tables) + "\n}\n"


if __name__ == "__main__":
    PATH.write_text(text())
    print(f"written: {PATH}")
