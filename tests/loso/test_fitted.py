"""A model that is trained once: with a subject left out it is that fold's, and on all subjects it saw everybody."""

import numpy as np
import pytest
import torch

from mer import models
from mer.errors import MerError
from mer.loso import run as loso
from mer.loso.loop import train_folds
from mer.loso.optim import Schedule
from mer.loso.task import Task, TrainingPlan
from tests.loso.test_run import flow as drawn_flow
from tests.loso.test_run import table as drawn_table

RECIPE = {"epochs": 4, "batch_size": 8, "lr": 1e-3}
STSTNET = {"model": "ststnet", "classes": 3, "recipe": RECIPE}
LINEAR = {"model": "linear", "classes": 3}


def probability(model, name, flow):
    inputs = models.load(name).prepared([flow], {})
    if not isinstance(model, torch.nn.Module):
        found = np.zeros((len(inputs), 3))
        found[:, model.classes_] = model.predict_proba(inputs)
        return found
    assert not model.training
    with torch.no_grad():
        return model(torch.from_numpy(inputs)).double().softmax(1).numpy()


@pytest.mark.parametrize(("options", "most"), [(STSTNET, 1e-6), (LINEAR, 0)])
def test_without_a_subject_it_is_that_folds_model(options, most):
    flow, table = drawn_flow(), drawn_table()
    expected = loso.run([flow], table, **options).set_index("id")
    for who in sorted(set(table["corpus"] + "/" + table["subject"])):
        model = loso.fitted([flow], table, without=who, **options)
        rows = (table["corpus"] + "/" + table["subject"] == who).to_numpy()
        found = probability(model, options["model"], flow[rows])
        there = expected.loc[table["id"][rows], ["p0", "p1", "p2"]].to_numpy()
        # Batches of another size are summed in another order: float32.
        np.testing.assert_allclose(found, there, atol=most)


def test_on_all_subjects_it_is_another_and_the_same_each_time():
    flow, table = drawn_flow(), drawn_table()
    everybody = loso.fitted([flow], table, **STSTNET)
    # Neither the order of the rows matters nor what ran before.
    again = loso.fitted([flow[::-1].copy()], table.iloc[::-1].reset_index(drop=True), **STSTNET)
    states = [m.state_dict() for m in (everybody, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = loso.fitted([flow], table, seed=1, **STSTNET).state_dict()
    assert not torch.equal(states[0]["fc.weight"], other["fc.weight"])
    who = f"{table['corpus'][0]}/{table['subject'][0]}"
    fold = loso.fitted([flow], table, without=who, **STSTNET).state_dict()
    assert not torch.equal(states[0]["fc.weight"], fold["fc.weight"])
    # Batch norm counts the batches: all clips were seen, in every epoch.
    assert states[0]["norm.num_batches_tracked"] == RECIPE["epochs"] * len(table) / RECIPE["batch_size"]


def test_an_unknown_subject_is_refused_with_the_nearest():
    flow, table = drawn_flow(), drawn_table()
    who = f"{table['corpus'][0]}/{table['subject'][0]}"
    with pytest.raises(MerError, match=rf"without is '{who}x'; .*{who}"):
        loso.fitted([flow], table, without=f"{who}x", **LINEAR)


@pytest.mark.parametrize("in_parallel", [True, False])
def test_networks_are_kept_in_the_order_of_the_folds(in_parallel):
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.normal(size=(12, 4)).astype(np.float32))
    labels = torch.from_numpy(np.arange(12) % 2)
    tasks = [Task(f"t{k}", k, np.setdiff1d(np.arange(12), [k]), np.array([k])) for k in range(3)]
    kept = []
    plan = TrainingPlan(schedule=Schedule(lr=1e-2, epochs=2), batch_size=4, keep=kept.append)
    outcomes = train_folds(tasks, inputs, labels, lambda: torch.nn.Linear(4, 2), plan, ids=list(map(str, range(12))),
                           in_parallel=in_parallel)  # fmt: skip
    assert len(kept) == 3
    for k, (network, outcome) in enumerate(zip(kept, outcomes, strict=True)):
        with torch.no_grad():
            found = network(inputs[k : k + 1]).double().softmax(1).numpy()
        np.testing.assert_allclose(found, outcome.probability, atol=1e-6)
