"""Prints the table of metrics of the present graph, and where the pictures are.

python -m tools.summary
"""

from pathlib import Path

from mer.evaluation.reports import Details, Leaks, Metric, read_json
from mer.params import load
from mer.plan_file import stages_of
from tools._errors import one_line

PAGE = "metrics/report/index.html"


def table(names, folder: Path = Path("metrics")) -> str:
    """One line an experiment: UF1 and UAR with their 95 % intervals, accuracy, counts."""
    width = max((len(n) for n in names), default=10)
    lines = [f"{'experiment':<{width}}  {'UF1':<22}{'UAR':<22}{'acc':<8}{'clips':>6}{'subjects':>10}"]
    for name in names:
        metric = read_json(folder / f"{name}.json", Metric)
        details = read_json(folder / "details" / f"{name}.json", Details)
        cells = [_cell(metric[k], details["ci95"][k]) for k in ("uf1", "uar")]
        stamp = "  LEAKY" if details["protocol"]["leaky"] else ""
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
        params, stages = load("params.yaml"), stages_of()
        print(f"\nPreset {params.preset}: leave-one-subject-out, pooled; in brackets 95 % over subjects\n")
        print(table(list(params.experiments)))
        claimed = leaks(params.experiments)
        if claimed:
            print("\nWith the epoch chosen on the test subject one would have claimed")
            print("\n".join(claimed))
        folders = [Path("metrics/figures", key) for key in stages["figures"]]
        folders += [Path("metrics/explained", key) for key in stages["explain"]]
        folders += [Path("metrics/pretraining", key) for key in stages["restore"]]
        pictures = sorted(p for folder in folders for p in folder.glob("*.png"))
        pictures += [Path("metrics/curves", f"{key}.png") for key in stages["curve"]]
        pictures += [Path("metrics/heatmaps", f"{key}.png") for key in stages["heatmaps"]]
        pictures += [Path("metrics/motion_maps", f"{key}.png") for key in stages["motion_maps"]]
        if Path(PAGE).exists():
            print(f"\nReport:   {PAGE}: numbers, the papers' tables, pictures; open it in a browser")
        print("\nPictures: " + "  ".join(map(str, pictures)))
        print("Plots:    dvc plots show (confusion matrices and per-subject accuracy as one HTML page)")


if __name__ == "__main__":
    main()
