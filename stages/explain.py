"""Draws what a model saw in the clips that it was not trained on: metrics/explained/<experiment>/.

    python -m stages.explain synthetic-uamrn

Which pictures there are is the model's own business: mer/evaluation/explained/<model>.py draws them from explain.h5.
"""

from pathlib import Path

from mer.evaluation.explained import check_clip, drawer, read_explained
from stages._run import run


def main(stage, *, clip: str = ""):
    source, folder = Path("data/predictions") / stage.key, Path("metrics/explained") / stage.key
    where = f"explain.drawn.{stage.key}"
    found, predictions, run_info = read_explained(source, where)
    clip = clip or found.ids[0]
    check_clip(clip, found, where)
    drawer(run_info["model"]).draw(found, predictions, run_info, folder, title=stage.key, clip=clip)


if __name__ == "__main__":
    run("explain", main)
