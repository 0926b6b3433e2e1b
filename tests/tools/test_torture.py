"""The campaign sees what went wrong: other bytes, a failure, a hang; and what a line's remedy mends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mer.errors import MerError
from tools import torture
from tools.torture import DIFFERS, FAILED, LINE, SAME, Project

ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
DVC_YAML = """stages:
  first:
    cmd: "{first}"
    deps: [seed]
    outs: [data/first]
  second:
    cmd: cat data/first > data/second
    deps: [data/first]
    outs: [data/second]
"""


@pytest.fixture
def project(root, tmp_path):
    """A graph of two stages that DVC runs; tools/ is this checkout's."""

    def made(first):
        for name in ("tools", "mer"):
            (tmp_path / name).symlink_to(root / name)
        (tmp_path / "data").mkdir()
        (tmp_path / "seed").write_text("1\n")
        (tmp_path / "dvc.yaml").write_text(DVC_YAML.format(first=first))
        subprocess.run(["dvc", "init", "-q", "--no-scm"], cwd=tmp_path, env=ENVIRONMENT, check=True)
        found = Project(tmp_path)
        assert found.repro()[0] == 0
        found.learn()
        return found

    return made


@pytest.mark.slow
def test_equal_bytes_other_bytes_and_damage_are_told_apart(project):
    good = project("cp seed data/first")
    assert set(good.expected) == {"first", "second"}
    good.forget("first")
    assert not (good.folder / "data/first").exists()
    assert good.judged("nothing", "first", None).ended == SAME
    assert (good.folder / "data/first").read_text() == "1\n"
    # What was learned is what counts, not what DVC would call up to date.
    good.expected["second"]["data/second"] = "0" * 32
    trial = good.judged("nothing", "second", None)
    assert (trial.ended, trial.said) == (DIFFERS, "data/second")


@pytest.mark.slow
def test_a_stage_that_gives_other_bytes_each_time_differs(project):
    uneven = project("date +%s%N > data/first")
    uneven.forget("first")
    assert uneven.judged("nothing", "first", None).ended == DIFFERS


@pytest.mark.slow
def test_a_failure_without_a_remedy_is_one_and_a_remedy_is_followed(project, monkeypatch):
    made = project("test ! -e say || (cat say >&2; false) && cp seed data/first")
    made.forget("first")
    (made.folder / "say").write_text("first: is broken\n")
    trial = made.judged("a fault", "first", None)
    assert (trial.ended, trial.said) == (FAILED, "first: is broken")
    line = "first: data/x.h5 is damaged; run python -m tools.repair data/x.h5, then dvc repro"
    (made.folder / "say").write_text(f"{line}\n")
    real = subprocess.run

    def run(command, **more):
        if command[1:3] != ["-m", "tools.repair"]:
            return real(command, **more)
        assert command[3] == "data/x.h5"
        (made.folder / "say").unlink()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(torture.subprocess, "run", run)
    assert made.judged("a fault", "first", None) == torture.Trial("a fault", "first", None, LINE, line)


@pytest.mark.slow
def test_a_run_that_hangs_is_ended_and_said(project, monkeypatch):
    made = project("test ! -e say || sleep 60; cp seed data/first")
    made.forget("first")
    (made.folder / "say").touch()
    monkeypatch.setattr(torture, "PATIENCE", 4)
    assert made.repro() == (124, ["hangs"])
    assert made.living() == []


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(MerError, match="is no project of torture; name a new folder"):
        Project(tmp_path).lay_out()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_table_counts_every_trial_once():
    ended = [("kill", SAME), ("kill", SAME), ("kill", DIFFERS), ("flip", LINE), ("disk", "skipped: not root")]
    trials = [{"what": what, "ended": how} for what, how in ended]
    assert torture.table(trials).splitlines() == [
        "| disturbance | times | same bytes | one line, then the same bytes | skipped | other bytes | failed |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| kill | 3 | 2 | 0 | 0 | 1 | 0 |",
        "| flip | 1 | 0 | 1 | 0 | 0 | 0 |",
        "| disk | 1 | 0 | 0 | 1 | 0 | 0 |",
        "| all | 5 | 2 | 1 | 1 | 1 | 0 |",
    ]
