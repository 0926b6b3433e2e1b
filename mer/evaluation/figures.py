"""Pictures of a corpus as the pipeline sees it, from finished products: which products, and what is drawn of them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mer.errors import MerError
from mer.evaluation import galleries, magnified
from mer.macro.tables import EMOTIONS, THREE, load_image
from mer.motion.strain import unit_channels
from mer.products import Product, apex, apex_frame, dynamic_image, eulerian, flow, frames, landmarks, recording
from mer.storage.cache import ClipCache

if TYPE_CHECKING:
    import pandas as pd

CLIP = frames("box224")
# By the names that `draw` takes. A corpus that is released as flow has `flow` alone.
NEEDS: dict[str, Product] = {
    "flow": flow(CLIP),
    "frames": CLIP,
    "landmarks": landmarks(),
    "apex": apex(CLIP),
    "dynamic": dynamic_image(CLIP),
    "magnified": eulerian(CLIP, "msmmt"),
    "plain": frames("box112"),
    "apex_frame": apex_frame(frames("box112", eulerian(recording(), "dcma"))),
    "overdriven": apex_frame(eulerian(CLIP, "overdriven")),
}
OPTIONAL = ("magnet",)  # of the same clips; drawn where an experiment needs one
EULERIAN = ("frames", "magnified", "plain", "apex_frame", "overdriven")
WORST = 12  # crops on the contact sheet
MACRO_CROP = "box112"  # of `plain` and `apex_frame`
SHOWN = 6  # factors of a sequence
PART = 3  # too_much.png shows one part in so many of the crop's edge


def draw(
    products: Mapping[str, ClipCache],
    table: "pd.DataFrame",
    names: list[str],
    folder: Path,
    *,
    corpus: str,
    clips_per_class: int,
    macro: "Macro | None" = None,
) -> None:
    """Draw a corpus; writes PNGs to `folder`.

    Args:
        products: by the names of NEEDS and OPTIONAL; pictures of products that are not there are left out.
        table: one row a clip with id, subject, clip and label (see mer.corpora.select), without excluded clips.
        names: of the classes, in label order.
        folder: classes.png and clips.png; with `frames` also flow.png, dynamic_images.png and worst_crops.png, and
            of magnified motion magnified.png, too_much.png and factors.png.
        corpus: named in the titles.
        clips_per_class: rows of a class in clips.png.
        macro: macro-expressions of other people, for macro_and_micro.png.

    Raises:
        MerError: a class has no clip, or a product lacks one.
    """
    shown = _per_class(table, names, clips_per_class, corpus)
    rows = [{"name": name, "flow": products["flow"][clip.id], **_faces(products, clip)} for name, clip in shown]
    galleries.clip_gallery(rows, folder / "clips.png", f"{corpus}: clips of each class")
    galleries.class_means(
        _class_means(products["flow"], table, names), folder / "classes.png",
        f"{corpus}: mean flow and strain of each class",
    )  # fmt: skip
    if "frames" not in products:
        return
    one = _per_class(table, names, 1, corpus)
    rows = [_flow_row(products, *each) for each in one]
    galleries.flow_gallery(rows, folder / "flow.png", f"{corpus}: flow from onset to apex")
    if "dynamic" in products:
        rows = [_dynamic_row(products, *each) for each in one]
        galleries.dynamic_gallery(rows, folder / "dynamic_images.png", f"{corpus}: dynamic images")
    if products.keys() >= set(EULERIAN):
        _draw_eulerian(products, one, folder, corpus)
    if macro is not None and products.keys() >= {"plain", "apex_frame"}:
        _draw_macro(products, one, folder, corpus, macro)
    if "magnet" in products:
        rows = [_factor_row(products, *each) for each in one]
        networks = ", ".join(products["magnet"].params["networks"].values())
        title = f"{corpus}: motion magnified by a network, {networks}"
        magnified.factor_gallery(rows, rows[0]["factors"], folder / "factors.png", title)
    title = f"{corpus}: the crops to look at first (detector score)"
    galleries.contact_sheet(_worst_faces(products, table), folder / "worst_crops.png", title)


def _per_class(table: "pd.DataFrame", names: list[str], count: int, corpus: str) -> list[tuple]:
    """(name, row) of `count` clips a class, evenly over the subjects, always the same ones."""
    found = []
    for label, name in enumerate(names):
        rows = table[table["label"] == label].sort_values("id")
        if not len(rows):
            raise MerError(f"data/index/{corpus}.csv: every clip of {name} was excluded; see its excluded.csv")
        most = min(count, len(rows))
        chosen = rows.iloc[((np.arange(most) + 0.5) * len(rows) / most).astype(int)]
        found += [(f"{name}\n{clip.subject} {clip.clip}", clip) for clip in chosen.itertuples()]
    return found


def _class_means(flows: ClipCache, table: "pd.DataFrame", names: list[str]) -> dict[str, np.ndarray]:
    """Class name -> mean flow image, (3, H, W)."""
    means = {}
    for label, name in enumerate(names):
        ids = table["id"][table["label"] == label]
        means[name] = sum((flows[i].astype(np.float64) for i in ids), start=np.zeros(flows.shape[1:])) / len(ids)
    return means


def _faces(products: Mapping[str, ClipCache], clip: Any) -> dict:
    """Onset, apex and landmarks in the crop; empty for a corpus released without frames."""
    if "frames" not in products:
        return {}
    crops, points = products["frames"], products["landmarks"][clip.id]
    transform = crops.extra("transform", clip.id)
    return {
        "onset": crops.frame(clip.id, 0),
        "apex": crops.frame(clip.id, int(products["apex"][clip.id])),
        "points": points @ transform[:, :2].T + transform[:, 2],
    }


def _flow_row(products: Mapping[str, ClipCache], name: str, clip: Any) -> dict:
    image = products["flow"][clip.id]
    return {"name": name, "apex": _faces(products, clip)["apex"], "flow": image, "channels": unit_channels(image)}


def _dynamic_row(products: Mapping[str, ClipCache], name: str, clip: Any) -> dict:
    crops = products["frames"][clip.id]
    numbers = np.linspace(0, len(crops) - 1, 5).round().astype(int)
    dynamic = products["dynamic"][clip.id]
    return {"name": name, "frames": crops[numbers], "numbers": numbers + 1, "dynamic": dynamic}


def _worst_faces(products: Mapping[str, ClipCache], table: "pd.DataFrame") -> list[dict]:
    """The crops whose faces the detector was least sure of, worst first."""
    score = {clip_id: float(products["landmarks"].extra("score", clip_id)) for clip_id in table["id"]}
    worst = table.assign(score=table["id"].map(score)).sort_values(["score", "id"], kind="stable").head(WORST)
    rows = []
    for clip in worst.itertuples():
        face = _faces(products, clip)
        name = f"{clip.subject} {clip.clip}: {clip.score:.2f}"
        rows.append({"name": name, "image": face["onset"], "points": face["points"]})
    return rows


# ---- macro-expressions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Macro:
    """Images of macro-expressions, for the classes of a corpus.

    table: of `read_macro`, one row an image with emotion, id and image (see mer.macro.tables). name: of the set.
    classes: class name -> the emotions of the corpus that it takes (mer.corpora.class_lists), in label order.
    """

    table: "pd.DataFrame"
    name: str
    classes: Mapping[str, Collection[str]]

    def image_of(self, label: int) -> dict | None:
        """A row of the table whose emotion is one of a class; None where the set has none.

        A class takes the emotions of its list, `happy` as `happiness`; where the set has none of them, and the class is
        named like one of DCMA's Table 2, such as SMIC's `negative`, those of the table. Classes are spread over the
        set: over its people, where it names them.
        """
        name, own = list(self.classes.items())[label]
        for wanted in ({EMOTIONS.get(emotion, emotion) for emotion in own}, THREE.get(name, set())):
            rows = self.table[self.table["emotion"].isin(wanted)].sort_values(["subject", "id"], kind="stable")
            if len(rows):
                return rows.iloc[int((label + 0.5) * len(rows) / len(self.classes))].to_dict()
        return None


def _draw_macro(
    products: Mapping[str, ClipCache], shown: list[tuple], folder: Path, corpus: str, macro: Macro
) -> None:  # fmt: skip
    """DCMA's Figure 2: a class a row: a macro-expression, and the apex before and after magnification."""
    recipe = str(dict(NEEDS["apex_frame"].settings)["recipe"])
    rows = []
    for label, (name, clip) in enumerate(shown):
        found = macro.image_of(label)
        image, said = (None, "") if found is None else _face_in(load_image(found))
        rows.append({
            "name": name, "macro": image,
            "said": "" if found is None else " ".join(f"{found['subject']} {found['emotion']}{said}".split()),
            "plain": products["plain"].frame(clip.id, int(products["apex"][clip.id])),
            "apex_frame": products["apex_frame"][clip.id],
        })  # fmt: skip
    title = f"{corpus}: macro-expressions ({macro.name}, other people) and micro-expressions"
    magnified.macro_gallery(rows, recipe, folder / "macro_and_micro.png", title)


def _face_in(image: np.ndarray) -> tuple[np.ndarray, str]:
    """The face in an image, cropped as the clips beside it are; where none is found the image, and a word about it."""
    from mer.faces import align_clip, detect_landmarks, face_box

    try:
        points = detect_landmarks(image)
    except MerError:
        return image, " (whole image: no face was found)"
    return align_clip(image[None], points, MACRO_CROP, box=face_box(image, points))[0], ""


# ---- magnified motion ---------------------------------------------------------------------------------------------


def _draw_eulerian(products: Mapping[str, ClipCache], shown: list[tuple], folder: Path, corpus: str) -> None:
    """Eulerian magnification: a strip a class, and one clip magnified too much."""
    first, second = (str(dict(NEEDS[name].settings)["recipe"]) for name in ("magnified", "apex_frame"))
    rows = [_strip_row(products, *each) for each in shown]
    magnified.strip_gallery(rows, (first, second), folder / "magnified.png", f"{corpus}: Eulerian magnification")
    most = {c.id: float(np.quantile(np.hypot(*products["flow"][c.id][:2]), 0.99)) for _, c in shown}
    clip = max((clip for _, clip in shown), key=lambda clip: most[clip.id])
    title = f"{corpus}: too much for {clip.subject} {clip.clip}, which moves by {most[clip.id]:.1f} px"
    magnified.too_much(_too_much_panels(products, clip), folder / "too_much.png", title)


def _strip_row(products: Mapping[str, ClipCache], name: str, clip: Any) -> dict:
    after, face, at = products["magnified"], _faces(products, clip), int(products["apex"][clip.id])
    line = magnified.telling_line(products["flow"][clip.id][:2], face["apex"])
    return {
        "name": name,
        "onset": face["onset"],
        "apex": face["apex"],
        "magnified": after.frame(clip.id, at),
        "line": line,
        "before": magnified.slice_through_time(products["frames"][clip.id], line),
        "after": magnified.slice_through_time(after[clip.id], line),
        "plain": products["plain"].frame(clip.id, at),
        "apex_frame": products["apex_frame"][clip.id],
    }


def _too_much_panels(products: Mapping[str, ClipCache], clip: Any) -> list[dict]:
    """The part about the largest motion: apex, magnified, and magnified too much."""
    enough, overdriven, face = products["magnified"], products["overdriven"], _faces(products, clip)
    images = {
        "onset": face["onset"],
        "apex": face["apex"],
        f"Eulerian, alpha {enough.params['recipe']['alpha']:g}": enough.frame(clip.id, int(products["apex"][clip.id])),
        f"Eulerian, alpha {overdriven.params['recipe']['alpha']:g}": overdriven[clip.id],
    }
    if "magnet" in products:
        learned = products["magnet"]
        images[f"network, factor {learned.extra('factors', clip.id)[-1]:.3g}"] = learned[clip.id][-1]
    size = face["apex"].shape[0]
    _, row, column = magnified.telling_line(products["flow"][clip.id][:2], face["apex"])
    part = size // PART
    low = np.clip(np.array([row, column]) - part // 2, 0, size - part) / size
    panels = []
    for name, image in images.items():
        y, x = (low * len(image)).astype(int)
        side = len(image) // PART
        panels.append({"name": name, "image": image[y : y + side, x : x + side]})
    return panels


def _factor_row(products: Mapping[str, ClipCache], name: str, clip: Any) -> dict:
    learned, face = products["magnet"], _faces(products, clip)
    factors = learned.extra("factors", clip.id)
    chosen = np.unique(np.linspace(0, len(factors) - 1, SHOWN).round().astype(int))
    return {"name": name, "onset": face["onset"], "apex": face["apex"], "images": learned[clip.id][chosen],
            "factors": factors[chosen].tolist()}  # fmt: skip
