"""Evaluates the 68 released STSTNet weight files, each on the subject it has not seen, and the linear baseline.

    python -m benchmarks.ststnet_release --flow data/raw/megc2019_flow --weights path/to/ststnet

Prints one JSON line. The release's own log says UF1 0.7209, UAR 0.7250. Weights: github.com/christy1206/STSTNet.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from mer.corpora import megc2019_flow, select
from mer.errors import MerError, listed
from mer.evaluation.metrics import score
from mer.loso import run as loso


def load(flow: Path):
    """(table with labels, flow images (442, 3, 28, 28))."""
    table = select(megc2019_flow.read_labels(flow), "megc2019_flow", 3)
    return table, np.stack([megc2019_flow.read_image(p) for p in table["flow"]])


def official(table, images: np.ndarray, weights: Path) -> np.ndarray:
    """(442,) predicted classes: every subject by the weights that were trained without it."""
    import torch

    from mer.models import ststnet

    subjects = sorted(table["subject"].unique())
    missing = [s for s in subjects if not (weights / f"{s}.pth").is_file()]
    if missing:
        raise MerError(f"{weights}: {len(missing)} of {len(subjects)} weight files are missing: {listed(missing)}.pth")
    predicted = np.full(len(table), -1)
    for subject in subjects:
        rows = np.flatnonzero(table["subject"] == subject)
        model = ststnet.load_released(weights / f"{subject}.pth")
        with torch.inference_mode():
            predicted[rows] = model(torch.from_numpy(ststnet.prepare(images[rows]))).argmax(1).numpy()
    return predicted


def report(table, predicted: np.ndarray) -> dict:
    result = score(table["label"].to_numpy(), predicted, table.attrs["class_names"])
    subjects = len(table[["corpus", "subject"]].drop_duplicates())
    return {
        "uf1": round(result["uf1"], 4),
        "uar": round(result["uar"], 4),
        "n_clips": len(table),
        "n_subjects": subjects,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flow", type=Path, required=True, help="folder of the flow release")
    parser.add_argument("--weights", type=Path, required=True, help="folder with <subject>.pth")
    args = parser.parse_args()
    try:
        table, images = load(args.flow)
        released = report(table, official(table, images, args.weights))
        predictions = loso.run([images], table, model="linear", classes=3).set_index("id").loc[table["id"]]
        linear = report(table, predictions[["p0", "p1", "p2"]].to_numpy().argmax(1))
    except MerError as error:
        sys.exit(f"ststnet_release: {error}")
    print(json.dumps({"official": released, "linear": linear}))


if __name__ == "__main__":
    main()
