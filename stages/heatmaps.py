"""Sets side by side what several experiments look at in the same clips; writes metrics/heatmaps/<name>.json and .png.

    python -m stages.heatmaps casme2-dcma-attention

The maps are those of each experiment's explain.h5; no network runs here.
"""

from pathlib import Path

from mer.evaluation import heatmaps
from mer.evaluation.explained import check_clip, explained_rows, read_explained
from mer.evaluation.maps import read_maps
from mer.evaluation.reports import write_json
from stages._run import run


def main(stage, *, maps: str, experiments: list[str], number: int = 0, clips: list[str] | None = None):
    where = f"heatmaps.{stage.key}"

    def explained(name):
        found, predictions, run_info = read_explained(Path("data/predictions") / name, f"{name} from {where}")
        labels, probability = explained_rows(predictions, run_info, found.ids)
        subject = dict(zip(predictions["id"], predictions["corpus"] + "/" + predictions["subject"], strict=True))
        subjects = [subject[clip_id] for clip_id in found.ids]
        return heatmaps.Explained(found, run_info["class_names"], subjects, read_maps(found), labels, probability)

    every = {name: explained(name) for name in experiments}
    heatmaps.check_alike(every)
    first = every[experiments[0]]
    for clip in clips or ():
        check_clip(clip, first.found, f"{where}.clips")
    chosen = clips or heatmaps.spread(first.found.ids, first.labels, first.subjects, number)
    content = {"maps": maps, **heatmaps.compared(every, chosen)}
    write_json(Path("metrics/heatmaps") / f"{stage.key}.json", content)
    heatmaps.comparison(content, every, Path("metrics/heatmaps") / f"{stage.key}.png", f"{stage.key}: {maps}")


if __name__ == "__main__":
    run("heatmaps", main)
