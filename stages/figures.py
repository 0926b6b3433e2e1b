"""Draws a corpus as the pipeline sees it: metrics/figures/<name>/*.png.

    python -m stages.figures synthetic

Nothing is computed here that a product does not hold already.
"""

from pathlib import Path

import numpy as np

from mer import corpora
from mer.clips import Clip, clips, read_index
from mer.errors import MerError
from mer.evaluation import figures, magnified
from mer.motion.strain import unit_channels
from mer.storage.cache import ClipCache, available
from stages._run import run

DRAWN = ("flow", "frames", "dynamic", "magnified", "plain", "apex_frame", "overdriven", "magnet")
WORST = 12  # crops on the contact sheet
SHOWN = 6  # factors of a sequence
PART = 3  # the picture of too much shows one part in so many of the crop's edge


def main(stage):
    item = stage.item
    table = corpora.select(read_index(f"data/index/{item.corpus}.csv"), item.labels, item.classes)
    names = table.attrs["class_names"]
    flow = ClipCache(item.flow, "flow")
    drawn = [ClipCache(path) for path in sorted({getattr(item, name) for name in DRAWN})]
    _, excluded = available(list(table.itertuples()), f"data/index/{item.corpus}.csv", *drawn)
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

    if there(item, "frames"):
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
        if all(there(item, product) for product in ("magnified", "plain", "apex_frame", "overdriven")):
            draw_magnified(item, shown, flow, folder)
        if there(item, "magnet"):
            rows = [factor_row(name, item, clip) for name, clip in shown]
            networks = ", ".join(ClipCache(item.magnet, "magnet").params["networks"].values())
            title = f"{item.corpus}: motion magnified by a network, {networks}"
            magnified.factor_gallery(rows, rows[0]["factors"], folder / "factors.png", title)
        figures.contact_sheet(
            worst_faces(item, table),
            folder / "worst_crops.png",
            f"{item.corpus}: the crops to look at first (detector score)",
        )


def there(item, product: str) -> bool:
    """Whether a corpus has the product: its slot then does not repeat the flow."""
    return getattr(item, product) != item.flow


def draw_magnified(item, shown, flow: ClipCache, folder: Path) -> None:
    """Eulerian magnification: a strip a class, and one clip magnified too much."""
    recipes = tuple(Path(path).parent.name.partition("-")[2] for path in (item.magnified, item.apex_frame))
    rows = [strip_row(name, item, clip, flow[clip.id]) for name, clip in shown]
    magnified.strip_gallery(rows, recipes, folder / "magnified.png", f"{item.corpus}: Eulerian magnification")
    most = {clip.id: float(np.quantile(np.hypot(*flow[clip.id][:2]), 0.99)) for _, clip in shown}
    clip = max((clip for _, clip in shown), key=lambda clip: most[clip.id])
    title = f"{item.corpus}: too much for {clip.subject} {clip.clip}, which moves by {most[clip.id]:.1f} px"
    magnified.too_much(too_much_panels(item, clip, flow[clip.id]), folder / "too_much.png", title)


def strip_row(name: str, item, clip: Clip, flow: np.ndarray) -> dict:
    frames, after = ClipCache(item.frames, "frames"), ClipCache(item.magnified, "frames")
    drawn, at = faces(item, clip), clip.position(int(ClipCache(item.apex, "apex")[clip.id]))
    line = magnified.telling_line(flow[:2], drawn["apex"])
    return {
        "name": name,
        "onset": drawn["onset"],
        "apex": drawn["apex"],
        "magnified": after.frame(clip.id, at),
        "line": line,
        "before": magnified.slice_through_time(frames[clip.id], line),
        "after": magnified.slice_through_time(after[clip.id], line),
        "plain": ClipCache(item.plain, "frames").frame(clip.id, at),
        "apex_frame": ClipCache(item.apex_frame, "apex_frame")[clip.id],
    }


def too_much_panels(item, clip: Clip, flow: np.ndarray) -> list[dict]:
    """The part about the largest motion: apex, magnified, and by what is too much."""
    drawn, at = faces(item, clip), clip.position(int(ClipCache(item.apex, "apex")[clip.id]))
    enough, overdriven = ClipCache(item.magnified, "frames"), ClipCache(item.overdriven, "apex_frame")
    images = {
        "onset": drawn["onset"],
        "apex": drawn["apex"],
        f"Eulerian, alpha {enough.params['recipe']['alpha']:g}": enough.frame(clip.id, at),
        f"Eulerian, alpha {overdriven.params['recipe']['alpha']:g}": overdriven[clip.id],
    }
    if there(item, "magnet"):
        learned = ClipCache(item.magnet, "magnet")
        images[f"network, factor {learned.extra('factors', clip.id)[-1]:.3g}"] = learned[clip.id][-1]
    size = drawn["apex"].shape[0]
    _, row, column = magnified.telling_line(flow[:2], drawn["apex"])
    part = size // PART
    low = np.clip(np.array([row, column]) - part // 2, 0, size - part) / size
    panels = []
    for name, image in images.items():
        y, x = (low * len(image)).astype(int)
        side = len(image) // PART
        panels.append({"name": name, "image": image[y : y + side, x : x + side]})
    return panels


def factor_row(name: str, item, clip: Clip) -> dict:
    learned = ClipCache(item.magnet, "magnet")
    factors = learned.extra("factors", clip.id)
    chosen = np.unique(np.linspace(0, len(factors) - 1, SHOWN).round().astype(int))
    drawn = faces(item, clip)
    return {"name": name, "onset": drawn["onset"], "apex": drawn["apex"], "images": learned[clip.id][chosen],
            "factors": factors[chosen].tolist()}  # fmt: skip


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
    if not there(item, "frames"):
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
