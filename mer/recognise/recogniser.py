"""A recogniser at work: a clip in, probabilities and how unusual the clip is out."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mer import models
from mer.evaluation.calibration import tempered
from mer.faces.alignment import apply
from mer.products import Product, apex, flow, frames, landmarks
from mer.recognise import bundle
from mer.recognise.bundle import IN_PIXELS, Card, Range
from mer.recognise.chain import Chain
from mer.recognise.measures import measures, unusual
from mer.recognise.sources import Source
from mer.stretch import stretched

CLIP = frames("box224")
# Whatever the model reads.
LOOKED_AT = {"landmarks": landmarks(), "frames": CLIP, "apex": apex(CLIP), "flow": flow(CLIP)}


@dataclass(frozen=True)
class Answer:
    """What a recogniser says of a clip.

    probability: (C,), calibrated, in the order of `classes`; raw: the model's own. apex: its position, 0 = onset.
    measured, seen: by the names of Card.seen, of the clip and of the training. unusual: in words, what of the clip lies
    outside of what the training saw. products: arrays for pictures, by the names of LOOKED_AT, and `points`, the
    landmarks in the crop. explained: by the names of the arrays of the model's `explain`.
    """

    name: str
    recogniser: str
    classes: list[str]
    probability: np.ndarray
    raw: np.ndarray
    apex: int
    n_frames: int
    measured: dict[str, float | None]
    seen: dict[str, Range | None]
    unusual: list[str]
    products: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    explained: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def best(self) -> str:
        return self.classes[int(self.probability.argmax())]

    def as_json(self) -> dict[str, Any]:
        return {
            "clip": self.name, "recogniser": self.recogniser, "class": self.best,
            "probability": {c: round(float(p), 6) for c, p in zip(self.classes, self.probability, strict=True)},
            "apex": self.apex, "frames": self.n_frames, "measured": self.measured, "unusual": self.unusual,
        }  # fmt: skip


class Recogniser:
    """One that was read from its folder; networks stay loaded from clip to clip.

    Raises MerError for a folder that is no recogniser, is damaged, incomplete or of another version.
    """

    def __init__(self, folder: str | Path, device: str = "cpu", after_stage: Callable[[str], None] | None = None):
        self.folder, self.device = Path(folder), device
        self.card: Card = bundle.read_card(self.folder)
        self.model = bundle.read_model(self.folder, self.card)
        self.spec = models.load(self.card.model)
        params = bundle.params_of(self.card)
        params = params.model_copy(update={"spot": params.spot.model_copy(update={"missing": "spotted"})})
        stop = {name: getattr(params, name).model_copy(update={"on_error": "stop"})
                for name in ("landmarks", "align", "magnify_eulerian", "flow")}  # fmt: skip
        if params.landmarks.backend == "truth":  # of rendered faces alone
            stop["landmarks"] = stop["landmarks"].model_copy(update={"backend": "dlib"})
        weights = {Path(n).stem: self.folder / n for n in self.card.files if n.startswith("weights/")}
        self.chain = Chain(params.model_copy(update=stop), weights, device, after_stage)
        reads = self.spec.reads(self.spec.all_knobs(self.card.knobs))
        self.reads = [product for product in reads if isinstance(product, Product)]
        if spec_network(self.model):
            self.model.to(device)

    def recognise(self, source: Source, scratch: str | Path | None = None, *, explain: bool = False) -> Answer:
        """The answer for one clip.

        Args:
            scratch: an empty folder; None: a temporary one.
            explain: whether `Answer.explained` is filled.

        Raises:
            MerError: as `Chain.products`.
        """
        with tempfile.TemporaryDirectory(prefix="mer-recognise-", dir=scratch) as folder:
            clip, caches = self.chain.products(source, [*self.reads, *LOOKED_AT.values()], Path(folder))
            arrays = [cache.load([clip.id]) for cache in caches]
            transform = caches[len(self.reads) + list(LOOKED_AT).index("frames")].extra("transform", clip.id)
        read, looked = arrays[: len(self.reads)], dict(zip(LOOKED_AT, arrays[len(self.reads) :], strict=True))
        if self.card.form != IN_PIXELS:
            read = [stretched(np.asarray(array)) for array in read]
        inputs = self.spec.prepared(read, self.card.knobs)
        raw = probabilities(self.model, inputs, len(self.card.classes), self.device)[0]
        probability = tempered(raw[None], self.card.temperature)[0]
        measured = measures(source.fps, looked["landmarks"][0], looked["flow"][0], probability)
        return Answer(
            name=source.name, recogniser=self.card.experiment, classes=self.card.classes, probability=probability,
            raw=raw, apex=int(looked["apex"][0]), n_frames=clip.n_frames, measured=measured,
            seen=self.card.seen, unusual=unusual(measured, self.card.seen),
            products={name: array[0] for name, array in looked.items()}
            | {"points": apply(transform, looked["landmarks"][0])},
            explained=self._explained(inputs) if explain else {},
        )  # fmt: skip

    def _explained(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        if self.spec.explain is None or not spec_network(self.model):
            return {}
        import torch

        found = self.spec.explain(self.model, torch.from_numpy(inputs).to(self.device))
        return {name: value[0].detach().float().cpu().numpy() for name, value in found.items()}


def spec_network(model: Any) -> bool:
    """Whether a model is a network, and no estimator."""
    return hasattr(model, "state_dict")


def probabilities(model: Any, inputs: np.ndarray, classes: int, device: str = "cpu") -> np.ndarray:
    """(N, C) float64, as leave-one-subject-out computes them for a test subject."""
    if not spec_network(model):
        found = np.zeros((len(inputs), classes))
        found[:, model.classes_] = model.predict_proba(inputs)
        return found
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(inputs).to(device)).double().softmax(1).cpu().numpy()
