"""A finished run as one static page: numbers, tables of papers, pictures, time and memory, and the graph.

    collect (facts.py)  ->  render: page.html.j2, style.css, charts.py, graph.py, pictures.py

The page needs nothing else: its style is inline, its charts are SVG, its pictures are data URIs. A policy in its head
forbids every request and every script. Text of a corpus is escaped. Equal files give equal bytes; time and memory,
which differ between equal runs, stand in one section.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mer.evaluation.report import charts, graph, pictures
from mer.evaluation.report.captions import Figure
from mer.evaluation.report.facts import Comparison, Facts, Result, Subject, anchor, collect
from mer.evaluation.tables import DATASETS
from mer.evaluation.tables import NAMES as METRICS
from mer.evaluation.tables import facts as papers
from mer.params import Params
from mer.plan import Plan
from mer.storage.files import replace_file

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"  # of a value that is not there, and of a difference
PROTOCOLS = {"sde": "single dataset", "cde": "composite dataset"}

__all__ = ["collect", "render", "write"]


def write(root: Path, params: Params, plan: Plan, path: Path) -> None:
    """Write the page of a run. Raises MerError for a damaged file, see `collect`."""
    replace_file(path, render(collect(root, params, plan)).encode())


def render(facts: Facts, budget: int = pictures.BUDGET) -> str:
    """The page as HTML.

    Args:
        facts: of `collect`.
        budget: bytes that all pictures may have together, see `pictures.embed`.

    Raises:
        FileError: a picture cannot be read, or is none.
    """
    paths = [figure.path for figure in _figures(facts)]
    embedded = pictures.embed(paths, budget)
    first = next((f for f in _figures(facts) if f.path in embedded), None)
    gaps = list(facts.gaps)
    if len(embedded) < len(paths):
        left_out = len(paths) - len(embedded)
        gaps.append(f"{left_out} of {len(paths)} pictures are left out, so that the page stays small: see metrics/.")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        number=number, signed=signed, exact=repr, count=count, anchor=anchor, span=span, seconds=seconds
    )
    environment.globals.update(
        charts=charts, metrics=METRICS, datasets=DATASETS, protocols=PROTOCOLS, forest=forest,
        leak_points=leak_points, finding=finding, subject_columns=subject_columns, paper_table=paper_table,
        calibration=calibration, reliability=reliability, stage_times=stage_times, weights=weights, plural=plural,
        papers=papers().papers, first_picture=first,
    )  # fmt: skip
    here = resources.files(__name__)
    page = environment.from_string(here.joinpath("page.html.j2").read_text(encoding="utf-8"))
    style = here.joinpath("style.css").read_text(encoding="utf-8")
    drawn = graph.draw(facts.graph) if facts.graph is not None and facts.graph.stages else None
    return page.render(facts=facts, gaps=gaps, pictures=embedded, graph=drawn, style=Markup(style)) + "\n"


def _figures(facts: Facts) -> list[Figure]:
    return [figure for gallery in facts.galleries for group in gallery.groups.values() for figure in group]


# ---- numbers as text ------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 3) -> str:
    """A metric; a dash where there is none."""
    return DASH if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference, with its sign; 0 has none."""
    if value is None:
        return DASH
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else MINUS}{text}"


def span(interval: Sequence[float] | None, digits: int = 3) -> str:
    """An interval; empty where there is none."""
    return "" if interval is None else f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def count(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def plural(n: int, one: str, many: str | None = None) -> str:
    """`1 clip`, `2 clips`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def seconds(value: float | None) -> str:
    """Time in the unit that fits: 9.6 s, 2 min 05 s, 1 h 02 min."""
    if value is None:
        return DASH
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


# ---- what the template asks for -------------------------------------------------------------------------------------


def forest(group: Comparison) -> Markup:
    """UF1 of a comparison: dots, intervals, the baseline's line and chance."""
    points = [
        charts.Point(r.values["uf1"], r.intervals["uf1"], r.kind, reason=r.undefined.get("uf1", ""))
        for r in group.results
    ]
    levels = [charts.Level(group.chance, "chance")] if group.chance is not None else []
    baseline = group.baseline
    if baseline is not None and baseline.values["uf1"] is not None:
        levels.append(charts.Level(baseline.values["uf1"], "baseline"))
    label = f"UF1 of {plural(len(points), 'experiment')} on {group.of}, with 95 % intervals"
    return charts.intervals(points, levels, f"{label}. The table below has the numbers.")


def finding(group: Comparison) -> str:
    """What a comparison comes to, in one sentence: the highest UF1, and how many runs are above the baseline."""
    real = [r for r in group.results if r.kind in ("run", "baseline")]
    known = [(value, r) for r in real if (value := r.values["uf1"]) is not None]
    if not known:
        return "No experiment has a UF1 here."
    best, top = known[0]
    interval = span(top.intervals["uf1"])
    said = f"{top.name} has the highest UF1, {number(best)}{f' {interval}' if interval else ''}."
    if any(r.kind == "leaky" for r in group.results):
        said += " Leaky ones do not count."
    baseline = group.baseline
    if baseline is None:
        return f"{said} No linear baseline was run on this comparison."
    others = [(value, r) for value, r in known if r.kind == "run"]
    if not others:
        return f"{said} It is the linear baseline, alone." if len(known) == 1 else said
    level = baseline.values["uf1"] or 0.0
    above = sum(value > level for value, _ in others)
    return f"{said} Above the linear baseline: {above} of {plural(len(others), 'other experiment')}."


def leak_points(leaks: dict[str, dict], metric: str) -> Markup:
    """A row an audited experiment: from the honest value to the one that would have been claimed."""
    points = [
        charts.Point(row[metric]["honest"], claimed=row[metric]["leaky"], reason="a class has no clip")
        for row in leaks.values()
    ]
    return charts.intervals(points, [], f"{METRICS[metric]} of {plural(len(points), 'experiment')}: honest, and as it "
                            "would be claimed with the epoch chosen on the test subject")  # fmt: skip


def subject_columns(subjects: Sequence[Subject], result: Result) -> Markup:
    """Accuracy of each subject, in descending order, with the accuracy over all clips as a line."""
    heads = {s.name.rpartition("/")[0] for s in subjects}
    ordered = sorted(subjects, key=lambda s: (-1 if s.accuracy is None else -s.accuracy, s.name))
    shown = [
        (s.name.rpartition("/")[2] if len(heads) == 1 else s.name, s.accuracy,
         f"{s.name}: {s.correct} of {s.n} right")
        for s in ordered
    ]  # fmt: skip
    label = f"Accuracy in 0..1 of {plural(len(shown), 'subject')} of {result.name}, in descending order"
    return charts.columns(shown, result.values["acc"] or 0.0, label)


def calibration(found: dict) -> str:
    """In words: the calibration error of predictions, and what a temperature makes of it."""
    said = f"Error {number(found['before']['error'])}"
    if found["after"] is not None:
        said += f", with a temperature {number(found['after']['error'])} (filled dots)"
    return f"{said}. For new people: temperature {number(found['temperature'], 2)}."


def reliability(found: dict, name: str) -> Markup:
    """Its diagram: without a temperature, and with one."""
    series = [(kind, [(one["confidence"], one["accuracy"], one["n"]) for one in found[kind]["bins"]])
              for kind in ("before", "after") if found[kind] is not None]  # fmt: skip
    return charts.reliability(series, f"Accuracy against confidence of {name}. {calibration(found)}")


def weights(protocol: dict) -> list[tuple[str, str]]:
    """Where the weights of an experiment come from, by the name of their file."""
    return sorted((str(name), str(said)) for name, said in (protocol.get("weights") or {}).items())


def paper_table(table: dict) -> dict[str, Any]:
    """A table of a paper, as it is laid out.

    Returns:
        metrics: those that it prints, and whether any row has ours; run: whether any metric has; groups: [(heading,
        rows)], a heading for each dataset, part, protocol and number of classes; missing: [(what is missing, command,
        names of the rows)]; rows that name an experiment: how many, and how many of them were run.
    """
    rows = table["rows"]
    shown = [name for name in METRICS if any(name in row["scores"] and row["scores"][name]["printed"] is not None
                                             for row in rows)]  # fmt: skip
    groups: dict[str, list[dict]] = {}
    missing: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        groups.setdefault(_heading(row), []).append(row)
        if row["missing"] is not None:
            names = missing.setdefault((row["missing"], row["command"] or ""), [])
            names.append(_row_name(row))
    with_ours = {name for row in rows for name, score in row["scores"].items() if _is_run(score)}
    reproducible = [row for row in rows if row["experiment"] is not None]
    return {
        "metrics": [(name, name in with_ours) for name in shown],
        "run": bool(with_ours),
        "columns": 1 + sum(3 if name in with_ours else 1 for name in shown) + (not with_ours),
        "reproduced": sum(any(map(_is_run, row["scores"].values())) for row in reproducible),
        "reproducible": len(reproducible),
        "groups": list(groups.items()),
        "missing": [(what, command, list(dict.fromkeys(names))) for (what, command), names in missing.items()],
    }


def _is_run(score: dict) -> bool:
    return score["verdict"] not in (None, "not run")


def _heading(row: dict) -> str:
    where = DATASETS.get(row["dataset"], row["dataset"])
    if row["part"] is not None:
        where += ", whole" if row["part"] == "full" else f", part {DATASETS.get(row['part'], row['part'])}"
    return f"{where}; {row['classes']} classes, {PROTOCOLS.get(row['protocol'], row['protocol'])}"


def _row_name(row: dict) -> str:
    return row["method"] if row["variant"] in (None, "full") else f"{row['method']} ({row['variant']})"


def stage_times(facts: Facts) -> list[dict[str, Any]]:
    """Time and memory by stage, in the order of the graph.

    Returns:
        [{stage, runs, timed: how many of them have a time, seconds: of all, longest, peak_mb, worker_mb: largest,
        devices, share: of the time of all stages, 0..1}]; None where no run has a time.
    """
    stages: dict[str, list] = {}
    for run in facts.runs:
        stages.setdefault(run.stage, []).append(run)
    rows: list[dict[str, Any]] = []
    for stage, runs in stages.items():
        timed = [run.timing for run in runs if run.timing is not None]
        rows.append({
            "stage": stage, "runs": runs, "timed": len(timed),
            "seconds": sum(t["seconds"] for t in timed) if timed else None,
            "longest": max((t["seconds"] for t in timed), default=None),
            "peak_mb": max((t["peak_mb"] for t in timed), default=None),
            "worker_mb": max((t["peak_mb_of_a_worker"] for t in timed), default=None),
            "devices": sorted({run.device for run in runs if run.device is not None}),
        })  # fmt: skip
    total = sum(row["seconds"] or 0 for row in rows)
    return [row | {"share": (row["seconds"] or 0) / total if total else 0.0} for row in rows]
