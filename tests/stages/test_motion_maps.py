"""Stage motion_maps: where a model finds two frames to differ, from made-up predictions and products."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from mer.evaluation import heatmaps, motion_maps
from mer.evaluation.predictions import write_predictions
from mer.storage.cache import CacheWriter
from stages.motion_maps import main
from tests.helpers.refusals import refused

CLASSES = ["negative", "positive", "surprise"]
IDS = [f"c/s{s}/{label}{i}" for s in range(4) for label in range(3) for i in range(2)]
LABELS = np.array([int(i[-2]) for i in IDS])
PLANTED, EVEN, EMPTY = IDS[:3]
SIDE = 5  # places; 4 px of the crop each
# Of the true motion, which fills the second place of the third column and half of its left neighbour.
FRACTION = np.zeros((SIDE, SIDE))
FRACTION[1, 1:3] = 0.5, 1


def heat_of(clip_id) -> np.ndarray:
    if clip_id == PLANTED:
        return (fraction_of(clip_id) == 1).astype(np.float32)
    if clip_id in (EVEN, EMPTY):
        return np.full((SIDE, SIDE), float(clip_id == EVEN), np.float32)
    return np.random.default_rng(IDS.index(clip_id)).uniform(size=(SIDE, SIDE)).astype(np.float32)


def fraction_of(clip_id) -> np.ndarray:
    """Every second clip moves elsewhere."""
    return FRACTION.T if IDS.index(clip_id) % 2 else FRACTION


def truth_of(clip_id) -> np.ndarray:
    """Flow (2, 40, 40) of a frame of twice the size: 8 rows and 12 columns move, the head by (0.5, -0.25)."""
    flow = np.zeros((2, 40, 40), np.float16)
    flow[1, 8:16, 12:24] = 2
    flow = flow.transpose(0, 2, 1) if IDS.index(clip_id) % 2 else flow
    return flow + np.array([0.5, -0.25], np.float16)[:, None, None]


def product_of(kind, clip_id) -> np.ndarray:
    rng = np.random.default_rng([len(kind), IDS.index(clip_id)])
    if kind == "flow":
        return rng.normal(size=(3, 20, 20)).astype(np.float32)
    shape = {"pair": (2, 20, 20, 3), "magnet": (2, 10, 10, 3), "frames": (1, 20, 20, 3)}[kind]
    return rng.integers(0, 256, shape, dtype=np.uint8)


def write_product(path, kind, ids=IDS) -> str:
    beside = {"frames": {"transform": np.array([[0.5, 0, -0.25], [0, 0.5, -0.25]])}, "magnet": {"factors": [2.0, 10.0]}}
    with CacheWriter(path, kind=kind, ragged=kind == "frames", params={}) as file:
        for i in ids:
            if kind == "truth":
                file.append(i.partition("/")[2], truth_of(i))
            else:
                file.append(i, product_of(kind, i), **beside.get(kind, {}))
    return str(path)


def write(folder, *, explains=True, parts=("diagonal", "scores"), form=(20, 20, 3)) -> None:
    """Predictions of an experiment: class 0 for every clip."""
    p = np.tile([0.6, 0.2, 0.2], (len(IDS), 1))
    rows = pd.DataFrame({
        "seed": 3, "selection": "last_epoch", "epoch": 1, "id": IDS, "corpus": "c",
        "subject": [i.split("/")[1] for i in IDS], "fold": "f", "label": LABELS,
    }).assign(**{f"p{c}": p[:, c] for c in range(3)})  # fmt: skip
    found = {
        i: {
            "data": heat_of(i), "picture": np.zeros(form, np.uint8), "logits": np.zeros(3),
            **{part: 0.5 + heat_of(i) for part in parts},
        }
        for i in IDS
    }  # fmt: skip
    run = {"model": "one", "class_names": CLASSES, "protocol": {"seeds": [3], "leaky": False}}
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "c-one", rows, rows.iloc[:0], run, found if explains else {})


@pytest.fixture
def products(tmp_path, monkeypatch) -> dict[str, str]:
    """A project with the predictions of an experiment, and what its clips are compared with."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data/predictions")
    return {
        kind: write_product(tmp_path / f"{kind}.h5", kind) for kind in ("pair", "flow", "magnet", "frames", "truth")
    }


def compare(products, **changes) -> dict:
    given = {"maps": "what differs", "experiment": "c-one", "number": 4, **products} | changes
    main(SimpleNamespace(key="c-one"), **{name: value for name, value in given.items() if value is not None})
    with open("metrics/motion_maps/c-one.json") as file:
        return json.load(file, parse_constant=pytest.fail)


def without(products, *kinds) -> dict:
    return {kind: path for kind, path in products.items() if kind not in kinds}


@pytest.fixture
def figures(monkeypatch):
    kept, save = [], motion_maps.save
    monkeypatch.setattr(motion_maps, "save", lambda figure, path: (kept.append(figure), save(figure, path)))
    return kept


def blocks(image) -> np.ndarray:
    """Means over the places, a loop."""
    n = len(image) // SIDE
    return np.array([
        [np.mean(image[n * r : n * r + n, n * c : n * c + n]) for c in range(SIDE)] for r in range(SIDE)
    ])  # fmt: skip


def others(clip_id) -> dict[str, np.ndarray]:
    """What the map of a clip is compared with, from the equations."""
    onset, apex = product_of("pair", clip_id).astype(int)
    u, v, _ = product_of("flow", clip_id).astype(float)
    small = cv2.resize(product_of("pair", clip_id)[0], (10, 10), interpolation=cv2.INTER_AREA).astype(int)
    return {
        "difference": blocks(np.abs(apex - onset).mean(-1)),
        "flow": blocks(np.sqrt(u**2 + v**2)),
        "magnified": blocks(np.abs(product_of("magnet", clip_id)[-1] - small).mean(-1)),
    }


def share(heat, fraction) -> float | None:
    inside = total = 0.0
    for row in range(SIDE):
        for column in range(SIDE):
            inside += heat[row, column] * fraction[row, column]
            total += heat[row, column]
    return inside / total if total else None


def test_shares_and_correlations_are_those_of_a_slow_loop(products):
    found = compare(products)
    assert (found["experiment"], found["maps"], found["class_names"]) == ("c-one", "what differs", CLASSES)
    assert (found["n_clips"], found["region"]) == (24, 0.25)
    shares = {"chance": [], "difference": [], "flow": [], "magnified": [], "diagonal": [], "scores": [], "map": []}
    ranks = {"difference": [], "flow": [], "magnified": []}
    for i in IDS:
        heat, fraction = heat_of(i).astype(float), fraction_of(i)
        maps = {**others(i), "diagonal": 0.5 + heat, "scores": 0.5 + heat, "map": heat}
        shares["chance"].append(fraction.mean())
        for name, values in maps.items():
            shares[name].append(share(values, fraction))
        for name in ranks:
            # Equal means have one rank, in whatever order they were summed.
            other = others(i)[name].astype(np.float32)
            ranks[name].append(None if np.ptp(heat) == 0 else spearmanr(heat.ravel(), other.ravel()).statistic)
    assert list(found["shares"]) == list(shares)
    for part, expected in (("shares", shares), ("rank_correlation", ranks)):
        for name, values in expected.items():
            defined = [(v, label) for v, label in zip(values, LABELS, strict=True) if v is not None]
            own = found[part][name]
            assert own["mean"] == pytest.approx(np.mean([v for v, _ in defined]), rel=1e-6), name  # maps are float32
            of_classes = [np.mean([v for v, label in defined if label == c]) for c in range(3)]
            assert own["by_class"] == pytest.approx(of_classes, rel=1e-6), name
    assert "interval95" not in found["shares"]["chance"]
    low, high = found["shares"]["map"]["interval95"]
    assert low < found["shares"]["map"]["mean"] < high
    above = [m is not None and m > f for m, f in zip(shares["map"], shares["flow"], strict=True)]
    assert found["clips_above_flow"] == sum(above)


def test_a_map_of_the_truth_an_even_map_and_one_without_heat(products):
    rows = compare(products, number=None, clips=[PLANTED, EVEN, EMPTY])["clips"]
    assert [row["id"] for row in rows] == [PLANTED, EVEN, EMPTY]
    assert [row["shares"]["map"] for row in rows] == [1, pytest.approx(1.5 / 25), None]
    assert rows[1]["shares"]["chance"] == pytest.approx(1.5 / 25)
    assert {k: rows[2][k] for k in ("class", "predicted", "probability", "right")} == {
        "class": "positive", "predicted": "negative", "probability": 0.6, "right": False
    }  # fmt: skip


def test_what_is_drawn_of_each_clip(products, figures):
    rows = compare(products, number=None, clips=[PLANTED, EMPTY])["clips"]
    (figure,) = figures
    assert cv2.imread("metrics/motion_maps/c-one.png").std() > 10
    axes = np.array([a for a in figure.axes if a.get_images() and a.get_label() != "<colorbar>"]).reshape(2, 10)
    assert [a.get_title().split("\n")[0] for a in axes[0]] == [
        "onset", "apex", "frame difference", "TV-L1 flow", "apex, motion x 10", "its difference", "diagonal", "scores",
        "what differs", "true motion",
    ]  # fmt: skip
    onset, apex = product_of("pair", PLANTED)
    for a, image in zip(axes[0][[0, 1, 4]], (onset, apex, product_of("magnet", PLANTED)[-1]), strict=True):
        np.testing.assert_array_equal(a.get_images()[0].get_array(), image)
    flow = others(PLANTED)["flow"]
    np.testing.assert_allclose(axes[0][3].get_images()[1].get_array(), heatmaps.enlarged(flow, 20, 20), rtol=1e-5)
    assert axes[0][3].get_xlabel() == f"0 to {flow.max():.2g} px\n{rows[0]['shares']['flow']:.2f} inside"
    assert axes[0][6].get_xlabel().startswith("0.5 to 1.5\n")
    assert axes[0][8].get_xlabel() == "negative 0.60, right\n1.00 inside"
    assert axes[1][8].get_xlabel() == "negative 0.60, wrong\nno heat"
    assert axes[0][9].get_xlabel() == "0 to 1 px\n0.06 of the picture"
    (levels,) = {tuple(c.levels) for c in axes[0][9].collections}
    assert levels == (0.25,)  # of the largest, 2 px of a frame of twice the crop's size


def test_a_corpus_without_truth_and_a_model_without_more_maps(tmp_path, products, figures):
    write(tmp_path / "data/predictions", parts=())
    found = compare(without(products, "frames", "truth", "magnet"))
    assert not {"shares", "region", "clips_above_flow"} & set(found)
    assert set(found["rank_correlation"]) == {"difference", "flow"}
    assert all("shares" not in row for row in found["clips"])
    titles = [a.get_title() for a in figures[0].axes if a.get_title()]
    assert titles == ["onset", "apex", "frame difference", "TV-L1 flow", "what differs"]
    assert not any("nside" in t.get_text() for t in figures[0].texts)


def test_the_clips_are_those_of_all_classes_and_equal_runs_are_equal_bytes(products):
    subjects = [f"c/{i.split('/')[1]}" for i in IDS]
    found = compare(products, number=5)
    assert [row["id"] for row in found["clips"]] == heatmaps.spread(IDS, LABELS, subjects, 5)
    files = [Path("metrics/motion_maps", f"c-one.{end}") for end in ("png", "json")]
    first = [path.read_bytes() for path in files]
    compare(products, number=5)
    assert [path.read_bytes() for path in files] == first


# ---- what it refuses ------------------------------------------------------------------------------------------------


def test_a_clip_that_was_not_predicted_names_the_nearest(products):
    refused("params.yaml: motion_maps.c-one.clips is 'c/s3/2', which was not predicted; did you mean 'c/s3/2",
            compare, products, number=None, clips=[PLANTED, "c/s3/2"])  # fmt: skip


@pytest.mark.parametrize("kind", ["pair", "flow", "magnet", "frames", "truth"])
def test_a_product_that_lacks_a_clip_is_named(tmp_path, products, kind):
    write_product(tmp_path / f"{kind}.h5", kind, IDS[:-1])
    name = IDS[-1].removeprefix("c/") if kind == "truth" else IDS[-1]
    refused(rf"{kind}\.h5: has no clip '{name}' among its 23; run dvc repro", compare, products)


def test_a_product_that_is_missing_or_another_is_named(products):
    refused("none.h5: there is no such product; run dvc repro", compare, products, flow="none.h5")
    refused("pair.h5: holds 'pair', needed is 'flow'; run dvc repro", compare, products, flow=products["pair"])


def test_an_experiment_that_explains_nothing_and_pictures_of_another_form_are_refused(tmp_path, products):
    write(tmp_path / "data/predictions", explains=False)
    refused("data/predictions/c-one: model one has explained nothing; remove motion_maps.c-one", compare, products)
    write(tmp_path / "data/predictions", form=(3, 20, 20))
    refused(r"explain.h5: pictures are \(3, 20, 20\), needed is \(H, W, 3\); train again", compare, products)
