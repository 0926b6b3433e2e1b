"""Figure 7 of Micron-BERT: which clips are drawn, what of them, and the numbers."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from mer.errors import MerError
from mer.evaluation.explained import micronbert as explained
from mer.storage.cache import CacheWriter, ClipCache

CLASSES = ["negative", "positive", "surprise"]
LABELS = np.array([0, 0, 1, 1, 0])  # nobody is surprised


def experiment(folder, parts=("diagonal", "scores"), form=(32, 32, 3)):
    """Made-up explanations: the map of clip n is hot in row n."""
    rng = np.random.default_rng(0)
    ids = [f"c/s{n}/x" for n in range(len(LABELS))]
    with CacheWriter(folder / "explain.h5", kind="explain", ragged=False, params={}) as file:
        for n, i in enumerate(ids):
            heat = rng.uniform(0, 0.2, (4, 4)).astype(np.float32)
            heat[n % 4] = 1
            images = {name: np.full(form, 40 * n, np.uint8) for name in ("picture", "onset")}
            file.append(i, heat, **images, **dict.fromkeys(parts, heat / 10))
    p = np.full((len(LABELS), 3), 0.2)
    p[np.arange(len(LABELS)), [0, 1, 1, 1, 0]] = 0.6
    rows = pd.DataFrame({"seed": 0, "id": ids, "corpus": "c", "subject": [i[2:4] for i in ids], "label": LABELS})
    rows = rows.assign(**{f"p{c}": p[:, c] for c in range(3)})
    run_info = {"class_names": CLASSES, "protocol": {"seeds": [0]}}
    return ClipCache(folder / "explain.h5", "explain"), rows, run_info


@pytest.mark.parametrize("parts", [("diagonal", "scores"), ("diagonal",), ()])
def test_each_row_shows_the_frames_the_parts_and_the_map(tmp_path, monkeypatch, parts):
    kept, save = [], explained.save
    monkeypatch.setattr(explained, "save", lambda figure, path: (kept.append(figure), save(figure, path)))
    explained.draw(*experiment(tmp_path, parts), tmp_path / "f", title="an experiment", clip="c/s3/x")
    (figure,) = kept
    panels = [a for a in figure.axes if a.images]
    assert len(panels) == 3 * (3 + len(parts))  # the drawn clip, and one of each class that has clips
    titles = [a.get_title() for a in panels[: 3 + len(parts)]]
    assert titles == ["onset of c/s3/x", "apex", *(explained.PARTS[part] for part in parts), explained.MAPS]
    said = "\n".join(text.get_text() for text in figure.texts)
    assert ("times the scores" in said) == ("scores" in parts)
    assert ("1 less the diagonal" in said) == ("diagonal" in parts)
    assert ("length of what is read of each patch" in said) == (not parts)
    assert cv2.imread(str(tmp_path / "f/differences.png")).std() > 5
    found = json.loads((tmp_path / "f/differences.json").read_text())
    assert found["clips"] == [3, 2, 0]
    assert set(found) == {"class_names", "clips", "map", *parts}


def test_explanations_that_are_no_maps_over_pictures_are_refused(tmp_path):
    with pytest.raises(MerError, match=r"pictures are \(2, 32, 32, 3\), needed is \(H, W, 3\)"):
        explained.draw(*experiment(tmp_path, form=(2, 32, 32, 3)), tmp_path / "f", title="x", clip="c/s0/x")
