"""STSTNet: the shapes of its paper, its input scaling, and its mirror."""

import numpy as np
import pytest
import torch

from mer import models
from mer.errors import MerError
from mer.models import linear, ststnet


def test_shapes_and_size():
    model = models.build("ststnet", 3).eval()
    assert model(torch.zeros(2, 3, 28, 28)).shape == (2, 3)
    # conv 28 * 16, batch norm 2 * 16, linear 401 * 3
    assert sum(p.numel() for p in model.parameters()) == 28 * 16 + 2 * 16 + 401 * 3


def test_released_images_come_back_as_they_are_with_channels_reversed():
    grey = np.random.default_rng(0).integers(0, 256, (4, 3, 28, 28))
    grey[:, :, 0, 0], grey[:, :, 0, 1] = 0, 255
    flow = grey.astype(np.float32)
    flow[:, :2] -= 127.5
    np.testing.assert_array_equal(ststnet.prepare(flow), grey[:, ::-1])


def test_pixels_are_averaged_and_stretched_and_still_channels_are_0():
    flow = np.zeros((1, 3, 56, 56), np.float32)
    flow[0, 0, :, 28:] = 0.4
    out = ststnet.prepare(flow)
    assert out.shape == (1, 3, 28, 28)
    assert np.array_equal(out[0, 2], np.repeat([[0.0] * 14 + [255.0] * 14], 28, axis=0))
    assert not out[0, :2].any()


def test_mirroring_the_input_is_mirroring_the_flow():
    flow = np.random.default_rng(1).normal(size=(3, 3, 28, 28)).astype(np.float32)
    ours = ststnet.mirror(torch.from_numpy(ststnet.prepare(flow))).numpy()
    # Two roundings of a float32 of size 255
    np.testing.assert_allclose(ours, ststnet.prepare(linear.mirror(flow)), atol=1e-4)


def test_a_file_that_is_no_weight_file(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(MerError, match=r"x.pth: is not an STSTNet weight file"):
        ststnet.load_released(tmp_path / "x.pth")


def test_a_channel_without_motion_is_mirrored_into_one_without_motion():
    still = np.zeros((1, 3, 40, 40), np.float32)
    assert not ststnet.mirror(torch.from_numpy(ststnet.prepare(still))).any()
