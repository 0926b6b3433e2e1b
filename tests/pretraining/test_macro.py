"""Pretraining on macro-expressions: what is seen and asked for, that it learns, and that a killed run ends the same."""

import copy
import math

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mer.errors import MerError
from mer.faces import align_clip
from mer.loso.optim import Schedule
from mer.macro import tables as sets
from mer.macro.pool import COLUMNS, read_macro
from mer.networks.resnet import ResNet18
from mer.pretraining import loop, macro
from mer.pretraining.macro import WHOLE, cut, draw, emotions, faces, hold_out, pretrain, targets
from mer.pretraining.moving_layers import portraits
from mer.storage.tables import read_table, write_table
from tests.helpers.refusals import refused

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = {"steps": 4, "batch_size": 4, "size": 16, "lr": 1e-3}


@pytest.fixture(autouse=True)
def one_thread_inside(monkeypatch):
    monkeypatch.setattr(loop, "THREADS", 1)  # a second would wait for a core that other tests use


class Tiny(nn.Module):
    """Batch norm and dropout as large networks have them; rows stay apart, columns do not."""

    def __init__(self, dropout=0.1, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.dropout, self.width = nn.Dropout(dropout), 32

    def forward(self, x):
        x = self.norm(self.conv(x.permute(0, 3, 1, 2) / 255))
        return self.dropout(F.adaptive_avg_pool2d(F.relu(x), (4, 1)).flatten(1))


def striped(count, side=12, seed=0):
    """Noisy grey faces, bright in the first, second or third third of the rows, and which it is, (count,)."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(count) % 3
    images = rng.integers(40, 120, (count, side, side, 3), dtype=np.uint8)
    for image, kind in zip(images, kinds, strict=True):
        image[kind * side // 3 : (kind + 1) * side // 3] += 100
    return list(images), kinds


FACES, KINDS = striped(30)
LABELS = np.eye(3, dtype=np.float32)[KINDS]


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def table_of(**columns) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    defaults = {"corpus": "x", "subject": "", "emotion": "fear", "split": "", "image": ""}
    return pd.DataFrame({"id": [f"x/{k}" for k in range(n)]} | {k: [v] * n for k, v in defaults.items()} | columns)


# ---- images ---------------------------------------------------------------------------------------------------------


def written(folder, images) -> pd.DataFrame:
    paths = []
    for number, image in enumerate(images):
        paths.append((folder / f"{number}.png").as_posix())
        assert cv2.imwrite(paths[-1], image[..., ::-1])
    return table_of(image=paths)


def test_faces_are_squares_that_are_reduced_but_not_enlarged(tmp_path):
    rng = np.random.default_rng(0)
    large, small, wide, high = (
        rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((64, 64), (12, 12), (40, 80), (15, 12))
    )
    found = faces(written(tmp_path, [large, small, wide, high]), 16)
    assert [(f.shape, f.dtype, f.base) for f in found] == [((s, s, 3), np.uint8, None) for s in (16, 12, 16, 12)]
    means = large.reshape(16, 4, 16, 4, 3).mean((1, 3))  # every pixel the mean of the 4x4 that it stands for
    assert np.abs(found[0] - means).max() <= 0.5
    assert np.array_equal(found[1], small)
    assert np.array_equal(found[2], faces(written(tmp_path, [wide[:, 20:60]]), 16)[0])
    assert np.array_equal(found[3], high[1:13])


@pytest.mark.parametrize(("crop", "read"), [("box224", False), ("box112", True)])
@pytest.mark.parametrize("found", [True, False])
def test_a_crop_by_a_detection_box_looks_for_it(tmp_path, monkeypatch, crop, read, found):
    """D-04: the landmarks' box where there is none."""
    image = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    landmarks = np.random.default_rng(1).uniform(15, 45, (68, 2)).astype(np.float32)
    box = np.array([10, 12, 50, 52], np.float32) if found else None
    monkeypatch.setattr(macro, "detect_landmarks", lambda image: landmarks)
    monkeypatch.setattr(macro, "face_box", lambda image, landmarks: box)
    (face,) = faces(written(tmp_path, [image]), 32, crop=crop)
    expected = align_clip(image[None], landmarks, crop, size=32, box=box if read else None)[0]
    assert np.array_equal(face, expected)


def test_faces_that_are_text_are_read(tmp_path):
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels,Usage\n3,{' '.join(['7'] * 48 * 48)},Training\n")
    (face,) = faces(table_of(image=[f"{tmp_path}/fer2013.csv#0"]), 224)
    assert face.shape == (48, 48, 3)
    assert (face == 7).all()


def test_faces_bad_input(tmp_path):
    with pytest.raises(MerError, match="macro: size is 8; needed is 16 px at least"):
        faces(table_of(image=[""]), 8)
    with pytest.raises(MerError, match=r"none\.png"):
        faces(table_of(image=[(tmp_path / "none.png").as_posix()]), 16)


# ---- targets --------------------------------------------------------------------------------------------------------


def test_labels_become_ones_in_the_order_of_the_project():
    table = table_of(emotion=["surprise", "others", "disgust", "happiness", "repression", "disgust"])
    names = emotions(table)
    assert names == ["disgust", "happiness", "surprise", "others", "repression"]
    found = targets(table, names)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.eye(5)[[2, 3, 0, 1, 4, 0]])


def test_votes_become_shares_and_rows_without_votes_stay_labels():
    voted = table_of(
        emotion=["fear", "anger"], vote_anger=[0.3, 1.0], vote_fear=[0.6, 0.0], vote_disgust=[0.1, 0.0],
        vote_contempt=[0.0, 0.0],
    )  # fmt: skip
    table = pd.concat([voted, table_of(emotion=["happiness"])])  # votes of the last are NaN
    names = emotions(table)
    assert names == ["anger", "disgust", "fear", "happiness"]  # nobody voted for contempt
    expected = [[0.3, 0.1, 0.6, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(targets(table, names), expected, atol=1e-7)


def test_no_rows_have_no_targets():
    nobody = table_of(emotion=["fear", "anger"])[:0]
    assert targets(nobody, ["anger", "fear"]).shape == (0, 2)
    assert faces(nobody, 16) == []
    assert hold_out(nobody).shape == (0,)


def test_an_emotion_without_a_class_is_refused():
    table = table_of(emotion=["fear", "anger"], vote_disgust=[0.5, 0], vote_fear=[0.5, 0])
    with pytest.raises(MerError, match="emotions disgust stand in the table, but not among the classes anger, fear"):
        targets(table, ["anger", "fear"])


# ---- what is held out -----------------------------------------------------------------------------------------------


def test_splits_are_held_out_where_a_set_has_them():
    table = table_of(split=["train", "val", "test", "train"], subject=["a", "a", "b", "b"])
    assert hold_out(table).tolist() == [False, True, True, False]


@pytest.mark.parametrize(("subjects", "held"), [(1, 0), (2, 1), (6, 1), (7, 1), (10, 2), (118, 24)])
def test_a_fifth_of_the_subjects_is_held_out_whole(subjects, held):
    names = np.random.default_rng(0).permutation([f"S{k:03d}" for k in range(subjects)] * 3)
    table = table_of(subject=names)
    mask = hold_out(table)
    chosen, rest = set(names[mask]), set(names[~mask])
    assert len(chosen) == held
    assert not chosen & rest
    assert np.array_equal(mask, hold_out(table))
    places = sorted(int(name[1:]) for name in chosen)
    if held > 1:
        assert np.ptp(np.diff(places)) <= 1
        assert places[0] > 0
        assert places[-1] < subjects - 1


def test_each_corpus_is_held_out_by_its_own_rule():
    """And a subject is that of a corpus: s1 of another one is somebody else."""
    corpora, subjects = ["a"] * 4 + ["b"] * 3 + ["c"], ["s1", "s2", "s1", "", *[""] * 3, "s2"]
    table = table_of(corpus=corpora, subject=subjects, split=[*[""] * 4, "test", "train", "val", ""])
    table.index = range(5, 13)
    assert hold_out(table).tolist() == [False, True, False, False, True, False, True, False]
    assert not hold_out(table_of(subject=["", ""])).any()


# ---- what is seen ---------------------------------------------------------------------------------------------------


def test_a_whole_face_is_the_face_or_its_mirror_image():
    face = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    plain, mirrored = cut([face, face], np.array([WHOLE, [1, 1, 0, 0]]), 16).numpy()
    np.testing.assert_allclose(plain, face, atol=0.01)  # grey levels
    np.testing.assert_allclose(mirrored, face[:, ::-1], atol=0.01)


def test_faces_of_any_side_are_enlarged_as_torch_does():
    sides = (9, 16, 9, 30)
    some = [np.random.default_rng(n).integers(0, 256, (n, n, 3), dtype=np.uint8) for n in sides]
    found = cut(some, np.tile(WHOLE, (4, 1)), 32)
    assert found.shape == (4, 32, 32, 3)
    assert found.dtype == torch.float32
    for face, seen in zip(some, found, strict=True):
        x = torch.from_numpy(face).permute(2, 0, 1)[None].float()
        expected = F.interpolate(x, size=(32, 32), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
        torch.testing.assert_close(seen, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("mirrored", [0, 1])
def test_a_square_is_where_it_is_asked_for(mirrored):
    """Red is a pixel's column, green its row: each pixel of the result tells where it was taken."""
    row, column = np.indices((40, 40))
    face = np.stack([column, row, row], axis=2).astype(np.uint8)
    (seen,) = cut([face], np.array([[mirrored, 0.5, 0.25, 0.4]]), 50).numpy()
    steps = (np.arange(50) + 0.5) * 20 / 50 - 0.5  # 20 px on 50, from the first one's edge
    columns = 10 + (steps[::-1] if mirrored else steps)
    np.testing.assert_allclose(seen[..., 0], np.tile(columns, (50, 1)), atol=0.01)
    np.testing.assert_allclose(seen[..., 1], np.tile(16 + steps, (50, 1)).T, atol=0.01)


def test_squares_lie_in_the_face_and_are_spread():
    mirrored, share, left, top = np.concatenate([draw(9, batch_size=50, seed=1, step=s).squares for s in range(40)]).T
    assert 0.45 < mirrored.mean() < 0.55
    assert share.min() >= 0.85
    assert share.max() <= 1
    assert 0.92 < share.mean() < 0.93
    for edge in (left, top):
        assert edge.min() >= 0
        assert (edge + share).max() <= 1
        assert abs((edge + share / 2).mean() - 0.5) < 0.005  # as often on either side
    plain = draw(9, batch_size=50, seed=1, step=0, mirror=False, crop=1).squares
    assert np.array_equal(plain, np.tile(WHOLE, (50, 1)))


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (3, 8), (8, 8), (1, 2)])
def test_every_epoch_has_every_image_once(count, batch_size):
    rows = [draw(count, batch_size=batch_size, seed=2, step=step).rows for step in range(12)]
    assert {len(r) for r in rows} == {batch_size}
    stream = np.concatenate(rows)
    epochs = [stream[k : k + count] for k in range(0, len(stream) - count + 1, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert count < 3 or len({tuple(epoch) for epoch in epochs}) > 1
    assert count < 3 or not np.array_equal(stream[:8], draw(count, batch_size=8, seed=3, step=0).rows)


# ---- training -------------------------------------------------------------------------------------------------------


def test_it_learns_and_is_asked_about_faces_it_has_not_seen():
    held, kinds = striped(60, seed=1)
    plan = {"batch_size": 16, "size": 16, "lr": 0.03, "held_faces": held, "held_targets": LABELS[kinds]}
    early = pretrain(FACES, LABELS, Tiny(), steps=1, **plan)
    late = pretrain(FACES, LABELS, Tiny(), steps=60, **plan)
    assert early.accuracy < 0.7
    assert late.accuracy > 0.9
    assert early.n == late.n == 60
    assert not any(module.training for module in late.network.modules())


def test_shares_of_votes_are_learned_as_shares(tmp_path):
    shares = np.array([[0.7, 0.3, 0], [0.1, 0.5, 0.4], [0, 0.2, 0.8]], dtype=np.float32)
    done = pretrain(
        FACES, shares[KINDS], Tiny(0), steps=200, batch_size=16, size=16, lr=0.03, checkpoint=tmp_path / "c.pt"
    )
    model = nn.Sequential(Tiny(), nn.Linear(32, 3))  # the head is kept nowhere else
    model.load_state_dict(torch.load(tmp_path / "c.pt", weights_only=True)["model"])
    assert states_equal(model[0], done.network)
    with torch.no_grad():
        found = model.eval()(cut(FACES, np.tile(WHOLE, (30, 1)), 16)).softmax(1).numpy()
    for kind, expected in enumerate(shares):
        np.testing.assert_allclose(found[kind == KINDS].mean(0), expected, atol=0.05)


def test_steps_are_those_of_adamw_on_the_cross_entropy():
    """The loss as a sum over emotions, with torch's optimiser, from a head of zeros."""
    plan = PLAN | {"steps": 2, "mirror": False, "crop": 1.0, "weight_decay": 0.1}
    shares = np.random.default_rng(0).dirichlet([1, 1, 1], 30).astype(np.float32)
    found = pretrain(FACES, shares, Tiny(0), **plan).network
    model = nn.Sequential(Tiny(0), nn.Linear(32, 3))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    for step, lr in enumerate((1e-3, 0.5e-3)):
        rows = draw(30, batch_size=4, seed=0, step=step).rows
        seen = cut([FACES[r] for r in rows], np.tile(WHOLE, (4, 1)), 16)
        loss = -(torch.from_numpy(shares[rows]) * model(seen).log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    for name, value in model[0].state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_resnet_18_takes_part():
    network = ResNet18("layer1", 1)
    before = copy.deepcopy(network)
    plan = PLAN | {"steps": 2, "size": 32}
    done = pretrain(FACES, LABELS, network, **plan, held_faces=FACES[:5], held_targets=LABELS[:5])
    assert done.network is network
    assert 0 <= done.accuracy <= 1
    assert network.bn1.num_batches_tracked == 2
    assert not torch.equal(network.conv1.weight, before.conv1.weight)


def test_without_steps_the_network_stays_as_it_is(tmp_path):
    network = Tiny()
    plan = PLAN | {"steps": 0, "checkpoint": tmp_path / "c.pt", "held_faces": FACES[:5], "held_targets": LABELS[:5]}
    done = pretrain(FACES, LABELS, network, **plan)
    assert done.network is network
    assert states_equal(network, Tiny())
    assert not network.training
    assert (done.accuracy, done.n) == (None, 5)
    assert not list(tmp_path.iterdir())


def test_nothing_held_out_is_nothing_reported():
    done = pretrain(FACES, LABELS, Tiny(), **PLAN, held_faces=[], held_targets=np.zeros((0, 3)))
    assert (done.accuracy, done.n) == (None, 0)


def test_only_its_own_seed_moves_it_and_it_moves_no_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = pretrain(FACES, LABELS, Tiny(), **PLAN).network
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert states_equal(one, pretrain(FACES, LABELS, Tiny(), **PLAN).network)
    assert not states_equal(one, pretrain(FACES, LABELS, Tiny(), **PLAN, seed=1).network)


# ---- killed and gone on ---------------------------------------------------------------------------------------------


def killed_at(monkeypatch, step: int):
    """Step `step` is never made."""
    drawn = macro.draw

    def draw(*args, **kwargs):
        if kwargs["step"] == step:
            raise KeyboardInterrupt
        return drawn(*args, **kwargs)

    monkeypatch.setattr(macro, "draw", draw)


def steps_done(monkeypatch) -> list[int]:
    """Filled with the steps whose batches are drawn."""
    drawn, steps = macro.draw, []

    def draw(*args, **kwargs):
        steps.append(kwargs["step"])
        return drawn(*args, **kwargs)

    monkeypatch.setattr(macro, "draw", draw)
    return steps


@pytest.mark.parametrize("network", [Tiny, lambda: resnet(0)], ids=["tiny", "resnet"])
def test_a_killed_training_ends_with_the_same_bits(tmp_path, monkeypatch, network):
    plan = PLAN | {"steps": 5, "size": 32, "held_faces": FACES[:9], "held_targets": LABELS[:9]}
    whole = pretrain(FACES, LABELS, network(), **plan, checkpoint=tmp_path / "whole.pt")
    path = tmp_path / "new" / "checkpoint.pt"
    with monkeypatch.context() as patch:
        killed_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            pretrain(FACES, LABELS, network(), **plan, checkpoint=path, every=2)
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]
    steps = steps_done(monkeypatch)
    resumed = pretrain(FACES, LABELS, network(), **plan, checkpoint=path, every=2)
    assert steps == [2, 3, 4]
    assert states_equal(whole.network, resumed.network)
    assert whole.accuracy == resumed.accuracy
    kept = [torch.load(p, weights_only=True) for p in (tmp_path / "whole.pt", path)]
    for name, value in kept[0]["model"].items():  # the head too
        assert torch.equal(value, kept[1]["model"][name]), name
    again = pretrain(FACES, LABELS, network(), **plan, checkpoint=path)
    assert steps == [2, 3, 4]
    assert states_equal(whole.network, again.network)
    assert whole.accuracy == again.accuracy


def resnet(seed):
    torch.manual_seed(seed)
    return ResNet18("layer2", 1)


@pytest.mark.parametrize(
    "other",
    [
        {"lr": 2e-3},
        {"seed": 1},
        {"steps": 3},
        {"weight_decay": 0.1},
        {"mirror": False},
        {"crop": 0.9},
        {"code": "x"},
        {"weights": 1},
        {"faces": FACES[::-1]},
        {"targets": LABELS[::-1]},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_checkpoint_of_another_training_is_ignored(tmp_path, monkeypatch, other):
    plan = PLAN | {"faces": FACES, "targets": LABELS, "steps": 2, "checkpoint": tmp_path / "c.pt"}
    pretrain(**plan, network=Tiny())
    steps = steps_done(monkeypatch)
    changed = plan | other
    pretrain(network=Tiny(seed=changed.pop("weights", 0)), **changed)
    assert steps == list(range(other.get("steps", 2)))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_ignored(tmp_path, monkeypatch, capsys, content):
    path = tmp_path / "c.pt"
    whole = pretrain(FACES, LABELS, Tiny(), **PLAN, checkpoint=path).network
    path.write_bytes(path.read_bytes()[:-2000] if content is None else content)
    steps = steps_done(monkeypatch)
    assert states_equal(whole, pretrain(FACES, LABELS, Tiny(), **PLAN, checkpoint=path).network)
    assert steps == [0, 1, 2, 3]
    assert f"{path}: the checkpoint is damaged" in capsys.readouterr().err


def test_threads_are_given_back(monkeypatch):
    monkeypatch.setattr(loop, "THREADS", 2)
    monkeypatch.setattr(macro, "cut", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pretrain(FACES, LABELS, Tiny(), **PLAN)
    assert torch.get_num_threads() == 1


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path, monkeypatch):
    # Both trainings with the same rates, although one would have two steps more.
    monkeypatch.setattr(macro, "Schedule", lambda **kwargs: Schedule(lr=kwargs["lr"], epochs=kwargs["epochs"]))
    sound = pretrain(FACES, LABELS, Tiny(), **PLAN | {"steps": 2}).network
    steps = steps_done(monkeypatch)
    monkeypatch.setattr(macro, "cut", lambda *args: cut(*args) * (math.nan if len(steps) == 3 else 1))
    with pytest.raises(MerError, match=r"step 3 of 4: loss is nan; the weights before it were sound: lower lr"):
        pretrain(FACES, LABELS, Tiny(), **PLAN, checkpoint=tmp_path / "c.pt", every=1)
    kept = torch.load(tmp_path / "c.pt", weights_only=True)
    assert kept["step"] == 2
    assert all(torch.equal(kept["model"][f"0.{name}"], value) for name, value in sound.state_dict().items())


def test_a_gradient_that_is_not_finite_stops_before_the_update():
    class Steep(Tiny):
        def forward(self, x):
            return super().forward(x) + torch.sqrt(0 * self.conv.bias.sum())  # rises without end at 0

    network = Steep()
    with pytest.raises(MerError, match=r"step 1 of 4: the gradient is not finite; the weights before it were sound"):
        pretrain(FACES, LABELS, network, **PLAN)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), Steep().parameters(), strict=True))


WRONG = LABELS.copy()
WRONG[4, 0] = 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": -1}, "macro: steps is -1; needed is 0 at least"),
        ({"batch_size": 1}, "macro: batch_size is 1; needed is 2 at least"),
        ({"every": 0}, "macro: every is 0; needed is 1 at least"),
        ({"size": 15}, "macro: size is 15; needed is 16 px at least"),
        ({"lr": 0}, "macro: lr is 0; needed is a finite number above 0"),
        ({"lr": math.nan}, "macro: lr is nan;"),
        ({"lr": math.inf}, "macro: lr is inf;"),
        ({"weight_decay": -1}, "macro: weight_decay is -1; needed is 0 or a finite number above"),
        ({"crop": 0}, "macro: crop is 0; needed is a share of the side, above 0 and up to 1"),
        ({"crop": 1.1}, "macro: crop is 1.1;"),
        ({"faces": []}, "macro: there are no images; name a set"),
        ({"faces": FACES[:-1]}, "macro: 29 images have 30 targets; give one for each image"),
        ({"faces": [*FACES[:-1], FACES[0][:5]]}, r"images: face 29 is \(5, 12, 3\) uint8; needed is"),
        ({"faces": [f / 255 for f in FACES]}, "images: face 0 is .* float64"),
        ({"faces": [f[..., 0] for f in FACES]}, r"images: face 0 is \(12, 12\) uint8"),
        ({"faces": striped(30, 20)[0]}, "images: face 0 is .*, side 16 at most, as mer.pretraining.macro.faces makes"),
        ({"targets": LABELS[:, :1]}, r"targets of images are \(30, 1\); needed are 2 emotions at least"),
        ({"targets": KINDS}, r"targets of images are \(30,\);"),
        ({"targets": WRONG}, "targets of images: row 4 is 0.5, 1.0, 0.0; needed are shares of 0 or more with the sum"),
        ({"targets": LABELS * np.nan}, "targets of images: row 0 is nan"),
        ({"held_faces": FACES}, "give held_faces and held_targets both, or none of them"),
        ({"held_faces": FACES, "held_targets": LABELS[1:]}, "30 held-out images have 29 targets"),
        ({"held_faces": FACES[:2], "held_targets": np.eye(2)}, "2 emotions are held out, 3 are trained on"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(MerError, match=message) as caught:
        pretrain(**{"faces": FACES, "targets": LABELS, "network": Tiny(), **PLAN, **arguments})
    assert "\n" not in str(caught.value)


def test_a_frozen_network_is_refused():
    with pytest.raises(MerError, match="macro: the network is frozen, nothing of it would be trained"):
        pretrain(FACES, LABELS, ResNet18("layer1", freeze=True), **PLAN)


# ---- the embedded pool ----------------------------------------------------------------------------------------------

POOL = [("surprise", "sub102_1"), ("happiness", "sub101_1"), ("others", "sub101_1"), ("happiness", "sub102_1")]


@pytest.fixture
def pool(tmp_path):
    root = tmp_path / "pool" / "macro"
    rows = []
    for number, (emotion, name) in enumerate(POOL):
        (root / emotion).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / emotion / f"{name}.jpg"), np.full((20, 24, 3), 50 * number, np.uint8))
        rows.append([f"{emotion}/{name}.jpg", name.split("_")[0], emotion, "6+12", 4.1])
    label(root, rows)
    return root


def label(root, rows):
    write_table(root / "labels.csv", pd.DataFrame(rows, columns=COLUMNS))


def test_the_pool_is_a_table_like_any_set(pool):
    table = read_macro(pool)
    assert list(table.columns) == list(sets.COLUMNS)
    assert table.iloc[0].to_dict() == {
        "id": "synthetic_pool/happiness/sub101_1", "corpus": "synthetic_pool", "subject": "sub101",
        "emotion": "happiness", "split": "", "image": (pool / "happiness/sub101_1.jpg").as_posix(),
    }  # fmt: skip
    assert table["emotion"].tolist() == ["happiness", "happiness", "others", "surprise"]
    assert [int(face.mean().round()) for face in faces(table, 16)] == [50, 150, 100, 0]
    assert emotions(table) == ["happiness", "surprise", "others"]
    assert sets.summary(table)["subjects"] == 2
    assert table.loc[hold_out(table), "subject"].unique().tolist() == ["sub102"]


def test_the_pool_bad_input(pool):
    rows = read_table(pool / "labels.csv", COLUMNS)
    (pool / "others/sub101_1.jpg").unlink()
    for read in (read_macro, portraits):
        refused(r"labels\.csv: 1 images are missing: others/sub101_1\.jpg; run dvc repro", read, pool)
    label(pool, [[f"../../../{name}", *row] for name, *row in rows])
    for read in (read_macro, portraits):
        refused("leads out of", read, pool)
    label(pool, [])
    refused("holds no labelled image", read_macro, pool)
    assert portraits(pool) == []  # MagNet learns textures then
    (pool / "labels.csv").unlink()
    for read in (read_macro, portraits):
        refused(r"labels\.csv: there is no such file; run dvc repro synthesize", read, pool)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "".join(text.splitlines(keepends=True)[:3]),
        lambda text: text.replace(",happiness,", ",surprise,"),
        lambda text: text.replace("subject", "person"),
        lambda text: text[:-4],
    ],
    ids=["cut at a row", "another emotion", "another column", "cut in a row"],
)
def test_a_damaged_list_of_the_pool_is_refused(pool, damage):
    text = (pool / "labels.csv").read_text()
    (pool / "labels.csv").write_text(damage(text))
    for read in (read_macro, portraits):
        refused(r"labels\.csv: is damaged: .*; run python -m tools\.repair", read, pool)
