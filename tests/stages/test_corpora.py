"""A fictional corpus in each real layout, with a face in it, from index to flow; and composites of them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from mer.clips import clips, read_index, write_index
from mer.errors import MerError
from mer.motion.strain import flow_image
from mer.motion.tvl1 import tvl1
from mer.parallel import Engine
from mer.plan_file import stages_of
from mer.products import dynamic_image, eulerian, flow, flows, frames
from mer.storage.cache import ClipCache
from stages import spot
from stages._run import Stage
from tests.helpers import mini
from tests.helpers.declared import reading
from tests.helpers.in_process import run
from tests.helpers.project import edit, make_plan, make_project
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

    def use(corpus: str, *parts: str) -> None:
        """A project with the baselines of a corpus, which is one line of `corpora`; parts: of a composite."""
        (folder / "params.yaml").write_text(compose("baselines", corpus))
        for name in parts or [corpus]:
            MAKE[name](folder / "data/raw" / name)
            takes = getattr(mini, name.upper())
            counts = {"clips": len(takes), "subjects": len({t.subject for t in takes})}
            entry = {"watch": f"data/raw/{name}", "expect": counts}
            edit(folder, lambda p, n=name, e=entry: p["corpora"][n].update(e), planned=False)
        make_plan(folder)

    return use


def check(corpus: str) -> None:
    takes = getattr(mini, corpus.upper())
    table = read_index(f"data/index/{corpus}.csv")
    cropped = ClipCache(f"data/cache/{corpus}/box224/frames.h5", "frames")
    moved = ClipCache(f"data/cache/{corpus}/box224/flow.h5", "flow")
    assert len(table) == len(takes)
    assert cropped.ids == moved.ids == sorted(table["id"])
    assert not cropped.excluded
    for row in table.itertuples():
        missing = len(row.absent.split())
        assert cropped[row.id].shape == (row.offset - row.onset + 1 - missing, 224, 224, 3)
        assert moved[row.id].shape == (3, 224, 224)


# One in the fast tests: what differs between corpora is their reader, which has tests of its own.
@pytest.mark.parametrize(
    "corpus", [name if name == "casme2" else pytest.param(name, marks=pytest.mark.slow) for name in MAKE]
)
def test_a_corpus_goes_through(project, corpus):
    project(corpus)
    run("index", corpus)
    run("landmarks", corpus)
    for stage in ("align", "spot", "flow", "dynamic_image"):
        run(stage, f"{corpus}-box224")
    check(corpus)
    cropped, dynamic = (
        ClipCache(f"data/cache/{corpus}/box224/{kind}.h5", kind) for kind in ("frames", "dynamic_image")
    )
    assert dynamic.ids == cropped.ids
    assert dynamic.shape[1:] == (224, 224, 3)
    assert dynamic.dtype == np.uint8
    for clip_id in dynamic.ids:
        if len(np.unique(cropped[clip_id], axis=0)) > 1:
            assert np.ptp(dynamic[clip_id]) == 255


@pytest.mark.parametrize("corpus", ["casme2", "smic"])
def test_a_magnified_chain_is_read_like_a_crop(project, monkeypatch, corpus):
    """Flow and dynamic image of magnified frames, and the apex magnified before the crop."""
    clip = eulerian(frames("box224"), "msmmt")
    reading(monkeypatch, ststnet=(flow(clip), dynamic_image(clip)))
    project(corpus)
    run("index", corpus)
    run("landmarks", corpus)
    for crop in ("box224", "box112"):
        run("align", f"{corpus}-{crop}")
        run("spot", f"{corpus}-{crop}")
    name = f"{corpus}-box224-msmmt"
    run("magnify_eulerian", name, f"{corpus}-dcma-box112-apex")
    run("flow", f"{corpus}-box224", name)
    run("dynamic_image", name)
    plain, magnified = (ClipCache(f"data/cache/{corpus}/{c}/flow.h5", "flow") for c in ("box224", "box224-msmmt"))
    apex = ClipCache(f"data/cache/{corpus}/dcma-box112/apex_frame.h5", "apex_frame")
    picture = ClipCache(f"data/cache/{corpus}/box224-msmmt/dynamic_image.h5", "dynamic_image")
    assert plain.ids == magnified.ids == apex.ids == picture.ids
    assert apex.shape[1:] == (112, 112, 3)
    assert picture.shape[1:] == (224, 224, 3)
    moving = [i for i in plain.ids if np.hypot(*plain[i][:2]).mean() > 0.5]
    assert moving
    for clip_id in moving:
        # The portrait jumps by up to 2 px of the crop, where brightness overshoots already: 1.17 was seen.
        assert np.hypot(*magnified[clip_id][:2]).mean() > 1.1 * np.hypot(*plain[clip_id][:2]).mean()


def test_flow_between_consecutive_frames(project, monkeypatch):
    reading(monkeypatch, ststnet=(flows(frames("box224")),))
    project("casme2")
    run("index", "casme2")
    run("landmarks", "casme2")
    for stage in ("align", "spot", "flow"):
        run(stage, "casme2-box224")
    run("flow", "casme2-box224-flows")
    clips, apex_flow, between = (
        ClipCache(f"data/cache/casme2/box224/{kind}.h5", kind) for kind in ("frames", "flow", "flows")
    )
    assert between.ids == apex_flow.ids == clips.ids
    for clip_id in clips.ids:
        images = clips[clip_id]
        assert between[clip_id].shape == (len(images) - 1, 3, 224, 224)
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images[:2]]
        np.testing.assert_array_equal(between[clip_id][0], flow_image(tvl1(*grey)))


def large(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (100, 100), interpolation=cv2.INTER_AREA)


def small(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image[60:160, 60:170], (48, 48), interpolation=cv2.INTER_AREA)


# Set -> what lies in it: path -> what becomes of the portrait.
MACRO = {
    "ckplus": {
        "cohn-kanade-images/S005/001/S005_001_00000001.png": None,
        "cohn-kanade-images/S005/001/S005_001_00000002.png": None,
        "Emotion/S005/001/S005_001_00000002_emotion.txt": "   3.0000000e+00\n",
        "cohn-kanade-images/S010/004/S010_004_00000001.png": None,
        "Emotion/S010/004/S010_004_00000001_emotion.txt": "   5.0000000e+00\n",
    },
    "rafdb": {
        "basic/EmoLabel/list_patition_label.txt": "train_00001.jpg 5\ntest_0001.jpg 4\n",
        "basic/Image/aligned/train_00001_aligned.jpg": large,
        "basic/Image/aligned/test_0001_aligned.jpg": large,
    },
    "fer2013": {"train/angry/Training_3908.jpg": small, "test/happy/PrivateTest_95094.jpg": small},
}


@pytest.mark.parametrize("corpus", MACRO)
def test_a_macro_set_goes_through(project, monkeypatch, corpus):
    """It stands in `corpora` like any other; its clips have one frame."""
    reading(monkeypatch, linear=(frames("box112"),))
    project("casme2")
    raw = Path("data/raw") / corpus
    for name, content in MACRO[corpus].items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            (raw / name).write_text(content)
        else:
            image = PORTRAIT if content is None else content(PORTRAIT)
            assert cv2.imwrite(str(raw / name), image[:, :, ::-1])
    edit(Path(), lambda p: p["landmarks"].update(upsample=2), planned=False)  # faces of 48 px
    edit(Path(), lambda p: p["corpora"].update({corpus: {"classes": 7, "watch": str(raw)}}), planned=False)
    edit(Path(), lambda p: p["experiments"].update(macro={"corpus": corpus, "model": "linear"}))
    assert corpus not in stages_of()["figures"]
    run("index", corpus)
    run("landmarks", corpus)
    run("align", f"{corpus}-box112")
    table = read_index(f"data/index/{corpus}.csv")
    assert len(table) == 2
    other = {"ckplus": "disgust", "rafdb": "sadness", "fer2013": "anger"}[corpus]
    assert set(table["emotion"]) == {"happiness", other}
    crops = ClipCache(f"data/cache/{corpus}/box112/frames.h5", "frames")
    assert crops.ids == sorted(table["id"])
    portraits = np.stack([crops[i][0] for i in crops.ids])
    assert portraits.shape == (2, 112, 112, 3)
    np.testing.assert_array_equal(portraits[0], portraits[1])  # one portrait, one crop


def test_faces_kept_as_text_need_no_crop(project):
    project("casme2")
    raw = Path("data/raw/fer2013")
    raw.mkdir(parents=True, exist_ok=True)
    pixels = " ".join(["7"] * 48 * 48)
    (raw / "fer2013.csv").write_text(f"emotion,pixels,Usage\n0,{pixels},Training\n")
    edit(Path(), lambda p: p["corpora"].update(fer2013={"classes": 7, "watch": str(raw)}))
    with pytest.raises(MerError, match=r"fer2013.csv#0: faces that are kept as text are 48 px wide.*leave the set out"):
        run("index", "fer2013")


@pytest.mark.slow
def test_two_chains_of_a_composite_go_through(project, monkeypatch):
    """Each model's product is joined by itself; the index is made once."""
    corpora = ["casme2", "samm", "smic"]
    clip = eulerian(frames("box224"), "msmmt")
    reading(monkeypatch, ststnet=(dynamic_image(clip),))
    project("composite", *corpora)
    plan = stages_of()
    assert list(plan["compose"]) == ["composite"]
    assert list(plan["join"]) == ["composite-box224-flow", "composite-box224-msmmt-dynamic_image"]
    for corpus in corpora:
        run("index", corpus)
        run("landmarks", corpus)
        for stage in ("align", "spot", "flow"):
            run(stage, f"{corpus}-box224")
        run("magnify_eulerian", f"{corpus}-box224-msmmt")
        run("dynamic_image", f"{corpus}-box224-msmmt")
    with pytest.raises(MerError, match=r"has \d+ clips, corpora.composite.expect.clips says 442") as error:
        run("compose", "composite")
    assert "data/index/composite.csv, 3 classes" in str(error.value)
    edit(Path(), lambda p: p["corpora"]["composite"].update(expect={}))
    run("compose", "composite")
    run("join", *plan["join"])
    table = read_index("data/index/composite.csv")
    assert sorted(table["corpus"].unique()) == corpora
    assert len(table) == sum(len(getattr(mini, c.upper())) for c in corpora)
    for chain, kind in (("box224", "flow"), ("box224-msmmt", "dynamic_image")):
        joined = ClipCache(f"data/cache/composite/{chain}/{kind}.h5", kind)
        assert joined.ids == sorted(table["id"])
        for corpus in corpora:
            part = ClipCache(f"data/cache/{corpus}/{chain}/{kind}.h5", kind)
            np.testing.assert_array_equal(joined[part.ids[0]], part[part.ids[0]])


def test_spotted_apexes_follow_the_crop_and_a_clip_of_one_frame_has_no_flow(project):
    """SMIC has no apex: a replaced crop is looked at anew. Flow stops at a single frame, or leaves the clip out."""
    project("smic")
    edit(Path(), lambda p: p["spot"].update(missing="spotted"))
    run("index", "smic")
    run("landmarks", "smic")
    run("align", "smic-box224")
    run("spot", "smic-box224")
    clip = clips(read_index("data/index/smic.csv"))[0]
    crop = ClipCache("data/cache/smic/box224/frames.h5")
    before = spot.fingerprint(clip, frames=crop, missing="spotted")
    edit(Path(), lambda p: p["align"].update(top_margin=0.3))
    run("align", "smic-box224")
    crop = ClipCache("data/cache/smic/box224/frames.h5")
    assert spot.fingerprint(clip, frames=crop, missing="spotted") != before
    assert spot.fingerprint(clip, frames=crop, missing="middle") in before
    table = read_index("data/index/smic.csv")
    table.loc[0, "offset"] = table.loc[0, "apex"] = table.loc[0, "onset"]
    write_index(Path("data/index/smic.csv"), table)
    with pytest.raises(MerError, match=f"{table['id'][0]}: has one frame, flow needs two; .*flow.on_error: exclude"):
        run("flow", "smic-box224")
    edit(Path(), lambda p: p["flow"].update(on_error="exclude"))
    run("flow", "smic-box224")
    assert list(ClipCache("data/cache/smic/box224/flow.h5").excluded) == [table["id"][0]]
