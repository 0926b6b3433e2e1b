"""What every picture is drawn on: a grid, its heading and legend, the colours of flow, and a file without a date."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mer.storage.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def flow_colours(flow: np.ndarray, largest: float | None = None) -> np.ndarray:
    """Flow as the usual colour wheel: hue is direction, saturation is magnitude.

    Args:
        flow: (2, H, W) pixels.
        largest: magnitude of full saturation; default the 99th percentile of this flow.

    Returns:
        (H, W, 3) uint8 RGB; white where nothing moves, red to the right, hue growing clockwise.
    """
    import cv2

    u, v = np.asarray(flow, dtype=np.float32)
    magnitude = np.hypot(u, v)
    if largest is None:
        largest = float(np.quantile(magnitude, 0.99))
    angle = np.rad2deg(np.arctan2(v, u)) % 360
    saturation = np.clip(magnitude / largest, 0, 1) if largest > 0 else np.zeros_like(magnitude)
    hsv = np.stack([angle, saturation, np.ones_like(angle)], axis=-1).astype(np.float32)
    return np.round(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)


def colour_wheel(size: int = 96) -> np.ndarray:
    """The legend of flow_colours: (size, size, 3) uint8, an arrow from the centre has the colour of its place."""
    axis = np.linspace(-1, 1, size)
    u, v = np.meshgrid(axis, axis)
    wheel = flow_colours(np.stack([u, v]), largest=1.0)
    wheel[np.hypot(u, v) > 1] = 255
    return wheel


def blank(width: float, height: float, band: float = 0.5, h_pad: float | None = None) -> "Figure":
    """An empty figure, sizes in inches, with a band on top for title and legend. Agg: no display is needed.

    h_pad: inches above and below each picture; None: matplotlib's own.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(h_pad=h_pad, rect=(0, 0, 1, 1 - band / height))
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


@contextlib.contextmanager
def grid(rows: int, columns: int) -> Iterator[tuple["Figure", np.ndarray]]:
    """(figure, axes (rows, columns)): a grid of pictures without ticks."""
    figure = blank(1.7 * columns + 0.5, 1.75 * rows + 0.6)
    axes = figure.subplots(rows, columns, squeeze=False)
    for a in axes.flat:
        a.set_xticks([])
        a.set_yticks([])
    yield figure, axes


def heading(figure: "Figure", title: str) -> None:
    """The title, in the band on top."""
    figure.text(0.02, 1 - 0.3 / figure.get_size_inches()[1], title, fontsize=11)


def legend(figure: "Figure") -> None:
    """The colour wheel, at the right end of the band."""
    width, height = figure.get_size_inches()
    a = figure.add_axes((1 - 0.55 / width, 1 - 0.5 / height, 0.5 / width, 0.45 / height))
    a.imshow(colour_wheel())
    a.axis("off")


def save(figure: "Figure", path: str | Path) -> None:
    """Write the figure as a PNG without date or version, so that equal pictures are equal bytes."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name with two $ is no formula, and as one it may be wrong
    png = io.BytesIO()
    figure.savefig(png, dpi=110, metadata={"Software": None})
    replace_file(path, png.getvalue())
