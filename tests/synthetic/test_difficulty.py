"""The synthetic corpus is neither trivial nor hopeless: real pipeline, demo size. Slow."""

import numpy as np
import pytest

from mer.clips import read_index
from mer.corpora import select
from mer.evaluation.metrics import score
from mer.loso import run as loso
from mer.storage.cache import ClipCache
from tests.helpers.project import TINY, edit, make_project
from tests.helpers.stages import stage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def products(root, tmp_path_factory):
    folder = make_project(root, tmp_path_factory.mktemp("project"))
    assert TINY["clips"] < 100
    tiny = {"subjects": 8, "clips": 100, "pool_subjects": 0, "pool_images": 1}
    edit(folder, lambda p: p["synthesize"]["runs"].update(synthetic=tiny))
    for name in ("synthesize", "index", "landmarks", "align", "spot", "flow"):
        key = "synthetic" if name in ("synthesize", "index", "landmarks") else "synthetic-box224"
        code, lines = stage(folder, name, key)
        assert code == 0, lines
    table = select(read_index(folder / "data/index/synthetic.csv"), "synthetic", 5)
    return table, ClipCache(folder / "data/cache/synthetic/box224/flow.h5").load(list(table["id"]))


def uf1(table, flow):
    p = loso.run([flow], table, model="linear", classes=5)
    guess = p[[f"p{c}" for c in range(5)]].to_numpy().argmax(1)
    return score(p["label"].to_numpy(), guess, table.attrs["class_names"])["uf1"]


def test_linear_is_between_half_and_almost_right(products):
    assert 0.5 <= uf1(*products) <= 0.95


def test_shuffled_labels_are_at_chance(products):
    table, flow = products
    rng = np.random.default_rng(0)
    values = []
    for _ in range(5):
        shuffled = table.assign(label=rng.permutation(table["label"].to_numpy()))
        shuffled.attrs = table.attrs
        values.append(uf1(shuffled, flow))
    # Five classes: chance is 0.2 at most. One permutation spreads by about 0.05 (100 clips), their mean by 0.02.
    assert np.mean(values) < 0.26
