"""How a network is trained. A model file declares its own; an experiment may change single fields."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from mer.errors import MerError, suggestion
from mer.loso.optim import Schedule
from mer.models import ModelSpec, check_value


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a model file declares and an experiment may change.

    optimizer, lr (the highest learning rate), weight_decay.
    epochs: passes over the training clips; batch_size: clips a step.
    schedule: `constant`; `step`: times `factor` every `every` epochs; `cosine`: half a wave down to `lowest`;
        `plateau`: times `factor` after more than `patience` epochs without a lower loss on held-out training subjects,
        not below `lowest`.
    warmup: epochs in which the rate grows to `lr`.
    stop: epochs without a lower loss on held-out training subjects after which a fold stops; 0: never.
    mirror: every training clip is mirrored with probability 1/2, anew each epoch; rotate: degrees, and zoom: share, by
        which it is turned and scaled at most.
    bf16: bfloat16 autocast on a GPU; a CPU computes in float32. compiled: torch.compile, which needs a C++ compiler.
    """

    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    epochs: int = 50
    batch_size: int = 32
    schedule: Literal["constant", "step", "cosine", "plateau"] = "constant"
    warmup: int = 0
    every: int = 30
    factor: float = 0.1
    patience: int = 10
    lowest: float = 0.0
    stop: int = 0
    mirror: bool = False
    rotate: float = 0.0
    zoom: float = 0.0
    bf16: bool = True
    compiled: bool = False

    def __post_init__(self) -> None:
        for name in ("lr", "epochs", "batch_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise MerError(f"recipe.{name} is {getattr(self, name)}; it must be above 0 and finite")
        for name, most in (("weight_decay", math.inf), ("stop", math.inf), ("rotate", 180), ("zoom", 0.5)):
            if not 0 <= getattr(self, name) <= most or getattr(self, name) == math.inf:
                limit = "and finite" if most == math.inf else f"and {most:g} at most"
                raise MerError(f"recipe.{name} is {getattr(self, name)}; it must be 0 or above {limit}")
        self.rates()

    def rates(self) -> Schedule:
        """The learning rate of every epoch."""
        return Schedule(
            kind=self.schedule, lr=self.lr, epochs=self.epochs, warmup=self.warmup, every=self.every,
            factor=self.factor, patience=self.patience, lowest=self.lowest,
        )  # fmt: skip

    @property
    def needs_validation(self) -> bool:
        """Whether it needs clips that are held out of training."""
        return self.schedule == "plateau" or self.stop > 0

    @classmethod
    def of(cls, declared: dict[str, Any], changes: dict[str, Any], where: str = "recipe") -> "Recipe":
        """The model's recipe with an experiment's changes. Raises MerError for an unknown field or a wrong type."""
        valid = {f.name: f.type for f in fields(cls)}
        for name, value in changes.items():
            if name not in valid:
                raise MerError(f"{where}.{name} is unknown; {suggestion(name, valid)}")
            check_value(f"{where}.{name}", value, valid[name])
        return cls(**{**declared, **changes})

    @classmethod
    def of_model(
        cls, spec: ModelSpec, changes: dict[str, Any], knobs: dict[str, Any], where: str = "recipe"
    ) -> "Recipe":
        """The recipe of a network with changes to its knobs. Raises MerError as `of` and the model's `check_recipe`."""
        recipe = cls.of(spec.recipe or {}, changes, where)
        if spec.check_recipe is not None:
            spec.check_recipe(recipe, spec.all_knobs(knobs))
        return recipe
