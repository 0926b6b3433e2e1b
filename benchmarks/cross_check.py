"""Learned on real flow and tested on rendered faces, and the other way round: what does one say of the other?

    python -m benchmarks.cross_check --flow data/raw/megc2019_flow --cache data/cache/synthetic/box224/flow.h5 \
        --index data/index/synthetic.csv --save

Prints one JSON line. The real clips are the public release of the MEGC2019 composite, 442 of 68 subjects; the
rendered ones are brought into the form of that release (`mer.stretch.stretched`) and into its three
classes. Each model is trained once on all subjects of one side by its own recipe, and tested on all of the other: no
person is on both. `within` is leave-one-subject-out on the side that is tested, in the same form, with one seed;
`largest` is UF1 of always saying the most frequent class. Intervals are over the subjects of the side that is tested,
for the mean of three seeds where a model has any chance in it.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks._report import add_options, report
from mer import models
from mer.clips import read_index
from mer.corpora import megc2019_flow, select
from mer.evaluation.metrics import bootstrap_ci95, score
from mer.loso import run as loso
from mer.parallel import Engine
from mer.recognise.recogniser import probabilities
from mer.storage.cache import ClipCache
from mer.stretch import stretched

MODELS = ("linear", "ststnet")
SEEDS = (0, 1, 2)


def real(folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
    table = select(megc2019_flow.read_labels(folder), "megc2019_flow", 3)
    return table, np.stack([megc2019_flow.read_image(path) for path in table["flow"]])


def rendered(index: Path, flow: Path) -> tuple[pd.DataFrame, np.ndarray]:
    cache = ClipCache(flow)
    table = select(read_index(index), "casme2", 3)
    table = table[[name in cache for name in table["id"]]].reset_index(drop=True)
    return table, stretched(np.asarray(cache.load(table["id"].tolist())))


def scored(table: pd.DataFrame, predicted: list[np.ndarray]) -> dict:
    """Mean over the seeds, with its interval over subjects."""
    names, label = table.attrs["class_names"], table["label"].to_numpy()
    who = (table["corpus"] + "/" + table["subject"].astype(str)).to_numpy()
    ones = [score(label, one, names) for one in predicted]
    runs = np.repeat(range(len(predicted)), len(label))
    ci = bootstrap_ci95(np.tile(label, len(ones)), np.concatenate(predicted), np.tile(who, len(ones)), names, runs=runs)
    return {
        "uf1": round(float(np.mean([one["uf1"] for one in ones])), 4), "uf1_ci95": [round(v, 4) for v in ci["uf1"]],
        "uar": round(float(np.mean([one["uar"] for one in ones])), 4), "seeds": len(ones),
    }  # fmt: skip


def crossed(name: str, train: tuple[pd.DataFrame, np.ndarray], test: tuple[pd.DataFrame, np.ndarray]) -> dict:
    seeds = SEEDS if models.load(name).recipe is not None else SEEDS[:1]
    inputs = models.load(name).prepared([test[1]], {})
    across = []
    for seed in seeds:
        model = loso.fitted([train[1]], train[0], model=name, classes=3, seed=seed)
        across.append(probabilities(model, inputs, 3).argmax(1))
    folds = loso.run([test[1]], test[0], model=name, classes=3, engine=Engine(workers=0)).set_index("id")
    within = folds.loc[test[0]["id"], ["p0", "p1", "p2"]].to_numpy().argmax(1)
    return {"across": scored(test[0], across), "within": scored(test[0], [within])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flow", type=Path, required=True, help="folder of the flow release")
    parser.add_argument("--cache", type=Path, required=True, help="flow of a rendered corpus, box224")
    parser.add_argument("--index", type=Path, required=True, help="its index")
    add_options(parser)
    found = parser.parse_args()
    sides = {"real": real(found.flow), "rendered": rendered(found.index, found.cache)}
    result: dict = {}
    for train, test in (("real", "rendered"), ("rendered", "real")):
        table = sides[test][0]
        largest = np.full(len(table), table["label"].mode()[0])
        entry = {"clips": len(table), "subjects": len(table[["corpus", "subject"]].drop_duplicates()),
                 "largest": scored(table, [largest])["uf1"]}  # fmt: skip
        result[f"{train} to {test}"] = entry | {name: crossed(name, sides[train], sides[test]) for name in MODELS}
    report("cross_check", result, ("torch", "scikit-learn"), save=found.save)


if __name__ == "__main__":
    main()
