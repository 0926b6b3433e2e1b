"""The table at the end of a run: what it prints, and what it says of files that are none of the pipeline's."""

import json
import shutil

import pytest

from mer.errors import MerError
from mer.evaluation.reports import Details, Leaks, Metric, read_json
from tests.helpers.refusals import refused
from tools import summary

NAMES = ["synthetic-linear", "synthetic-uamrn"]
LEAK = {"honest": 0.5, "leaky": 0.625, "gap": 0.125}
UNDEFINED = {"honest": None, "leaky": 0.5, "gap": None}


@pytest.fixture
def metrics(root, tmp_path):
    """The committed metrics of the demo."""
    shutil.copytree(root / "results/demo", tmp_path / "metrics", ignore=shutil.ignore_patterns("params.yaml", "runs"))
    return tmp_path / "metrics"


def change(path, where: str, value) -> None:
    """Set the value at a place such as `ci95/uf1`; a place that ends with / is removed."""
    content = json.loads(path.read_text())
    *parents, last = where.rstrip("/").split("/")
    node = content
    for part in parents:
        node = node[part]
    if where.endswith("/"):
        del node[last]
    else:
        node[last] = value
    path.write_text(json.dumps(content))


def test_the_table_has_a_line_an_experiment(metrics):
    lines = summary.table(NAMES, metrics).splitlines()
    assert [line.split()[0] for line in lines] == ["experiment", *NAMES]
    metric = json.loads((metrics / "synthetic-linear.json").read_text())
    assert f"{metric['uf1']:.4f} [" in lines[1]
    assert lines[1].split()[-2:] == ["100", "8"]


def test_what_is_undefined_is_said_and_a_leak_has_its_claim(metrics):
    change(metrics / "synthetic-linear.json", "uar", None)
    change(metrics / "details/synthetic-linear.json", "ci95/uf1", None)
    assert "undefined" in summary.table(NAMES, metrics)
    (metrics / "leakage.json").write_text(json.dumps({"synthetic-linear": {"uf1": LEAK, "uar": UNDEFINED, "runs": 1}}))
    assert summary.leaks(NAMES, metrics / "leakage.json") == ["synthetic-linear: UF1 0.5000 -> 0.6250"]


@pytest.mark.parametrize("shape", [Metric, Details, Leaks], ids=["metric", "details", "leaks"])
@pytest.mark.parametrize("text", ["", "{", '{"uf1": 9', "[]", "null", "[" * 200_000, "\x00\x01", "1" * 5000])
def test_a_file_that_is_cut_or_none_is_damaged(tmp_path, shape, text):
    (tmp_path / "x.json").write_text(text)
    said = refused(r"x.json: is damaged: .*; run python -m tools.repair \S+x.json, then dvc repro", read_json,
                   tmp_path / "x.json", shape)  # fmt: skip
    assert len(said) < 400


@pytest.mark.parametrize(
    ("name", "where", "value"),
    [
        ("synthetic-linear.json", "uf1/", None), ("synthetic-linear.json", "uf1", "x"),
        ("synthetic-linear.json", "uf1", 1.5), ("synthetic-linear.json", "acc", None),
        ("synthetic-linear.json", "n_clips", 2.5), ("synthetic-linear.json", "n_subjects", True),
        ("details/synthetic-linear.json", "ci95", {}), ("details/synthetic-linear.json", "ci95/uf1", [0.5]),
        ("details/synthetic-linear.json", "protocol/leaky", "no"), ("details/synthetic-linear.json", "runs", []),
        ("details/synthetic-linear.json", "runs", [{"uf1": None, "uar": 0.5, "acc": 0.5}]),
    ],
)  # fmt: skip
def test_a_value_that_no_stage_writes_is_damage(metrics, name, where, value):
    change(metrics / name, where, value)
    refused(f"{name}: is damaged: {where.strip('/').replace('/', '.')}|is undefined without", summary.table, NAMES,
            metrics)  # fmt: skip


@pytest.mark.parametrize("entry", [{}, {"uf1": LEAK}, {"uf1": LEAK, "uar": LEAK | {"honest": None}}, 3])
def test_a_leak_that_no_stage_writes_is_damage(metrics, entry):
    (metrics / "leakage.json").write_text(json.dumps({"synthetic-linear": entry}))
    refused("leakage.json: is damaged: synthetic-linear", summary.leaks, NAMES, metrics / "leakage.json")


def test_a_file_that_is_not_there_or_not_handed_out_is_not_called_damaged(metrics):
    with pytest.raises(MerError, match=r"x.json: is missing; run dvc repro"):
        read_json(metrics / "x.json", Metric)
    (metrics / "x.json").mkdir()
    assert "damaged" not in refused("x.json: is a directory", read_json, metrics / "x.json", Metric)
