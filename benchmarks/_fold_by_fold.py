"""The peer of benchmarks.loso: one fold after another, as the code released with STSTNet trains them.

The same network in plain PyTorch, a DataLoader over a TensorDataset, Adam, and a pass over the test subject after each
epoch. Nothing here is imported from mer. Initial weights, order of the rows and dropout layers are arguments.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class TripleStream(nn.Module):
    """(B, 3, 28, 28) -> (B, classes) logits."""

    def __init__(self, classes: int, dropout: float = 0.5, drop=nn.Dropout):
        super().__init__()
        for i, filters in enumerate((3, 5, 8), start=1):
            self.add_module(f"conv{i}", nn.Conv2d(3, filters, kernel_size=3, padding=2))
            self.add_module(f"bn{i}", nn.BatchNorm2d(filters))
            self.add_module(f"dropout{i}", drop(dropout))
        self.fc = nn.Linear(16 * 5 * 5, classes)

    def forward(self, x):
        streams = []
        for i in (1, 2, 3):
            stream = F.relu(getattr(self, f"conv{i}")(x))
            stream = F.max_pool2d(getattr(self, f"bn{i}")(stream), kernel_size=3, stride=3, padding=1)
            streams.append(getattr(self, f"dropout{i}")(stream))
        return self.fc(F.avg_pool2d(torch.cat(streams, dim=1), kernel_size=2, stride=2).flatten(1))


def train_fold(x, y, test, *, classes=3, epochs=800, lr=5e-5, batch_size=256, network=None, sampler=None):
    """Probabilities (n_test, classes) after the last epoch. `test` (n,) bool; `sampler`: of training rows."""
    train_set, test_set = TensorDataset(x[~test], y[~test]), TensorDataset(x[test], y[test])
    order = {"shuffle": True} if sampler is None else {"sampler": sampler}
    train_loader = DataLoader(train_set, batch_size=batch_size, **order)
    test_loader = DataLoader(test_set, batch_size=batch_size)
    network = network or TripleStream(classes)
    adam = torch.optim.Adam(network.parameters(), lr=lr)
    for _ in range(epochs):
        network.train()
        for batch, labels in train_loader:
            adam.zero_grad()
            F.cross_entropy(network(batch), labels).backward()
            adam.step()
        network.eval()
        with torch.no_grad():
            outputs = torch.cat([network(batch) for batch, _ in test_loader])
    return outputs.softmax(1)
