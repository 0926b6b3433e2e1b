"""The rehearsal: the project that it lays out, how it names what failed, and a run of it under DVC (slow)."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mer.fictional import rehearsal
from mer.params import load
from mer.plan_file import check, stages_of
from tests.helpers.processes import living, wait
from tests.helpers.refusals import refused
from tools import rehearse

LOG = """
Running stage 'index@casme2':
> python -m stages.index casme2 --raw data/raw/casme2
index@casme2: data/raw/casme2/sub01/EP10_01: frame 48 is missing; bring it
ERROR: failed to reproduce 'index@casme2': failed to run: python -m stages.index casme2, exited with 2
Running stage 'index@samm':
index@samm: read with a remark
Running stage 'train@samm-linear':
train@samm-linear: a remark of its own
Traceback (most recent call last):
  File "stages/train.py", line 1
numpy.linalg.LinAlgError: no
ERROR: failed to reproduce 'train@samm-linear': failed to run: python -m stages.train samm-linear, exited with 1
Running stage 'train@smic-linear':
Killed
ERROR: failed to reproduce 'train@smic-linear': failed to run: python -m stages.train smic-linear, exited with 137
"""


@pytest.fixture
def drawn(monkeypatch):
    """Raw data without a picture: what `lay_out` does besides; the list counts how often it was drawn."""
    calls = []

    def write(raw: Path, *_) -> None:
        calls.append(raw)
        for name in rehearsal.TAKES:
            (raw / name).mkdir(parents=True, exist_ok=True)
            (raw / name / "a.jpg").write_bytes(b"x")

    monkeypatch.setattr(rehearsal, "write", write)
    return calls


@pytest.fixture(autouse=True)
def _in_project(root, monkeypatch):
    monkeypatch.chdir(root)


# ---- the project ----------------------------------------------------------------------------------------------------


def test_a_project_is_laid_out_and_this_one_stays(tmp_path, drawn, root):
    before = {name: (root / name).read_bytes() for name in ("params.yaml", "plan.yaml", "dvc.yaml", "dvc.lock")}
    folder = tmp_path / "there"
    params = rehearse.lay_out(folder, "casme2")
    assert {name: (root / name).read_bytes() for name in before} == before
    assert load(folder / "params.yaml") == params
    check(params, folder / "plan.yaml")
    assert set(stages_of(folder / "plan.yaml")["train"]) == set(params.experiments)
    assert (folder / "dvc.yaml").read_bytes() == before["dvc.yaml"]
    for path in ("mer/plan.py", "stages/_run.py", "assets/weights/magnet.safetensors", "tools/rehearse.py"):
        assert (folder / path).read_bytes() == (root / path).read_bytes()
    for name in rehearsal.TAKES:
        assert (folder / f"data/raw/{name}.manifest.csv").is_file()
    assert not (folder / "dvc.lock").exists()


def test_what_has_changed_here_changes_there_and_the_rest_stays(tmp_path, drawn):
    folder = tmp_path / "there"
    rehearse.lay_out(folder, "casme2")
    (folder / "mer/gone.py").write_text("x = 1\n")
    (folder / "mer/plan.py").write_text("x = 1\n")
    (folder / "data/predictions/casme2-linear").mkdir()
    (folder / "data/predictions/samm-linear").mkdir()
    kept = (folder / "mer/params.py").stat().st_mtime_ns
    rehearse.lay_out(folder, "casme2")
    assert not (folder / "mer/gone.py").exists()
    assert (folder / "mer/plan.py").read_bytes() == Path("mer/plan.py").read_bytes()
    assert (folder / "mer/params.py").stat().st_mtime_ns == kept
    assert [p.name for p in (folder / "data/predictions").iterdir()] == ["casme2-linear"]
    assert len(drawn) == 1


def test_raw_data_are_drawn_anew_where_they_were_not_finished(tmp_path, drawn):
    folder = tmp_path / "there"
    rehearse.lay_out(folder, "casme2")
    (folder / rehearse.MARK).write_text("of an older state of the code")
    rehearse.lay_out(folder, "casme2")
    assert len(drawn) == 2


def test_a_folder_of_something_else_is_refused(tmp_path, drawn, root):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/dear.txt").write_text("x")
    refused("letters: is no rehearsal; name a new folder", rehearse.lay_out, tmp_path / "letters")
    for folder in (Path(), root, root.parent, root / "mer/.."):
        refused("holds this project; name a folder of the rehearsal's own", rehearse.lay_out, folder)
    (root / "mer").stat()
    refused("mer: is no rehearsal", rehearse.lay_out, root / "mer")
    assert drawn == []


def test_git_and_dvc_pass_over_the_default_folder(root):
    ignored = (root / ".gitignore").read_text().splitlines()
    assert "/data/*" in ignored
    assert not any(line.startswith("!/data/rehearsal") for line in ignored)
    assert str(rehearse.FOLDER) in (root / ".dvcignore").read_text().splitlines()


# ---- its end --------------------------------------------------------------------------------------------------------


def test_a_stage_that_failed_is_named_with_its_line():
    assert rehearse.failures(LOG.splitlines()) == [
        "index@casme2: data/raw/casme2/sub01/EP10_01: frame 48 is missing; bring it",
        "train@samm-linear: numpy.linalg.LinAlgError: no",
        f"train@smic-linear: failed; {rehearse.LOG} has what it said",
    ]
    assert rehearse.failures(["Running stage 'index@casme2':", "index@casme2: read 15 clips"]) == []


def test_experiments_without_metrics_are_named(tmp_path):
    (tmp_path / "metrics").mkdir()
    names = ["casme2-linear", "samm-linear", "smic-linear"]
    assert rehearse.without_metrics(tmp_path, names) == names
    for name in names[:2]:
        (tmp_path / f"metrics/{name}.json").write_text("{}")
    assert rehearse.without_metrics(tmp_path, names) == ["smic-linear"]


def test_so_are_rows_of_the_tables_that_were_not_run(tmp_path):
    (tmp_path / "metrics").mkdir()
    names = ["casme2-linear", "samm-linear"]
    for name in names:
        (tmp_path / f"metrics/{name}.json").write_text("{}")
    rows = [
        {"experiment": name, "scores": {"uf1": {"verdict": "within interval"}, "uar": {"verdict": verdict}}}
        for name, verdict in (
            ("samm-linear", "not run"),
            ("casme2-linear", "below"),
            (None, None),
            ("of-another", "not run"),
        )
    ]
    (tmp_path / "metrics/tables.json").write_text(json.dumps({"tables": [{"table": "Table 2", "rows": rows}]}))
    assert rehearse.without_metrics(tmp_path, names) == ["samm-linear"]


def test_a_pattern_that_matches_nothing_ends_before_dvc(tmp_path, drawn, capsys, monkeypatch):
    monkeypatch.setattr(rehearse, "reproduce", lambda *_: 1 / 0)
    with pytest.raises(SystemExit) as end:
        rehearse.main(["--corpora", "casme2", "--only", "*-linnear", str(tmp_path / "there")])
    assert end.value.code == 2
    assert capsys.readouterr().err == "rehearse: --only: '*-linnear' matches no experiment\n"


@pytest.mark.parametrize("code", [0, 1])
def test_the_summary_has_experiments_stages_and_what_failed(tmp_path, drawn, capsys, monkeypatch, code):
    def reproduce(folder: Path, targets: list[str]) -> tuple[int, list[str]]:
        assert targets == ["evaluate@casme2-linear", "evaluate@casme2-linear-innereye"]
        (folder / "metrics").mkdir()
        for name in ("casme2-linear", "casme2-linear-innereye")[: 2 - code]:
            (folder / f"metrics/{name}.json").write_text("{}")
        return code, LOG.splitlines() if code else ["Running stage 'index@casme2':"]

    monkeypatch.setattr(rehearse, "reproduce", reproduce)
    arguments = ["--corpora", "casme2", "--only", "casme2-linear*", str(tmp_path / "there")]
    if code == 0:
        rehearse.main(arguments)
        said = capsys.readouterr().out
        assert "2 of 2 experiments have metrics; stages that ran: 1; minutes: 0." in said
        assert said.endswith("every experiment went through\n")
        return
    with pytest.raises(SystemExit):
        rehearse.main(arguments)
    said = capsys.readouterr()
    assert "1 of 2 experiments have metrics; stages that ran: 4; minutes: 0." in said.out
    assert "without metrics: casme2-linear-innereye" in said.out
    assert said.err.startswith("rehearse: failed: 3, the first: index@casme2: data/raw/casme2/sub01/EP10_01: ")
    assert said.err.count("\n") == 1


# ---- under DVC ------------------------------------------------------------------------------------------------------

ONLY = ["--corpora", "casme2", "--only", "casme2-linear"]


def command(folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "tools.rehearse", *ONLY, str(folder)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ""})  # fmt: skip


@pytest.mark.slow
def test_a_rehearsal_goes_through_after_a_kill_and_a_bad_end_is_named(tmp_path):
    folder = tmp_path / "there"
    first = command(folder)
    wait(lambda: (folder / "data/cache/casme2/landmarks.h5").exists(), "the landmarks", 600)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert first.returncode == 130
    wait(lambda: not living(folder), "DVC and its stage to end", 60)

    said, error = (second := command(folder)).communicate(timeout=600)
    assert second.returncode == 0, error
    assert "Running stage 'index@casme2'" not in said
    assert "Running stage 'train@casme2-linear'" in said
    assert "1 of 1 experiments have metrics" in said
    metrics = json.loads((folder / "metrics/casme2-linear.json").read_text())
    assert (metrics["n_clips"], metrics["n_subjects"]) == (15, 4)
    assert "index@casme2" in YAML(typ="safe").load((folder / "dvc.lock").read_text())["stages"]

    next((folder / "data/raw/casme2/CASME2_RAW_selected/sub01").glob("*/img47.jpg")).unlink()
    (folder / "data/raw/casme2.manifest.csv").write_text("path,size,mtime\n")
    said, error = (third := command(folder)).communicate(timeout=600)
    assert third.returncode == 2
    assert error.splitlines()[-1].startswith("rehearse: failed: 1, the first: index@casme2: ")
    assert "img47.jpg" in error.splitlines()[-1] or "frame" in error.splitlines()[-1]
