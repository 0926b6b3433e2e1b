"""The network for views of flow: its views, its loss by hand, its weights, and what it refuses."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mer import models
from mer.facs import coded_units
from mer.loso.recipe import Recipe
from mer.models import au_cnn
from mer.networks import action_units
from mer.products import Weights
from mer.storage.weights import save_weights
from mer.stretch import stretched
from tests.helpers.refusals import refused

pytestmark = pytest.mark.usefixtures("one_thread")


def built(**knobs):
    torch.manual_seed(0)
    return models.build("au_cnn", 3, **{"width": 4, "dropout": 0.0} | knobs)


def inputs(count=6, views=1, seed=0):
    maps = np.random.default_rng(seed).normal(size=(views, count, 3, 28, 28)).astype(np.float32)
    return torch.from_numpy(au_cnn.prepare(*maps))


def reads(**knobs):
    spec = models.load("au_cnn")
    return spec.reads(spec.all_knobs(knobs))


def test_what_it_reads():
    assert [one.kind for one in reads()] == ["flow"]
    first, second, last, start = reads(second="causalnet_flow", offset=True, start="pretrained")
    assert [one.kind for one in (first, second, last)] == ["flow", "flow", "flow_offset"]
    assert start == Weights("action_units")


def test_every_channel_of_every_view_is_stretched():
    maps = np.random.default_rng(0).normal(size=(2, 4, 3, 56, 56)).astype(np.float32)
    found = au_cnn.prepare(*maps)
    assert found.shape == (4, 6, 28, 28)
    assert np.array_equal(found[:, 3:], stretched(maps[1]))


def test_a_view_does_not_see_the_other():
    network, both = built(second="x").train(), inputs(views=2)
    network.eval()
    alone = [network._logits_of(both[:, 3 * v : 3 * v + 3]) for v in (0, 1)]
    assert torch.allclose(network._logits(both), torch.stack(alone, 1), atol=1e-5)


def test_a_probability_is_the_mean_over_views_and_both_forms():
    network, both = built(second="x", offset=False).eval(), inputs(views=2)
    with torch.no_grad():
        parts = [network._logits_of(x[:, 3 * v : 3 * v + 3]).softmax(1)
                 for x in (both, au_cnn.mirror(both)) for v in (0, 1)]  # fmt: skip
        found = network(both).softmax(1)
    assert torch.allclose(found, torch.stack(parts).mean(0), atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(network(au_cnn.mirror(both)).softmax(1), found, atol=1e-5)


def test_the_mirrored_input_is_that_of_the_mirrored_map():
    maps = np.random.default_rng(0).normal(size=(4, 3, 28, 28)).astype(np.float32)
    turned = maps[..., ::-1].copy()
    turned[:, 0] *= -1
    assert np.abs(au_cnn.prepare(turned) - au_cnn.mirror(torch.from_numpy(au_cnn.prepare(maps))).numpy()).max() <= 1


def test_the_loss_by_hand():
    """Two views, four clips of class 0, one of class 1, one that is padding: each class counts the same."""
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 2, 3)))
    labels, weight = torch.tensor([0, 0, 0, 0, 1, 2]), torch.tensor([0.2] * 5 + [0.0], dtype=torch.float64)
    each = [F.cross_entropy(logits[:, v], labels, reduction="none").numpy() for v in (0, 1)]
    mean = np.mean(each, 0)
    expected = (mean[:4].mean() + mean[4]) / 2
    assert float(au_cnn.loss(lambda x: logits, logits, labels, weight)) == pytest.approx(expected, abs=1e-12)


def test_the_loss_with_action_units_by_hand():
    """Beside the classes: the mean over what is known, of the clips that count; over views too."""
    rng = np.random.default_rng(0)
    logits, of_units = (torch.from_numpy(rng.normal(size=(4, 2, n))) for n in (3, 16))
    labels, weight = torch.tensor([0, 1, 2, 0]), torch.tensor([1 / 3] * 3 + [0.0], dtype=torch.float64)
    units = torch.from_numpy(rng.integers(0, 2, (4, 16)).astype(np.float64))
    units[0, 3], units[1] = torch.nan, torch.nan
    alone = float(au_cnn.loss(lambda x: logits, logits, labels, weight))
    found = float(au_cnn.loss(lambda x: (logits, of_units, 0.7), logits, labels, weight, units))
    p = torch.sigmoid(of_units).numpy()
    terms = [
        -np.log(p[b, v, u] if units[b, u] == 1 else 1 - p[b, v, u])
        for b in (0, 2) for u in range(16) if not torch.isnan(units[b, u]) for v in range(2)
    ]  # fmt: skip
    assert len(terms) == 2 * (15 + 16)
    assert found - alone == pytest.approx(0.7 * np.mean(terms), abs=1e-12)
    unknown = torch.full((4, 16), torch.nan, dtype=torch.float64)
    assert float(au_cnn.loss(lambda x: (logits, of_units, 0.7), logits, labels, weight, unknown)) == alone


def test_action_units_are_learned_where_they_are_asked_for_and_nowhere_else():
    texts = ["4+7", "", "L12"]
    spec = models.load("au_cnn")
    assert spec.targets(texts, spec.all_knobs({})) is None
    assert np.array_equal(spec.targets(texts, spec.all_knobs({"auxiliary": 0.5})), coded_units(texts), equal_nan=True)
    plain, more = built(second="x"), built(second="x", auxiliary=0.5)
    both = inputs(views=2)
    assert plain.train()(both).shape == (6, 2, 3)
    logits, units, auxiliary = more.train()(both)
    assert (logits.shape, units.shape, auxiliary) == ((6, 2, 3), (6, 2, 16), 0.5)
    found = more.eval()(both)
    assert found.shape == (6, 3)
    assert torch.allclose(found.exp().sum(1), torch.ones(6), atol=1e-5)


def test_it_begins_with_the_weights_of_the_action_units(tmp_path):
    torch.manual_seed(1)
    learned = action_units.build_pretrained()
    path = tmp_path / "action_units.safetensors"
    save_weights(learned, path, {"weights": "random"})
    network = au_cnn.load_weights(built(start="pretrained", width=32), path)
    for name, value in learned.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(network.trunk.state_dict()[name], value), name
    assert network.trunk.head.out_features == 3


def test_what_it_refuses():
    spec = models.load("au_cnn")
    refused(r"au_cnn: recipe.rotate turns maps whose u and v were stretched apart; set it to 0", Recipe.of_model, spec,
            {"rotate": 5}, {})  # fmt: skip
    refused(r"au_cnn: width is 16, that of weights action_units is 32; set width to 32", Recipe.of_model, spec, {},
            {"start": "pretrained"})  # fmt: skip
    refused(r"au_cnn: width is 0, dropout 0.3; needed are 1 or more", models.build, "au_cnn", 3, width=0)
    refused(r"au_cnn: auxiliary is -1.0; needed is 0 or more, and finite", models.build,
            "au_cnn", 3, auxiliary=-1.0)  # fmt: skip
    refused(r"au_cnn reads flow images \(N, 3, H, W\) of 28 px or more", au_cnn.prepare, np.zeros((2, 2, 28, 28)))
