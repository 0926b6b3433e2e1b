"""Pretraining on pairs of frames: which pairs, swapping in training, processes, interruptions, and what it learns."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mer.errors import MerError
from mer.models import micronbert
from mer.pretraining import Context, frame_pairs, load_task, loop
from mer.pretraining.distributed import World, check_batch
from mer.pretraining.frame_pairs import Pairs, boxes, cropped, prepared, shuffled, train

pytestmark = pytest.mark.usefixtures("one_thread")

KNOBS = {"size": 32, "width": 16, "layers": 1, "heads": 2, "widen": 2}
HOW = {
    "ratio": 0.5, "min_block": 2, "min_aspect": 0.3, "count": "once", "gamma": 1.0, "beta": 1.0, "agreement": "mse",
    "crop_area": [0.4, 1.0], "target": "imagenet", "epochs": 2, "global_batch": 4, "lr": 1e-3, "weight_decay": 0.01,
    "bf16": False,
}  # fmt: skip


class Recordings:
    """Frames in memory, as mer.recordings.Shards gives them."""

    def __init__(self, lengths=(14, 9, 3), size=32, fps=200.0):
        rng = np.random.default_rng(0)
        self.frames = [rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8) for n in lengths]
        self.lengths, self.size, self.digest = list(lengths), size, f"{lengths} {size}"
        self.fps = [fps] * len(lengths)

    def read(self, segment, t):
        return self.frames[segment][t]


def network(seed=0, **knobs) -> micronbert.Autoencoder:
    torch.manual_seed(seed)
    return micronbert.build_pretrained(**{**KNOBS, **knobs})


# ---- pairs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 64, 1000])
def test_an_epoch_is_a_permutation_that_no_list_is_kept_for(n):
    first = shuffled(np.arange(n), n, seed=0, epoch=0)
    assert sorted(first.tolist()) == list(range(n))
    if n > 4:
        assert first.tolist() != list(range(n))
        assert shuffled(np.arange(n), n, seed=0, epoch=1).tolist() != first.tolist()
        assert np.array_equal(shuffled(np.arange(3), n, seed=0, epoch=0), first[:3])


def test_places_of_a_permutation_do_not_depend_on_each_other():
    """Pairs of neighbours are as far apart as in a random order: the mean distance of two of n numbers is n / 3."""
    n = 4096
    order = shuffled(np.arange(n), n, seed=1, epoch=0)
    assert abs(np.abs(np.diff(order)).mean() / (n / 3) - 1) < 0.05
    assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 0.05


def test_all_first_frames_of_an_epoch_come_once_and_gaps_are_uniform():
    pairs = Pairs(Recordings(lengths=(40, 30, 5)), [5, 11], "frames", seed=0)
    assert len(pairs) == 35 + 25
    assert pairs.short == 1
    drawn = [pairs.places(step, 6) for step in range(10)]
    segment, first, other = (np.concatenate(part) for part in zip(*drawn, strict=True))
    expected = {(0, t) for t in range(35)} | {(1, t) for t in range(25)}
    assert set(zip(segment.tolist(), first.tolist(), strict=True)) == expected
    assert (other < np.array([40, 30])[segment]).all()
    gaps = np.concatenate([np.subtract(*pairs.places(step, 60)[2:0:-1]) for step in range(300)])
    assert set(gaps.tolist()) == set(range(5, 12))
    far = np.concatenate(
        [(p := pairs.places(step, 60))[2][p[1] < 14] - p[1][p[1] < 14] for step in range(300)]
    )  # first frames that have all gaps before them
    counts = np.bincount(far, minlength=12)[5:]
    # Seven gaps, equally probable: each share is within five deviations of 1/7.
    assert (abs(counts / counts.sum() - 1 / 7) < 5 * np.sqrt(1 / 7 * 6 / 7 / counts.sum())).all()


def test_a_gap_in_milliseconds_is_that_of_each_recordings_rate():
    """M-22"""
    pairs = Pairs(Recordings(lengths=(40, 40), fps=100.0), [50, 100], "ms", seed=0)
    gaps = np.concatenate([np.subtract(*pairs.places(step, 60)[2:0:-1]) for step in range(50)])
    assert set(gaps.tolist()) == {5, 6, 7, 8, 9, 10}
    with pytest.raises(MerError, match="not all frame rates are known; set unit: frames"):
        Pairs(Recordings(fps=float("nan")), [50, 100], "ms", seed=0)


def test_recordings_shorter_than_the_gap_are_refused():
    with pytest.raises(MerError, match="longest recording has 14 frames, and the gap is 20 frames at least; lower gap"):
        Pairs(Recordings(), [20, 30], "frames", seed=0)


def test_a_gap_beyond_all_numbers_is_as_long_as_a_recording():
    pairs = Pairs(Recordings((14, 9)), [2, 1e300], "frames", seed=0)
    _, first, other = pairs.places(0, len(pairs))
    assert (np.subtract(other, first) >= 2).all()
    assert np.subtract(other, first).max() > 4


def test_frames_are_those_of_their_places():
    source = Recordings()
    pairs = Pairs(source, [2, 4], "frames", seed=0)
    segment, first, other = pairs.places(3, 4)
    read = pairs.read(3, 4, slice(1, 3))
    for row, i in enumerate((1, 2)):
        assert np.array_equal(read[0, row], source.read(segment[i], first[i]))
        assert np.array_equal(read[1, row], source.read(segment[i], other[i]))


# ---- batches --------------------------------------------------------------------------------------------------------

DRAW = {"seed": 0, "ratio": 0.5, "min_block": 2, "min_aspect": 0.3, "count": "once"}


def test_a_batch_is_the_same_in_however_many_processes():
    frames = torch.from_numpy(Pairs(Recordings(), [2, 4], "frames", 0).read(0, 4, slice(0, 4)))
    whole = prepared(network(), frames, 7, 4, slice(0, 4), crop_area=[0.4, 1.0], **DRAW)
    parts = [
        prepared(network(), frames[:, r], 7, 4, r, crop_area=[0.4, 1.0], **DRAW) for r in (slice(0, 2), slice(2, 4))
    ]
    for one, halves in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(halves), one)
    other = prepared(network(), frames, 8, 4, slice(0, 4), crop_area=[0.4, 1.0], **DRAW)
    assert not torch.equal(other.cells, whole.cells)


def test_masks_have_the_same_number_of_patches_in_each_image():
    frames = torch.zeros(2, 4, 32, 32, 3, dtype=torch.uint8)
    net = network(pretext="mask", dma=False, poi=False)
    cells = prepared(net, frames, 0, 4, slice(0, 4), crop_area=None, **{**DRAW, "ratio": 0.75}).cells
    assert cells.sum(1).tolist() == [12] * 4
    assert len({tuple(row) for row in cells.tolist()}) > 1


def test_a_crop_is_the_part_of_the_image_that_its_box_says():
    """A ramp in x and y: bilinear sampling of a linear image is exact but within half a pixel of the border."""
    y, x = np.mgrid[0:32, 0:32] + 0.5
    image = torch.from_numpy(np.stack([x, y, x + y])).float()[None]
    box = torch.tensor([[0.25, 0.125, 0.5, 0.75]])
    found = cropped(image, box)
    expected = 32 * (0.25 + 0.5 * x / 32)
    torch.testing.assert_close(found[0, 0], torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        found[0, 1], torch.from_numpy(32 * (0.125 + 0.75 * y / 32)).float(), rtol=1e-4, atol=1e-3
    )


def test_boxes_have_the_areas_that_were_asked_for_and_stay_inside():
    found = boxes(np.random.default_rng(0).random((5000, 4)), [0.4, 1.0])
    left, top, width, height = found.T
    assert (found >= 0).all()
    assert (left + width <= 1 + 1e-12).all()
    assert (top + height <= 1 + 1e-12).all()
    assert 0.39 < (width * height).min() < 0.42
    assert (width * height).max() > 0.97


# ---- training -------------------------------------------------------------------------------------------------------


def trained(seed=0, lengths=(14, 9, 3), checkpoint=None, knobs=None, **how):
    net = network(**(knobs or {}))
    return train(
        net, Pairs(Recordings(lengths), [2, 4], "frames", seed), **{**HOW, **how}, seed=seed, checkpoint=checkpoint
    )


def test_a_killed_training_gives_the_curve_of_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_pairs, "EVERY", 3)
    expected, curve = trained(epochs=4)
    kept, steps = tmp_path / "checkpoint.pt", itertools.count()

    class Killed(BaseException):
        pass

    step = torch.optim.AdamW.step

    def dies(self, *args, **kwargs):
        if next(steps) == 7:
            raise Killed
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", dies)
    with pytest.raises(Killed):
        trained(epochs=4, checkpoint=kept)
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert loop.load_torch(kept)["step"] == 6
    found, again = trained(epochs=4, checkpoint=kept)
    assert again == curve
    assert len(curve) == 7  # 20 steps, a point every third and at the end
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.parametrize("knobs", [{"roles": "code"}, {"scale": False}, {"heads": 4}, {"width": 32}])
def test_a_checkpoint_of_other_knobs_is_not_taken_up(tmp_path, knobs):
    expected, curve = trained(epochs=1, knobs=knobs)
    trained(epochs=1, checkpoint=tmp_path / "checkpoint.pt")
    found, again = trained(epochs=1, knobs=knobs, checkpoint=tmp_path / "checkpoint.pt")
    assert again == curve
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.parametrize("agreement", ["mse", "mse_stopgrad", "dino"])
def test_every_agreement_trains_and_is_another(agreement, monkeypatch):
    """M-12"""
    small_dino(monkeypatch)
    net, curve = trained(agreement=agreement)
    assert np.isfinite([float(number) for number in curve[-1].split()]).all()
    other, _ = trained(agreement="mse" if agreement != "mse" else "mse_stopgrad")
    assert any(not torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def small_dino(monkeypatch):
    for name in ("HIDDEN", "BOTTLENECK", "PROTOTYPES"):
        monkeypatch.setattr(frame_pairs, name, 8)


def test_dino_is_a_function_of_the_seed_and_goes_on_after_a_kill(monkeypatch, tmp_path):
    small_dino(monkeypatch)
    monkeypatch.setattr(frame_pairs, "EVERY", 3)
    nets = []

    def run(moved, **how):
        net = network()
        torch.manual_seed(moved)  # wherever torch's own generator stands
        pairs = Pairs(Recordings(), [2, 4], "frames", 0)
        nets.append(train(net, pairs, **{**HOW, "agreement": "dino", **how})[0])
        return nets[-1].state_dict()

    expected = run(1)
    step, steps = torch.optim.AdamW.step, itertools.count()

    def dies(self, *args, **kwargs):
        if next(steps) == 7:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(2, checkpoint=tmp_path / "kept.pt")
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    kept = loop.load_torch(tmp_path / "kept.pt")
    assert kept["step"] == 6
    assert kept["model"]["centre"].abs().max() > 0
    found = run(3, checkpoint=tmp_path / "kept.pt")
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_dinos_loss_is_cross_entropy_of_each_view_with_the_teacher_of_the_other(monkeypatch):
    small_dino(monkeypatch)
    torch.manual_seed(0)
    losses = frame_pairs.Losses(network(), gamma=1, beta=1, agreement="dino", target="imagenet").eval()
    with torch.no_grad():
        for parameter in losses.teacher.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # else both say the same
        losses.centre += torch.randn(8)
        frames = torch.from_numpy(Pairs(Recordings(), [2, 4], "frames", 0).read(0, 4, slice(0, 4)))
        batch = prepared(losses.network, frames, 0, 4, slice(0, 4), crop_area=[0.4, 1.0], **DRAW)
        backbone, head = losses.teacher
        expected = 0.0
        for mine, theirs in ((batch.other, batch.crop), (batch.crop, batch.other)):
            for row in range(4):
                said = losses.head(losses.network.backbone.contexts(mine[row : row + 1]))[0] / frame_pairs.STUDENT
                told = (head(backbone.contexts(theirs[row : row + 1]))[0] - losses.centre) / frame_pairs.TEACHER
                expected -= float((told.softmax(0) * said.log_softmax(0)).sum()) / 8
        assert float(losses(batch)[2]) == pytest.approx(expected, rel=1e-4)


def test_a_crop_is_the_same_inside_a_step_of_half_precision():
    frames = torch.from_numpy(Pairs(Recordings(), [2, 4], "frames", 0).read(0, 4, slice(0, 4)))
    plain = prepared(network(), frames, 0, 4, slice(0, 4), crop_area=[0.4, 1.0], **DRAW)
    with torch.autocast("cpu", torch.bfloat16):
        found = prepared(network(), frames, 0, 4, slice(0, 4), crop_area=[0.4, 1.0], **DRAW)
    assert torch.equal(found.crop, plain.crop)


def test_cells_that_are_drawn_ahead_are_those_of_the_step():
    from concurrent.futures import ThreadPoolExecutor

    pairs = Pairs(Recordings(), [2, 4], "frames", 0)
    with ThreadPoolExecutor(2) as pool:
        batches = frame_pairs.Batches(network(), pairs, pool, 5, 4, World(), crop_area=[0.4, 1.0], **DRAW)
        for step in range(5):
            frames = torch.from_numpy(pairs.read(step, 4, slice(0, 4)))
            expected = prepared(network(), frames, step, 4, slice(0, 4), crop_area=[0.4, 1.0], **DRAW)
            for one, other in zip(batches(step), expected, strict=True):
                assert torch.equal(one, other)


def test_dinos_teacher_follows(monkeypatch):
    small_dino(monkeypatch)
    losses = frame_pairs.Losses(network(), gamma=1, beta=1, agreement="dino", target="imagenet")
    before = [p.clone() for p in losses.teacher.parameters()]
    student = [*losses.network.backbone.parameters(), *losses.head.parameters()]
    for p in student:
        p.data += 1
    losses.follow()
    for old, new, own in zip(before, losses.teacher.parameters(), student, strict=True):
        torch.testing.assert_close(new, frame_pairs.MOMENTUM * old + (1 - frame_pairs.MOMENTUM) * own)
    assert not any(p.requires_grad for p in losses.teacher.parameters())
    assert any(name.startswith("teacher") for name in losses.state_dict())


# What a parameter of the run changes: id, name, default, alternatives.
TABLE = [
    ("M-01", "gamma", 1.0, [0.5]),
    ("M-01", "beta", 1.0, [0.5]),
    ("M-12", "agreement", "mse", ["mse_stopgrad"]),
    ("M-13", "crop_area", [0.4, 1.0], [[0.2, 0.3]]),
    ("M-14", "count", "once", ["literal"]),
    ("M-14", "min_block", 16, [2]),
    ("M-23", "target", "imagenet", ["unit", "patch"]),
]


@pytest.mark.parametrize(("question", "name", "default", "alternatives"), TABLE)
def test_every_open_question_is_a_parameter_with_the_default_of_the_notes(question, name, default, alternatives):
    from ruamel.yaml import YAML

    conf = Path("conf/base.yaml").read_text(encoding="utf-8")
    assert question in conf
    assert YAML(typ="safe").load(conf)["pretrain"]["runs"]["micronbert"][name] == default

    def outcome(value):
        found = trained(lengths=(30,), epochs=1, knobs={"patch": 4}, **{"min_block": 1, name: value})[0]
        return str(found.state_dict())

    assert len({outcome(value) for value in (default, *alternatives)}) == 1 + len(alternatives)


def test_both_units_of_the_gap_are_in_the_file():
    """M-03, M-22"""
    conf = Path("conf/base.yaml").read_text(encoding="utf-8")
    assert "M-22: frames | ms" in conf
    assert "M-03" in conf


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"global_batch": 100}, "global_batch is 100, there are 20 pairs; lower it"),
        ({"knobs": {"size": 64}}, "frames are 32 px, the network reads 64; set size"),
        ({"min_block": 9}, "min_block is 9 patches, ratio 0.5 swaps 8 of 16; lower min_block"),
        (
            {"knobs": {"pretext": "mask", "dma": False, "poi": False}, "ratio": 0.01},
            "ratio is 0.01, which masks 0 of 16 patches; choose one between",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, line):
    with pytest.raises(MerError, match=line):
        trained(**change)


def test_processes_that_cannot_share_a_batch_are_refused():
    check_batch(8, 4, "global_batch")
    with pytest.raises(MerError, match="is 10, which 4 processes cannot share evenly; take a multiple of 4"):
        check_batch(10, 4, "global_batch")
    assert [World(rank, 4).rows(8) for rank in range(4)] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]


def test_processes_that_no_torchrun_started_are_refused(monkeypatch):
    from mer.pretraining.distributed import world

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    line = "runtime.launcher: SLURM_STEP_NUM_TASKS is 8 and WORLD_SIZE is not set, so each process would train alone"
    with pytest.raises(MerError, match=line), world("cpu"):
        pass
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    with world("cpu") as here:
        assert here == World()


TWO = """
import json, os, sys
import torch
from mer.pretraining import frame_pairs
from mer.pretraining.distributed import world
from tests.pretraining.test_frame_pairs import HOW, Pairs, Recordings, network, train
frame_pairs.EVERY = 3
left = int(sys.argv[2])
step = torch.optim.AdamW.step
def counted(self, *args, **kwargs):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    return step(self, *args, **kwargs)
torch.optim.AdamW.step = counted
with world("cpu") as here:
    net, curve = train(network(), Pairs(Recordings((20, 15)), [2, 4], "frames", 0),
                       **{**HOW, "epochs": 3}, world=here, checkpoint=sys.argv[1])
    if here.rank == 0:
        print(json.dumps(curve))
"""


def two_processes(folder, steps=1000) -> subprocess.CompletedProcess:
    """Three epochs in two processes, which die after so many steps."""
    script = folder / "two.py"
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(folder / "kept.pt"), str(steps)], capture_output=True, text=True, env=environment, check=False
    )


def alone(checkpoint=None) -> tuple[micronbert.Autoencoder, list[str]]:
    how = {**HOW, "epochs": 3}
    return train(network(), Pairs(Recordings((20, 15)), [2, 4], "frames", 0), **how, checkpoint=checkpoint)


def close(curve: list[str], expected: list[str]) -> None:
    assert len(curve) == len(expected) > 3
    for one, other in zip(curve, expected, strict=True):
        np.testing.assert_allclose(*([float(x) for x in line.split()] for line in (one, other)), rtol=1e-4)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_pairs, "EVERY", 3)
    _, curve = alone()
    done = two_processes(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    close(found, curve)
    # The checkpoint of two is taken up by one: it is at the end, and no step is made.
    again, curve = alone(tmp_path / "kept.pt")
    assert curve == found
    kept = loop.load_torch(tmp_path / "kept.pt")["model"]
    for name, value in again.state_dict().items():
        assert torch.equal(kept[f"network.{name}"], value)


@pytest.mark.slow
def test_what_two_processes_began_one_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_pairs, "EVERY", 3)
    _, curve = alone()
    assert two_processes(tmp_path, steps=8).returncode != 0
    assert loop.load_torch(tmp_path / "kept.pt")["step"] == 6
    _, found = alone(tmp_path / "kept.pt")
    close(found, curve)


def test_the_task_is_found_by_its_name():
    assert load_task("frame_pairs") is frame_pairs
    assert Context(where="x").frames == ()


# ---- what it learns -------------------------------------------------------------------------------------------------


class Textures(Recordings):
    """256 recordings of 12 frames: a smooth texture that moves by 1 px a frame, with noise; or one that lies still in a
    square of 16 px on noise that is another in each frame."""

    def __init__(self, planted: bool):
        import cv2

        self.size, self.lengths, self.fps, self.digest = 32, [12] * 256, [200.0] * 256, f"textures {planted}"
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((256, 32, 44, 3)).astype(np.float32)
        smooth = [cv2.GaussianBlur(one, (0, 0), 2.5) for one in noise]
        self.textures = [(128 + 50 * one / one.std()).clip(0, 255).astype(np.uint8) for one in smooth]
        self.planted, self.places = planted, rng.integers(0, 5, (256, 2)) * 4

    def read(self, segment, t):
        rng = np.random.default_rng([segment, t])
        if not self.planted:
            moved = self.textures[segment][:, t : t + 32] + rng.normal(0, 1, (32, 32, 3))
            return moved.clip(0, 255).astype(np.uint8)
        frame = rng.integers(96, 160, (32, 32, 3)).astype(np.uint8)
        y, x = self.places[segment]
        frame[y : y + 16, x : x + 16] = self.textures[segment][:16, :16]
        return frame

    def foreground(self, segment) -> np.ndarray:
        found = np.zeros((8, 8), bool)
        y, x = self.places[segment] // 4
        found[y : y + 4, x : x + 4] = True
        return found.ravel()


def learned(source: Textures, epochs: int) -> micronbert.Autoencoder:
    net = network(width=32, layers=2, heads=4, widen=4, patch=4)
    how = {**HOW, "epochs": epochs, "global_batch": 32, "lr": 3e-3}
    return train(net, Pairs(source, [5, 11], "frames", 0), **how)[0].eval()


@pytest.mark.slow
def test_the_diagonal_tells_swapped_patches_from_others():
    """It is low where a patch was swapped: such a patch is of no use for frame t, and its value is turned down. Section
    4.5 says that it is high there (docs/micronbert.md)."""
    from sklearn.metrics import roc_auc_score

    source = Textures(planted=False)
    net = learned(source, epochs=9)
    frames = torch.from_numpy(Pairs(source, [5, 11], "frames", 7).read(0, 128, slice(0, 128)))
    batch = prepared(net, frames, 0, 128, slice(0, 128), **{**DRAW, "seed": 9}, crop_area=None)
    with torch.no_grad():
        diagonal = net(batch.first, batch.other, batch.cells).diagonal
    assert roc_auc_score(~batch.cells.flatten(), diagonal.flatten()) > 0.9


@pytest.mark.slow
def test_patches_of_interest_are_those_of_a_planted_foreground():
    from sklearn.metrics import roc_auc_score

    source = Textures(planted=True)
    net = learned(source, epochs=4).backbone
    images = torch.from_numpy(np.stack([source.read(segment, 0) for segment in range(64)]))
    with torch.no_grad():
        _, scores = net.encode(net.tokens(micronbert.normalised(images)), scores=True)
    foreground = np.stack([source.foreground(segment) for segment in range(64)])
    assert roc_auc_score(foreground.ravel(), scores.flatten()) > 0.9
