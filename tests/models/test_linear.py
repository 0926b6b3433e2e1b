"""The linear baseline against scikit-learn spelled out, and its symmetry."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mer import models, products
from mer.errors import MerError
from mer.models import linear


@pytest.fixture
def flow():
    return np.random.default_rng(0).normal(size=(40, 3, 28, 28)).astype(np.float32)


LABEL = np.arange(40) % 3


def test_against_the_steps_written_out(flow):
    def features(x):
        return np.stack([[[c[i : i + 4, j : j + 4].mean() for j in range(0, 28, 4)] for i in range(0, 28, 4)]
                         for f in x for c in f]).reshape(len(x), -1)  # fmt: skip

    mirrored = flow[:, :, :, ::-1] * np.array([-1, 1, 1])[:, None, None]
    x = np.concatenate([features(flow), features(mirrored)])
    mean, std = x.mean(0), x.std(0)
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=5000, tol=1e-8).fit(
        (x - mean) / std, [*LABEL, *LABEL]
    )
    expected = (model.predict_proba((x[:40] - mean) / std) + model.predict_proba((x[40:] - mean) / std)) / 2
    ours = models.build("linear", 3).fit(flow, LABEL).predict_proba(flow)
    # lbfgs stops at gradient 1e-4; with C 0.01 the curvature is at least 100, so weights are within 1e-6 of the
    # optimum, and a probability, over 147 standardised features, within 1e-4.
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_a_mirrored_face_is_the_same_face(flow):
    model = models.build("linear", 3).fit(flow, LABEL)
    np.testing.assert_allclose(model.predict_proba(flow), model.predict_proba(linear.mirror(flow)), atol=1e-12)
    assert np.array_equal(linear.mirror(linear.mirror(flow)), flow)


def test_it_speaks_of_the_classes_it_was_shown(flow):
    seen = LABEL != 1
    model = models.build("linear", 3).fit(flow[seen], LABEL[seen])
    assert model.classes_.tolist() == [0, 2]
    assert model.predict_proba(flow).shape == (40, 2)
    assert (model.predict(flow[seen]) == LABEL[seen]).mean() > 0.9
    assert (models.build("linear", 3).fit(flow[LABEL == 2], LABEL[LABEL == 2]).predict(flow) == 2).all()


def test_the_crop_may_be_any_multiple_of_28():
    flow = np.random.default_rng(3).normal(size=(2, 3, 112, 56)).astype(np.float32)
    expected = [[[[flow[n, c, 4 * i : 4 * i + 4, 2 * j : 2 * j + 2].mean() for j in range(28)] for i in range(28)]
                 for c in range(3)] for n in range(2)]  # fmt: skip
    np.testing.assert_allclose(linear.prepare(flow), expected, atol=1e-6)  # float32 means against float64
    with pytest.raises(MerError, match="28 px a side or more, these are 28x27"):
        linear.prepare(np.zeros((1, 3, 28, 27)))


def test_cells_of_other_crops_have_their_share_of_the_pixels_on_their_border():
    """256 = 28 * 9 1/7: with every pixel as seven, a cell is 64 of them a side."""
    flow = np.random.default_rng(3).normal(size=(2, 3, 256, 256)).astype(np.float32)
    fine = flow.repeat(7, 2).repeat(7, 3).reshape(2, 3, 28, 64, 28, 64)
    np.testing.assert_allclose(linear.prepare(flow), fine.mean((3, 5), dtype=np.float64), atol=1e-5)


def test_it_reads_the_flow_that_its_knobs_name():
    spec = models.load("linear")
    plain = products.frames("innereye256")
    assert spec.reads(spec.all_knobs({})) == (products.flow(products.frames("box224")),)
    assert spec.reads(spec.all_knobs({"crop": "innereye256"})) == (products.flow(plain),)
    magnified = products.flow(products.eulerian(plain, "msmmt"))
    assert spec.reads(spec.all_knobs({"crop": "innereye256", "evm": "msmmt"})) == (magnified,)


def test_an_impossible_penalty_is_refused():
    with pytest.raises(MerError, match=r"linear\.c is -1; it must be above 0"):
        models.build("linear", 3, c=-1)
