"""What differs in metrics and tables between a commit and the working tree, and what caused it.

    python -m tools.revisions HEAD~1

Metrics are those of git (metrics/*.json). Causes are those that dvc.lock has of the stages upstream of an experiment:
parameters, files of code, and what came from outside. Rows of the papers' tables are compared where DVC's cache has
metrics/tables.json of that commit.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mer.errors import MerError, listed
from mer.evaluation.metrics import KEPT
from mer.evaluation.reports import Metric, read_json
from mer.storage.files import damaged, unreadable
from tools._dvc import LOCK, stages_of_lock
from tools._errors import one_line

TABLES = "metrics/tables.json"
Stages = Mapping[str, Mapping[str, Any]]


def changes(rev: str, root: Path = Path()) -> list[str]:
    """A line for each experiment whose metrics differ, then its causes; then rows of tables that differ.

    Raises MerError for a revision that git does not know, or a dvc.lock that is missing or damaged.
    """
    commit = _git(root, "rev-parse", "--short", "--verify", f"{rev}^{{commit}}", unknown=rev).strip()
    before, now = _metrics_at(root, commit), _metrics(root)
    then = stages_of_lock(_git(root, "show", f"{commit}:{LOCK}", unknown=f"{rev}:{LOCK}"), f"{LOCK} of {rev}")
    lock = root / LOCK
    try:
        today = stages_of_lock(lock.read_text(encoding="utf-8"), str(lock))
    except OSError as error:
        raise unreadable(lock, error) from None
    lines = []
    for name in dict.fromkeys([*before, *now]):
        if before.get(name) == now.get(name):
            continue
        lines.append(_scores(name, before.get(name), now.get(name)))
        if name in before and name in now:
            lines += [f"    {cause}" for cause in causes(name, then, today)] or ["    no cause in dvc.lock"]
    same = sum(before.get(name) == values for name, values in now.items())
    lines = [f"since {commit}: {len(now) - same} of {len(now)} experiments have other metrics", *lines]
    return [*lines, *_rows_that_differ(root, commit)]


def causes(experiment: str, then: Stages, now: Stages) -> list[str]:
    """What differs in the stages upstream of an experiment: parameters, code, and files that no stage made."""
    sections: list[dict[str, dict[str, Any]]] = []
    files: list[dict[str, str]] = []
    for stages in (then, now):
        made = {out["path"] for stage in stages.values() for out in stage.get("outs", ())}
        above = [stages[name] for name in _upstream(f"evaluate@{experiment}", stages)]
        values = [v for stage in above for v in stage.get("params", {}).values()]
        sections.append({section: _flat(section, value) for of in values for section, value in of.items()})
        files.append({d["path"]: d["md5"] for stage in above for d in stage.get("deps", ()) if d["path"] not in made})
    found = []
    for section in dict.fromkeys([*sections[0], *sections[1]]):
        before, after = (side.get(section) for side in sections)
        if before is None or after is None:
            found.append(f"{section} {'is new' if before is None else 'is no longer read'}")
            continue
        changed = [key for key in dict.fromkeys([*before, *after]) if before.get(key, ...) != after.get(key, ...)]
        found += [f"{key}: {_shown(before, key)} -> {_shown(after, key)}" for key in changed]
    for path in sorted({*files[0], *files[1]}):
        if files[0].get(path) != files[1].get(path):
            what = "is new" if path not in files[0] else "is no longer read" if path not in files[1] else "changed"
            found.append(f"{path} {what}")
    return found


def _upstream(last: str, stages: Stages) -> list[str]:
    """The stage and all that it depends on."""
    maker = {out["path"]: name for name, stage in stages.items() for out in stage.get("outs", ())}
    names: dict[str, None] = {}
    waiting = [last] if last in stages else []
    while waiting:
        name = waiting.pop()
        if name not in names:
            names[name] = None
            waiting += [maker[d["path"]] for d in stages[name].get("deps", ()) if d["path"] in maker]
    return list(names)


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in _flat(f"{prefix}.{key}", inner).items()}
    return {prefix: value}


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "(not there)"


def _scores(name: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    if before is None or now is None:
        return f"{name}: {'only now' if before is None else 'only then'}"
    cells = [f"{k.upper()} {_number(before[k])} -> {_number(now[k])}" for k in KEPT if before[k] != now[k]]
    if before["n_clips"] != now["n_clips"]:
        cells.append(f"clips {before['n_clips']} -> {now['n_clips']}")
    return f"{name}: {', '.join(cells) or 'parts alone'}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _metrics(root: Path) -> dict[str, dict]:
    paths = sorted(path for path in (root / "metrics").glob("*.json") if path.stem not in ("leakage", "tables"))
    return {path.stem: read_json(path, Metric) for path in paths}


def _metrics_at(root: Path, commit: str) -> dict[str, dict]:
    """Of a commit; a file of another form, from another version, is refused as any damaged one."""
    found = {}
    for name in _git(root, "ls-tree", "--name-only", commit, "metrics/").split():
        if name.endswith(".json") and name not in ("metrics/leakage.json", TABLES):
            text = _git(root, "show", f"{commit}:{name}")
            try:
                found[Path(name).stem] = Metric.model_validate_json(text).model_dump() | json.loads(text)
            except ValueError:
                raise MerError(f"{name} of {commit}: is no metric of mer; name a commit that has one") from None
    return found


def _rows_that_differ(root: Path, commit: str) -> list[str]:
    import dvc.api
    from dvc.exceptions import DvcException

    path = root / TABLES
    if not path.exists():
        return [f"tables: {TABLES} is not here; run dvc repro"]
    try:
        before = json.loads(dvc.api.read(TABLES, repo=str(root), rev=commit, mode="r"))
    except (DvcException, OSError, ValueError):
        return [f"tables: DVC's cache has no {TABLES} of {commit}, so their rows are not compared"]
    try:
        today = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise damaged(path, "it is no JSON") from None
    lines = []
    rows = [_rows(content) for content in (before, today)]
    for key, now in rows[1].items():
        was = rows[0].get(key)
        if was is not None and was != now:
            lines.append(f"{', '.join(key)}: {was} -> {now}")
    return [f"tables: rows that differ: {len(lines)}" if lines else "tables: no row differs", *lines]


def _rows(content: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """(table, method, clips, metric) -> ours and the verdict."""
    rows = {}
    for table in content["tables"]:
        for row in table["rows"]:
            for name, score in row["scores"].items():
                if score["verdict"] is not None:
                    clips = f"{row['dataset']} {row['part'] or ''} {row['classes']} classes".replace("  ", " ")
                    ours = "" if score["ours"] is None else f"{score['ours']:.4f}, "
                    key = f"{table['paper']} {table['table']}", row["method"], clips, name
                    rows[key] = f"{ours}{score['verdict']}"
    return rows


def _git(root: Path, *arguments: str, unknown: str = "") -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        if unknown:
            raise MerError(f"git does not know {unknown!r}; name a commit, a branch or a tag: make compare REV=HEAD~1")
        raise MerError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def main(arguments: Iterable[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    with one_line("compare"):
        if len(given) != 1 or not given[0]:
            raise MerError(f"one revision is needed, got {listed(given) or 'none'}: make compare REV=HEAD~1")
        print("\n".join(changes(given[0])))


if __name__ == "__main__":
    main()
