"""The benchmark of Micron-BERT's pretraining: what it counts and computes, at a size at which it measures nothing."""

from unittest import mock

import pytest
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import micronbert as bench
from mer.networks import vit

pytestmark = pytest.mark.usefixtures("one_thread")

KNOBS = {"size": 32, "width": 16, "layers": 1, "heads": 2, "widen": 2}


def made(batch: int) -> bench.Bench:
    return bench.Bench(KNOBS, batch=batch, device="cpu", half=False)


def test_operations_of_a_batch_are_those_of_its_pairs():
    one = made(3)
    with FlopCounterMode(display=False) as counter, mock.patch.object(vit, "attention", bench.formed):
        one.losses(one.fixed)[0].backward()
    assert bench.operations(one) == counter.get_total_flops()


def test_the_papers_run_is_a_matter_of_arithmetic():
    """8 million pairs, 100 epochs, at 1000 pairs a second: 800,000 s."""
    found = bench.paper(1000.0)
    assert found["days"] == {"1": 9.26, "8": 1.16, "32": 0.29}
    assert found["papers_pairs_per_s_of_each"] == 96.5  # 8e8 / (3 * 86400 s) / 32


def test_all_forms_make_the_same_step():
    """Float32 sums in other orders: losses agree to 1e-5."""
    losses = {}
    for form in bench.FORMS:
        one = made(2)
        one.form(form)
        losses[form] = one.losses(one.fixed)[0].item()
    assert losses["checkpointing"] == pytest.approx(losses["fused"], rel=1e-5)
    assert losses["maps"] == pytest.approx(losses["fused"], rel=1e-5)
