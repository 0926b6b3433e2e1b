"""What four papers print of methods and datasets: published.yaml, read and checked.

Metrics and p-values are fractions in 0..1; what a paper does not print is None or absent.
"""

import functools
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mer.errors import FileError, MerError, suggestion
from mer.storage.yaml_files import read_yaml

PATH = Path(__file__).with_name("published.yaml")
REMEDY = "restore it with git checkout, or install mer again"
PARTS = ("full", "casme2", "samm", "smic_hs")  # a composite and what it is made of, in the order of the tables

Share = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """A row of a table, or of the prose. The head of published.yaml says what the fields mean."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    paper: str
    table: str
    dataset: str
    part: str | None = None
    protocol: str
    classes: int = Field(ge=2)
    method: str
    method_id: str
    ours: bool
    experiment: str | None = None
    variant: str | None = None
    metrics: dict[str, Share]
    p_values: dict[str, Share] = {}
    f1_definition: str | None = None
    source: str
    note: str | None = None
    complexity: str | None = None
    hyperparameters: dict[str, float] = {}
    pretrain: str | None = None
    poi: bool | None = None
    dma: bool | None = None
    cost: dict[str, float | str] = {}


def read(path: Path = PATH) -> tuple[Record, ...]:
    """All records of a file. Raises MerError where it is missing, FileError where a record has another form."""
    content = read_yaml(path, missing=REMEDY, otherwise=REMEDY)
    try:
        return tuple(TypeAdapter(list[Record]).validate_python(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise FileError(f"{path}: record {where}: {first['msg'].lower()}; {REMEDY}") from None


_records = functools.cache(read)


def records(paper: str, table: str | None = None) -> list[Record]:
    """The records of a paper, or of one of its tables (`Table 5`), in the order of the file.

    Raises MerError for a paper or table that the file lacks.
    """
    papers = dict.fromkeys(record.paper for record in _records())
    if paper not in papers:
        raise MerError(f"there are no published results of {paper!r}; {suggestion(paper, papers)}")
    found = [record for record in _records() if record.paper == paper]
    if table is None:
        return found
    tables = dict.fromkeys(record.table for record in found)
    if table not in tables:
        raise MerError(f"there are no published results of {table!r} of {paper}; {suggestion(table, tables)}")
    return [record for record in found if record.table == table]


def all_records() -> tuple[Record, ...]:
    """Every record, in the order of the file."""
    return _records()


def printed_tests(paper: str) -> list[Record]:
    """The records with the p-values that a paper prints: of its method against each other one.

    Raises MerError for a paper that prints none.
    """
    tested = dict.fromkeys(record.paper for record in _records() if record.p_values)
    if paper not in tested:
        raise MerError(f"there are no printed p-values of {paper!r}; {suggestion(paper, tested)}")
    return [record for record in records(paper) if record.p_values]


def composite_scores(paper: str) -> dict[str, dict[str, list[float]]]:
    """The scores that the p-values of `printed_tests` are of: on the composite and its parts, without ablations.

    Returns:
        {method_id: {uf1: values in the order of PARTS, uar: …}}; the paper's own method has the paper's name.

    Raises:
        MerError: a paper that prints no p-values, or a value that is absent or differs between two tables.
    """
    methods = [paper, *(record.method_id for record in printed_tests(paper))]
    rows = [r for r in records(paper) if r.dataset == "composite" and r.variant in (None, "full")]
    scores: dict[str, dict[str, list[float]]] = {method: {"uf1": [], "uar": []} for method in methods}
    for method, of_method in scores.items():
        for name, values in of_method.items():
            for part in PARTS:
                found = {r.metrics.get(name) for r in rows if (r.method_id, r.part) == (method, part)}
                value = found.pop() if len(found) == 1 else None
                if value is None:
                    raise MerError(f"{PATH.name}: {paper} has no single {name} of {method} on {part}; {REMEDY}")
                values.append(value)
    return scores
