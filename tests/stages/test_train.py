"""Stage train with a network that reads magnified sequences, and weights of its own: what it writes and refuses."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from mer.plan_file import stages_of
from mer.storage.cache import CacheWriter, ClipCache
from mer.storage.weights import save_weights
from tests.helpers.in_process import command
from tests.helpers.project import edit
from tests.helpers.sequences import (
    DRAWN,
    EMBED,
    EMBEDDING,
    EXPERIMENT,
    MAGNET,
    MAGNIFIED,
    WEIGHTS,
    drawn,
    protocol,
    train,
    write_magnified,
)  # fmt: skip
from tests.helpers.stages import refused

FOLDER = f"data/predictions/{EXPERIMENT}"
# The backbone is part of the network and reads frames.
FRAMES = {"features": False, "freeze": False, "tap": "layer1", "grid": 1}


def predictions(folder) -> np.ndarray:
    return pd.read_csv(folder / FOLDER / "predictions.csv").filter(regex=r"^p\d").to_numpy()


def run_info(folder) -> dict:
    return json.loads((folder / FOLDER / "run.json").read_text())


def by_hand(folder, experiment=EXPERIMENT, **changes) -> tuple[int, list[str]]:
    """The stage with other arguments than those in plan.yaml."""
    args = stages_of(folder / "plan.yaml")["train"][experiment]["args"] | changes
    values = {name: value if isinstance(value, list) else [str(value)] for name, value in args.items()}
    words = [word for name, value in values.items() for word in (f"--{name}", *value)]
    return command(folder, "train", experiment, *words)


# ---- what it writes -------------------------------------------------------------------------------------------------


def test_every_clip_is_explained_by_attention_gamma_and_weight(learned):
    found = ClipCache(learned / FOLDER / "explain.h5", "explain")
    assert found.ids == ClipCache(learned / MAGNET).ids
    assert found.shape == (15, 1, 2, 8, 8)  # blocks, heads, L, L
    rows = found.load().sum(-1)
    assert ((np.abs(rows - 1) < 1e-5) | (rows == 0)).all()  # a query without partner attends to nothing
    assert (rows != 0).any()
    kinds = [found.extras(clip_id) for clip_id in found.ids]
    gamma, weight = (np.array([extras[kind] for extras in kinds]) for kind in ("gamma", "weight"))
    assert gamma.shape == weight.shape == (15,)
    assert (gamma > 0).all()
    assert (weight > 0).all()
    assert len(set(gamma)) == len(set(weight)) == 15  # of the clip, not of the fold
    assert not np.allclose(gamma, weight)  # another network's


def test_every_network_that_had_a_part_is_named(learned):
    assert protocol(learned)["weights"] == {"uamrn": "random", "magnet": MAGNIFIED, "resnet18": DRAWN}


def test_the_run_says_what_was_read_and_with_which_knobs(learned):
    found = run_info(learned)
    assert found["inputs"] == [EMBEDDING]
    assert (found["experiment"], found["model"]) == (EXPERIMENT, "uamrn")
    assert found["knobs"]["factors"] == "linspace_2_13_8"
    assert found["recipe"]["epochs"] == 2
    assert found["protocol"]["excluded"] == {}
    assert found["protocol"]["n_of_other_classes"] == 0


def test_a_backbone_that_is_trained_begins_with_the_weights_among_its_reads(embedded_copy):
    """Other weights give other predictions; so does a backbone that is frozen."""
    found = {}
    for what, knobs in (("trained", FRAMES), ("other", FRAMES), ("frozen", FRAMES | {"freeze": True})):
        seed = 7 if what == "other" else 0
        save_weights(drawn(seed), embedded_copy / WEIGHTS, {"weights": f"drawn with seed {seed}"})
        assert train(embedded_copy, knobs=knobs, recipe={"epochs": 1}) == (0, [])
        weights = {"uamrn": "random", "magnet": MAGNIFIED, "resnet18": f"drawn with seed {seed}"}
        assert protocol(embedded_copy)["weights"] == weights
        assert run_info(embedded_copy)["inputs"] == [MAGNET, WEIGHTS]
        found[what] = predictions(embedded_copy)
        assert np.isfinite(found[what]).all()
    assert not np.allclose(found["trained"], found["other"])
    assert not np.allclose(found["trained"], found["frozen"])


# ---- transductive: a network had seen test subjects -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("subjects", "transductive"),
    [
        (None, False),
        ([], False),
        (["casme2/sub01", "synthetic/sub09"], False),  # another corpus's, and one of whom the index has no clip
        (["synthetic/sub01"], True),
        (["casme2/sub09", "synthetic/sub03"], True),
    ],
)
@pytest.mark.parametrize("where", ["embedding", "backbone", "sequence"])
def test_weights_that_have_seen_a_tested_subject_are_stamped(embedded_copy, where, subjects, transductive):
    """Weights that made a product that is read, that begin the network, or that made the sequences before."""
    about = {"weights": "learned"} if subjects is None else {"weights": "learned", "subjects": subjects}
    if where == "sequence":
        write_magnified(embedded_copy, ClipCache(embedded_copy / MAGNET).ids, subjects_seen=subjects or [])
    else:
        save_weights(drawn(0), embedded_copy / WEIGHTS, about)
    if where != "backbone":
        assert command(embedded_copy, "embed", EMBED)[0] == 0
    # An epoch of the smallest network: what is looked at is the stamp.
    code, lines = train(
        embedded_copy, knobs=FRAMES if where == "backbone" else {}, recipe={"epochs": 1, "batch_size": 16}
    )
    assert code == 0, lines
    assert protocol(embedded_copy)["transductive"] is transductive


# ---- what would have been looked at, and what is there by chance ---------------------------------------------------


@pytest.mark.parametrize(
    ("more", "recipe", "leaky"),
    [
        ({"validation": "test_subject"}, {}, False),  # nothing looks at it
        ({"validation": "test_subject"}, {"stop": 1}, True),
        ({"validation": "test_subject", "selection": "inner_val"}, {}, True),
        ({"selection": "inner_val"}, {}, False),
    ],
)
def test_a_validation_on_the_test_subject_is_stamped_as_a_leak(embedded_copy, more, recipe, leaky):
    code, lines = train(embedded_copy, recipe={"epochs": 1, "batch_size": 16, **recipe}, **more)
    assert code == 0, lines
    assert protocol(embedded_copy)["leaky"] is leaky
    assert protocol(embedded_copy).get("validation") == more.get("validation")


def test_shuffled_labels_are_the_same_labels_of_other_clips_and_stamped(embedded_copy):
    found = []
    for more in ({}, {"shuffled": True}):
        code, lines = train(embedded_copy, recipe={"epochs": 1, "batch_size": 16}, **more)
        assert code == 0, lines
        found.append(pd.read_csv(embedded_copy / FOLDER / "predictions.csv").set_index("id")["label"])
        assert protocol(embedded_copy).get("shuffled") == more.get("shuffled")
    plain, shuffled = found
    assert (plain != shuffled).any()
    assert plain.value_counts().to_dict() == shuffled.value_counts().to_dict()


# ---- what it refuses ------------------------------------------------------------------------------------------------


def test_a_sequence_of_another_length_is_refused(embedded_copy):
    """Its path names the factors; the file holds what another version of them gave."""
    whole = ClipCache(embedded_copy / EMBEDDING)
    vectors = {clip_id: whole[clip_id][:7] for clip_id in whole.ids}
    with CacheWriter(embedded_copy / EMBEDDING, kind="embedding", ragged=False, params=whole.params) as file:
        for clip_id, array in vectors.items():
            file.append(clip_id, array)
    refused(train(embedded_copy), f"train@{EXPERIMENT}: uamrn reads (clips, 8, 2048), the product gives",
            "7, 2048)", "uamrn.factors say how many frames come")  # fmt: skip


@pytest.mark.parametrize(
    ("features", "changes", "message"),
    [
        (True, {"weights": WEIGHTS}, f"{WEIGHTS}: uamrn.features is true, so there is no ResNet to take it"),
        (True, {"reads": [MAGNET]}, "uamrn reads (clips, 8, 2048), the product gives"),
        (False, {"reads": [EMBEDDING]}, "uamrn reads (clips, 8, height, width, 3), the product gives"),
    ],
)
def test_arguments_that_do_not_fit_the_knobs(embedded_copy, features, changes, message):
    """Typed by hand: those of the plan follow from the knobs."""
    edit(embedded_copy, lambda p: p["experiments"][EXPERIMENT].update(knobs={"features": features}))
    refused(by_hand(embedded_copy, **changes), f"train@{EXPERIMENT}: ", message)


def test_weights_of_another_network_are_refused(embedded_copy):
    save_weights(torch.nn.Linear(2, 2), embedded_copy / WEIGHTS, {"weights": "others"})
    refused(train(embedded_copy, knobs=FRAMES), f"train@{EXPERIMENT}: {WEIGHTS}: not the weights of ResNet-18")


def test_weights_for_a_model_that_takes_none_are_refused(embedded_copy):
    flow = embedded_copy / "data/cache/synthetic/box224/flow.h5"
    with CacheWriter(flow, kind="flow", ragged=False, params={}) as file:
        for clip_id in ClipCache(embedded_copy / MAGNET).ids:
            file.append(clip_id, np.zeros((3, 28, 28), np.float32))
    refused(by_hand(embedded_copy, "synthetic-linear", weights=WEIGHTS),
            f"weights are {WEIGHTS}, but mer/models/linear.py declares no load_weights; leave them out")  # fmt: skip


def test_an_experiment_that_cannot_be_trained_is_refused_before_anything_is_read(embedded_copy):
    """As a change of -S brings it, which passes no `make plan`; the stage asks the same validator."""
    (embedded_copy / EMBEDDING).unlink()
    for changes, message in (
        ({"knobs": {"maks": "full"}}, f"experiments.{EXPERIMENT}.knobs.maks is unknown; did you mean 'mask'?"),
        ({"knobs": {"n_h": 3}}, "uamrn.d_model is 16; it must be even and a multiple of uamrn.n_h, 3"),
        ({"recipe": {"epoch": 3}}, f"experiments.{EXPERIMENT}.recipe.epoch is unknown; did you mean 'epochs'?"),
        ({"recipe": {"mirror": True}}, f"experiments.{EXPERIMENT}: recipe.mirror is true, but uamrn.features"),
    ):
        before = {"knobs": {}, "recipe": {"epochs": 2}}
        edit(embedded_copy, lambda p, c=before | changes: p["experiments"][EXPERIMENT].update(c), planned=False)
        refused(command(embedded_copy, "train", EXPERIMENT), message)


def test_an_unknown_run_names_the_nearest(embedded_copy):
    refused(command(embedded_copy, "train", f"{EXPERIMENT}s"), f"plan.yaml has no train@{EXPERIMENT}s; did you mean",
            f"'{EXPERIMENT}'?")  # fmt: skip
