"""Metrics against a knob, over experiments that differ in it: the numbers, their table, and a picture of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mer.evaluation.canvas import blank, heading, save
from mer.evaluation.metrics import KEPT, means

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

DRAWN = ("uf1", "uar")
WHOLE = "FULL"  # what papers call a composite beside its parts
# Of the whole and of its parts: colours that the colour-blind can tell apart (Okabe and Ito 2008), and a marker each.
STYLES = (("#000000", "o"), ("#0072b2", "s"), ("#d55e00", "^"), ("#009e73", "D"), ("#cc79a7", "v"), ("#e69f00", "P"))
WIDE = 100  # how many times the least knob the largest is where the axis becomes logarithmic
NOTES = 3  # undefined values that the picture names


def scores(experiment: str, details: dict) -> dict[str, Any]:
    """What a curve has of an experiment: its metrics, whole and by part, as they stand in its details.

    Args:
        details: of mer.evaluation.metrics.evaluate.

    Returns:
        {experiment, uf1, uar, acc, ci95: {uf1: [low, high], uar, acc}, undefined: {metric: reason}, leaky, parts:
        {corpus: {uf1, uar, acc, undefined}}}; None where undefined.
    """
    return {
        "experiment": experiment,
        **means(details["runs"]),
        "ci95": {name: details["ci95"][name] for name in KEPT},
        "undefined": details["undefined"],
        "leaky": details["protocol"]["leaky"],
        "parts": {c: {**means(p["runs"]), "undefined": p["undefined"]} for c, p in details["parts"].items()},
    }


def table(curve: dict) -> "pd.DataFrame":
    """A row a point: experiment, the knob, and of uf1 and uar the value, its interval, and that of each part."""
    import pandas as pd

    rows = []
    for point in curve["points"]:
        row = {"experiment": point["experiment"], curve["knob"]: point["value"]}
        for name in DRAWN:
            low, high = point["ci95"][name] or (None, None)
            row |= {name: point[name], f"{name}_low": low, f"{name}_high": high}
            row |= {f"{name}_{part}": of_part[name] for part, of_part in point["parts"].items()}
        rows.append(row)
    return pd.DataFrame(rows)


def draw(curve: dict, path: str | Path) -> None:
    """UF1 and UAR against the knob, side by side: a line for the whole, with its interval, and one for each part.

    A value that is undefined is a gap in its line, and named below.

    Args:
        curve: {corpus, model, knob, points: `scores` with `value`, the knob, ascending; baseline: `scores` of an
            experiment that is drawn as a level line, or None}.
        path: the PNG to write.
    """
    points, baseline = curve["points"], curve["baseline"]
    figure = blank(9.0, 4.4)
    for a, name, letter in zip(figure.subplots(1, 2), DRAWN, "ab", strict=True):
        _panel(a, curve, name)
        a.set_title(f"({letter}) {name.upper()}", fontsize=10)
        a.set(xlabel=curve["knob"], ylabel=name.upper())
        a.grid(alpha=0.3)
    leaky = any(scored["leaky"] for scored in (*points, *([baseline] if baseline else [])))
    stamp = "; LEAKY: the epoch was chosen on the test subject" if leaky else ""
    heading(figure, f"{curve['corpus']}: UF1 and UAR of {curve['model']} against {curve['knob']}{stamp}")
    notes = list(_undefined(curve))
    if notes:
        more = [f"and {len(notes) - NOTES} more"] if len(notes) > NOTES else []
        figure.supxlabel("\n".join(["undefined: " + notes[0], *notes[1:NOTES], *more]), fontsize=8)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9, frameon=False)
    save(figure, path)


def _panel(a: "Axes", curve: dict, name: str) -> None:
    """The lines of one metric."""
    points, baseline = curve["points"], curve["baseline"]
    x = np.array([point["value"] for point in points], dtype=float)
    intervals = np.array([point["ci95"][name] or (np.nan, np.nan) for point in points], dtype=float)
    a.fill_between(x, *intervals.T, color=STYLES[0][0], alpha=0.12, linewidth=0, label="95 % over subjects")
    lines = {_whole(curve): [point[name] for point in points]}
    for part in _parts(curve):
        lines[part] = [point["parts"].get(part, {}).get(name) for point in points]
    for (label, values), (colour, marker) in zip(lines.items(), STYLES, strict=False):
        a.plot(x, np.array(values, dtype=float), color=colour, marker=marker, markersize=5, label=label,
               linewidth=2.2 if label == _whole(curve) else 1.3)  # fmt: skip
    if baseline is not None:
        level = np.nan if baseline[name] is None else baseline[name]  # NaN has no line, but a place in the legend
        a.axhline(level, color="#666666", linestyle="--", linewidth=1.3, label=baseline["experiment"])
    if x[0] > 0 and x[-1] >= WIDE * x[0]:
        a.set_xscale("log")


def _whole(curve: dict) -> str:
    return WHOLE if _parts(curve) else curve["corpus"]


def _parts(curve: dict) -> list[str]:
    return sorted({part for point in curve["points"] for part in point["parts"]})


def _undefined(curve: dict) -> Iterator[str]:
    """`UF1 of smic at alpha 0.3 (…)`, for each value of a line that is undefined."""
    for point in curve["points"]:
        for label, of in ((_whole(curve), point), *point["parts"].items()):
            for name in DRAWN:
                if of[name] is None:
                    yield f"{name.upper()} of {label} at {curve['knob']} {point['value']} ({of['undefined'][name]})"
    for name in DRAWN if curve["baseline"] else ():
        if curve["baseline"][name] is None:
            yield f"{name.upper()} of {curve['baseline']['experiment']} ({curve['baseline']['undefined'][name]})"
