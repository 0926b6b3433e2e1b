"""One fold, trained by the plain network."""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mer.errors import MerError
from mer.loso.task import LabelledClips, Task, TrainingPlan, autocast, compiled, new_network, weight_dtype
from mer.networks import random_layers


class SingleFold:
    """`Folds` of one fold."""

    def __init__(self, task: Task, clips: LabelledClips, build: Callable[[], nn.Module], plan: TrainingPlan):
        self.task, self.plan = task, plan
        self.network = new_network(task, build, clips.inputs.device)
        self.clips = clips
        if clips.inputs.device.type == "cpu" and clips.inputs.dim() == 4:
            # Batch norm and pooling of a CPU are vectorised over channels: 1.4 times as fast for STSTNet.
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
            inputs = clips.inputs.contiguous(memory_format=torch.channels_last)
            self.clips = dataclasses.replace(clips, inputs=inputs)
        self.sources = list(random_layers.sources(self.network).values())
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[plan.optimizer]
        self.optimizer = kind(self.network.parameters(), lr=plan.schedule.lr, weight_decay=plan.weight_decay)
        self.call = compiled(self.network, plan)
        self.steps = self.epoch = 0
        self.best: dict[str, Tensor] = {}

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def losses(self, rows: Sequence[np.ndarray | None], drawn: Sequence[np.ndarray | None]) -> Tensor:
        x, y = self.clips.take(rows[0])  # type: ignore[arg-type]  # the only fold has a batch in every step
        if self.plan.augment is not None and drawn[0] is not None:
            x = self.plan.augment(x, drawn[0])
        self._begin_step(x.device)
        row_weight = torch.full((len(y),), 1 / len(y), dtype=weight_dtype(x), device=x.device)
        with autocast(x.device, self.plan), _global_generator_unused(self.task, x.device, self.steps == 0):
            # A function and no module, as in StackedFolds: a loss can run the network and nothing else.
            more = self.clips.more(rows[0])  # type: ignore[arg-type]
            return self.plan.loss(lambda inputs: self.call(inputs), x, y, row_weight, *more)[None]

    def _begin_step(self, device: torch.device) -> None:
        random_layers.begin(self.network)
        words = random_layers.words(self.sources, [self.task.stream], [self.steps], self.epoch)[0]
        for source, word in zip(self.sources, torch.from_numpy(words).to(device), strict=True):
            source.key = word

    def update(self, losses: Tensor, rates: list[float], active: list[bool]) -> None:
        self.optimizer.param_groups[0]["lr"] = rates[0]
        self.optimizer.zero_grad()
        losses.sum().backward()
        self.optimizer.step()
        self.steps += 1

    def probabilities(self, rows: list[np.ndarray], size: int) -> list[np.ndarray]:
        if not len(rows[0]):  # a fold without a test subject
            return [np.empty((0, 0))]
        self.network.eval()
        with torch.no_grad(), autocast(self.clips.inputs.device, self.plan):
            parts = [
                self.network(self.clips.take(part)[0]).double().softmax(1).cpu()
                for part in np.split(rows[0], range(size, len(rows[0]), size))
            ]
        self.network.train()
        return [torch.cat(parts).numpy()]

    def remember(self, which: list[int]) -> None:
        if which:
            self.best = copy.deepcopy(self.network.state_dict())

    def recall(self, which: list[int]) -> None:
        self.network.load_state_dict(self.best)

    def select(self, which: list[int]) -> None:
        """Nothing to do: the one fold goes on, or training ends."""

    def network_of(self, k: int) -> nn.Module:
        return self.network


@contextlib.contextmanager
def _global_generator_unused(task: Task, device: torch.device, checked: bool) -> Iterator[None]:
    """Raise MerError when the network moves a global generator: its numbers would depend on what ran before."""
    if not checked:
        yield
        return

    def state() -> Tensor:
        return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()

    before = state()
    yield
    if not torch.equal(before, state()):
        raise MerError(
            f"fold {task.name}: the network draws random numbers outside of nn.Dropout layers (F.dropout, torch.rand, "
            "…), which would not be the same in every run; use nn.Dropout, or a layer of mer.networks.random_layers"
        )
