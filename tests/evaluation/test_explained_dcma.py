"""Grad-CAM of DCMA: which clips are drawn, what of them, and the numbers."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from mer import models
from mer.evaluation import confusion, maps
from mer.evaluation.explained import dcma as explained
from mer.evaluation.explained import drawer
from mer.storage.cache import CacheWriter, ClipCache
from tests.helpers.refusals import refused

CLASSES = ["negative", "positive", "surprise"]
LABELS = np.array([0, 0, 1, 1, 0, 0])  # nobody is surprised
GUESS = np.array([0, 1, 1, 1, 0, 0])
PICTURES = {"confusion.png", "gradcam.png", "gradcam_by_class.png"}


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved, by the name of the file; they are written, too."""
    kept = {}
    for module in (explained, confusion):
        save = module.save
        monkeypatch.setattr(
            module, "save", lambda figure, path, save=save: (kept.update({path.name: figure}), save(figure, path))
        )
    return kept


def texts(figure) -> str:
    """All that can be read in a figure."""
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in figure.findobj(Text))


def experiment(folder, *, spatial=True, change=None, form=(24, 24, 3), labels=LABELS, guess=GUESS):
    """Made-up explanations: (found, predictions, run_info); the clip n has heat in row n, its picture is grey 10 n."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    ids = [f"c/s{n}/x" for n in range(len(labels))]
    with CacheWriter(folder / "explain.h5", kind="explain", ragged=False, params={"model": "dcma"}) as file:
        for n, i in enumerate(ids):
            heat = rng.uniform(0, 0.2, (7, 7))
            heat[n % 7] = 1
            beside = {"picture": np.full(form, 10 * n, np.uint8), "logits": np.zeros(3, np.float32)}
            if spatial:
                beside["spatial"] = rng.uniform(0.4, 0.6, (7, 7)).astype(np.float32)
            heat = heat.astype(np.float32)
            file.append(i, heat if change is None else change(heat, n), **beside)
    p = np.full((len(labels), 3), 0.1)
    p[np.arange(len(labels)), guess] = 0.8 - 0.01 * np.arange(len(labels))
    p /= p.sum(1, keepdims=True)
    rows = pd.DataFrame({"seed": 7, "id": ids, "corpus": "c", "subject": [i[2:4] for i in ids], "label": labels})
    rows = rows.assign(**{f"p{c}": p[:, c] for c in range(3)})
    other = rows.assign(seed=1, p0=p[:, 1], p1=p[:, 0])  # a second seed, which is not explained
    predictions = pd.concat([other, rows]).sample(frac=1, random_state=0)
    run_info = {"class_names": CLASSES, "protocol": {"seeds": [7, 1]}}
    return ClipCache(folder / "explain.h5", "explain"), predictions, run_info


def drawn(folder, given, clip="c/s2/x") -> dict:
    """Draw; the numbers that were written."""
    explained.draw(*given, folder / "f", title="an experiment", clip=clip)
    assert {path.name for path in (folder / "f").iterdir()} == PICTURES | {"gradcam.json"}
    for name in PICTURES:
        assert cv2.imread(str(folder / "f" / name)).std() > 5
    return json.loads((folder / "f/gradcam.json").read_text(), parse_constant=pytest.fail)


def test_of_each_class_the_middle_one_that_was_recognised_and_that_was_not():
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.4, 0.6], [0.3, 0.7], [0.45, 0.55]])
    labels = np.array([0, 0, 0, 0, 1, 0])
    assert explained.examples(labels, probability, 3) == [(1, 3), (4, None), (None, None)]


@pytest.mark.parametrize("spatial", [True, False])
def test_a_clip_and_examples_of_each_class(tmp_path, figures, spatial):
    given = experiment(tmp_path, spatial=spatial)
    numbers = drawn(tmp_path, given)
    figure = figures["gradcam.png"]
    panels = [a for a in figure.axes if a.get_images()]
    clips = [a.get_title() for a in panels if a.get_title().startswith("c/")]
    # The drawn one; of negative one that was recognised and the one that was not; of positive one that was.
    assert clips == ["c/s2/x", "c/s4/x", "c/s1/x", "c/s2/x"]
    of_clips = [int(np.asarray(a.get_images()[0].get_array()).flat[0]) for a in panels if a.get_title()[:2] == "c/"]
    assert of_clips == [20, 40, 10, 20]
    assert [a.get_title() for a in panels].count("Grad-CAM") == 4
    assert [a.get_title() for a in panels].count("spatial attention") == 4 * spatial
    said = texts(figure)
    for part in ("an experiment: Grad-CAM by the network that has not seen the subject", "positive 0.80, right",
                 "positive 0.80, wrong", "none missed", "no clip of this class", "(the drawn clip)",
                 "half of the maximum"):  # fmt: skip
        assert part in said, part
    assert "none recognised" not in said
    found = given[0]
    if spatial:
        own = found.extra("spatial", "c/s1/x")
        assert f"{own.min():.3f} to {own.max():.3f}" in said
        assert numbers["spatial"]["places"] == [7, 7]
    else:
        assert "eq. 7" not in said
        assert numbers["spatial"] is None


def test_the_numbers_are_those_of_the_maps(tmp_path, figures):
    given = experiment(tmp_path)
    numbers = drawn(tmp_path, given)
    data = np.asarray(given[0].load(), dtype=float)
    assert numbers["clips"] == [4, 2, 0]
    assert numbers["gradcam"] == maps.summary(data, LABELS, 3)
    assert numbers["gradcam"]["row"]["by_class"][2] is None
    own = [maps.concentration(heat) for heat in data]
    right = LABELS == GUESS
    assert numbers["recognised"]["right"] == pytest.approx(np.mean([c for c, r in zip(own, right, strict=True) if r]))
    assert numbers["recognised"]["wrong"] == pytest.approx(own[1])
    assert numbers["spatial"] == maps.summary(explained._spatial(given[0]), LABELS, 3)


def test_class_means_lie_over_mean_faces(tmp_path, figures):
    given = experiment(tmp_path)
    drawn(tmp_path, given)
    figure = figures["gradcam_by_class.png"]
    panels = [a for a in figure.axes if len(a.get_images()) == 2]
    assert len(panels) == 3 + 2  # all, negative, positive; differences of the two
    greys = [float(np.asarray(a.get_images()[0].get_array()).flat[0]) for a in panels]
    negative, positive = np.mean([0, 10, 40, 50]), np.mean([20, 30])
    np.testing.assert_allclose(greys, [25, negative, positive, negative, positive])
    every, of_negative, of_positive, none = maps.class_maps(np.asarray(given[0].load(), dtype=float), LABELS, 3)
    assert none is None
    for a, expected in zip(panels, (every, of_negative, of_positive), strict=False):
        assert np.asarray(a.get_images()[1].get_array()).max() == pytest.approx(expected.max(), rel=0.05)  # smooth
    low, high = panels[3].get_images()[1].get_clim()
    assert high == -low == pytest.approx(max(np.abs(m - every).max() for m in (of_negative, of_positive)))
    share, chance = maps.between_classes(np.asarray(given[0].load(), dtype=float), LABELS)
    said = texts(figure)
    assert f"{100 * share:.1f} %, by chance {100 * chance:.1f} %" in said
    assert said.count("no clip") == 2
    assert "surprise\n0 clips" in said


def test_the_confusion_matrix_is_of_all_seeds(tmp_path, figures):
    drawn(tmp_path, experiment(tmp_path))
    said = texts(figures["confusion.png"])
    assert "sum of 2 runs" in said
    assert "6 clips" in said
    assert "no clip of this class" in said


def test_maps_without_heat_and_a_single_class_are_drawn(tmp_path, figures):
    given = experiment(tmp_path / "0", change=lambda heat, n: 0 * heat)
    numbers = drawn(tmp_path / "0", given)
    assert numbers["gradcam"]["without_heat"] == 6
    assert numbers["gradcam"]["concentration"]["mean"] is None
    assert "no heat" in texts(figures["gradcam.png"])
    assert "undefined" in texts(figures["gradcam_by_class.png"])
    one = np.zeros(3, dtype=int)
    drawn(tmp_path / "1", experiment(tmp_path / "1", labels=one, guess=one), clip="c/s0/x")
    assert "undefined" in texts(figures["gradcam_by_class.png"])


def test_equal_explanations_are_equal_bytes(tmp_path):
    given = experiment(tmp_path)
    drawn(tmp_path, given)
    first = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}
    drawn(tmp_path, given)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}


@pytest.mark.parametrize(
    ("change", "form", "message"),
    [
        (lambda heat, n: heat[0], (24, 24, 3), r"maps are \(7,\), needed is \(h, w\)"),
        (lambda heat, n: heat - 0.5, (24, 24, 3), "values of maps are below 0"),
        (None, (3, 24, 24), r"pictures are \(3, 24, 24\), needed is \(H, W, 3\)"),
        (None, (24, 24), r"pictures are \(24, 24\)"),
    ],
)
def test_explanations_that_are_no_maps_over_pictures_are_refused(change, form, message, tmp_path):
    given = experiment(tmp_path, change=change, form=form)
    refused(f"explain.h5: .*{message}.*; train again", explained.draw, *given, tmp_path / "f", title="x",
            clip="c/s2/x")  # fmt: skip
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("attention", ["none", "mixed"])
def test_what_the_network_explains_is_what_is_drawn(tmp_path, attention, one_thread):
    knobs = {"attention": attention, "stem": 4, "blocks": 2, "layers": 1, "growth": 2, "size": 16, "start": "random"}
    torch.manual_seed(0)
    network = models.build("dcma", 3, **knobs).eval()
    faces = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    found = models.load("dcma").explain(network, faces)
    with CacheWriter(tmp_path / "explain.h5", kind="explain", ragged=False, params={"model": "dcma"}) as file:
        for i in range(4):
            file.append(f"c/s{i}/x", **{name: value[i].detach().numpy() for name, value in found.items()})
    p = found["logits"].softmax(1).numpy().astype(float)
    rows = pd.DataFrame({"seed": 0, "id": [f"c/s{i}/x" for i in range(4)], "corpus": "c", "subject": list("abcd")})
    rows = rows.assign(label=[0, 1, 2, 2], **{f"p{c}": p[:, c] for c in range(3)})
    run_info = {"class_names": CLASSES, "protocol": {"seeds": [0]}}
    numbers = drawn(tmp_path, (ClipCache(tmp_path / "explain.h5", "explain"), rows, run_info))
    assert numbers["gradcam"]["places"] == [4, 4]
    assert (numbers["spatial"] is None) == (attention == "none")
    np.testing.assert_array_equal(maps.picture(ClipCache(tmp_path / "explain.h5"), "c/s1/x"), faces[1].numpy())


def test_the_maps_can_be_set_side_by_side():
    assert drawer("dcma").MAPS == "Grad-CAM"
