"""Augmentation: training clips are mirrored, turned and scaled, anew in every epoch, a batch at a time on the device.

The random numbers come from the fold's own sampler. Flow vectors turn with the face (fidelity S-13).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mer.errors import MerError
from mer.loso.recipe import Recipe
from mer.models import ModelSpec
from mer.motion.transforms import turn_images

AS_IT_IS = np.array([0.0, 0.0, 1.0])  # not mirrored, not turned, not scaled


@dataclass(frozen=True)
class Augmentation:
    """What is done to inputs (B, …).

    mirror: (inputs) -> those of the mirrored faces, each with probability 1/2; None: nothing is mirrored.
    rotate: degrees; each face is turned by an angle from -rotate to rotate. zoom: each is scaled by a factor from
    1 - zoom to 1 + zoom. vectors: which channels of (B, C, H, W) are u and v in px; None: no channel is.
    """

    mirror: Callable[[Tensor], Tensor] | None = None
    rotate: float = 0.0
    zoom: float = 0.0
    vectors: tuple[int, int] | None = None

    def draw(self, sampler: np.random.Generator, count: int) -> np.ndarray:
        """(count, 3) float64: mirrored or not, degrees, scale. The sampler moves only for the changes that are on."""
        drawn = np.tile(AS_IT_IS, (count, 1))
        if self.mirror is not None:
            drawn[:, 0] = sampler.random(count) < 0.5
        if self.rotate:
            drawn[:, 1] = sampler.uniform(-self.rotate, self.rotate, count)
        if self.zoom:
            drawn[:, 2] = sampler.uniform(1 - self.zoom, 1 + self.zoom, count)
        return drawn

    def __call__(self, inputs: Tensor, drawn: np.ndarray) -> Tensor:
        """Inputs (B, …), each with its own row of `drawn`."""
        if self.mirror is not None:
            where = torch.from_numpy(drawn[:, 0] > 0).to(inputs.device).view(-1, *[1] * (inputs.dim() - 1))
            inputs = torch.where(where, self.mirror(inputs), inputs)
        if self.rotate or self.zoom:
            degrees, scale = torch.from_numpy(drawn[:, 1:]).to(inputs.device, inputs.dtype).T
            inputs = turn_images(inputs, degrees, scale, vectors=self.vectors)
        return inputs


def of_model(spec: ModelSpec, recipe: Recipe) -> Augmentation | None:
    """The augmentation that a recipe sets, by the model's `mirror` and, for turning and scaling, its `VECTORS`.

    Raises MerError where the model does not declare what the recipe needs.
    """
    if recipe.mirror and spec.mirror is None:
        raise MerError(f"recipe.mirror is on, but {spec.path} declares no `mirror`; see mer/models/__init__.py")
    turned = bool(recipe.rotate or recipe.zoom)
    if turned and not spec.declares_vectors:
        raise MerError(
            f"recipe.rotate and recipe.zoom turn pictures, but {spec.path} declares no VECTORS (which input channels "
            "are u and v; None for none); see mer/models/__init__.py"
        )
    if not (recipe.mirror or turned):
        return None
    return Augmentation(
        spec.mirror if recipe.mirror else None, recipe.rotate, recipe.zoom, spec.vectors if turned else None
    )
