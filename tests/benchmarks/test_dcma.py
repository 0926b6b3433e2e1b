"""The benchmark of DCMA: its peer is the same network, and each form runs, at a size at which it measures nothing."""

import pytest
import torch

from benchmarks import dcma as bench

pytestmark = pytest.mark.usefixtures("one_thread")

KNOBS = {"size": 16, "stem": 4, "blocks": 2, "layers": 2, "growth": 4}


def test_the_peer_has_the_outputs_and_gradients_of_the_network():
    """Float32 sums in another order; the network is shallow here, so rounding stays small."""
    one = bench.Bench(batch=2, device="cpu", compiled=False, **KNOBS)
    with torch.no_grad():
        outputs = [one.forms[form][0](one.faces) for form in ("plain", "network")]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    assert one.compare()["network"] < 1e-4


def test_rates_are_beside_those_of_the_peer():
    found = bench.Bench(batch=2, device="cpu", compiled=False, **KNOBS).passes(1)
    assert found.keys() == {"training", "inference"}
    for part in found.values():
        assert part["faces_per_s"].keys() == {"plain", "network", "bf16"}
        assert part["times_as_fast"]["plain"] == 1
