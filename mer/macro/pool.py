"""The large expressions of the synthetic corpus's pool as a macro-expression set; mer/synthetic/pool.py makes them."""

from pathlib import Path

import pandas as pd

from mer.errors import MerError
from mer.macro.tables import check_inside, make_table, refuse_absent
from mer.storage.tables import read_table

COLUMNS = ("file", "subject", "emotion", "aus", "peak")


def read_macro(root: str | Path) -> pd.DataFrame:
    """The large expressions of the pool, for pretraining.

    Args:
        root: folder `pool/macro`.

    Returns:
        DataFrame with the columns of mer.macro.tables.COLUMNS; every subject is known, no image has a split. The
        emotions are CASME II's, also where mer.macro.tables has no word for them (others, repression).

    Raises:
        MerError: as `listed_images`, or there is no image.
    """
    return make_table(Path(root), listed_images(root))


def listed_images(root: str | Path) -> list[dict[str, str]]:
    """The rows of `read_macro`, in the order of the list; none where the pool has nobody.

    Raises MerError where labels.csv is missing or another than was written, labelled images are missing, or a path
    leads out of `root`.
    """
    root = Path(root)
    path = root / "labels.csv"
    if not path.is_file():
        raise MerError(f"{path}: there is no such file; run dvc repro synthesize")
    rows, absent = [], []
    for name, subject, emotion, *_ in read_table(path, COLUMNS):
        image = root / name
        check_inside(image, root)
        if not image.is_file():
            absent.append(name)
            continue
        rows.append({
            "id": f"synthetic_pool/{Path(name).with_suffix('').as_posix()}", "corpus": "synthetic_pool",
            "subject": subject, "emotion": emotion, "split": "", "image": image.as_posix(),
        })  # fmt: skip
    refuse_absent(path, absent, "images are", "run dvc repro synthesize")
    return rows
