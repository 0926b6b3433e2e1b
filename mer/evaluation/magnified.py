"""Pictures of magnified motion. Like `galleries`, they draw what they are given."""

from pathlib import Path

import numpy as np

from mer.evaluation.canvas import grid, heading, save

REACH = 28  # px on both sides of the largest motion that a slice through space and time shows


def telling_line(flow: np.ndarray, image: np.ndarray) -> tuple[int, int, int]:
    """Where motion is seen best: (axis, row, column), a point and the direction it moves in, 0 down or 1 to the right.

    Motion shows where something moves along the gradient of the image: the point with the largest |v I_y| or |u I_x|
    about it.

    Args:
        flow: (2, H, W) px.
        image: (H, W, 3) uint8 RGB.
    """
    import cv2

    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    slope = np.gradient(grey)
    shown = [cv2.GaussianBlur(np.abs(flow[1 - axis] * slope[axis]).astype(np.float32), (0, 0), 4.0) for axis in (0, 1)]
    axis, row, column = np.unravel_index(np.argmax(np.stack(shown)), (2, *grey.shape))
    return int(axis), int(row), int(column)


def slice_through_time(frames: np.ndarray, line: tuple[int, int, int], reach: int = REACH) -> np.ndarray:
    """One line of pixels of every frame: (2 reach + 1 or less, T, 3), time to the right; `line`: see `telling_line`."""
    axis, row, column = line
    pixels = frames[:, :, column] if axis == 0 else frames[:, row]  # (T, space, 3)
    middle = (row, column)[axis]
    return pixels[:, max(0, middle - reach) : middle + reach + 1].transpose(1, 0, 2)


def factor_gallery(rows: list[dict], factors: list[float], path: str | Path, title: str) -> None:
    """UAMRN figure 1: one clip a row: onset, apex, and the apex at growing factors.

    Args:
        rows: each {name, onset, apex (H, W, 3) uint8 RGB, images: one for each of `factors`}.
        path: the PNG to write.
    """
    with grid(len(rows), 2 + len(factors)) as (figure, axes):
        for ax, row in zip(axes, rows, strict=True):
            for a, image in zip(ax, (row["onset"], row["apex"], *row["images"]), strict=True):
                a.imshow(image)
            ax[0].set_ylabel(row["name"], fontsize=9)
        for a, name in zip(axes[0], ("onset", "apex", *(f"factor {f:.3g}" for f in factors)), strict=True):
            a.set_title(name, fontsize=9)
        heading(figure, title)
        save(figure, path)


def strip_gallery(rows: list[dict], recipes: tuple[str, str], path: str | Path, title: str) -> None:
    """DCMA figure 2 with the motion itself: one clip a row, before and after two recipes.

    Args:
        rows: each {name, onset, apex, magnified: of one crop, (H, W, 3) uint8 RGB; line: see `telling_line`; before,
            after: the slices through time along it; plain, apex_frame: the apex in the second recipe's crop, before
            and after}.
        recipes: names of the first, whose clips are sliced, and of the second.
        path: the PNG to write.
    """
    first, second = recipes
    columns = ("onset", "apex", f"{first}: apex", "along the line", f"{first}: the same", "apex", f"{second}: apex")
    with grid(len(rows), len(columns)) as (figure, axes):
        for ax, row in zip(axes, rows, strict=True):
            for a, name in zip(ax[:3], ("onset", "apex", "magnified"), strict=True):
                a.imshow(row[name])
            axis, y, x = row["line"]
            ends = ([x, x], [y - REACH, y + REACH]) if axis == 0 else ([x - REACH, x + REACH], [y, y])
            for a in ax[1:3]:
                a.plot(*ends, color="#00e5ff", linewidth=1)
                a.set(xlim=(-0.5, row["apex"].shape[1] - 0.5), ylim=(row["apex"].shape[0] - 0.5, -0.5))
            for a, name in zip(ax[3:5], ("before", "after"), strict=True):
                a.imshow(row[name], aspect="auto", interpolation="nearest")
                a.set_xlabel("time", fontsize=7)
                a.set_ylabel("y" if axis == 0 else "x", fontsize=7)
            for a, name in zip(ax[5:], ("plain", "apex_frame"), strict=True):
                a.imshow(row[name])
            ax[0].set_ylabel(row["name"], fontsize=9)
        for a, name in zip(axes[0], columns, strict=True):
            a.set_title(name, fontsize=8)
        heading(figure, title)
        save(figure, path)


def macro_gallery(rows: list[dict], recipe: str, path: str | Path, title: str) -> None:
    """DCMA figure 2: a class a row: a macro-expression, the apex of a micro-expression, the apex magnified, and what
    that changes.

    Args:
        rows: each {name, macro: (H, W, 3) uint8 RGB or None, said: who and what it shows; plain, apex_frame: (H, W, 3)
            uint8 RGB, of one crop}.
        recipe: of the magnification.
        path: the PNG to write.
    """
    columns = ("macro-expression", "micro: apex", f"micro: apex, {recipe}", "their difference, x4")
    with grid(len(rows), len(columns)) as (figure, axes):
        for ax, row in zip(axes, rows, strict=True):
            if row["macro"] is None:
                ax[0].set_box_aspect(1)
                ax[0].text(0.5, 0.5, "no image of\nthis class", transform=ax[0].transAxes, fontsize=8, color="0.4",
                           ha="center", va="center")  # fmt: skip
            else:
                ax[0].imshow(row["macro"])
                ax[0].set_xlabel(row["said"], fontsize=7)
            difference = np.clip(128 + 4 * (row["apex_frame"].astype(int) - row["plain"]), 0, 255).astype(np.uint8)
            for a, image in zip(ax[1:], (row["plain"], row["apex_frame"], difference), strict=True):
                a.imshow(image)
            ax[0].set_ylabel(row["name"], fontsize=9)
        for a, name in zip(axes[0], columns, strict=True):
            a.set_title(name, fontsize=8)
        heading(figure, title)
        save(figure, path)


def too_much(panels: list[dict], path: str | Path, title: str) -> None:
    """Magnification beyond what it can do, side by side.

    Args:
        panels: each {name, image (H, W, 3) uint8 RGB}.
        path: the PNG to write.
    """
    with grid(1, len(panels)) as (figure, axes):
        for a, panel in zip(axes[0], panels, strict=True):
            a.imshow(panel["image"], interpolation="nearest")
            a.set_title(panel["name"], fontsize=8)
        heading(figure, title)
        save(figure, path)
