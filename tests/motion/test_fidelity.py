"""Ambiguities S-10 to S-14 of MSMMT: default, alternatives, where each is decided, and that it changes the output.

S-12 (magnification) is decided by the magnifier. S-14 has one reading and no alternative: test_strain.py.
"""

import inspect
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from ruamel.yaml import YAML
from scipy.ndimage import gaussian_filter, shift

from mer.clips import Clip
from mer.motion.dynamic_image import dynamic_image
from mer.motion.strain import flow_image, optical_strain, three_channels
from mer.params import DynamicImage
from mer.storage.cache import CacheWriter, ClipCache
from stages.dynamic_image import pooled

ROOT = Path(__file__).parent.parent.parent
BASE = YAML(typ="safe").load(ROOT / "conf/base.yaml")


@pytest.fixture(scope="module")
def frames():
    """A patch that moves to the right until the middle of the clip and back again."""
    rng = np.random.default_rng(0)
    patch = 128 + 400 * gaussian_filter(rng.normal(size=(24, 24, 3)), (2, 2, 0))
    way = [0, 0.5, 1.1, 1.8, 1.2, 0.4]
    return np.stack([np.clip(shift(patch, (0, x, 0), mode="nearest"), 0, 255) for x in way]).astype(np.uint8)


@pytest.fixture(scope="module")
def products(frames, tmp_path_factory):
    folder = tmp_path_factory.mktemp("products")
    with CacheWriter(folder / "frames.h5", kind="frames", ragged=True, params={}) as writer:
        writer.append("c/s/1", frames)
    with CacheWriter(folder / "apex.h5", kind="apex", ragged=False, params={}) as writer:
        writer.append("c/s/1", np.int64(3))
    clip = Clip("c/s/1", "c", "s", "1", "", "", 10, 13, 15, "annotated", 200.0, "", "", "")
    return clip, ClipCache(folder / "frames.h5"), ClipCache(folder / "apex.h5")


def s10(value, frames, products):
    return dynamic_image(frames, solver=value)


def s10_c(value, frames, products):
    return dynamic_image(frames, c=value)


def s11(value, frames, products):
    clip, cache, apex = products
    return dynamic_image(pooled(clip, value, cache, apex))


def s13(value, frames, products):
    flow = np.stack([frames[3, ..., 0] - 128.0, frames[3, ..., 1] - 128.0]) / 64
    return three_channels(flow_image(flow.astype(np.float32)), value)


TABLE = [  # id, key, default, alternatives, what is computed, the file that names the id
    ("S-10", "solver", "ranksvm_pairs", ["approximate"], s10, "mer/motion/dynamic_image.py"),
    ("S-10", "c", 1.0, [1e5], s10_c, "mer/motion/dynamic_image.py"),
    ("S-11", "frames", "clip", ["onset_apex"], s11, "stages/dynamic_image.py"),
    ("S-13", "scaling", "fixed", ["min_max"], s13, "mer/motion/strain.py"),
]


@pytest.mark.parametrize(("name", "key", "default", "alternatives", "compute", "file"), TABLE)
def test_every_reading_is_accepted_named_and_changes_the_output(
    name, key, default, alternatives, compute, file, frames, products
):
    assert name in (ROOT / file).read_text()
    expected = compute(default, frames, products)
    for other in alternatives:
        assert not np.array_equal(compute(other, frames, products), expected)
    if name == "S-13":  # an argument; the models that read the picture will set it
        parameter = inspect.signature(three_channels).parameters[key]
        assert parameter.default == default
        assert set(get_args(parameter.annotation)) == {default, *alternatives}
        return
    assert BASE["dynamic_image"][key] == default
    assert name in next(
        line for line in (ROOT / "conf/base.yaml").read_text().splitlines() if f"  {key}: {default}" in line
    )
    for value in (default, *alternatives):
        DynamicImage(**BASE["dynamic_image"] | {key: value})


def test_s14_is_named_where_it_is_decided():
    assert "S-14" in (ROOT / "mer/motion/strain.py").read_text()
    shear = np.stack([0.02 * np.mgrid[:6, :6][0], np.zeros((6, 6))])
    np.testing.assert_allclose(optical_strain(shear), 0.02 / np.sqrt(2), rtol=1e-5)  # eq. 9 as printed would give 0
