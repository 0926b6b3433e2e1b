"""What a stage and its workers do when they are killed, when the system refuses them, and where they must not run."""

import ast
import errno
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mer import parallel
from mer.errors import MerError, explained
from mer.parallel import Engine, map_clips
from mer.project import check_folders, check_git
from stages import _run
from tests.helpers.graph import GRAPH, ROOT
from tests.helpers.processes import living, wait
from tests.helpers.project import edit, make_project
from tests.helpers.stages import refused, stage
from tools import mend


@pytest.fixture(scope="module")
def project(root, tmp_path_factory):
    """A tiny project with its landmarks, on two workers."""
    folder = make_project(root, tmp_path_factory.mktemp("project"))
    edit(folder, lambda p: p["runtime"].update(workers=2))
    for name in ("synthesize", "index", "landmarks"):
        code, lines = stage(folder, name, "synthetic")
        assert code == 0, lines
    return folder


def environment(folder: Path, **more) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), **more}


# ---- kills ----------------------------------------------------------------------------------------------------------


def end_at_seven(item: int) -> int:
    time.sleep(0.1)
    if item == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_killed_worker_is_one_line_with_its_item_and_what_to_lower():
    with pytest.raises(
        MerError, match=r"a worker process was killed at .*7.*; lower runtime\.workers \(2 were at work\)"
    ):
        map_clips(end_at_seven, range(10), Engine(workers=2))
    assert map_clips(abs, [-1, -2], Engine(workers=2)) == [1, 2]  # the next call has workers of its own


@pytest.mark.parametrize("delay", [0.0, 0.3, 1.0])
def test_workers_of_a_stage_that_is_killed_while_they_start_end_too_and_leave_nothing(project, delay):
    running = subprocess.Popen(
        [sys.executable, "-m", "stages.align", "synthetic-box224"], cwd=project, env=environment(project),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait(lambda: len(living(project)) > 1, "a worker to start", 30)
    time.sleep(delay)
    running.kill()
    running.wait()
    wait(lambda: not living(project), "every process to end", 15)
    parallel.remove_leftovers()
    places = [*Path("/tmp").glob(f"mer-{running.pid}-*"), *Path("/dev/shm").glob(f"*{running.pid}*")]
    assert not places


def test_what_a_living_process_uses_is_not_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel.tempfile, "gettempdir", lambda: str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f"mer-{ended.pid}-x", f"mer-{os.getpid()}-x", "mer-theirs", "other"):
        (tmp_path / name).mkdir()
    parallel.remove_leftovers()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f"mer-{os.getpid()}-x", "mer-theirs", "other"])


@pytest.mark.parametrize("delay", [0.15, 0.6, 1.2])
def test_an_interrupt_is_one_line_also_while_the_imports_run(project, delay):
    running = subprocess.Popen(
        [sys.executable, "-m", "stages.flow", "synthetic-box224", "--index", "x"], cwd=project,
        env=environment(project), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(delay)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 1


# ---- what the system refuses ----------------------------------------------------------------------------------------


def called(monkeypatch, capsys, main, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["spot", *arguments])
    with pytest.raises(SystemExit) as end:
        _run.run("spot", main)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO,
                                  errno.EMFILE, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ESTALE])  # fmt: skip
def test_an_error_of_the_system_is_one_line_with_path_reason_and_remedy(project, monkeypatch, capsys, code):
    monkeypatch.chdir(project)

    def main(stage):
        raise OSError(code, os.strerror(code), "data/cache/x.h5")

    exit_code, said = called(monkeypatch, capsys, main, "synthetic-box224")
    assert exit_code == 2
    assert len(said.splitlines()) == 1
    assert said.startswith(f"spot@synthetic-box224: data/cache/x.h5: {os.strerror(code).lower()}; ")
    assert "delete" not in said


def test_a_full_disk_names_a_folder_also_where_the_write_names_none():
    line = explained(OSError(errno.ENOSPC, "full"))
    assert line.split(":")[0] in ("data/.partial", "data/cache", "data/predictions", "data/raw", ".dvc", ".", "/tmp")


def test_an_error_that_is_none_of_the_systems_keeps_its_traceback(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["spot", "synthetic-box224"])

    def main(stage):
        raise OSError("a fault of ours")

    with pytest.raises(OSError, match="a fault of ours"):
        _run.run("spot", main)


def test_a_time_that_cannot_be_kept_fails_no_stage(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["spot", "synthetic-box224"])

    def refuse(path, data):
        raise PermissionError(errno.EACCES, "no", str(path))

    monkeypatch.setattr(_run, "replace_file", refuse)
    _run.run("spot", lambda stage: None)
    assert "its time is not kept" in capsys.readouterr().err


# ---- where it runs --------------------------------------------------------------------------------------------------


def test_another_folder_is_refused_and_nothing_is_left_in_it(tmp_path):
    done = subprocess.run([sys.executable, "-m", "stages.spot", "synthetic-box224"], cwd=tmp_path, capture_output=True,
                          text=True, check=False, env=environment(ROOT))  # fmt: skip
    assert done.returncode == 2
    assert "run from the project's root" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_outputs_on_another_disk_are_refused_before_the_work(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk") / "cache"
    (project / "data/cache").rename(elsewhere)
    (project / "data/cache").symlink_to(elsewhere)
    try:
        refused(stage(project, "align", "synthetic-box224"), "data/cache: is a link to", "dvc cache dir")
        with pytest.raises(MerError, match="outside the project"):
            check_folders(project)
    finally:
        (project / "data/cache").unlink()
        elsewhere.rename(project / "data/cache")
    check_folders(project)


def test_a_downloaded_archive_is_no_repository(tmp_path, project):
    with pytest.raises(MerError, match="git init"):
        check_git(tmp_path)
    check_git(project)


@pytest.mark.parametrize("name", sorted(GRAPH))
@pytest.mark.parametrize("key", ["/absolute", "x/../../../../../victim", "..", "a" * 201, "A", "$(touch X)", "a b"])
def test_a_key_is_checked_before_anything_is_opened(project, monkeypatch, capsys, name, key):
    monkeypatch.chdir(project)
    before = sorted(p for p in project.rglob("*") if "cache" not in p.parts)
    main = importlib.import_module(f"stages.{name}").main
    monkeypatch.setattr(sys, "argv", [name, key])
    with pytest.raises(SystemExit) as end:
        _run.run(name, main)
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert "is no key of a stage" in said
    assert len(said.splitlines()) == 1
    assert sorted(p for p in project.rglob("*") if "cache" not in p.parts) == before


# ---- text, locks, shells --------------------------------------------------------------------------------------------


def test_a_preset_is_written_whole_in_any_locale(project):
    """In place and in the locale's encoding it left an empty file: the first sign beyond ASCII ended the write."""
    locale = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    before = {name: (project / name).read_bytes() for name in ("params.yaml", "plan.yaml")}
    done = subprocess.run([sys.executable, "-m", "tools.preset", "demo"], cwd=project, capture_output=True, check=False,
                          env=environment(project, **locale))  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = (project / "params.yaml").read_text(encoding="utf-8")
    assert "preset: demo" in found
    assert "…" in found or "|" in found
    code, lines = stage(project, "evaluate", "synthetic-linear")
    assert code == 2
    assert "predictions" in lines[0]  # params and plan are sound
    for name, content in before.items():
        (project / name).write_bytes(content)


def test_every_text_file_is_opened_as_utf8():
    """The locale's encoding is another on another machine."""
    for path in [p for room in ("mer", "stages", "tools") for p in (ROOT / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            words = {keyword.arg for keyword in node.keywords}
            texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            where = f"{path.relative_to(ROOT)}, line {node.lineno}"
            if name == "read_text":
                assert "encoding" in words or node.args, f"{where}: read_text without encoding"
            if name == "write_text":
                assert "encoding" in words or len(node.args) > 1, f"{where}: write_text without encoding"
            if name == "open" and isinstance(node.func, ast.Name):
                mode = next((t for t in texts[-1:] if set(t) <= set("rwab+x")), "r")
                assert "b" in mode or "encoding" in words, f"{where}: open without encoding"


@pytest.mark.parametrize("content", [b"", b"{", b"\x00\xff"])
def test_a_lock_that_a_killed_dvc_has_left_damaged_is_removed(tmp_path, content):
    lock = tmp_path / ".dvc/tmp/rwlock"
    lock.parent.mkdir(parents=True)
    lock.write_bytes(content)
    assert mend.mend(tmp_path)
    assert not lock.exists()
    assert not mend.mend(tmp_path)
    lock.write_text('{"data/x": {}}', encoding="utf-8")
    assert not mend.mend(tmp_path)
    assert lock.exists()


def test_a_damaged_lock_stays_while_dvc_runs_here(tmp_path):
    lock = tmp_path / ".dvc/tmp/rwlock"
    lock.parent.mkdir(parents=True)
    lock.write_bytes(b"")
    program = tmp_path / "dvc"
    program.write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    running = subprocess.Popen([sys.executable, str(program)], cwd=tmp_path)
    try:
        wait(lambda: mend.dvc_processes(tmp_path), "the process to start", 10)
        with pytest.raises(MerError, match=rf"DVC runs here \(process {running.pid}\)"):
            mend.mend(tmp_path)
    finally:
        running.kill()
        running.wait()
    assert mend.mend(tmp_path)
