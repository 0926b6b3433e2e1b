"""The graph of the stages as a picture: which stage reads what another one writes, drawn from top to bottom.

A box is a stage with the number of its runs, an arrow a dependency. An arrow that follows from others (a to b to c, so
a to c) is left out: nearly every stage reads the index.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from markupsafe import Markup, escape

from mer.plan import Plan

BOX = (138, 44)  # px, width and height of a box
GAP = (26, 40)  # px between boxes of a row, and between rows
THIN = 18  # px, what an arrow takes in a row that it passes
MARGIN = 6
SWEEPS = 12  # of ordering the rows and of placing the boxes
TOKEN = re.compile(r"\$\{([^}]+)\}")
STEP = re.compile(r"\.?([A-Za-z_][A-Za-z0-9_-]*)|\[(\d+)\]")

Edge = tuple[str, str]


@dataclass(frozen=True)
class Graph:
    """`stages`: name -> number of runs, in the order of dvc.yaml, those without a run left out; `idle` has those."""

    stages: dict[str, int]
    edges: list[Edge]
    idle: list[str]


def graph_of(dvc: Mapping[str, Any], plan: Plan) -> Graph:
    """The stages of dvc.yaml with their runs in the plan, and the dependencies between them.

    Args:
        dvc: the content of dvc.yaml.
        plan: of mer.plan_file.stages_of.
    """
    made: dict[str, str] = {}
    needs: dict[str, set[str]] = {}
    runs: dict[str, int] = {}
    for stage, spec in (dvc.get("stages") or {}).items():
        entries: Mapping[str, Any] = plan.get(stage, {}) if "foreach" in spec else {"": {}}
        body = spec.get("do", spec)
        runs[stage], needs[stage] = len(entries), set()
        for key, entry in entries.items():
            values = {"key": key, "item": entry, "plan": plan}
            needs[stage].update(_paths(body.get("deps"), values))
            for what in ("outs", "metrics", "plots"):
                made.update(dict.fromkeys(_paths(body.get(what), values), stage))
    holds: dict[str, set[str]] = {}  # a folder -> the stages that write below it
    for path, stage in made.items():
        for parent in PurePosixPath(path).parents:
            holds.setdefault(parent.as_posix(), set()).add(stage)
    edges = {
        (source, stage)
        for stage, paths in needs.items()
        for path in paths
        for source in _makers(path, made, holds)
        if source != stage
    }
    stages = {stage: count for stage, count in runs.items() if count}
    return Graph(stages, _reduced(list(stages), edges), [stage for stage, count in runs.items() if not count])


def _paths(listed: Any, values: Mapping[str, Any]) -> Iterator[str]:
    """The paths of a list of dvc.yaml, templates filled in; one that cannot be filled is left out."""
    for item in listed or ():
        text = next(iter(item)) if isinstance(item, Mapping) else str(item)
        try:
            yield TOKEN.sub(lambda found: str(_value(found.group(1), values)), text)
        except (KeyError, IndexError, TypeError):
            continue


def _value(dotted: str, values: Any) -> Any:
    for name, place in STEP.findall(dotted):
        values = values[int(place)] if place else values[name]
    return values


def _makers(path: str, made: Mapping[str, str], holds: Mapping[str, set[str]]) -> set[str]:
    """The stages that write a path, a folder above it, or files below it."""
    above = (parent.as_posix() for parent in (PurePosixPath(path), *PurePosixPath(path).parents))
    return {made[name] for name in above if name in made} | holds.get(path, set())


def _reduced(stages: list[str], edges: set[Edge]) -> list[Edge]:
    """The edges that do not follow from others. Those against the order of the stages are kept as they are."""
    place = {stage: number for number, stage in enumerate(stages)}
    forward = {(a, b) for a, b in edges if place[a] < place[b]}
    after = {stage: {b for a, b in forward if a == stage} for stage in stages}
    reach: dict[str, set[str]] = {}
    for stage in reversed(stages):
        reach[stage] = set().union(after[stage], *(reach[b] for b in after[stage]))
    kept = {(a, b) for a, b in forward if not any(b in reach[c] for c in after[a] if c != b)}
    return sorted(kept | (edges - forward), key=lambda edge: (place[edge[0]], place[edge[1]]))


# ---- drawing --------------------------------------------------------------------------------------------------------


def draw(graph: Graph) -> Markup:
    """The graph as SVG, in px; it is wider than a phone and scrolls in its own box."""
    rows, chains = _rows(graph)
    _order(rows, chains)
    x, width = _places(rows, chains)
    height = MARGIN * 2 + len(rows) * BOX[1] + (len(rows) - 1) * GAP[1]
    top = {node: MARGIN + number * (BOX[1] + GAP[1]) for number, row in enumerate(rows) for node in row}
    parts = [
        f'<svg class="graph" role="img" aria-labelledby="graph-name" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><title id="graph-name">Stages of the pipeline from top to bottom: '
        f"{len(graph.stages)} boxes, {len(graph.edges)} arrows. The table of time and memory names them too.</title>"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.6 L7.4 4 L0 7.4 Z"/></marker></defs>'
    ]
    parts += [f'<path class="arrow" data-edge="{escape(a)} {escape(b)}" d="{_curve(chain, x, top)}"/>'
              for (a, b), chain in chains.items()]  # fmt: skip
    for stage, count in graph.stages.items():
        left, y = x[stage] - BOX[0] / 2, top[stage]
        parts.append(
            f'<g data-stage="{escape(stage)}"><rect x="{left:g}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="5"/>'
            f'<text x="{x[stage]:g}" y="{y + 19}" class="name">{escape(stage)}</text>'
            f'<text x="{x[stage]:g}" y="{y + 35}" class="small">{count} run{"s" * (count > 1)}</text></g>'
        )
    return Markup("".join([*parts, "</svg>"]))


Node = str  # a stage, or a place that an arrow passes: "a b 3"


def _rows(graph: Graph) -> tuple[list[list[Node]], dict[Edge, list[Node]]]:
    """The nodes of each row; and by edge its chain of nodes, from box to box."""
    place = {stage: number for number, stage in enumerate(graph.stages)}
    level = dict.fromkeys(graph.stages, 0)
    forward = [(a, b) for a, b in graph.edges if place[a] < place[b]]
    for stage in graph.stages:
        level[stage] = max((level[a] + 1 for a, b in forward if b == stage), default=0)
    for stage in reversed(graph.stages):  # what nothing precedes stands right above what reads it
        readers = [level[b] for a, b in forward if a == stage]
        if readers and not any(b == stage for _, b in forward):
            level[stage] = min(readers) - 1
    rows: list[list[Node]] = [[] for _ in range(max(level.values(), default=-1) + 1)]
    for stage in graph.stages:
        rows[level[stage]].append(stage)
    chains = {}
    for a, b in graph.edges:
        step = 1 if level[b] >= level[a] else -1
        passed = [(f"{a} {b} {number}", number) for number in range(level[a] + step, level[b], step)]
        for node, number in passed:
            rows[number].append(node)
        chains[a, b] = [a, *(node for node, _ in passed), b]
    return rows, chains


def _neighbours(chains: Mapping[Edge, list[Node]]) -> dict[Node, list[Node]]:
    found: dict[Node, list[Node]] = {}
    for chain in chains.values():
        for a, b in itertools.pairwise(chain):
            found.setdefault(a, []).append(b)
            found.setdefault(b, []).append(a)
    return found


def _order(rows: list[list[Node]], chains: Mapping[Edge, list[Node]]) -> None:
    """Order each row by the mean place of its neighbours in the row before: few arrows cross."""
    near = _neighbours(chains)
    for sweep in range(SWEEPS):
        numbers = range(1, len(rows)) if sweep % 2 == 0 else range(len(rows) - 2, -1, -1)
        for number in numbers:
            before = rows[number - 1 if sweep % 2 == 0 else number + 1]
            place = {node: i / max(len(before) - 1, 1) for i, node in enumerate(before)}
            own = {node: i / max(len(rows[number]) - 1, 1) for i, node in enumerate(rows[number])}

            def mean(node: Node, place: dict[Node, float] = place, own: dict[Node, float] = own) -> float:
                found = [place[other] for other in near.get(node, ()) if other in place]
                return sum(found) / len(found) if found else own[node]

            rows[number].sort(key=mean)


def _places(rows: list[list[Node]], chains: Mapping[Edge, list[Node]]) -> tuple[dict[Node, float], int]:
    """The middle of each node in px, near the mean of its neighbours, and the width of the picture."""
    near = _neighbours(chains)

    def half(node: Node) -> float:
        return (THIN if " " in node else BOX[0] + GAP[0]) / 2

    x: dict[Node, float] = {}
    for row in rows:
        right = -sum(half(node) for node in row)
        for node in row:
            x[node] = right + half(node)
            right += 2 * half(node)
    for sweep in range(4 * SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = [sum(x[o] for o in near[n]) / len(near[n]) if near.get(n) else x[n] for n in row]
            least, most = list(wanted), list(wanted)
            for i in range(1, len(row)):
                least[i] = max(wanted[i], least[i - 1] + half(row[i - 1]) + half(row[i]))
            for i in range(len(row) - 2, -1, -1):
                most[i] = min(wanted[i], most[i + 1] - half(row[i + 1]) - half(row[i]))
            x.update({node: (a + b) / 2 for node, a, b in zip(row, least, most, strict=True)})
    left = min((x[node] - half(node) for node in x), default=0.0)
    x = {node: round(value - left + MARGIN, 1) for node, value in x.items()}
    return x, round(max((x[node] + half(node) for node in x), default=0.0) + MARGIN)


def _curve(chain: list[Node], x: Mapping[Node, float], top: Mapping[Node, float]) -> str:
    """The path of an arrow: out of a box below, past the boxes of other rows, into a box from above."""
    down = top[chain[-1]] > top[chain[0]]
    leave, arrive = (BOX[1], 0) if down else (0, BOX[1])
    x0, y0 = x[chain[0]], top[chain[0]] + leave
    path = f"M{x0:g} {y0:g}"
    for node in chain[1:]:
        y1 = top[node] + arrive
        bend = (y1 - y0) / 2
        path += f" C{x0:g} {y0 + bend:g} {x[node]:g} {y1 - bend:g} {x[node]:g} {y1:g}"
        x0, y0 = x[node], y1
        if node != chain[-1]:
            y0 = top[node] + leave
            path += f" L{x0:g} {y0:g}"
    return path
