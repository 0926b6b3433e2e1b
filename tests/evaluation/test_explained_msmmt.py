"""Weights of patches: the numbers by closed forms, and what the pictures show."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from mer import models
from mer.errors import MerError
from mer.evaluation.explained import msmmt as explained
from mer.models.msmmt import sides
from mer.storage.cache import CacheWriter, ClipCache

CLASSES = ["negative", "positive", "surprise"]
KNOBS = {"modalities": "both", "size": 128, "scales": 3, "rounding": "none"}
SMALL = KNOBS | {"modalities": "flow", "size": 64, "scales": 2}


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved, by the name of the file; they are written, too."""
    kept, save = {}, explained.save
    monkeypatch.setattr(explained, "save", lambda figure, path: (kept.update({path.name: figure}), save(figure, path)))
    return kept


def texts(figure) -> str:
    """All that can be read in a figure."""
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in figure.findobj(Text))


def laid_over(figure) -> list[np.ndarray]:
    """The weights that are laid over faces, row by row."""
    return [np.asarray(a.get_images()[1].get_array()) for a in figure.axes if len(a.get_images()) == 2]


# ---- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patches", [2, 7, 16])
def test_equal_weights(patches):
    even = np.full((patches, patches), 0.3)
    assert explained.entropy(even) == pytest.approx(1)
    assert explained.largest_over_mean(even) == pytest.approx(1)
    assert explained.thirds(even) == pytest.approx([1 / 3] * 3)


def test_all_weight_in_one_patch():
    one = np.zeros((4, 4))
    one[3, 1] = 0.2
    assert explained.entropy(one) == 0
    assert explained.largest_over_mean(one) == 16
    assert explained.thirds(one) == pytest.approx([0, 0, 1])


def test_entropy_of_weights_that_are_equal_in_some_patches():
    half = np.zeros((4, 4))
    half[:2] = 5
    assert explained.entropy(half) == pytest.approx(np.log(8) / np.log(16))
    assert explained.entropy(7 * half) == pytest.approx(explained.entropy(half))
    assert explained.largest_over_mean(half) == 2


def test_a_row_of_patches_over_a_border_counts_to_both_thirds():
    assert explained.thirds([[6, 6], [1, 1]]) == pytest.approx([4 / 7, 2 / 7 + 1 / 21, 2 / 21])  # 12 and 2 of 14
    rows = np.zeros((4, 4))
    rows[1] = 1  # from 1/4 to 1/2: a third of it lies above 1/3
    assert explained.thirds(rows) == pytest.approx([1 / 3, 2 / 3, 0])
    planted = np.repeat([[1], [2], [5]], 3, axis=1)
    assert explained.thirds(planted) == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert explained.thirds(np.kron(planted, np.ones((5, 5)))) == pytest.approx([1 / 8, 2 / 8, 5 / 8])


def test_of_no_weight_at_all_nothing_is_known():
    nothing = np.zeros((4, 4))
    assert explained.entropy(nothing) is explained.largest_over_mean(nothing) is explained.thirds(nothing) is None
    assert explained.entropy([[1]]) is None
    maps = np.stack([nothing, np.ones((4, 4)), 3 * np.ones((4, 4))])
    found = explained.summary(maps, np.array([0, 1, 1]), 2)
    assert found["entropy"] == {"mean": pytest.approx(1), "by_class": [None, pytest.approx(1)]}
    assert found["top"] == {"mean": pytest.approx(1 / 3), "by_class": [None, pytest.approx(1 / 3)]}
    assert found["between_classes"] is found["by_chance"] is None
    every, first, second = explained.class_maps(maps, np.array([0, 1, 1]), 2)
    assert first is None
    np.testing.assert_array_equal(every, np.ones((4, 4)))
    np.testing.assert_array_equal(second, every)


def test_mean_of_what_is_defined():
    found = explained.means([1, None, 4, None], np.array([0, 0, 1, 2]), 4)
    assert found == {"mean": 2.5, "by_class": [1, 4, None, None]}


def test_class_maps_do_not_know_how_large_the_weights_of_a_clip_are():
    rng = np.random.default_rng(0)
    maps, labels = rng.uniform(0.1, 1, (6, 4, 4)), np.array([0, 0, 1, 1, 1, 3])
    found = explained.class_maps(maps * rng.uniform(0.1, 1, (6, 1, 1)), labels, 4)
    apart = [w / w.mean() for w in maps]
    np.testing.assert_allclose(found[0], np.mean(apart, 0))
    np.testing.assert_allclose(found[2], np.mean(apart[2:5], 0))
    assert found[3] is None
    np.testing.assert_allclose(found[4], apart[5])


def test_between_classes_is_all_where_classes_alone_differ():
    patterns = np.array([[[3, 1], [1, 1]], [[1, 1], [1, 3]]], dtype=float)
    labels = np.array([0, 1, 1, 0, 1])
    share, chance = explained.between_classes(patterns[labels], labels)
    assert share == pytest.approx(1)
    assert chance == 1 / 4
    share, _ = explained.between_classes(patterns[[0, 1, 0, 1]], np.array([0, 0, 1, 1]))
    assert share == pytest.approx(0, abs=1e-12)


def test_between_classes_by_chance_is_the_mean_over_all_labellings():
    maps = np.random.default_rng(1).uniform(size=(6, 2, 2))
    orders = set(itertools.permutations([0, 0, 0, 1, 1, 2]))
    shares, chances = zip(*(explained.between_classes(maps, np.array(order)) for order in orders), strict=True)
    assert np.mean(shares) == pytest.approx(chances[0]) == 2 / 5


def test_between_classes_is_undefined_for_one_class_and_for_equal_clips():
    maps = np.random.default_rng(2).uniform(size=(4, 2, 2))
    assert explained.between_classes(maps, np.zeros(4, dtype=int)) is None
    same = np.repeat(maps[:1], 4, axis=0).astype(np.float32) * np.array([1, 0.3, 0.7, 0.9], np.float32)[:, None, None]
    assert explained.between_classes(same.astype(float), np.arange(4)) is None


# ---- what explain.h5 holds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "rounding"), [(256, "none"), (224, "up"), (224, "down"), (80, "up"), (336, "down")])
def test_patches_are_found_again_in_the_maps_of_full_size(size, rounding):
    every = sides(size, 3, rounding)
    rng = np.random.default_rng(3)
    for px in every:
        weights = rng.uniform(size=(2, px // 16, px // 16))
        full = F.interpolate(torch.tensor(weights)[None], (every[0] // 16,) * 2, mode="nearest-exact")[0].numpy()
        np.testing.assert_array_equal(explained.as_patches(full, px // 16), weights)


def test_grey_of_a_dynamic_image_and_of_a_flow_image():
    picture = np.array([3.0, 4, 8])[:, None, None] * np.ones((3, 2, 2))
    np.testing.assert_allclose(explained.grey(picture, "both"), np.full((2, 2), 5))
    np.testing.assert_allclose(explained.grey(picture, "dynamic_image"), np.full((2, 2), 5))
    np.testing.assert_allclose(explained.grey(picture, "flow"), np.full((2, 2), 5))  # 3, 4 -> 5


# ---- the pictures of an experiment ----------------------------------------------------------------------------------


def experiment(folder, labels, *, classes=CLASSES, knobs=KNOBS, picture=64, form=None, change=None):
    """Made-up explanations: (found, predictions, run_info). Weights are of patches, as `explain` enlarges them."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(4)
    ids = [f"c/s{n}/x" for n in range(len(labels))]
    modalities = 2 if knobs["modalities"] == "both" else 1
    every = [px // 16 for px in sides(knobs["size"], knobs["scales"], knobs["rounding"])]
    clips = []
    with CacheWriter(folder / "explain.h5", kind="explain", ragged=False, params={"model": "msmmt"}) as file:
        for i in ids:
            own = [[rng.uniform(0.2, 1, (n, n)).astype(np.float32) for n in every] for _ in range(modalities)]
            data = np.stack([[np.kron(w, np.ones((every[0] // len(w),) * 2, np.float32)) for w in of] for of in own])
            beside = {"picture": rng.uniform(0, 255, form or (3, picture, picture)).astype(np.float32)}
            beside["logits"] = rng.normal(size=len(classes)).astype(np.float32)
            if modalities == 2:
                beside["cosine"] = np.float32(rng.uniform(-1, 1))
            file.append(i, data if change is None else change(data), **beside)
            clips.append((own, beside))
    columns = {f"p{c}": np.linspace(0.2, 0.9, len(labels)) if c == 0 else 0.05 for c in range(len(classes))}
    rows = pd.DataFrame({"seed": 7, "id": ids, "label": labels, **columns})
    other = rows.assign(seed=1, p0=0.0)  # of a second seed, which is not explained
    predictions = pd.concat([other, rows]).sample(frac=1, random_state=0)
    run_info = {"class_names": classes, "knobs": knobs, "protocol": {"seeds": [7, 1]}}
    return (ClipCache(folder / "explain.h5", "explain"), predictions, run_info), clips


def drawn(folder, given, clip="c/s2/x") -> dict:
    """Draw; the numbers that were written."""
    explained.draw(*given, folder / "f", title="an experiment", clip=clip)
    names = {"patch_weights.png", "patch_weights_by_class.png", "patch_weights_differences.png", "patch_weights.json"}
    assert {path.name for path in (folder / "f").iterdir()} == names
    return json.loads((folder / "f/patch_weights.json").read_text(), parse_constant=pytest.fail)


LABELS = np.array([0, 0, 1, 1, 0])  # nobody is surprised


def test_both_modalities_and_a_class_without_clips(tmp_path, figures):
    given, clips = experiment(tmp_path, LABELS)
    numbers = drawn(tmp_path, given)
    assert numbers["clips"] == [3, 2, 0]
    cosine = [float(beside["cosine"]) for _, beside in clips]
    assert numbers["cosine"] == explained.means(cosine, LABELS, 3)
    assert list(numbers["weights"]) == ["dynamic_image", "flow"]
    for m, sizes in enumerate(numbers["weights"].values()):
        assert [(s["px"], s["patches"]) for s in sizes] == [(128, 8), (64, 4), (32, 2)]
        for s, found in enumerate(sizes):
            weights = np.array([own[m][s] for own, _ in clips], dtype=float)
            assert found == {"px": found["px"]} | explained.summary(weights, LABELS, 3)
            assert found["entropy"]["by_class"][2] is None

    one = figures["patch_weights.png"]
    for shown, w in zip(laid_over(one), [w for of in clips[2][0] for w in of], strict=True):
        np.testing.assert_allclose(shown, w)
    for said in (
        "an experiment: weights", "c/s2/x: class positive (probability 0.05), predicted negative (0.55)",
        "128 px: 8 x 8 patches", "32 px: 2 x 2 patches",
        f"largest {explained.largest_over_mean(clips[2][0][1][0]):.2f} x mean",
    ):  # fmt: skip
        assert said in texts(one)
    scales = [a.get_images()[1].get_clim() for a in one.axes if len(a.get_images()) == 2]
    for m, scale in enumerate([scales[0], scales[3]]):
        assert scales[3 * m : 3 * m + 3] == [scale] * 3  # one in a row
        assert scale == pytest.approx((min(w.min() for w in clips[2][0][m]), max(w.max() for w in clips[2][0][m])))

    means = laid_over(figures["patch_weights_by_class.png"])
    differences = laid_over(figures["patch_weights_differences.png"])
    assert (len(means), len(differences)) == (3 * 6, 2 * 6)  # all, negative, positive; negative, positive
    every, negative, positive, surprise = explained.class_maps(np.array([own[1][0] for own, _ in clips]), LABELS, 3)
    assert surprise is None
    np.testing.assert_allclose(means[3], every, rtol=1e-6)
    np.testing.assert_allclose(means[6 + 3], negative, rtol=1e-6)
    np.testing.assert_allclose(differences[6 + 3], positive - every, atol=1e-6)
    for name, panels in (("by_class", 6), ("differences", 6)):
        said = texts(figures[f"patch_weights_{name}.png"])
        assert said.count("none") == panels  # of surprise
        assert "surprise\n0 clips" in said
    share, chance = explained.between_classes(np.array([own[0][0] for own, _ in clips]), LABELS)
    assert f"{100 * share:.1f} % (chance 25.0 %)" in texts(figures["patch_weights_differences.png"])
    assert chance == 1 / 4


def test_faces_are_those_of_the_clip_and_of_the_class(tmp_path, figures):
    given, clips = experiment(tmp_path, LABELS)
    drawn(tmp_path, given)
    faces = [beside["picture"].mean(0) for _, beside in clips]
    shown = [np.asarray(a.get_images()[0].get_array()) for a in figures["patch_weights.png"].axes if a.get_images()]
    assert sum(np.allclose(s, faces[2]) for s in shown) == 8
    shown = [np.asarray(a.get_images()[0].get_array()) for a in figures["patch_weights_by_class.png"].axes
             if len(a.get_images()) == 2]  # fmt: skip
    np.testing.assert_allclose(shown[0], np.mean(faces, 0), rtol=1e-5)
    np.testing.assert_allclose(shown[12], np.mean([faces[2], faces[3]], 0), rtol=1e-5)


def test_flow_alone_of_28_px_two_classes(tmp_path, figures):
    knobs = KNOBS | {"modalities": "flow"}
    given, clips = experiment(tmp_path, [0, 1, 1, 0], classes=["still", "moved"], knobs=knobs, picture=28)
    numbers = drawn(tmp_path, given)
    assert numbers["cosine"] is None
    assert list(numbers["weights"]) == ["flow"]
    assert len(laid_over(figures["patch_weights.png"])) == 3
    face = np.asarray(figures["patch_weights.png"].axes[0].get_images()[0].get_array())
    np.testing.assert_allclose(face, np.hypot(*clips[2][1]["picture"][:2]))
    assert "flow, its magnitude" in texts(figures["patch_weights.png"])
    assert "dynamic image" not in "".join(texts(figure) for figure in figures.values())


@pytest.mark.parametrize("modalities", ["dynamic_image", "both"])
def test_one_size(tmp_path, figures, modalities):
    given, _ = experiment(tmp_path, LABELS, knobs=KNOBS | {"modalities": modalities, "scales": 1})
    numbers = drawn(tmp_path, given)
    rows = 1 + (modalities == "both")
    assert [len(sizes) for sizes in numbers["weights"].values()] == [1] * rows
    assert len(laid_over(figures["patch_weights.png"])) == rows
    assert len(laid_over(figures["patch_weights_by_class.png"])) == 3 * rows


def test_weights_that_are_equal_or_all_0_are_drawn(tmp_path, figures):
    given, _ = experiment(tmp_path / "1", LABELS, knobs=SMALL, change=np.ones_like)
    numbers = drawn(tmp_path / "1", given)
    assert numbers["weights"]["flow"][0]["entropy"]["mean"] == pytest.approx(1)
    assert numbers["weights"]["flow"][0]["between_classes"] is None
    assert "undefined" in texts(figures["patch_weights_differences.png"])
    given, _ = experiment(tmp_path / "0", LABELS, knobs=SMALL, change=np.zeros_like)
    numbers = drawn(tmp_path / "0", given)
    assert numbers["weights"]["flow"][0]["entropy"] == {"mean": None, "by_class": [None] * 3}
    assert "all 0" in texts(figures["patch_weights.png"])
    assert not laid_over(figures["patch_weights_by_class.png"])


def test_equal_explanations_are_equal_bytes(tmp_path):
    given, _ = experiment(tmp_path, LABELS, knobs=SMALL)
    drawn(tmp_path, given)
    first = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}
    drawn(tmp_path, given)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}


@pytest.mark.parametrize(
    ("change", "form", "message"),
    [
        (lambda d: d[:, :2], None, r"weights of patches are \(2, 2, 8, 8\), modalities both, .* need \(2, 3, 8, 8\)"),
        (lambda d: d[:1], None, r"are \(1, 3, 8, 8\)"),
        (lambda d: d[:, :, :4, :4], None, r"are \(2, 3, 4, 4\)"),
        (lambda d: d[0], None, r"are \(3, 8, 8\)"),
        (lambda d: d - 0.9, None, "weights of patches are below 0"),
        (None, (64, 64), r"pictures are \(64, 64\), needed is \(3, h, w\)"),
        (None, (64, 64, 3), r"pictures are \(64, 64, 3\)"),
    ],
)
def test_explanations_that_are_not_those_of_the_knobs_are_refused(change, form, message, tmp_path):
    given, _ = experiment(tmp_path, LABELS, change=change, form=form)
    with pytest.raises(MerError, match=f"explain.h5: .*{message}.*; train again"):
        explained.draw(*given, tmp_path / "f", title="an experiment", clip="c/s2/x")


def test_what_the_network_explains_is_what_is_drawn(tmp_path, figures):
    """A small network's own explanation, with sizes that do not divide each other (S-01)."""
    knobs = {"size": 112, "rounding": "up", "width": 16, "layers": 2, "heads": 2, "start": "random"}
    torch.manual_seed(0)
    network = models.build("msmmt", 3, **knobs)
    found = models.load("msmmt").explain(network, torch.rand(4, 6, 112, 112) * 255)
    with CacheWriter(tmp_path / "explain.h5", kind="explain", ragged=False, params={"model": "msmmt"}) as file:
        for i in range(4):
            file.append(f"c/s{i}/x", **{name: value[i].numpy() for name, value in found.items()})
    p = found["logits"].softmax(1).numpy()
    rows = pd.DataFrame({"seed": 0, "id": [f"c/s{i}/x" for i in range(4)], "label": [0, 1, 2, 2]})
    rows = rows.assign(**{f"p{c}": p[:, c] for c in range(3)})
    run_info = {"class_names": CLASSES, "knobs": KNOBS | knobs, "protocol": {"seeds": [0]}}
    numbers = drawn(tmp_path, (ClipCache(tmp_path / "explain.h5", "explain"), rows, run_info))
    assert [(s["px"], s["patches"]) for s in numbers["weights"]["flow"]] == [(112, 7), (64, 4), (32, 2)]
    weights = network.modality(torch.zeros(1, 6, 112, 112), 1, True)[1]
    assert [w.shape[1] for w in weights] == [49, 16, 4]
    shown = laid_over(figures["patch_weights.png"])
    assert [s.shape for s in shown] == 2 * [(7, 7), (4, 4), (2, 2)]
