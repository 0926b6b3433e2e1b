"""The folder of an experiment's predictions: what is written is read, and it is there whole or not at all."""

import json

import numpy as np
import pandas as pd
import pytest

from mer.errors import MerError
from mer.evaluation.predictions import describe_run, read_predictions, write_predictions
from mer.storage.cache import ClipCache

ROWS = pd.DataFrame(
    {
        "seed": [0, 0], "selection": "last_epoch", "epoch": 3, "id": ["c/01/a", "c/02/b"], "corpus": "c",
        "subject": ["01", "02"], "fold": ["c/01", "c/02"], "label": [0, 1], "p0": [1 / 3, 0.5], "p1": [2 / 3, 0.5],
    }
)  # fmt: skip
INFO = {"model": "m", "class_names": ["b", "a"]}


def test_what_is_written_is_read(tmp_path):
    folder = tmp_path / "predictions" / "x"
    found = {i: {"data": np.full((2, 2), n, np.float32), "gamma": np.float32(n)} for n, i in enumerate(ROWS["id"])}
    write_predictions(folder, tmp_path / "scratch", ROWS, ROWS.assign(epoch=1), INFO, found)
    predictions, info = read_predictions(folder)
    pd.testing.assert_frame_equal(predictions, ROWS, rtol=1e-9, atol=0)  # nine digits are written
    assert predictions["subject"].tolist() == ["01", "02"]  # text, also where it looks like a number
    assert info == INFO
    assert (read_predictions(folder, "audit.csv")[0]["epoch"] == 1).all()
    explained = ClipCache(folder / "explain.h5", "explain")
    assert explained.ids == ROWS["id"].tolist()
    assert explained.params == {"model": "m"}
    assert explained.extra("gamma", "c/02/b") == 1
    assert not (tmp_path / "scratch").exists()


def test_an_earlier_folder_is_replaced(tmp_path):
    folder, scratch = tmp_path / "x", tmp_path / "scratch"
    write_predictions(folder, scratch, ROWS, ROWS, INFO, {})
    scratch.mkdir()
    (scratch / "left.csv").write_text("of a killed run")
    write_predictions(folder, scratch, ROWS, ROWS[:0], INFO, {})
    assert {path.name for path in folder.iterdir()} == {"predictions.csv", "run.json"}


def test_equal_predictions_are_equal_bytes(tmp_path):
    for name in ("1", "2"):
        info = describe_run(
            experiment="x", model="m", knobs={"b": 1, "a": 2.5}, recipe=None, class_names=["b", "a"], inputs=["i"],
            protocol={"selection": "last_epoch"}, excluded={"c/03/z": "why"}, n_of_other_classes=4, device="cpu",
        )  # fmt: skip
        write_predictions(tmp_path / name, tmp_path / "scratch", ROWS, ROWS[:0], info, {})
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()
    info = json.loads((tmp_path / "1/run.json").read_text())
    assert info["protocol"] == {
        "evaluation": "leave-one-subject-out", "selection": "last_epoch", "n_excluded": 1,
        "excluded": {"c/03/z": "why"}, "n_of_other_classes": 4,
    }  # fmt: skip
    assert info["environment"]["device"] == "cpu"
    assert info["environment"]["numpy"] == np.__version__


def test_predictions_that_cannot_be_read(tmp_path):
    with pytest.raises(MerError, match=r"x: predictions cannot be read .* run dvc repro"):
        read_predictions(tmp_path / "x")
    write_predictions(tmp_path / "x", tmp_path / "scratch", ROWS, ROWS[:0], INFO, {})
    (tmp_path / "x/run.json").write_text("{")
    with pytest.raises(MerError, match="predictions cannot be read"):
        read_predictions(tmp_path / "x")
