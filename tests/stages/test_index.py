"""Stage index with a reader of one's own: what it returns is refused before anything is counted, read or written."""

from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from mer import corpora
from mer.clips import COLUMNS, clips, read_index
from mer.parallel import SERIAL
from stages.index import main
from tests.helpers.refusals import refused

STAGE = SimpleNamespace(key="mine", section=SimpleNamespace(on_error="stop"), engine=SERIAL)


@pytest.fixture
def read(tmp_path, monkeypatch):
    """(a cell of the second clip) -> the index that the stage writes of two clips of three frames."""
    for number in range(7, 10):
        cv2.imwrite(str(tmp_path / f"img{number}.png"), np.full((4, 6), number, np.uint8))

    def stage(change=lambda table: table, **changes):
        row = dict.fromkeys(COLUMNS[:-1], "") | {"onset": 7, "apex": 8, "offset": 9, "fps": 200.0, "corpus": "mine"}
        row |= {"frame": f"{tmp_path}/img{{}}.png", "emotion": "disgust", "apex_source": "annotated"}
        table = pd.DataFrame([row | {"id": f"mine/s{k}/a", "subject": f"s{k}", "clip": "a"} for k in (1, 2)])
        for column, value in changes.items():
            table[column] = pd.Series([table.loc[0, column], value], dtype=object)
        theirs = SimpleNamespace(
            __name__="mer.corpora.theirs", read_corpus=lambda root, corpus, on_error: change(table)
        )  # fmt: skip
        monkeypatch.setattr(corpora, "load", lambda name: theirs)
        main(STAGE, reader="theirs", raw=str(tmp_path), out=str(tmp_path / "index/mine.csv"))
        return read_index(tmp_path / "index/mine.csv")

    return stage


def test_what_such_a_reader_returns_is_indexed(read):
    assert [(c.id, c.fps, c.numbers) for c in clips(read())] == [
        ("mine/s1/a", 200.0, [7, 8, 9]), ("mine/s2/a", 200.0, [7, 8, 9])]  # fmt: skip
    table = read(fps=np.float32(30), onset=np.int16(7), offset=np.uint8(9), subject=np.str_("s2"))
    assert [(c.fps, c.numbers) for c in clips(table)] == [(200.0, [7, 8, 9]), (30.0, [7, 8, 9])]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("fps", value) for value in ("200 fps", -200.0, 0.0, np.nan, np.inf)),
        *((column, value) for column in ("onset", "apex", "offset") for value in ("8", 8.0, np.nan, None, True)),
        *((column, None) for column in ("subject", "emotion", "clip", "frame", "absent", "edition", "aus")),
    ],
)
def test_a_cell_of_the_wrong_kind_is_refused_with_corpus_clip_value_and_remedy(read, tmp_path, column, value):
    refused(
        f"^corpus mine, read by mer.corpora.theirs: clip mine/s2/a: {column} is {value!r}, needed is .*; correct what "
        r"the reader returns \(docs/corpora.md\)$", read, **{column: value},
    )  # fmt: skip
    assert not (tmp_path / "index").exists()


def test_what_is_no_table(read):
    refused("^corpus mine, read by mer.corpora.theirs: is a NoneType, needed is a pandas.DataFrame; correct", read,
            lambda table: None)  # fmt: skip
    refused("^corpus mine, read by mer.corpora.theirs: has no clip; correct", read, lambda table: table[:0])
    refused("^corpus mine, read by mer.corpora.theirs: has no column emotion, fps; correct", read,
            lambda table: table.drop(columns=["fps", "emotion"]))  # fmt: skip
