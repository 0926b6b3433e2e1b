"""The report: its numbers are those of the files, its charts stand at their values, and nothing on it is unnamed."""

import base64
import itertools
import json
import re
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from mer import plan_file
from mer.clips import COLUMNS, write_excluded, write_index
from mer.evaluation import metrics, report
from mer.evaluation.canvas import colour_wheel
from mer.evaluation.report import charts, facts, graph, pictures
from mer.evaluation.reports import write_csv, write_json
from mer.params import Experiment, load
from stages.report import main
from tests.helpers import pages
from tests.helpers.refusals import refused

NAMES = ["negative", "positive", "surprise"]
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
NASTY = "<script>alert(1)</script>"


class Project:
    """The files of a finished run in a folder; `page()` is what is made of them."""

    def __init__(self, root, folder, names=("synthetic-linear",)):
        self.folder = folder
        shutil.copyfile(root / "dvc.yaml", folder / "dvc.yaml")
        shutil.copyfile(root / "params.yaml", folder / "params.yaml")
        shutil.copyfile(root / "plan.yaml", folder / "plan.yaml")
        experiments = {name: Experiment(corpus="synthetic", model=name.split("-")[1]) for name in names}
        self.params = load(root / "params.yaml").model_copy(update={"experiments": experiments})
        self.plan = plan_file.stages_of(root / "plan.yaml")
        for number, name in enumerate(names):
            self.evaluate(name, right=0.9 - 0.7 * number / len(names), seed=number)

    def evaluate(self, name, *, right=0.8, seed=0, classes=NAMES, present=3, people=6, seeds=(0,), **protocol):
        """Write what stage evaluate does, of predictions of which so many are right."""
        rng, rows = np.random.default_rng(seed), []
        for run in seeds:
            y = np.arange(60) % present
            p = np.eye(len(classes))[np.where(rng.random(60) < right, y, (y + 1) % present)]
            rows.append(pd.DataFrame(
                {"seed": run, "id": [f"c/{i:02d}" for i in range(60)], "corpus": "synthetic",
                 "subject": [f"s{i % people:02d}" for i in range(60)], "label": y,
                 **{f"p{c}": p[:, c] for c in range(len(classes))}}))  # fmt: skip
        table = pd.concat(rows, ignore_index=True)
        run_info = {"class_names": list(classes), "environment": {"device": "cpu", "torch": "2"},
                    "protocol": {"leaky": False, "excluded": {}, "weights": {}, **protocol}}  # fmt: skip
        metric, details = metrics.evaluate(table, run_info, replicates=100, seed=0)
        write_json(self.folder / f"metrics/{name}.json", metric)
        write_json(self.folder / f"metrics/details/{name}.json", details)
        guess = table[[f"p{c}" for c in range(len(classes))]].to_numpy().argmax(1)
        who = table["corpus"] + "/" + table["subject"]
        subjects = metrics.subject_accuracy(table["label"], guess, who)
        write_csv(self.folder / f"metrics/plots/{name}/subjects.csv", subjects)

    def read(self, path):
        return json.loads((self.folder / path).read_text())

    def page(self) -> str:
        return report.render(report.collect(self.folder, self.params, self.plan))

    def tree(self):
        return pages.tree(self.page())

    def picture(self, path, height=40, width=60):
        path = self.folder / "metrics" / path
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def project(root, tmp_path):
    """project(names): a run of these experiments."""
    return lambda *names: Project(root, tmp_path, *([names] if names else []))


def whole(project) -> Project:
    """A run that has everything: audited, excluded clips, timings, pictures of each kind, tables of papers."""
    made = project("synthetic-linear", "synthetic-ststnet", "synthetic-ststnet-exchanged")
    made.evaluate("synthetic-ststnet-exchanged", right=0.3, shuffled=True)
    claim = {"honest": 0.5, "leaky": 0.75, "gap": 0.25}
    write_json(made.folder / "metrics/leakage.json", {"synthetic-ststnet": {"uf1": claim, "uar": claim}})
    write_json(made.folder / "metrics/tables.json", TABLES)
    index = pd.DataFrame([dict.fromkeys(COLUMNS, "1") | {
        "id": f"c/{i}", "corpus": "synthetic", "subject": f"s{i}", "onset": 1, "apex": 2, "offset": 3, "fps": 200.0,
        "apex_source": "annotated"} for i in range(4)])  # fmt: skip
    write_index(made.folder / "data/index/synthetic.csv", index)
    write_excluded(made.folder / "data/index/synthetic.excluded.csv", [("c/9", "no face")])
    timing = {"seconds": 75.5, "peak_mb": 400, "peak_mb_of_a_worker": 500, "device": "cuda"}
    write_json(made.folder / "data/timings/train@synthetic-linear.json", timing)
    for path in ("figures/synthetic/flow.png", "figures/synthetic/own_kind.png", "explained/synthetic-ststnet/map.png",
                 "heatmaps/all.png", "motion_maps/one.png", "curves/knob.png", "pretraining/net/loss.png"):  # fmt: skip
        made.picture(path)
    return made


def score(printed, ours=None, ci95=None, verdict=None):
    gap = None if ours is None else ours - printed
    return {"printed": printed, "ours": ours, "ci95": ci95, "difference": gap, "verdict": verdict}


def paper_row(method, scores, **more):
    return {
        "method": method, "ours": False, "variant": None, "dataset": "composite", "part": "full", "protocol": "cde",
        "classes": 3, "experiment": None, "from": None, "seeds": None, "n_clips": None, "missing": None,
        "command": None, "notes": [], "remark": None, "scores": scores,
    } | more  # fmt: skip


TABLES = {
    "preset": "demo",
    "results": [{
        "experiment": "old-linear", "from": "results/old", "preset": "old", "corpus": "old", "model": "linear",
        "classes": 3, "baseline": True, "seeds": 1, "n_clips": 442, "n_subjects": 68, "uf1": 0.7372, "uar": 0.7679,
        "acc": 0.7534, "ci95": {"uf1": [0.66, 0.8], "uar": [0.7, 0.82], "acc": [0.7, 0.8]}, "leaky": False,
        "shuffled": False, "transductive": False, "left_out": "subject", "undefined": {},
    }],
    "tables": [
        {"paper": "first", "table": "Table 2", "file": "first_table_2", "rows": [
            paper_row("Others [1]", {"uf1": score(0.5882), "uar": score(0.5785)}),
            paper_row("STSTNet [2]", {"uf1": score(0.7353, 0.7243, [0.65, 0.79], "within interval"),
                                      "uar": score(0.7605, 0.7103, [0.64, 0.75], "below")},
                      experiment="old-ststnet", n_clips=442, seeds=2, notes=["M-1"], **{"from": "results/old"}),
            paper_row("Own", {"uf1": score(0.9213, verdict="not run"), "uar": score(0.9167, verdict="not run")},
                      ours=True, variant="no <b>", experiment="composite-own", missing="SAMM in data/raw/samm",
                      remark="a remark on <this> row",
                      command="make preset P=own C=samm && make repro"),
            paper_row("Undefined", {"uf1": score(0.3, verdict="undefined"), "uar": score(0.4, verdict="undefined")},
                      experiment="composite-none", n_clips=3),
        ]},
        {"paper": "second", "table": "Table 5", "file": "second_table_5", "rows": [
            paper_row("Own", {"acc": score(0.8057, verdict="not run")}, ours=True, experiment="casme2-own", part=None,
                      dataset="casme2", protocol="sde", classes=5, missing="CASME II", command="make preset P=own"),
        ]},
    ],
    "notes": {"M-1": "Printed of 447 clips."},
}  # fmt: skip


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_every_number_of_the_table_is_that_of_the_metrics(project):
    made = project("synthetic-linear", "synthetic-ststnet", "synthetic-ststnet-b")
    rows = {row.get("data-experiment"): row for row in made.tree().iter("tr") if row.get("data-experiment")}
    assert rows.keys() == made.params.experiments.keys()
    for name, row in rows.items():
        metric, ci95 = made.read(f"metrics/{name}.json"), made.read(f"metrics/details/{name}.json")["ci95"]
        cells = {cell.get("data-metric"): cell for cell in row.iter("td")}
        for key in ("uf1", "uar", "acc"):
            [value] = cells[key].iter("data")
            assert float(value.get("value")) == metric[key]
            low, high = ci95[key]
            assert pages.text(cells[key]) == f"{metric[key]:.3f} [{low:.3f}, {high:.3f}]"
        assert [pages.text(cell) for cell in row.iter("td")][-3:] == ["60", "6", "1"]


def test_results_are_grouped_by_corpus_and_classes_in_descending_order(project):
    made = project("synthetic-linear", "synthetic-ststnet-a", "synthetic-ststnet-b")
    made.evaluate("synthetic-ststnet-b", classes=["a", "b"], present=2)
    found = report.collect(made.folder, made.params, made.plan).comparisons
    assert [(g.corpus, g.classes, [r.name for r in g.results]) for g in found] == [
        ("synthetic", 3, ["synthetic-linear", "synthetic-ststnet-a"]), ("synthetic", 2, ["synthetic-ststnet-b"])
    ]  # fmt: skip
    assert found[0].baseline.name == "synthetic-linear"
    assert found[1].baseline is None


def test_other_folds_are_no_comparison(project):
    """Neither baseline nor best: an experiment that leaves out whole corpora stands by itself."""
    made = project("synthetic-linear", "synthetic-ststnet-a", "synthetic-ststnet-b")
    made.evaluate("synthetic-ststnet-b", right=1.0, leave_out="corpus")
    found = report.collect(made.folder, made.params, made.plan).comparisons
    assert [(g.of, [r.name for r in g.results]) for g in found] == [
        ("synthetic, 3 classes", ["synthetic-linear", "synthetic-ststnet-a"]),
        ("synthetic, 3 classes, whole corpora left out", ["synthetic-ststnet-b"]),
    ]
    assert found[1].baseline is None
    assert "UF1 on synthetic, 3 classes, whole corpora left out." in pages.text(made.tree())


def test_what_a_comparison_comes_to_counts_neither_leaky_nor_exchanged_runs(project):
    names = ["synthetic-linear", "synthetic-ststnet-a", "synthetic-ststnet-b", "synthetic-ststnet-c"]
    made = project(*names)
    made.evaluate(names[0], right=0.7)
    made.evaluate(names[1], right=1.0, leaky=True)
    made.evaluate(names[2], right=0.8, seed=1)
    made.evaluate(names[3], right=0.9, shuffled=True)
    [group] = report.collect(made.folder, made.params, made.plan).comparisons
    uf1, (low, high) = (made.read(f"metrics/{names[2]}.json")["uf1"],
                        made.read(f"metrics/details/{names[2]}.json")["ci95"]["uf1"])  # fmt: skip
    assert report.finding(group) == (
        f"{names[2]} has the highest UF1, {uf1:.3f} [{low:.3f}, {high:.3f}]. Leaky ones do not count. Above the linear "
        "baseline: 1 of 1 other experiment."
    )
    assert [r.kind for r in group.results] == ["leaky", "shuffled", "run", "baseline"]


def test_dots_intervals_and_lines_stand_at_their_values(project):
    made = project("synthetic-linear", "synthetic-ststnet")
    plot = pages.with_class(made.tree(), "plot")[0]
    names = ["synthetic-linear", "synthetic-ststnet"]
    details = [made.read(f"metrics/details/{name}.json") for name in names]
    dots = pages.with_class(plot, "dot")
    assert [dot.get("class") for dot in dots] == ["dot baseline", "dot run"]
    assert [share(dot.get("cx")) for dot in dots] == pytest.approx([d["runs"][0]["uf1"] for d in details], abs=1e-6)
    assert [share(dot.get("cy")) for dot in dots] == pytest.approx([0.25, 0.75])
    lines = pages.with_class(plot, "interval")
    ends = [[share(line.get("x1")), share(line.get("x2"))] for line in lines]
    assert ends == [pytest.approx(d["ci95"]["uf1"], abs=1e-6) for d in details]
    levels = {line.get("class").split()[1]: share(line.get("x1")) for line in pages.with_class(plot, "level")}
    assert levels["baseline"] == pytest.approx(details[0]["runs"][0]["uf1"], abs=1e-6)
    assert levels["chance"] == pytest.approx(1 / 3)  # three classes of equal size


def share(place: str) -> float:
    assert place.endswith("%")
    return float(place[:-1]) / 100


def test_chance_is_what_guessing_every_class_equally_often_scores():
    rng, counts = np.random.default_rng(0), [40, 26, 13, 11, 10]
    y = np.repeat(np.arange(5), np.array(counts) * 2000)
    found = metrics.score(y, rng.integers(0, 5, len(y)), list("abcde"))["uf1"]
    assert facts.chance_uf1(counts) == pytest.approx(found, abs=0.003)  # six times its standard error of 200,000 clips
    assert facts.chance_uf1([0, 0]) is None


def test_the_charts_of_an_experiment_have_its_counts(project):
    made = project()
    details, page = made.read("metrics/details/synthetic-linear.json"), made.tree()
    cells = pages.with_class(pages.with_class(page, "confusion")[0], "cell")
    assert [int(pages.text(pages.with_class(c, "count")[0])) for c in cells] == np.ravel(details["confusion"]).tolist()
    heats = [float(pages.with_class(c, "heat")[0].get("fill-opacity")) for c in cells]
    expected = np.array(details["confusion"]) / np.sum(details["confusion"], 1, keepdims=True)
    assert heats == pytest.approx(expected.ravel().tolist(), abs=5e-4)
    f1 = [share(bar.get("x2")) for bar in pages.with_class(page, "bar")]
    assert f1 == pytest.approx([row["f1"] for row in details["per_class"].values()], abs=1e-6)
    columns = [(float(bar.get("height")) / charts.TALL, pages.text(bar)) for bar in pages.with_class(page, "column")]
    subjects = pd.read_csv(made.folder / "metrics/plots/synthetic-linear/subjects.csv")
    said = {f"{s.subject}: {s.correct} of {s.n} right": s.accuracy for s in subjects.itertuples()}
    assert {name: pytest.approx(height, abs=1e-4) for height, name in columns} == said
    assert [height for height, _ in columns] == sorted((height for height, _ in columns), reverse=True)


def test_reliability_stands_at_its_values_and_old_details_have_none(project):
    made = project("synthetic-ststnet", "synthetic-old")
    made.evaluate("synthetic-ststnet", right=0.6)
    details = made.read("metrics/details/synthetic-old.json")
    write_json(
        made.folder / "metrics/details/synthetic-old.json", {k: v for k, v in details.items() if k != "calibration"}
    )
    page = made.tree()
    (chart,) = pages.with_class(page, "reliability")
    found = made.read("metrics/details/synthetic-ststnet.json")["calibration"]
    drawn = {kind: [dot for dot in pages.with_class(chart, kind) if dot.tag.endswith("circle")]
             for kind in ("before", "after")}  # fmt: skip
    for kind, dots in drawn.items():
        assert len(dots) == len(found[kind]["bins"])
        for dot, one in zip(dots, found[kind]["bins"], strict=True):
            place = float(dot.get("cx")), float(dot.get("cy"))
            # From the corner at (48, 206), 200 px a side, to two digits.
            assert place == pytest.approx((48 + 200 * one["confidence"], 206 - 200 * one["accuracy"]), abs=0.006)
    said = f"Error {found['before']['error']:.3f}, with a temperature {found['after']['error']:.3f}"
    assert said in " ".join(pages.text(page).split())


def test_a_leak_is_drawn_from_the_honest_value_to_the_claim(project):
    page = whole(project).tree()
    section = next(part for part in page.iter("section") if part.get("id") == "leakage")
    for plot in pages.with_class(section, "plot"):
        claimed, honest = pages.with_class(plot, "dot")
        assert (share(honest.get("cx")), share(claimed.get("cx"))) == (0.5, 0.75)
        [line] = pages.with_class(plot, "claim")
        assert (share(line.get("x1")), share(line.get("x2"))) == (0.5, 0.75)
    cells = [pages.text(cell) for cell in section.iter("td")]
    assert cells == ["0.500", "0.750", "+0.250"] * 2


def test_without_an_audit_the_page_says_how_to_measure_the_leak(project):
    made = project()
    write_json(made.folder / "metrics/leakage.json", {})
    assert "No experiment was audited. dvc exp run -S train.audit=true" in pages.text(made.tree())


def test_a_papers_numbers_stand_beside_ours(project):
    page = whole(project).tree()
    first, second = pages.with_class(page, "paper")
    rows = [[pages.text(cell) for cell in row if cell.tag == "td"] for row in first.iter("tr") if row.get("class")]
    assert rows[1:] == [
        ["0.5882", DASH, "", "0.5785", DASH, ""],
        [
            "0.7353",
            "0.7243[0.650, 0.790]",
            f"{MINUS}0.0110within interval",
            "0.7605",
            "0.7103[0.640, 0.750]",
            f"{MINUS}0.0502below",
        ],
        ["0.9213", "not run", "", "0.9167", "not run", ""],
        ["0.3000", "undefined", "", "0.4000", "undefined", ""],
    ]
    own = [row.get("class") for row in first.iter("tr") if row.get("class") in ("own", "other")]
    assert own == ["other", "other", "own", "other"]
    assert "Not run: Own (no <b>): needs SAMM in data/raw/samm. make preset P=own C=samm && make repro" in pages.text(
        first
    )
    assert "composite, whole; 3 classes, composite dataset" in pages.text(first)
    assert "old-ststnet, results/old, 2 seeds, 442 clips" in pages.text(first)
    assert "run: 2 of 3" in pages.text(first)
    assert [pages.text(c) for c in second.iter("td")] == ["0.8057", "not run"]
    [note] = [part for part in page.iter("li") if part.get("id") == "note-1"]
    assert pages.text(note) == "Printed of 447 clips."
    assert any(link.get("href") == "#note-1" for link in first.iter("a"))


def test_published_copies_are_shown_apart_from_this_run(project):
    made = whole(project)
    found = report.collect(made.folder, made.params, made.plan)
    assert [(g.origin, g.corpus, [r.name for r in g.results]) for g in found.published] == [
        ("results/old", "old", ["old-linear"])
    ]
    assert all(group.origin is None for group in found.comparisons)


# ---- gaps -----------------------------------------------------------------------------------------------------------


def test_what_is_undefined_is_named_with_its_reason(project):
    made = project("synthetic-linear", "synthetic-ststnet")
    made.evaluate("synthetic-ststnet", classes=[*NAMES, "fear"], present=3)
    made.evaluate("synthetic-linear", classes=[*NAMES, "fear"], present=3)
    page = made.tree()
    said = pages.text(page)
    assert "UF1 is undefined: fear neither occurs nor is predicted" in said
    assert "No experiment has a UF1 here." in said
    plot = pages.with_class(page, "plot")[0]
    assert not pages.with_class(plot, "dot")
    assert [pages.text(gap) for gap in pages.with_class(plot, "gap")] == [
        "undefined: fear neither occurs nor is predicted"
    ] * 2
    row = next(r for r in page.iter("tr") if r.get("data-experiment") == "synthetic-ststnet")
    assert [pages.text(gap) for gap in pages.with_class(row, "gap")] == ["undefined", "undefined"]
    assert "nan" not in said.lower().split()


def test_a_page_of_nothing_names_what_is_missing(project, tmp_path):
    made = project("synthetic-linear", "synthetic-ststnet")
    shutil.rmtree(made.folder / "metrics")
    (made.folder / "dvc.yaml").unlink()
    said = pages.text(made.tree())
    for gap in (
        "synthetic-linear: it has no metrics yet; run dvc repro evaluate@synthetic-linear",
        "metrics/tables.json is missing", "metrics/leakage.json is missing", "dvc.yaml is missing",
        "data/index/synthetic.csv is missing", "No experiment has metrics yet.", "There are no pictures yet.",
        "No time is kept", "No clip was left out.",
    ):  # fmt: skip
        assert gap in said


def test_one_experiment_without_metrics_leaves_the_others(project):
    made = project("synthetic-linear", "synthetic-ststnet")
    (made.folder / "metrics/details/synthetic-ststnet.json").unlink()
    (made.folder / "metrics/plots/synthetic-linear/subjects.csv").unlink()
    said = pages.text(made.tree())
    assert "synthetic-ststnet: it has no metrics yet" in said
    assert "metrics/plots/synthetic-linear/subjects.csv is missing" in said
    assert "The accuracy of each subject is missing." in said


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("metrics/details/synthetic-linear.json", '{"ci95": NaN}', "is damaged"),
        ("metrics/details/synthetic-linear.json", "{", "is damaged"),
        ("metrics/leakage.json", '{"a": 1}', "is damaged: a"),
        ("metrics/tables.json", '{"preset": "demo"}', "is damaged: results"),
        ("metrics/plots/synthetic-linear/subjects.csv", "subject,correct,n,accuracy\na,1,x,0.5\n", "line 2"),
        ("metrics/plots/synthetic-linear/subjects.csv", "subject,correct,n,accuracy\na,1,2,7\n", "line 2"),
        ("metrics/plots/synthetic-linear/subjects.csv", "who\na\n", "its columns are who"),
        ("metrics/figures/synthetic/flow.png", "no picture", "is no picture"),
        ("data/index/synthetic.excluded.csv", "id,reason,seal\na,b,c\n", "is damaged"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(project, path, content, message):
    made = project()
    (made.folder / path).parent.mkdir(parents=True, exist_ok=True)
    (made.folder / path).write_text(content)
    assert path in refused(message, made.page)


def test_confusion_that_does_not_fit_its_classes_is_refused(project):
    made = project()
    details = made.read("metrics/details/synthetic-linear.json")
    write_json(made.folder / "metrics/details/synthetic-linear.json", details | {"confusion": [[1]]})
    refused("confusion has not 3 rows", made.page)


def test_a_damaged_time_is_a_gap(project):
    made = whole(project)
    (made.folder / "data/timings/train@synthetic-linear.json").write_text("{")
    assert "data/timings/train@synthetic-linear.json cannot be read: delete it" in pages.text(made.tree())


# ---- text of a corpus -----------------------------------------------------------------------------------------------


def test_names_that_are_code_are_text(project):
    made = project()
    classes, excluded = [f"a{NASTY}", 'b"onload="x', "c"], {f"clip{NASTY}": f"why{NASTY}"}
    made.evaluate("synthetic-linear", classes=classes, excluded=excluded, weights={f"w{NASTY}": f"from{NASTY}"})
    path = made.folder / "metrics/plots/synthetic-linear/subjects.csv"
    path.write_text(f"subject,correct,n,accuracy\nsub{NASTY},1,2,0.5\n")
    write_excluded(made.folder / "data/index/synthetic.excluded.csv", [(f"id{NASTY}", "no <img src=x> face")])
    page = made.page()
    assert NASTY not in page
    root = pages.tree(page)
    assert not list(root.iter("script"))
    assert not list(root.iter("img"))
    assert not [name for part in root.iter() for name in part.attrib if name.startswith("on")]
    said = pages.text(root)
    for name in (f"a{NASTY}", f"clip{NASTY}", f"why{NASTY}", f"from{NASTY}", f"id{NASTY}", "no <img src=x> face"):
        assert name in said


# ---- the page -------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(project):
    root = whole(project).tree()
    [policy] = [meta.get("content") for meta in root.iter("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "script" not in policy
    assert not list(root.iter("script"))
    for part in root.iter():
        for name in ("src", "href", "xlink:href"):
            assert re.match(r"#|data:|$", part.get(name, "")), part.attrib
    assert "url(" not in "".join(style.text for style in root.iter("style")).replace("url(#tip)", "")


def test_links_lead_to_something_and_ids_are_unique(project):
    root = whole(project).tree()
    ids = [part.get("id") for part in root.iter() if part.get("id")]
    assert len(ids) == len(set(ids))
    for link in root.iter("a"):
        assert link.get("href")[1:] in ids


def test_headings_go_down_one_at_a_time(project):
    levels = [int(part.tag[1]) for part in whole(project).tree().iter() if re.fullmatch("h[1-6]", part.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_what_is_seen_is_named_for_those_who_do_not_see_it(project):
    root = whole(project).tree()
    images = list(root.iter("img"))
    assert len(images) == 7
    assert all(len(image.get("alt")) > 15 and image.get("width") and image.get("height") for image in images)
    for drawing in root.iter("svg"):
        if drawing.get("role") == "img":
            assert drawing.get("aria-label") or list(drawing.iter("title"))
    for table in root.iter("table"):
        assert list(table.iter("caption"))
        assert all(cell.get("scope") in ("col", "row", "colgroup", "rowgroup") for cell in table.iter("th"))
    assert next(root.iter("html")).get("lang") == "en"
    for box in pages.with_class(root, "scroll"):  # scrolled by keyboard
        assert (box.get("tabindex"), box.get("role")) == ("0", "region")
        assert box.get("aria-label")


def test_equal_files_are_equal_bytes(project, root, tmp_path):
    made = whole(project)
    first = made.page()
    (tmp_path / "again").mkdir()
    shutil.copytree(made.folder, tmp_path / "again/b", ignore=shutil.ignore_patterns("again"))
    made.folder = tmp_path / "again/b"
    assert made.page() == first
    assert str(tmp_path) not in first


def test_time_and_memory_stand_in_one_section_alone(project):
    made = whole(project)
    with_times = made.page()
    shutil.rmtree(made.folder / "data/timings")
    without = made.page()
    assert with_times != without
    outside = [
        re.sub(r'<section id="pipeline".*?</section>', "", page, flags=re.DOTALL) for page in (with_times, without)
    ]
    assert outside[0] == outside[1]
    assert "1 min 16 s" in with_times
    assert "cuda" in with_times


@pytest.mark.parametrize(
    ("value", "said"), [(9.64, "9.6 s"), (125, "2 min 05 s"), (3725, "1 h 02 min"), (None, DASH), (59.96, "1 min 00 s")]
)
def test_time_is_said_in_the_unit_that_fits(value, said):
    assert report.seconds(value) == said


def test_forty_experiments_are_folded(project):
    made = project("synthetic-linear", *(f"synthetic-ststnet-{i:02d}" for i in range(39)))
    root = made.tree()
    folded = pages.with_class(root, "experiment")
    assert len(folded) == 40
    assert not [part for part in folded if "open" in part.attrib]
    plot = pages.with_class(root, "plot")[0]
    assert len(pages.with_class(plot, "dot")) == 40
    assert len([row for row in root.iter("tr") if row.get("data-experiment")]) == 40


def test_several_seeds_are_shown_one_by_one(project):
    made = project()
    made.evaluate("synthetic-linear", seeds=(3, 5))
    [table] = [t for t in made.tree().iter("table") if pages.text(next(t.iter("caption"))) == "By seed"]
    runs = made.read("metrics/details/synthetic-linear.json")["runs"]
    assert [[pages.text(c) for c in row] for row in next(table.iter("tbody"))] == [
        [str(run["seed"]), *(f"{run[k]:.3f}" for k in ("uf1", "uar", "acc"))] for run in runs
    ]


def test_exclusions_are_listed_once_with_their_reason(project):
    made = project("synthetic-linear", "synthetic-ststnet")
    for name in made.params.experiments:
        made.evaluate(name, excluded={"c/1": "one frame"})
    write_excluded(made.folder / "data/index/synthetic.excluded.csv", [("c/0", "no face")])
    section = next(part for part in made.tree().iter("section") if part.get("id") == "exclusions")
    rows = [[pages.text(cell) for cell in row] for row in next(section.iter("tbody"))]
    assert rows == [
        ["c/0", "no face", "index of synthetic"], ["c/1", "one frame", "synthetic-linear, synthetic-ststnet"]
    ]  # fmt: skip


def test_the_stage_writes_the_page(project, monkeypatch):
    made = whole(project)
    monkeypatch.chdir(made.folder)
    main(SimpleNamespace(params=made.params))
    assert (made.folder / "metrics/report/index.html").read_text(encoding="utf-8") == made.page()


# ---- style ----------------------------------------------------------------------------------------------------------


def test_text_has_contrast_in_both_schemes_and_in_print(project):
    style = next(project().tree().iter("style")).text
    themes = [
        dict(re.findall(r"--([a-z]+): (#[0-9a-f]{3,6})", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(themes) == 3
    for theme in themes:
        for ground in ("paper", "raised"):
            for colour in ("ink", "muted", "accent", "warn"):
                assert contrast(rgb(theme[colour]), rgb(theme[ground])) >= 4.5, (theme, ground, colour)
        heat = float(re.search(r"\.heat \{[^}]*opacity: ([0-9.]+)", style).group(1))
        darkest = heat * rgb(theme["heat"]) + (1 - heat) * rgb(theme["raised"])
        assert contrast(rgb(theme["ink"]), darkest) >= 4.5


def rgb(colour: str) -> np.ndarray:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * d for d in colour[1:])
    return np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    """The ratio of WCAG 2.2."""
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (first, second)]
    low, high = sorted(float(c @ [0.2126, 0.7152, 0.0722]) + 0.05 for c in linear)
    return high / low


# ---- the graph ------------------------------------------------------------------------------------------------------


DVC = {"stages": {
    "a": {"foreach": "${plan.a}", "do": {"outs": ["data/${key}.csv", {"data/${key}.h5": {"cache": False}}]}},
    "b": {"foreach": "${plan.b}", "do": {"deps": ["${item.args.source}", "code.py"], "outs": ["${item.args.outs[1]}"]}},
    "c": {"deps": ["data/folder", "data/one.csv", "${plan.nothing}"]},
    "idle": {"foreach": "${plan.idle}", "do": {"deps": ["data/${key}.csv"]}},
}}  # fmt: skip


def test_an_arrow_is_a_file_that_one_stage_writes_and_another_reads():
    args = {"args": {"source": "data/one.csv", "outs": ["x", "data/folder/two.h5"]}}
    found = graph.graph_of(DVC, {"a": {"one": {}, "two": {}}, "b": {"z": args}, "idle": {}})
    assert found.stages == {"a": 2, "b": 1, "c": 1}
    assert found.idle == ["idle"]
    assert found.edges == [("a", "b"), ("b", "c")]  # a to c follows from them


def test_the_picture_has_every_stage_and_arrow_and_no_box_lies_on_another(root):
    found = graph.graph_of(report.facts.read_yaml(root / "dvc.yaml"), plan_file.stages_of(root / "plan.yaml"))
    drawn = pages.tree(str(graph.draw(found)))
    boxes = {g.get("data-stage"): next(g.iter("rect")) for g in drawn.iter("g")}
    assert boxes.keys() == found.stages.keys()
    arrows = {tuple(path.get("data-edge").split()) for path in pages.with_class(drawn, "arrow")}
    assert arrows == set(found.edges)
    place = {name: (float(box.get("x")), float(box.get("y"))) for name, box in boxes.items()}
    width, height = (float(next(drawn.iter("svg")).get(side)) for side in ("width", "height"))
    for name, (x, y) in place.items():
        assert 0 <= x <= width - graph.BOX[0]
        assert 0 <= y <= height - graph.BOX[1]
        for other, (ox, oy) in place.items():
            assert name == other or abs(x - ox) >= graph.BOX[0] or abs(y - oy) >= graph.BOX[1]
    assert all(place[a][1] < place[b][1] for a, b in found.edges)  # the demo's stages never read a later one
    assert ("landmarks", "align") in found.edges
    assert ("train", "evaluate") in found.edges


# ---- pictures -------------------------------------------------------------------------------------------------------


def decoded(embedded: pictures.Embedded) -> np.ndarray:
    head, content = embedded.uri.split(",")
    assert head == "data:image/webp;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)


def test_the_colour_wheel_stays_smooth(tmp_path):
    wheel = np.tile(colour_wheel(96)[..., ::-1], (1, 3, 1))
    noise = np.random.default_rng(0).integers(0, 255, (300, 288, 3), dtype=np.uint8)  # so that it is not kept exactly
    cv2.imwrite(str(tmp_path / "w.png"), np.vstack([wheel, noise]))
    [found] = pictures.embed([tmp_path / "w.png"]).values()
    inside = np.hypot(*(np.mgrid[:96, :96] - 47.5)) < 40
    error = np.abs(decoded(found)[:96, :96].astype(int) - wheel[:96, :96])[inside]
    assert error.mean() < 4  # grey levels of 255; bands of a palette of 64 colours have 10


def test_a_plot_is_kept_exactly_and_transparent_is_white(tmp_path):
    plot = np.zeros((80, 200, 4), np.uint8)
    plot[20:30, 10:150] = (200, 80, 0, 255)
    cv2.imwrite(str(tmp_path / "p.png"), plot)
    [found] = pictures.embed([tmp_path / "p.png"]).values()
    white = np.where(plot[..., 3:] == 255, plot[..., :3], 255)
    assert (decoded(found) == white).all()


def test_pictures_shrink_until_they_fit_and_those_that_do_not_are_counted(project, tmp_path):
    made = project()
    for name in ("a", "b"):
        made.picture(f"figures/synthetic/{name}.png", height=300, width=2000)
    paths = sorted((made.folder / "metrics/figures/synthetic").glob("*.png"))
    assert {p.width for p in pictures.embed(paths).values()} == {1600}
    narrow = pictures.embed(paths, budget=120_000)
    assert len(narrow) == 2
    assert {p.width for p in narrow.values()} == {640}
    found = report.collect(made.folder, made.params, made.plan)
    one = pictures.embed(paths[:1], budget=1)
    assert not one
    page = pages.tree(report.render(found, budget=round(len(narrow[paths[0]].uri) * 3 / 4 * 1.5)))
    assert len(list(page.iter("img"))) == 1
    assert "1 of 2 pictures are left out" in pages.text(page)


# ---- a browser ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(pages.browser() is None, reason=f"none of {', '.join(pages.BROWSERS)} is installed")
def test_a_browser_shows_it_at_every_width_in_both_schemes(project, tmp_path):
    made = whole(project)
    made.evaluate("synthetic-ststnet", classes=[*NAMES, *"defgh"], present=8, people=40, seeds=(0, 1))
    path = tmp_path / "index.html"
    path.write_text(made.page(), encoding="utf-8")
    papers = []
    for scheme in ("light", "dark"):
        found, said = pages.seen(path, [360, 800, 1400], scheme, tmp_path)
        assert not said
        assert [at["width"] for at in found] == [360, 800, 1400]
        for at in found:
            assert at["needed"] <= at["width"], at["wide"]
            assert not at["wide"]
            assert (at["images"], at["broken"]) == (7, 0)
            assert not at["requests"]
        papers.append(found[0]["paper"])
    assert papers[0] != papers[1]


@pytest.mark.slow
@pytest.mark.skipif(pages.browser() is None, reason=f"none of {', '.join(pages.BROWSERS)} is installed")
def test_the_browser_finds_what_is_wrong(tmp_path):
    """The check above is worth something: a page with each of the faults."""
    (tmp_path / "bad.html").write_text(
        '<!DOCTYPE html><body><img src="data:image/webp;base64,AAAA" alt="">'
        '<img src="http://127.0.0.1:9/missing.png" alt=""><div style="width: 500px">wide</div>'
        '<script>console.error("no")</script>'
    )
    [found], said = pages.seen(tmp_path / "bad.html", [360], "light", tmp_path)
    assert found["needed"] > 360
    assert found["wide"]
    assert (found["images"], found["broken"]) == (2, 2)
    assert [name.rpartition("/")[2] for name in found["requests"]] == ["missing.png"]
    assert any('"no"' in line for line in said)
