"""`make clean-partial`: all that is unfinished goes, but for a stage that runs."""

import pytest

from mer.errors import MerError
from mer.storage.unfinished import lock_of
from tools.clean import clean, main


def leave(folder, *stages):
    for stage in stages:
        (folder / stage).mkdir(parents=True)
        (folder / stage / "a.block").write_bytes(bytes(1_000))


def test_everything_goes_and_what_is_free_again_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    leave(tmp_path / "data/.partial", "flow@a", "train@b")
    main()
    assert capsys.readouterr().out.startswith("unfinished work of 2 stages is removed, 0.00 GB")
    assert [path.name for path in (tmp_path / "data/.partial").iterdir()] == ["locks"]
    main()  # nothing left, or no folder at all, is no error
    assert "of 0 stages" in capsys.readouterr().out


def test_a_stage_that_runs_keeps_its_work_and_is_named(tmp_path):
    leave(tmp_path, "flow@a", "train@b")
    with lock_of("train@b", tmp_path), pytest.raises(MerError, match=r"^train@b runs.*1 others.*end it first"):
        clean(tmp_path)
    assert (tmp_path / "train@b/a.block").exists()
    assert not (tmp_path / "flow@a").exists()
    assert clean(tmp_path) == (1, 1_000)
