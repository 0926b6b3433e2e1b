"""Draws a corpus as the pipeline sees it: metrics/figures/<corpus>/*.png.

    python -m stages.figures synthetic

Nothing is computed here that a product does not hold already, but the face in an image of a macro-expression.
"""

import importlib
from pathlib import Path

from mer import corpora
from mer.clips import read_index
from mer.evaluation.figures import Macro, draw
from mer.storage.build import available
from mer.storage.cache import ClipCache
from stages._run import run


def main(
    stage, *, corpus: str, index: str, labels: str, classes: int, flow: str, frames: str | None = None,
    landmarks: str | None = None, apex: str | None = None, dynamic: str | None = None, magnified: str | None = None,
    plain: str | None = None, apex_frame: str | None = None, overdriven: str | None = None, magnet: str | None = None,
    macro: str | None = None, macro_reader: str = "",
):  # fmt: skip
    paths = {
        "flow": flow, "frames": frames, "landmarks": landmarks, "apex": apex, "dynamic": dynamic,
        "magnified": magnified, "plain": plain, "apex_frame": apex_frame, "overdriven": overdriven, "magnet": magnet,
    }  # fmt: skip
    products = {name: ClipCache(path) for name, path in paths.items() if path is not None}
    table = corpora.select(read_index(Path(index)), labels, classes)
    names = table.attrs["class_names"]
    _, excluded = available(list(table.itertuples()), index, *products.values())
    images = None
    if macro is not None:
        found = importlib.import_module(f"mer.macro.{macro_reader}").read_macro(macro)
        images = Macro(found, macro_reader, corpora.class_lists(labels, classes))
    draw(
        products, table[~table["id"].isin(excluded)], names, Path("metrics/figures") / stage.key, corpus=corpus,
        clips_per_class=stage.section.clips_per_class, macro=images,
    )  # fmt: skip


if __name__ == "__main__":
    run("figures", main)
