"""A fictional corpus in each real layout, with a face in it, through index, landmarks, align, spot, flow and join."""

import importlib
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
from mer.params import load
from mer.storage.cache import ClipCache
from stages import spot
from stages._run import Stage
from tests.helpers import mini
from tests.helpers.project import edit, make_project
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
    for stage in ("align", "spot", "flow", "dynamic_image"):
        run(stage, f"{corpus}-box224")
    check(corpus)
    frames, dynamic = (ClipCache(f"data/cache/{corpus}/box224/{kind}.h5", kind) for kind in ("frames", "dynamic_image"))
    assert dynamic.ids == frames.ids
    assert dynamic.shape[1:] == (224, 224, 3)
    assert dynamic.dtype == np.uint8
    for clip_id in dynamic.ids:
        if len(np.unique(frames[clip_id], axis=0)) > 1:
            assert np.ptp(dynamic[clip_id]) == 255


@pytest.mark.parametrize("corpus", ["casme2", "smic"])
def test_a_magnified_chain_is_read_like_a_crop(project, corpus):
    """Flow and dynamic image of magnified frames, and the apex magnified before the crop."""
    project(corpus, [corpus])
    run("index", corpus)
    run("landmarks", corpus)
    for crop in ("box224", "box112"):
        run("align", f"{corpus}-{crop}")
        run("spot", f"{corpus}-{crop}")
    chain = {"corpus": corpus, "crop": "box224", "chain": "box224-msmmt"}
    name = f"{corpus}-box224-msmmt"
    edit(Path(), lambda p: p["flow"]["runs"].update({name: chain | {"product": "flow"}}))
    edit(Path(), lambda p: p["dynamic_image"]["runs"].update({name: chain}))
    run("magnify_eulerian", name, f"{corpus}-box112-dcma-apex")
    run("flow", f"{corpus}-box224", name)
    run("dynamic_image", name)
    plain, magnified = (ClipCache(f"data/cache/{corpus}/{c}/flow.h5", "flow") for c in ("box224", "box224-msmmt"))
    apex = ClipCache(f"data/cache/{corpus}/box112-dcma/apex_frame.h5", "apex_frame")
    assert plain.ids == magnified.ids == apex.ids
    assert apex.shape[1:] == (112, 112, 3)
    moving = [i for i in plain.ids if np.hypot(*plain[i][:2]).mean() > 0.5]
    assert moving
    for clip_id in moving:
        # The portrait jumps by up to 2 px of the crop, where brightness overshoots already: 1.17 was seen.
        assert np.hypot(*magnified[clip_id][:2]).mean() > 1.1 * np.hypot(*plain[clip_id][:2]).mean()


def test_flow_between_consecutive_frames(project):
    project("casme2", ["casme2"])
    run("index", "casme2")
    run("landmarks", "casme2")
    for stage in ("align", "spot", "flow"):
        run(stage, "casme2-box224")
    edit(
        Path(),
        lambda p: p["flow"]["runs"].update(
            {"casme2-box224-flows": {"corpus": "casme2", "crop": "box224", "chain": "box224", "product": "flows"}}
        ),
    )
    run("flow", "casme2-box224-flows")
    frames, flow, flows = (
        ClipCache(f"data/cache/casme2/box224/{kind}.h5", kind) for kind in ("frames", "flow", "flows")
    )
    assert flows.ids == flow.ids == frames.ids
    for clip_id in frames.ids:
        images = frames[clip_id]
        assert flows[clip_id].shape == (len(images) - 1, 3, 224, 224)
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images[:2]]
        np.testing.assert_array_equal(flows[clip_id][0], flow_image(tvl1(*grey)))


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
def test_a_macro_set_goes_through(project, corpus):
    project("casme2", [])
    raw = Path("data/raw") / corpus
    for name, content in MACRO[corpus].items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            (raw / name).write_text(content)
        else:
            image = PORTRAIT if content is None else content(PORTRAIT)
            assert cv2.imwrite(str(raw / name), image[:, :, ::-1])
    edit(Path(), lambda p: p["index"]["runs"].update({corpus: {"reader": corpus, "raw": str(raw), "watch": str(raw)}}))
    edit(Path(), lambda p: p["align"]["runs"].update({f"{corpus}-box112": {"corpus": corpus, "crop": "box112"}}))
    edit(Path(), lambda p: p["landmarks"].update(upsample=2))  # faces of 48 px
    run("index", corpus)
    run("landmarks", corpus)
    run("align", f"{corpus}-box112")
    table = read_index(f"data/index/{corpus}.csv")
    assert len(table) == 2
    other = {"ckplus": "disgust", "rafdb": "sadness", "fer2013": "anger"}[corpus]
    assert set(table["emotion"]) == {"happiness", other}
    frames = ClipCache(f"data/cache/{corpus}/box112/frames.h5", "frames")
    assert frames.ids == sorted(table["id"])
    portraits = np.stack([frames[i][0] for i in frames.ids])
    assert portraits.shape == (2, 112, 112, 3)
    np.testing.assert_array_equal(portraits[0], portraits[1])  # one portrait, one crop


def test_faces_kept_as_text_need_no_crop(project):
    project("casme2", [])
    raw = Path("data/raw/fer2013")
    raw.mkdir(parents=True, exist_ok=True)
    pixels = " ".join(["7"] * 48 * 48)
    (raw / "fer2013.csv").write_text(f"emotion,pixels,Usage\n0,{pixels},Training\n")
    edit(Path(), lambda p: p["index"]["runs"].update(fer2013={"reader": "fer2013", "raw": str(raw), "watch": str(raw)}))
    with pytest.raises(MerError, match=r"fer2013.csv#0: faces that are kept as text are 48 px wide.*leave the set out"):
        run("index", "fer2013")


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


def test_spotted_apexes_follow_the_crop_and_a_clip_of_one_frame_has_no_flow(project):
    """SMIC has no apex: a replaced crop is looked at anew. Flow stops at a single frame, or leaves the clip out."""
    project("smic", ["smic"])
    edit(Path(), lambda p: p["spot"].update(missing="spotted"))
    run("index", "smic")
    run("landmarks", "smic")
    run("align", "smic-box224")
    run("spot", "smic-box224")
    clip = clips(read_index("data/index/smic.csv"))[0]
    frames = ClipCache("data/cache/smic/box224/frames.h5")
    before = spot.fingerprint(clip, frames=frames, missing="spotted")
    edit(Path(), lambda p: p["align"].update(top_margin=0.3))
    run("align", "smic-box224")
    frames = ClipCache("data/cache/smic/box224/frames.h5")
    assert spot.fingerprint(clip, frames=frames, missing="spotted") != before
    assert spot.fingerprint(clip, frames=frames, missing="middle") in before
    table = read_index("data/index/smic.csv")
    table.loc[0, "offset"] = table.loc[0, "apex"] = table.loc[0, "onset"]
    write_index(Path("data/index/smic.csv"), table)
    with pytest.raises(MerError, match=f"{table['id'][0]}: has one frame, flow needs two; .*flow.on_error: exclude"):
        run("flow", "smic-box224")
    edit(Path(), lambda p: p["flow"].update(on_error="exclude"))
    run("flow", "smic-box224")
    assert list(ClipCache("data/cache/smic/box224/flow.h5").excluded) == [table["id"][0]]
