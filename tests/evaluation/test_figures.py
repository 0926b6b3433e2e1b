"""Pictures of a corpus from finished products: which are drawn, of which clips, and that the apex is a position."""

import cv2
import numpy as np
import pandas as pd
import pytest

from mer.errors import MerError
from mer.evaluation import figures, galleries, magnified
from mer.storage.cache import CacheWriter, ClipCache

NAMES = ["happy", "sad"]
LENGTH, SIZE = 6, 60


def table(per_class=3):
    rows = [
        {"id": f"c/s{subject}/{name}", "subject": f"s{subject}", "clip": name, "label": label}
        for label, name in enumerate(NAMES)
        for subject in range(per_class)
    ]
    return pd.DataFrame(rows[::-1])


def write(path, kind, ids, make, ragged=False, params=None, **extras):
    with CacheWriter(path, kind=kind, ragged=ragged, params=params or {}) as file:
        for i, clip_id in enumerate(ids):
            file.append(clip_id, make(i), **{name: value(i) for name, value in extras.items()})
    return ClipCache(path, kind)


@pytest.fixture
def products(tmp_path):
    """Of clip i: every frame t is grey level 10 i + t, the apex stands at position i % LENGTH."""
    ids = sorted(table()["id"])
    rng = np.random.default_rng(0)

    def clip(size):
        return lambda i: (
            np.repeat(10 * i + np.arange(LENGTH), size * size * 3).reshape(LENGTH, size, size, 3).astype(np.uint8)
        )

    def image(i):
        return rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)

    def product(name, *args, **kwargs):
        return write(tmp_path / f"{name}.h5", *args, **kwargs)

    recipe = {"recipe": {"alpha": 10.0}}
    return {
        "flow": product("flow", "flow", ids, lambda i: rng.normal(size=(3, SIZE, SIZE)).astype(np.float32)),
        "frames": product("frames", "frames", ids, clip(SIZE), True, transform=lambda i: np.eye(2, 3)),
        "landmarks": product(
            "landmarks", "landmarks", ids, lambda i: rng.uniform(0, SIZE, (68, 2)).astype(np.float32),
            score=lambda i: np.float64([5, 3, 9, 1, 7, 2][i]),
        ),
        "apex": product("apex", "apex", ids, lambda i: np.int64(i)),
        "dynamic": product("dynamic", "dynamic_image", ids, image),
        "magnified": product("magnified", "frames", ids, clip(SIZE), True, recipe),
        "plain": product("plain", "frames", ids, clip(30), True),
        "apex_frame": product("apex_frame", "apex_frame", ids, image),
        "overdriven": product("overdriven", "apex_frame", ids, image, params=recipe),
    }  # fmt: skip


@pytest.fixture
def rows(monkeypatch):
    """Picture -> the rows that it was drawn of."""
    kept = {}
    for module in (galleries, magnified):
        for name in [n for n in vars(module) if n.endswith(("_gallery", "_sheet", "_means")) or n == "too_much"]:
            draw = getattr(module, name)
            monkeypatch.setattr(
                module,
                name,
                lambda rows, *args, _name=name, _draw=draw: (kept.update({_name: rows}), _draw(rows, *args)),
            )
    return kept


def draw(products, folder, **kwargs):
    figures.draw(
        products, kwargs.pop("table", table()), NAMES, folder, **{"corpus": "c", "clips_per_class": 1} | kwargs
    )
    return {path.name for path in folder.iterdir()}


def test_each_picture_is_of_the_products_that_are_there(products, tmp_path):
    every = {
        "clips.png", "classes.png", "flow.png", "dynamic_images.png", "magnified.png", "too_much.png",
        "worst_crops.png",
    }  # fmt: skip
    assert draw(products, tmp_path / "all") == every
    assert draw({"flow": products["flow"]}, tmp_path / "flow") == {"clips.png", "classes.png"}
    del products["overdriven"], products["dynamic"]
    assert draw(products, tmp_path / "some") == every - {"dynamic_images.png", "magnified.png", "too_much.png"}


def test_learned_magnification_is_drawn_where_there_is_some(products, tmp_path, rows):
    factors = np.linspace(2, 13, 8)
    products["magnet"] = write(
        tmp_path / "magnet.h5", "magnet", products["flow"].ids,
        lambda i: np.repeat(np.arange(8, dtype=np.uint8), SIZE * SIZE * 3).reshape(8, SIZE, SIZE, 3),
        params={"networks": {"magnet": "trained for a test"}}, factors=lambda i: factors,
    )  # fmt: skip
    assert "factors.png" in draw(products, tmp_path / "all")
    assert [image[0, 0, 0] for image in rows["factor_gallery"][0]["images"]] == [0, 1, 3, 4, 6, 7]
    assert rows["factor_gallery"][0]["factors"] == factors[[0, 1, 3, 4, 6, 7]].tolist()
    assert rows["too_much"][-1]["name"] == "network, factor 13"


def test_the_apex_product_is_a_position(products, tmp_path, rows):
    draw(products, tmp_path / "f")
    for row in rows["strip_gallery"]:
        i = products["flow"].ids.index(f"c/{row['name'].split()[1]}/{row['name'].split()[2]}")
        assert row["onset"][0, 0, 0] == 10 * i
        assert row["apex"][0, 0, 0] == row["magnified"][0, 0, 0] == row["plain"][0, 0, 0] == 11 * i


def test_clips_of_a_class_are_the_same_in_any_order_of_the_table(products, tmp_path, rows):
    draw(products, tmp_path / "1", clips_per_class=2)
    names = [row["name"] for row in rows["clip_gallery"]]
    assert names == ["happy\ns0 happy", "happy\ns2 happy", "sad\ns0 sad", "sad\ns2 sad"]
    draw(products, tmp_path / "2", clips_per_class=2, table=table().sample(frac=1, random_state=0))
    assert [row["name"] for row in rows["clip_gallery"]] == names
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes(), path.name


def test_the_worst_crops_are_those_of_the_lowest_score(products, tmp_path, rows):
    draw(products, tmp_path / "f")
    assert [row["name"].split(": ")[1] for row in rows["contact_sheet"]] == [
        "1.00",
        "2.00",
        "3.00",
        "5.00",
        "7.00",
        "9.00",
    ]


def test_class_means_are_means(products, tmp_path, rows):
    draw(products, tmp_path / "f")
    ids = [i for i in products["flow"].ids if i.endswith("sad")]
    mean = np.mean([products["flow"][i] for i in ids], axis=0)
    # float32 flows of size 1 summed in float64 here and in float32 there: 3 times 6e-8.
    assert np.abs(rows["class_means"]["sad"] - mean).max() < 1e-6


def test_a_class_without_a_clip(products, tmp_path):
    rows = table()
    with pytest.raises(MerError, match=r"data/index/c\.csv: every clip of sad was excluded"):
        draw(products, tmp_path / "f", table=rows[rows["label"] == 0])


def test_needs_are_those_of_draw(products):
    """What the plan makes is what is drawn, each of the kind that is read."""
    assert figures.NEEDS.keys() == products.keys()
    assert {name: need.kind for name, need in figures.NEEDS.items()} == {n: p.kind for n, p in products.items()}
    assert not set(figures.OPTIONAL) & figures.NEEDS.keys()


def test_pictures_can_be_read(products, tmp_path):
    draw(products, tmp_path / "f")
    for path in (tmp_path / "f").iterdir():
        picture = cv2.imread(str(path))
        assert picture.std() > 5, path.name  # not one colour
