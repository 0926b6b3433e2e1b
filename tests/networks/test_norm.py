"""Masked batch norm against torch's own on the real rows."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from mer.errors import MerError
from mer.networks import norm

KINDS = {
    nn.BatchNorm1d: [(9, 4), (9, 4, 6)],
    nn.BatchNorm2d: [(9, 4, 5, 3)],
    nn.BatchNorm3d: [(9, 4, 2, 5, 3)],
}
CASES = [(kind, shape) for kind, shapes in KINDS.items() for shape in shapes]
LIMIT = {torch.float32: 2e-6, torch.float64: 1e-14}  # a few roundings of values around 1


def pair(kind, dtype=torch.float64, **options):
    torch.manual_seed(0)
    native = kind(4, **options).to(dtype)
    if native.affine:
        nn.init.normal_(native.weight)
        nn.init.normal_(native.bias)
    holder = nn.Sequential(kind(4, **options).to(dtype))
    holder.load_state_dict({f"0.{k}": v for k, v in native.state_dict().items()})
    norm.attach(holder)
    return native, holder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_padded_rows_do_not_count(kind, shape, dtype):
    native, masked = pair(kind, dtype)
    x = 3 + 2 * torch.randn(shape, dtype=dtype)
    real = torch.tensor([1, 1, 0, 1, 1, 0, 1, 1, 0], dtype=torch.bool)
    x[~real] = 1e3
    for _ in range(3):  # running statistics over several batches
        a, b = x[real].clone().requires_grad_(), x.clone().requires_grad_()
        masked[0].rows = real
        expected, out = native(a), masked(b)[real]
        limit = LIMIT[dtype] * 10
        torch.testing.assert_close(out, expected, rtol=limit, atol=limit)
        coefficient = torch.randn_like(expected)
        (expected * coefficient).sum().backward()
        (out * coefficient).sum().backward()
        torch.testing.assert_close(b.grad[real], a.grad, rtol=10 * limit, atol=10 * limit)
        assert not b.grad[~real].any()
        x = x * 1.5
    for name, value in native.state_dict().items():
        torch.testing.assert_close(masked.state_dict()[f"0.{name}"], value, rtol=limit, atol=limit)
    torch.testing.assert_close(masked.eval()(x), native.eval()(x), rtol=limit, atol=limit)


@pytest.mark.parametrize("options", [{"momentum": None}, {"affine": False}, {"eps": 0.1, "momentum": 0.3}])
def test_options_are_kept(options):
    native, masked = pair(nn.BatchNorm2d, **options)
    for _ in range(3):
        x = torch.randn(6, 4, 5, 3, dtype=torch.float64)
        torch.testing.assert_close(masked(x), native(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(masked[0].running_var, native.running_var, rtol=1e-12, atol=1e-12)


def test_no_real_row_leaves_everything_as_it_was():
    _, masked = pair(nn.BatchNorm2d)
    before = {k: v.clone() for k, v in masked.state_dict().items()}
    masked[0].rows = torch.zeros(6, dtype=torch.bool)
    out = masked(torch.randn(6, 4, 5, 3, dtype=torch.float64))
    assert torch.isfinite(out).all()
    for name, value in masked.state_dict().items():
        assert torch.equal(value, before[name])


def test_frames_put_into_the_rows_follow_their_clip():
    native, masked = pair(nn.BatchNorm2d)
    x = torch.randn(5, 3, 4, 2, 2, dtype=torch.float64)  # 5 clips of 3 frames
    masked[0].rows = torch.tensor([1, 1, 0, 1, 0], dtype=torch.bool)
    out = masked(x.flatten(0, 1)).view(5, 3, 4, 2, 2)[masked[0].rows]
    torch.testing.assert_close(out, native(x[masked[0].rows].flatten(0, 1)).view(3, 3, 4, 2, 2))
    with pytest.raises(MerError, match="put a clip's frames together"):
        masked(x.flatten(0, 1)[:7])


def test_every_fold_of_a_vmap_has_its_own_statistics():
    pairs = [pair(nn.BatchNorm2d) for _ in range(3)]
    x = torch.randn(3, 6, 4, 5, 5, dtype=torch.float64) * torch.tensor([1.0, 5, 9]).view(3, 1, 1, 1, 1)
    real = torch.arange(6) < torch.tensor([[6], [4], [0]])
    params, buffers = stack_module_state([masked for _, masked in pairs])
    buffers["0.rows"] = real
    base = pairs[0][1]
    out = vmap(lambda p, b, part: functional_call(base, (p, b), (part,)))(params, buffers, x)
    for k, (native, _) in enumerate(pairs[:2]):
        torch.testing.assert_close(out[k][real[k]], native(x[k][real[k]]), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(buffers["0.running_var"][k], native.running_var, rtol=1e-12, atol=1e-12)
    assert buffers["0.num_batches_tracked"].tolist() == [1, 1, 0]
    assert torch.equal(buffers["0.running_mean"][2], torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.InstanceNorm1d])
def test_statistics_that_reach_over_clips_are_refused(kind):
    """Batch norm without running statistics reads the clips tested beside one, instance norm with them the padding."""
    with pytest.raises(MerError, match="running statistics"):
        norm.attach(nn.Sequential(kind(3, track_running_stats=kind is nn.InstanceNorm1d)))
