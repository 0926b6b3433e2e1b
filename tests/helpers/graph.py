"""dvc.yaml with the entries of a plan filled in, as DVC does it."""

from pathlib import Path

from ruamel.yaml import YAML

from mer import project

ROOT = Path(__file__).resolve().parent.parent.parent
GRAPH = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


def body(stage: str) -> dict:
    return GRAPH[stage].get("do", GRAPH[stage])


def expanded(stage: str, what: str, key: str = "", entry: dict | None = None) -> list[str]:
    """Entries of a list of a stage (deps, params, outs, metrics, plots) with ${key} and ${item…} filled in."""
    return project.expanded(body(stage), what, key, entry)


def wiring(plan: dict) -> list[str]:
    """`stage@key: data that is read -> files that are written`, of every stage of a plan."""
    lines = []
    for stage in GRAPH:
        for key, entry in plan[stage].items() if "foreach" in GRAPH[stage] else [("", {})]:
            reads = sorted({d for d in expanded(stage, "deps", key, entry) if d.startswith(("data/", "metrics/"))})
            writes = sorted({o for what in project.WRITTEN for o in expanded(stage, what, key, entry)})
            lines.append(f"{stage}{'@' * bool(key)}{key}: {' '.join(reads)} -> {' '.join(writes)}")
    return lines
