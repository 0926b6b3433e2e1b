"""The tool that says whether two experiments differ by more than the choice of subjects explains."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from mer.errors import MerError
from mer.evaluation.metrics import evaluate
from mer.evaluation.predictions import read_predictions, write_predictions
from mer.evaluation.reports import write_json
from tests.helpers.refusals import refused
from tools import compare

NAMES = ["negative", "positive", "surprise"]


@pytest.fixture
def folder(tmp_path, root, monkeypatch):
    """Three experiments on the same 60 clips of 6 subjects: right by 90 %, right by 30 %, and with other classes."""
    rng, truth = np.random.default_rng(0), np.arange(60) % 3
    for name, right in (("good", 0.9), ("bad", 0.3), ("other", 0.3)):
        p = np.eye(3)[np.where(rng.random(60) < right, truth, (truth + 1) % 3)]
        rows = {
            "seed": 0,
            "selection": "last_epoch",
            "epoch": 1,
            "id": [f"c/s{i % 6}/{i}" for i in range(60)],
            "corpus": "c",
            "subject": [f"s{i % 6}" for i in range(60)],
            "fold": [f"c/s{i % 6}" for i in range(60)],
            "label": truth,
            **{f"p{k}": p[:, k] for k in range(3)},
        }
        names = NAMES if name != "other" else [*NAMES[:2], "disgust"]
        table = pd.DataFrame(rows)
        write_predictions(tmp_path / name, table, table[:0], {"model": "m", "class_names": names, "protocol": {}}, {})
    monkeypatch.chdir(root)  # params.yaml says how many replicates
    return tmp_path


def test_it_says_whether_two_experiments_are_apart(folder):
    """With 6 subjects an exchange of all and one of none are as extreme: 2 of 64."""
    *lines, exchanges, ranks, clips = compare.compare("good", "bad", folder)
    assert [line.split()[0] for line in lines] == ["uf1", "uar", "acc"]
    assert all(line.endswith("]  apart  p 0.0312") and line.split()[1].startswith("+0.") for line in lines)
    assert exchanges == "p: two-sided; whole subjects' predictions exchanged 64 times (all)"
    assert ranks == "Wilcoxon's signed ranks of the subjects' accuracies: p 0.0312 (6 of 6 differ)"
    assert clips.startswith("McNemar over clips, as if each were a subject of its own: p 0.0000 (")
    *lines, _, ranks, clips = compare.compare("bad", "bad", folder)
    assert all(line.endswith("+0.0000 [+0.000, +0.000]  not told apart  p 1.0000") for line in lines)
    assert ranks.endswith(": p undefined (no subject's accuracies differ)")
    *swapped, _, _, _ = compare.compare("bad", "good", folder)
    assert all(line.split()[1].startswith("-0.") and "]  apart  p 0.0312" in line for line in swapped)


def test_beside_a_run_with_exchanged_labels_each_is_scored_by_its_own(folder):
    """The difference is that of the two scores, although the labels differ; other clips are still refused."""
    table, run_info = read_predictions(folder / "good")
    run_info["protocol"] = {"shuffled": True}
    exchanged = table.assign(label=np.random.default_rng(0).permutation(table["label"]))
    write_predictions(folder / "exchanged", exchanged, table[:0], run_info, {})
    *lines, said = compare.compare("good", "exchanged", folder)
    scores = [
        f1_score(t["label"], t[["p0", "p1", "p2"]].to_numpy().argmax(1), average="macro") for t in (table, exchanged)
    ]
    assert len(lines) == 3
    assert lines[0].startswith(f"uf1  {scores[0] - scores[1]:+.4f} [+0.")
    assert all(line.endswith("]  apart") for line in lines)
    assert said == "labels of exchanged were exchanged at random; each is scored by its own labels, without p"
    write_predictions(folder / "fewer", exchanged[:30], table[:0], run_info, {})
    with pytest.raises(MerError, match="on other clips, so"):
        compare.compare("good", "fewer", folder)


def test_runs_of_another_number_have_intervals_without_p(folder):
    table, run_info = read_predictions(folder / "bad")
    both = pd.concat([table, table.assign(seed=1)], ignore_index=True)
    write_predictions(folder / "twice", both, both[:0], run_info, {})
    *lines, why, _, clips = compare.compare("good", "twice", folder)
    assert all(line.endswith("]  apart") for line in lines)
    assert why == "no p: good has 1 run, twice has 2; give both as many train.seeds"
    assert clips.endswith("p undefined (with several runs a clip has no single prediction)")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("good", "bda"), "has no predictions of 'bda'; did you mean 'bad'?"),
        (("good", "other"), "good tells negative, positive, surprise, other negative, positive, disgust"),
    ],
)
def test_bad_input_is_one_line(folder, names, message):
    with pytest.raises(MerError) as error:
        compare.compare(*names, folder)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [["good"], ["a", "b", "c"], ["--published"], ["--published", "a", "b", "c"], ["a", "--published"], ["a", "-b"],
     ["--published", "a", "--b"]],
)  # fmt: skip
def test_it_wants_two_names_or_a_paper(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    usage = r"name two experiments: python -m tools.compare <first> <second>, or a paper: .* --published <paper>"
    with pytest.raises(SystemExit, match=usage):
        compare.main()


# ---- the t-test that a paper prints ------------------------------------------------------------------------------


def details(folder, name, corpora, *, guess=(0, 1, 2), leaky=False):
    """Write the details of an experiment that predicts `guess` for the three classes, on corpora of these names."""
    rows = pd.DataFrame([{"corpus": c, "label": k, "clip": i} for c in corpora for k in range(3) for i in range(4)])
    p = np.eye(3)[np.array(guess)[rows["label"]]]
    rows = rows.assign(seed=0, subject="s" + (rows["clip"] % 2).astype(str), p0=p[:, 0], p1=p[:, 1], p2=p[:, 2])
    rows["id"] = rows["corpus"] + "/" + rows.index.astype(str)
    run_info = {"class_names": NAMES, "protocol": {"leaky": leaky}, "environment": {}}
    _, content = evaluate(rows, run_info, replicates=20, seed=0)
    (folder / "details").mkdir(exist_ok=True)
    write_json(folder / "details" / f"{name}.json", content)
    return folder / "details"


def test_a_papers_p_values_stand_beside_the_recomputed_ones(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare", "--published", "dcma"])
    compare.main()
    heading, *lines, what, warning = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["dcma", "against"]
    assert len(lines) == 11
    assert lines[3].split() == ["OFF-ApexNet", "[42]", "0.0170", "0.0176", "0.0160", "0.0160"]
    assert len({len(line) for line in (heading, *lines)}) == 1
    assert what == "p: one-sided paired t-test over 4 scores: full, casme2, samm, smic_hs"
    assert warning.startswith("unsound: the whole is counted beside its own parts")


def test_an_experiment_is_tested_against_each_method_of_the_paper(tmp_path):
    """All clips right: scores of 1, of which the last p is the t-test by hand."""
    folder = details(tmp_path, "right", ["casme2-cropped", "samm", "smic"])
    heading, *lines, _, _, whose = compare.published("dcma", "right", folder)
    assert heading.endswith("UF1 right")
    printed = np.array([0.92, 0.933, 0.83, 0.79])  # MERASTC
    t = (1 - printed).mean() / ((1 - printed).std(ddof=1) / 2)
    angle = np.arctan(t / np.sqrt(3))
    p = 0.5 - (angle + np.sin(angle) * np.cos(angle)) / np.pi  # 3 degrees of freedom
    assert lines[-1].split()[-1] == f"{p:.4f}"
    assert whose == "right: its clips are not those of dcma, so its p says less still"
    assert "leaky (LEAKY): its" in compare.published("dcma", "leaky", details(
        tmp_path, "leaky", ["casme2", "samm", "smic"], leaky=True))[-1]  # fmt: skip


def test_a_part_without_a_score_leaves_its_p_undefined(tmp_path):
    folder = details(tmp_path, "some", ["casme2", "samm", "smic"])
    content = json.loads((folder / "some.json").read_text())
    content["parts"]["samm"] |= {"runs": [{"uf1": None, "uar": 0.5, "acc": 0.5}], "undefined": {"uf1": "no clip"}}
    write_json(folder / "some.json", content)
    lines = compare.published("dcma", "some", folder)
    assert lines[1].split()[-1] == "undefined"
    assert lines[12].startswith("undefined: uf1 against Bi-WOOF [11]: a part has no score, ")


@pytest.mark.parametrize(
    ("paper", "experiment", "message"),
    [
        ("dcma", "single", "single has no parts; name an experiment on a composite of casme2, samm, smic"),
        ("dcma", "two", "two has parts casme2, samm; name an experiment on a composite of"),
        ("dcma", "twice", "twice has parts casme2, casme2-cropped, samm, smic; name an experiment on a composite of"),
        ("dcma", "sngle", "details has no 'sngle'; did you mean 'single'?"),
        ("dmca", "single", "no printed p-values of 'dmca'; did you mean 'dcma'?"),
    ],
)
def test_a_paper_or_an_experiment_that_cannot_be_tested_is_one_line(tmp_path, paper, experiment, message):
    details(tmp_path, "two", ["casme2", "samm"])
    details(tmp_path, "twice", ["casme2", "casme2-cropped", "samm", "smic"])
    folder = details(tmp_path, "single", ["casme2"])
    refused(message, compare.published, paper, experiment, folder)
    refused("x.json: is missing; run dvc repro", compare.published, "dcma", "x", tmp_path / "nowhere")
