"""Folds that cannot leak, depend on nothing but themselves, and survive a kill."""

import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from mer import models
from mer.errors import MerError
from mer.loso import loop, memory, networks
from mer.loso import run as loso
from mer.loso.folds import folds
from mer.loso.networks import NetworkTraining
from mer.loso.optim import Schedule
from mer.loso.task import TrainingPlan
from mer.models import linear, uamrn
from mer.networks.resnet import ResNet18
from mer.parallel import Engine
from mer.storage.spool import Spool
from mer.storage.weights import save_weights


def table(n=24, subjects=4, corpus="c", seed=0):
    rng = np.random.default_rng(seed)
    who = np.arange(n) % subjects  # interleaved
    return pd.DataFrame(
        {"id": [f"{corpus}/s{w}/{i:02d}" for i, w in enumerate(who)], "corpus": corpus,
         "subject": [f"s{w}" for w in who], "label": rng.integers(0, 3, n)}
    )  # fmt: skip


def flow(n=24, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3, 28, 28)).astype(np.float32)


SHORT = {"epochs": 3, "batch_size": 8, "lr": 1e-3}


def run(rows, x, **changes):
    options = {"model": "ststnet", "classes": 3, "recipe": SHORT, **changes}
    return loso.run([x], rows, **options)


def declare(monkeypatch, model, **changes):
    """Let the model's file declare something else."""
    real, spec = models.load, dataclasses.replace(models.load(model), **changes)
    monkeypatch.setattr(models, "load", lambda name: spec if name == model else real(name))


def probabilities(p):
    return p[["p0", "p1", "p2"]].to_numpy()


def test_one_fold_a_corpus_and_subject():
    both = pd.concat([table(), table(corpus="d")], ignore_index=True)
    todo = folds(both)
    assert [f.name for f in todo] == [f"{c}/s{i}" for c in "cd" for i in range(4)]
    tested = sorted(i for f in todo for i in f.test)
    assert tested == list(range(48))  # every clip once
    for fold in todo:
        assert set(both.iloc[list(fold.test)]["corpus"]) == {fold.corpus}


def test_one_subject_is_refused():
    with pytest.raises(MerError, match="two subjects"):
        folds(table(subjects=1))


@pytest.mark.parametrize("label", [1.7, 1.0, -1, 3, np.nan, "1", True, None])
@pytest.mark.parametrize("model", ["ststnet", "linear"])
def test_a_label_that_is_no_class_is_refused(label, model):
    rows = table()
    rows = rows.assign(label=pd.Series([*rows["label"][:5], label, *rows["label"][6:]], dtype=object))
    with pytest.raises(MerError, match=rf"label of clip c/s1/05 is {label!r}; needed is the number of its class"):
        run(rows, flow(), model=model)


def test_shuffled_rows_change_nothing():
    rows, x = table(), flow()
    order = np.random.default_rng(9).permutation(24)
    a = run(rows, x)
    b = run(rows.iloc[order].reset_index(drop=True), x[order])
    pd.testing.assert_frame_equal(a, b)


@pytest.mark.parametrize("model", ["linear", "ststnet"])
def test_nothing_of_the_test_subject_reaches_its_model(model):
    """Another clip of the subject is changed, and all of its labels: the prediction of its first clip must not move."""
    rows, x = table(), flow()
    mine = np.flatnonzero(rows["subject"] == "s1")
    recipe = SHORT if model == "ststnet" else None

    def first_clip(x, label):
        p = run(rows.assign(label=label), x, model=model, recipe=recipe)
        return probabilities(p[p["id"] == rows["id"][mine[0]]])

    label = rows["label"].to_numpy()
    before = first_clip(x, label)
    changed_x, changed_label = x.copy(), label.copy()
    changed_x[mine[1:]] = 100 * flow(seed=5)[mine[1:]]
    changed_label[mine] = (label[mine] + 1) % 3
    np.testing.assert_array_equal(first_clip(changed_x, changed_label), before)
    others = np.setdiff1d(np.arange(24), mine)
    changed_x = x.copy()
    changed_x[others] = flow(seed=6)[others]
    assert np.abs(first_clip(changed_x, label) - before).max() > 1e-3  # the training clips do matter


def test_the_label_as_input_is_learned_and_the_subject_as_input_is_not():
    rows = table(n=60, subjects=6, seed=2)
    label = rows["label"].to_numpy()
    x = np.zeros((60, 3, 28, 28), np.float32)
    x[np.arange(60), label] = 1
    p = run(rows, x, model="linear", recipe=None)
    assert (probabilities(p).argmax(1) == p["label"]).all()
    # Each subject has one class of its own, and the input says only which subject it is: nothing can be learned
    # about a subject that was never seen.
    rows["label"] = rows["subject"].str[1:].astype(int) % 3
    who = rows["subject"].str[1:].astype(int).to_numpy()
    x = np.zeros((60, 3, 28, 28), np.float32)
    x[np.arange(60), 0, who * 4] = 1
    p = run(rows, x, model="linear", recipe=None)
    assert (probabilities(p).argmax(1) == p["label"]).mean() <= 1 / 3


def test_subjects_with_one_clip_and_classes_in_one_subject_work():
    rows, x = table(n=13, subjects=4), flow(13)
    rows["label"] = [2 if s == "s0" else i % 2 for i, s in enumerate(rows["subject"])]
    rows.loc[rows.index[-1], "subject"] = "alone"
    for model in ("linear", "ststnet"):
        p = run(rows, x, model=model, recipe=SHORT if model == "ststnet" else None)
        np.testing.assert_allclose(probabilities(p).sum(1), 1, atol=1e-6)
        assert len(p) == 13


def test_equal_seeds_equal_predictions_whatever_the_workers():
    rows, x = table(), flow()
    torch.manual_seed(1)
    a = run(rows, x)
    torch.manual_seed(2)  # the global stream must not matter
    b = run(rows, x, engine=Engine(workers=2))
    pd.testing.assert_frame_equal(a, b)
    assert not np.array_equal(probabilities(a), probabilities(run(rows, x, seeds=[1])))


def test_mirroring_is_used_when_asked_for():
    rows, x = table(), flow()
    assert not np.array_equal(
        probabilities(run(rows, x)), probabilities(run(rows, x, recipe={**SHORT, "mirror": True}))
    )


class Interrupted(Exception):
    pass


def test_finished_folds_survive_and_changed_parameters_never_reuse_them(tmp_path, monkeypatch):
    rows, x = table(), flow()
    whole = run(rows, x)
    real, seen = NetworkTraining.__call__, []

    def fragile(training, job, bar=None):
        if len(seen) == 2:
            raise Interrupted
        seen.append(job.folds[0].name)
        return real(training, job, bar)

    monkeypatch.setattr(NetworkTraining, "__call__", fragile)
    with Spool(tmp_path) as spool, pytest.raises(Interrupted):
        run(rows, x, spool=spool)

    def counted(training, job, bar=None):
        seen.append(job.folds[0].name)
        return real(training, job, bar)

    monkeypatch.setattr(NetworkTraining, "__call__", counted)
    with Spool(tmp_path) as spool:
        resumed = run(rows, x, spool=spool)
        assert seen == ["c/s0", "c/s1", "c/s2", "c/s3"]
        pd.testing.assert_frame_equal(resumed, whole)
        changes = [{"seeds": [1]}, {"recipe": {**SHORT, "lr": 2e-3}}, {"knobs": {"dropout": 0.1}}, {"code": "v2"}]
        for change in changes:
            seen.clear()
            run(rows, x, spool=spool, **change)
            assert len(seen) == 4, change
        seen.clear()
        x[3] += 1
        run(rows, x, spool=spool)
        assert len(seen) == 4


def test_a_loss_that_is_not_finite_names_fold_epoch_and_clips():
    rows, x = table(), flow()
    with pytest.raises(MerError, match=r"fold c/s0, epoch \d, *.*|fold c/s0, epoch \d+: loss is (nan|inf).*c/s"):
        run(rows, x, recipe={**SHORT, "lr": 1e30})


def test_finished_folds_stay_until_other_parameters_come(tmp_path):
    """DVC records the output after the stage has ended; a kill in between must not cost the folds."""
    rows, x = table(), flow()
    with Spool(tmp_path) as spool:
        run(rows, x, spool=spool)
        kept = set(tmp_path.glob("*.block"))
        assert len(kept) == 4
        run(rows, x, spool=spool, seeds=[1])
        others = set(tmp_path.glob("*.block"))
        assert len(others) == 4
        assert not others & kept


def test_a_product_file_is_read_like_an_array(tmp_path):
    from mer.storage.cache import CacheWriter, ClipCache

    rows, x = table(n=40, subjects=4), flow(40)  # more than is read at once
    with CacheWriter(tmp_path / "flow.h5", kind="flow", ragged=False, params={}) as writer:
        for i in reversed(range(40)):
            writer.append(rows["id"][i], x[i])
    a, b = (loso.run([source], rows, model="linear", classes=3) for source in (x, ClipCache(tmp_path / "flow.h5")))
    pd.testing.assert_frame_equal(a, b)


def test_inputs_that_are_not_finite_name_their_clips():
    rows, x = table(), flow()
    x[7, 1, 2, 3] = np.nan
    with pytest.raises(MerError, match=r"not finite in clips c/s3/07"):
        run(rows, x)


def test_the_prediction_of_a_fold_is_the_plain_loop():
    """Without dropout: the same network trained by ten lines of plain PyTorch."""
    rows, x = table(), flow()
    p = run(rows, x, knobs={"dropout": 0.0}, recipe={**SHORT, "batch_size": 100})
    from mer.models.ststnet import prepare
    from mer.storage.files import digest

    inputs, label = torch.from_numpy(prepare(x)), torch.tensor(rows["label"].to_numpy())
    test = (rows["subject"] == "s2").to_numpy()
    # rows of `table` are not in the order of ids; the engine sorts them
    order = np.argsort(rows["id"].to_numpy(), kind="stable")
    inputs, label, test = inputs[order], label[order], torch.from_numpy(test[order])
    torch.manual_seed(int(digest(0, "c/s2")[:15], 16))
    net = models.build("ststnet", 3, dropout=0.0)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(3):
        adam.zero_grad()
        torch.nn.functional.cross_entropy(net(inputs[~test]), label[~test]).backward()
        adam.step()
    expected = net.eval()(inputs[test]).softmax(1).detach().numpy()
    # One batch, so only the order of its rows differs: rounding of float32 sums, through three steps of Adam.
    np.testing.assert_allclose(probabilities(p[p["subject"] == "s2"]), expected, atol=1e-3)


# ---- selection, audit, seeds, groups ---------------------------------------------------------------------------------


@pytest.fixture
def tasks(monkeypatch):
    """The tasks that networks are trained on."""
    seen, real = [], networks.train_folds

    def spy(tasks, *args, **options):
        seen.extend(tasks)
        return real(tasks, *args, **options)

    monkeypatch.setattr(networks, "train_folds", spy)
    return seen


@pytest.mark.parametrize("options", [{"selection": "inner_val"}, {"recipe": {**SHORT, "stop": 2}},
                                     {"recipe": {**SHORT, "schedule": "plateau"}}])  # fmt: skip
def test_what_is_held_out_is_neither_trained_on_nor_the_test_subject(tasks, options):
    rows = table(n=40, subjects=8)
    p = run(rows, flow(40), **options)
    who = rows.sort_values("id", kind="stable")["subject"].to_numpy()
    assert len(tasks) == 8
    for task in tasks:
        parts = [set(who[task.train]), set(who[task.validation]), set(who[task.test])]
        assert all(parts)
        assert len(set.union(*parts)) == sum(map(len, parts)) == 8
        assert len(task.train) + len(task.validation) + len(task.test) == 40
    assert p["epoch"].between(1, 3).all()


def test_without_need_nothing_is_held_out(tasks):
    run(table(), flow())
    assert not any(len(task.validation) for task in tasks)


@pytest.mark.parametrize("options", [{"selection": "inner_val"}, {"recipe": {**SHORT, "stop": 2}},
                                     {"recipe": {**SHORT, "schedule": "plateau"}}])  # fmt: skip
def test_a_validation_on_the_test_subject_looks_at_it_and_trains_on_all_others(tasks, options):
    """D-11's leak, for those who want to know what it gives."""
    run(table(n=40, subjects=8), flow(40), validation="test_subject", **options)
    assert len(tasks) == 8
    for task in tasks:
        assert np.array_equal(task.validation, task.test)
        assert len(task.train) + len(task.test) == 40


def test_a_validation_that_nothing_looks_at_changes_nothing(tasks):
    honest, leaky = (run(table(), flow(), validation=v) for v in ("held_out", "test_subject"))
    pd.testing.assert_frame_equal(honest, leaky)
    assert not any(len(task.validation) for task in tasks)


def test_an_unknown_validation_is_refused():
    with pytest.raises(MerError, match=r"train.validation is 'test'; valid: held_out, test_subject"):
        run(table(), flow(), validation="test")


def test_an_audit_changes_nothing_and_claims_at_least_as_much():
    """Labels are drawn by lot, so every point above chance is the leak."""
    rows, x = table(n=60, subjects=6, seed=4), flow(60, seed=4)
    recipe = {**SHORT, "epochs": 6}
    plain = run(rows, x, recipe=recipe)
    audited = run(rows, x, recipe=recipe, audit=True)
    honest, leaky = (audited[audited["selection"] == s].reset_index(drop=True) for s in ("last_epoch", "test_best"))
    pd.testing.assert_frame_equal(honest, plain)
    right = {name: (probabilities(p).argmax(1) == p["label"]).groupby(p["fold"]).mean()
             for name, p in (("honest", honest), ("leaky", leaky))}  # fmt: skip
    assert (right["leaky"] >= right["honest"]).all()
    assert (right["leaky"] > right["honest"]).any()
    assert set(leaky["epoch"]) - {6}
    claimed = run(rows, x, recipe=recipe, selection="test_best")
    pd.testing.assert_frame_equal(claimed, leaky)


def test_an_estimator_has_no_epoch_to_choose():
    p = run(table(), flow(), model="linear", recipe=None, audit=True)
    honest, leaky = (p[p["selection"] == s] for s in ("last_epoch", "test_best"))
    np.testing.assert_array_equal(probabilities(honest), probabilities(leaky))
    assert (p["epoch"] == 0).all()
    inner = run(table(), flow(), model="linear", recipe=None, selection="inner_val")
    np.testing.assert_array_equal(probabilities(inner), probabilities(honest))


def test_several_seeds_are_several_runs():
    rows, x = table(), flow()
    both = run(rows, x, seeds=[3, 1, 3])
    single = pd.concat([run(rows, x, seeds=[s]) for s in (3, 1)], ignore_index=True)
    pd.testing.assert_frame_equal(both, single)


def test_folds_in_parallel_are_folds_alone():
    rows, x = table(n=30, subjects=5), flow(30)
    alone = run(rows, x)
    for count in (2, 5, 99):
        beside = run(rows, x, folds_in_parallel=count)
        np.testing.assert_allclose(probabilities(beside), probabilities(alone), atol=1e-3)
        pd.testing.assert_frame_equal(beside.drop(columns=["p0", "p1", "p2"]), alone.drop(columns=["p0", "p1", "p2"]))


def test_an_interrupted_run_goes_on_with_its_grouping(tmp_path, monkeypatch):
    """Although more would fit by now: rounding knows the group."""
    rows, x = table(n=30, subjects=5), flow(30)
    whole = run(rows, x, folds_in_parallel=2)
    real, sizes = NetworkTraining.__call__, []

    def counted(training, job, bar=None):
        sizes.append(len(job.folds))
        if len(sizes) == 2:
            raise Interrupted
        return real(training, job, bar)

    monkeypatch.setattr(NetworkTraining, "__call__", counted)
    with Spool(tmp_path) as spool, pytest.raises(Interrupted):
        run(rows, x, folds_in_parallel=2, spool=spool)
    monkeypatch.setattr(NetworkTraining, "group_size", lambda *_: 5)
    with Spool(tmp_path) as spool:
        resumed = run(rows, x, folds_in_parallel=2, spool=spool)
    assert sizes == [2, 2, 2, 1]
    pd.testing.assert_frame_equal(resumed, whole)


def test_a_damaged_fold_is_trained_again(tmp_path):
    """A kill while its block is written leaves none; a disk may leave a torn one."""
    rows, x = table(), flow()
    with Spool(tmp_path) as spool:
        whole = run(rows, x, spool=spool)
    for block in tmp_path.glob("*.block"):
        block.write_bytes(block.read_bytes()[:-3])
    with Spool(tmp_path) as spool:
        pd.testing.assert_frame_equal(run(rows, x, spool=spool), whole)


def test_more_folds_than_memory_allows_are_trained_fewer_at_a_time(monkeypatch, capsys):
    rows, x = table(n=30, subjects=5), flow(30)
    inputs = torch.from_numpy(models.load("ststnet").prepare(x))
    labels = torch.tensor(rows["label"].to_numpy(copy=True))
    plan = TrainingPlan(schedule=Schedule(lr=1e-3, epochs=3), batch_size=8)
    one = memory.bytes_of_a_fold(lambda: models.build("ststnet", 3), inputs, labels, plan)
    # Its 1,700 parameters four times, and what eight clips leave for the backward pass: 16 maps of 30x30, at least.
    assert 8 * 16 * 30 * 30 * 4 < one < 20 * 8 * 16 * 30 * 30 * 4
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2.5 * one / memory.SHARE)
    p = run(rows, x, folds_in_parallel=5, engine=Engine(progress=True))
    assert "train.folds_in_parallel is 5, but only 2 fit into memory: 2 at a time" in capsys.readouterr().err
    pd.testing.assert_frame_equal(p, run(rows, x, folds_in_parallel=2))


def test_a_job_that_does_not_fit_after_all_is_halved(monkeypatch, capsys):
    rows, x = table(n=30, subjects=5), flow(30)
    expected, real = run(rows, x), networks.train_folds

    def small(tasks, *args, **options):
        if len(tasks) > 2:
            raise torch.cuda.OutOfMemoryError
        return real(tasks, *args, **options)

    monkeypatch.setattr(networks, "train_folds", small)
    np.testing.assert_allclose(probabilities(run(rows, x, folds_in_parallel=5)), probabilities(expected), atol=1e-3)
    assert "5 folds in parallel do not fit into the GPU's memory: 3 at a time" in capsys.readouterr().err

    def none(*args, **options):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(networks, "train_folds", none)
    with pytest.raises(MerError, match=r"fold c/s0 does not fit .* lower recipe.batch_size"):
        run(rows, x)


def test_the_obstacle_to_parallel_folds_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(networks, "vmap_obstacle", lambda *_: "it sorts")
    rows, x = table(), flow()
    p = run(rows, x, folds_in_parallel=4, engine=Engine(progress=True))
    assert "ststnet trains one fold at a time: it sorts" in capsys.readouterr().err
    pd.testing.assert_frame_equal(p, run(rows, x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": "best"}, "train.selection is 'best'; valid: last_epoch, inner_val, test_best"),
        ({"recipe": {**SHORT, "rotate": 10.0}}, "mer/models/ststnet.py declares no VECTORS"),
        ({"recipe": {**SHORT, "warmup": 3}}, "warmup is 3 of 3 epochs"),
        ({"recipe": {**SHORT, "schedule": "linear"}}, "recipe.schedule is 'linear'; valid: constant, step, cosine"),
        ({"recipe": {**SHORT, "stop": -1}}, "recipe.stop is -1"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(MerError, match=message):
        run(table(), flow(), **options)


def test_two_subjects_leave_nobody_to_hold_out():
    with pytest.raises(MerError, match=r"only c/s1 is left to train on.*set train.selection to last_epoch"):
        run(table(subjects=2), flow(), selection="inner_val")


def test_augmented_folds_train_in_parallel_too(capsys):
    rows, x = table(n=30, subjects=5), flow(30)
    recipe = {**SHORT, "mirror": True}
    alone = run(rows, x, recipe=recipe)
    beside = run(rows, x, recipe=recipe, folds_in_parallel=5, engine=Engine(progress=True))
    assert "one fold at a time" not in capsys.readouterr().err
    np.testing.assert_allclose(probabilities(beside), probabilities(alone), atol=1e-3)


def test_a_prepare_in_which_clips_see_each_other_is_refused(monkeypatch):
    declare(monkeypatch, "linear", prepare=lambda flow: linear.prepare(flow - flow.mean(0)))
    with pytest.raises(
        MerError, match=r"mer/models/linear.py: what its prepare returns for c/s0/00 depends on the clips beside"
    ):
        run(table(), flow(), model="linear", recipe=None)


def test_arrays_of_another_length_are_refused():
    with pytest.raises(MerError, match="has 25 rows, the table 24"):
        run(table(), flow(25))


@pytest.mark.parametrize("count", [1, 4])
def test_a_last_step_that_breaks_the_weights_is_noticed(count):
    with pytest.raises(MerError, match=r"fold c/s0, after epoch 1: probabilities of c/s0/\d+.* not finite; lower"):
        run(table(), flow(), recipe={**SHORT, "epochs": 1, "batch_size": 100, "lr": 1e30}, folds_in_parallel=count)


@pytest.mark.parametrize("count", [1, 2])
def test_one_training_clip_is_too_few_for_batch_norm(count):
    rows = table(n=3, subjects=2)
    with pytest.raises(MerError, match=r"fold c/s0 is left with one training clip"):
        run(rows, flow(3), folds_in_parallel=count)


def test_a_network_learns_the_label_and_not_the_subject():
    """As inputs, through the engine: the label scores 1.0, the subject alone no better than chance."""
    rows = table(n=60, subjects=6, seed=2)
    recipe = {"epochs": 60, "batch_size": 64, "lr": 3e-3}
    place = np.zeros((60, 3, 28, 28), np.float32)
    for i, label in enumerate(rows["label"]):
        place[i, 0, 9 * label : 9 * label + 9] = 1
    p = run(rows, place, recipe=recipe)
    assert (probabilities(p).argmax(1) == p["label"]).all()
    rows["label"] = rows["subject"].str[1:].astype(int) % 3  # each subject has one class of its own
    place = np.zeros((60, 3, 28, 28), np.float32)
    for i, who in enumerate(rows["subject"].str[1:].astype(int)):
        place[i, 0, 4 * who : 4 * who + 4] = 1
    p = run(rows, place, recipe=recipe)
    assert (probabilities(p).argmax(1) == p["label"]).mean() <= 1 / 3


# ------------------------------------------------------------------------------------------------ explanations

SMALL_UAMRN = {
    "features": True,
    "tap": "layer1",
    "grid": 1,
    "factors": "linspace_2_13_4",
    "d_model": 8,
    "blocks": 1,
    "samples": 2,
}


def explained(rows, x, **changes):
    found = {}
    options = {
        "model": "uamrn",
        "classes": 3,
        "knobs": SMALL_UAMRN,
        "recipe": {"epochs": 2, "batch_size": 8},
        **changes,
    }
    return loso.run([x], rows, explained=found.__setitem__, **options), found


def sequences(n=24, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 4, 64)).astype(np.float32)


def test_a_clip_is_explained_by_the_network_that_has_not_seen_its_subject():
    rows, x = table(), sequences()
    predictions, found = explained(rows, x)
    assert list(found) == sorted(rows["id"])
    by_id = predictions.set_index("id")
    for clip, what in found.items():
        assert set(what) == {"data", "logits", "gamma", "epistemic", "aleatoric", "weight"}
        assert what["data"].shape == (1, 2, 4, 4)
        likelihood = np.exp(what["logits"].astype(float) - what["logits"].max())
        expected = by_id.loc[clip, ["p0", "p1", "p2"]].to_numpy(float)
        np.testing.assert_allclose(likelihood / likelihood.sum(), expected, atol=1e-6)
    # explaining changes no prediction, and a model without explanations has none
    plain = loso.run([x], rows, model="uamrn", classes=3, knobs=SMALL_UAMRN, recipe={"epochs": 2, "batch_size": 8})
    pd.testing.assert_frame_equal(plain, predictions)
    nothing = {}
    run(rows, flow(), explained=nothing.__setitem__)
    run(rows, flow(), model="linear", recipe=None, explained=nothing.__setitem__)
    assert not nothing


@pytest.mark.parametrize("selection", ["last_epoch", "inner_val"])
def test_the_weight_of_a_clip_is_the_mean_over_the_folds_that_trained_on_it(selection, monkeypatch):
    """Against each fold's network on all clips; only the fold's training clips count, not those that it holds out."""
    rows, x = table(n=30, subjects=5), sequences(30)
    order = np.argsort(rows["id"].to_numpy(), kind="stable")
    inputs, labels = torch.from_numpy(x[order]), torch.from_numpy(rows["label"].to_numpy()[order])
    of_folds, real = [], loop._explain

    def spy(network, task, outcome, clips, plan):
        real(network, task, outcome, clips, plan)
        values = np.full(30, np.nan)
        values[task.train] = uamrn.explain_training(network.eval(), inputs, labels)["weight"].numpy()[task.train]
        of_folds.append(values)

    monkeypatch.setattr(loop, "_explain", spy)
    _, found = explained(rows, x, selection=selection)
    assert len(of_folds) == 5
    counts = np.isfinite(of_folds).sum(0)
    if selection == "last_epoch":
        assert set(counts) == {4}
    for clip, values, count in zip(sorted(rows["id"]), np.transpose(of_folds), counts, strict=True):
        if not count:
            assert np.isnan(found[clip]["weight"])
        else:
            # A batch of 30 clips and batches of 8 differ by rounding.
            assert found[clip]["weight"] == pytest.approx(np.mean(values[np.isfinite(values)]), rel=1e-4)
    assert len({round(float(what["weight"]), 6) for what in found.values()}) > 20


def test_every_name_of_explain_training_is_averaged_by_itself(monkeypatch):
    """Labels and rows are known without a network; what comes of them stands behind the extras of `explain`."""
    rows, x = table(), sequences()

    def about(network, inputs, labels):
        return {"twice": 2.0 * labels, "mean": inputs.mean((1, 2))}

    declare(monkeypatch, "uamrn", explain_training=about)
    _, found = explained(rows, x)
    label, mean = rows.set_index("id")["label"], dict(zip(rows["id"], x.mean((1, 2)), strict=True))
    for clip, what in found.items():
        assert list(what) == ["data", "logits", "gamma", "epistemic", "aleatoric", "twice", "mean"]
        assert what["twice"] == 2 * label[clip]
        assert what["mean"] == pytest.approx(mean[clip], abs=1e-6)  # float32 means, NumPy's and torch's
        assert what["twice"].dtype == what["mean"].dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"explain_training": lambda network, x, y: {"gamma": y}}, "explain and explain_training both return gamma"),
        ({"explain": lambda network, x: {"data": x, "key": x}}, "explain returns key, which explain.h5 uses itself"),
        ({"explain": None}, "explain returns nothing; one array must be named data"),
        ({"explain": lambda network, x: {"map": x}}, "explain returns map; one array must be named data"),
    ],
)
def test_explanations_that_no_product_can_hold_are_refused(monkeypatch, changes, message):
    declare(monkeypatch, "uamrn", **changes)
    with pytest.raises(MerError, match=f"mer/models/uamrn.py: {message}"):
        explained(table(), sequences())


def test_a_leak_is_not_explained():
    """Its predictions are of another epoch than the network that there is at the end."""
    _, found = explained(table(), sequences(), selection="test_best")
    assert not found


@pytest.mark.parametrize("selection", ["last_epoch", "inner_val"])
def test_explanations_of_parallel_and_of_resumed_folds_are_the_same(tmp_path, selection):
    rows, x = table(), sequences()
    _, alone = explained(rows, x, selection=selection, seeds=[1, 0])
    _, beside = explained(rows, x, selection=selection, seeds=[1], folds_in_parallel=4)
    for _ in range(2):
        with Spool(tmp_path) as spool:
            _, again = explained(rows, x, selection=selection, seeds=[1, 0], spool=spool)
    for clip, what in alone.items():
        for name, value in what.items():
            np.testing.assert_array_equal(again[clip][name], value)
            if name != "data":  # a vector near a plane may change its bucket by rounding
                np.testing.assert_allclose(beside[clip][name], value, rtol=0.02, atol=2e-3)


def test_weights_are_taken_before_a_fold_and_are_part_of_its_key(tmp_path):
    rows = table(n=6, subjects=2)
    frames = np.random.default_rng(0).integers(0, 256, (6, 4, 16, 16, 3), dtype=np.uint8)
    knobs = SMALL_UAMRN | {"features": False}
    found, path = [], tmp_path / "resnet18.safetensors"
    with Spool(tmp_path / "spool") as spool:
        for seed in (5, 6, 5):
            torch.manual_seed(seed)
            save_weights(ResNet18("layer1"), path)
            p, _ = explained(rows, frames, knobs=knobs, weights=str(path), spool=spool)
            found.append(probabilities(p))
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 1e-4


def test_weights_for_a_model_that_takes_none_are_refused():
    with pytest.raises(
        MerError, match=r"weights are x.safetensors, but mer/models/ststnet.py declares no load_weights"
    ):
        run(table(), flow(), weights="x.safetensors")


# ---- what an estimator needs ----------------------------------------------------------------------------------------


def test_an_estimator_runs_without_torch_and_the_code_of_networks():
    """So that its predictions depend on none of these files, and no worker spends seconds on importing torch."""
    program = """
import sys
import numpy as np, pandas as pd
from mer.loso import run
table = pd.DataFrame({"id": list("abcd"), "corpus": "c", "subject": list("ssuu"), "label": [0, 1, 0, 1]})
run.run([np.random.default_rng(0).normal(size=(4, 3, 28, 28))], table, model="linear", classes=2)
print(*sorted(name for name in sys.modules if name == "torch" or name.startswith("mer.loso.")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["mer.loso.folds", "mer.loso.jobs", "mer.loso.run"]


# ---- what else training clips teach ---------------------------------------------------------------------------------


CODED = {"model": "au_cnn", "knobs": {"auxiliary": 1.0, "width": 4}}


def coded(seed=0):
    """Clips of which some were coded."""
    texts = np.random.default_rng(seed).choice(["4", "4+7", "L12", "1+2 or 5", ""], 24)
    return table().assign(aus=texts)


@pytest.mark.parametrize("folds_in_parallel", ["auto", 4])
def test_the_targets_of_training_clips_count_and_those_of_the_test_subject_do_not(folds_in_parallel):
    rows, x = coded(), flow()
    mine = (rows["subject"] == "s1").to_numpy()

    def of_mine(aus):
        p = run(rows.assign(aus=aus), x, folds_in_parallel=folds_in_parallel, **CODED)
        return probabilities(p[p["subject"] == "s1"])

    before = of_mine(rows["aus"])
    np.testing.assert_array_equal(of_mine(rows["aus"].where(~mine, "9+10+24")), before)
    assert np.abs(of_mine(rows["aus"].where(mine, "9+10+24")) - before).max() > 1e-4


def test_targets_go_with_their_clips():
    """Rows in another order, folds in parallel or alone: the same predictions; others without what is coded."""
    rows, x = coded(), flow()
    order = np.random.default_rng(9).permutation(24)
    alone = run(rows, x, **CODED)
    pd.testing.assert_frame_equal(run(rows.iloc[order].reset_index(drop=True), x[order], **CODED), alone)
    stacked = run(rows, x, folds_in_parallel=4, **CODED)
    np.testing.assert_allclose(probabilities(stacked), probabilities(alone), atol=1e-5)
    without = run(rows, x, model="au_cnn", knobs={"width": 4})
    assert np.abs(probabilities(without) - probabilities(alone)).max() > 1e-4


def test_folds_that_were_coded_otherwise_are_trained_anew(tmp_path):
    rows, x = coded(), flow()
    other = rows.assign(aus=rows["aus"].replace("4", "9"))
    with Spool(tmp_path / "spool") as spool:
        run(rows, x, spool=spool, **CODED)
        kept = run(other, x, spool=spool, **CODED)
    pd.testing.assert_frame_equal(kept, run(other, x, **CODED))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (lambda aus, knobs: np.full((24, 3), np.nan, np.float32), r"fold c/s0: no training clip has action units, wh"),
        (
            lambda aus, knobs: np.zeros((23, 3), np.float32),
            r"targets must return \(clips, T\) float32, or None; it ret",
        ),
        (lambda aus, knobs: np.zeros((24, 3)), r"targets must return \(clips, T\) float32, or None; it returns array"),
        (lambda aus, knobs: [1.0] * 24, r"targets must return \(clips, T\) float32, or None; it returns \[1.0"),
    ],
)
def test_targets_that_are_none(monkeypatch, declared, message):
    declare(monkeypatch, "au_cnn", targets=declared)
    with pytest.raises(MerError, match=message):
        run(coded(), flow(), **CODED)


def test_clips_that_nobody_coded_are_refused():
    """An index made by hand need not have the column."""
    for rows in (table(), table().assign(aus="")):
        with pytest.raises(MerError, match=r"no training clip has action units.*label sheets.*or set the knob .* to 0"):
            run(rows, flow(), **CODED)


def test_a_fold_that_is_left_without_codes_is_named():
    rows = table().assign(aus="4")
    rows.loc[rows["subject"] != "s2", "aus"] = ""
    with pytest.raises(MerError, match=r"^fold c/s2: no training clip has action units, which mer/models/au_cnn.py is"):
        run(rows, flow(), **CODED)
