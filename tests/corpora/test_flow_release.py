"""The two public flow releases against their files: counts, sums, maps, and that their clips are the same."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from mer import corpora
from mer.corpora import causalnet_flow, megc2019_flow
from mer.errors import MerError
from mer.facs import UNITS, coded_units
from mer.models.linear import mirror
from tests.helpers.refusals import refused


@pytest.fixture(scope="module")
def tables(reference):
    return {
        name: corpora.load(name).read_labels(reference / name).sort_values("id", ignore_index=True)
        for name in ("megc2019_flow", "causalnet_flow")
    }


def test_both_have_the_same_clips_and_labels(tables):
    first, second = tables.values()
    for column in ("id", "corpus", "subject", "emotion"):
        assert first[column].tolist() == second[column].tolist()
    assert len(first) == 442
    assert set(first["edition"]) != set(second["edition"])
    assert causalnet_flow.RELEASED == ("flow", "flow_offset", "direction", "direction_offset")
    assert megc2019_flow.RELEASED == ("flow",)


def test_no_map_of_one_is_a_map_of_the_other(tables):
    """On average over the clips they correlate by 0.48, 0.30 and 0.17 for u, v and strain (reference/README.md)."""
    maps = [
        np.stack([corpora.load(name).read_image(path) for path in table["flow"]]) for name, table in tables.items()
    ]  # fmt: skip
    assert not (maps[0] == maps[1]).all((1, 2, 3)).any()
    pairs = list(zip(*maps, strict=True))
    found = [np.mean([np.corrcoef(a[c].ravel(), b[c].ravel())[0, 1] for a, b in pairs]) for c in range(3)]
    assert found == pytest.approx([0.48, 0.30, 0.17], abs=0.005)


def test_a_map_is_the_file_as_opencv_reads_it(tables):
    row = tables["causalnet_flow"].iloc[7]
    for kind, suffix in causalnet_flow.RELEASE.suffixes.items():
        assert row[kind].endswith(f"{row['subject']}_{row['clip']}{suffix} .png")
        blue, green, red = cv2.imread(row[kind]).astype(np.float32).transpose(2, 0, 1)
        found = causalnet_flow.read_image(row[kind], kind)
        assert found.shape == (3, 28, 28)
        middle = 127.5 if kind.startswith("flow") else 0.0
        assert np.array_equal(found, np.stack([red - middle, green - middle, blue]))


def test_a_mirrored_map_is_that_of_the_inverted_picture(tables):
    maps = np.stack([causalnet_flow.read_image(path) for path in tables["causalnet_flow"]["flow"][:5]])
    grey = maps.copy()
    grey[:, :2] += 127.5
    grey = grey[..., ::-1].copy()
    grey[:, 0] = 255 - grey[:, 0]
    grey[:, :2] -= 127.5
    assert np.array_equal(mirror(maps), grey)


def test_what_is_incomplete_or_of_other_sums(reference, tmp_path):
    copy = tmp_path / "flow"
    shutil.copytree(reference / "causalnet_flow", copy, copy_function=shutil.copyfile)
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o755)
    name = "006_006_1_2_2 .png"
    data = (copy / "images" / name).read_bytes()
    (copy / "images" / name).unlink()
    with pytest.raises(MerError, match=r"1 of 1768 images are missing: 006_006_1_2_2 .png; dvc get --rev 7bdf163f "):
        causalnet_flow.read_labels(copy)
    (copy / "images" / name).write_bytes(data + b"\0")
    with pytest.raises(MerError, match=r"1 files differ from the release: 006_006_1_2_2 .png; bring anew: dvc get"):
        causalnet_flow.read_labels(copy)
    # The other release in its place: all names of its own maps, and other bytes.
    with pytest.raises(MerError, match=r"1326 of 1768 images are missing"):
        causalnet_flow.read_labels(reference / "megc2019_flow")
    with pytest.raises(MerError, match=r"442 files differ from the release: .*; bring anew: dvc get .*HTNet"):
        megc2019_flow.read_labels(reference / "causalnet_flow")


# ---- action units of label sheets -----------------------------------------------------------------------------------


SHEETS = {"casme2": "CASME2-coding-20140508.xlsx", "samm": "SAMM.xlsx"}


def test_every_clip_of_casme2_and_samm_is_in_their_sheets(reference, tables):
    for name, table in tables.items():
        release, counts = corpora.load(name).RELEASE, {}
        for part, sheet in SHEETS.items():
            path = reference / "annotations" / sheet
            table, counts[part] = release.with_units(table, part, corpora.load(part).read_annotations(path), path)
        assert counts == {"casme2": 145, "samm": 133}
        assert (table["aus"] != "").groupby(table["corpus"]).sum().to_dict() == {"casme2": 145, "samm": 133, "smic": 0}
        # The sheets are those of the clips: happy ones show the lip corner puller, surprised ones the brows.
        units = pd.DataFrame(coded_units(table["aus"].tolist()), columns=UNITS).groupby(table["emotion"]).mean()
        assert units[12].idxmax() == "positive"
        assert units[1].idxmax() == units[2].idxmax() == "surprise"
        assert units[4].idxmax() == "negative"


def small(*rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["id", "corpus", "subject", "clip", "aus"])


def test_units_go_to_their_clips_and_others_keep_theirs():
    table = small(("casme2/s1/a", "casme2", "s1", "a", ""), ("casme2/s1/b", "casme2", "s1", "b", "9"),
                  ("samm/s1/a", "samm", "s1", "a", ""))  # fmt: skip
    sheet = pd.DataFrame({"subject": ["s2", "s1"], "clip": ["a", "a"], "aus": ["1", "4+7"]})
    found, count = megc2019_flow.RELEASE.with_units(table, "casme2", sheet, "sheet.xlsx")
    assert found["aus"].tolist() == ["4+7", "9", ""]
    assert count == 1
    for part, content, message in (
        ("smic", sheet, r"sheet.xlsx: is the sheet of smic, and the release has clips of casme2, samm; correct sheets"),
        (
            "samm",
            sheet.assign(subject="s9"),
            r"sheet.xlsx: has none of the release's 1 clips of samm; take that corpus",
        ),
        ("casme2", sheet.assign(aus="?"), r"sheet.xlsx: tells no action unit of the release's clips of casme2; leave"),
    ):
        refused(message, megc2019_flow.RELEASE.with_units, table, part, content, "sheet.xlsx")
