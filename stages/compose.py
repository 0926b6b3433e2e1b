"""Joins the indices of several corpora into that of a composite; writes data/index/<composite>.csv.

    python -m stages.compose composite

Ids begin with the corpus, so clips and subjects of different corpora stay apart. Which clips count is the selection's
business (mer/corpora/megc2019.py for MEGC2019).
"""

from pathlib import Path

import pandas as pd

from mer import corpora
from mer.clips import check_counts, read_index, write_index
from stages._run import run


def main(
    stage, *, parts: list[str], labels: str, classes: int, out: str, clips: int | None = None,
    subjects: int | None = None,
):  # fmt: skip
    table = pd.concat([read_index(Path(part)) for part in parts], ignore_index=True)
    selected = corpora.select(table, labels, classes)
    found = {"clips": len(selected), "subjects": len(selected[["corpus", "subject"]].drop_duplicates())}
    check_counts(found, {"clips": clips, "subjects": subjects}, f"{out}, {classes} classes",
                 f"corpora.{stage.key}.expect")  # fmt: skip
    write_index(Path(out), table)


if __name__ == "__main__":
    run("compose", main)
