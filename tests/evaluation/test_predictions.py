"""The folder of an experiment's predictions: what is written is read, and it is there whole or not at all."""

import contextlib
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mer.evaluation.predictions import describe_run, read_predictions, run_text, write_predictions
from mer.storage.cache import ClipCache
from tests.helpers.refusals import refused

ROWS = pd.DataFrame(
    {
        "seed": [0, 0], "selection": "last_epoch", "epoch": 3, "id": ["c/01/a", "c/02/b"], "corpus": "c",
        "subject": ["01", "02"], "fold": ["c/01", "c/02"], "label": [0, 1], "p0": [1 / 3, 0.5], "p1": [2 / 3, 0.5],
    }
)  # fmt: skip
INFO = {"model": "m", "class_names": ["b", "a"]}


def write(folder, *content):
    write_predictions(folder, *content)


def test_what_is_written_is_read(tmp_path):
    folder = tmp_path / "predictions" / "x"
    found = {i: {"data": np.full((2, 2), n, np.float32), "gamma": np.float32(n)} for n, i in enumerate(ROWS["id"])}
    write(folder, ROWS, ROWS.assign(epoch=1), INFO, found)
    table, info = read_predictions(folder)
    pd.testing.assert_frame_equal(table, ROWS, rtol=1e-9, atol=0)  # nine digits are written
    assert table["subject"].tolist() == ["01", "02"]  # text, also where it looks like a number
    assert info == INFO
    assert (read_predictions(folder, "audit.csv")[0]["epoch"] == 1).all()
    explained = ClipCache(folder / "explain.h5", "explain")
    assert explained.ids == ROWS["id"].tolist()
    assert explained.params == {"model": "m"}
    assert explained.extra("gamma", "c/02/b") == 1
    assert [path.name for path in folder.parent.iterdir()] == ["x"]


def test_an_earlier_folder_is_replaced_and_leftovers_of_a_killed_run_go(tmp_path):
    folder = tmp_path / "x"
    write(folder, ROWS, ROWS, INFO, {})
    for name in (".x.new", ".x.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "left.csv").write_text("of a killed run")
    write(folder, ROWS, ROWS[:0], INFO, {})
    assert {path.name for path in folder.iterdir()} == {"predictions.csv", "run.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_equal_predictions_are_equal_bytes(tmp_path):
    for name in ("1", "2"):
        info = describe_run(
            experiment="x", model="m", knobs={"b": 1, "a": 2.5}, recipe=None, class_names=["b", "a"], inputs=["i"],
            protocol={"selection": "last_epoch"}, excluded={"c/03/z": "why"}, n_of_other_classes=4,
            editions={"c": "2014"}, device="cpu",
        )  # fmt: skip
        write(tmp_path / name, ROWS, ROWS[:0], info, {})
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()
    info = json.loads((tmp_path / "1/run.json").read_text())
    assert info["protocol"] == {
        "evaluation": "leave-one-subject-out", "selection": "last_epoch", "n_excluded": 1,
        "excluded": {"c/03/z": "why"}, "n_of_other_classes": 4, "editions": {"c": "2014"},
    }  # fmt: skip
    assert info["environment"]["device"] == "cpu"
    assert info["environment"]["numpy"] == np.__version__


def test_text_stays_text_and_numbers_are_the_same_to_the_bit(tmp_path):
    """A subject named NA is one, and 007 another than 7; a probability is the float that its digits are nearest to."""
    names = ["NA", "nan", "null", "007", "1e5", "TRUE"]
    p = np.random.default_rng(0).random(len(names)) * 10.0 ** -np.arange(len(names))
    rows = pd.DataFrame({
        "seed": -3, "selection": "last_epoch", "epoch": 12, "id": [f"c/{name}/a" for name in names], "corpus": "NA",
        "subject": names, "fold": [f"c/{name}" for name in names], "label": 1, "p0": p, "p1": 1 - p,
    })  # fmt: skip
    write(tmp_path / "x", rows, rows[:0], INFO, {})
    found, _ = read_predictions(tmp_path / "x")
    for column in ("subject", "fold", "id", "corpus"):
        assert found[column].tolist() == rows[column].tolist()
    assert found["p0"].tolist() == [float(f"{value:.9g}") for value in p]
    assert [str(found[c].dtype) for c in ("seed", "epoch", "label", "p0")] == ["int64", "int64", "int64", "float64"]


@pytest.fixture
def folder(tmp_path):
    found = {clip_id: {"data": np.zeros(2, np.float32)} for clip_id in ROWS["id"]}
    write(tmp_path / "x", ROWS, ROWS.assign(epoch=1), INFO, found)
    return tmp_path / "x"


REMEDY = r".*; run python -m tools\.repair \S+, then dvc repro$"


@pytest.mark.parametrize("name", ["predictions.csv", "audit.csv"])
@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda t: t.rpartition("0,last_epoch")[0], "it has 1 rows, 2 were written"),
        (lambda t: t.partition("\n")[0] + "\n", "it has 0 rows, 2 were written"),
        (lambda t: t + t.splitlines(keepends=True)[-1], r"line 4 \(clip c/02/b\) has the clip of line 3 again"),
        (lambda t: t.replace("label", "lable"), "columns label are missing"),
        (lambda t: t.replace(",p1", ",p2"), "columns p1 are missing"),
        (lambda t: "\n".join(line.rpartition(",")[0] for line in t.splitlines()) + "\n", "columns p1 are missing"),
        (lambda t: "\n".join(line + ",1" for line in t.splitlines()) + "\n", "has columns seed, selection, epoch"),
        (lambda t: t.replace("c/01,0,", "c/01,zero,"), r"line 2 \(clip c/01/a\): label is 'zero'"),
        (lambda t: t.replace("c/01,0,", "c/01,2,"), r"line 2 \(clip c/01/a\): label is 2, there are 2 classes"),
        (lambda t: t.replace("c/01,0,", "c/01,,"), r"line 2 \(clip c/01/a\): label is ''"),
        (lambda t: t.replace("0.333333333", "nan"), r"line 2 \(clip c/01/a\): p0 is 'nan'"),
        (lambda t: t.replace("0.333333333", "9" * 5000), r"line 2 \(clip c/01/a\): p0 is '9999"),
        (lambda t: t.replace("0.333333333", "0.333333334"), r"its bytes are not those that run\.json has the SHA"),
        (lambda t: t.replace("c/01,0,", "c/01,1,"), "its bytes are not those"),
        (lambda t: t.replace("01/a", "01/b"), "its bytes are not those"),
        (lambda t: t[:-1], "its last line is cut"),
        (lambda t: "", "it is empty"),
        (lambda t: "{}", "its last line is cut"),
        (lambda t: "\x00\n", "columns seed, selection, epoch"),
    ],
)  # fmt: skip
def test_a_list_that_is_another_than_was_written(folder, name, edit, what):
    path = folder / name
    before = path.read_text()
    path.write_text(edit(before))
    assert path.read_text() != before
    refused(rf"{name}: is damaged: {what}{REMEDY}", read_predictions, folder, name)


def test_any_flipped_bit_is_noticed(folder):
    for name in ("predictions.csv", "run.json"):
        content = (folder / name).read_bytes()
        for place in range(len(content)):
            (folder / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            refused(f"{name}: is damaged", read_predictions, folder)
        (folder / name).write_bytes(content)
    read_predictions(folder)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "it does not describe a run"),
        ("{}", "it does not describe a run"),
        ("[]", "it does not describe a run"),
        ("null", "it does not describe a run"),
        ("{", "it does not describe a run"),
        ("9" * 5000, "it does not describe a run"),
        ("[" * 100_000, "it does not describe a run"),
        ('{"sha256": 1}', "it does not describe a run"),
        ('{"sha256": "x", "class_names": ["a"], "files": {}}', "its content is not that of its SHA-256"),
        (run_text({"class_names": ["a", "b"]}), "it does not describe a run"),
        (run_text({"class_names": "ab", "files": {}}), "its content is not that of its SHA-256"),
    ],
)
def test_a_description_that_is_another_than_was_written(folder, text, what):
    (folder / "run.json").write_text(text)
    refused(rf"run\.json: is damaged: {what}{REMEDY}", read_predictions, folder)


def test_what_json_writes_otherwise_is_read_as_it_was_written(tmp_path):
    info = INFO | {"knobs": {10: (1, 2), 9: None}, "recipe": {"rate": 5e-5, "limit": float("inf")}}
    write(tmp_path / "x", ROWS, ROWS[:0], info, {})
    found = read_predictions(tmp_path / "x")[1]
    assert found["knobs"] == {"10": [1, 2], "9": None}
    assert found["recipe"] == info["recipe"]


@pytest.mark.parametrize("name", ["predictions.csv", "audit.csv", "explain.h5"])
def test_a_missing_file_is_noticed_whichever_is_read(folder, name):
    """Without audit.csv the leak would not be reported, as if none had been asked for."""
    (folder / name).unlink()
    refused(rf"x: is damaged: it has no {name}{REMEDY}", read_predictions, folder)


def test_a_list_of_another_run_and_no_run_at_all(folder):
    write(folder.with_name("y"), ROWS, ROWS[:0], INFO, {})
    (folder / "audit.csv").rename(folder.with_name("y") / "audit.csv")
    refused(r"y/audit\.csv: is not among the files of this run", read_predictions, folder.with_name("y"), "audit.csv")
    refused(r"z/run\.json: there is no such file; run dvc repro, or correct", read_predictions, folder.with_name("z"))


def test_an_error_of_the_system_is_not_called_damage(folder):
    (folder / "run.json").unlink()
    (folder / "run.json").mkdir()
    assert "repair" not in refused(r"run\.json: is a directory", read_predictions, folder)


# ---- replacing a folder ---------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: nothing that handles an Exception sees it."""


@pytest.mark.parametrize("step", range(1, 12))
def test_killed_at_any_step_the_old_or_the_new_folder_is_whole(tmp_path, monkeypatch, step):
    folder, left = tmp_path / "x", step
    write(folder, ROWS, ROWS[:0], INFO, {})
    new = ROWS.assign(epoch=7)

    def counted(function):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for name in ("rename", "mkdir", "write_text", "unlink"):
            patched.setattr(Path, name, counted(getattr(Path, name)))
        patched.setattr(shutil, "rmtree", counted(shutil.rmtree))
        patched.setattr(pd.DataFrame, "to_csv", counted(pd.DataFrame.to_csv))
        with contextlib.suppress(Killed):
            write(folder, new, new[:0], INFO, {})
    epochs = [read_predictions(p)[0]["epoch"][0] for p in (folder, tmp_path / ".x.old", tmp_path / ".x.new")
              if (p / "run.json").exists()]  # fmt: skip
    assert set(epochs) & {3, 7}
    assert folder.exists() or set(epochs) == {3, 7}  # between the two renames both are whole, beside its place
    write(folder, new, new[:0], INFO, {})
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert read_predictions(folder)[0]["epoch"].tolist() == [7, 7]


def test_a_folder_that_cannot_be_put_into_place_leaves_the_old_one(tmp_path, monkeypatch):
    folder = tmp_path / "x"
    write(folder, ROWS, ROWS[:0], INFO, {})
    rename = Path.rename

    def refuse(self, target):
        if self.name == ".x.new":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="cross-device"):
        write(folder, ROWS.assign(epoch=7), ROWS[:0], INFO, {})
    assert read_predictions(folder)[0]["epoch"].tolist() == [3, 3]


def test_nothing_is_gathered_on_another_disk(tmp_path, monkeypatch):
    """data/predictions may be a mount of its own: every rename stays within it."""
    moved = []
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, target: (moved.append((self, Path(target))), rename(self, target)))
    for _ in range(2):
        write(tmp_path / "mounted/x", ROWS, ROWS[:0], INFO, {})
    assert len(moved) == 3
    assert {path.parent for pair in moved for path in pair} == {tmp_path / "mounted"}
