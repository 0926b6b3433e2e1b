"""Draws what a model saw in the clips that it was not trained on: metrics/explained/<experiment>/.

    python -m stages.explain synthetic-uamrn

attention.png: who attends to whom, in one clip and in the mean of all (UAMRN figure 4); gamma.png: what clips weigh
against how rare their class is (its section 3.3); gamma.json: the numbers in it.
"""

from pathlib import Path

import numpy as np

from mer.errors import MerError, suggestion
from mer.evaluation.explained import uamrn as explained
from mer.storage.cache import ClipCache
from stages._run import run
from stages.evaluate import read, write_json


def main(stage):
    item, where = stage.item, f"explain.runs.{stage.key}"
    source, folder = Path("data/predictions") / stage.key, Path("metrics/explained") / stage.key
    predictions, run_info = read(source)
    names = run_info["class_names"]
    if not (source / "explain.h5").exists():
        if run_info["protocol"]["leaky"]:
            raise MerError(
                f"{source}: nothing is explained with train.selection test_best; set another, or remove {where}"
            )
        raise MerError(f"{source}: model {run_info['model']} has explained nothing; remove {where}")
    found = ClipCache(source / "explain.h5", "explain")
    clip = item.clip or found.ids[0]
    if clip not in found:
        raise MerError(f"params.yaml: {where}.clip is {clip!r}, which was not predicted; {suggestion(clip, found.ids)}")
    sequence = ClipCache(item.sequence)
    factors = sequence.extras(clip).get("factors")
    if factors is None:
        raise MerError(
            f"{item.sequence}: holds {sequence.kind!r}, no frames magnified by growing factors; set {where}.sequence "
            "to the product that the model reads"
        )

    mean, kept = 0.0, 0.0
    for clip_id in found.ids:
        matrices = found[clip_id].astype(np.float64)
        mean, kept = mean + matrices / len(found), kept + (matrices != 0) / len(found)
    title = f"{stage.key}: attention by the model that has not seen the subject"
    explained.attention_figure(
        found[clip], mean, folder / "attention.png", title, clip, factors=factors, clips=len(found), kept=kept
    )

    # Explanations are of the first seed.
    rows = predictions[predictions["seed"] == run_info["protocol"]["seeds"][0]].set_index("id").loc[found.ids]
    labels = rows["label"].to_numpy()
    correct = rows[[f"p{c}" for c in range(len(names))]].to_numpy().argmax(1) == labels
    if not {"gamma", "weight"} <= found.extras(clip).keys():
        return  # a model whose clips all count the same, or that says nothing of it
    gamma, weight = (np.array([found.extra(kind, i) for i in found.ids], dtype=float) for kind in ("gamma", "weight"))
    known = np.isfinite(weight)  # some fold has trained on them
    explained.gamma_figure(gamma, weight, labels, names, folder / "gamma.png", f"{stage.key}: gamma", correct)
    summaries = {
        "test": explained.gamma_summary(gamma, labels, len(names), correct),
        "training": explained.gamma_summary(weight[known], labels[known], len(names)),
    }
    write_json(folder / "gamma.json", {"class_names": names, **summaries})


if __name__ == "__main__":
    run("explain", main)
