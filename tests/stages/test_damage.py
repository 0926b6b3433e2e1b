"""Damage of outputs that DVC has linked, under DVC itself: the remedy that a message names ends it. Slow."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.helpers.project import edit, make_project
from tests.helpers.stages import stage

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
MAGNIFIED = "synthetic-box224-magnet-linspace_2_13_8"
LANDMARKS, FRAMES = "data/cache/synthetic/landmarks.h5", "data/cache/synthetic/box224/frames.h5"
# What is damaged, and who reads it next.
OUTPUTS = {
    "data/raw/synthetic/pool/macro/labels.csv": "pretrain@magnet",
    "data/index/synthetic.csv": "landmarks@synthetic",
    LANDMARKS: "align@synthetic-box224",
    FRAMES: "flow@synthetic-box224",
    "data/cache/synthetic/box224/flow.h5": "train@synthetic-linear",
    "data/weights/magnet.safetensors": f"magnify_learned@{MAGNIFIED}",
    "data/predictions/synthetic-linear/predictions.csv": "evaluate@synthetic-linear",
    "data/predictions/synthetic-linear/run.json": "evaluate@synthetic-linear",
}
LAST = ["evaluate@synthetic-linear", f"magnify_learned@{MAGNIFIED}"]


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )


def dvc(folder: Path, *arguments: str) -> str:
    done = run(folder, "dvc", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def content(folder: Path) -> dict[str, str]:
    files = [path for top in ("data", "metrics") for path in (folder / top).rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not {".partial", "timings"} & set(path.parts) and path.name != ".gitignore"
    }


@pytest.fixture(scope="module")
def project(root, tmp_path_factory):
    """A tiny project, run up to `LAST`."""
    folder = make_project(root, tmp_path_factory.mktemp("project"))
    edit(folder, lambda p: p["runtime"].update(workers=1))
    dvc(folder, "repro", *LAST)
    yield folder
    shutil.rmtree(folder)


def copy_of(folder: Path, name: str) -> Path:
    """The file of DVC's cache that holds an output."""
    md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
    return folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def damage(path: Path) -> None:
    """Change 64 bytes in its middle through the link, as a failing disk would: the time of the file stays."""
    before = path.stat()
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(before.st_size // 2)
        part = file.read(64)
        file.seek(before.st_size // 2)
        file.write(bytes(byte ^ 1 for byte in part))
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_remedy_of_the_message_ends_the_damage(project, name):
    before, reader = content(project), OUTPUTS[name]
    copy = copy_of(project, name)
    linked = copy.stat().st_ino == (project / name).stat().st_ino  # what damages one damages both
    # DVC links the files of a folder when it brings them back from its cache.
    assert linked or "predictions" in name or "pool" in name
    for path in [copy] if linked else [copy, project / name]:
        damage(path)
    assert ran(dvc(project, "repro", *LAST)) == []  # DVC notices nothing
    assert content(project) != before

    code, lines = stage(project, *reader.split("@"))
    assert code == 2, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{reader}: {name}: is damaged: "), lines
    remedy = re.search(r"run (python -m tools\.repair \S+), then dvc repro", lines[0])
    assert remedy, lines
    done = run(project, *shlex.split(remedy[1]))
    assert done.returncode == 0, done.stderr
    assert not copy.exists()

    assert ran(dvc(project, "repro", *LAST))
    assert content(project) == before
    assert ran(dvc(project, "repro", *LAST)) == []


def test_a_bit_of_a_frame_that_is_not_the_first_of_its_clip(project):
    """The sum is that of all frames of a clip: which of them is another is not known, and one remedy ends it."""
    before = content(project)
    corpus = project / "data/raw/synthetic/corpus"
    frame = sorted(next(path for path in sorted(corpus.rglob("EP*")) if path.is_dir()).iterdir())[7]
    copy = copy_of(project, frame.relative_to(project).as_posix())
    for path in {copy.stat().st_ino: copy, frame.stat().st_ino: frame}.values():
        damage(path)
    shutil.rmtree(project / "data/.partial/landmarks@synthetic")
    code, lines = stage(project, "landmarks", "synthetic")
    assert (code, len(lines)) == (2, 1), lines
    remedy = re.search(r"run (python -m tools\.repair \S+), then dvc repro", lines[0])
    assert remedy, lines
    assert run(project, *shlex.split(remedy[1])).returncode == 0
    dvc(project, "repro", *LAST)
    assert content(project) == before


@pytest.mark.parametrize("name", [LANDMARKS, FRAMES])
def test_a_product_that_is_cut_in_both_places(project, name):
    """`dvc checkout`, which older messages named, would bring it back as it is."""
    before = content(project)
    (project / name).chmod(0o644)
    os.truncate(project / name, (project / name).stat().st_size - 300)
    code, lines = stage(project, *OUTPUTS[name].split("@"))
    assert code == 2, lines
    remedy = re.search(r"run (python -m tools\.repair \S+), then dvc repro", lines[0])
    assert run(project, *shlex.split(remedy[1])).returncode == 0
    dvc(project, "repro", *LAST)
    assert content(project) == before


def test_the_last_product_in_the_spool_may_be_damaged_as_well(project):
    """It may be a third link to the same bytes."""
    before = content(project)
    damage(project / "data/.partial/align@synthetic-box224/previous.h5")
    assert run(project, "python", "-m", "tools.repair", FRAMES).returncode == 0
    assert ran(dvc(project, "repro", *LAST)) == ["align@synthetic-box224"]
    assert content(project) == before


@pytest.mark.parametrize("name", [LANDMARKS, FRAMES])
def test_a_product_that_stood_when_dvc_was_killed_is_made_again_to_the_same_bytes(project, name):
    """DVC has not recorded it, removes it and runs the stage: every clip is kept from the run before."""
    before = content(project)
    makes = next(
        key
        for key, entry in YAML(typ="safe").load(project / "dvc.lock")["stages"].items()
        if name in [out["path"] for out in entry.get("outs", ())]
    )
    assert run(project, "python", "-m", "tools.repair", name).returncode == 0
    output = dvc(project, "repro", *LAST)
    assert ran(output) == [makes]
    assert "15 of 15 clips were finished earlier" in output
    assert content(project) == before
