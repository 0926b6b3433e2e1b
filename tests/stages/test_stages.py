"""`python -m stages.<name>` on bad input: one line with file, clip or parameter and the remedy, exit code 2."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from stages.landmarks import LOOK_AHEAD
from tests.helpers.project import edit, make_project


def stage(folder: Path, name: str, *args: str) -> tuple[int, list[str]]:
    """Exit code and the lines on stderr, progress bars left out."""
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{name}", *args], cwd=folder, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip() and "%|" not in line]
    return done.returncode, lines


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """A tiny project, run up to its landmarks."""
    folder = make_project(root, tmp_path_factory.mktemp("project"))
    edit(folder, lambda p: p["runtime"].update(workers=1))
    for name in ("synthesize", "index", "landmarks"):
        code, lines = stage(folder, name, "synthetic")
        assert code == 0, lines
    return folder


@pytest.fixture
def project(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "p", symlinks=True)
    return tmp_path / "p"


def a_clip(project: Path) -> Path:
    return sorted((project / "data/raw/synthetic/corpus").glob("sub01/*"))[0]


def frames(clip: Path) -> list[Path]:
    return sorted(clip.glob("*.jpg"), key=lambda p: int(p.stem.removeprefix("img")))


def blank(clip: Path) -> Path:
    """Nobody in the onset, nor in the frames after it that are looked at instead; returns the onset."""
    onset = frames(clip)[2]  # two spare frames lie before it
    for path in frames(clip)[2 : 2 + LOOK_AHEAD + 1]:
        cv2.imwrite(str(path), np.full((320, 320, 3), 128, np.uint8))
    return onset


def change_sheet(project: Path, **changes) -> str:
    """Change cells of the first row; returns its clip."""
    path = project / "data/raw/synthetic/corpus/CASME2-coding.xlsx"
    sheet = pd.read_excel(path, dtype=str)
    for column, value in changes.items():
        sheet.loc[0, column] = value
    sheet.to_excel(path, index=False)
    return sheet.loc[0, "Filename"]


def refused(result, *parts: str) -> None:
    code, lines = result
    assert code == 2, lines
    assert len(lines) == 1, lines
    for part in parts:
        assert part in lines[0], lines[0]


def test_unknown_parameter_names_the_nearest(project):
    edit(project, lambda p: p["align"].update(top_margn=0.1))
    refused(stage(project, "align", "synthetic-box224"), "align@synthetic-box224: params.yaml: align.top_margn",
            "is unknown", "did you mean 'top_margin'?")  # fmt: skip


def test_unknown_run_names_the_nearest(project):
    refused(stage(project, "align", "synthetic-box22"), "align.runs has no 'synthetic-box22'", "'synthetic-box224'")


def test_missing_frame(project):
    gone = frames(a_clip(project))[10]
    gone.unlink()
    refused(stage(project, "index", "synthetic"), "index@synthetic: ", f"{gone.name}: frame is missing",
            "unpack the clip again")  # fmt: skip


def test_missing_folder(project):
    shutil.rmtree(a_clip(project))
    refused(stage(project, "index", "synthetic"), "1 clips of CASME2-coding.xlsx have no folder: sub01/")


def test_annotation_outside_the_clip(project):
    clip = change_sheet(project, OffsetFrame="99999")
    refused(stage(project, "index", "synthetic"), clip, "to 99999, on disk are", "annotation points outside the clip")


def test_apex_outside_onset_and_offset(project):
    clip = change_sheet(project, ApexFrame="1")
    refused(stage(project, "index", "synthetic"), f"clip {clip}: onset", "are out of order; correct the row")


def test_a_cell_that_is_no_number(project):
    clip = change_sheet(project, OnsetFrame="x46")
    refused(stage(project, "index", "synthetic"), clip, "OnsetFrame is 'x46', needed is a frame number")


def test_a_sheet_with_other_columns(project):
    path = project / "data/raw/synthetic/corpus/CASME2-coding.xlsx"
    pd.read_excel(path, dtype=str).rename(columns={"ApexFrame": "Apex"}).to_excel(path, index=False)
    refused(stage(project, "index", "synthetic"), "columns ApexFrame are missing; found Subject, Filename")


def test_a_damaged_or_missing_sheet(project):
    path = project / "data/raw/synthetic/corpus/CASME2-coding.xlsx"
    path.write_bytes(b"PK")
    refused(stage(project, "index", "synthetic"), "CASME2-coding.xlsx: cannot be read as xlsx")
    path.unlink()
    refused(stage(project, "index", "synthetic"), "needs exactly one label sheet (*.xlsx), found none")


def test_wrong_count(project):
    edit(project, lambda p: p["index"]["runs"]["synthetic"].update(expect={"clips": 246}))
    refused(stage(project, "index", "synthetic"), "has 15 clips, index.runs.synthetic.expect.clips says 246")


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_unreadable_image(project, content):
    broken = frames(a_clip(project))[10]
    broken.write_bytes(content)
    result = stage(project, "align", "synthetic-box224")
    refused(
        result, f"{broken.relative_to(project)}: cannot be read as an image ({len(content)} bytes); replace the file"
    )


def test_no_face_found(project):
    onset = blank(a_clip(project))
    assert stage(project, "index", "synthetic")[0] == 0
    refused(stage(project, "landmarks", "synthetic"), f"{onset.relative_to(project)}: no face found in a 320x320 image",
            "raise landmarks.upsample")  # fmt: skip


def test_truncated_hdf5(project):
    path = project / "data/cache/synthetic/landmarks.h5"
    path.write_bytes(path.read_bytes()[:-300])
    refused(
        stage(project, "align", "synthetic-box224"),
        "landmarks.h5: is truncated or not HDF5",
        "dvc checkout or dvc repro",
    )


def test_product_and_index_disagree(project):
    index = project / "data/index/synthetic.csv"
    index.write_text(index.read_text().replace("synthetic/sub01/", "synthetic/sub09/"))
    refused(stage(project, "align", "synthetic-box224"), "landmarks.h5: 5 of the 15 clips of data/index/synthetic.csv",
            "run dvc repro")  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
def test_a_corrected_clip_costs_itself_only(project, workers):
    edit(project, lambda p: p["runtime"].update(workers=workers))
    last = sorted((project / "data/raw/synthetic/corpus").glob("sub*/*"))[-1]
    broken = frames(last)[10]
    good = broken.read_bytes()
    broken.write_bytes(b"")
    code, lines = stage(project, "align", "synthetic-box224")
    assert code == 2
    assert len(lines) == 1, lines
    assert f"{broken.relative_to(project)}: cannot be read as an image" in lines[0]
    broken.write_bytes(good)
    code, lines = stage(project, "align", "synthetic-box224")
    assert code == 0
    # With two workers, the other one may have been at a clip when the first gave up.
    assert lines in [[f"{n} of 15 clips were finished earlier"] for n in range(15 - workers, 15)]
    assert not list((project / "data/.partial/align@synthetic-box224").glob("*.block"))


def test_exclusions_are_listed_through_to_the_predictions(project):
    blank(a_clip(project))
    gone = sorted((project / "data/raw/synthetic/corpus").glob("sub02/*"))[1]
    shutil.rmtree(gone)
    edit(project, lambda p: (p["index"].update(on_error="exclude"), p["landmarks"].update(on_error="exclude")))
    keys = {"index": "synthetic", "landmarks": "synthetic", "train": "synthetic-linear"}
    for name in ("index", "landmarks", "align", "spot", "flow", "train"):
        code, lines = stage(project, name, keys.get(name, "synthetic-box224"))
        assert code == 0, lines
    protocol = json.loads((project / "data/predictions/synthetic-linear/run.json").read_text())["protocol"]
    assert protocol["n_excluded"] == 2
    reasons = protocol["excluded"]
    assert "no face found" in reasons[f"synthetic/{a_clip(project).relative_to(project / 'data/raw/synthetic/corpus')}"]
    assert f"synthetic/sub02/{gone.name}" in reasons
    assert len(pd.read_csv(project / "data/predictions/synthetic-linear/predictions.csv")) == 13


def test_weights_that_are_not_magnets(project):
    import torch

    folder = project / "data/raw/magnet"
    torch.save(
        {"encoder.cba_1.conv2d.weight": torch.zeros(16, 3, 7, 7), "head.weight": torch.zeros(3)}, folder / "a.pth"
    )
    refused(stage(project, "train_magnet", "magnet"), "data/raw/magnet/a.pth: not the weights of MagNet (42 tensors)",
            "41 missing: decoder.cba_1.conv2d.weight", "1 too many: head.weight")  # fmt: skip
    (folder / "b.pth").write_bytes(b"")
    refused(stage(project, "train_magnet", "magnet"), "data/raw/magnet: holds a.pth, b.pth; leave one file")


def test_public_weights_are_taken_when_they_are_in_place(project, reference):
    from mer.magnification.magnet import load_magnet
    from mer.storage.weights import weights_about

    source = reference / "magnet/magnet_epoch12_loss7.28e-02.pth"
    shutil.copyfile(source, project / f"data/raw/magnet/{source.name}")
    assert stage(project, "train_magnet", "magnet") == (0, [])
    made = project / "data/weights/magnet.safetensors"
    assert weights_about(made)["weights"] == f"public: {source.name}"
    expected = load_magnet(source).state_dict()
    assert all((value == expected[name]).all() for name, value in load_magnet(made).state_dict().items())
    edit(project, lambda p: p["train_magnet"].update(public=False))
    assert stage(project, "train_magnet", "magnet")[0] == 0
    assert weights_about(made)["weights"] == "trained here, 2 steps"


def test_a_clip_too_short_for_a_filter(project):
    """Two frames from onset to offset: magnification names the clip; excluded, it is listed."""
    for name in ("align", "spot"):
        assert stage(project, name, "synthetic-box224")[0] == 0
    index = project / "data/index/synthetic.csv"
    table = pd.read_csv(index, dtype=str, keep_default_na=False)
    short = table.loc[0, "id"]
    first = str(int(table.loc[0, "onset"]) + 1)
    table.loc[0, ["apex", "offset", "digest"]] = [first, first, "another"]
    table.to_csv(index, index=False)
    for name in ("landmarks", "align", "spot"):
        assert stage(project, name, "synthetic" if name == "landmarks" else "synthetic-box224")[0] == 0
    run = "synthetic-box224-msmmt"
    refused(stage(project, "magnify_eulerian", run), f"{short}: magnify: a clip of 2 frames; needed are at least 3",
            "magnify_eulerian.on_error: exclude")  # fmt: skip
    edit(project, lambda p: p["magnify_eulerian"].update(on_error="exclude"))
    code, lines = stage(project, "magnify_eulerian", run)
    assert code == 0
    assert any(line.startswith("excluded 1 of 15 clips") for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factors": "linspace_2_13_0"}, "magnify_learned.factors: 'linspace_2_13_0' gives []"),
        ({"factors": "two_to_thirteen"}, "magnify_learned.factors is 'two_to_thirteen'"),
        ({"convention": "onepls"}, "magnify_learned.convention is 'onepls'"),
    ],
)
def test_factors_and_convention(project, change, message):
    for name in ("align", "spot"):
        assert stage(project, name, "synthetic-box224")[0] == 0
    assert stage(project, "train_magnet", "magnet")[0] == 0
    edit(project, lambda p: p["magnify_learned"].update(change))
    refused(stage(project, "magnify_learned", "synthetic-box224"), message)


@pytest.fixture(scope="module")
def flown(finished, tmp_path_factory):
    """A tiny project with its flow."""
    folder = tmp_path_factory.mktemp("flown") / "p"
    shutil.copytree(finished, folder, symlinks=True)
    for name in ("align", "spot", "flow"):
        code, lines = stage(folder, name, "synthetic-box224")
        assert code == 0, lines
    return folder


@pytest.fixture
def trained(flown, tmp_path):
    shutil.copytree(flown, tmp_path / "p", symlinks=True)
    return tmp_path / "p"


def test_an_audited_training_repeats_to_the_byte_and_its_leak_is_measured(trained):
    edit(trained, lambda p: (p["experiments"].pop("synthetic-uamrn"), p["explain"]["runs"].clear()))
    edit(trained, lambda p: p["train"].update(audit=True, seeds=[3, 4]))
    edit(trained, lambda p: p["experiments"]["synthetic-ststnet"].update(recipe={"epochs": 6}))
    written = []
    for _ in range(2):
        shutil.rmtree(trained / "data/.partial")
        for name in ("synthetic-linear", "synthetic-ststnet"):
            code, lines = stage(trained, "train", name)
            assert code == 0, lines
        folder = trained / "data/predictions/synthetic-ststnet"
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"predictions.csv", "audit.csv", "run.json"}
    for name in ("synthetic-linear", "synthetic-ststnet"):
        assert stage(trained, "evaluate", name) == (0, [])
    assert stage(trained, "leakage") == (0, [])
    leaks = json.loads((trained / "metrics/leakage.json").read_text())
    assert leaks["synthetic-linear"]["uf1"]["gap"] == 0
    found = leaks["synthetic-ststnet"]
    metric = json.loads((trained / "metrics/synthetic-ststnet.json").read_text())
    details = json.loads((trained / "metrics/details/synthetic-ststnet.json").read_text())
    assert found["uf1"]["honest"] == metric["uf1"]
    assert found["uf1"]["gap"] == found["uf1"]["leaky"] - metric["uf1"]
    assert [run["seed"] for run in details["runs"]] == [3, 4]
    assert details["protocol"]["seeds"] == [3, 4]
    assert details["protocol"]["leaky"] is False
    assert metric["uf1"] == pytest.approx(np.mean([run["uf1"] for run in details["runs"]]))


def test_an_epoch_chosen_on_the_test_subject_is_stamped(trained):
    edit(trained, lambda p: p["train"].update(selection="test_best"))
    assert stage(trained, "train", "synthetic-ststnet")[0] == 0
    protocol = json.loads((trained / "data/predictions/synthetic-ststnet/run.json").read_text())["protocol"]
    assert (protocol["selection"], protocol["leaky"]) == ("test_best", True)


def test_a_device_that_is_not_there(trained):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one here")
    edit(trained, lambda p: p["runtime"].update(device="cuda"))
    refused(
        stage(trained, "train", "synthetic-ststnet"), "runtime.device is cuda, but torch sees no GPU; set it to cpu"
    )
