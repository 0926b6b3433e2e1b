"""The tool that says what differs between a commit and the working tree, and why."""

import json
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from tests.helpers.refusals import refused
from tools.revisions import causes, changes

MD5 = "0" * 32


def stage(deps=(), outs=(), params=None):
    return {
        "cmd": "x",
        "deps": [{"path": path, "md5": md5} for path, md5 in deps],
        "outs": [{"path": path, "md5": MD5} for path in outs],
        "params": {"params.yaml": params or {}},
    }


def lock(rate=0.1, code="1" * 32, of_other=1, more=None):
    """Flow is read by two experiments; each has a section of its own."""
    stages = {"flow": stage([("mer/flow.py", code)], ["flow.h5"], {"flow": {"warps": 5, "scales": {"fine": rate}}})}
    for name, own in (("a-x", {"size": 1}), ("a-y", {"size": of_other})):
        stages[f"train@{name}"] = stage([("flow.h5", MD5)], [f"predictions/{name}"], {name: own, **(more or {})})
        stages[f"evaluate@{name}"] = stage([(f"predictions/{name}", MD5)])
    return stages


def metric(uf1, **more):
    return {"uf1": uf1, "uar": 0.5, "acc": 0.5, "n_clips": 9, "n_subjects": 3, "parts": {}} | more


def put(folder, stages, metrics):
    (folder / "metrics").mkdir(exist_ok=True)
    with (folder / "dvc.lock").open("w") as file:
        YAML(typ="safe").dump({"schema": "2.0", "stages": stages}, file)
    for name, content in metrics.items():
        (folder / f"metrics/{name}.json").write_text(json.dumps(content))


def git(folder, *arguments):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], cwd=folder, check=True,
                   capture_output=True)  # fmt: skip


@pytest.fixture
def project(tmp_path):
    git(tmp_path, "init", "-q")
    put(tmp_path, lock(), {"a-x": metric(0.4), "a-y": metric(0.6), "leakage": {}})
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_causes_are_those_upstream_of_the_experiment():
    assert causes("a-x", lock(), lock(of_other=2)) == []
    assert causes("a-y", lock(), lock(of_other=2)) == ["a-y.size: 1 -> 2"]
    assert causes("a-x", lock(), lock(rate=0.2, code="2" * 32)) == [
        "flow.scales.fine: 0.1 -> 0.2",
        "mer/flow.py changed",
    ]
    assert causes("a-x", lock(), lock(more={"weights": {"a": 1, "b": 2}})) == ["weights is new"]
    assert causes("a-x", lock(more={"weights": {"a": 1}}), lock()) == ["weights is no longer read"]
    assert causes("a-x", lock(more={"t": {"a": 1}}), lock(more={"t": {"b": 1}})) == [
        "t.a: 1 -> (not there)", "t.b: (not there) -> 1"
    ]  # fmt: skip


def test_metrics_that_differ_stand_with_their_causes(project):
    assert changes("HEAD", project)[0].endswith("0 of 2 experiments have other metrics")
    put(project, lock(of_other=2), {"a-y": metric(None, n_clips=8), "a-z": metric(0.1)})
    lines = changes("HEAD", project)
    assert lines[0].endswith(": 2 of 3 experiments have other metrics")
    assert lines[1:] == [
        "a-y: UF1 0.6000 -> undefined, clips 9 -> 8",
        "    a-y.size: 1 -> 2",
        "a-z: only now",
        "tables: metrics/tables.json is not here; run dvc repro",
    ]
    (project / "metrics/a-x.json").unlink()
    assert "a-x: only then" in changes("HEAD", project)


def test_rows_are_compared_where_dvcs_cache_has_those_of_the_commit(project, monkeypatch):
    def content(ours, verdict):
        score = {"printed": 0.5, "ours": ours, "verdict": verdict}
        row = {"method": "M", "dataset": "composite", "part": "samm", "classes": 3,
               "scores": {"uf1": score, "uar": {"printed": 0.4, "ours": None, "verdict": None}}}  # fmt: skip
        return json.dumps({"tables": [{"paper": "p", "table": "Table 1", "rows": [row]}]})

    (project / "metrics/tables.json").write_text(content(0.45, "within interval"))
    commit = changes("HEAD", project)[0].split()[1].rstrip(":")
    assert changes("HEAD", project)[-1] == (
        f"tables: DVC's cache has no metrics/tables.json of {commit}, so their rows are not compared"
    )
    monkeypatch.setattr("dvc.api.read", lambda *args, **kwargs: content(None, "not run"))
    assert changes("HEAD", project)[-2:] == [
        "tables: rows that differ: 1",
        "p Table 1, M, composite samm 3 classes, uf1: not run -> 0.4500, within interval",
    ]
    (project / "metrics/tables.json").write_text("{")
    refused("metrics/tables.json: is damaged", changes, "HEAD", project)


def test_bad_input_is_one_line(project):
    refused("git does not know 'HEAD~7'; name a commit, a branch or a tag", changes, "HEAD~7", project)
    (project / "dvc.lock").write_text("schema")
    refused("dvc.lock: is damaged", changes, "HEAD", project)
    (project / "dvc.lock").unlink()
    refused("dvc.lock", changes, "HEAD", project)
    put(project, lock(), {"a-x": {"uf1": 0.4}})
    git(project, "commit", "-aqm", "damaged")
    put(project, lock(), {"a-x": metric(0.4)})
    refused("metrics/a-x.json of .*: is no metric of mer; name a commit that has one", changes, "HEAD", project)


def test_a_reader_that_has_seen_enough_ends_a_tool_quietly(root):
    """As `make compare | head -1`: the pipe is closed before anything is written."""
    code = (
        "import sys\nfrom tools._errors import one_line\n"
        "with one_line('x'):\n    sys.stdin.read()\n    print('y' * 99999)"
    )
    running = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    running.stdout.close()
    _, said = running.stdin.close(), running.stderr.read()
    running.stderr.close()
    assert (running.wait(), said) == (0, "")
