"""Stage frames: the pixels of its shards, what is computed anew, and what it refuses.

The stage's `main` runs in this process; frames are a few pixels large.
"""

import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import stages.frames
from mer.clips import write_index
from mer.corpora.casme3 import read_corpus
from mer.errors import MerError
from mer.parallel import SERIAL
from mer.storage.cache import ClipCache
from mer.storage.shards import Shards
from mer.synthetic import FPS
from mer.synthetic.pool import write_pool
from stages._run import parsed
from stages.frames import main
from tests.helpers import mini

pytestmark = pytest.mark.usefixtures("one_thread")

INDEX, OUT = "data/index/casme3.csv", "data/frames/casme3"


def picture(subject: int, number: int) -> np.ndarray:
    """(48, 96, 3), smooth, so that JPEG keeps it; another one for each frame."""
    rng = np.random.default_rng([subject, number])
    return cv2.GaussianBlur(rng.integers(0, 256, (48, 96, 3), dtype=np.uint8), (0, 0), 3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A project's folder with CAS(ME)3's mini-corpus in raw/."""
    folder = tmp_path_factory.mktemp("frames")
    mini.casme3(folder / "raw", picture=picture)
    return folder


@pytest.fixture
def project(corpus, tmp_path, monkeypatch):
    """A copy of it with its index, in which the stage runs."""
    shutil.copytree(corpus / "raw", tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    write_index(Path(INDEX), read_corpus("raw").assign(digest=""))
    return tmp_path


@pytest.fixture
def computed(monkeypatch):
    """The ids of segments that are computed."""
    ids, compute = [], stages.frames.compute
    monkeypatch.setattr(stages.frames, "compute", lambda one, **how: ids.append(one.id) or compute(one, **how))
    return ids


def make(*, code="code", engine=SERIAL, **arguments) -> Shards:
    stage = SimpleNamespace(code=lambda: code, spool=Path("spool"), engine=engine)
    main(stage, **({"size": 16, "out": OUT, "corpus": "casme3", "index": INDEX} | arguments))
    return Shards(arguments.get("out", OUT))


def video(subject: int, name: str) -> Path:
    return next(Path("raw").rglob(f"spNO.{subject}/{name}/color"))


def resized(path: Path, size: int) -> np.ndarray:
    """A frame smoothed for its smaller size and resized, both by OpenCV's own functions, RGB."""
    image = cv2.imread(str(path))[..., ::-1]
    sigmas = [0.5 * np.sqrt((length / size) ** 2 - 1) for length in image.shape[1::-1]]
    smooth = cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), sigmas[0], sigmaY=sigmas[1])
    return cv2.resize(smooth, (size, size), interpolation=cv2.INTER_CUBIC)


def test_shards_hold_every_frame_of_the_recordings_resized(project):
    shards = make()
    assert sorted(path.name for path in Path(OUT).iterdir()) == ["spNO.1.h5", "spNO.14.h5", "spNO.160.h5"]
    assert shards.subjects == ["casme3/spNO.1", "casme3/spNO.14", "casme3/spNO.160"]
    product = ClipCache(f"{OUT}/spNO.1.h5", "recording_frames")
    assert product.ids == ["casme3/spNO.1/spNO.1/a/color/3"]  # two clips, 5..10 and 12..16
    assert product.extra("fps", product.ids[0]) == 30.0
    assert product.params == {"size": 16}
    frames = product[product.ids[0]]
    assert frames.shape == (16, 16, 16, 3)
    for t, frame in enumerate(frames):
        wanted = resized(video(1, "a") / f"{t + 3}.jpg", 16)
        # Both round: OpenCV's resize and warp differ by a grey level at most.
        assert np.abs(frame.astype(int) - wanted).max() <= 1
    assert np.abs(frames[0].astype(int) - frames[1]).max() > 10  # that of two frames is more


def test_a_replaced_frame_computes_its_segment_alone(project, computed):
    (video(14, "b") / "2.jpg").unlink()  # a gap: b is 0..1 and 3..7 now
    make()
    before = {path.name: path.read_bytes() for path in Path(OUT).iterdir()}
    assert len(computed) == 5
    computed.clear()
    make()
    assert computed == []
    assert {path.name: path.read_bytes() for path in Path(OUT).iterdir()} == before
    mini.draw(video(14, "b") / "5.jpg", picture(99, 5))
    make()
    assert computed == ["casme3/spNO.14/spNO.14/b/color/3"]
    changed = {name for name, data in before.items() if (Path(OUT) / name).read_bytes() != data}
    assert changed == {"spNO.14.h5"}
    computed.clear()
    make(code="another")
    assert len(computed) == 5


def test_a_subject_that_has_gone_leaves_no_shard(project):
    make()
    table = read_corpus("raw").assign(digest="")
    write_index(Path(INDEX), table[table["subject"] != "spNO.14"])
    assert make().subjects == ["casme3/spNO.1", "casme3/spNO.160"]


def test_frames_of_two_sizes_in_a_recording_are_refused_with_the_file(project):
    frame = video(160, "c") / "31.jpg"
    mini.draw(frame, picture(1, 1)[:40])
    with pytest.raises(MerError, match=r"c/color/31.jpg: is 96x40, the clip's first frame 96x48") as error:
        make()
    assert "\n" not in str(error.value)
    # Also where the others lie in another segment.
    frame.unlink()
    for number in range(32, 39):
        mini.draw(frame.with_name(f"{number}.jpg"), picture(1, number)[:40])
    with pytest.raises(MerError, match=r"c/color/32.jpg: is 96x40"):
        make()


def test_a_damaged_frame_is_refused_with_the_file(project):
    frame = video(1, "a") / "17.jpg"  # behind the last offset
    frame.write_bytes(frame.read_bytes()[:300])
    with pytest.raises(MerError, match=r"a/color/17.jpg: is a damaged JPEG"):
        make()


def test_clips_of_a_pool(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pool(Path("pool"), subjects={101: 0, 102: 0}, seed=0, macro=0, clips=2, pairs=0, length=(3, 5))
    shards = make(corpus=None, index=None, pool="pool/clips")
    assert shards.subjects == ["pool/sub101", "pool/sub102"]
    assert len(shards.lengths) == 4
    assert set(shards.fps.tolist()) == {FPS}
    assert shards.lengths.sum() == len(list(Path("pool/clips").rglob("img*.jpg")))
    wanted = resized(Path("pool/clips/sub101/clip01/img2.jpg"), 16)
    assert np.abs(shards.read(0, 1).astype(int) - wanted).mean() < 1  # 320 px are no multiple of its steps


def test_arguments(project):
    given = ["--corpus", "casme3", "--index", "i.csv", "--size", "224", "--out", "o"]
    assert parsed(main, given, "frames") == {"corpus": "casme3", "index": "i.csv", "size": 224, "out": "o"}
    for wrong in ({"pool": "p"}, {"corpus": None}, {"index": None}, {"corpus": None, "index": None}):
        with pytest.raises(MerError, match="--corpus with its --index"):
            make(**wrong)
    with pytest.raises(MerError, match="has clips of 'casme3', --corpus is 'casme2'"):
        make(corpus="casme2")
