"""The papers' tables beside ours: verdicts, which result a row takes, what is missing, and the written forms."""

import csv
import io
import json
import shutil

import pytest

from mer.errors import FileError, MerError
from mer.evaluation import published, tables
from mer.evaluation.metrics import KEPT
from mer.params import load
from mer.storage.yaml_files import read_yaml
from tests.helpers.refusals import refused


def scored(uf1=0.8, low=0.7, high=0.9, n_clips=442, **more):
    scores = dict.fromkeys(KEPT, uf1) | more
    return tables.Scored(scores, dict.fromkeys(KEPT, (low, high)), n_clips, {})


def result(experiment="composite-dcma", **more):
    given = {"source": None, "preset": "dcma", "corpus": "composite", "model": "dcma", "classes": 3, "seeds": 1,
             "n_subjects": 68, "whole": scored()}  # fmt: skip
    return tables.Result(experiment=experiment, **(given | more))


def rows(content, paper, table):
    (found,) = (t["rows"] for t in content["tables"] if (t["paper"], t["table"]) == (paper, table))
    return found


def own(content, paper="dcma", table="Table 5"):
    return [row for row in rows(content, paper, table) if row["ours"]]


@pytest.mark.parametrize(
    ("printed", "ours", "interval", "expected"),
    [
        (0.7, 0.72, (0.65, 0.8), "within interval"),
        (0.65, 0.72, (0.65, 0.8), "within interval"),
        (0.8, 0.72, (0.65, 0.8), "within interval"),
        (0.81, 0.72, (0.65, 0.8), "below"),
        (0.64, 0.72, (0.65, 0.8), "above"),
        (0.7, None, None, "undefined"),
        (0.7, 0.72, None, "no interval"),
    ],
)
def test_a_verdict_says_where_ours_lies(printed, ours, interval, expected):
    assert tables.verdict(printed, ours, interval) == expected


def test_every_table_of_the_four_papers_has_its_rows_in_the_printed_order():
    content = tables.verdicts([], "demo")
    with_metrics = [r for r in published.all_records() if r.metrics]
    assert sum(len(t["rows"]) for t in content["tables"]) == len(with_metrics)
    assert [(t["paper"], t["table"]) for t in content["tables"]] == list(
        dict.fromkeys((r.paper, r.table) for r in with_metrics)
    )
    for table in content["tables"]:
        expected = [r for r in with_metrics if (r.paper, r.table) == (table["paper"], table["table"])]
        assert [row["method"] for row in table["rows"]] == [r.method for r in expected]
        for row, record in zip(table["rows"], expected, strict=True):
            assert {name: score["printed"] for name, score in row["scores"].items()} == record.metrics
    assert len({t["file"] for t in content["tables"]}) == len(content["tables"])


def test_without_a_result_a_row_says_what_is_missing_and_the_line_that_runs_it():
    content = tables.verdicts([], "demo")
    (row,) = own(content)
    assert {score["verdict"] for score in row["scores"].values()} == {"not run"}
    assert row["missing"] == "CASME II, SAMM and SMIC-HS in data/raw and CK+, RAF-DB and FER-2013 in data/raw"
    assert row["command"] == "make preset P=dcma C=composite && make repro"
    for table in content["tables"]:
        for row in table["rows"]:
            assert (row["experiment"] is None) == (row["command"] is None) == (row["missing"] is None)


@pytest.mark.slow
def test_the_line_that_runs_a_row_is_of_a_preset_that_has_the_experiment(root, monkeypatch):
    from ruamel.yaml import YAML

    from tools.preset import compose

    monkeypatch.chdir(root)
    for record in published.all_records():
        if record.experiment is not None:
            words = dict(word.split("=") for word in tables.how_to_run(record)[1].split() if "=" in word)
            text = compose(words["P"], words.get("C", ""))
            assert record.experiment in YAML(typ="safe").load(text)["experiments"], record


def test_ours_stands_beside_the_printed_score():
    (row,) = own(tables.verdicts([result(seeds=3)], "dcma"))
    assert (row["seeds"], row["n_clips"], row["from"], row["command"]) == (3, 442, None, None)
    assert row["scores"]["uf1"] == {
        "printed": 0.9213, "ours": 0.8, "ci95": [0.7, 0.9], "difference": pytest.approx(-0.1213), "verdict": "below"
    }  # fmt: skip
    undefined = result(whole=tables.Scored(dict.fromkeys(KEPT), dict.fromkeys(KEPT), 442, {"uf1": "no clip"}))
    (row,) = own(tables.verdicts([undefined], "dcma"))
    assert row["scores"]["uf1"]["verdict"] == "undefined"
    assert row["scores"]["uf1"]["difference"] is None


def test_a_part_of_the_composite_takes_the_scores_of_its_clips():
    parts = {"casme2": scored(0.91, 0.9, 0.95, 145), "samm": scored(0.5), "smic": scored(0.6)}
    of = {row["part"]: row for row in own(tables.verdicts([result(parts=parts)], "dcma"), table="Table 6")}
    assert {part: row["scores"]["uf1"]["ours"] for part, row in of.items()} == {
        "casme2": 0.91,
        "samm": 0.5,
        "smic_hs": 0.6,
    }
    assert of["casme2"]["n_clips"] == 145
    assert of["casme2"]["scores"]["uf1"]["verdict"] == "within interval"  # printed 0.934
    (row,) = (r for r in own(tables.verdicts([result()], "dcma"), table="Table 6") if r["part"] == "samm")
    assert row["scores"]["uf1"]["verdict"] == "not run"


def test_the_present_graph_comes_before_published_copies_and_those_with_more_seeds_before_fewer():
    one, three = result(source="results/a", whole=scored(0.1)), result(source="results/b", seeds=3, whole=scored(0.3))
    for found in ([one, three], [three, one]):
        (row,) = own(tables.verdicts(found, "demo"))
        assert (row["from"], row["scores"]["uf1"]["ours"]) == ("results/b", 0.3)
    (row,) = own(tables.verdicts([result(), three, one], "demo"))
    assert (row["from"], row["scores"]["uf1"]["ours"]) == (None, 0.8)


@pytest.mark.parametrize("what", ["leaky", "shuffled"])
def test_what_saw_the_test_subject_or_has_exchanged_labels_stands_in_no_row(what):
    content = tables.verdicts([result(**{what: True})], "demo")
    assert content["results"][0][what] is True
    (row,) = own(content)
    assert row["scores"]["uf1"]["verdict"] == "not run"


def test_mismatches_are_noted_at_their_rows_and_nowhere_else():
    content = tables.verdicts([], "demo")
    assert all("D-14" in row["notes"] for row in rows(content, "dcma", "Table 5"))
    assert not any("D-14" in row["notes"] for row in rows(content, "dcma", "Table 7"))
    used = {name for table in content["tables"] for row in table["rows"] for name in row["notes"]}
    assert set(content["notes"]) == used == {entry.id for entry in tables.facts().mismatches}, (
        "a note that concerns no row"
    )


def test_the_uar_column_of_micronbert_holds_accuracies_of_uamrn():
    """Every row with that note repeats an accuracy that UAMRN prints of the same clips, within 0.008."""
    content = tables.verdicts([], "demo")
    accuracies = {}
    for record in published.records("uamrn"):
        accuracies.setdefault(record.dataset, []).append(record.metrics.get("acc", -1))
    noted = [row for t in content["tables"] for row in t["rows"] if "uar-is-accuracy" in row["notes"]]
    assert len(noted) == 6
    for row in noted:
        printed = row["scores"]["uar"]["printed"]
        assert min(abs(printed - value) for value in accuracies[row["dataset"]]) <= 0.0081


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(root, tmp_path):
    """The published copies, and the present graph's details, which are those of the published demo."""
    shutil.copytree(root / "results", tmp_path / "results")
    shutil.copytree(root / "results/demo/details", tmp_path / "metrics/details")
    return tmp_path


def test_results_are_those_of_the_graph_and_the_published_ones_of_other_presets(root, project):
    params = load(root / "params.yaml")
    found = tables.results(project, params)
    assert [r.experiment for r in found if r.source is None] == list(params.experiments)
    assert {r.source for r in found} - {None} == {
        f"results/{path.parent.name}" for path in (root / "results").glob("*/params.yaml") if path.parent.name != "demo"
    }
    for one in found:
        folder = project / (one.source or "results/demo")
        metric = json.loads((folder / f"{one.experiment}.json").read_text())
        assert {k: metric[k] for k in KEPT} == pytest.approx(dict(one.whole.scores), abs=1e-12)
        assert (metric["n_clips"], metric["n_subjects"]) == (one.whole.n_clips, one.n_subjects)
        written = read_yaml(root / (one.source or ".") / "params.yaml")  # published long ago, it may not load as params
        assert one.model == written["experiments"][one.experiment]["model"]
    content = tables.verdicts(found, "demo")
    (row,) = (r for r in rows(content, "dcma", "Table 5") if "STSTNet" in r["method"])
    assert (row["from"], row["n_clips"]) == ("results/megc2019_flow", 442)
    assert [r["experiment"] for r in content["results"] if r["baseline"] and r["from"] is None] == [
        "synthetic-linear",
        "synthetic-linear-three",
    ]
    assert [row["experiment"] for row in tables.overview(found)] == list(params.experiments)


def test_what_is_not_there_is_left_out_and_what_is_damaged_is_refused(root, project):
    params = load(root / "params.yaml")
    path = project / "metrics/details/synthetic-dcma.json"
    path.write_text('{"ci95": 3}')
    refused("metrics/details/synthetic-dcma.json: is damaged", tables.results, project, params)
    path.unlink()
    assert "synthetic-dcma" not in [r.experiment for r in tables.results(project, params) if r.source is None]
    shutil.rmtree(project / "results")
    shutil.rmtree(project / "metrics")
    assert tables.results(project, params) == []


def test_markdown_has_every_row_and_says_what_is_missing():
    content = tables.verdicts([result()], "dcma")
    (table,) = (t for t in content["tables"] if t["file"] == "dcma_table_5")
    text = tables.markdown(table, content["notes"])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(table["rows"])
    assert len({line.count("|") for line in lines}) == 1
    assert "| **Ours** | composite, 3 classes | 0.9213 | 0.8000 [0.700, 0.900] | -0.1213, below |" in text
    assert (
        "Not run: needs the flow release in data/raw/megc2019_flow. `make preset P=megc2019_flow && make repro`" in text
    )
    assert f"*D-14*: {content['notes']['D-14']}" in text


def test_latex_has_no_character_that_is_a_command():
    assert tables.tex(r"a_b & 5% {x} #1 \y ~ ^ $ μ") == (
        r"a\_b \& 5\% \{x\} \#1 \textbackslash{}y \textasciitilde{} \textasciicircum{} \$ $\mu$"
    )
    content = tables.verdicts([], "demo")
    for table in content["tables"]:
        body = tables.latex(table).splitlines()
        inner = body[body.index(r"\midrule") + 1 : body.index(r"\bottomrule")]
        assert len(inner) == len(table["rows"])
        columns = 2 + 3 * len(tables.columns(table))
        assert all(line.replace(r"\&", "").count("&") == columns - 1 for line in inner)


def test_the_csv_has_a_line_a_row_and_metric_with_the_same_numbers():
    content = tables.verdicts([result()], "dcma")
    lines = list(csv.DictReader(io.StringIO(tables.written(content)["tables.csv"])))
    assert len(lines) == sum(len(row["scores"]) for t in content["tables"] for row in t["rows"])
    (line,) = (x for x in lines if (x["table"], x["own_method"], x["metric"]) == ("Table 5", "True", "uf1")
               and x["paper"] == "dcma")  # fmt: skip
    assert (line["printed"], line["ours"], line["low"], line["verdict"]) == ("0.9213", "0.8", "0.7", "below")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "the file: input should be"),
        ("{papers: {a: {}}, mismatches: []}", "papers.a.name: field required; restore it"),
        (
            "{papers: {}, mismatches: [{id: a, text: b, paper: [x]}]}",
            "mismatches.0.paper: extra inputs are not permitted",
        ),
    ],
)
def test_a_damaged_file_of_papers_is_refused(tmp_path, text, message):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(FileError, match=message):
        tables.read_papers(path)
    with pytest.raises(MerError, match="there is no such file"):
        tables.read_papers(tmp_path / "no.yaml")
