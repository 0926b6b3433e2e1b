"""MSMMT as one would first write it, on the layers of a network of mer.models.msmmt: the peer of benchmarks.msmmt.

Each size of each modality is a pass of its own; every map of every head is kept until the last layer, in which all
tokens take part.
"""

import torch
from torch.nn import functional as F

from mer.models.msmmt import MODALITIES, Output


def attention(block, x):
    q, k, v = block.qkv(x).chunk(3, -1)
    q, k, v = (t.unflatten(-1, (block.n_h, -1)).transpose(1, 2) for t in (q, k, v))
    maps = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return block.proj((maps @ v).transpose(1, 2).flatten(2)), maps


def layer(block, x):
    mixed, maps = attention(block, block.norm1(x))
    x = x + mixed
    return x + block.fc2(F.gelu(block.fc1(block.norm2(x)))), maps


def one_pass(vit, image, token):
    x, kept = vit.embed(image, token), []
    for block in vit.blocks[:-1]:
        x, maps = layer(block, x)
        kept.append(maps)
    product = torch.eye(x.shape[1], device=x.device).expand(len(x), -1, -1)
    for maps in kept:
        mean = maps.float().mean(1)
        product = mean / mean.sum(-1, keepdim=True) @ product
    weights = product[:, 1:, 1:].mean(1) / product.amax((1, 2))[:, None]
    last = vit.blocks[-1]
    weighted = last.norm1(x) * torch.cat([torch.ones_like(weights[:, :1]), weights], 1)[..., None]
    x = x + attention(last, weighted)[0]
    x = x + last.fc2(F.gelu(last.fc1(last.norm2(x))))
    return vit.norm(x)[:, 0]


def forward(network, inputs):
    features = []
    for name in MODALITIES:
        images = [network.image(inputs, name, side) for side in network.sides]
        features.append(torch.cat([one_pass(network.vits[name], image, i) for i, image in enumerate(images)], 1))
    logits = network.fc2(network.dropout(F.relu(network.fc1(torch.cat(features, 1)))))
    return Output(logits, tuple(features), network.contrast)
