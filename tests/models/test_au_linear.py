"""The views of au_linear: its features by hand, its weights, and what it refuses."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mer import models
from mer.errors import MerError
from mer.facs import CLASSES, TARGETS
from mer.loso import run as loso
from mer.models import au_linear
from mer.models.linear import MirroredLogisticRegression, mirror
from mer.networks import action_units
from mer.products import Product, Weights
from mer.storage.weights import save_weights
from mer.stretch import stretched
from tests.helpers.refusals import refused

KNOBS = {"means": "raw", "grid": 7, "units": False}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "action_units.safetensors"
    save_weights(action_units.build_pretrained(), path, {"weights": "random"})
    return str(path)


@pytest.fixture(scope="module")
def maps():
    return stretched(np.random.default_rng(0).normal(size=(24, 3, 28, 28)).astype(np.float32))


def prepared(*views, weights=None, **knobs):
    return models.load("au_linear").prepared(views, KNOBS | knobs, weights)


def reads(**knobs):
    spec = models.load("au_linear")
    return spec.reads(spec.all_knobs(knobs))


def test_what_it_reads():
    assert [str(one) for one in reads(units=False)] == ["flow of box224"]
    first, second, last, network = reads(second="causalnet_flow", offset=True)
    assert (first.kind, first.corpus) == ("flow", "")
    assert (second.kind, second.corpus) == ("flow", "causalnet_flow")
    assert (last.kind, last.corpus) == ("flow_offset", "causalnet_flow")
    assert network == Weights("action_units")
    own = reads(offset=True, units=False)
    assert [(one.kind, one.corpus) for one in own if isinstance(one, Product)] == [("flow", ""), ("flow_offset", "")]


def test_one_view_without_units_is_the_linear_baseline(maps):
    """The same numbers in the same order: the same regression, to the last bit of its sums."""
    label = np.arange(24) % 3
    features = prepared(maps)
    assert features.shape == (24, 1, 2, 147)
    found = models.build("au_linear", 3).fit(features[:18], label[:18]).predict_proba(features[18:])
    same = MirroredLogisticRegression().fit(maps[:18], label[:18]).predict_proba(maps[18:])
    assert found == pytest.approx(same, abs=1e-9)


def test_several_views_are_the_mean_of_each(maps):
    label, other = np.arange(24) % 3, maps[::-1].copy()
    both = prepared(maps, other)
    assert both.shape == (24, 2, 2, 147)
    found = models.build("au_linear", 3, second="x").fit(both[:18], label[:18]).predict_proba(both[18:])
    alone = [models.build("au_linear", 3).fit(one[:18], label[:18]).predict_proba(one[18:])
             for one in (prepared(maps), prepared(other))]  # fmt: skip
    assert found == pytest.approx(np.mean(alone, 0), abs=1e-12)


def test_centred_means_do_not_see_a_shift(maps):
    moved = maps.copy()
    moved[:, 0] += 10
    moved[:, 1] -= 4
    # As the estimator gets them: stretched anew, which a shift of a whole channel does not change.
    assert np.allclose(prepared(moved), prepared(maps))
    by_hand = maps - np.concatenate(
        [np.median(maps[:, :2], axis=(2, 3), keepdims=True), np.zeros((24, 1, 1, 1))], 1
    ).astype(np.float32)
    means = by_hand.reshape(24, 3, 7, 4, 7, 4).mean((3, 5)).reshape(24, -1)
    assert prepared(maps, means="centred")[:, 0, 0] == pytest.approx(means, abs=1e-4)


def test_squashed_means_do_not_see_what_a_stretch_makes_of_a_blink(maps):
    """Two maps of one motion, one with a blink that takes the stretch: raw means differ, squashed ones do not."""
    rng = np.random.default_rng(1)
    motion = rng.normal(size=(1, 3, 28, 28)).cumsum(2).cumsum(3)
    motion[:, 2] = abs(motion[:, 2])
    blink = motion.copy()
    blink[:, :, 9:11, 8:10] = np.array([9, 9, 9])[:, None, None] * abs(motion).max((2, 3))[..., None, None]
    alike = {}
    for kind in ("raw", "centred", "squashed"):
        one, other = prepared(motion, means=kind)[0, 0, 0], prepared(blink, means=kind)[0, 0, 0]
        alike[kind] = np.corrcoef(one, other)[0, 1]
    assert alike["squashed"] > 0.99 > 0.9 > alike["raw"]
    assert alike["squashed"] > alike["centred"]


def test_squashed_by_hand(maps):
    found = au_linear.squashed(maps[:2])
    for clip in range(2):
        u, v = (maps[clip, c].astype(float) - np.median(maps[clip, c]) for c in (0, 1))
        length = np.quantile(np.sqrt(u**2 + v**2), 0.9) + 1
        strain = maps[clip, 2].astype(float) - maps[clip, 2].min()
        assert found[clip, 0] == pytest.approx(np.tanh(u / length), abs=1e-6)
        assert found[clip, 1] == pytest.approx(np.tanh(v / length), abs=1e-6)
        assert found[clip, 2] == pytest.approx(np.tanh(strain / (np.quantile(strain, 0.9) + 1)), abs=1e-6)
    assert not au_linear.squashed(np.zeros((1, 3, 28, 28), np.float32)).any()
    # The mirrored face has the mirrored features.
    assert au_linear.squashed(mirror(maps)) == pytest.approx(mirror(au_linear.squashed(maps)), abs=1e-6)


def test_both_means_are_two_regressions(maps):
    both = prepared(maps, maps[::-1], means="both")
    assert both.shape == (24, 4, 2, 147)
    for place, (view, kind) in enumerate(
        [(maps, "raw"), (maps, "centred"), (maps[::-1], "raw"), (maps[::-1], "centred")]
    ):
        assert np.array_equal(both[:, place], prepared(view, means=kind)[:, 0])


def test_units_are_the_networks_logits_of_both_forms(maps, weights):
    network = action_units.load_user_weights(weights).eval()
    with torch.inference_mode():
        expected = [network(torch.from_numpy(np.ascontiguousarray(x))).numpy() for x in (maps, mirror(maps))]
    found = prepared(maps, weights=weights, units=True)
    assert found.shape == (24, 1, 2, 147 + len(TARGETS) + len(CLASSES))
    for form in range(2):
        assert found[:, 0, form, 147:] == pytest.approx(expected[form], abs=1e-5)
    alone = prepared(maps, weights=weights, units=True, means="none")
    assert np.array_equal(alone, found[..., 147:])
    # One at a time, or among others: the same bits.
    assert np.array_equal(prepared(maps[5:6], weights=weights, units=True), found[5:6])


def test_the_engine_gives_the_weights_and_no_other_does(maps, weights):
    import pandas as pd

    rows = pd.DataFrame({"id": [f"x/{k % 6}/{k:02d}" for k in range(24)], "corpus": "x",
                         "subject": [str(k % 6) for k in range(24)], "label": [k % 3 for k in range(24)]})  # fmt: skip
    found = loso.run([maps], rows, model="au_linear", classes=3, weights=weights)
    order = np.argsort(rows["id"].to_numpy())
    features, label = prepared(maps[order], weights=weights, units=True), rows["label"].to_numpy()[order]
    test = (rows["subject"].to_numpy()[order] == "0").nonzero()[0]
    train = np.setdiff1d(np.arange(24), test)
    both = np.concatenate([features[train, 0, form] for form in range(2)])
    scaler = StandardScaler().fit(both)
    one = LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000).fit(
        scaler.transform(both), np.tile(label[train], 2)
    )
    by_hand = np.mean([one.predict_proba(scaler.transform(features[test, 0, form])) for form in range(2)], 0)
    assert found.iloc[test][["p0", "p1", "p2"]].to_numpy() == pytest.approx(by_hand, abs=1e-6)
    with pytest.raises(MerError, match=r"au_linear.units is true, and there are no weights of action_units; give them"):
        loso.run([maps], rows, model="au_linear", classes=3)
    with pytest.raises(MerError, match=r"weights are x, but mer/models/linear.py declares no load_weights"):
        loso.run([maps], rows, model="linear", classes=3, weights="x")


def test_what_it_refuses(maps):
    refused(r"au_linear reads nothing with means none and units false", models.build, "au_linear", 3, means="none",
            units=False)  # fmt: skip
    refused(r"au_linear.c is 0; it must be above 0", models.build, "au_linear", 3, c=0)
    refused(r"au_linear reads flow images \(N, 3, H, W\) of 28 px or more, not \(24, 3, 14, 14\)", prepared,
            maps[:, :, ::2, ::2])  # fmt: skip
