"""How far two experiments on the same clips differ, and whether that is more than the choice of subjects explains.

    python -m tools.compare synthetic-uamrn synthetic-uamrn-full-attention
    python -m tools.compare --published dcma
    python -m tools.compare --published dcma composite-dcma

Two experiments: reads data/predictions; prints first - second with its 95 % interval over subjects, drawn alike for
both, and the two-sided p of exchanging the predictions of whole subjects. Where the labels of one were exchanged
(`shuffled: true`), each is scored by its own, and there is no p. `--published`: prints the p-values of a
paper beside the recomputed ones; with an experiment, read from metrics/details, also its own.
"""

import sys
from pathlib import Path

from mer.errors import MerError, listed, suggestion
from mer.evaluation.metrics import difference, means
from mer.evaluation.predictions import read_predictions
from mer.evaluation.published import PARTS, printed_tests
from mer.evaluation.reports import Details, read_json
from mer.evaluation.significance import TESTED, mcnemar, permutation_test, published_t_tests, signed_rank
from mer.params import load
from tools._errors import one_line

CORPORA = {"casme2": "casme2", "samm": "samm", "smic": "smic_hs"}  # a corpus here and the part of the tables
USAGE = (
    "name two experiments: python -m tools.compare <first> <second>, "
    "or a paper: python -m tools.compare --published <paper> [<experiment>]"
)


def compare(first: str, second: str, folder: Path = Path("data/predictions")) -> list[str]:
    """One line a metric, then what the p-values are."""
    section = load("params.yaml").evaluate
    there = sorted(path.parent.name for path in folder.glob("*/run.json"))
    for name in (first, second):
        if name not in there:
            raise MerError(f"{folder} has no predictions of {name!r}; {suggestion(name, there)}")
    (mine, run_info), (other, other_info) = (read_predictions(folder / name) for name in (first, second))
    names = run_info["class_names"]
    if names != other_info["class_names"]:
        raise MerError(f"{first} tells {listed(names)}, {second} {listed(other_info['class_names'])}")
    exchanged = [name for name, info in ((first, run_info), (second, other_info)) if info["protocol"].get("shuffled")]
    control = len(exchanged) == 1
    found = difference(mine, other, names, replicates=section.bootstrap, seed=section.seed, own_labels=control)
    runs = mine["seed"].nunique(), other["seed"].nunique()
    paired = runs[0] == runs[1] and not control
    tested = permutation_test(mine, other, names, seed=section.seed) if paired else None
    lines = []
    for name, row in found.items():
        if None in row.values():
            lines.append(f"{name:<4} undefined: a class without a clip")
            continue
        apart = "apart" if row["low"] > 0 or row["high"] < 0 else "not told apart"
        p = "" if tested is None else f"  {_p(tested[name]['two_sided'])}"
        lines.append(f"{name:<4} {row['difference']:+.4f} [{row['low']:+.3f}, {row['high']:+.3f}]  {apart}{p}")
    if control:  # exchanging predictions, or ranking accuracies, needs one list of labels
        return [
            *lines,
            f"labels of {exchanged[0]} were exchanged at random; each is scored by its own labels, without p",
        ]
    if tested is None:
        counted = f"{runs[0]} run{'s' * (runs[0] > 1)}"
        lines.append(f"no p: {first} has {counted}, {second} has {runs[1]}; give both as many train.seeds")
    else:
        how = "all" if tested["exact"] else "drawn"
        lines.append(f"p: two-sided; whole subjects' predictions exchanged {tested['permutations']} times ({how})")
    ranks = signed_rank(mine, other, names)
    what = "Wilcoxon's signed ranks of the subjects' accuracies"
    of = ranks["undefined"] or f"{ranks['n']} of {ranks['subjects']} differ"
    lines.append(f"{what}: {_p(ranks['two_sided'])} ({of})")
    clips = mcnemar(mine, other, names)
    of = clips["undefined"] or f"{clips['first']} clips only the first has right, {clips['second']} only the second"
    lines.append(f"McNemar over clips, as if each were a subject of its own: {_p(clips['two_sided'])} ({of})")
    return lines


def published(paper: str, experiment: str | None = None, folder: Path = Path("metrics/details")) -> list[str]:
    """A heading, a line a method of the paper's t-test, then what the test is."""
    printed_tests(paper)  # for its check, before that of the experiment
    scores, stamp = (None, "") if experiment is None else _of_parts(experiment, folder)
    rows = published_t_tests(paper, scores)
    width = max(len(row["method"]) for row in rows)
    columns = ["printed", "recomputed", *([] if scores is None else [experiment or ""])]
    cells = [f"{name.upper()} {column}" for name in TESTED for column in columns]
    lines = ["  ".join([f"{paper + ' against':<{width}}", *cells])]
    undefined = {}
    for row in rows:
        values = []
        for name in TESTED:
            results = [row[name]["recomputed"], *([] if scores is None else [row[name]["experiment"]])]
            values += [row[name]["printed"], *(result["p"] for result in results)]
            undefined |= {f"{name} against {row['method']}": r["undefined"] for r in results if r["undefined"]}
        texts = ["undefined" if v is None else f"{v:.4f}" for v in values]
        lines.append("  ".join([f"{row['method']:<{width}}",
                                *(f"{t:>{len(c)}}" for t, c in zip(texts, cells, strict=True))]))  # fmt: skip
    if undefined:
        lines.append(f"undefined: {listed(f'{where}: {reason}' for where, reason in undefined.items())}")
    lines += [
        f"p: one-sided paired t-test over {len(PARTS)} scores: {listed(PARTS)}",
        "unsound: the whole is counted beside its own parts, and p says nothing of other subjects or seeds",
    ]
    if scores is not None:
        lines.append(f"{experiment}{stamp}: its clips are not those of {paper}, so its p says less still")
    return lines


def _of_parts(experiment: str, folder: Path) -> tuple[dict[str, list[float | None]], str]:
    """{uar, uf1: in the order of PARTS} of an experiment on a composite, and its stamp."""
    there = sorted(path.stem for path in folder.glob("*.json"))
    if there and experiment not in there:
        raise MerError(f"{folder} has no {experiment!r}; {suggestion(experiment, there)}")
    details = read_json(folder / f"{experiment}.json", Details)
    parts = {CORPORA.get(corpus.split("-")[0], corpus): part for corpus, part in details["parts"].items()}
    if sorted(parts) != sorted(PARTS[1:]) or len(parts) != len(details["parts"]):
        found = f"parts {listed(details['parts'])}" if details["parts"] else "no parts"
        raise MerError(f"{experiment} has {found}; name an experiment on a composite of {listed(CORPORA)}")
    of_all = [means(details["runs"]), *(means(parts[part]["runs"]) for part in PARTS[1:])]
    stamp = " (LEAKY)" if details["protocol"]["leaky"] else ""
    return {name: [of[name] for of in of_all] for name in TESTED}, stamp


def _p(value: float | None) -> str:
    return "p undefined" if value is None else f"p {value:.4f}"


def main() -> None:
    with_paper, names = sys.argv[1:2] == ["--published"], [a for a in sys.argv[1:] if not a.startswith("-")]
    if len(sys.argv) != 1 + with_paper + len(names) or len(names) not in ((1, 2) if with_paper else (2,)):
        sys.exit(f"compare: {USAGE}")
    with one_line("compare"):
        print("\n".join(published(*names) if with_paper else compare(*names)))


if __name__ == "__main__":
    main()
