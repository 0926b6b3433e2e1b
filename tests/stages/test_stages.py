"""`python -m stages.<name>` on bad input: one line with file, clip or parameter and the remedy, exit code 2."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mer.clips import Clip, clips, files_digest, read_index, write_index
from mer.errors import FileError, MerError
from mer.storage.files import damaged
from stages import dynamic_image, flow, landmarks, magnify_eulerian
from stages.align import compute
from stages.landmarks import LOOK_AHEAD
from tests.helpers.project import edit, make_project
from tests.helpers.stages import refused, stage


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


def test_unknown_parameter_names_the_nearest(project):
    edit(project, lambda p: p["align"].update(top_margn=0.1), planned=False)
    refused(stage(project, "align", "synthetic-box224"), "align@synthetic-box224: params.yaml: align.top_margn",
            "is unknown", "did you mean 'top_margin'?")  # fmt: skip


def test_unknown_run_names_the_nearest(project):
    refused(
        stage(project, "align", "synthetic-box22"),
        "plan.yaml has no align@synthetic-box22; did you mean 'synthetic-box224'?",
    )


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
    edit(project, lambda p: p["corpora"]["synthetic"].update(expect={"clips": 246}))
    refused(stage(project, "index", "synthetic"), "has 15 clips, corpora.synthetic.expect.clips says 246")


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_unreadable_image(project, content):
    broken = frames(a_clip(project))[10]
    broken.write_bytes(content)
    result = stage(project, "align", "synthetic-box224")
    name = broken.relative_to(project)  # an output of the pipeline
    refused(result, f"{name}: is damaged: it cannot be read as an image ({len(content)} bytes)",
            f"run python -m tools.repair {name}, then dvc repro")  # fmt: skip


def test_no_face_found(project):
    onset = blank(a_clip(project))
    assert stage(project, "index", "synthetic")[0] == 0
    refused(stage(project, "landmarks", "synthetic"), f"{onset.relative_to(project)}: no face found in a 320x320 image",
            "raise landmarks.upsample")  # fmt: skip


def test_landmarks_outside_the_frame_are_said_with_their_clip(project, monkeypatch):
    monkeypatch.chdir(project)
    clip = clips(read_index(Path("data/index/synthetic.csv")))[0]
    outside = np.random.default_rng(0).uniform((400, 10), (460, 70), (68, 2))  # the frame has 320 columns
    with pytest.raises(MerError, match=rf"^{clip.id}: crop box112: .* none of which lies in the 320x320"):
        compute(clip, landmarks={clip.id: outside}, crop="box112")


def test_truncated_hdf5(project):
    path = project / "data/cache/synthetic/landmarks.h5"
    content = path.read_bytes()
    path.unlink()  # a hard link would be cut, too
    path.write_bytes(content[:-300])
    refused(stage(project, "align", "synthetic-box224"),
            f"landmarks.h5: is damaged: it has {len(content) - 300} bytes, and {len(content)} were written",
            "python -m tools.repair data/cache/synthetic/landmarks.h5, then dvc repro")  # fmt: skip


def test_product_and_index_disagree(project):
    index = project / "data/index/synthetic.csv"
    table = read_index(index)
    table["id"] = table["id"].str.replace("synthetic/sub01/", "synthetic/sub09/")
    write_index(index, table)
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
    assert f"{broken.relative_to(project)}: is damaged: it cannot be read as an image" in lines[0]
    broken.write_bytes(good)
    code, lines = stage(project, "align", "synthetic-box224")
    assert code == 0
    # With two workers, the other one may have been at a clip when the first gave up.
    assert lines in [[f"{n} of 15 clips were finished earlier"] for n in range(15 - workers, 15)]
    assert not list((project / "data/.partial/align@synthetic-box224").glob("*.block"))


@pytest.mark.slow
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


def test_a_clip_too_short_for_a_filter(project):
    """Two frames from onset to offset: magnification names the clip; excluded, it is listed."""
    for name in ("align", "spot"):
        assert stage(project, name, "synthetic-box224")[0] == 0
    index = project / "data/index/synthetic.csv"
    table = read_index(index)
    short, first = table.loc[0, "id"], table.loc[0, "onset"] + 1
    table.loc[0, ["apex", "offset"]] = [first, first]
    table.loc[0, "digest"] = files_digest(project / table.loc[0, "frame"].format(n) for n in (first - 1, first))
    write_index(index, table)
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
        ({"convention": "onepls"}, "magnify_learned.convention is 'onepls'"),
        ({"factors": "linspace_2_13_8"}, "magnify_learned.factors is gone: it is a knob of the model"),
    ],
)
def test_settings_of_learned_magnification(project, change, message):
    edit(project, lambda p: p["magnify_learned"].update(change), planned=False)
    refused(stage(project, "magnify_learned", "synthetic-box224-magnet-linspace_2_13_8"), message)


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


@pytest.mark.slow
def test_an_audited_training_repeats_to_the_byte_and_its_leak_is_measured(trained):
    for name in ("synthetic-uamrn", "synthetic-micronbert"):
        edit(
            trained, lambda p, name=name: (p["experiments"].pop(name), p.update(explain={"drawn": {}}, motion_maps={}))
        )
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


def test_a_stale_plan_is_refused_with_the_remedy(trained):
    edit(trained, lambda p: p["experiments"].update(mine={"corpus": "synthetic", "model": "linear"}), planned=False)
    refused(stage(trained, "evaluate", "synthetic-ststnet"), "plan.yaml is older than params.yaml: experiments.mine",
            "run make plan")  # fmt: skip


def test_a_model_that_reads_something_else_than_when_the_plan_was_made(trained):
    path = trained / "mer/models/linear.py"
    path.write_text(path.read_text().replace('frames(knobs["crop"])', 'frames("box112")'))
    refused(stage(trained, "train", "synthetic-linear"), "plan.yaml is older than the model's file", "run make plan")


@pytest.mark.parametrize("key", ["x/../../../victim", "/victim", "..", "a" * 201, "z; touch X; #", "$(touch X)"])
def test_a_key_that_leaves_its_folder_is_refused_before_anything_is_opened(project, key):
    refused(stage(project, "spot", key), "is no key of a stage")
    assert not list(project.parent.rglob("*victim*"))
    assert not (project / "X").exists()


def test_arguments_that_the_stage_does_not_have(project):
    refused(stage(project, "spot", "synthetic-box224", "--index", "data/index/synthetic.csv", "--crop", "box224"),
            "spot@synthetic-box224: the following arguments are required: --frames, --out")  # fmt: skip


@pytest.mark.slow
def test_a_local_validation_split_beside_the_last_epoch(trained):
    """inner_val and its share, seeds and audit stand in one experiment; the others keep those of `train`."""
    own = {"corpus": "synthetic", "model": "ststnet", "recipe": {"epochs": 2}, "selection": "inner_val",
           "held_out": 0.5, "seeds": [1, 2], "audit": True}  # fmt: skip
    edit(trained, lambda p: p["experiments"].update({"synthetic-ststnet-inner": own}))
    for name in ("synthetic-ststnet", "synthetic-ststnet-inner"):
        assert stage(trained, "train", name)[0] == 0
    found = [
        json.loads((trained / f"data/predictions/{name}/run.json").read_text())["protocol"]
        for name in ("synthetic-ststnet", "synthetic-ststnet-inner")
    ]
    assert [(p["selection"], p["held_out"], p["seeds"]) for p in found] == [
        ("last_epoch", 0.2, [0]), ("inner_val", 0.5, [1, 2])
    ]  # fmt: skip
    assert (trained / "data/predictions/synthetic-ststnet-inner/audit.csv").exists()
    assert not (trained / "data/predictions/synthetic-ststnet/audit.csv").exists()


def test_onset_and_apex_as_a_pair(flown):
    from mer.clips import clips, read_index
    from mer.storage.cache import ClipCache

    cache = "data/cache/synthetic/box224"
    code, lines = stage(
        flown, "pair", "synthetic-box224", "--index", "data/index/synthetic.csv", "--frames", f"{cache}/frames.h5",
        "--apex", f"{cache}/apex.h5", "--out", f"{cache}/pair.h5",
    )  # fmt: skip
    assert code == 0, lines
    pair, frames, apex = (ClipCache(flown / cache / f"{kind}.h5", kind) for kind in ("pair", "frames", "apex"))
    for clip in clips(read_index(flown / "data/index/synthetic.csv")):
        position = clip.numbers.index(clip.apex)  # annotated in the synthetic corpus
        assert int(apex[clip.id]) == position
        assert np.array_equal(pair[clip.id], frames[clip.id][[0, position]])


class Damaged:
    """A product of which no clip can be read."""

    def fail(self, *args):
        raise damaged("data/cache/c/in.h5", "clip c/s/1 has other bytes than were written")

    __getitem__ = frame = extra = fail


RECIPE = {"around": 0, "filter": "iir", "band": "hz", "low": 1.0, "high": 2.0, "fps": None, "alpha": 1.0,
          "lambda_c": 0.0, "chroma": 0.0}  # fmt: skip


@pytest.mark.parametrize(
    "work",
    [
        lambda clip: compute(clip, landmarks=Damaged(), crop="box224"),
        lambda clip: landmarks.compute(clip, backend="dlib"),
        lambda clip: dynamic_image.compute(clip, which="all", solver="rank_svm", c=1.0, frames=Damaged(), apex={}),
        lambda clip: magnify_eulerian.compute(clip, source=Damaged(), full=False, product="frames", apex={},
                                              recipe=RECIPE, crop={"crop": "box224"}),
        lambda clip: flow.compute(clip, product="flow", frames=Damaged(), apex={clip.id: 1}),
    ],
    ids=["align", "landmarks", "dynamic_image", "magnify_eulerian", "flow"],
)  # fmt: skip
def test_what_is_no_fault_of_the_clip_stays_known_as_such(tmp_path, monkeypatch, work):
    """`on_error: exclude` leaves out no clip for a FileError (tests/storage/test_cache.py)."""
    frame = str(tmp_path / "img{}.png")
    for number in (1, 2, 3):
        cv2.imwrite(frame.format(number), np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(landmarks, "read_frame", lambda path: Damaged().fail())
    clip = Clip("c/s/1", "c", "s", "1", "x", "", 1, 2, 3, "annotated", 200.0, frame, "", "")
    with pytest.raises(FileError, match=r"^data/cache/c/in\.h5: is damaged: clip c/s/1 has other bytes"):
        work(clip)
