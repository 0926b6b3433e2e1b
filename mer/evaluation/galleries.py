"""Pictures of clips: landmarks, flow, strain, dynamic images. They draw what they are given and compute nothing."""

from pathlib import Path
from typing import Any

import numpy as np

from mer.evaluation.canvas import flow_colours, grid, heading, legend, save


def clip_gallery(rows: list[dict], path: str | Path, title: str) -> None:
    """One clip a row: onset with landmarks, apex, their difference, flow, strain.

    Args:
        rows: each {name, onset, apex (H, W, 3) uint8 RGB, points (68, 2) px of the crop, flow (3, H, W)}; without
            frames only flow and strain are drawn.
        path: the PNG to write.
    """
    columns = ["onset and landmarks", "apex", "apex - onset, x8", "flow", "strain"]
    if "onset" not in rows[0]:
        columns = ["u", "v", "flow", "strain"]
    with grid(len(rows), len(columns)) as (figure, axes):
        for ax, row in zip(axes, rows, strict=True):
            flow = row["flow"]
            largest = float(np.quantile(np.hypot(*flow[:2]), 0.99))
            pictures: dict[str, Any] = {
                "flow": lambda a, f=flow, m=largest: a.imshow(flow_colours(f[:2], m)),
                "strain": lambda a, f=flow: a.imshow(f[2], cmap="magma", vmin=0, vmax=np.quantile(f[2], 0.995)),
                "u": lambda a, f=flow: a.imshow(f[0], cmap="RdBu_r", vmin=-127.5, vmax=127.5),
                "v": lambda a, f=flow: a.imshow(f[1], cmap="RdBu_r", vmin=-127.5, vmax=127.5),
            }
            if "onset" in row:
                difference = np.clip(128 + 8 * (row["apex"].astype(int) - row["onset"]), 0, 255).astype(np.uint8)
                pictures["onset and landmarks"] = lambda a, r=row: (
                    a.imshow(r["onset"]),
                    a.scatter(*r["points"].T, s=3, c="#00e5ff", linewidths=0),
                )
                pictures["apex"] = lambda a, r=row: a.imshow(r["apex"])
                pictures["apex - onset, x8"] = lambda a, d=difference: a.imshow(d)
            for a, column in zip(ax, columns, strict=True):
                pictures[column](a)
            ax[0].set_ylabel(row["name"], fontsize=9)
            if "onset" in row:
                label = f"full colour: {largest:.2f} px"
                ax[columns.index("flow")].set_xlabel(label, fontsize=7)
        for a, column in zip(axes[0], columns, strict=True):
            a.set_title(column, fontsize=9)
        legend(figure)
        heading(figure, title)
        save(figure, path)


def flow_gallery(rows: list[dict], path: str | Path, title: str) -> None:
    """MSMMT figure 3: one clip a row: apex, flow by the colour wheel, u, v, strain, and the three as one picture.

    Args:
        rows: each {name, apex (H, W, 3) uint8 RGB, flow (3, H, W), channels (3, H, W) in 0..1}. One scale for all.
        path: the PNG to write.
    """
    columns = ["apex", "flow", "u", "v", "strain", "u, v, strain as RGB"]
    largest = max(float(np.quantile(np.hypot(*row["flow"][:2]), 0.99)) for row in rows)
    strain = max(float(np.quantile(row["flow"][2], 0.995)) for row in rows)
    with grid(len(rows), len(columns)) as (figure, axes):
        for ax, row in zip(axes, rows, strict=True):
            ax[0].imshow(row["apex"])
            ax[0].set_ylabel(row["name"], fontsize=9)
            ax[1].imshow(flow_colours(row["flow"][:2], largest))
            for a, component in zip(ax[2:4], row["flow"][:2], strict=True):
                a.imshow(component, cmap="RdBu_r", vmin=-largest, vmax=largest)
            ax[4].imshow(row["flow"][2], cmap="magma", vmin=0, vmax=strain)
            ax[5].imshow(np.moveaxis(row["channels"], 0, -1))
        for a, column in zip(axes[0], columns, strict=True):
            a.set_title(column, fontsize=9)
        ends = (f"full colour {largest:.2f} px", f"red right, {largest:.2f} px", f"red down, {largest:.2f} px")
        for a, label in zip(axes[-1][1:5], (*ends, f"white {strain:.3f}"), strict=True):
            a.set_xlabel(label, fontsize=7)
        legend(figure)
        heading(figure, title)
        save(figure, path)


def dynamic_gallery(rows: list[dict], path: str | Path, title: str) -> None:
    """MSMMT figure 2: one clip a row: five of its frames in order, and the dynamic image they make.

    Args:
        rows: each {name, frames: five (H, W, 3) uint8 RGB, numbers: theirs in the clip, dynamic (H, W, 3) uint8}.
        path: the PNG to write.
    """
    with grid(len(rows), len(rows[0]["frames"]) + 1) as (figure, axes):
        for ax, row in zip(axes, rows, strict=True):
            for a, frame, number in zip(ax[:-1], row["frames"], row["numbers"], strict=True):
                a.imshow(frame)
                a.set_xlabel(f"frame {number}", fontsize=7)
            ax[-1].imshow(row["dynamic"])
            ax[0].set_ylabel(row["name"], fontsize=9)
        axes[0][0].set_title("onset", fontsize=9)
        axes[0][-2].set_title("offset", fontsize=9)
        axes[0][-1].set_title("dynamic image", fontsize=9)
        heading(figure, title)
        save(figure, path)


def contact_sheet(faces: list[dict], path: str | Path, title: str, columns: int = 6) -> None:
    """Crops beside each other, each with its landmarks.

    Args:
        faces: each {name, image (H, W, 3) uint8 RGB, points (68, 2) px of the crop}.
        path: the PNG to write.
    """
    with grid(-(-len(faces) // columns), columns) as (figure, axes):
        for a in axes.flat:
            a.axis("off")
        for a, face in zip(axes.flat, faces, strict=False):
            a.imshow(face["image"])
            a.scatter(*face["points"].T, s=2, c="#00e5ff", linewidths=0)
            a.set(title=face["name"], xlim=(0, face["image"].shape[1]), ylim=(face["image"].shape[0], 0))
            a.title.set_fontsize(7)
        heading(figure, title)
        save(figure, path)


def class_means(means: dict[str, np.ndarray], path: str | Path, title: str) -> None:
    """Mean flow image of each class: flow above, strain below, one scale for all.

    Args:
        means: class name -> (3, H, W).
        path: the PNG to write.
    """
    largest = max(float(np.quantile(np.hypot(*m[:2]), 0.99)) for m in means.values())
    strain = max(float(np.quantile(m[2], 0.995)) for m in means.values())
    with grid(2, len(means)) as (figure, axes):
        for i, (name, mean) in enumerate(means.items()):
            axes[0][i].imshow(flow_colours(mean[:2], largest))
            axes[1][i].imshow(mean[2], cmap="magma", vmin=0, vmax=strain)
            axes[0][i].set_title(name, fontsize=9)
        axes[0][0].set_ylabel("flow", fontsize=9)
        axes[1][0].set_ylabel("strain", fontsize=9)
        legend(figure)
        heading(figure, title)
        save(figure, path)
