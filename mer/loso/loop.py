"""Trains the networks of several folds at once, on one device, each as if it were alone.

The parameters of K folds stand in one tensor (K, P), their buffers in tensors (K, …), and one step takes each of them
forward by a batch of its own (torch.func). What a fold becomes depends on its own stream and clips only: initial
weights, order of the clips, dropout masks, batch statistics, learning rate and moments are its own, and rows that pad a
batch to the longest count for nothing. So a group equals its folds trained one by one, to rounding. One fold by itself
is trained by the plain network, which is what a CPU does fastest.

Shapes: N clips, K folds, B rows of a batch, C classes, P parameters.
"""

import contextlib
import copy
import ctypes
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from mer.errors import MerError, listed
from mer.loso.augmentation import AS_IT_IS, Augmentation
from mer.loso.optim import Schedule, StackedAdam, stops
from mer.networks import norm
from mer.networks import random_layers as streams

# (network, inputs (B, …), labels (B,), share (B,)) -> scalar; share: what a row counts, 1/n, 0 for padding.
Loss = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor], Tensor]


def cross_entropy(network: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor, share: Tensor) -> Tensor:
    """The mean over the real rows."""
    return (F.cross_entropy(network(inputs), labels, reduction="none") * share).sum()


@dataclass(frozen=True)
class Task:
    """One fold. name: for messages; stream: 0..2**63-1, whatever is random in it; the rest: rows of the inputs.

    validation: rows of its training subjects that are held out, for selection, `plateau` and early stopping.
    """

    name: str
    stream: int
    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How all folds are trained.

    decoupled: AdamW instead of Adam; augment: what becomes of training clips; patience: epochs
    without a lower validation loss after which a fold stops; best: the weights of the epoch with the lowest validation
    loss are tested, not the last ones; audit: also remember what choosing the epoch on the test clips would have
    given, which changes nothing else; half: bfloat16 autocast; compiled: torch.compile.
    explain, weigh: asked of the weights that are tested: (network, inputs (B, …)) -> arrays (B, …) by name, of the test
    clips; (network, inputs, labels (B,)) -> (B,), of the training clips.
    """

    schedule: Schedule
    batch_size: int
    decoupled: bool = False
    weight_decay: float = 0.0
    augment: Augmentation | None = None
    loss: Loss = cross_entropy
    patience: int | None = None
    best: bool = False
    audit: bool = False
    half: bool = False
    compiled: bool = False
    explain: Callable[[nn.Module, Tensor], dict[str, Tensor]] | None = None
    weigh: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None

    @property
    def watches(self) -> bool:
        return self.best or self.patience is not None or self.schedule.watches


@dataclass
class Outcome:
    """What became of a fold.

    probability: (n_test, C) float64; epochs: how many it was trained; chosen: the epoch (from 1) that was tested;
    train_losses, validation_losses: one an epoch; audit, audit_epoch: (n_test, C) and the first epoch of the highest
    accuracy on the test clips; explained: (n_test, …) by name, what the plan's `explain` found; counted: (n_train,),
    what its `weigh` did.
    """

    probability: np.ndarray | None = None
    epochs: int = 0
    chosen: int = 0
    train_losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    audit: np.ndarray | None = None
    audit_epoch: int = 0
    explained: dict[str, np.ndarray] = field(default_factory=dict)
    counted: np.ndarray | None = None
    _audit_accuracy: float = -1.0


def train_group(
    tasks: Sequence[Task],
    inputs: Tensor,
    labels: Tensor,
    build: Callable[[], nn.Module],
    plan: Plan,
    *,
    ids: Sequence[str],
    together: bool = True,
    watch: Callable[[float], None] | None = None,
) -> list[Outcome]:
    """Train and test every fold.

    Args:
        inputs, labels: (N, …) and (N,) int64, on the device that computes.
        build: the network, drawn from torch's global generator, which is set to the fold's stream and put back.
        ids: (N,) names of the clips, for messages.
        together: side by side; False: one after another. See `why_alone` for networks that cannot stand side by side.
        watch: called after every epoch with the mean training loss of the folds that take part.

    Returns:
        One outcome a task, in their order.

    Raises:
        MerError: a loss that is not finite, before the weights take it in (naming fold, epoch and clips); layers that
            no fold can own; no validation clips where they are needed.
    """
    for task in tasks:
        if plan.watches and not len(task.validation):
            raise MerError(f"fold {task.name} holds out no clips, which this recipe needs")
    data = _Data(inputs, labels, ids)
    if together and len(tasks) > 1:
        with _exactly():
            return _train(_Side(tasks, data, build, plan), tasks, data, plan, watch)
    with _exactly(), _keeping_memory(inputs.device):
        return [_train(_Alone(task, data, build, plan), [task], data, plan, watch)[0] for task in tasks]


def why_alone(build: Callable[[], nn.Module], inputs: Tensor, plan: Plan) -> str | None:
    """Why the network cannot be trained side by side, or None if it can; tried out on the first three clips.

    Found are operations that vmap does not know, random numbers drawn outside layers, and clips that are not the first
    axis throughout (padding would change their dropout or batch norm).
    """
    plan = dataclasses.replace(plan, augment=None)  # of clips, before the network sees them
    rows = np.arange(min(3, len(inputs)))
    labels = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
    data = _Data(inputs, labels, [str(i) for i in range(len(inputs))])
    tasks = [Task(str(k), k, rows, rows) for k in range(2)]
    batches = [rows, rows[:-1]]  # the second is padded

    def rough() -> nn.Module:
        """A head of zeros, as some networks start with, would hide every difference."""
        network = build()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return network

    try:
        with torch.no_grad():
            losses = _Side(tasks, data, rough, plan).losses(batches, [None, None]).double().tolist()
            for task, batch, loss in zip(tasks, batches, losses, strict=True):
                alone = _Alone(task, data, rough, plan).losses([batch], [None]).item()
                # Another mask or other statistics change the loss of three clips by far more.
                if not math.isclose(alone, loss, rel_tol=0.05 if plan.half else 1e-3, abs_tol=1e-4):
                    return f"side by side its loss is {loss:.6g}, alone {alone:.6g}"
    except (MerError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # vmap refuses in many ways
        return " ".join(str(error).split())[:300]
    return None


# ---- the loop ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Data:
    inputs: Tensor
    labels: Tensor
    ids: Sequence[str]

    def take(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        index = torch.from_numpy(rows).to(self.inputs.device, non_blocking=True)
        return self.inputs[index], self.labels[index]


def _train(side: "_Alone | _Side", tasks: Sequence[Task], data: _Data, plan: Plan, watch=None) -> list[Outcome]:
    """`side` holds the folds that still train; `going` are their places in `tasks`."""
    outcomes = [Outcome() for _ in tasks]
    samplers = [np.random.default_rng(task.stream) for task in tasks]
    going = list(range(len(tasks)))
    for epoch in range(plan.schedule.epochs):
        side.epoch = epoch
        rates = [plan.schedule.rate(epoch, outcomes[k].validation_losses) for k in going]
        todo = [batches(samplers[k].permutation(tasks[k].train), plan.batch_size) for k in going]
        sums = np.zeros(len(going))
        for step in range(max(len(b) for b in todo)):
            rows = [b[step] if step < len(b) else None for b in todo]
            drawn = [
                plan.augment.draw(samplers[k], len(r)) if plan.augment is not None and r is not None else None
                for k, r in zip(going, rows, strict=True)
            ]
            losses = side.losses(rows, drawn)
            values = losses.detach().double().cpu().numpy()
            for k, r, value in zip(going, rows, values, strict=True):
                if r is not None and not math.isfinite(value):
                    raise MerError(
                        f"fold {tasks[k].name}, epoch {epoch + 1}: loss is {value} on clips "
                        f"{listed(data.ids[i] for i in r)}; lower recipe.lr"
                    )
            side.update(losses, rates, [r is not None for r in rows])
            sums += [value * len(r) if r is not None else 0 for r, value in zip(rows, values, strict=True)]
        _after_epoch(side, [tasks[k] for k in going], [outcomes[k] for k in going], sums, data, plan)
        if watch is not None:
            watch(float(np.mean([outcomes[k].train_losses[-1] for k in going])))
        if plan.patience is not None:
            on = [i for i, k in enumerate(going) if not stops(outcomes[k].validation_losses, plan.patience)]
            if len(on) < len(going) and epoch + 1 < plan.schedule.epochs:
                _test(side, tasks, outcomes, going, [i for i in range(len(going)) if i not in on], data, plan)
                going = [going[i] for i in on]
                if not going:
                    return outcomes
                side.select(on)
    _test(side, tasks, outcomes, going, list(range(len(going))), data, plan)
    return outcomes


def _after_epoch(side, tasks, outcomes, sums, data: _Data, plan: Plan) -> None:
    """Keeps the books of an epoch: losses, the best weights so far, the audit."""
    for task, outcome, total in zip(tasks, outcomes, sums, strict=True):
        outcome.epochs += 1
        outcome.train_losses.append(float(total / len(task.train)))
        if not plan.best:
            outcome.chosen = outcome.epochs
    if plan.watches:
        better = []
        found = side.probabilities([task.validation for task in tasks], plan.batch_size)
        for k, (task, outcome) in enumerate(zip(tasks, outcomes, strict=True)):
            label = data.labels[torch.from_numpy(task.validation).to(data.labels.device)].cpu().numpy()
            likelihood = found[k][np.arange(len(label)), label]
            with np.errstate(divide="ignore"):
                loss = float(-np.log(likelihood).mean())
            _check_finite(likelihood, task, outcome, task.validation, data)
            if loss < min(outcome.validation_losses, default=math.inf) or not outcome.validation_losses:
                better.append(k)
                if plan.best:
                    outcome.chosen = outcome.epochs
            outcome.validation_losses.append(loss)
        if plan.best:
            side.remember(better)
    if plan.audit:
        found = side.probabilities([task.test for task in tasks], plan.batch_size)
        for task, outcome, probability in zip(tasks, outcomes, found, strict=True):
            label = data.labels[torch.from_numpy(task.test).to(data.labels.device)].cpu().numpy()
            accuracy = float((probability.argmax(1) == label).mean())
            if accuracy > outcome._audit_accuracy:
                outcome.audit, outcome.audit_epoch = probability, outcome.epochs
                outcome._audit_accuracy = accuracy


def _test(side, tasks, outcomes, going, which: list[int], data: _Data, plan: Plan) -> None:
    """The probabilities of the folds `which` (places in `going`), which will not be trained any further."""
    if plan.best:
        side.recall(which)
    rows = [tasks[k].test if i in which else np.empty(0, dtype=np.int64) for i, k in enumerate(going)]
    found = side.probabilities(rows, plan.batch_size)
    for i in which:
        task, outcome = tasks[going[i]], outcomes[going[i]]
        _check_finite(found[i], task, outcome, task.test, data)
        outcome.probability = found[i]
        if plan.explain is not None or plan.weigh is not None:
            _explain(side.network_of(i), task, outcome, data, plan)


@torch.no_grad()
def _explain(network: nn.Module, task: Task, outcome: Outcome, data: _Data, plan: Plan) -> None:
    """What the fold's network, as it is tested, says of its clips; the network is left in training mode."""

    def parts(rows: np.ndarray):
        return [data.take(part) for part in np.split(rows, range(plan.batch_size, len(rows), plan.batch_size))]

    network.eval()
    with _autocast(data.inputs.device, plan):
        if plan.explain is not None:
            found = [plan.explain(network, x) for x, _ in parts(task.test)]
            outcome.explained = {
                name: torch.cat([part[name] for part in found]).float().cpu().numpy() for name in found[0]
            }
        if plan.weigh is not None:
            outcome.counted = torch.cat([plan.weigh(network, x, y) for x, y in parts(task.train)]).float().cpu().numpy()
    network.train()


def _check_finite(probability: np.ndarray, task: Task, outcome: Outcome, rows: np.ndarray, data: "_Data") -> None:
    """A last step that breaks the weights has no later loss to show it."""
    if not np.isfinite(probability).all():
        raise MerError(
            f"fold {task.name}, after epoch {outcome.epochs}: probabilities of {listed(data.ids[i] for i in rows)} are "
            "not finite; lower recipe.lr"
        )


def batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive batches; a last one of a single clip joins its neighbour, since batch norm cannot take it."""
    cuts = list(range(size, len(rows), size))
    if cuts and len(rows) - cuts[-1] == 1:
        cuts.pop()
    return np.split(rows, cuts)


def _build(task: Task, build: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    """The fold's network with its own initial weights, and layers that draw from its stream."""
    with torch.random.fork_rng():
        torch.manual_seed(task.stream)
        network = build().to(device)
    norm.check(network)
    if len(task.train) == 1 and norm.of(network):
        raise MerError(
            f"fold {task.name} is left with one training clip, and batch norm needs two; add subjects, or lower "
            "train.held_out"
        )
    streams.attach(network)
    return network.train()


def _real(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.float32


def _autocast(device: torch.device, plan: Plan):
    return torch.autocast(device.type, torch.bfloat16) if plan.half else contextlib.nullcontext()


# ---- one fold: the plain network ----------------------------------------------------------------------------------


class _Alone:
    """One fold. The same questions as `_Side` answers for several, whose lists have one entry here."""

    def __init__(self, task: Task, data: _Data, build: Callable[[], nn.Module], plan: Plan):
        self.task, self.plan = task, plan
        self.network = _build(task, build, data.inputs.device)
        self.data = data
        if data.inputs.device.type == "cpu" and data.inputs.dim() == 4:
            # Batch norm and pooling of a CPU are vectorised over channels: 1.4 times as fast for STSTNet.
            self.network.to(memory_format=torch.channels_last)
            self.data = _Data(data.inputs.contiguous(memory_format=torch.channels_last), data.labels, data.ids)
        self.sources = list(streams.sources(self.network).values())
        kind = torch.optim.AdamW if plan.decoupled else torch.optim.Adam
        self.optimizer = kind(self.network.parameters(), lr=plan.schedule.lr, weight_decay=plan.weight_decay)
        self.call = torch.compile(self.network) if plan.compiled else self.network
        self.steps = self.epoch = 0
        self.best: dict[str, Tensor] = {}

    def losses(self, rows: list, drawn: list) -> Tensor:
        """(1,) the loss of the next batch."""
        x, y = self.data.take(rows[0])
        if drawn[0] is not None:
            x = self.plan.augment(x, drawn[0])
        self._begin_step(x.device)
        share = torch.full((len(y),), 1 / len(y), dtype=_real(x), device=x.device)
        with _autocast(x.device, self.plan), _own_numbers_only(self.task, x.device, self.steps == 0):
            # A function, as side by side: a loss may run the network and nothing else.
            return self.plan.loss(lambda inputs: self.call(inputs), x, y, share)[None]

    def _begin_step(self, device: torch.device) -> None:
        streams.begin(self.network)
        words = streams.words(self.sources, [self.task.stream], [self.steps], self.epoch)[0]
        for source, word in zip(self.sources, torch.from_numpy(words).to(device), strict=True):
            source.key = word

    def update(self, losses: Tensor, rates: list[float], active: list[bool]) -> None:
        self.optimizer.param_groups[0]["lr"] = rates[0]
        self.optimizer.zero_grad()
        losses.sum().backward()
        self.optimizer.step()
        self.steps += 1

    def probabilities(self, rows: list[np.ndarray], size: int) -> list[np.ndarray]:
        """(n, C) float64, the network in evaluation mode."""
        self.network.eval()
        with torch.no_grad(), _autocast(self.data.inputs.device, self.plan):
            parts = [
                self.network(self.data.take(part)[0]).double().softmax(1).cpu()
                for part in np.split(rows[0], range(size, len(rows[0]), size))
            ]
        self.network.train()
        return [torch.cat(parts).numpy()]

    def network_of(self, k: int) -> nn.Module:
        return self.network

    def remember(self, which: list[int]) -> None:
        if which:
            self.best = copy.deepcopy(self.network.state_dict())

    def recall(self, which: list[int]) -> None:
        self.network.load_state_dict(self.best)


@contextlib.contextmanager
def _own_numbers_only(task: Task, device: torch.device, watched: bool):
    """Raise MerError when the network moves a global generator: what it draws there is not the fold's own."""
    if not watched:
        yield
        return

    def state():
        return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()

    before = state()
    yield
    if not torch.equal(before, state()):
        raise MerError(
            f"fold {task.name}: the network draws random numbers outside of nn.Dropout layers (F.dropout, torch.rand, "
            "…), which would not be the same in every run; use nn.Dropout, or a layer of mer.networks.random_layers"
        )


@contextlib.contextmanager
def _exactly():
    """On a GPU: the same sums in every run, and float32 that is float32 (TF32 has 10 bits)."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextlib.contextmanager
def _keeping_memory(device: torch.device):
    """Let the C library keep freed memory instead of handing it back to the system.

    Every step frees and allocates the same big tensors; fetching their pages anew costs a quarter of STSTNet's step.
    Only glibc has the switch; elsewhere nothing happens.
    """
    mmap_most, trim_at = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    try:
        library = ctypes.CDLL(None) if device.type == "cpu" else None
        mallopt, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):
        yield
        return
    mallopt(mmap_most, 0)
    mallopt(trim_at, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(mmap_most, 65536)  # glibc's defaults
        mallopt(trim_at, 128 * 1024)
        trim(0)


# ---- several folds: stacked ---------------------------------------------------------------------------------------


def _stacked_loss(base: nn.Module, loss: Loss, params: dict, buffers: dict, x: Tensor, y: Tensor, share: Tensor):
    """Of one fold, under vmap."""
    return loss(lambda inputs: functional_call(base, (params, buffers), (inputs,)), x, y, share)


class _Side:
    """K folds side by side. Lists have one entry a fold; None are the rows of a fold without a batch."""

    def __init__(self, tasks: Sequence[Task], data: _Data, build: Callable[[], nn.Module], plan: Plan):
        self.data, self.plan = data, plan
        self.streams, self.first_row = [t.stream for t in tasks], [int(t.train[0]) for t in tasks]
        device = data.inputs.device
        flat, buffers = [], []
        for task in tasks:
            network = _build(task, build, device)
            norm.attach(network)
            # A tied parameter appears once, so it stays tied. Without a gradient (frozen) it is nothing but a buffer.
            params = dict(network.named_parameters())
            frozen = {name: p.detach() for name, p in params.items() if not p.requires_grad}
            flat.append(torch.cat([p.detach().reshape(-1) for name, p in params.items() if name not in frozen]))
            buffers.append(dict(network.named_buffers()) | frozen)
        self.base = network
        self.shapes = {name: p.shape for name, p in params.items() if name not in frozen}
        self.flat = torch.stack(flat).requires_grad_()
        self.buffers = {name: torch.stack([b[name] for b in buffers]) for name in buffers[0]}
        self.sources = streams.sources(network)
        self.norms = [name for name, m in network.named_modules() if isinstance(m, norm.MaskedBatchNorm)]
        self.adam = StackedAdam(self.flat, weight_decay=plan.weight_decay, decoupled=plan.decoupled)
        # Nothing in here may refer to self: a cycle would keep the memory of finished folds until Python looks for it.
        self.forward = vmap(functools.partial(_stacked_loss, network, plan.loss), randomness="error")
        if plan.compiled:
            self.forward = torch.compile(self.forward)
        self.best, self.epoch = None, 0

    def _params(self) -> dict[str, Tensor]:
        """Views (K, …) of the one tensor; split, whose backward puts all gradients together in one go."""
        parts = self.flat.split([s.numel() for s in self.shapes.values()], dim=1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.unflatten(1, shape) if shape else part[:, 0] for (name, shape), part in named}

    def _pad(self, rows: list) -> tuple[np.ndarray, np.ndarray]:
        """(K, B) rows and which of them are real; padding repeats a training clip of the fold."""
        rows = [np.empty(0, dtype=np.int64) if r is None else r for r in rows]
        real = np.arange(max(len(r) for r in rows)) < np.array([len(r) for r in rows])[:, None]
        padded = np.repeat(np.array(self.first_row)[:, None], real.shape[1], axis=1)
        padded[real] = np.concatenate(rows)
        return padded, real

    def losses(self, rows: list, drawn: list) -> Tensor:
        """(K,) the losses of the next batches; 0 for a fold without one."""
        padded, real = self._pad(rows)
        x, y = self.data.take(padded)
        if self.plan.augment is not None:
            every = np.tile(AS_IT_IS, (*real.shape, 1))
            every[real] = np.concatenate([d for d in drawn if d is not None])
            x = self.plan.augment(x.flatten(0, 1), every.reshape(-1, len(AS_IT_IS))).unflatten(0, real.shape)
        share = torch.from_numpy(real / np.maximum(real.sum(1, keepdims=True), 1)).to(x.device, _real(x))
        self._begin_step(torch.from_numpy(real).to(x.device))
        with _autocast(x.device, self.plan):
            return self.forward(self._params(), self.buffers, x, y, share)

    def _begin_step(self, real: Tensor) -> None:
        streams.begin(self.base)
        words = streams.words(list(self.sources.values()), self.streams, self.adam.steps, self.epoch)
        for name, word in zip(self.sources, torch.from_numpy(words).to(real.device).unbind(1), strict=True):
            self.buffers[f"{name}.key" if name else "key"] = word
        for name in self.norms:
            self.buffers[f"{name}.rows" if name else "rows"] = real

    def update(self, losses: Tensor, rates: list[float], active: list[bool]) -> None:
        (gradient,) = torch.autograd.grad(losses.sum(), self.flat)
        self.adam.step(gradient, rates, active)

    def probabilities(self, rows: list[np.ndarray], size: int) -> list[np.ndarray]:
        """(n, C) float64 each, the networks in evaluation mode."""
        self.base.eval()
        found = [[] for _ in rows]
        with torch.no_grad(), _autocast(self.data.inputs.device, self.plan):
            params = self._params()
            for start in range(0, max(len(r) for r in rows), size):
                part = [r[start : start + size] for r in rows]
                x, _ = self.data.take(self._pad(part)[0])
                call = vmap(lambda p, b, x: functional_call(self.base, (p, b), (x,)), randomness="error")
                out = call(params, self.buffers, x).double().softmax(-1).cpu().numpy()
                for k, r in enumerate(part):
                    found[k].append(out[k, : len(r)])
        self.base.train()
        return [np.concatenate(f) if f else np.empty(0) for f in found]

    def network_of(self, k: int) -> nn.Module:
        """A fold's network by itself; a copy."""
        network = copy.deepcopy(self.base)
        values = {**self._params(), **self.buffers}
        for name, own in [*network.named_parameters(), *network.named_buffers()]:
            own.data = values[name][k].detach().clone()
        return network

    def _state(self) -> dict[str, Tensor]:
        """What a fold's network is: its parameters and what it saves of its buffers."""
        saved = self.base.state_dict()
        return {"": self.flat.detach(), **{n: b for n, b in self.buffers.items() if n in saved}}

    def remember(self, which: list[int]) -> None:
        if self.best is None:
            self.best = {name: value.clone() for name, value in self._state().items()}
        for name, value in self._state().items():
            self.best[name][which] = value[which]

    def recall(self, which: list[int]) -> None:
        for name, value in self._state().items():
            value[which] = self.best[name][which]

    def select(self, which: list[int]) -> None:
        """Go on with these folds; nothing of them changes."""
        kept = torch.tensor(which, device=self.flat.device)
        self.streams, self.first_row = [self.streams[i] for i in which], [self.first_row[i] for i in which]
        self.flat = self.flat.detach()[kept].requires_grad_()
        self.adam.select(self.flat, kept)
        self.buffers = {name: value[kept] for name, value in self.buffers.items()}
        if self.best is not None:
            self.best = {name: value[kept] for name, value in self.best.items()}
