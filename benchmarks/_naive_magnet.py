"""MagNet (Oh et al., ECCV 2018) from PyTorch's own layers: the peer of benchmarks.magnification.

float32; the whole network runs anew for every factor. Names are those of the public weights, which are ZhengPeng7's.
"""

from collections import OrderedDict

import torch
from torch import nn


def layer(inputs, outputs, kernel=3, stride=1, relu=True):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, padding_mode="reflect", bias=False)
    return nn.Sequential(OrderedDict(conv2d=conv, rectifier=nn.ReLU() if relu else nn.Identity()))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.cba_1, self.cba_2 = layer(channels, channels), layer(channels, channels, relu=False)

    def forward(self, x):
        return x + self.cba_2(self.cba_1(x))


def blocks(count, channels):
    return nn.Sequential(*[Block(channels) for _ in range(count)])


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        head = {"cba_1": layer(3, 16, 7), "cba_2": layer(16, 32, stride=2), "resblks": blocks(3, 32)}
        texture = {"texture_cba": layer(32, 32, stride=2), "texture_resblks": blocks(2, 32)}
        motion = {"motion_cba": layer(32, 32), "motion_resblks": blocks(2, 32)}
        g, h, last = layer(32, 32), layer(32, 32, relu=False), layer(32, 3, 7, relu=False)
        self.encoder = nn.ModuleDict(head | texture | motion)
        self.manipulator = nn.ModuleDict({"g": g, "h_conv": h, "h_resblk": Block(32)})
        self.decoder = nn.ModuleDict({"resblks": blocks(9, 64), "cba_1": layer(64, 32), "cba_2": last})
        self.doubled = nn.Upsample(scale_factor=2, mode="nearest")

    def encode(self, frame):
        x = self.encoder.resblks(self.encoder.cba_2(self.encoder.cba_1(frame)))
        texture, shape = self.encoder.texture_cba(x), self.encoder.motion_cba(x)
        return self.encoder.texture_resblks(texture), self.encoder.motion_resblks(shape)

    def forward(self, a, b, factor):
        (_, shape_a), (texture, shape_b) = self.encode(a), self.encode(b)
        x = self.manipulator.h_conv(factor * self.manipulator.g(shape_b - shape_a))
        shape = shape_b + self.manipulator.h_resblk(x)
        x = self.decoder.resblks(torch.cat([self.doubled(texture), shape], dim=1))
        return self.decoder.cba_2(self.decoder.cba_1(self.doubled(x)))


@torch.no_grad()
def magnify(network, onset, apex, factors):
    """(H, W, 3) uint8 RGB twice -> (L, H, W, 3) uint8; sides are multiples of 4."""
    a, b = (torch.from_numpy(frame).permute(2, 0, 1)[None] / 127.5 - 1 for frame in (onset, apex))
    frames = torch.cat([network(a, b, float(factor)) for factor in factors])
    return ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
