"""The charts of the report as SVG.

Places along a chart are in percent, so that it is as wide as its column and its text keeps its size on a phone; places
across are in percent of its height, which the style sheet gives. The colours are those of the style sheet. A chart has
no names of its own: they stand beside it as text of the page. Equal values are equal text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
CELL = 56  # px, side of a cell of a confusion matrix
LETTER = 7.2  # px, about the width of a letter of its labels
SLOT = 22  # px, least width of a bar of `columns`
WIDEST = 64  # px, and largest
TALL = 120  # px, height of its bars


@dataclass(frozen=True)
class Point:
    """A row of a chart of intervals: a value in 0..1, or None with the reason.

    kind: `run`, `baseline`, `shuffled` or `leaky`: how the dot looks. claimed: of a leak, what would have been claimed.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    kind: str = "run"
    claimed: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Level:
    """A line through all rows, at a value in 0..1; kind: `baseline` or `chance`."""

    value: float
    kind: str


def percent(share: float) -> str:
    """A share as a place in SVG: 0.832 is `83.2%`."""
    return f"{100 * share:.4f}".rstrip("0").rstrip(".") + "%"


def _svg(name: str, label: str, parts: Sequence[str], more: str = "") -> Markup:
    return Markup(f'<svg class="{name}" role="img" aria-label="{escape(label)}"{more}>{"".join(parts)}</svg>')


def _grid(parts: list[str]) -> None:
    parts += [f'<line class="tick" x1="{percent(t)}" x2="{percent(t)}" y1="0" y2="100%"/>' for t in TICKS]


def _frame(levels: Sequence[Level]) -> list[str]:
    """The grid and the levels of a chart of rows, and the beginning of what is drawn over them."""
    parts: list[str] = []
    _grid(parts)
    parts += [f'<line class="level {line.kind}" x1="{percent(line.value)}" x2="{percent(line.value)}" y1="0" '
              f'y2="100%"/>' for line in levels]  # fmt: skip
    return [*parts, "<g>"]


def intervals(points: Sequence[Point], levels: Sequence[Level], label: str) -> Markup:
    """A row a point: a dot at its value, a line over its interval; levels are drawn through all rows."""
    parts = _frame(levels)
    for number, point in enumerate(points):
        y = percent((number + 0.5) / len(points))
        if point.interval is not None:
            low, high = map(percent, point.interval)
            parts.append(f'<line class="interval {point.kind}" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>')
        if point.value is None:
            parts.append(f'<text class="gap" x="0" y="{y}" dy="0.35em">undefined: {escape(point.reason)}</text>')
            continue
        x = percent(point.value)
        if point.claimed is not None:
            there = percent(point.claimed)
            parts.append(f'<line class="claim" x1="{x}" x2="{there}" y1="{y}" y2="{y}"/>'
                         f'<circle class="dot claimed" cx="{there}" cy="{y}" r="5"/>')  # fmt: skip
        parts.append(f'<circle class="dot {point.kind}" cx="{x}" cy="{y}" r="5"/>')
    parts.append("</g>")
    return _svg("plot", label, parts)


def bars(values: Sequence[float | None], label: str, levels: Sequence[Level] = ()) -> Markup:
    """A row a value in 0..1: a bar from 0; None is a word instead."""
    parts = _frame(levels)
    for number, value in enumerate(values):
        y = percent((number + 0.5) / len(values))
        if value is None:
            parts.append(f'<text class="gap" x="0" y="{y}" dy="0.35em">undefined</text>')
        else:
            parts.append(f'<line class="bar" x1="0" x2="{percent(value)}" y1="{y}" y2="{y}"/>')
    parts.append("</g>")
    return _svg("plot", label, parts)


def axis() -> Markup:
    """The numbers below a chart of rows."""
    anchors = {TICKS[0]: "start", TICKS[-1]: "end"}
    parts = [
        f'<text x="{percent(t)}" y="13" text-anchor="{anchors.get(t, "middle")}">{t:g}</text>'
        for t in TICKS
    ]  # fmt: skip
    return Markup(f'<svg class="axis" aria-hidden="true">{"".join(parts)}</svg>')


def columns(bars: Sequence[tuple[str, float | None, str]], mean: float, label: str) -> Markup:
    """Upright bars with their names below.

    Args:
        bars: name, value in 0..1 or None, and what a pointer over the bar shows.
        mean: drawn as a line through all.
        label: of the whole.
    """
    below = round(min(max((len(name) for name, _, _ in bars), default=0), 16) * 7) + 18
    parts = [f'<line class="tick" x1="0" x2="100%" y1="{y:g}" y2="{y:g}"/>'
             for y in (4 + TALL * (1 - t) for t in (0, 0.5, 1))]  # fmt: skip
    for number, (name, value, said) in enumerate(bars):
        left, middle = percent((number + 0.18) / len(bars)), percent((number + 0.5) / len(bars))
        if value is not None:
            parts.append(
                f'<rect class="column" x="{left}" width="{percent(0.64 / len(bars))}" y="{4 + TALL * (1 - value):.2f}" '
                f'height="{TALL * value:.2f}"><title>{escape(said)}</title></rect>'
            )
        shown = name if len(name) <= 16 else f"{name[:15]}…"
        parts.append(
            f'<svg x="{middle}" y="{TALL + 10}" overflow="visible"><text transform="rotate(-90)" text-anchor="end" '
            f'dy="0.35em">{escape(shown)}</text></svg>'
        )
    y = 4 + TALL * (1 - mean)
    parts.append(f'<line class="level mean" x1="0" x2="100%" y1="{y:.2f}" y2="{y:.2f}"/>')
    height, least, most = TALL + below, SLOT * len(bars), WIDEST * len(bars)
    return _svg("columns", label, parts, f' style="height: {height}px; min-width: {least}px; max-width: {most}px"')


def scale() -> Markup:
    """The numbers beside `columns`."""
    parts = [f'<text x="20" y="{4 + TALL * (1 - t):g}" dy="0.35em">{t:g}</text>' for t in (0, 0.5, 1)]
    return Markup(f'<svg class="scale" aria-hidden="true" style="height: {TALL + 12}px">{"".join(parts)}</svg>')


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str], label: str) -> Markup:
    """A heat table: rows true, columns predicted; in a cell the count, and its share of the row as colour and text.

    A class without a clip has no shares.
    """
    k = len(names)
    most = 16
    shown = [name if len(name) <= most else f"{name[: most - 1]}…" for name in names]
    left = round(max(len(name) for name in shown) * LETTER) + 34
    top = 46 if max(map(len, shown)) * LETTER <= CELL else round(max(map(len, shown)) * LETTER * 0.72) + 38
    width, height = left + k * CELL + 2, top + k * CELL + 2
    parts = [
        f'<text class="side" x="{left + k * CELL / 2:g}" y="13" text-anchor="middle">predicted</text>',
        f'<text class="side" transform="translate(13 {top + k * CELL / 2:g}) rotate(-90)" text-anchor="middle">true'
        "</text>",
    ]
    for c, name in enumerate(shown):
        x, middle = left + (c + 0.5) * CELL, top + (c + 0.5) * CELL
        place = f'x="{x:g}" y="{top - 10}" text-anchor="middle"'
        if top > 46:
            place = f'transform="translate({x - 6:g} {top - 10}) rotate(-46)" text-anchor="start"'
        parts.append(f"<text {place}>{escape(name)}</text>")
        parts.append(f'<text x="{left - 10}" y="{middle:g}" dy="0.35em" text-anchor="end">{escape(name)}</text>')
    for r, row in enumerate(counts):
        total = sum(row)
        for c, count in enumerate(row):
            x, y = left + c * CELL, top + r * CELL
            share = count / total if total else 0
            said = f"{names[r]} taken for {names[c]}: {count}" + (f" of {total}" if total else "")
            parts.append(
                f'<g class="cell{" right" if r == c else ""}"><title>{escape(said)}</title>'
                f'<rect class="ground" x="{x}" y="{y}" width="{CELL}" height="{CELL}"/>'
                f'<rect class="heat" x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill-opacity="{share:.3f}"/>'
                f'<text class="count" x="{x + CELL / 2:g}" y="{y + 26}">{count}</text>'
                + (f'<text class="share" x="{x + CELL / 2:g}" y="{y + 42}">{100 * share:.0f} %</text>' if total else "")
                + "</g>"
            )
    size = (
        f' viewBox="0 0 {width} {height}" width="{width}" height="{height}" style="min-width: {round(0.76 * width)}px"'
    )
    return _svg("confusion", label, parts, size)


def reliability(series: Sequence[tuple[str, Sequence[tuple[float, float, int]]]], label: str) -> Markup:
    """Accuracy against confidence, with the diagonal on which both are equal.

    Args:
        series: kind (`before` or `after`) and its points: confidence, accuracy and how many predictions, from 1; the
            area of a dot grows with them.
    """
    side, low, top = 200, 48, 6
    most = max((n for _, points in series for *_, n in points), default=1)

    def place(x: float, y: float) -> tuple[str, str]:
        return f"{low + side * x:.2f}", f"{top + side * (1 - y):.2f}"

    parts = []
    for t in (0, 0.5, 1):
        (x, y), far = place(t, t), low + side
        parts.append(f'<line class="tick" x1="{low}" x2="{far}" y1="{y}" y2="{y}"/>'
                     f'<line class="tick" x1="{x}" x2="{x}" y1="{top}" y2="{top + side}"/>'
                     f'<text x="{low - 8}" y="{y}" dy="0.35em" text-anchor="end">{t:g}</text>'
                     f'<text x="{x}" y="{top + side + 18}" text-anchor="middle">{t:g}</text>')  # fmt: skip
    (x1, y1), (x2, y2) = place(0, 0), place(1, 1)
    parts.append(f'<line class="level chance" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
    middle = f"{low + side / 2:g}", f"{top + side / 2:g}"
    parts.append(f'<text class="side" x="{middle[0]}" y="{top + side + 36}" text-anchor="middle">confidence</text>'
                 f'<text class="side" transform="translate(10 {middle[1]}) rotate(-90)" text-anchor="middle">accuracy'
                 "</text>")  # fmt: skip
    for kind, points in series:
        line = " ".join(",".join(place(confidence, accuracy)) for confidence, accuracy, _ in points)
        parts.append(f'<polyline class="curve {kind}" points="{line}"/>')
        for confidence, accuracy, n in points:
            x, y = place(confidence, accuracy)
            said = f"{n} predictions of confidence {confidence:.2f}: {accuracy:.2f} right"
            radius = 2.5 + 4.5 * (n / most) ** 0.5
            parts.append(
                f'<circle class="dot {kind}" cx="{x}" cy="{y}" r="{radius:.2f}"><title>{said}</title></circle>'
            )
    width, height = low + side + 10, top + side + 42
    return _svg("reliability", label, parts, f' viewBox="0 0 {width} {height}" width="{width}" height="{height}"')


def share_bar(share: float) -> Markup:
    """A bar in the cell of a table; its number stands beside it."""
    return Markup(f'<svg class="share-bar" aria-hidden="true"><rect width="{percent(share)}" height="100%"/></svg>')
