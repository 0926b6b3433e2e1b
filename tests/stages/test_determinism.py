"""Seeds x workers x restart: products, predictions and metrics have the bytes of one worker, undisturbed.

Through one process, two, and the two workers of a dask scheduler; each also with a kill -9 after the first finished
item. Two seeds that give the same would prove nothing, so they have to differ.
"""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.helpers.cluster import Cluster
from tests.helpers.processes import living, wait
from tests.helpers.project import edit, make_project
from tests.helpers.stages import finished, stage

pytest.importorskip("distributed", reason="dask is not installed: pip install -e '.[dask]'")
pytestmark = pytest.mark.slow
CHAIN = [
    ("align", "synthetic-box224", "data/cache/synthetic/box224/frames.h5"),
    ("spot", "synthetic-box224", "data/cache/synthetic/box224/apex.h5"),
    ("flow", "synthetic-box224", "data/cache/synthetic/box224/flow.h5"),
    ("train", "synthetic-linear", "data/predictions/synthetic-linear"),
    ("train", "synthetic-ststnet", "data/predictions/synthetic-ststnet"),
    ("evaluate", "synthetic-ststnet", "metrics/synthetic-ststnet.json"),
]
RESTARTED = [("align", "synthetic-box224"), ("flow", "synthetic-box224"), ("train", "synthetic-ststnet")]


@pytest.fixture(scope="module")
def project(root, tmp_path_factory):
    folder = make_project(root, tmp_path_factory.mktemp("project"))

    def settle(params):
        for name in ("synthetic-uamrn", "synthetic-micronbert"):
            params["experiments"].pop(name)
        params.update(explain={"drawn": {}}, motion_maps={})
        params["runtime"].update(workers=1)
        params["train"].update(seeds=[0, 1])
        params["experiments"]["synthetic-ststnet"].update(recipe={"epochs": 12})

    edit(folder, settle)
    for name in ("synthesize", "index", "landmarks"):
        assert stage(folder, name, "synthetic")[0] == 0
    return folder


@pytest.fixture(scope="module")
def expected(project):
    """What one process gives."""
    for name, key, _ in CHAIN:
        code, lines = stage(project, name, key)
        assert code == 0, lines
    found = {out: content(project / out) for _, _, out in CHAIN}
    rows = (project / "data/predictions/synthetic-ststnet/predictions.csv").read_text().splitlines()
    seed = rows[0].split(",").index("seed")
    by_seed = [[line.split(",")[:seed] + line.split(",")[seed + 1 :] for line in rows[1:] if line.split(",")[seed] == s]
               for s in "01"]  # fmt: skip
    assert len(by_seed[0]) == len(by_seed[1]) == 15
    assert by_seed[0] != by_seed[1]
    return found


@pytest.fixture(scope="module")
def scheduler(project, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        started = Cluster(tmp_path_factory.mktemp("cluster"))
    yield started.address
    started.end()


def content(path):
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: file.read_bytes() for file in files if file.is_file()}


@pytest.fixture(params=["one worker", "two workers", "dask"])
def engine(request, project):
    more = {"dask": {"workers": 1}, "one worker": {"workers": 1}, "two workers": {"workers": 2}}[request.param]
    address = request.getfixturevalue("scheduler") if request.param == "dask" else ""
    edit(project, lambda p: p["runtime"].update(scheduler=address, **more), planned=False)
    return request.param


@pytest.mark.parametrize("restart", [False, True], ids=["at once", "killed and resumed"])
def test_every_way_ends_with_the_same_bytes(project, expected, engine, restart):
    shutil.rmtree(project / "data/.partial")
    for name, key, out in CHAIN:
        path = project / out
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if restart and (name, key) in RESTARTED:
            killed_after_an_item(project, name, key)
            assert not path.exists()
        code, lines = stage(project, name, key)
        assert code == 0, lines
        if restart and (name, key) in RESTARTED:
            assert any("were finished earlier" in line for line in lines), f"{name}@{key}: {lines}"
        assert content(path) == expected[out], f"{out} by {engine}"


def killed_after_an_item(project, name, key):
    command = [sys.executable, "-m", f"stages.{name}", key]
    running = subprocess.Popen(command, cwd=project, env=os.environ | {"PYTHONPATH": str(project)},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    others = {process.pid for process in living(project)} - {running.pid}
    wait(lambda: finished(project, f"{name}@{key}"), f"the first item of {name}@{key}")
    assert running.poll() is None, "it ended before it could be killed: give it more to do"
    running.send_signal(signal.SIGKILL)
    running.wait()
    wait(lambda: {process.pid for process in living(project)} <= others, "its workers to end", 20)
