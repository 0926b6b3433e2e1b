"""What a stage and its workers do when they are killed, when the system refuses them, and where they must not run."""

import ast
import errno
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import voluptuous
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mer import parallel
from mer.errors import MerError, explained
from mer.parallel import Engine, map_clips
from mer.params import load
from mer.plan_file import stages_of
from mer.project import check_folders, check_git, outputs
from stages import _run
from tests.helpers.graph import GRAPH, ROOT
from tests.helpers.processes import living, wait
from tests.helpers.project import edit, make_project
from tests.helpers.refusals import refused as refusal
from tests.helpers.stages import refused, stage
from tools import mend
from tools._dvc import dvc_processes
from tools._errors import one_line


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


@pytest.mark.parametrize("name", ["plan", "preset", "compare", "summary", "publish", "repair", "mend", "manifest"])
def test_an_interrupt_of_a_tool_is_one_line_also_while_the_imports_run(tmp_path, name):
    """Sent as soon as the package is imported, by a module that stands in the place of the first that it imports."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED, encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", f"tools.{name}", "demo"], cwd=tmp_path, capture_output=True, text=True,
                          check=False, timeout=60, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"})  # fmt: skip
    assert done.stderr == f"{name}: interrupted\n"
    assert done.returncode == -signal.SIGINT


INTERRUPTED = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "mer.errors":
            os.kill(os.getpid(), signal.SIGINT)

# A shell starts its background jobs without the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
"""


# ---- what the system refuses ----------------------------------------------------------------------------------------


def called(monkeypatch, capsys, main, *arguments: str, stage: str = "spot") -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", [stage, *arguments])
    with pytest.raises(SystemExit) as end:
        _run.run(stage, main)
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


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "memory is short; free some, or lower runtime.workers, train.folds_in_parallel or a batch_si"),
        (MemoryError("Unable to allocate 7 TiB"), r"memory is short \(Unable to allocate 7 TiB\); free some, or lower"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0.\nDefaultCPUAllocator: can't allocate memory"),
         r"memory is short \(\[enforce fail .* can't allocate memory\); free some"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB."), "the GPU's memory is short; lower a batch_size"),
    ],
    ids=["python", "numpy", "torch", "cuda"],
)  # fmt: skip
def test_short_memory_is_one_line_with_what_to_lower(project, monkeypatch, capsys, error, message):
    monkeypatch.chdir(project)

    def main(stage=None):
        raise error

    code, said = called(monkeypatch, capsys, main, "synthetic-box224")
    assert code == 2
    assert re.fullmatch(rf"spot@synthetic-box224: {message}.*; dvc repro goes on after the finished clips\n", said), (
        said
    )
    with pytest.raises(SystemExit) as end, one_line("plan"):
        main()
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert re.fullmatch(rf"plan: {message}.*\n", said), said


def test_the_short_memory_of_a_worker_arrives_as_such():
    with pytest.raises(MemoryError, match="Unable to allocate"):
        map_clips(np.zeros, [1, 10**16, 2], Engine(workers=2))


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
    with pytest.raises(OSError, match="a fault of ours"), one_line("plan"):
        main(None)


def test_a_time_that_cannot_be_kept_fails_no_stage(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["spot", "synthetic-box224"])

    def refuse(path, data):
        raise PermissionError(errno.EACCES, "no", str(path))

    monkeypatch.setattr(_run, "replace_file", refuse)
    _run.run("spot", lambda stage: None)
    assert "its time is not kept" in capsys.readouterr().err


def test_unfinished_work_of_others_is_kept_within_its_limit_and_what_goes_is_said(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["spot", "synthetic-box224"])
    for name in ("flow@gone", "spot@synthetic-box224"):
        (project / "data/.partial" / name).mkdir(parents=True, exist_ok=True)
        (project / "data/.partial" / name / "a.block").write_bytes(bytes(2_000_000))
    monkeypatch.setattr(_run, "load", lambda path: load(path).model_copy(update={"runtime": limited(0.001)}))
    _run.run("spot", lambda stage: None)
    assert "spot@synthetic-box224: unfinished work of flow@gone (0.00 GB) is removed" in capsys.readouterr().err
    assert not (project / "data/.partial/flow@gone").exists()
    assert (project / "data/.partial/spot@synthetic-box224/a.block").exists()
    (project / "data/.partial/flow@gone").mkdir()
    (project / "data/.partial/flow@gone/a.block").write_bytes(bytes(2_000_000))
    monkeypatch.setattr(_run, "load", lambda path: load(path).model_copy(update={"runtime": limited(0)}))
    _run.run("spot", lambda stage: None)  # 0: no limit
    assert (project / "data/.partial/flow@gone/a.block").exists()


def limited(gigabytes):
    return load(ROOT / "params.yaml").runtime.model_copy(update={"unfinished": gigabytes})


# ---- where it runs --------------------------------------------------------------------------------------------------


def test_another_folder_is_refused_and_nothing_is_left_in_it(tmp_path):
    done = subprocess.run([sys.executable, "-m", "stages.spot", "synthetic-box224"], cwd=tmp_path, capture_output=True,
                          text=True, check=False, env=environment(ROOT))  # fmt: skip
    assert done.returncode == 2
    assert "run from the project's root" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["data", "data/cache", "data/cache/synthetic", "data/raw/synthetic", "metrics/details"]
)
def test_outputs_on_another_disk_are_refused_before_the_work(project, tmp_path, name):
    """DVC refuses a link in the place of any folder above an output, but only once the output is computed."""
    place, elsewhere, plan = project / name, tmp_path / "disk", stages_of(project / "plan.yaml")
    check_folders(plan, project)
    elsewhere.mkdir()
    if place.exists():
        place.rename(elsewhere / "its own")
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(elsewhere)
    try:
        refused(stage(project, "align", "synthetic-box224"), f"{name}: is a link to {elsewhere}", "dvc cache dir")
        with pytest.raises(MerError, match="outside the project"):
            check_folders(plan, project)
    finally:
        place.unlink()
        if (elsewhere / "its own").exists():
            (elsewhere / "its own").rename(place)
    check_folders(plan, project)


def test_a_raw_corpus_may_lie_on_another_disk_and_an_output_be_a_link_within_the_project(project, tmp_path):
    plan = stages_of(project / "plan.yaml")
    (project / "data/raw/casme2").symlink_to(tmp_path)
    (project / "data/elsewhere").mkdir()
    (project / "metrics").mkdir(exist_ok=True)
    (project / "metrics/figures").symlink_to(project / "data/elsewhere")
    try:
        check_folders(plan, project)
    finally:
        for name in ("data/raw/casme2", "metrics/figures"):
            (project / name).unlink()
        (project / "data/elsewhere").rmdir()


def test_the_outputs_of_a_plan_are_those_of_the_graph(project):
    found = set(outputs(stages_of(project / "plan.yaml"), project))
    assert {"data/raw/synthetic/truth.h5", "data/cache/synthetic/box224/frames.h5", "metrics/leakage.json",
            "data/weights/magnet.safetensors", "metrics/plots/synthetic-linear/confusion.csv"} <= found  # fmt: skip
    assert not [name for name in found if "$" in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: None, "dvc.yaml: there is no such file here; run from the project's root"),
        (lambda text: "", "dvc.yaml: does not fit plan.yaml .*; run make plan, or bring it back: git checkout dvc.ya"),
        (lambda text: text + "]", "dvc.yaml: is not valid YAML: .*; correct it, or bring it back: git checkout"),
        (lambda text: text.replace("foreach: ${plan.align}", "foreach: x").replace("  align:", "  algin:"),
         "dvc.yaml: does not fit plan.yaml .*algin"),
    ],
    ids=["missing", "empty", "broken", "another stage"],
)  # fmt: skip
def test_a_graph_that_does_not_fit_the_plan_is_one_line(project, tmp_path, change, message):
    text = change((project / "dvc.yaml").read_text())
    if text is not None:
        (tmp_path / "dvc.yaml").write_text(text)
    refusal(message, check_folders, stages_of(project / "plan.yaml"), tmp_path)


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


INDEX = ("--index", "a", "--out", "c")
TYPED = {
    "train": (("nothere", *INDEX, "--labels", "casme2", "--classes", "5", "--model", "linear", "--reads", "b"),
              "params.yaml: experiments has no 'nothere'; valid names: synthetic-linear, "),
    "magnify_eulerian": (("x", *INDEX, "--source", "b", "--apex", "d", "--crop", "box224", "--recipe", "msmt"),
                         "params.yaml: magnify_eulerian.recipes has no 'msmt'; did you mean 'msmmt'?"),
    "index": (("x", "--reader", "megc2019", "--raw", "b", "--out", "c"),
              "--reader megc2019: mer.corpora.megc2019 reads no layout; name a module that has read_corpus"),
    "pretrain": (("resnet",), "plan.yaml has no pretrain@resnet; did you mean 'resnet18'?"),
    "synthesize": (("synthetc",), "plan.yaml has no synthesize@synthetc; did you mean 'synthetic'?"),
    "evaluate": (("nothere",), "plan.yaml has no evaluate@nothere; valid names: synthetic-linear, "),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPED)
def test_a_name_that_was_typed_wrongly_is_one_line_with_the_nearest(project, monkeypatch, capsys, name):
    monkeypatch.chdir(project)
    arguments, message = TYPED[name]
    code, said = called(monkeypatch, capsys, importlib.import_module(f"stages.{name}").main, *arguments, stage=name)
    assert code == 2
    assert said.startswith(f"{name}@{arguments[0]}: {message}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(("name", "where"), [("synthesize", "synthesize.runs"), ("pretrain", "pretrain.runs")])
def test_a_key_that_the_parameters_do_not_have_is_refused(project, monkeypatch, name, where):
    monkeypatch.chdir(project)
    main = importlib.import_module(f"stages.{name}").main
    refusal(rf"params.yaml: {where} has no 'nothere'; valid names: ", main, _run.Stage(name, "nothere", load()))


# ---- text, locks, shells --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("tools.summary",), ("stages.evaluate", "synthetic-linear")])
@pytest.mark.parametrize(("locale", "refuses"), [("POSIX", True), ("C.UTF-8", False)])
def test_names_of_files_that_are_not_utf8_are_refused_with_a_locale_that_has_them(project, command, locale, refuses):
    """A folder `Müller` was "no folder", and a frame in it a UnicodeEncodeError."""
    settings = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=project, capture_output=True, text=True, check=False,
                          env=environment(project, **settings))  # fmt: skip
    assert done.returncode == 2  # both lack what stages make that no test here runs
    assert len(done.stderr.splitlines()) == 1, done.stderr
    said = "names of files are ascii in this locale, and needed is UTF-8; set LC_ALL=C.UTF-8"
    assert (said in done.stderr) == refuses, done.stderr


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


STAGE = """\
  a@x:
    cmd: python -m stages.a x
    deps:
    - path: mer/a.py
      hash: md5
      md5: 0cc175b9c0f1b6a831c399e269772661
      size: 1
    params:
      params.yaml:
        a.b: 1
    outs:
    - path: data/x
      hash: md5
      md5: 0cc175b9c0f1b6a831c399e269772661.dir
      size: 12
      nfiles: 3
"""
WHOLE = f"schema: '2.0'\nstages:\n{STAGE}{STAGE.replace('a@x', 'b')}"


def dvc_takes(text: str) -> bool:
    try:
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(text))
    except (YAMLError, voluptuous.Invalid):
        return False
    return True


def test_a_dvc_lock_that_a_killed_dvc_has_left_cut_is_named_with_what_brings_it_back(tmp_path):
    """DVC itself shows a page of YAML. Cut anywhere: all that DVC refuses is named, and nothing is removed."""
    lock = tmp_path / "dvc.lock"
    mend.check_lock_file(tmp_path)  # DVC has recorded nothing yet
    taken, said = [], set()
    for end in range(len(WHOLE) + 1):
        text = WHOLE[:end]
        lock.write_text(text, encoding="utf-8")
        try:
            mend.check_lock_file(tmp_path)
            taken.append(text)
        except MerError as error:
            said.add(re.sub("'.*'", "", str(error)))
        assert lock.read_text(encoding="utf-8") == text
    assert all(map(dvc_takes, taken))
    assert taken[-1] == WHOLE
    assert len(taken) < len(WHOLE) / 3  # cut in the text of a command or a number, or between two entries
    assert all(
        re.fullmatch(r"\S*dvc.lock: .*; bring (it|the file) back from git: git checkout dvc.lock.*", s) for s in said
    )


def test_a_dvc_lock_in_conflict_is_told_from_a_damaged_one(tmp_path):
    (tmp_path / "dvc.lock").write_text(f"{WHOLE}<<<<<<< HEAD\n{STAGE}=======\n", encoding="utf-8")
    refusal("holds a merge conflict; take one side: git checkout --ours dvc.lock", mend.check_lock_file, tmp_path)


def test_a_damaged_lock_stays_while_dvc_runs_here(tmp_path):
    lock = tmp_path / ".dvc/tmp/rwlock"
    lock.parent.mkdir(parents=True)
    lock.write_bytes(b"")
    (tmp_path / "dvc.lock").write_text(WHOLE[:100], encoding="utf-8")
    program = tmp_path / "dvc"
    program.write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    running = subprocess.Popen([sys.executable, str(program)], cwd=tmp_path)
    try:
        wait(lambda: dvc_processes(tmp_path), "the process to start", 10)
        for function in (mend.mend, mend.check_lock_file):
            with pytest.raises(MerError, match=rf"DVC runs here \(process {running.pid}\)"):
                function(tmp_path)
    finally:
        running.kill()
        running.wait()
    assert mend.mend(tmp_path)
