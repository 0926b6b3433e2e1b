"""Attention and gamma: the numbers by hand, and what the pictures show."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from mer.errors import MerError
from mer.evaluation.explained import uamrn as explained
from mer.storage.cache import CacheWriter, ClipCache

# Query 3 has no partner; the lower right quarter of four positions is [[0.2, 0.3], [0, 0]].
FOUR = np.array([[0.5, 0.5, 0, 0], [0.1, 0.7, 0.2, 0], [0, 0.5, 0.2, 0.3], [0, 0, 0, 0]])
CLASSES = ["others", "disgust", "surprise"]
LABELS = np.repeat([0, 1, 2], [4, 3, 2])


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved, with the paths; they are written, too."""
    kept, save = [], explained.save
    monkeypatch.setattr(explained, "save", lambda figure, path: (kept.append(figure), save(figure, path)))
    return kept


def texts(figure) -> str:
    """All that can be read in a figure."""
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in figure.findobj(Text))


def panels(figure):
    """The axes with a matrix, in the order they were drawn."""
    return [a for a in figure.findobj(lambda x: hasattr(x, "get_images")) if a.get_images()]


# ---- numbers of a matrix ------------------------------------------------------------------------------------------


def test_share_of_pairs_kept():
    assert explained.share_kept(FOUR) == 8 / 16
    assert explained.share_kept(np.zeros((3, 3))) == 0
    assert explained.share_kept([[1e-30, 0], [0, 0]]) == 0.25  # small is not 0


def test_masses_of_a_matrix():
    assert explained.diagonal_mass(FOUR) == pytest.approx(1.4 / 3)
    assert explained.diagonal_mass(FOUR, 1) == pytest.approx(1)
    assert explained.lower_right_mass(FOUR) == pytest.approx(0.5 / 3)
    corners = np.array([[0, 0, 1], [0, 0, 0], [2, 0, 1]])
    assert explained.diagonal_mass(corners, 1) == 0.25
    assert explained.diagonal_mass(corners, 2) == 1
    assert explained.lower_right_mass(corners) == 0.25  # of three positions the later half is one


@pytest.mark.parametrize("length", [2, 5, 32])
def test_masses_of_an_even_spread(length):
    even = np.full((length, length), 1 / length, dtype=np.float32)
    assert explained.diagonal_mass(even) == pytest.approx(1 / length)
    assert explained.diagonal_mass(even, 1) == pytest.approx((3 * length - 2) / length**2)
    assert explained.lower_right_mass(even) == pytest.approx((length // 2) ** 2 / length**2)


def test_without_any_attention_masses_are_undefined():
    assert explained.diagonal_mass(np.zeros((4, 4))) is None
    assert explained.lower_right_mass(np.zeros((4, 4))) is None


# ---- the picture of attention -------------------------------------------------------------------------------------


def sparse(rng, clips: int, length: int):
    """(clips, 3, 2, length, length): softmax over random pairs, query 3 without any."""
    scores = np.exp(rng.normal(size=(clips, 3, 2, length, length)))
    scores *= rng.uniform(size=scores.shape) < 0.4
    scores[..., 2, :] = 0
    return scores / np.maximum(scores.sum(-1, keepdims=True), 1e-12)


def test_attention_shows_each_block_and_head_of_clip_and_mean(tmp_path, figures):
    clips = sparse(np.random.default_rng(0), 5, 8)
    for name in ("1.png", "2.png"):
        explained.attention_figure(
            clips[0], clips.mean(0), tmp_path / name, "title", "sub02/EP03_02f", factors=np.linspace(2, 13, 8), clips=5,
            kept=(clips != 0).mean(0),
        )  # fmt: skip
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    drawn = panels(figures[0])
    assert len(drawn) == 12
    for a, matrix in zip(drawn, [*clips[0].reshape(-1, 8, 8), *clips.mean(0).reshape(-1, 8, 8)], strict=True):
        shown = a.get_images()[0].get_array()
        assert (shown.mask == (matrix == 0)).all()
        np.testing.assert_array_equal(shown.filled(0), matrix)
    label = drawn[1].get_title(loc="left")  # block 1, head 2 of the clip
    matrix = clips[0, 0, 1]
    assert (
        f"kept {100 * explained.share_kept(matrix):.0f} %, lower right {100 * (matrix[4:, 4:] != 0).mean():.0f} %"
        in label
    )
    assert f"on diagonal {100 * np.trace(matrix) / matrix.sum():.0f} % (even 12 %)" in label
    assert f"in lower right {100 * matrix[4:, 4:].sum() / matrix.sum():.0f} % (even 25 %)" in label
    assert "block 1, head 2" in label
    mean = (clips[:, 2, 1] != 0).mean()
    assert f"kept {100 * mean:.0f} %" in drawn[11].get_title(loc="left")
    for said in ("sub02/EP03_02f", "mean of 5 clips", "8  x13", "no common bucket"):
        assert said in texts(figures[0])
    assert "cls" not in texts(figures[0])


def test_zeros_are_tinted_and_small_weights_are_not(tmp_path, figures):
    """By the colours of the file: full attention has the tint in the legend alone, and larger is darker."""
    rng = np.random.default_rng(1)
    full = np.exp(rng.normal(size=(1, 1, 6, 6)))
    full[..., 0, 0] = 1e-9
    full /= full.sum(-1, keepdims=True)
    half = full * (np.arange(6) % 2)
    tinted = []
    for name, matrix in (("full", full), ("half", half)):
        path = tmp_path / f"{name}.png"
        explained.attention_figure(matrix, matrix, path, "title", "clip", factors=range(6), clips=1)
        rgb = cv2.imread(str(path))[..., ::-1]
        tint = [int(explained.NOT_KEPT[i : i + 2], 16) for i in (1, 3, 5)]
        tinted.append((rgb == tint).all(-1).sum())
    image = panels(figures[1])[0].get_images()[0]
    side = panels(figures[1])[0].get_window_extent().width * 110 / figures[1].dpi  # the file has 110 dots an inch
    assert tinted[0] < 500
    # Half of two panels, less the frames and the dashed line.
    assert tinted[1] - tinted[0] == pytest.approx(side**2, rel=0.06)
    red = image.to_rgba(np.array([0.01, 0.1, 0.3]))[:, 0]
    assert (np.diff(red) < 0).all()
    assert "ever kept 50 %" in texts(figures[1])


def test_a_learned_first_position_is_drawn_but_not_counted(tmp_path, figures):
    matrix = np.zeros((1, 1, 5, 5))
    matrix[..., 1:, 1:] = FOUR
    with_cls = matrix.copy()
    with_cls[..., 0, :] = with_cls[..., 0] = 0.2
    for stack, factors in ((FOUR[None, None], 4), (matrix, 4), (with_cls, 4)):
        explained.attention_figure(stack, stack, tmp_path / "a.png", "title", "clip", factors=range(factors), clips=1)
    labels = [[a.get_title(loc="left").split("\n")[1:] for a in panels(figure)] for figure in figures]
    assert labels[0] == labels[1] == labels[2]
    assert labels[0][0] == [
        "kept 50 %, lower right 50 %", "on diagonal 47 % (even 25 %)", "within 2 of it 100 % (even 88 %)",
        "in lower right 17 % (even 25 %)",
    ]  # fmt: skip
    ticks = [t.get_text() for t in panels(figures[2])[0].get_yticklabels()]
    assert ticks == ["cls", "2  x1", "3  x2", "4  x3"]
    assert panels(figures[2])[0].get_images()[0].get_array()[0, 0] == 0.2
    assert "cls not counted" in texts(figures[2])


def test_attention_to_nothing_is_said(tmp_path, figures):
    nothing = np.zeros((1, 2, 4, 4))
    explained.attention_figure(nothing, nothing, tmp_path / "a.png", "title", "clip", factors=range(4), clips=1)
    assert "on diagonal none (even 25 %)" in texts(figures[0])
    assert "nan" not in texts(figures[0])


@pytest.mark.parametrize(
    ("shape", "mean", "kept", "factors"),
    [
        ((3, 2, 8, 8), (3, 2, 8, 8), None, 6),
        ((3, 2, 8, 7), (3, 2, 8, 7), None, 8),
        ((2, 8, 8), (2, 8, 8), None, 8),
        ((3, 2, 8, 8), (3, 1, 8, 8), None, 8),
        ((3, 2, 8, 8), (3, 2, 8, 8), (3, 2), 8),
        ((3, 2, 1, 1), (3, 2, 1, 1), None, 1),
    ],
)
def test_matrices_of_another_form_are_refused(shape, mean, kept, factors, tmp_path):
    kept = None if kept is None else np.ones(kept)
    with pytest.raises(MerError, match="attention is"):
        explained.attention_figure(
            np.ones(shape), np.ones(mean), tmp_path / "a.png", "", "", factors=range(factors), clips=1, kept=kept
        )


# ---- numbers of gamma ---------------------------------------------------------------------------------------------


def test_gamma_of_classes_by_hand():
    gamma = [1, 2, 3, 4, 5, 1, 6, 8, 2]  # medians 2.5, 5, 5; sizes 4, 3, 2
    found = explained.gamma_summary(gamma, LABELS, 3)
    assert found["sizes"] == [4, 3, 2]
    assert found["medians"] == [2.5, 5, 5]
    # Ranks 3, 2, 1 and 1, 2.5, 2.5: -1.5 / sqrt(2 * 1.5). Largest with smallest: 2 of the 6 orders.
    assert found["spearman"] == pytest.approx(-1.5 / np.sqrt(3))
    assert found["chance"] == pytest.approx(2 / 6)
    assert found["auroc"] is None
    assert set(found["undefined"]) == {"auroc"}


def test_a_falling_line_of_five_classes():
    sizes = [5, 4, 3, 2, 1]
    labels = np.repeat(np.arange(5), sizes)
    found = explained.gamma_summary(labels + 1.0, labels, 5)  # the rarer, the larger
    assert found["spearman"] == pytest.approx(-1)
    assert found["chance"] == pytest.approx(1 / 120)
    found = explained.gamma_summary(9.0 - labels, labels, 5)
    assert found["spearman"] == pytest.approx(1)
    assert found["chance"] == 1


def test_a_class_without_clips_takes_no_part():
    labels = np.repeat([0, 1, 3], [3, 2, 1])
    found = explained.gamma_summary(labels + 1.0, labels, 4)
    assert found["sizes"] == [3, 2, 0, 1]
    assert found["medians"] == [1, 2, None, 4]
    assert found["spearman"] == pytest.approx(-1)


@pytest.mark.parametrize(
    ("labels", "gamma", "reason"),
    [
        ([0, 0, 1], [1, 2, 3], "2 of 3 classes occur"),
        ([0, 1, 2], [1, 2, 3], "as many clips"),
        ([0, 0, 1, 2], [1, 1, 1, 1], "same median"),
    ],
)
def test_a_correlation_that_is_undefined_has_a_reason(labels, gamma, reason):
    found = explained.gamma_summary(gamma, labels, 3)
    assert found["spearman"] is None
    assert found["chance"] is None
    assert reason in found["undefined"]["spearman"]


def test_of_many_classes_not_all_orders_are_looked_at():
    labels = np.repeat(np.arange(9), np.arange(1, 10))
    found = explained.gamma_summary(labels + 1.0, labels, 9)
    assert found["spearman"] == pytest.approx(1)
    assert found["chance"] is None
    assert "8 classes" in found["undefined"]["chance"]


def test_whether_gamma_knows_what_is_wrong():
    gamma, correct = [1, 2, 3, 3, 5], [True, True, False, True, False]
    found = explained.gamma_summary(gamma, [0] * 5, 1, correct)
    assert found["auroc"] == pytest.approx(5.5 / 6)  # 3 is above 1 and 2, and even with 3; 5 is above all three
    assert explained.gamma_summary([1] * 5, [0] * 5, 1, correct)["auroc"] == 0.5
    found = explained.gamma_summary(gamma, [0] * 5, 1, [True] * 5)
    assert found["auroc"] is None
    assert "right" in found["undefined"]["auroc"]


def test_auroc_is_scikit_learns():
    rng = np.random.default_rng(2)
    gamma, correct = rng.integers(0, 9, 100), rng.uniform(size=100) < 0.7
    found = explained.gamma_summary(gamma, np.zeros(100, dtype=int), 1, correct)
    assert found["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(~correct, gamma))


@pytest.mark.parametrize(
    ("gamma", "labels", "correct"),
    [
        ([1, 2], [0], None),
        ([], [], None),
        ([1, np.nan], [0, 1], None),
        ([1, 2], [0, 3], None),
        ([1, 2], [0, 1], [True]),
    ],
)
def test_wrong_gamma_is_refused(gamma, labels, correct):
    with pytest.raises(MerError):
        explained.gamma_summary(gamma, np.array(labels, dtype=int), 3, correct)


# ---- the picture of gamma -----------------------------------------------------------------------------------------


def test_equal_pictures_of_gamma_are_equal_bytes(tmp_path, figures):
    rng = np.random.default_rng(3)
    gamma, trained = rng.lognormal(size=9), rng.lognormal(-3, 2, size=9)
    correct = np.arange(9) % 3 > 0
    for name in ("1.png", "2.png"):
        explained.gamma_figure(gamma, trained, LABELS, CLASSES, tmp_path / name, "title", correct)
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    assert (tmp_path / "1.png").stat().st_size > 20000
    said = texts(figures[0])
    summary, weights = (explained.gamma_summary(g, LABELS, 3, correct) for g in (gamma, trained))
    assert f"test clips: rank correlation {summary['spearman']:+.2f}" in said
    assert f"training clips: rank correlation {weights['spearman']:+.2f}" in said
    assert f"ROC curve {summary['auroc']:.2f}" in said
    test, training, size, right = figures[0].axes
    assert training.get_yscale() == size.get_xscale() == "log"
    assert [t.get_text() for t in test.get_xticklabels()] == ["others\nn 4", "disgust\nn 3", "surprise\nn 2"]
    assert [t.get_text() for t in right.get_xticklabels()] == ["classified right\nn 6", "classified wrong\nn 3"]
    np.testing.assert_array_equal(size.lines[0].get_xdata(), [2, 3, 4])
    expected = np.array(summary["medians"][::-1]) / np.median(gamma)
    np.testing.assert_allclose(size.lines[0].get_ydata(), expected, rtol=1e-12)


def test_classes_stand_by_size_and_the_absent_one_is_left_out(tmp_path, figures):
    labels = np.repeat([0, 1, 3], [1, 4, 2])
    gamma = np.arange(1.0, 8)
    explained.gamma_figure(gamma, None, labels, list("abcd"), tmp_path / "g.png", "title")
    test, size = figures[0].axes
    assert [t.get_text() for t in test.get_xticklabels()] == ["b\nn 4", "d\nn 2", "a\nn 1"]
    dots = [c.get_offsets()[:, 1] for c in test.collections]
    assert [sorted(d) for d in dots] == [[2, 3, 4, 5], [6, 7], [1]]
    assert {t.get_text() for t in size.texts} == {"a", "b", "d"}
    assert "training clips" not in texts(figures[0])


def test_a_deterministic_network_is_said_to_be_one(tmp_path, figures):
    explained.gamma_figure(np.ones(9), np.ones(9), LABELS, CLASSES, tmp_path / "g.png", "title", np.arange(9) > 4)
    assert not figures[0].axes
    assert "gamma is 1 for all 9 clips" in texts(figures[0])
    assert "deterministic" in texts(figures[0])
    explained.gamma_figure(np.full(9, 0.5), None, LABELS, CLASSES, tmp_path / "g.png", "title")
    assert "gamma is 0.5 for all 9 clips" in texts(figures[1])
    assert "deterministic" not in texts(figures[1])


def test_what_cannot_be_told_is_said(tmp_path, figures):
    gamma = np.linspace(1, 2, 9)
    explained.gamma_figure(gamma, np.ones(9), LABELS // 2, CLASSES, tmp_path / "g.png", "title", np.zeros(9, bool))
    said = texts(figures[0])
    assert "rank correlation none, 2 of 3 classes occur" in said
    assert "all clips were classified wrong" in said
    assert "nan" not in said


def test_names_of_classes_of_one_size_stand_apart():
    moved = explained._apart(np.array([0.1, 0.1, 0.11, 0.5, 0.99, 0.99]), 0.05)
    np.testing.assert_allclose(moved, [0.1, 0.15, 0.2, 0.5, 0.925, 0.975])


# ---- the pictures of an experiment --------------------------------------------------------------------------------


def test_an_experiment_is_drawn_by_clip_whatever_the_order_of_its_rows(tmp_path, figures):
    rng = np.random.default_rng(4)
    ids = [f"c/s{n}/x" for n in range(9)]
    gamma, weight = rng.lognormal(size=9), rng.lognormal(size=9)
    weight[3] = np.nan  # no fold was trained on it
    clips = sparse(rng, 9, 4)
    with CacheWriter(tmp_path / "explain.h5", kind="explain", ragged=False, params={"model": "uamrn"}) as file:
        for i, clip_id in enumerate(ids):
            file.append(clip_id, clips[i], gamma=gamma[i], weight=weight[i])
    rows = pd.DataFrame({"seed": 7, "id": ids, "label": LABELS, "p0": 0.5, "p1": 0.4, "p2": 0.1})
    other = rows.assign(seed=1, p0=0.0)  # of a second seed, which is not explained
    predictions = pd.concat([other, rows]).sample(frac=1, random_state=0)
    run_info = {"class_names": CLASSES, "knobs": {"factors": "arange_2_6_1"}, "protocol": {"seeds": [7, 1]}}
    found = ClipCache(tmp_path / "explain.h5", "explain")
    explained.draw(found, predictions, run_info, tmp_path / "f", title="an experiment", clip="c/s2/x")
    assert {path.name for path in (tmp_path / "f").iterdir()} == {"attention.png", "gamma.png", "gamma.json"}
    numbers = json.loads((tmp_path / "f/gamma.json").read_text())
    known = np.arange(9) != 3
    assert numbers == {
        "class_names": CLASSES,
        "test": explained.gamma_summary(gamma, LABELS, 3, LABELS == 0),  # p0 is the largest in all rows of seed 7
        "training": explained.gamma_summary(weight[known], LABELS[known], 3),
    }
    drawn = panels(figures[0])
    np.testing.assert_array_equal(drawn[0].get_images()[0].get_array().filled(0), clips[2, 0, 0])
    np.testing.assert_allclose(drawn[6].get_images()[0].get_array().filled(0), clips.mean(0)[0, 0], rtol=1e-12)
    for text in ("an experiment: attention", "c/s2/x", "mean of 9 clips", "1  x2", "4  x5"):
        assert text in texts(figures[0])
    assert "an experiment: gamma" in texts(figures[1])
