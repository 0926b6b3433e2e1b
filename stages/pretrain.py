"""Weights of a network, made before the folds; writes data/weights/<name>.safetensors.

    python -m stages.pretrain resnet18

The user's own file, the bundled one, or what the run's task trains or fetches, in the order of mer/pretraining; task
frame_pairs in the processes that runtime.launcher starts. What the weights are stands in the file, and from there in
the metrics. A killed training goes on from its last checkpoint.
"""

from pathlib import Path

from mer import pretraining
from mer.pretraining.worker import launched
from mer.storage.weights import save_weights
from stages._run import chosen, run


def main(stage):
    section = stage.params.pretrain
    chosen_run = chosen(section.runs, stage.key, "pretrain.runs")
    entry = chosen_run.model_dump() | ({"sets": chosen_run.located()} if chosen_run.task == "macro_sets" else {})
    shards = chosen_run.shards() if chosen_run.task == "frame_pairs" else {}
    context = pretraining.Context(
        where=f"pretrain.runs.{stage.key}", seed=section.seed, device=stage.device, engine=stage.engine,
        checkpoint=stage.spool / "checkpoint.pt", code=stage.code(), progress=True,
        pool=Path("data/raw", entry["pool"], "pool") if entry.get("pool") else None,
        frames=tuple(Path("data/frames", key) for key in shards),
    )  # fmt: skip
    launcher, trains = stage.params.runtime.launcher, pretraining.is_made(entry, context)
    if launcher and chosen_run.task == "frame_pairs" and trains:
        made = launched(launcher, entry, context)
    else:
        made = pretraining.run(entry, context)
    about = made.about | ({"device": stage.device} if trains and chosen_run.task != "fetch" else {})
    save_weights(made.network, Path("data/weights") / f"{stage.key}.safetensors", about)


if __name__ == "__main__":
    run("pretrain", main)
