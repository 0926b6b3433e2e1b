"""A fictional corpus in each real layout, with a face in it, through index, landmarks, align, spot, flow and join."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from mer.cache import ClipCache
from mer.clips import read_index
from mer.errors import MerError
from mer.parallel import Engine
from mer.params import load
from stages._run import Stage
from tests.corpora import mini
from tests.project import edit, make_project
from tools.preset import compose

MAKE = {
    "casme2": lambda root: mini.casme2(root, "raw", picture=portrait),
    "samm": lambda root: mini.samm(root, preface=True, picture=lambda s, n: portrait(s, n).mean(2).astype(np.uint8)),
    "smic": lambda root: mini.smic(root, "cropped", picture=portrait),
    "casme3": lambda root: mini.casme3(root, picture=portrait),
}
PORTRAIT = skimage.data.astronaut()[20:260, 100:340]


def portrait(subject: int, number: int) -> np.ndarray:
    """A face that moves by a pixel with every frame."""
    return np.roll(PORTRAIT, number % 3, axis=1)


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    folder = make_project(root, tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(Stage, "engine", Engine())

    def use(preset: str, corpora) -> None:
        (folder / "params.yaml").write_text(compose(preset))
        for corpus in corpora:
            MAKE[corpus](folder / "data/raw" / corpus)
            takes = getattr(mini, corpus.upper())
            counts = {"clips": len(takes), "subjects": len({t.subject for t in takes})}
            edit(folder, lambda p, c=corpus, n=counts: p["index"]["runs"][c].update(watch=f"data/raw/{c}", expect=n))
            # Frames of few pixels' motion and few clips; the look of the picture is what these tests are about.

    return use


def run(stage: str, *keys: str) -> None:
    for key in keys:
        importlib.import_module(f"stages.{stage}").main(Stage(stage, key, load()))


def check(corpus: str) -> None:
    takes = getattr(mini, corpus.upper())
    table = read_index(f"data/index/{corpus}.csv")
    frames = ClipCache(f"data/cache/{corpus}/box224/frames.h5", "frames")
    flow = ClipCache(f"data/cache/{corpus}/box224/flow.h5", "flow")
    assert len(table) == len(takes)
    assert frames.ids == flow.ids == sorted(table["id"])
    assert not frames.excluded
    for row in table.itertuples():
        missing = len(row.absent.split())
        assert frames[row.id].shape == (row.offset - row.onset + 1 - missing, 224, 224, 3)
        assert flow[row.id].shape == (3, 224, 224)


@pytest.mark.parametrize("corpus", MAKE)
def test_a_corpus_goes_through(project, corpus):
    project(corpus, [corpus])
    run("index", corpus)
    run("landmarks", corpus)
    for stage in ("align", "spot", "flow"):
        run(stage, f"{corpus}-box224")
    check(corpus)


def test_the_composite_goes_through(project):
    corpora = ["casme2", "samm", "smic"]
    project("composite", corpora)
    for corpus in corpora:
        run("index", corpus)
        run("landmarks", corpus)
        for stage in ("align", "spot", "flow"):
            run(stage, f"{corpus}-box224")
    with pytest.raises(MerError, match=r"has \d+ clips in 3 classes, join.runs.composite-box224.expect.clips says 442"):
        run("join", "composite-box224")
    edit(Path(), lambda p: p["join"]["runs"]["composite-box224"].update(expect={}))
    run("join", "composite-box224")
    table = read_index("data/index/composite.csv")
    flow = ClipCache("data/cache/composite/box224/flow.h5", "flow")
    assert sorted(table["corpus"].unique()) == corpora
    assert len(table) == sum(len(getattr(mini, c.upper())) for c in corpora)
    assert flow.ids == sorted(table["id"])
    part = ClipCache("data/cache/samm/box224/flow.h5", "flow")
    np.testing.assert_array_equal(flow[part.ids[0]], part[part.ids[0]])
