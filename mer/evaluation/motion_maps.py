"""Where a model finds the two frames of a clip to differ, beside flow, magnification and difference (Figure 7).

Micron-BERT's Figure 7 sets such a map beside optical flow and learned magnification. Here each of them becomes a map
over the same places, the mean over each place, and where the true motion is known each has a number: the share of it
that lies where the face moves.

Shapes: N clips, maps (N, h, w) of h x w places, 0 and above; crops (size, size, 3) uint8 RGB; flow (2, H, W) px.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mer.errors import MerError
from mer.evaluation import maps
from mer.evaluation.canvas import blank, heading, save
from mer.evaluation.heatmaps import (
    PANEL,
    WIDTH,
    Explained,
    bar,
    bare,
    colours,
    in_grey,
    of_clip,
    over,
    second_line,
    verdict,
)
from mer.storage.cache import ClipCache

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

REGION = 0.25  # of a clip's largest true motion, from which on a place counts as moving
BORDER = 0.05  # of a frame's width; what lies there moves with the head alone
REPLICATES, SEED = 2000, 0  # of the interval over subjects
TINY = 1e-12  # instead of 0, where a panel has no colour
OTHERS = {"difference": "grey levels", "flow": "px", "magnified": "grey levels"}  # that maps are compared with
TITLES = {"difference": "frame difference", "flow": "TV-L1 flow", "magnified": "its difference"}


# ---- of one clip ----------------------------------------------------------------------------------------------------


def area_means(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The mean of an image (H, W) over each of h x w equal places, (h, w) float64; a pixel is even over its area."""
    down, across = (_shares(n, places) for n, places in zip(image.shape, shape, strict=True))
    return down @ np.asarray(image, dtype=np.float64) @ across.T


@functools.cache
def _shares(n: int, places: int) -> np.ndarray:
    """(places, n): which share of each of `places` equal parts of a line each of its n pixels has."""
    edges, pixel = np.arange(places + 1) * n / places, np.arange(n)
    inside = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.clip(inside, 0, None) * places / n


def own_motion(flow: np.ndarray) -> np.ndarray:
    """What the face itself moves, (2, H, W) float64 px, of a true flow that has the head's movement in it.

    The flow of the synthetic corpus is  x -> drift(x + e(x)),  the drift affine and the expression e zero at the border
    of the frame (mer.synthetic.motion). So the drift is fitted there and undone. Half of the border decides, the one
    that fits: an expression that reaches the border elsewhere does not count.
    """
    _, height, width = flow.shape
    y, x = np.mgrid[:height, :width].astype(np.float64)
    edge = max(1, round(BORDER * width))
    border = np.ones((height, width), dtype=bool)
    border[edge:-edge, edge:-edge] = False
    here = np.stack([x, y, np.ones_like(x)])
    there = here[:2] + flow
    known, wanted = here[:, border].T, there[:, border].T
    kept = np.ones(len(known), dtype=bool)
    for _ in range(4):
        drift = np.linalg.lstsq(known[kept], wanted[kept], rcond=None)[0].T
        apart = np.hypot(*(wanted - known @ drift.T).T)
        kept = apart <= np.median(apart)
    return np.einsum("ij,jhw->ihw", np.linalg.inv(drift[:, :2]), there - drift[:, 2, None, None]) - here[:2]


def true_motion(flow: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """How far each pixel of a crop truly moves by itself, (size, size) float64 px of the crop.

    Args:
        flow: (2, H, W) px of the frame, the head's movement included.
        transform: (2, 3), frame px to crop px, pixel centres at integers (mer.faces.alignment).
    """
    import cv2

    own = np.einsum("ij,jhw->hwi", transform[:, :2], own_motion(flow)).astype(np.float32)
    cropped = cv2.warpAffine(own, transform, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.hypot(cropped[..., 0], cropped[..., 1]).astype(np.float64)


def region(motion: np.ndarray) -> np.ndarray:
    """Where a motion (H, W) is at least REGION of its largest, bool."""
    return (motion >= REGION * motion.max()) & (motion > 0)


def share_inside(heat: np.ndarray, fraction: np.ndarray) -> float | None:
    """Share of a map (h, w) that lies in a region, of which each place has the `fraction` (h, w) 0..1.

    None where the map is 0 everywhere, or has values below 0, of which there are no shares.
    """
    if not heat.any() or (heat < 0).any():
        return None
    return float((heat * fraction).sum() / heat.sum())


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's, over the places of two maps (h, w); None where one of them is the same everywhere."""
    from scipy.stats import spearmanr

    # So that means which are equal but for the order of their sums have one rank.
    one, other = one.astype(np.float32), other.astype(np.float32)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one.ravel(), other.ravel()).statistic)


@dataclass(frozen=True)
class Products:
    """What is known of the clips beside the maps; those that are None are not compared.

    pair (2, size, size, 3) uint8; flow (3, H, W); magnet (L, m, m, 3) uint8, of which the last counts; frames, for the
    `transform` of each crop, and truth (2, H, W), whose clips have no corpus in their names.
    """

    pair: ClipCache
    flow: ClipCache
    magnet: ClipCache | None = None
    frames: ClipCache | None = None
    truth: ClipCache | None = None

    def __post_init__(self) -> None:
        if (self.frames is None) != (self.truth is None):
            raise MerError("motion_maps: the truth is cropped as the frames are; give both, or neither of them")

    def images(self, clip_id: str) -> dict[str, np.ndarray]:
        """onset, apex (size, size, 3) and, with a magnet, magnified (m, m, 3), uint8."""
        onset, apex = self.pair[clip_id]
        magnified = {} if self.magnet is None else {"magnified": self.magnet[clip_id][-1]}
        return {"onset": onset, "apex": apex} | magnified

    def others(self, clip_id: str) -> dict[str, np.ndarray]:
        """What the maps of a model are compared with, (H, W) each, of sizes of their own: see OTHERS."""
        import cv2

        images, (u, v, _) = self.images(clip_id), self.flow[clip_id].astype(np.float64)
        found = {"difference": _difference(images["apex"], images["onset"]), "flow": np.hypot(u, v)}
        if "magnified" in images:
            large, size = images["magnified"], images["magnified"].shape[:2][::-1]
            # As stage magnify_learned has made the frame that it magnified.
            onset = cv2.resize(images["onset"], size, interpolation=cv2.INTER_AREA)
            found["magnified"] = _difference(large, onset)
        return found

    def true(self, clip_id: str) -> np.ndarray | None:
        """`true_motion` of a clip."""
        if self.truth is None or self.frames is None:
            return None
        name = clip_id.partition("/")[2]
        return true_motion(self.truth[name], self.frames.extra("transform", clip_id), self.frames.shape[1])


def _difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean over the channels of what two pictures (H, W, 3) uint8 are apart, grey levels."""
    return np.abs(one.astype(np.float64) - other).mean(-1)


# ---- of all clips ---------------------------------------------------------------------------------------------------


def stored_maps(found: ClipCache) -> dict[str, np.ndarray]:
    """What explain.h5 has beside the maps (N, h, w) and of their shape, float64, by name."""
    first = found.extras(found.ids[0])
    names = [name for name, value in first.items() if value.shape == found.shape[1:]]
    return {name: np.array([found.extra(name, i) for i in found.ids], dtype=np.float64) for name in names}


def over_places(of: Explained, products: Products) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """All maps that are compared, (N, h, w) each: difference, flow, magnified, the stored ones, map.

    Returns them, and which fraction 0..1 of each place moves, (N, h, w), or None without the truth.
    """
    shape = of.maps.shape[1:]
    rows = [{n: area_means(v, shape) for n, v in products.others(i).items()} for i in of.found.ids]
    every = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    true = (products.true(i) for i in of.found.ids)
    moving = [area_means(region(motion), shape) for motion in true if motion is not None]
    return {**every, **stored_maps(of.found), "map": of.maps}, np.array(moving) if moving else None


def subject_interval(values: Sequence[float | None], subjects: Sequence[str]) -> list[float] | None:
    """[low, high], 95 % of the mean of N values when subjects are drawn with replacement.

    None with fewer than two subjects that have a value; clips without one do not count.
    """
    defined = [(v, who) for v, who in zip(values, subjects, strict=True) if v is not None]
    names = sorted({who for _, who in defined})
    if len(names) < 2:
        return None
    total, count = np.zeros(len(names)), np.zeros(len(names))
    for value, who in defined:
        total[names.index(who)] += value
        count[names.index(who)] += 1
    draws = np.random.default_rng(SEED).multinomial(len(names), np.full(len(names), 1 / len(names)), size=REPLICATES)
    return [float(q) for q in np.quantile((draws @ total) / (draws @ count), [0.025, 0.975])]


def compared(
    of: Explained, every: Mapping[str, np.ndarray], fraction: np.ndarray | None, clips: Sequence[str]
) -> dict[str, Any]:  # fmt: skip
    """The numbers of `figure`.

    Args:
        every, fraction: see `over_places`.
        clips: ids of the drawn ones.

    Returns:
        {class_names, n_clips, rank_correlation: {name: {mean, by_class}} of the map with each of OTHERS; clips: [{id,
        class, predicted, probability, right}]}. With the truth also {region, shares: {chance: {mean, by_class}, name:
        {mean, interval95, by_class}} of all maps; clips_above_flow: those of which the map has more inside than the
        flow}, and `shares` of each drawn clip. An undefined number is None.
    """
    names, n = of.class_names, len(of.labels)
    agreement = {
        name: maps.means(
            [rank_correlation(*two) for two in zip(of.maps, every[name], strict=True)], of.labels, len(names)
        )
        for name in OTHERS
        if name in every
    }
    content: dict[str, Any] = {"class_names": names, "n_clips": n, "rank_correlation": agreement}
    shares: dict[str, list[float | None]] = {}
    if fraction is not None:
        shares["chance"] = [float(where.mean()) for where in fraction]
        for name, heats in every.items():
            shares[name] = [share_inside(*two) for two in zip(heats, fraction, strict=True)]
        content |= {"region": REGION, "shares": _summaries(shares, of)}
        both = zip(shares["map"], shares["flow"], strict=True)
        content["clips_above_flow"] = sum(m is not None and f is not None and m > f for m, f in both)
    rows = []
    for clip in clips:
        i = of.found.ids.index(clip)
        cell = of_clip(of.maps[i], int(of.labels[i]), of.probability[i], names)
        row = {"id": clip, "class": names[of.labels[i]], **{k: cell[k] for k in ("predicted", "probability", "right")}}
        rows.append(row | ({"shares": {name: values[i] for name, values in shares.items()}} if shares else {}))
    return content | {"clips": rows}


def _summaries(shares: Mapping[str, Sequence[float | None]], of: Explained) -> dict[str, dict]:
    found = {name: maps.means(values, of.labels, len(of.class_names)) for name, values in shares.items()}
    for name, summary in found.items():
        if name != "chance":
            summary["interval95"] = subject_interval(shares[name], of.subjects)
    return found


# ---- picture --------------------------------------------------------------------------------------------------------


def figure(
    content: Mapping[str, Any], of: Explained, every: Mapping[str, np.ndarray], products: Products, path: str | Path,
    title: str, kind: str,
) -> None:  # fmt: skip
    """One clip a row: onset, apex, what is compared, the stored maps, the map, and where it is known the true motion.

    Args:
        content: `compared`.
        every: see `over_places`.
        path: the PNG to write.
        title: begins the heading. kind: what the maps are.
    """
    clips, columns = content["clips"], _columns(every, products)
    drawing = blank(max(PANEL * len(columns) + 1.2, WIDTH), (PANEL + 0.5) * len(clips) + 1.4, band=0.85)
    axes = drawing.subplots(len(clips), len(columns), squeeze=False)
    for line, row in zip(axes, clips, strict=True):
        drawn = _row(dict(zip(columns, line, strict=True)), row, of, every, products)
    for a, name in zip(axes[0], columns, strict=True):
        a.set_title(_title(name, kind, content, products), fontsize=8.5)
    bar(drawing, drawn, axes, label="from the least to the most of a panel, as printed")
    heading(drawing, f"{title}, by networks that have not seen the subject")
    text = "Colours and numbers: means over the places of the network's map. Line: half of the panel's most"
    if "shares" in content:
        text += f"; of the true motion {REGION:g} of it.\nInside: share of a map that lies within that line"
    second_line(drawing, f"{text}.")
    save(drawing, path)


def _columns(every: Mapping[str, np.ndarray], products: Products) -> list[str]:
    """In their order; `enlarged` is the magnified apex, `true` the true motion."""
    magnified = ["enlarged", "magnified"] if products.magnet else []
    stored = [name for name in every if name not in (*OTHERS, "map")]
    true = ["true"] if products.truth else []
    return ["onset", "apex", "difference", "flow", *magnified, *stored, "map", *true]


def _title(name: str, kind: str, content: Mapping[str, Any], products: Products) -> str:
    """Of a column; with the truth also the mean share of all clips."""
    if name == "enlarged" and products.magnet is not None:
        return f"apex, motion x {products.magnet.extra('factors', content['clips'][0]['id'])[-1]:g}"
    text = {**TITLES, "map": kind, "true": "true motion"}.get(name, name)
    mean = content.get("shares", {}).get("chance" if name == "true" else name, {}).get("mean")
    return text if mean is None else f"{text}\n{_share(mean, name)}, mean"


def _row(
    at: Mapping[str, "Axes"], row: Mapping[str, Any], of: Explained, every: Mapping[str, np.ndarray],
    products: Products,
) -> "AxesImage":  # fmt: skip
    """Draw a clip into the axes of its columns; returns the map, for the scale."""
    i, images, shares = of.found.ids.index(row["id"]), products.images(row["id"]), row.get("shares", {})
    for name, image in images.items():
        bare(at["enlarged" if name == "magnified" else name]).imshow(image)
    at["onset"].set_ylabel(row["class"], fontsize=9)
    at["onset"].set_xlabel(row["id"], fontsize=7)
    for name, heats in every.items():
        # A stored map may be small differences of large numbers, so its colours begin at its least.
        low = 0.0 if name in (*OTHERS, "map") else float(heats[i].min())
        high = float(heats[i].max())
        drawn = over(at[name], images["apex"], heats[i] - low, max(high - low, TINY))
        if name == "map":
            verdict(at[name], of_clip(heats[i], int(of.labels[i]), of.probability[i], of.class_names))
        else:
            at[name].set_xlabel(f"{low:.2g} to {high:.2g} {OTHERS.get(name, '')}".rstrip(), fontsize=8)
        if shares.get(name) is not None:
            at[name].xaxis.label.set_text(f"{at[name].get_xlabel()}\n{_share(shares[name], name)}")
    true = products.true(row["id"])
    if true is not None:
        most = max(float(true.max()), TINY)
        in_grey(at["true"], images["apex"]).imshow(true, cmap=colours(), vmin=0, vmax=most)
        if true.any():
            at["true"].contour(true, [REGION * most], colors="white", linewidths=2.2)
            at["true"].contour(true, [REGION * most], colors="black", linewidths=0.9)
        at["true"].set_xlabel(f"0 to {true.max():.2g} px\n{_share(shares['chance'], 'true')}", fontsize=8)
    return drawn


def _share(value: float, name: str) -> str:
    return f"{value:.2f} of the picture" if name == "true" else f"{value:.2f} inside"
