"""Prints the table of metrics of the present graph, and where the report is.

python -m tools.summary
"""

from pathlib import Path

from mer.evaluation.reports import Details, Leaks, Metric, read_json
from mer.params import load
from tools._errors import one_line

PAGE = Path("metrics/report/index.html")


LEFT_OUT = {"subject": "", "corpus": "  corpora left out", "origin": "  recorded against simulated"}


def table(names, folder: Path = Path("metrics")) -> str:
    """One line an experiment: UF1 and UAR with their 95 % intervals, accuracy, counts."""
    width = max((len(n) for n in names), default=10)
    lines = [f"{'experiment':<{width}}  {'UF1':<22}{'UAR':<22}{'acc':<8}{'clips':>6}{'subjects':>10}"]
    for name in names:
        metric = read_json(folder / f"{name}.json", Metric)
        details = read_json(folder / "details" / f"{name}.json", Details)
        cells = [_cell(metric[k], details["ci95"][k]) for k in ("uf1", "uar")]
        stamp = "  LEAKY" if details["protocol"]["leaky"] else ""
        stamp += LEFT_OUT[details["protocol"].get("leave_out", "subject")]
        lines.append(
            f"{name:<{width}}  {cells[0]:<22}{cells[1]:<22}{metric['acc']:<8.4f}{metric['n_clips']:>6}"
            f"{metric['n_subjects']:>10}{stamp}"
        )
    return "\n".join(lines)


def leaks(names, path: Path = Path("metrics/leakage.json")) -> list[str]:
    """One line for each experiment whose leak was measured (train.audit)."""
    found = read_json(path, Leaks) if path.exists() else {}
    lines = []
    for name in (n for n in names if n in found):
        cells = [
            f"{metric.upper()} {row['honest']:.4f} -> {row['leaky']:.4f}"
            for metric in ("uf1", "uar")
            if (row := found[name][metric])["gap"] is not None
        ]
        lines.append(f"{name}: {', '.join(cells)}")
    return lines


def _cell(value, interval) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f} [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else f"{value:.4f}"


def main() -> None:
    with one_line("summary"):
        params = load("params.yaml")
        print(f"\nPreset {params.preset}: leave-one-subject-out, pooled; in brackets 95 % over subjects\n")
        print(table(list(params.experiments)))
        claimed = leaks(params.experiments)
        if claimed:
            print("\nWith the epoch chosen on the test subject one would have claimed")
            print("\n".join(claimed))
        print(f"\nReport: {PAGE.resolve().as_uri()} (these numbers, the papers' tables, all pictures)")
        print("Plots:  dvc plots show (confusion matrices and per-subject accuracy as one HTML page)")


if __name__ == "__main__":
    main()
