"""How far two experiments on the same clips differ, and whether that is more than the choice of subjects explains.

    python -m tools.compare synthetic-uamrn synthetic-uamrn-full-attention

Reads data/predictions; prints first - second with its 95 % interval over subjects, drawn alike for both.
"""

import sys
from pathlib import Path

from mer.errors import MerError, listed, suggestion
from mer.evaluation.metrics import difference
from mer.evaluation.predictions import read_predictions
from mer.params import load
from tools._errors import one_line


def compare(first: str, second: str, folder: Path = Path("data/predictions")) -> list[str]:
    """One line a metric."""
    section = load("params.yaml").evaluate
    there = sorted(path.parent.name for path in folder.glob("*/run.json"))
    for name in (first, second):
        if name not in there:
            raise MerError(f"{folder} has no predictions of {name!r}; {suggestion(name, there)}")
    (mine, run_info), (other, other_info) = (read_predictions(folder / name) for name in (first, second))
    if run_info["class_names"] != other_info["class_names"]:
        raise MerError(f"{first} tells {listed(run_info['class_names'])}, {second} {listed(other_info['class_names'])}")
    found = difference(mine, other, run_info["class_names"], replicates=section.bootstrap, seed=section.seed)
    lines = []
    for name, row in found.items():
        if None in row.values():
            lines.append(f"{name:<4} undefined: a class without a clip")
            continue
        apart = "apart" if row["low"] > 0 or row["high"] < 0 else "not told apart"
        lines.append(f"{name:<4} {row['difference']:+.4f} [{row['low']:+.3f}, {row['high']:+.3f}]  {apart}")
    return lines


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("compare: name two experiments: python -m tools.compare <first> <second>")
    with one_line("compare"):
        print("\n".join(compare(*sys.argv[1:])))


if __name__ == "__main__":
    main()
