"""What stands below a picture of the pipeline, by the name of its file; and the galleries that they are shown in."""

from dataclasses import dataclass
from pathlib import Path

# Name of the file, without its ending -> what it shows. `{}` is the corpus, the experiment or the network.
SHOWN = {
    "figures": {
        "clips": "Clips of each class of {}: onset with landmarks, apex, their difference, optical flow and strain. "
        "The hue of flow is its direction, by the wheel; its saturation is its size.",
        "classes": "Mean optical flow and mean strain of each class of {}.",
        "flow": "Optical flow from onset to apex of a clip of each class of {}: by the colour wheel, its two "
        "components, strain, and the three as one picture.",
        "dynamic_images": "Five frames of a clip of each class of {}, and the dynamic image that they make.",
        "magnified": "Eulerian magnification of {}: the apex before and after, and a column of pixels against time.",
        "factors": "Motion of {} magnified by a network at growing factors.",
        "too_much": "A part of a face of {} at factors up to one that is too large.",
        "worst_crops": "Aligned faces of {}: the crops with the least score of the detector, with their landmarks.",
        "macro_and_micro": "Macro-expressions of other people beside micro-expressions of {}.",
    },
    "explained": {
        "attention": "Attention of {} in one clip, and its mean over all clips.",
        "gamma": "Uncertainty gamma of {}: by class, against the size of a class, and of right and wrong decisions.",
        "gradcam": "Grad-CAM of {} in clips of each class: where the decision comes from.",
        "gradcam_by_class": "Mean Grad-CAM of {} by class, and where it differs from the mean of all clips.",
        "confusion": "Confusion matrix of {}, as shares of each true class.",
        "patch_weights": "Weights that {} gives the patches of one clip.",
        "patch_weights_by_class": "Mean weights that {} gives the patches, by class.",
        "patch_weights_differences": "Where the weights that {} gives the patches differ from the mean of all clips.",
        "differences": "Where {} finds onset and apex of a clip to differ.",
    },
    "heatmaps": {"": "Heat maps of several experiments over the same clips, side by side: {}."},
    "motion_maps": {"": "Where a model finds motion, beside difference, flow and, where known, the true motion: {}."},
    "curves": {"": "Metrics against a knob: {}."},
    "pretraining": {
        "loss": "Loss of {} while it was pretrained.",
        "pairs": "Pairs of frames that {} restores: what it was given, and what it gives back.",
    },
}
# Folder below metrics/ -> heading, and what the gallery is of.
GALLERIES = {
    "figures": ("Corpora as the pipeline sees them", "Drawn from the products that the models read."),
    "explained": (
        "What the models look at",
        "Each clip is explained by a network that was not trained on its subject.",
    ),
    "heatmaps": ("Heat maps side by side", "Several experiments over the same clips."),
    "motion_maps": ("Maps of motion", "What a model finds, beside flow and difference of the same clips."),
    "curves": ("Curves", "Metrics over experiments that differ in one knob."),
    "pretraining": ("Pretraining", "Of networks that were pretrained in this run."),
}
FIRST = ("clips", "classes", "worst_crops", "flow", "magnified", "factors", "too_much", "dynamic_images")


@dataclass(frozen=True)
class Figure:
    path: Path
    name: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures of one folder of metrics/; `groups`: of a corpus, an experiment or a network, by its name."""

    folder: str
    title: str
    note: str
    groups: dict[str, list[Figure]]


def galleries(metrics: Path) -> list[Gallery]:
    """The pictures below metrics/, whatever is there, in the order of GALLERIES."""
    found = []
    for folder, (title, note) in GALLERIES.items():
        groups: dict[str, list[Figure]] = {}
        nested = "" not in SHOWN[folder]
        for path in sorted((metrics / folder).glob("*/*.png" if nested else "*.png"), key=_place):
            group = path.parent.name if nested else path.stem
            groups.setdefault(group, []).append(Figure(path, path.stem, _caption(folder, path.stem, group, nested)))
        if groups:
            found.append(Gallery(folder, title, note, dict(sorted(groups.items()))))
    return found


def _place(path: Path) -> tuple[int, str]:
    return FIRST.index(path.stem) if path.stem in FIRST else len(FIRST), path.as_posix()


def _caption(folder: str, stem: str, group: str, nested: bool) -> str:
    known = SHOWN[folder].get(stem if nested else "")
    if known is None:
        return f"{stem.replace('_', ' ').capitalize()} of {group}."
    return known.replace("{}", group)
