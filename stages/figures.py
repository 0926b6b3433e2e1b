"""Draws a corpus as the pipeline sees it: metrics/figures/<name>/*.png.

    python -m stages.figures synthetic

Nothing is computed here that a product does not hold already.
"""

from pathlib import Path

import numpy as np

from mer import corpora
from mer.cache import ClipCache, available
from mer.clips import Clip, clips, read_index
from mer.errors import MerError
from mer.evaluation import figures
from mer.motion.strain import unit_channels
from stages._run import run

WORST = 12  # crops on the contact sheet


def main(stage):
    item = stage.item
    table = corpora.select(read_index(f"data/index/{item.corpus}.csv"), item.labels, item.classes)
    names = table.attrs["class_names"]
    flow = ClipCache(item.flow, "flow")
    _, excluded = available(list(table.itertuples()), f"data/index/{item.corpus}.csv", flow)
    table = table[~table["id"].isin(excluded)]
    folder = Path("metrics/figures") / stage.key

    rows = []
    for label, name in enumerate(names):
        for clip in clips(spread(table[table["label"] == label], stage.section.clips_per_class)):
            rows.append({"name": f"{name}\n{clip.subject} {clip.clip}", "flow": flow[clip.id], **faces(item, clip)})
    figures.gallery(rows, folder / "clips.png", f"{item.corpus}: clips of each class")

    means = {}
    for label, name in enumerate(names):
        ids = table["id"][table["label"] == label]
        if not len(ids):
            raise MerError(f"data/index/{item.corpus}.csv: every clip of {name} was excluded; see its excluded.csv")
        means[name] = sum(flow[i].astype(np.float64) for i in ids) / len(ids)
    figures.class_means(means, folder / "classes.png", f"{item.corpus}: mean flow and strain of each class")

    if item.frames != item.flow:
        shown = [
            (f"{name}\n{clip.subject} {clip.clip}", clip)
            for label, name in enumerate(names)
            for clip in clips(spread(table[table["label"] == label], 1))
        ]
        figures.flow_gallery(
            [flow_row(name, item, clip, flow[clip.id]) for name, clip in shown],
            folder / "flow.png",
            f"{item.corpus}: flow from onset to apex",
        )
        figures.dynamic_gallery(
            [dynamic_row(name, item, clip) for name, clip in shown],
            folder / "dynamic_images.png",
            f"{item.corpus}: dynamic images",
        )
        figures.contact_sheet(
            worst_faces(item, table),
            folder / "worst_crops.png",
            f"{item.corpus}: the crops to look at first (detector score)",
        )


def flow_row(name: str, item, clip: Clip, flow: np.ndarray) -> dict:
    return {"name": name, "apex": faces(item, clip)["apex"], "flow": flow, "channels": unit_channels(flow)}


def dynamic_row(name: str, item, clip: Clip) -> dict:
    frames = ClipCache(item.frames, "frames")[clip.id]
    numbers = np.linspace(0, len(frames) - 1, 5).round().astype(int)
    dynamic = ClipCache(item.dynamic, "dynamic_image")[clip.id]
    return {"name": name, "frames": frames[numbers], "numbers": numbers + 1, "dynamic": dynamic}


def worst_faces(item, table) -> list[dict]:
    """The crops whose faces the detector was least sure of, worst first."""
    landmarks = ClipCache(item.landmarks, "landmarks")
    score = {clip_id: float(landmarks.extra("score", clip_id)) for clip_id in table["id"]}
    worst = table.assign(score=table["id"].map(score)).sort_values(["score", "id"], kind="stable").head(WORST)
    rows = []
    for clip in clips(worst):
        drawn = faces(item, clip)
        name = f"{clip.subject} {clip.clip}: {score[clip.id]:.2f}"
        rows.append({"name": name, "image": drawn["onset"], "points": drawn["points"]})
    return rows


def spread(rows, count: int):
    """`count` rows evenly over the subjects, always the same ones."""
    count = min(count, len(rows))
    return rows.sort_values("id").iloc[((np.arange(count) + 0.5) * len(rows) / count).astype(int)]


def faces(item, clip: Clip) -> dict:
    """Onset, apex and landmarks in the crop; empty for a corpus released without frames."""
    if item.frames == item.flow:
        return {}
    frames = ClipCache(item.frames, "frames")
    points = ClipCache(item.landmarks, "landmarks")[clip.id]
    transform = frames.extra("transform", clip.id)
    return {
        "onset": frames.frame(clip.id, 0),
        "apex": frames.frame(clip.id, clip.position(int(ClipCache(item.apex, "apex")[clip.id]))),
        "points": points @ transform[:, :2].T + transform[:, 2],
    }


if __name__ == "__main__":
    run("figures", main)
