"""The tool that removes a damaged output and its copies; tests/stages/test_damage.py tries it under DVC."""

import hashlib
import json
import subprocess
import sys
import time

import pytest
from ruamel.yaml import YAML

from tests.helpers.refusals import refused
from tools._dvc import outputs
from tools.repair import cache_folder, repair

FILES = {"data/a/x.h5": b"x", "data/predictions/e": {"predictions.csv": b"p", "run.json": b"r", "more/deep": b"d"},
         "data/a/x.h5.more": b"y", "metrics/e.json": b"m"}  # fmt: skip


@pytest.fixture
def project(tmp_path):
    """Two files and a folder with their copies in a cache, and a metric that has none."""
    store, outs = tmp_path / "cache/files/md5", []

    def keep(content: bytes, ending: str = "") -> str:
        md5 = hashlib.md5(content).hexdigest() + ending
        (store / md5[:2]).mkdir(parents=True, exist_ok=True)
        (store / md5[:2] / md5[2:]).write_bytes(content)
        return md5

    for name, content in FILES.items():
        parts = {"": content} if isinstance(content, bytes) else content
        for inner, data in parts.items():
            path = tmp_path / name / inner if inner else tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if isinstance(content, dict):
            entries = [{"md5": keep(data), "relpath": inner} for inner, data in content.items()]
            md5 = keep(json.dumps(entries).encode(), ".dir")
        else:
            md5 = keep(content) if name.startswith("data") else hashlib.md5(content).hexdigest()
        outs.append({"path": name, "hash": "md5", "md5": md5})
    YAML(typ="safe").dump({"schema": "2.0", "stages": {"s": {"cmd": "c", "outs": outs}, "t": {"cmd": "d"}}},
                          tmp_path / "dvc.lock")  # fmt: skip
    return tmp_path


def copies(project) -> set[bytes]:
    return {path.read_bytes() for path in (project / "cache").rglob("*") if path.is_file() and path.suffix != ".dir"}


def run(project, name):
    return repair(project / name, project, project / "cache")


def test_a_file_goes_with_its_copy_and_nothing_else(project):
    before = copies(project)
    removed = run(project, "data/a/x.h5")
    assert removed[0] == str(project / "data/a/x.h5")
    assert len(removed) == 2
    assert not (project / "data/a/x.h5").exists()
    assert before - copies(project) == {b"x"}
    assert (project / "data/a/x.h5.more").exists()
    assert len(run(project, "data/a/x.h5")) == 1  # again, where there is nothing left


@pytest.mark.parametrize(
    ("name", "gone"),
    [("data/predictions/e/run.json", {b"r"}), ("data/predictions/e/more", {b"d"}),
     ("data/predictions/e", {b"p", b"r", b"d"}), ("data/predictions/e/absent", set())],
)  # fmt: skip
def test_of_a_folder_goes_all_that_is_in_place_and_the_copies_that_are_named(project, name, gone):
    before = copies(project)
    run(project, name)
    assert not (project / "data/predictions/e").exists()
    assert before - copies(project) == gone
    assert not list((project / "cache").rglob("*.dir"))


def test_a_folder_whose_list_is_gone_or_damaged(project):
    listing = next((project / "cache").rglob("*.dir"))
    listing.write_bytes(b"[{")
    run(project, "data/predictions/e/run.json")
    assert not listing.exists()
    assert not (project / "data/predictions/e").exists()


def test_an_output_without_a_copy(project):
    assert run(project, "metrics/e.json") == [str(project / "metrics/e.json")]


@pytest.mark.parametrize("name", ["data/raw/casme2", "data", "data/a", "data/a/x.h", ".", "..", "../x", "/etc/passwd"])
def test_what_is_no_output_is_left_alone(project, name):
    before = sorted(project.rglob("*"))
    said = refused("is no output that dvc.lock knows, nothing was removed", run, project, name)
    assert "delete" not in said
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("content", [None, b"", b"a: [", b"\xff", b"- 1", b"stages: 1", b"stages: {s: {outs: [1]}}"])
def test_a_lock_file_that_is_none(project, content):
    (project / "dvc.lock").unlink()
    if content is not None:
        (project / "dvc.lock").write_bytes(content)
    message = "dvc.lock: (is not here, so DVC knows no outputs; run from|is damaged, .*; bring it back from git: git)"
    refused(message, run, project, "data/a/x.h5")
    assert (project / "data/a/x.h5").exists()


@pytest.mark.parametrize("md5", ["../../../victim", "ab/../../victim", "0" * 31, "0" * 33, "/victim"])
def test_a_lock_file_that_points_elsewhere(project, md5):
    (project / "victim").write_text("kept")
    lock = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(lock.replace(hashlib.md5(b"x").hexdigest(), f"'{md5}'"))
    refused("dvc.lock: .* is no MD5; bring the file back", run, project, "data/a/x.h5")
    assert (project / "victim").exists()
    assert (project / "data/a/x.h5").exists()


def test_while_dvc_runs_nothing_is_removed(project):
    fake = project / "dvc"
    fake.write_text("import time; time.sleep(60)")
    running = subprocess.Popen([sys.executable, str(fake)], cwd=project)
    try:
        time.sleep(0.2)
        refused(rf"DVC runs here \(process {running.pid}\); wait for it", run, project, "data/a/x.h5")
        assert (project / "data/a/x.h5").exists()
    finally:
        running.kill()
        running.wait()


def test_the_cache_is_where_dvc_is_set_to(tmp_path):
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    assert cache_folder(tmp_path) == tmp_path / ".dvc/cache"
    subprocess.run([sys.executable, "-m", "dvc", "cache", "dir", "--local", "/elsewhere"], cwd=tmp_path, check=True,
                   capture_output=True)  # fmt: skip
    assert str(cache_folder(tmp_path)) == "/elsewhere"


def test_the_projects_own_lock_file_is_read(root):
    found = outputs(root / "dvc.lock")
    assert found
    assert all(len(md5.removesuffix(".dir")) == 32 for md5 in found.values())
