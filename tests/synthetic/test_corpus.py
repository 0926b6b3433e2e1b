"""The synthetic corpus: its layout, its bytes, and above all that the motion it claims is the motion it shows.

How hard it is to recognise is tested on the real pipeline, not here.
"""

import hashlib
import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mer.corpora import casme2
from mer.errors import MerError
from mer.parallel import Engine
from mer.synthetic import clip as synthetic_clip
from mer.synthetic import corpus as synthetic
from mer.synthetic import face as synthetic_face
from mer.synthetic import motion as synthetic_motion
from mer.synthetic.truth import read_truth

# Three people, nine clips of 10 to 12 frames, one person in the pool: two seconds.
TINY = {"subjects": 3, "clips": 9, "seed": 3, "length": (10, 12)}
POOL = {"pool_subjects": 1, "pool_macro": 1, "pool_clips": 1, "pool_pairs": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "raw"
    synthetic.synthesize(folder, **TINY, **POOL)
    return folder


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return synthetic.plan(**TINY)


def clip_name(row: dict) -> str:
    return f"sub{row['subject']:02d}/{row['filename']}"


def grey(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32)


def digests(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# ---- layout ---------------------------------------------------------------------------------------------------


def test_sheet_has_the_columns_of_casme2(root):
    sheet = pd.read_excel(root / "corpus" / "CASME2-coding.xlsx", dtype=str)
    assert list(sheet.columns) == [
        *("Subject", "Filename", "Unnamed: 2", "OnsetFrame", "ApexFrame", "OffsetFrame", "Unnamed: 6"),
        *("Action Units", "Estimated Emotion"),
    ]
    assert sheet["Subject"].tolist() == sorted(sheet["Subject"])
    assert sheet["Subject"][0] == "01"
    assert (sheet["ApexFrame"] == "/").sum() == 1  # 5 % of 9, and one at least


def test_casme2_loader_reads_what_the_plan_says(root, table):
    read = casme2.read_annotations(root / "corpus" / "CASME2-coding.xlsx")
    assert [f"{s}/{c}" for s, c in zip(read["subject"], read["clip"], strict=True)] == [
        clip_name(row) for row in table.to_dict("records")
    ]
    # "apex" too: where the sheet says "/", the reader's middle frame is the true apex.
    for name in ("onset", "apex", "offset", "emotion", "aus"):
        assert read[name].tolist() == table[name].tolist(), name


def test_frames_are_numbered_with_spare_ones_around_the_clip(root, table):
    for row in table.to_dict("records"):
        found = {p.name for p in (root / "corpus" / clip_name(row)).iterdir()}
        assert found == {f"img{n}.jpg" for n in range(row["onset"] - 2, row["offset"] + 3)}
        assert row["onset"] < row["apex"] < row["offset"]
        assert 10 <= row["offset"] - row["onset"] + 1 <= 12


def test_pool_holds_other_people(root, table):
    labels = pd.read_csv(root / "pool" / "macro" / "labels.csv")
    pairs = pd.read_csv(root / "pool" / "pairs" / "pairs.csv")
    corpus = {f"sub{s:02d}" for s in table["subject"]}
    pool = {*labels["subject"], *pairs["subject"], *(p.name for p in (root / "pool" / "clips").iterdir())}
    assert pool == {"sub101"}
    assert not pool & corpus
    assert set(labels["emotion"]) == set(synthetic_clip.COUNTS)
    assert len(labels) == 5
    assert all((root / "pool" / "macro" / f).is_file() for f in labels["file"])
    assert all((root / "pool" / "pairs" / f).is_file() for f in pairs[["a", "b", "magnified"]].to_numpy().ravel())
    assert len(list((root / "pool" / "clips" / "sub101" / "clip01").iterdir())) in (10, 11, 12)


def test_bytes_do_not_depend_on_the_run_or_the_workers(root, tmp_path):
    synthetic.synthesize(tmp_path / "again", **TINY, **POOL, engine=Engine(workers=2))
    assert digests(tmp_path / "again") == digests(root)


def test_replaces_an_earlier_corpus_but_never_foreign_files(root, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MerError, match=r"notes\.txt"):
        synthetic.synthesize(tmp_path, **TINY, **POOL)
    assert (tmp_path / "notes.txt").read_text() == "mine"

    old = tmp_path / "raw" / "corpus" / "sub77"
    old.mkdir(parents=True)
    synthetic.synthesize(tmp_path / "raw", **TINY, pool_subjects=0)
    assert not old.exists()
    assert not (tmp_path / ".raw.partial").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_refused_before_anything_is_rendered(tmp_path, monkeypatch, there):
    """Everything was rendered, and then the folder could not be renamed over it."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    if there:
        (tmp_path / "target").mkdir()
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(synthetic, "map_clips", None)
    with pytest.raises(MerError, match="link: is a link, which no folder can be renamed over; name the folder itself"):
        synthetic.synthesize(link, subjects=3, clips=15)
    assert sorted(tmp_path.iterdir()) == before


# ---- plan -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_full_size_has_the_class_counts_of_casme2(seed):
    table = synthetic.plan(subjects=26, clips=246, seed=seed)
    assert table["emotion"].value_counts().to_dict() == {
        "others": 99,
        "disgust": 63,
        "happiness": 32,
        "repression": 27,
        "surprise": 25,
    }
    assert (~table["annotated"]).sum() == 12  # 5 %
    check_spread(table, subjects=26)


@pytest.mark.parametrize(("subjects", "clips"), [(3, 9), (3, 30), (5, 24), (8, 100), (12, 36)])
def test_every_class_has_three_people_and_every_person_three_clips(subjects, clips):
    check_spread(synthetic.plan(subjects=subjects, clips=clips, seed=1), subjects)


def check_spread(table: pd.DataFrame, subjects: int) -> None:
    sizes = table["subject"].value_counts()
    assert sorted(sizes.index) == list(range(1, subjects + 1))
    assert sizes.min() >= 3
    assert not table.duplicated(["subject", "filename"]).any()
    groups = table.groupby("emotion")["subject"]
    assert len(groups) == 5
    assert (groups.nunique() >= np.minimum(3, groups.size())).all()
    if subjects >= 8:
        assert (table.groupby("subject")["emotion"].nunique() < 5).any()  # LOSO must face missing classes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"subjects": 2}, "subjects"), ({"clips": 20}, "set at least 24"), ({"length": (30, 20)}, "length")],
)
def test_impossible_sizes_are_refused(wrong, message):
    with pytest.raises(MerError, match=message):
        synthetic.plan(**wrong)


# ---- motion ---------------------------------------------------------------------------------------------------


def drawn(row: dict):
    """The person and the motion behind one row, without the disk."""
    person = synthetic_clip.identity(TINY["seed"], row["subject"], 0)
    rng = synthetic_clip.stream(TINY["seed"], synthetic_clip.RENDER, row["subject"], row["number"])
    how = synthetic_clip.style(TINY["seed"], row["subject"])
    return person, synthetic_clip.draw_motion(rng, person, row["aus"], row["peak"], how)


def test_true_flow_takes_the_apex_frame_back_to_the_onset(root, table):
    ratios = []
    for row in table.to_dict("records"):
        truth = read_truth(root / "truth.h5", clip_name(row))
        assert (truth["onset"], truth["apex"], truth["offset"]) == (row["onset"], row["apex"], row["offset"])
        folder = root / "corpus" / clip_name(row)
        onset, apex = (grey(folder / f"img{truth[k]}.jpg") for k in ("onset", "apex"))
        where = synthetic_motion.pixels() + truth["flow"].transpose(1, 2, 0)
        # x 4 first: cv2.remap rounds coordinates to 1/32 px of what it reads.
        large = cv2.resize(apex, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        at = (where + 0.5) * 4 - 0.5
        back = cv2.remap(large, at[..., 0], at[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        inner = (slice(20, -20), slice(20, -20))
        # Smoothed by 1 px: the sensor's noise shrinks to a third, the structure (4 px and wider) stays.
        onset, apex, back = (cv2.GaussianBlur(i, (0, 0), 1.0)[inner] for i in (onset, apex, back))
        light = onset.mean() / back.mean()
        # Where there is structure; elsewhere nothing moves visibly and both residuals are noise.
        edges = np.hypot(*np.gradient(onset)) > 6
        left = (back * light - onset)[edges].std()
        # Noise of a frame: sigma <= 1.5 per channel, 0.67 of it in grey, about 0.5 from JPEG, so 1.1; smoothed 0.4;
        # two frames 0.55. Resampling the sharpest edges adds some of that again.
        assert left < 0.9, row
        ratios.append((apex * light - onset)[edges].std() / left)
    # A weak clip without drift may move 0.1 px on average; most lose two thirds of their difference.
    assert np.median(ratios) > 3
    assert min(ratios) > 1.3


def test_backward_map_inverts_the_forward_motion(table):
    y = synthetic_motion.pixels()
    for row in table.to_dict("records"):
        _, motion = drawn(row)
        drift = motion.drift((row["apex"] - row["onset"]) / 200)
        x = synthetic_motion.backward_map(motion.bumps.grid(), motion.amplitude, drift)
        some = (slice(None, None, 7), slice(None, None, 7))
        again = synthetic_motion.forward_points(x[some].reshape(-1, 2), motion.bumps, motion.amplitude, drift)
        # The promise is 0.02 px, a fifteenth of the weakest movement; iteration stops at 0.004.
        assert np.abs(again - y[some].reshape(-1, 2)).max() < 0.02


def test_stored_truth_is_the_forward_motion(root, table):
    for row in table.to_dict("records"):
        truth = read_truth(root / "truth.h5", clip_name(row))
        assert truth["flow"].shape == (2, 320, 320)
        assert truth["flow"].dtype == np.float32
        moved = truth["landmarks_apex"] - truth["landmarks_onset"]
        x, y = truth["landmarks_onset"].T.astype(np.float32)
        read = np.stack([cv2.remap(c, x[:, None], y[:, None], cv2.INTER_LINEAR)[:, 0] for c in truth["flow"]], -1)
        # Half precision (0.001 px at 1..2 px) and remap's 1/32 px times a slope below 0.2.
        assert np.abs(read - moved).max() < 0.01


def test_expression_alone_stays_micro(table):
    wide = pd.concat([synthetic.plan(subjects=26, clips=246, seed=s) for s in range(3)])
    assert wide["peak"].between(0.3, 1.5).all()
    # Clipping is the exception: the range is used, not its ends.
    assert wide["peak"].between(0.301, 1.499).mean() > 0.8
    assert wide["peak"].std() > 0.2
    for row in table.to_dict("records"):
        _, motion = drawn(row)
        per_face = 224 / synthetic_face.crop_side(motion.landmarks)
        peak = np.hypot(*motion.bumps.grid()).max() * motion.amplitude * per_face
        assert peak == pytest.approx(row["peak"], rel=1e-5)  # float32 grid
        # The face in the frame is about as large as the crop it will become: nothing is lost or invented later.
        assert 0.85 < per_face < 1.15


def test_sides_are_the_persons_own():
    face = (synthetic_face.PORTRAIT_LANDMARKS - synthetic_face.CENTRE_SOURCE) * 2.15 + synthetic_face.CENTRE_FRAME
    left = synthetic_motion.expression(face, synthetic_motion.read_units("L12")).grid()
    middle = round(face[27:31, 0].mean())
    # The person's left is the image's right; the mouth corner there goes outwards (right) and up.
    assert np.hypot(*left)[:, middle:].max() == pytest.approx(1, abs=1e-6)
    assert np.hypot(*left)[:, :middle].max() < 0.2  # the tail of a bump 17 px wide whose centre is 35 px away
    corner = tuple(face[54].round().astype(int)[::-1])
    assert left[0][corner] > 0.3
    assert left[1][corner] < -0.3


def test_envelope_peaks_at_the_apex_only():
    level = [synthetic_motion.envelope(n, 10, 20, 35, 1.2, 0.1) for n in range(8, 38)]
    assert level[:3] == [0, 0, 0]
    assert level[27:] == [0.1, 0.1, 0.1]
    assert level[12] == 1
    assert (np.diff(level[2:13]) > 0).all()
    assert (np.diff(level[12:28]) < 0).all()


def test_magnified_pair_moves_factor_times_as_far(root):
    pairs = pd.read_csv(root / "pool" / "pairs" / "pairs.csv")
    folder = root / "pool" / "pairs"
    measured = []
    for row in pairs.to_dict("records"):
        a, b, m = (grey(folder / row[k])[20:-20, 20:-20] for k in ("a", "b", "magnified"))
        assert row["factor"] > 1
        assert row["peak"] < 3
        # First order: (b - a) and (m - a) are the same image gradient times the motion, so their regression slope is
        # the factor as long as the motion is small against the structure (4 px).
        smooth = [cv2.GaussianBlur(i, (0, 0), 3.0) for i in (a, b, m)]
        near, far = smooth[1] - smooth[0], smooth[2] - smooth[0]
        measured.append((near * far).sum() / (near * near).sum() / row["factor"])
    # Residual noise in a and b lowers the slope, large motions saturate it: right in the middle within a half.
    assert 0.5 < np.median(measured) < 1.2


# ---- faces ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dlib_landmarks():
    """image (H, W, 3) uint8 RGB -> (68, 2) of the only face, or None."""
    dlib = pytest.importorskip("dlib")
    package = importlib.util.find_spec("face_recognition_models")  # importing it fails: pkg_resources is gone
    if package is None:
        pytest.skip("face_recognition_models is not installed")
    model = Path(package.submodule_search_locations[0]) / "models" / "shape_predictor_68_face_landmarks.dat"
    detector, predictor = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(model))

    def find(image):
        boxes = detector(image, 0)
        if len(boxes) != 1:
            return None
        return np.array([(p.x, p.y) for p in predictor(image, boxes[0]).parts()], dtype=np.float32)

    return find


def test_portrait_landmarks_are_dlibs(dlib_landmarks):
    import skimage.data

    crop = np.ascontiguousarray(skimage.data.astronaut()[20:260, 100:350])
    large = cv2.resize(crop, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    found = (dlib_landmarks(large) + 0.5) / 2 - 0.5 + (100, 20)
    # In portrait px. One detection is whole pixels of the enlarged picture (0.2 px here) and depends on the box: the
    # jaw moves by up to 1.6 px from scale to scale, the median over 40 stays.
    apart = np.hypot(*(found - synthetic_face.PORTRAIT_LANDMARKS).T)
    assert apart.mean() < 0.6
    assert apart.max() < 2


def test_dlib_finds_the_true_landmarks_in_the_frames(root, table, dlib_landmarks):
    apart = []
    for row in table.to_dict("records"):
        truth = read_truth(root / "truth.h5", clip_name(row))
        for which in ("onset", "apex"):
            image = cv2.imread(str(root / "corpus" / clip_name(row) / f"img{truth[which]}.jpg"))
            found = dlib_landmarks(np.ascontiguousarray(image[..., ::-1]))
            assert found is not None, row
            apart.append(np.hypot(*(found - truth[f"landmarks_{which}"]).T).mean())
    # dlib answers in whole pixels (0.4 px on average) and scatters by 0.4 px on the enlarged portrait.
    assert np.mean(apart) < 1.5


def test_mirror_table_is_an_involution_that_swaps_sides():
    mirror, points = synthetic_face.MIRROR, synthetic_face.PORTRAIT_LANDMARKS
    assert (mirror[mirror] == np.arange(68)).all()
    middle = points[27:31, 0].mean()
    # Mirrored points land on their partners: within 5 px (5 % of a slightly turned face).
    assert np.abs((2 * middle - points[mirror, 0]) - points[:, 0]).mean() < 5


def test_refused_faces_are_redrawn():
    seen = []

    def second(image, landmarks):
        seen.append((image.copy(), landmarks))
        return len(seen) == 2

    assert synthetic_clip.choose_identity(5, 1, second) == 1
    (first, _), (other, points) = seen
    assert first.shape == (320, 320, 3)
    assert first.dtype == np.uint8
    assert points.shape == (68, 2)
    assert np.abs(first.astype(int) - other).mean() > 3  # another face, light and tone

    with pytest.raises(MerError, match="sub01 was refused 2 times"):
        synthetic_clip.choose_identity(5, 1, lambda image, landmarks: False, attempts=2)
