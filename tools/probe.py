"""Where the information is lost: what can be told from each array that a network computes, before it sees a label.

    python -m tools.probe synthetic-micronbert

The model's `probes` (mer/models/__init__.py) gives arrays a clip in the order of the computation, by the network as its
training begins: with its pretrained weights, or random ones. Each is read by class-balanced logistic regression on
standardised values, like the model `linear`, with each subject left out once; no label has had a part in the arrays.
Printed are the numbers a clip, UF1 with its 95 % interval over subjects, and UF1 with shuffled labels.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mer.errors import MerError, suggestion
from mer.evaluation.metrics import bootstrap_ci95, score
from mer.params import load
from tools._errors import one_line

if TYPE_CHECKING:
    import pandas as pd

USAGE = "name an experiment: python -m tools.probe <experiment>"
AT_ONCE = 16  # clips
C = 0.01  # of the regression, as model linear has it


def arrays_of(name: str) -> tuple[dict[str, np.ndarray], "pd.DataFrame"]:
    """The arrays (N, …) of an experiment by name, and its clips in that order, with the classes in their attrs.

    Raises MerError for an unknown experiment, for a model without probes, and for products that are not there.
    """
    import torch

    from mer import corpora, models
    from mer.clips import read_index
    from mer.plan import derive_training
    from mer.storage.cache import ClipCache

    params = load("params.yaml")
    if name not in params.experiments:
        raise MerError(f"params.yaml has no experiment {name!r}; {suggestion(name, params.experiments)}")
    spec = models.load(params.experiments[name].model)
    if spec.probes is None:
        raise MerError(f"{name}: {spec.path} declares no probes; see mer/models/__init__.py")
    args, knobs = derive_training(params, name)["args"], params.knobs_of(params.experiments[name])
    table = corpora.select(read_index(Path(args["index"])), args["labels"], args["classes"])
    caches = [ClipCache(path) for path in args["reads"]]
    there = table["id"].isin(set.intersection(*(set(cache.ids) for cache in caches)))
    names, table = table.attrs["class_names"], table[there].reset_index(drop=True)
    table.attrs["class_names"] = names
    torch.manual_seed(params.train.seed)
    network = models.build(spec.name, args["classes"], **knobs)
    if "weights" in args and spec.load_weights is not None:
        network = spec.load_weights(network, args["weights"])
    network.eval()
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(table), AT_ONCE):
        ids = table["id"].tolist()[start : start + AT_ONCE]
        inputs = torch.from_numpy(spec.prepared([cache.load(ids) for cache in caches], knobs))
        with torch.no_grad():
            for what, values in spec.probes(network, inputs).items():
                parts.setdefault(what, []).append(values.float().flatten(1).numpy())
    return {what: np.concatenate(values) for what, values in parts.items()}, table


def predictions(values: np.ndarray, labels: np.ndarray, table: "pd.DataFrame") -> np.ndarray:
    """The label (N,) that is told from values (N, D), each subject by a regression on the others."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from mer.loso.folds import folds

    found = np.empty(len(labels), dtype=int)
    for fold in folds(table):
        test = np.zeros(len(labels), dtype=bool)
        test[list(fold.test)] = True
        steps: list[Any] = [StandardScaler()]
        if values.shape[1] > (~test).sum():
            steps.append(PCA(svd_solver="full"))  # a turn: the ridge penalty is the same, and there is less to solve
        steps.append(LogisticRegression(C=C, class_weight="balanced", max_iter=1000))
        found[test] = make_pipeline(*steps).fit(values[~test], labels[~test]).predict(values[test])
    return found


def probe(name: str) -> list[str]:
    """A line an array."""
    section, (arrays, table) = load("params.yaml").evaluate, arrays_of(name)
    labels, names = table["label"].to_numpy(), table.attrs["class_names"]
    who = (table["corpus"] + "/" + table["subject"]).to_numpy()
    mixed = np.random.default_rng(section.seed).permutation(labels)
    width = max(map(len, arrays))
    lines = [f"{'':{width}}  numbers  UF1    95 %            shuffled"]
    for what, values in arrays.items():
        guess = predictions(values, labels, table)
        interval = bootstrap_ci95(labels, guess, who, names, replicates=section.bootstrap, seed=section.seed)["uf1"]
        chance = score(mixed, predictions(values, mixed, table), names)["uf1"]
        low, high = interval or (float("nan"), float("nan"))
        one = score(labels, guess, names)["uf1"]
        lines.append(f"{what:{width}}  {values.shape[1]:7}  {one:.3f}  [{low:.3f}, {high:.3f}]  {chance:.3f}")
    return lines


def main() -> None:
    with one_line("probe"):
        if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
            raise MerError(USAGE)
        print("\n".join(probe(sys.argv[1])))


if __name__ == "__main__":
    main()
