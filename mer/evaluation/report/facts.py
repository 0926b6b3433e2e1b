"""What the report says, collected from the files of a finished run. Nothing is computed that a file holds already.

A file that is missing is a gap with a name; a damaged one is refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mer.clips import read_excluded, read_index
from mer.errors import FileError
from mer.evaluation.metrics import KEPT, means
from mer.evaluation.report.captions import Gallery, galleries
from mer.evaluation.report.graph import Graph, graph_of
from mer.evaluation.report.shapes import Evaluated, Tables, Timing
from mer.evaluation.reports import Leaks, read_json
from mer.evaluation.tables import listed
from mer.evaluation.tables import present as results_of_graph
from mer.params import Params
from mer.plan import Plan
from mer.storage.files import damaged
from mer.storage.tables import printable, read_cells
from mer.storage.yaml_files import read_yaml

MARKS = ("baseline", "shuffled", "leaky", "transductive")
FOLDS = {"subject": "", "corpus": ", whole corpora left out", "origin": ", recorded against simulated"}
MOST_MISSING = 12  # files of one kind that are named


@dataclass(frozen=True)
class CorpusFacts:
    """None: not known, because the index is not there."""

    name: str
    classes: int
    parts: list[str]
    clips: int | None
    subjects: int | None


@dataclass(frozen=True)
class Result:
    """The numbers of an experiment. origin: None for the present graph, or the folder of a published copy.

    values, intervals: by metric; None where undefined, with the reason in `undefined`. marks: of baseline, shuffled,
    leaky, transductive those that apply. left_out: what a fold tests: a subject, or all of a corpus or an origin.
    """

    name: str
    origin: str | None
    corpus: str
    model: str
    classes: int
    seeds: int
    n_clips: int
    n_subjects: int
    values: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    undefined: dict[str, str]
    marks: tuple[str, ...]
    left_out: str = "subject"

    @property
    def kind(self) -> str:
        """How its dot looks."""
        return next((mark for mark in ("leaky", "shuffled", "baseline") if mark in self.marks), "run")


@dataclass(frozen=True)
class Comparison:
    """Results that may be compared: of one corpus, as many classes and equal folds, in descending order of UF1.

    chance: UF1 of guessing every class equally often; None where the clips of each class are not known.
    """

    origin: str | None
    corpus: str
    classes: int
    results: list[Result]
    chance: float | None
    left_out: str = "subject"

    @property
    def of(self) -> str:
        """What the numbers are of."""
        return f"{self.corpus}, {self.classes} classes{FOLDS[self.left_out]}"

    @property
    def baseline(self) -> Result | None:
        found = [r for r in self.results if r.kind == "baseline" and r.values["uf1"] is not None]
        return found[0] if found else None


@dataclass(frozen=True)
class Subject:
    name: str
    correct: int
    n: int
    accuracy: float | None


@dataclass(frozen=True)
class Excluded:
    clip: str
    reason: str
    where: str


@dataclass(frozen=True)
class Run:
    """A run of a stage. device: cpu or cuda; None where nobody noted it."""

    stage: str
    key: str
    timing: Mapping[str, Any] | None
    device: str | None


@dataclass(frozen=True)
class Facts:
    preset: str
    corpora: list[CorpusFacts]
    experiments: list[str]
    comparisons: list[Comparison]
    published: list[Comparison]
    details: dict[str, dict]
    metrics: dict[str, dict]
    subjects: dict[str, list[Subject]]
    tables: dict | None
    leaks: dict[str, dict] | None
    galleries: list[Gallery]
    runs: list[Run]
    graph: Graph | None
    excluded: list[Excluded]
    gaps: list[str] = field(default_factory=list)


def collect(root: Path, params: Params, plan: Plan) -> Facts:
    """Read what there is of a run below the folder of a project.

    Args:
        root: the project's folder, with dvc.yaml, metrics/ and data/.
        params, plan: its params.yaml and plan.yaml, as they were read.

    Raises:
        MerError: a file is damaged or has another form; one line that names it.
    """
    gaps: list[str] = []
    details, metrics, subjects = _experiments(root, list(params.experiments), gaps)
    tables = _optional(root / "metrics/tables.json", Tables)
    if tables is None:
        gaps.append("metrics/tables.json is missing: the tables of the papers and the published copies are not shown.")
    leaks = _optional(root / "metrics/leakage.json", Leaks)
    if leaks is None:
        gaps.append("metrics/leakage.json is missing: it is not known which experiments were audited.")
    # Of the present graph from its own files, so that they are shown without metrics/tables.json as well.
    present = _results(map(listed, results_of_graph(root, params)))
    published = _results(row for row in (tables["results"] if tables is not None else ()) if row["from"] is not None)
    if not (root / "dvc.yaml").exists():
        gaps.append("dvc.yaml is missing: the graph of the stages is not drawn.")
        graph = None
    else:
        graph = graph_of(read_yaml(root / "dvc.yaml") or {}, plan)
    keys = {stage: list(entries) for stage, entries in plan.items()}
    keys |= {stage: [""] for stage in (graph.stages if graph is not None else ()) if stage not in plan}
    runs = []
    for stage, of_stage in keys.items():
        for key in of_stage:
            timing = _timing(root, f"{stage}@{key}" if key else stage, gaps)
            noted = timing.get("device") if timing is not None else None
            runs.append(Run(stage, key, timing, noted or _device(stage, key, details)))
    return Facts(
        preset=params.preset, corpora=_corpora(root, params, gaps), experiments=list(params.experiments),
        comparisons=compared(present, details), published=compared(published, {}), details=details, metrics=metrics,
        subjects=subjects, tables=tables, leaks=leaks, galleries=galleries(root / "metrics"), runs=runs, graph=graph,
        excluded=_excluded(root, params, details), gaps=gaps,
    )  # fmt: skip


def compared(results: Iterable[Result], details: Mapping[str, dict]) -> list[Comparison]:
    """The results in groups that may be compared, in the order in which the groups occur."""
    groups: dict[tuple[str | None, str, int, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.origin, result.corpus, result.classes, result.left_out), []).append(result)

    def descending(result: Result) -> tuple[float, str]:
        value = result.values["uf1"]
        return (1.0 if value is None else -value, result.name)

    found = []
    for (origin, corpus, classes, left_out), members in groups.items():
        counts = next((details[r.name]["per_class"] for r in members if r.name in details), None)
        chance = None if counts is None else chance_uf1([row["n"] for row in counts.values()])
        found.append(Comparison(origin, corpus, classes, sorted(members, key=descending), chance, left_out))
    return found


def chance_uf1(counts: list[int]) -> float | None:
    """UF1 of guessing each of K classes equally often, for many clips: the class mean of 2 p q / (p + q), q = 1 / K.

    p is the share of a class; a class is guessed right in p q of all clips, occurs in p and is guessed in q of them.

    Args:
        counts: clips of each class.

    Returns:
        In 0..1; None without clips.
    """
    total, q = sum(counts), 1 / len(counts)
    if not total:
        return None
    return sum(2 * (n / total) * q / (n / total + q) for n in counts) / len(counts)


# ---- experiments ----------------------------------------------------------------------------------------------------


def _optional(path: Path, shape: Any) -> dict | None:
    return read_json(path, shape) if path.exists() else None


def _experiments(
    root: Path, names: list[str], gaps: list[str]
) -> tuple[dict[str, dict], dict[str, dict], dict[str, list[Subject]]]:
    details: dict[str, dict] = {}
    metrics: dict[str, dict] = {}
    subjects: dict[str, list[Subject]] = {}
    without: list[str] = []
    for name in names:
        found = _optional(root / f"metrics/details/{name}.json", Evaluated)
        if found is None:
            without.append(name)
            continue
        details[name] = found
        metrics[name] = {**_scores(found), "parts": {part: _scores(of) for part, of in found["parts"].items()}}
        path = root / f"metrics/plots/{name}/subjects.csv"
        if path.exists():
            subjects[name] = read_subjects(path)
        else:
            gaps.append(f"{name}: metrics/plots/{name}/subjects.csv is missing; run dvc repro evaluate@{name}")
    for name in without[:MOST_MISSING]:
        gaps.append(f"{name}: it has no metrics yet; run dvc repro evaluate@{name}")
    if len(without) > MOST_MISSING:
        gaps.append(f"{len(without) - MOST_MISSING} more experiments have no metrics yet; run dvc repro")
    return details, metrics, subjects


def _scores(of: Mapping[str, Any]) -> dict[str, Any]:
    """uf1, uar and acc of an experiment or a part of it, their intervals, and of how many clips and subjects."""
    return {**means(of["runs"]), "ci95": _intervals(of["ci95"]), **{k: of[k] for k in ("n_clips", "n_subjects")}}


def read_subjects(path: Path) -> list[Subject]:
    """metrics/plots/<experiment>/subjects.csv. Raises MerError where it has another form."""
    heading, *rows = read_cells(path)
    if heading != ["subject", "correct", "n", "accuracy"]:
        raise damaged(path, f"its columns are {', '.join(map(printable, heading))}")
    found = []
    for number, (name, correct, n, accuracy) in enumerate(rows, 2):
        try:
            value = float(accuracy)
            found.append(Subject(name, int(correct), int(n), None if value != value else value))
        except ValueError:
            raise damaged(path, f"line {number} holds no number") from None
        if value == value and not 0 <= value <= 1:
            raise damaged(path, f"line {number} has an accuracy outside of 0..1")
    return found


def _results(rows: Iterable[Mapping[str, Any]]) -> list[Result]:
    """From rows as metrics/tables.json has them under `results`."""
    return [
        Result(
            row["experiment"], row["from"], row["corpus"], row["model"], row["classes"], row["seeds"],
            row["n_clips"], row["n_subjects"], {k: row[k] for k in KEPT}, _intervals(row["ci95"]),
            row["undefined"], tuple(mark for mark in MARKS if row[mark]), row["left_out"],
        )
        for row in rows
    ]  # fmt: skip


def _intervals(ci95: Mapping[str, Any]) -> dict[str, tuple[float, float] | None]:
    return {name: (ci95[name][0], ci95[name][1]) if ci95[name] is not None else None for name in KEPT}


# ---- corpora and stages ---------------------------------------------------------------------------------------------


def _corpora(root: Path, params: Params, gaps: list[str]) -> list[CorpusFacts]:
    found = []
    for name, corpus in params.corpora.items():
        path = root / f"data/index/{name}.csv"
        clips = subjects = None
        if path.exists():
            table = read_index(path)
            clips, subjects = len(table), len(set(zip(table["corpus"], table["subject"], strict=True)))
        else:
            gaps.append(f"data/index/{name}.csv is missing: the clips of {name} are not counted.")
        found.append(CorpusFacts(name, corpus.classes, list(corpus.parts or ()), clips, subjects))
    return found


def _excluded(root: Path, params: Params, details: Mapping[str, dict]) -> list[Excluded]:
    """The clips that an index leaves out, then those that an experiment does; each clip and reason once."""
    found: dict[tuple[str, str], list[str]] = {}
    for corpus in params.corpora:
        path = root / f"data/index/{corpus}.excluded.csv"
        if path.exists():
            for clip, reason in read_excluded(path).items():
                found.setdefault((clip, reason), []).append(f"index of {corpus}")
    for name, of in details.items():
        for clip, reason in (of["protocol"].get("excluded") or {}).items():
            found.setdefault((str(clip), str(reason)), []).append(name)
    return [Excluded(clip, reason, ", ".join(where)) for (clip, reason), where in sorted(found.items())]


def _timing(root: Path, label: str, gaps: list[str]) -> dict | None:
    """Time and memory of a run. They are no output of DVC, so a damaged file is a gap and not refused."""
    path = Path("data/timings") / f"{label}.json"
    try:
        return _optional(root / path, Timing)
    except FileError:
        gaps.append(f"{path.as_posix()} cannot be read: delete it; the next run of {label} writes it anew.")
        return None


def _device(stage: str, key: str, details: Mapping[str, dict]) -> str | None:
    """Of a training, as its details say: predictions may have come from a cache, without a time."""
    return details[key]["environment"].get("device") if stage == "train" and key in details else None


def anchor(text: str) -> str:
    """A name as part of an id of the page: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
