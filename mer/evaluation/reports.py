"""Files of numbers below metrics/."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mer.storage.files import replace_file

if TYPE_CHECKING:
    import pandas as pd


def write_json(path: Path, content: dict) -> None:
    """JSON, indented by one space; equal contents are equal bytes."""
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """CSV without row numbers, floats with six digits."""
    replace_file(path, table.to_csv(index=False, lineterminator="\n", float_format="%.6g").encode())
