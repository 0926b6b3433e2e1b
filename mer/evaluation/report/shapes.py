"""What the report relies on in the files that it reads; a file may hold more."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mer.evaluation.reports import Details, Intervals, Share


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class OfClass(_Shape):
    """Of a class, in `per_class` of the details."""

    f1: Share | None
    recall: Share | None
    precision: Share | None
    n: int = Field(ge=0)
    predicted: int = Field(ge=0)


class Bin(_Shape):
    """Predictions of about the same certainty."""

    confidence: Share
    accuracy: Share
    n: int = Field(ge=1)


class Reliability(_Shape):
    error: Share
    bins: list[Bin] = Field(min_length=1)


class Calibration(_Shape):
    """Of mer.evaluation.calibration."""

    temperature: float = Field(gt=0)
    before: Reliability
    after: Reliability | None


class Evaluated(Details):
    """metrics/details/<experiment>.json, with what is drawn of it."""

    per_class: dict[str, OfClass] = Field(min_length=1)
    confusion: list[list[int]]
    environment: dict[str, str]
    calibration: Calibration | None = None  # of versions before 2026-11-28 there is none

    @model_validator(mode="after")
    def _square(self) -> "Evaluated":
        k = len(self.per_class)
        if len(self.confusion) != k or any(len(row) != k for row in self.confusion):
            raise ValueError(f"confusion has not {k} rows and columns, one a class")
        if any(count < 0 for row in self.confusion for count in row):
            raise ValueError("confusion has a count below 0")
        return self


class TableResult(_Shape):
    """One of `results` in metrics/tables.json: an experiment of the present graph, or a published copy."""

    experiment: str
    origin: str | None = Field(alias="from")
    preset: str
    corpus: str
    model: str
    classes: int = Field(ge=2)
    baseline: bool
    seeds: int = Field(ge=1)
    n_clips: int = Field(ge=1)
    n_subjects: int = Field(ge=1)
    uf1: Share | None
    uar: Share | None
    acc: Share | None
    ci95: Intervals
    leaky: bool
    shuffled: bool
    transductive: bool
    left_out: Literal["subject", "corpus", "origin"]
    undefined: dict[str, str]


class Score(_Shape):
    """A metric as a paper prints it, beside ours."""

    printed: Share | None
    ours: Share | None
    ci95: tuple[Share, Share] | None
    difference: float | None
    verdict: str | None


class Row(_Shape):
    """A row of a table of a paper."""

    method: str
    ours: bool
    variant: str | None
    dataset: str
    part: str | None
    protocol: str
    classes: int = Field(ge=2)
    experiment: str | None
    origin: str | None = Field(alias="from")
    seeds: int | None
    n_clips: int | None
    missing: str | None
    command: str | None
    notes: list[str]
    remark: str | None
    scores: dict[Literal["uf1", "uar", "acc"], Score]


class Table(_Shape):
    """A table of a paper."""

    paper: str
    table: str
    rows: list[Row]


class Tables(_Shape):
    """metrics/tables.json"""

    preset: str
    results: list[TableResult]
    tables: list[Table]
    notes: dict[str, str]

    @model_validator(mode="after")
    def _notes_are_there(self) -> "Tables":
        for table in self.tables:
            for row in table.rows:
                for name in row.notes:
                    if name not in self.notes:
                        raise ValueError(f"{table.paper}, {table.table}: note {name!r} is not among notes")
        return self


class Timing(_Shape):
    """data/timings/<stage>@<key>.json"""

    seconds: float = Field(ge=0)
    peak_mb: int = Field(ge=0)
    peak_mb_of_a_worker: int = Field(ge=0)
    device: str | None = None
