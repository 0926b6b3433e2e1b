"""The real flow release and the released weights, where they lie."""

import shutil

import numpy as np
import pytest

from benchmarks import ststnet_release
from mer.corpora import megc2019_flow, select
from mer.errors import MerError
from mer.evaluation.metrics import score


@pytest.fixture(scope="module")
def release(reference):
    return ststnet_release.load(reference / "megc2019_flow")


def test_counts(release):
    table, images = release
    assert images.shape == (442, 3, 28, 28)
    assert np.bincount(table["label"]).tolist() == [250, 109, 83]
    assert table.attrs["class_names"] == ["negative", "positive", "surprise"]
    assert table["corpus"].value_counts().to_dict() == {"smic": 164, "casme2": 145, "samm": 133}
    assert table["id"].is_unique
    assert len(table[["corpus", "subject"]].drop_duplicates()) == 68


def test_channels_are_u_v_strain(release):
    """Strain is never negative and mostly small; u and v spread about the middle level."""
    _, images = release
    u, v, strain = (np.median(images[:, i]) for i in range(3))
    assert abs(u) < 20
    assert abs(v) < 20
    assert 0 < strain < 40


def test_the_released_weights_score_what_their_log_says(release, reference):
    table, images = release
    predicted = ststnet_release.official(table, images, reference / "ststnet")
    result = score(table["label"].to_numpy(), predicted, table.attrs["class_names"])
    assert result["confusion"] == [[195, 39, 16], [36, 68, 5], [12, 7, 64]]
    assert round(result["uf1"], 4) == 0.7209
    assert round(result["uar"], 4) == 0.7250


def test_linear_on_the_release(release):
    from mer.loso import run as loso

    table, images = release
    p = loso.run([images], table, model="linear", classes=3)
    result = score(p["label"].to_numpy(), p[["p0", "p1", "p2"]].to_numpy().argmax(1), table.attrs["class_names"])
    # Three digits: one clip changes either by 0.002 or more.
    assert result["uf1"] == pytest.approx(0.737, abs=1e-3)
    assert result["uar"] == pytest.approx(0.768, abs=1e-3)


@pytest.fixture
def copy(reference, tmp_path):
    shutil.copytree(reference / "megc2019_flow", tmp_path / "flow", copy_function=shutil.copyfile)
    for path in [tmp_path / "flow", *(tmp_path / "flow").rglob("*")]:
        path.chmod(0o755)
    return tmp_path / "flow"


def test_both_folder_names_are_accepted(copy):
    (copy / "images").rename(copy / "STSNet_whole_norm_u_v_os")
    assert len(select(megc2019_flow.read_labels(copy), "megc2019_flow", 3)) == 442


def test_what_is_missing_or_changed_is_named(copy):
    name = "006_006_1_2 .png"
    data = (copy / "images" / name).read_bytes()
    (copy / "images" / name).write_bytes(data[:-1])
    with pytest.raises(MerError, match=r"1 files differ from the release: .*006_006_1_2 .png.*dvc get"):
        megc2019_flow.read_labels(copy)
    (copy / "images" / name).unlink()
    with pytest.raises(MerError, match=r"1 of 442 images are missing: 006_006_1_2 .png; dvc get"):
        megc2019_flow.read_labels(copy)
    labels = copy / megc2019_flow.LABELS
    text = labels.read_text().splitlines()
    labels.write_text("\n".join([text[0], *text[2:]]) + "\n")
    (copy / "images" / name).write_bytes(data)
    with pytest.raises(MerError, match=r"counts 441 clips, 68 subjects, classes \(250, 108, 83\)"):
        megc2019_flow.read_labels(copy)
    for content in (b"", b"<html>404</html>", b"\xff\xfe\x00", b"a,b\n1,2,3\n"):
        labels.write_bytes(content)
        with pytest.raises(MerError, match=r"is not the release's csv .*dvc get"):
            megc2019_flow.read_labels(copy)
    labels.unlink()
    with pytest.raises(MerError, match=r"combined_3_class2_for_optical_flow.csv: is missing; bring it with: dvc get"):
        megc2019_flow.read_labels(copy)
    with pytest.raises(MerError, match=r"has no folder STSNet_whole_norm_u_v_os \(or images\)"):
        megc2019_flow.image_folder(copy.parent)


def test_a_missing_weight_file_is_named(release, tmp_path):
    table, images = release
    with pytest.raises(MerError, match=r"68 of 68 weight files are missing: 006"):
        ststnet_release.official(table, images, tmp_path)
