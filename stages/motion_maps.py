"""Sets where a model finds onset and apex to differ beside flow, magnification and difference of the same clips.

    python -m stages.motion_maps casme2-micronbert

Writes metrics/motion_maps/<name>.json and .png. The maps are those of the experiment's explain.h5; no network runs
here. Of a synthetic corpus, whose true motion is known, it says how much of each map lies where the face moves.
"""

from pathlib import Path

from mer.evaluation import heatmaps, motion_maps
from mer.evaluation.explained import check_clip, explained_rows, read_explained
from mer.evaluation.maps import read_maps
from mer.evaluation.reports import write_json
from mer.storage.cache import ClipCache
from stages._run import run


def main(
    stage, *, maps: str, experiment: str, pair: str, flow: str, number: int = 0, clips: list[str] | None = None,
    magnet: str | None = None, frames: str | None = None, truth: str | None = None,
):  # fmt: skip
    where = f"motion_maps.{stage.key}"
    found, predictions, run_info = read_explained(Path("data/predictions") / experiment, where)
    labels, probability = explained_rows(predictions, run_info, found.ids)
    subject = dict(zip(predictions["id"], predictions["corpus"] + "/" + predictions["subject"], strict=False))
    subjects = [subject[clip_id] for clip_id in found.ids]
    of = heatmaps.Explained(found, run_info["class_names"], subjects, read_maps(found), labels, probability)
    paths = {"pair": pair, "flow": flow, "magnet": magnet, "frames": frames, "truth": truth}
    products = motion_maps.Products(**{kind: ClipCache(path, kind) for kind, path in paths.items() if path})
    for clip in clips or ():
        check_clip(clip, found, f"{where}.clips")
    chosen = clips or heatmaps.spread(found.ids, labels, subjects, number)
    every, fraction = motion_maps.over_places(of, products)
    content = {"experiment": experiment, "maps": maps, **motion_maps.compared(of, every, fraction, chosen)}
    folder = Path("metrics/motion_maps")
    write_json(folder / f"{stage.key}.json", content)
    motion_maps.figure(content, of, every, products, folder / f"{stage.key}.png", f"{stage.key}: {maps}", maps)


if __name__ == "__main__":
    run("motion_maps", main)
