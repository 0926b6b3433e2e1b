"""The papers' tables: what is printed, beside what is computed here.

    published.yaml   a printed row names the experiment that reproduces it
    metrics/         what the present graph has of it; else results/<preset>/, a published copy
    verdict          whether the printed score lies in the 95 % interval over subjects of ours

`verdicts` is the whole comparison; `written` has it as Markdown, LaTeX and CSV.
"""

import csv
import functools
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mer.errors import FileError
from mer.evaluation.metrics import KEPT, means
from mer.evaluation.published import Record, all_records
from mer.evaluation.reports import Details, Metric, Summary, read_json
from mer.params import Params
from mer.storage.yaml_files import read_yaml

PATH = Path(__file__).with_name("papers.yaml")
REMEDY = "restore it with git checkout, or install mer again"
DATASETS = {"casme2": "CASME II", "samm": "SAMM", "smic_hs": "SMIC-HS", "composite": "composite", "casme3": "CAS(ME)3"}
PART_OF = {"casme2": "casme2", "samm": "samm", "smic_hs": "smic"}  # a part in published.yaml and its corpus here
NEEDS = {
    "casme2": "CASME II in data/raw/casme2", "samm": "SAMM in data/raw/samm", "smic": "SMIC-HS in data/raw/smic",
    "casme3": "CAS(ME)3 part A in data/raw/casme3", "megc2019": "the flow release in data/raw/megc2019_flow",
    "composite": "CASME II, SAMM and SMIC-HS in data/raw",
}  # fmt: skip
NAMES = {"uf1": "UF1", "uar": "UAR", "acc": "accuracy"}
WITHIN, BELOW, ABOVE = "within interval", "below", "above"
NOT_RUN, UNDEFINED, NO_INTERVAL = "not run", "undefined", "no interval"


# ---- what there is -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """uf1, uar and acc of some clips, with what their intervals and reasons are."""

    scores: Mapping[str, float | None]
    ci95: Mapping[str, Sequence[float] | None]
    n_clips: int
    undefined: Mapping[str, str]


@dataclass(frozen=True)
class Result:
    """An experiment that has metrics. source: None for the present graph, else the folder of the published copy."""

    experiment: str
    source: str | None
    preset: str
    corpus: str
    model: str
    classes: int
    seeds: int
    n_subjects: int
    whole: Scored
    parts: Mapping[str, Scored] = field(default_factory=dict)
    leaky: bool = False
    shuffled: bool = False
    transductive: bool = False
    left_out: str = "subject"  # corpus or origin: its numbers are no cell of a table


def results(root: Path, params: Params) -> list[Result]:
    """Experiments of the present graph that have metrics, in its order, then those published under results/.

    A published copy of the present preset is left out. So is an experiment without metrics.

    Raises MerError, FileError for a file that is damaged, and a published folder without its params.yaml.
    """
    found = present(root, params)
    for folder in sorted(path.parent for path in (root / "results").glob("*/params.yaml")):
        if folder.name == params.preset:
            continue
        content = read_yaml(folder / "params.yaml")
        experiments = content.get("experiments") or {}
        for path in sorted(folder.glob("*.json")):
            if path.stem not in experiments:  # leakage.json
                continue
            what = {key: experiments[path.stem][key] for key in ("corpus", "model")}
            found.append(_result(path.stem, folder, folder.relative_to(root).as_posix(), folder.name, what))
    return found


def present(root: Path, params: Params) -> list[Result]:
    """Those of the present graph alone."""
    return [
        _result(name, root / "metrics", None, params.preset, {"corpus": one.corpus, "model": one.model})
        for name, one in params.experiments.items()
        if (root / "metrics/details" / f"{name}.json").exists()
    ]


def _result(name: str, folder: Path, source: str | None, preset: str, what: dict[str, str]) -> Result:
    details = read_json(folder / "details" / f"{name}.json", Details if source is None else Summary)
    protocol = details["protocol"]
    if "n_subjects" in details:
        scores, n_clips, n_subjects = means(details["runs"]), details["n_clips"], details["n_subjects"]
        parts = {
            part: Scored(means(of["runs"]), of["ci95"], of["n_clips"], of["undefined"])
            for part, of in details["parts"].items()
        }
    else:  # published by a version before 2026-11-27: details have neither sizes nor intervals of parts
        metric = read_json(folder / f"{name}.json", Metric)
        scores, n_clips, n_subjects = {k: metric[k] for k in KEPT}, metric["n_clips"], metric["n_subjects"]
        parts = {
            part: Scored(of, {}, details["parts"][part]["n_clips"], details["parts"][part]["undefined"])
            for part, of in metric["parts"].items()
        }
    return Result(
        experiment=name, source=source, preset=preset, **what, classes=len(details["class_counts"]),
        seeds=len(details["runs"]), n_subjects=n_subjects,
        whole=Scored(scores, details["ci95"], n_clips, details["undefined"]), parts=parts, leaky=protocol["leaky"],
        shuffled=bool(protocol.get("shuffled")), transductive=bool(protocol.get("transductive")),
        left_out=protocol.get("leave_out", "subject"),
    )  # fmt: skip


# ---- notes ---------------------------------------------------------------------------------------------------------


class Mismatch(BaseModel):
    """Why a printed row and ours are not of the same quantity or clips; a list that is None means all."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: str
    text: str
    papers: list[str] | None = None
    tables: list[str] | None = None
    datasets: list[str] | None = None
    methods: list[str] | None = None
    metrics: list[str] | None = None

    def concerns(self, record: Record) -> bool:
        asked = (
            (self.papers, record.paper), (self.tables, record.table), (self.datasets, record.dataset),
            (self.methods, record.method_id),
        )  # fmt: skip
        return all(names is None or value in names for names, value in asked) and (
            self.metrics is None or bool(set(self.metrics) & set(record.metrics))
        )


class Paper(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str
    pretrained_on: str | None = None


class Papers(BaseModel):
    """papers.yaml"""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    papers: dict[str, Paper]
    mismatches: list[Mismatch]


def read_papers(path: Path = PATH) -> Papers:
    """The content of papers.yaml. Raises MerError where it is missing, FileError where it has another form."""
    content = read_yaml(path, missing=REMEDY, otherwise=REMEDY)
    try:
        return Papers.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise FileError(f"{path}: {where}: {first['msg'].lower()}; {REMEDY}") from None


facts = functools.cache(read_papers)


# ---- printed against ours ------------------------------------------------------------------------------------------


def verdict(printed: float, ours: float | None, interval: Sequence[float] | None) -> str:
    """Of the printed score and ours: `within interval` where the printed one lies in ours, else `below` or `above`,
    which say where ours lies; `undefined` without our score, `no interval` without its interval.
    """
    if ours is None:
        return UNDEFINED
    if interval is None:
        return NO_INTERVAL
    low, high = interval
    return WITHIN if low <= printed <= high else BELOW if printed > high else ABOVE


def verdicts(found: Iterable[Result], preset: str) -> dict[str, Any]:
    """All printed tables and what is computed here, the content of metrics/tables.json.

    A row that several results have takes that of the present graph, then the one with most seeds. Results that were
    chosen on the test subject, or whose labels were exchanged, stand in no row.

    Returns:
        {preset, results: a list of experiments with their metrics, tables: [{paper, table, file, rows}], notes: {id:
        text}}. A row has the printed values of a method on some clips; where an experiment reproduces it, also ours,
        the 95 % interval over subjects, ours less printed, and a verdict; where none has run, what is missing and the
        one line that would.
    """
    found = list(found)
    best: dict[str, Result] = {}
    for result in found:
        if result.leaky or result.shuffled or result.left_out != "subject":
            continue
        other = best.get(result.experiment)
        if other is None or (other.source is not None and result.seeds > other.seeds):
            best[result.experiment] = result
    tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
    used = []
    for record in all_records():
        if record.metrics:
            row = _row(record, best)
            used += row["notes"]
            tables.setdefault((record.paper, record.table), []).append(row)
    texts = {entry.id: entry.text for entry in facts().mismatches}
    return {
        "preset": preset,
        "results": [listed(result) for result in found],
        "tables": [
            {"paper": paper, "table": table, "file": file_name(paper, table), "rows": rows}
            for (paper, table), rows in tables.items()
        ],
        "notes": {name: texts[name] for name in texts if name in used},
    }


def file_name(paper: str, table: str) -> str:
    """`uamrn_table_2`"""
    return re.sub(r"[^a-z0-9]+", "_", f"{paper} {table}".lower()).strip("_")


def _row(record: Record, best: Mapping[str, Result]) -> dict[str, Any]:
    result = best.get(record.experiment or "")
    scored = None if result is None else _scored(record, result)
    comes = scored is not None and result is not None
    scores = {}
    for name in (name for name in KEPT if name in record.metrics):
        printed = record.metrics[name]
        entry: dict[str, Any] = {"printed": printed, "ours": None, "ci95": None, "difference": None, "verdict": None}
        if scored is not None:
            ours, interval = scored.scores[name], scored.ci95.get(name)
            entry |= {
                "ours": ours, "ci95": None if interval is None else list(interval),
                "difference": None if ours is None else ours - printed, "verdict": verdict(printed, ours, interval),
            }  # fmt: skip
        elif record.experiment is not None:
            entry["verdict"] = NOT_RUN
        scores[name] = entry
    missing, command = (None, None) if comes or record.experiment is None else how_to_run(record)
    return {
        **{name: getattr(record, name) for name in ("method", "ours", "variant", "dataset", "part", "protocol",
                                                    "classes", "experiment")},
        "from": result.source if comes and result is not None else None,
        "seeds": result.seeds if comes and result is not None else None,
        "n_clips": scored.n_clips if scored is not None else None,
        "missing": missing,
        "command": command,
        "notes": [entry.id for entry in facts().mismatches if entry.concerns(record)],
        "remark": record.note,
        "scores": scores,
    }  # fmt: skip


def _scored(record: Record, result: Result) -> Scored | None:
    """Ours on the clips of a row; None where the result has no such part."""
    if record.part in (None, "full"):
        return result.whole
    part = PART_OF[str(record.part)]
    named = {name.split("-")[0]: scored for name, scored in result.parts.items()}
    return named.get(part) or named.get(str(record.part))


def how_to_run(record: Record) -> tuple[str, str]:
    """What a row needs that is not in this repository, and the one line that runs it."""
    experiment = str(record.experiment)
    corpus = experiment.split("-")[0]
    if corpus == "megc2019":
        return NEEDS[corpus], "make preset P=megc2019_flow && make repro"
    preset = f"{record.paper}_alpha" if re.search(r"-a\d+$", experiment) else record.paper
    needs = [NEEDS[corpus], facts().papers[record.paper].pretrained_on]
    return " and ".join(
        dict.fromkeys(need for need in needs if need is not None)
    ), f"make preset P={preset} C={corpus} && make repro"


def overview(found: Iterable[Result]) -> list[dict[str, Any]]:
    """One row an experiment of the present graph: experiment, uf1, low, high, uar, acc, clips, subjects, seeds."""
    rows = []
    for result in found:
        if result.source is None:
            low, high = result.whole.ci95["uf1"] or (None, None)
            scores = result.whole.scores
            rows.append({
                "experiment": result.experiment, "uf1": scores["uf1"], "low": low, "high": high, "uar": scores["uar"],
                "acc": scores["acc"], "clips": result.whole.n_clips, "subjects": result.n_subjects,
                "seeds": result.seeds,
            })  # fmt: skip
    return rows


def listed(result: Result) -> dict[str, Any]:
    """An experiment as one of `results` in metrics/tables.json."""
    whole = asdict(result.whole)
    return {
        "experiment": result.experiment, "from": result.source, "preset": result.preset, "corpus": result.corpus,
        "model": result.model, "classes": result.classes, "baseline": result.model == "linear", "seeds": result.seeds,
        "n_clips": whole["n_clips"], "n_subjects": result.n_subjects, **whole["scores"],
        "ci95": {name: whole["ci95"][name] for name in KEPT}, "leaky": result.leaky, "shuffled": result.shuffled,
        "transductive": result.transductive, "left_out": result.left_out, "undefined": whole["undefined"],
    }  # fmt: skip


# ---- Markdown, LaTeX, CSV ------------------------------------------------------------------------------------------


def written(content: Mapping[str, Any]) -> dict[str, str]:
    """{file name: text} of every table: Markdown, LaTeX (booktabs) and one long CSV of all."""
    files = {}
    for table in content["tables"]:
        files[f"{table['file']}.md"] = markdown(table, content["notes"])
        files[f"{table['file']}.tex"] = latex(table)
    files["tables.csv"] = long_csv(content["tables"])
    return files


def columns(table: Mapping[str, Any]) -> list[str]:
    """The metrics that a table prints."""
    return [name for name in KEPT if any(name in row["scores"] for row in table["rows"])]


def clips_of(row: Mapping[str, Any]) -> str:
    """`CASME II, 5 classes` or `composite: SAMM`."""
    part = row["part"]
    if part in (None, "full"):
        return f"{DATASETS[row['dataset']]}, {row['classes']} classes"
    return f"{DATASETS[row['dataset']]}: {DATASETS[part]}"


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, str, str]]:
    """For each metric the printed score, ours with its interval, and the difference with the verdict."""
    cells = []
    for name in names:
        score = row["scores"].get(name)
        if score is None:
            cells.append(("", "", ""))
            continue
        ours, interval = score["ours"], score["ci95"]
        between = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
        gap = "" if ours is None else f"{score['difference']:+.4f}, "
        cells.append((f"{score['printed']:.4f}", "" if ours is None else f"{ours:.4f}{between}",
                      f"{gap}{score['verdict'] or ''}"))  # fmt: skip
    return cells


def markdown(table: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    """A table in GitHub's Markdown, what is missing to run its rows, and its notes."""
    names = columns(table)
    heads = ["method", "clips", *(text for n in names for text in (NAMES[n], "ours", "ours less printed"))]
    rows = [heads, ["---"] * len(heads)]
    rows += [[_bold(row), clips_of(row), *(c for cells in _cells(row, names) for c in cells)] for row in table["rows"]]
    lines = [f"# {facts().papers[table['paper']].name}, {table['table']}", ""]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines += [*_missing(table), *(f"\n*{name}*: {notes[name]}" for name in _notes(table))]
    return "\n".join(lines) + "\n"


def _bold(row: Mapping[str, Any]) -> str:
    return f"**{row['method']}**" if row["ours"] else row["method"]


def _missing(table: Mapping[str, Any]) -> list[str]:
    ways = dict.fromkeys((row["missing"], row["command"]) for row in table["rows"] if row["command"])
    return [f"\nNot run: needs {missing}. `{command}`" for missing, command in ways]


def _notes(table: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for row in table["rows"] for name in row["notes"]))


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "μ": r"$\mu$",
}  # fmt: skip


def tex(text: str) -> str:
    """Text in which no character is a command of LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(table: Mapping[str, Any]) -> str:
    """A tabular with the rules of booktabs: method, clips, and of each metric what is printed, ours and the verdict."""
    names = columns(table)
    heads = ["method", "clips", *(text for n in names for text in (NAMES[n], "ours", "ours less printed"))]
    lines = [r"\begin{tabular}{ll" + "rrl" * len(names) + "}", r"\toprule", _tex_row(heads), r"\midrule"]
    for row in table["rows"]:
        lines.append(_tex_row([row["method"], clips_of(row), *(c for cells in _cells(row, names) for c in cells)]))
    return "\n".join(
        [f"% {facts().papers[table['paper']].name}, {table['table']}", *lines, r"\bottomrule", r"\end{tabular}", ""]
    )


def _tex_row(cells: Sequence[str]) -> str:
    return " & ".join(tex(cell) for cell in cells) + r" \\"


def long_csv(tables: Sequence[Mapping[str, Any]]) -> str:
    """One line a row and metric of all tables; empty where there is nothing."""
    heads = ["paper", "table", "method", "own_method", "dataset", "part", "classes", "metric", "printed", "ours", "low",
             "high", "seeds", "difference", "verdict", "experiment", "from", "missing", "command"]  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for table in tables:
        for row in table["rows"]:
            for name, score in row["scores"].items():
                low, high = score["ci95"] or (None, None)
                writer.writerow([
                    table["paper"], table["table"], row["method"], row["ours"], row["dataset"], row["part"],
                    row["classes"], name, *(_plain(v) for v in (score["printed"], score["ours"], low, high)),
                    row["seeds"], _plain(score["difference"]), score["verdict"], row["experiment"], row["from"],
                    row["missing"], row["command"],
                ])  # fmt: skip
    return text.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
