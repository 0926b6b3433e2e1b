"""How a network is trained. A model file declares its own; an experiment may change single fields."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from mer.errors import MerError, suggestion
from mer.models import check_value


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """optimizer: `adam` or `adamw`; lr: learning rate; weight_decay; epochs: passes over the training clips;
    batch_size: clips a step; mirror: every training clip is mirrored with probability 1/2, anew each epoch."""

    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    epochs: int = 50
    batch_size: int = 32
    mirror: bool = False

    def __post_init__(self):
        for name in ("lr", "epochs", "batch_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise MerError(f"recipe.{name} is {getattr(self, name)}; it must be above 0 and finite")
        if not 0 <= self.weight_decay < math.inf:
            raise MerError(f"recipe.weight_decay is {self.weight_decay}; it must be 0 or above and finite")

    @classmethod
    def of(cls, declared: dict[str, Any], changes: dict[str, Any], where: str = "recipe") -> "Recipe":
        """The model's recipe with an experiment's changes. Raises MerError for an unknown field or a wrong type."""
        valid = {f.name: f.type for f in fields(cls)}
        for name, value in changes.items():
            if name not in valid:
                raise MerError(f"{where}.{name} is unknown; {suggestion(name, valid)}")
            check_value(f"{where}.{name}", value, valid[name])
        return cls(**{**declared, **changes})
