"""Line 3's clips and folds: the MEGC 2019 flow release, or noise of its size."""

import importlib.util
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.gpu._run import Session
from mer.errors import MerError
from mer.loso.task import Task
from mer.models import ststnet
from mer.storage.files import digest


@dataclass(frozen=True)
class Clips:
    """In the order of their ids, as mer.loso.run.run has them. inputs (N, 3, 28, 28), labels (N,)."""

    inputs: torch.Tensor
    labels: torch.Tensor
    ids: list[str]
    corpora: list[str]
    subjects: list[str]

    @property
    def names(self) -> list[str]:
        """Of the folds, in order."""
        return sorted(set(self.who))

    @property
    def who(self) -> list[str]:
        return [f"{c}/{s}" for c, s in zip(self.corpora, self.subjects, strict=True)]

    def tasks(self, names: list[str], seed: int) -> list[Task]:
        who = np.array(self.who)
        # The streams of mer.loso.folds, which needs pandas.
        return [
            Task(name, int(digest(seed, name)[:15], 16), np.flatnonzero(who != name), np.flatnonzero(who == name))
            for name in names
        ]


def load(session: Session) -> Clips:
    if session.flow is not None:
        inputs, labels, ids, corpora, subjects = _release(session)
    else:
        count, folds = session.pick((442, 68), (12, 3))
        rng = np.random.default_rng(0)
        inputs = rng.integers(0, 256, (count, 3, 28, 28)).astype(np.float32)
        labels = rng.integers(0, 3, count)
        subjects = [f"s{i:02d}" for i in rng.permutation(np.arange(count) % folds)]
        corpora, ids = ["noise"] * count, [f"noise/{s}/{i:03d}" for i, s in enumerate(subjects)]
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    to = session.device
    return Clips(
        torch.from_numpy(inputs[order]).to(to), torch.from_numpy(np.asarray(labels)[order]).long().to(to),
        *([x[i] for i in order] for x in (ids, corpora, subjects)),
    )  # fmt: skip


def _release(session: Session):
    if importlib.util.find_spec("pandas") is None:
        raise MerError("--flow reads the release with pandas, which is not here; leave it out")
    from mer.corpora import megc2019_flow, select

    table = select(megc2019_flow.read_labels(session.flow), "megc2019_flow", 3)
    images = np.stack([megc2019_flow.read_image(path) for path in table["flow"]])
    columns = [table[name].tolist() for name in ("id", "corpus", "subject")]
    return ststnet.prepare(images), table["label"].to_numpy(), *columns
