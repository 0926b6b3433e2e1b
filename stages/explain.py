"""Draws what a model saw in the clips that it was not trained on: metrics/explained/<experiment>/.

    python -m stages.explain synthetic-uamrn

Which pictures there are is the model's own business: mer/evaluation/explained/<model>.py draws them from explain.h5.
"""

from pathlib import Path

from mer.errors import MerError, suggestion
from mer.evaluation.explained import drawer
from mer.evaluation.predictions import read_predictions
from mer.storage.cache import ClipCache
from stages._run import run


def main(stage, *, clip: str = ""):
    source, folder = Path("data/predictions") / stage.key, Path("metrics/explained") / stage.key
    where = f"explain.drawn.{stage.key}"
    predictions, run_info = read_predictions(source)
    if not (source / "explain.h5").exists():
        if run_info["protocol"]["leaky"]:
            raise MerError(f"{source}: nothing is explained with selection test_best; set another, or remove {where}")
        raise MerError(f"{source}: model {run_info['model']} has explained nothing; remove {where}")
    found = ClipCache(source / "explain.h5", "explain")
    clip = clip or found.ids[0]
    if clip not in found:
        raise MerError(f"params.yaml: {where} is {clip!r}, which was not predicted; {suggestion(clip, found.ids)}")
    drawer(run_info["model"]).draw(found, predictions, run_info, folder, title=stage.key, clip=clip)


if __name__ == "__main__":
    run("explain", main)
