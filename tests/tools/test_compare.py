"""The tool that says whether two experiments differ by more than the choice of subjects explains."""

import sys

import numpy as np
import pandas as pd
import pytest

from mer.errors import MerError
from mer.evaluation.predictions import write_predictions
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
        write_predictions(tmp_path / name, table, table[:0], {"model": "m", "class_names": names}, {})
    monkeypatch.chdir(root)  # params.yaml says how many replicates
    return tmp_path


def test_it_says_whether_two_experiments_are_apart(folder):
    lines = compare.compare("good", "bad", folder)
    assert [line.split()[0] for line in lines] == ["uf1", "uar", "acc"]
    assert all(line.endswith("]  apart") and line.split()[1].startswith("+0.") for line in lines)
    assert all(
        line.endswith("+0.0000 [+0.000, +0.000]  not told apart") for line in compare.compare("bad", "bad", folder)
    )
    swapped = compare.compare("bad", "good", folder)
    assert all(line.split()[1].startswith("-0.") and line.endswith("  apart") for line in swapped)


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


def test_it_wants_two_names(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare", "good"])
    with pytest.raises(SystemExit, match=r"name two experiments: python -m tools.compare <first> <second>"):
        compare.main()
