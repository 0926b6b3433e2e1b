"""What a model reads, as expressions: `flow(eulerian(frames("box224"), "msmmt"))`.

A product is one HDF5 file a corpus, data/cache/<corpus>/<chain>/<kind>.h5. Its chain names what was done to the
recording, in that order: `box224-msmmt` is cropped, then magnified; `dcma-box112` is magnified, then cropped. Equal
expressions are equal products, so two models that read the same share a file. Nothing is computed here: mer.plan makes
the stages of a graph from these expressions.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mer.errors import MerError, short, suggestion

CROPS = ("box224", "innereye256", "box112", "none224")
# U-01: "[2:1:13], L = 32" cannot all hold. These keep both ends and L; both ends and the step (L = 12); the first end,
# the step and L.
FACTORS = ("linspace_2_13_32", "arange_2_14_1", "arange_2_34_1")
MOST_FACTORS = 1024
NAME = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Weights:
    """A file of weights, data/weights/<name>.safetensors; stage pretrain@<name> makes it."""

    name: str

    @property
    def path(self) -> str:
        return f"data/weights/{self.name}.safetensors"


@dataclass(frozen=True)
class Product:
    """One array a clip.

    kind: of the array, and the file's name. chain: the folder. stage: what makes it; "" for the recording itself, which
    is no file. reads: the products it is made of, by the name of the stage's argument. settings: the stage's other
    arguments. crop: the crop that its pixels are those of; "" before any. corpus: another one that has the same clips,
    by their ids, and of which the product is; "" the experiment's.
    """

    kind: str
    chain: str
    stage: str
    reads: tuple[tuple[str, "Product | Weights"], ...] = ()
    settings: tuple[tuple[str, str | tuple[str, ...]], ...] = ()
    crop: str = ""
    corpus: str = ""

    def path(self, corpus: str) -> str:
        return "/".join(part for part in ("data/cache", corpus, self.chain, f"{self.kind}.h5") if part)

    @property
    def needs(self) -> tuple["Product | Weights", ...]:
        return tuple(product for _, product in self.reads)

    def __str__(self) -> str:
        return f"{self.kind} of {self.chain}" if self.chain else self.kind


def recording() -> Product:
    """The corpus's own frames, before any crop."""
    return Product("recording", "", "")


def landmarks() -> Product:
    """(68, 2) px on the onset frame."""
    return Product("landmarks", "", "landmarks")


def frames(crop: str, of: Product | None = None) -> Product:
    """The cropped clip, (T, size, size, 3) uint8; of: `eulerian(recording(), …)` instead of the recording."""
    if crop not in CROPS:
        raise MerError(f"frames({crop!r}): there is no such crop; {suggestion(crop, CROPS)}")
    if of is None or of == recording():
        return Product("frames", crop, "align", (("landmarks", landmarks()),), (("crop", crop),), crop)
    if of.kind != "recording":
        raise MerError(
            f"frames({crop!r}, of=…): {of} is cropped already; take eulerian(recording(), …), or leave it out"
        )
    recipe = of.chain
    return Product(
        "frames", f"{recipe}-{crop}", "magnify_eulerian", (("source", landmarks()), ("apex", apex(frames(crop)))),
        (("crop", crop), ("recipe", recipe)), crop,
    )  # fmt: skip


def apex(clip: Product) -> Product:
    """Where the apex stands in the clip, counted from 0; settled on the frames of its crop."""
    if not clip.crop:
        raise MerError(f"apex({clip}): the apex is looked for in a crop; take apex(frames(…))")
    return Product("apex", clip.crop, "spot", (("frames", frames(clip.crop)),), (), clip.crop)


def eulerian(clip: Product, recipe: str) -> Product:
    """The clip magnified by a recipe of magnify_eulerian.recipes; `frames` crops a magnified `recording()`."""
    if not NAME.fullmatch(recipe):
        raise MerError(f"eulerian(…, {recipe!r}): a recipe's name has letters a-z, digits and _")
    if clip == recording():
        return Product("recording", recipe, "")
    _is_clip(clip, "eulerian")
    return Product(
        "frames", f"{clip.chain}-{recipe}", "magnify_eulerian", (("source", clip), ("apex", apex(clip))),
        (("crop", clip.crop), ("recipe", recipe)), clip.crop,
    )  # fmt: skip


def apex_frame(clip: Product) -> Product:
    """The apex alone of a magnified clip, (size, size, 3) uint8; of other clips it is the second frame of `pair`."""
    if clip.stage != "magnify_eulerian":
        raise MerError(f"apex_frame({clip}): needed is a clip of eulerian(…); the apex of others is in pair(…)")
    return Product("apex_frame", clip.chain, clip.stage, clip.reads, clip.settings, clip.crop)


def pair(clip: Product) -> Product:
    """Onset and apex, (2, size, size, 3) uint8."""
    return _of_clip("pair", clip)


def flow(clip: Product, to: Literal["apex", "offset"] = "apex") -> Product:
    """A flow image, (3, H, W) float32: u and v in px, strain; from onset to apex, or from apex to offset."""
    return _of_clip("flow" if to == "apex" else "flow_offset", clip, stage="flow")


def of_corpus(corpus: str, product: Product) -> Product:
    """The product of another corpus that has the same clips, such as a second release: another view of them."""
    return replace(product, corpus=corpus)


def flow_views(crop: str, second: str = "none", *, offset: bool = False) -> tuple[Product, ...]:
    """Flow maps of a clip: from onset to apex; that of another corpus, `second`, unless it is none; apex to offset.

    offset: whether there is the last one; it is that of the second corpus where there is one.
    """
    clip = frames(crop)
    views, last = [flow(clip)], flow(clip, to="offset")
    if second != "none":
        views.append(of_corpus(second, flow(clip)))
        last = of_corpus(second, last)
    return (*views, last) if offset else tuple(views)


def flows(clip: Product) -> Product:
    """Flow images from each frame to the next, (T - 1, 3, H, W) float32."""
    return _of_clip("flows", clip, stage="flow")


def dynamic_image(clip: Product) -> Product:
    """The clip as one picture, (H, W, 3) uint8."""
    return _of_clip("dynamic_image", clip)


def magnet(clip: Product, weights: str = "magnet", factors: str = FACTORS[0]) -> Product:
    """The apex with its motion magnified by a network, once a factor, (L, size, size, 3) uint8."""
    _is_clip(clip, "magnet")
    named_factors(factors)
    return Product(
        "magnet", f"{clip.chain}-{_label(weights)}-{_label(factors)}", "magnify_learned",
        (("frames", clip), ("apex", apex(clip)), ("weights", Weights(weights))), (("factors", factors),), clip.crop,
    )  # fmt: skip


def embedding(sequence: Product, by: str, weights: str, **settings: str | int | float | bool) -> Product:
    """What a frozen network makes of a sequence's frames, (L, width) float32.

    by: the module below mer whose `features(frames, weights, device=…, **settings)` is called, such as
    `networks.resnet`.
    """
    if sequence.kind != "magnet":
        raise MerError(f"embedding({sequence}): needed is a sequence, as magnet(…) makes it")
    label = "-".join(_label(str(value)) for value in (weights, *settings.values()))
    return Product(
        "embedding", f"{sequence.chain}-{label}", "embed", (("sequence", sequence), ("weights", Weights(weights))),
        (("by", by), ("settings", tuple(f"{name}={value}" for name, value in settings.items()))), sequence.crop,
    )  # fmt: skip


def weights(name: str) -> Weights:
    """A file of weights, by its name in pretrain.runs."""
    return Weights(name)


def _of_clip(kind: str, clip: Product, stage: str | None = None) -> Product:
    _is_clip(clip, kind)
    settings = (("product", kind),) if (stage or kind) == "flow" else ()
    return Product(kind, clip.chain, stage or kind, (("frames", clip), ("apex", apex(clip))), settings, clip.crop)


def _is_clip(clip: Product, what: str) -> None:
    if clip.kind != "frames":
        raise MerError(f"{what}({clip}): needed is a clip, as frames(…) or eulerian(frames(…), …) make them")


def _label(text: str) -> str:
    """Part of a chain's name: a dot becomes p, as in 13p5."""
    return re.sub(r"[^a-z0-9_]", "p", text.lower())


def named_factors(name: str = FACTORS[0]) -> np.ndarray:
    """(L,) factors, ascending, MOST_FACTORS at most.

    Args:
        name: `linspace_<first>_<last>_<how many>` or `arange_<first>_<end>_<step>`, as NumPy reads them; UAMRN's own
            is one of `FACTORS` (U-01).

    Raises:
        MerError: another name, or factors that are none, too many, not finite, not above 0 or not ascending.
    """
    kind, *numbers = name.split("_")
    try:
        first, last, third = (float(number) for number in numbers)
        count = third if kind == "linspace" else {"arange": (last - first) / third}[kind]
        if not all(map(math.isfinite, (first, last, third))) or (kind == "linspace" and third != int(third)):
            raise ValueError
    except (ValueError, KeyError, ZeroDivisionError):
        raise MerError(
            f"factors: {short(name)} is no range of factors; write linspace_<first>_<last>_<how many> or "
            f"arange_<first>_<end>_<step> with finite numbers, for example {FACTORS[0]}"
        ) from None
    if count > MOST_FACTORS:  # before they take their memory
        raise MerError(f"factors: {short(name)} gives {count:,.0f}; needed are {MOST_FACTORS} at most: ask for fewer")
    with np.errstate(over="ignore", invalid="ignore"):  # between numbers of opposite sign, which are refused
        factors = np.arange(first, last, third) if kind == "arange" else np.linspace(first, last, max(0, int(third)))
    if not len(factors) or not factors[0] > 0 or not (np.diff(factors) > 0).all():
        raise MerError(f"factors: {short(name)} gives {factors.tolist()[:4]}; needed are factors above 0 that ascend")
    return factors
