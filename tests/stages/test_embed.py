"""Stage embed: what a frozen network makes of magnified sequences, what it reads, and what it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mer.networks.resnet import ResNet18, load_resnet18
from mer.params import load
from mer.plan_file import stages_of
from mer.products import embedding, frames, magnet, named_factors
from mer.storage.cache import ClipCache
from mer.storage.weights import digest_of, save_weights
from stages import embed
from stages._run import Stage
from tests.helpers.declared import reading
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


def is_made_with(network: ResNet18, folder, embedding=EMBEDDING) -> None:
    magnified, found = ClipCache(folder / MAGNET), ClipCache(folder / embedding)
    with torch.no_grad():
        expected = torch.stack([network.eval()(torch.from_numpy(magnified[clip_id])) for clip_id in found.ids]).numpy()
    # Other batches add in another order: some 1e-6 of the largest.
    np.testing.assert_allclose(found.load(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_product_is_what_the_resnet_makes_of_the_frames(embedded):
    magnified, found = ClipCache(embedded / MAGNET), ClipCache(embedded / EMBEDDING, "embedding")
    assert found.ids == magnified.ids
    assert found.dtype == np.float32
    assert not found.ragged
    assert found.shape == (15, 8, 128 * 4 * 4)
    is_made_with(load_resnet18(ResNet18("layer2", 4), embedded / WEIGHTS), embedded)
    for clip_id in found.ids:
        assert np.array_equal(found.extra("factors", clip_id), named_factors("linspace_2_13_8"))
    assert found.params == {
        "knobs": {"tap": "layer2", "grid": 4}, "weights": digest_of(embedded / WEIGHTS),
        "networks": {"magnet": MAGNIFIED, "resnet18": DRAWN},
    }  # fmt: skip


def test_tap_and_grid_decide_the_width_and_each_has_a_product_of_its_own(embedded_copy):
    before = (embedded_copy / EMBEDDING).read_bytes()
    for changes, key, width in (
        ({"grid": 2}, EMBED.replace("layer2-4", "layer2-2"), 128 * 4),
        ({"tap": "layer1"}, EMBED.replace("layer2-4", "layer1-2"), 64 * 4),
    ):
        edit(embedded_copy, lambda p, changes=changes: p["uamrn"].update(changes))
        entries = stages_of(embedded_copy / "plan.yaml")["embed"]
        assert list(entries) == [key]
        assert command(embedded_copy, "embed", key) == (0, [])
        assert ClipCache(embedded_copy / entries[key]["args"]["out"]).shape == (15, 8, width)
    assert (embedded_copy / EMBEDDING).read_bytes() == before


def test_knobs_that_params_does_not_say_are_the_models_defaults(embedded_copy):
    edit(embedded_copy, lambda p: [p["uamrn"].pop(name) for name in ("tap", "grid")])
    assert list(stages_of(embedded_copy / "plan.yaml")["embed"]) == [EMBED]  # layer2 and 4, too


def test_no_parameter_is_read_but_how_to_run(embedded_copy, monkeypatch):
    """Each would cost the product its place in DVC's cache with every change of it; the arguments say the rest."""
    monkeypatch.chdir(embedded_copy)
    before = (embedded_copy / EMBEDDING).read_bytes()
    stage = Stage("embed", EMBED, SimpleNamespace(runtime=load().runtime))
    embed.main(stage, **stage.entry()["args"])
    assert (embedded_copy / EMBEDDING).read_bytes() == before


def test_clips_are_embedded_again_for_other_weights_only(embedded_copy):
    before = (embedded_copy / EMBEDDING).read_bytes()
    assert command(embedded_copy, "embed", EMBED) == (0, ["15 of 15 clips were finished earlier"])
    assert (embedded_copy / EMBEDDING).read_bytes() == before
    save_weights(drawn(7), embedded_copy / WEIGHTS, {"weights": "others"})
    assert command(embedded_copy, "embed", EMBED) == (0, [])
    assert ClipCache(embedded_copy / EMBEDDING).params["networks"]["resnet18"] == "others"
    is_made_with(load_resnet18(ResNet18("layer2", 4), embedded_copy / WEIGHTS), embedded_copy)


def test_two_sets_of_weights_stand_beside_each_other(embedded_copy, monkeypatch):
    """The other one is an entry of pretrain.runs; its name is in key, path and stamp."""
    sequence = magnet(frames("box224"), factors="linspace_2_13_8")
    settings = {"by": "networks.resnet", "tap": "layer2", "grid": 4}
    reading(monkeypatch, linear=(embedding(sequence, weights="rafdb", **settings),),
            uamrn=(embedding(sequence, weights="resnet18", **settings),))  # fmt: skip
    edit(embedded_copy, lambda p: p["pretrain"]["runs"].update(rafdb=dict(p["pretrain"]["runs"]["resnet18"])))
    entries = stages_of(embedded_copy / "plan.yaml")["embed"]
    other = EMBED.replace("resnet18", "rafdb")
    assert set(entries) == {EMBED, other}
    save_weights(drawn(7), embedded_copy / "data/weights/rafdb.safetensors", {"weights": "of RAF-DB"})
    before = (embedded_copy / EMBEDDING).read_bytes()
    assert command(embedded_copy, "embed", other) == (0, [])
    out = entries[other]["args"]["out"]
    assert ClipCache(embedded_copy / out).params["networks"] == {"magnet": MAGNIFIED, "rafdb": "of RAF-DB"}
    is_made_with(load_resnet18(ResNet18("layer2", 4), embedded_copy / "data/weights/rafdb.safetensors"),
                 embedded_copy, out)  # fmt: skip
    assert (embedded_copy / EMBEDDING).read_bytes() == before


def test_subjects_that_a_network_has_seen_are_stamped(embedded_copy):
    """Those of the weights, and those of the weights that the sequences were made with."""
    assert "subjects_seen" not in ClipCache(embedded_copy / EMBEDDING).params
    about = {"weights": "learned here", "subjects": ["synthetic/sub02", "casme2/sub01"]}
    save_weights(drawn(7), embedded_copy / WEIGHTS, about)
    assert command(embedded_copy, "embed", EMBED) == (0, [])
    assert ClipCache(embedded_copy / EMBEDDING).params["subjects_seen"] == ["casme2/sub01", "synthetic/sub02"]
    write_magnified(embedded_copy, ClipCache(embedded_copy / MAGNET).ids, subjects_seen=["synthetic/sub03"])
    assert command(embedded_copy, "embed", EMBED)[0] == 0
    found = ClipCache(embedded_copy / EMBEDDING).params
    assert found["subjects_seen"] == ["casme2/sub01", "synthetic/sub02", "synthetic/sub03"]


def test_what_magnification_left_out_is_listed_through_to_the_predictions(embedded_copy):
    *rest, last = ClipCache(embedded_copy / MAGNET).ids
    write_magnified(embedded_copy, rest, {last: "a clip of 1 frame"})
    assert command(embedded_copy, "embed", EMBED)[0] == 0
    assert ClipCache(embedded_copy / EMBEDDING).excluded == {last: "a clip of 1 frame"}
    assert train(embedded_copy, recipe={"epochs": 1})[0] == 0
    assert protocol(embedded_copy)["excluded"] == {last: "a clip of 1 frame"}
    assert ClipCache(embedded_copy / f"data/predictions/{EXPERIMENT}/explain.h5").ids == rest


def by_hand(folder, *settings: str):
    """The stage with other settings than those that the plan has for it."""
    args = stages_of(folder / "plan.yaml")["embed"][EMBED]["args"]
    words = [word for name in ("index", "sequence", "weights", "by", "out") for word in (f"--{name}", args[name])]
    return command(folder, "embed", EMBED, *words, "--settings", *settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tap=layer2", "gird=4"], "mer.networks.resnet.features has no argument 'gird'; did you mean 'grid'?"),
        (["tap=layer2", "grid=2.5"], "mer.networks.resnet.features: grid is '2.5'; needed is a value of type int"),
        (["tap=layer2", "grid=four"], "mer.networks.resnet.features: grid is 'four'; needed is a value of type int"),
    ],
)
def test_settings_that_the_networks_function_does_not_have(embedded_copy, settings, message):
    refused(by_hand(embedded_copy, *settings), f"embed@{EMBED}: {message}")


def test_a_file_of_other_weights_is_no_resnet(embedded_copy):
    save_weights(torch.nn.Linear(2, 2), embedded_copy / WEIGHTS, {"weights": "others"})
    refused(command(embedded_copy, "embed", EMBED), f"{WEIGHTS}: not the weights of ResNet-18", "missing: bn1.bias")


def test_weights_that_are_not_there(embedded_copy):
    (embedded_copy / WEIGHTS).unlink()
    refused(command(embedded_copy, "embed", EMBED), f"{WEIGHTS}: no such file of weights; run dvc repro")


def test_a_note_of_subjects_that_is_no_list(embedded_copy):
    save_weights(drawn(0), embedded_copy / WEIGHTS, {"weights": "x", "subjects": "sub01"})
    refused(command(embedded_copy, "embed", EMBED), f"{WEIGHTS}: its note says of subjects 'sub01', which is no list")


def test_an_unknown_run_names_the_nearest(embedded_copy):
    refused(command(embedded_copy, "embed", EMBED[:-1]), f"plan.yaml has no embed@{EMBED[:-1]}; did you mean '{EMBED}'")
