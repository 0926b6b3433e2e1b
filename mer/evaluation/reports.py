"""Files of numbers below metrics/."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from mer.errors import MerError
from mer.storage.files import damaged, replace_file, unreadable

if TYPE_CHECKING:
    import pandas as pd


Share = Annotated[float, Field(ge=0, le=1)]


class _Shape(BaseModel):
    """What a reader of a file relies on; a file may hold more."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Scores(_Shape):
    uf1: Share | None
    uar: Share | None
    acc: Share


class Metric(Scores):
    """metrics/<experiment>.json"""

    n_clips: int = Field(ge=1)
    n_subjects: int = Field(ge=1)


class Intervals(_Shape):
    uf1: tuple[Share, Share] | None
    uar: tuple[Share, Share] | None
    acc: tuple[Share, Share] | None


class Protocol(_Shape):
    leaky: bool


class Part(_Shape):
    ci95: Intervals
    n_clips: int = Field(ge=1)
    n_subjects: int = Field(ge=1)
    runs: list[Scores] = Field(min_length=1)
    undefined: dict[str, str]

    @model_validator(mode="after")
    def _reasons(self) -> Self:
        for name in ("uf1", "uar"):
            if name not in self.undefined and any(getattr(run, name) is None for run in self.runs):
                raise ValueError(f"{name} is undefined without a reason")
        return self


class Details(Part):
    """metrics/details/<experiment>.json"""

    parts: dict[str, Part]
    protocol: Protocol
    class_counts: dict[str, int]


class Summary(_Shape):
    """What results/<preset>/details/<experiment>.json of any version has."""

    ci95: Intervals
    protocol: Protocol
    runs: list[Scores] = Field(min_length=1)
    undefined: dict[str, str]
    class_counts: dict[str, int]


class Claim(_Shape):
    honest: Share | None
    leaky: Share | None
    gap: float | None

    @model_validator(mode="after")
    def _defined(self) -> Self:
        if (self.gap is None) != (None in (self.honest, self.leaky)):
            raise ValueError("gap is not that of honest and leaky")
        return self


class Leak(_Shape):
    """Of an experiment, in metrics/leakage.json."""

    uf1: Claim
    uar: Claim


Leaks = dict[str, Leak]


def read_json(path: Path, shape: Any) -> dict:
    """A file of `write_json` that has a shape: Metric, Details, Summary or Leaks.

    Raises MerError where it is missing, FileError where it cannot be read or has another shape.
    """
    try:
        text = Path(path).read_bytes()
        TypeAdapter(shape).validate_json(text)
        return json.loads(text)
    except FileNotFoundError:
        raise MerError(f"{path}: is missing; run dvc repro") from None
    except OSError as error:
        raise unreadable(path, error) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise damaged(path, f"{where}: {first['msg'].lower()}" if where else first["msg"].lower()) from None


def write_json(path: Path, content: dict) -> None:
    """JSON, indented by one space; equal contents are equal bytes."""
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """CSV without row numbers, floats with six digits, NaN where undefined: Vega draws an empty cell as 0."""
    text = table.to_csv(index=False, lineterminator="\n", float_format="%.6g", na_rep="NaN")
    replace_file(path, text.encode())
