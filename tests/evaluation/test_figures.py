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

    def small(i):
        return rng.integers(0, 255, (30, 30, 3), dtype=np.uint8)

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
        "apex_frame": product("apex_frame", "apex_frame", ids, small),
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


# ---- macro-expressions ----------------------------------------------------------------------------------------------


def macro(tmp_path, rows, classes, name="ckplus"):
    """A set of grey images, of `rows` (subject, emotion); the n-th is grey level 10 n."""
    table = []
    for n, (subject, emotion) in enumerate(rows):
        path = tmp_path / f"macro{n}.png"
        assert cv2.imwrite(str(path), np.full((40, 40, 3), 10 * n, np.uint8))
        row = {"id": f"{name}/{n}", "corpus": name, "subject": subject, "emotion": emotion, "split": ""}
        table.append(row | {"image": path.as_posix()})
    return figures.Macro(pd.DataFrame(table), name, classes)


def test_a_class_has_a_macro_expression_of_its_emotions_by_their_names(tmp_path):
    rows = [("a", "anger"), ("a", "happiness"), ("b", "happiness"), ("b", "sadness"), ("c", "surprise")]
    own = {"happy": {"happy"}, "sad": {"sad"}, "others": {"others"}}  # as CAS(ME)3 writes them
    found = [macro(tmp_path, rows, own).image_of(label) for label in range(3)]
    assert [row and row["emotion"] for row in found] == ["happiness", "sadness", None]
    three = {name: {name} for name in ("negative", "positive", "surprise")}  # SMIC's
    found = [macro(tmp_path, rows, three).image_of(label)["emotion"] for label in range(3)]
    assert found == ["anger", "happiness", "surprise"]
    # CASME II's negative emotions, of which the set has none: those of Table 2.
    casme2 = {"negative": {"disgust", "repression"}}
    assert macro(tmp_path, rows, casme2).image_of(0)["emotion"] in ("anger", "sadness")
    assert macro(tmp_path, [*rows, ("c", "disgust")], casme2).image_of(0)["emotion"] == "disgust"


def test_macro_expressions_are_of_different_people_where_they_are_known(tmp_path):
    classes = {name: {name} for name in ("anger", "happiness", "surprise")}
    rows = [(subject, emotion) for emotion in classes for subject in "abcdef"]
    assert [macro(tmp_path, rows, classes).image_of(label)["subject"] for label in range(3)] == ["b", "d", "f"]


def test_a_macro_expression_stands_beside_the_apex_before_and_after(products, tmp_path, rows):
    found = macro(tmp_path, [("s9", "happiness")], {"happy": {"happy"}, "sad": {"sad"}})
    assert "macro_and_micro.png" in draw(products, tmp_path / "f", macro=found)
    happy, sad = rows["macro_gallery"]
    i = products["flow"].ids.index(f"c/{happy['name'].split()[1]}/happy")
    assert happy["plain"][0, 0, 0] == 11 * i  # the frame at the apex
    np.testing.assert_array_equal(happy["apex_frame"], products["apex_frame"][products["flow"].ids[i]])
    assert happy["macro"].shape == (40, 40, 3)
    assert happy["said"] == "s9 happiness (whole image: no face was found)"
    assert (sad["macro"], sad["said"]) == (None, "")
    assert "macro_and_micro.png" not in draw(products, tmp_path / "without")
    del products["apex_frame"]
    assert "macro_and_micro.png" not in draw(products, tmp_path / "no_frame", macro=found)


def test_the_face_of_a_macro_expression_is_cropped_as_the_clips_are():
    from skimage import data

    face, said = figures._face_in(data.astronaut())
    assert (face.shape, said) == ((112, 112, 3), "")


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
