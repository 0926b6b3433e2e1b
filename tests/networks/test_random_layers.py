"""Dropout masks and normal numbers: evenly distributed, independent, and the same whatever folds and rows there are."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from mer.errors import MerError
from mer.networks import random_layers


def layer(p=0.5, stream=1, step=0, number=0, axes=None):
    drop = random_layers.Dropout(p, axes)
    drop.key.copy_(torch.from_numpy(random_layers.keys([stream], [step], number + 1)[0, number]))
    return drop


def mask(shape=(256, 1600), **options):
    return (layer(**options)(torch.ones(shape)) != 0).numpy()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_p(p):
    dropped = ~mask((1000, 1000), p=p)
    sigma = np.sqrt(p * (1 - p))
    assert abs(dropped.mean() - p) < 4 * sigma / 1000
    # Rows and columns by themselves: their counts are binomial, whose chi-squared is 1000 +- 45
    for axis in (0, 1):
        chi2 = ((dropped.sum(axis) - 1000 * p) ** 2).sum() / (1000 * p * (1 - p))
        assert stats.chi2.sf(chi2, 1000) > 1e-4
        assert stats.chi2.cdf(chi2, 1000) > 1e-4


def test_small_probabilities_and_the_ends():
    assert (~mask((2000, 2000), p=1e-3)).sum() == pytest.approx(4000, abs=4 * 63)
    x = torch.randn(5, 7)
    assert torch.equal(layer(p=0.0)(x), x)
    assert not layer(p=1.0)(x).any()


def test_what_is_kept_is_scaled_and_evaluation_changes_nothing():
    x = torch.randn(50, 40)
    out = layer(p=0.2)(x)
    kept = out != 0
    torch.testing.assert_close(out[kept], x[kept] / 0.8)
    assert torch.equal(layer(p=0.2).eval()(x), x)


def test_every_2x2_block_of_bits_is_as_frequent_as_any_other():
    bits = mask((512, 512)).astype(int)
    for down, right in ((1, 1), (1, 16), (16, 1), (64, 256), (256, 64)):
        a = bits[: 512 - down, : 512 - right][: down * ((512 - down) // down)]
        corners = a + 2 * bits[down:, : 512 - right] + 4 * bits[: 512 - down, right:] + 8 * bits[down:, right:]
        # every second block in both directions would be disjoint; overlaps widen the spread, 1e-6 leaves room
        assert stats.chisquare(np.bincount(corners.ravel(), minlength=16)).pvalue > 1e-6


def test_masks_of_steps_layers_folds_and_calls_are_uncorrelated():
    masks = [mask(stream=s, step=t, number=n) for s in (1, 2, 2**40) for t in (0, 1, 2, 1000) for n in (0, 1)]
    twice = layer()
    twice(torch.ones(256, 1600))
    masks.append((twice(torch.ones(256, 1600)) != 0).numpy())
    signs = np.stack([2.0 * m.ravel() - 1 for m in masks])
    products = signs @ signs.T / signs.shape[1]
    np.fill_diagonal(products, 0)
    assert np.abs(products).max() < 5 / np.sqrt(signs.shape[1])
    # nor is one of them another one a few places on
    spectrum = np.fft.rfft(signs[:8])
    for i in range(8):
        shifted = np.fft.irfft(spectrum[i] * spectrum.conj(), signs.shape[1]) / signs.shape[1]
        shifted[i, 0] = 0
        assert np.abs(shifted).max() < 7 / np.sqrt(signs.shape[1])


def test_keys_are_all_different():
    words = random_layers.keys(range(50), list(range(50)), 40).reshape(-1, 2)
    several = np.concatenate([words, *[random_layers.keys([7], [t], 40)[0] for t in range(1000)]])
    assert len(np.unique(several, axis=0)) > len(several) - 41  # (stream 7, step 7) is in both


def plain_mask(stream, step, layer, count, p):
    """The definition, in Python's own integers."""

    def split_mix(z):
        z = (z + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    word = split_mix(split_mix((split_mix(stream) + step) % 2**64) + (layer + 1) * 0xD1342543DE82EF95)
    kept = []
    for h in range(count):
        h ^= word % 2**32
        h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
        h = (h ^ h >> 13 ^ word >> 32) * 0xC2B2AE35 % 2**32
        h = (h ^ h >> 16) * 0x9E3779B1 % 2**32
        kept.append((h + 2**31) % 2**32 >= p * 2**32)  # as int32 the upper half comes first
    return kept


@pytest.mark.parametrize("shape", [(7, 30), (3, 8, 5, 4)])
def test_the_mask_is_its_definition_bit_for_bit(shape):
    """So predictions change with no version of torch, and with no device."""
    for stream, step, number, p in ((3, 5, 0, 0.5), (2**62 + 11, 1599, 4, 0.25)):
        ours = mask(shape, stream=stream, step=step, number=number, p=p).ravel()
        assert ours.tolist() == plain_mask(stream, step, number, ours.size, p)


def test_rows_added_at_the_end_and_the_memory_layout_change_nothing():
    drop = layer()
    a = drop(torch.ones(6, 5, 4, 3))
    drop.calls = 0
    b = drop(torch.ones(9, 5, 4, 3))[:6]
    drop.calls = 0
    last = drop(torch.ones(9, 5, 4, 3).contiguous(memory_format=torch.channels_last))
    assert torch.equal(a, b)
    assert torch.equal(a, last[:6])
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_the_global_generator_neither_matters_nor_moves():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a = mask()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert np.array_equal(mask(), a)


def network():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout2d(0.3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3))
    random_layers.attach(net)
    return net


def test_folds_in_one_vmap_have_the_masks_they_have_alone():
    nets = [network() for _ in range(3)]
    words = torch.from_numpy(random_layers.keys([4, 5, 6], [0, 7, 2], 2))
    for net, word in zip(nets, words, strict=True):
        net[1].key, net[3].key = word
    x = torch.randn(3, 8, 2, 5, 5)
    alone = torch.stack([net(part) for net, part in zip(nets, x, strict=True)])
    params, buffers = stack_module_state(nets)
    random_layers.begin(nets[0])
    stacked = vmap(lambda p, b, part: functional_call(nets[0], (p, b), (part,)))(params, buffers, x)
    torch.testing.assert_close(stacked, alone, rtol=1e-5, atol=1e-6)


def test_whole_channels_are_dropped_where_the_layer_did_so():
    kept = (layer(axes=2)(torch.ones(200, 30, 4, 4)) != 0).flatten(2)
    assert torch.equal(kept.all(2), kept.any(2))
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.03)
    whole = (layer(axes=1)(torch.ones(1000, 3, 4)) != 0).flatten(1)
    assert torch.equal(whole.all(1), whole.any(1))


def test_attaching_finds_every_layer_and_keeps_a_shared_one():
    net = nn.ModuleDict({"a": nn.Dropout(0.1), "b": nn.Sequential(nn.Dropout3d(0.2), nn.ReLU())})
    net["again"] = net["a"]
    assert random_layers.attach(net) == ["a", "b.0"]
    assert net["again"] is net["a"]
    assert (net["a"].p, net["b"][0].p, net["b"][0].axes) == (0.1, 0.2, 2)
    assert not net.state_dict()


@pytest.mark.parametrize(
    "module", [nn.AlphaDropout(0.1), nn.MultiheadAttention(4, 1, dropout=0.1), nn.LSTM(2, 2, 2, dropout=0.3)]
)
def test_layers_with_generators_of_their_own_are_refused(module):
    with pytest.raises(MerError, match=type(module).__name__):
        random_layers.attach(nn.Sequential(module))


# ---- normal numbers, and what is drawn in evaluation --------------------------------------------------------------


def normal(stream=1, step=0, number=0, **options):
    source = random_layers.Normal(**options)
    source.key.copy_(torch.from_numpy(random_layers.keys([stream], [step], number + 1)[0, number]))
    return source


def test_normal_numbers_are_normal_and_uncorrelated():
    source = normal()
    first, second = source(500, 400), source(500, 400)
    for z in (first, second):
        assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-4
        assert stats.kstest(z.square().sum(1).numpy(), "chi2", (400,)).pvalue > 1e-4
    others = [normal(stream=2)(500, 400), normal(step=1)(500, 400), normal(number=1)(500, 400), second]
    others += [first.roll(1, 0), first.roll(1, 1), first.roll(16, 1)]
    for other in others:
        # a common radius would show in the squares, whose variance is 2
        for a, b, spread in ((first, other, 1), (first**2 - 1, other**2 - 1, 2)):
            assert abs((a * b).mean()) < 5 * spread / np.sqrt(first.numel())


def test_the_ends_of_the_hashes_are_finite():
    ends = random_layers._uniform(torch.tensor([-(2**31), 2**31 - 1, 0], dtype=torch.int32))
    assert ends.tolist() == [2**-25, 1.0, 0.5]
    assert (-2 * ends.log()).sqrt().max() < 5.9


def test_normal_numbers_are_their_definition():
    """Two hashes of each place, 24 bits of each, in NumPy's float64; the device's float32 is off by its rounding."""
    source = normal(stream=3, step=5)
    place = torch.arange(24, dtype=torch.int32)
    near, turn = (random_layers._hash(place, source.key, call).numpy() for call in (0, 1))
    u, w = (((h.astype(np.int64) + 2**31) // 256 + 0.5) / 2**24 for h in (near, turn))
    expected = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * w)
    np.testing.assert_allclose(source(4, 6).numpy().ravel(), expected, atol=1e-5)


def test_rows_at_the_end_change_no_normal_number_and_folds_have_their_own():
    assert torch.equal(normal()(5, 3), normal()(9, 3)[:5])
    words = torch.from_numpy(random_layers.words([random_layers.Normal()], [4, 5], [0, 7], 0)[:, 0])
    source = random_layers.Normal()

    def draw(key):
        source.calls = 0
        return functional_call(source, {"key": key}, (4, 3))

    stacked = vmap(draw)(words)
    torch.testing.assert_close(stacked, torch.stack([draw(word) for word in words]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stacked[1], normal(stream=5, step=7)(4, 3), rtol=1e-6, atol=1e-6)


def test_once_an_epoch():
    every = [random_layers.Dropout(), random_layers.Normal(every="epoch")]
    words = [random_layers.words(every, [4, 5], [step, step], epoch) for step, epoch in ((0, 0), (1, 0), (2, 1))]
    assert (words[1][:, 0] != words[0][:, 0]).any(1).all()
    assert (words[1][:, 1] == words[0][:, 1]).all()
    assert (words[2][:, 1] != words[0][:, 1]).any(1).all()
    assert torch.equal(every[1](3, 2), every[1](3, 2))
    anew = normal()
    assert not torch.equal(anew(3, 2), anew(3, 2))


def test_evaluation_has_the_same_numbers_in_every_fold_and_others_in_each_layer():
    net = nn.ModuleList([random_layers.Normal(), random_layers.Normal(), random_layers.Dropout(0.5)])
    random_layers.number(net)
    net.eval()
    x = torch.ones(7, 200)
    net[2].sampling = True
    drawn = []
    for key in (0, 9):
        for layer in net:
            layer.key.fill_(key)
        random_layers.begin(net)
        drawn.append([net[0](40), net[1](40), net[0](40), net[2](x)])
    for a, b in zip(*drawn, strict=True):
        assert torch.equal(a, b)
    first, other, again, dropped = drawn[0]
    assert not torch.equal(first, other)
    assert not torch.equal(first, again)
    # all rows share a mask: the result of a row does not depend on the others
    assert torch.equal(dropped, dropped[:1].expand(7, -1))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.5, abs=0.15)
    net[2].sampling = False
    assert torch.equal(net[2](x), x)
