"""A composite holds the clips of its parts, unchanged, in the order of ids."""

import numpy as np
import pytest

from mer.errors import MerError
from mer.storage.cache import CacheWriter, ClipCache
from stages.join import join, main


def product(path, corpus, n, margin=0.2, excluded=None):
    with CacheWriter(path, kind="flow", ragged=False, params={"margin": margin}, excluded=excluded) as writer:
        for i in range(n):
            writer.append(f"{corpus}/s/{i}", np.full((3, 2, 2), i, np.float32), key=f"{corpus}{i}", score=np.float64(i))
    return ClipCache(path)


def test_a_composite_is_its_parts(tmp_path):
    parts = [
        product(tmp_path / "b.h5", "b", 3, excluded={"b/s/9": "no face"}),
        product(tmp_path / "a.h5", "a", 2, excluded={"a/s/8": "no frame"}),
    ]
    join(tmp_path / "out" / "flow.h5", parts)
    composite = ClipCache(tmp_path / "out" / "flow.h5", "flow")
    assert composite.ids == ["a/s/0", "a/s/1", "b/s/0", "b/s/1", "b/s/2"]
    assert composite.keys == ["a0", "a1", "b0", "b1", "b2"]
    assert composite.excluded == {"a/s/8": "no frame", "b/s/9": "no face"}
    for part in parts:
        for clip_id in part.ids:
            np.testing.assert_array_equal(composite[clip_id], part[clip_id])
            assert composite.extra("score", clip_id) == part.extra("score", clip_id)


def test_parts_made_with_other_parameters_are_refused(tmp_path):
    parts = [product(tmp_path / "a.h5", "a", 2), product(tmp_path / "b.h5", "b", 2, margin=0.3)]
    with pytest.raises(MerError, match=r"b.h5: was made with .*0.3.*a.h5 with .*0.2.*the same parameters"):
        join(tmp_path / "flow.h5", parts)


def test_a_product_of_any_kind_is_joined(tmp_path):
    """Clips of different lengths, with their extras, as the command calls it."""
    for corpus, length in (("b", 2), ("a", 5)):
        with CacheWriter(tmp_path / f"{corpus}.h5", kind="frames", ragged=True, params={}) as writer:
            clip = np.full((length, 4, 4, 3), length, np.uint8)
            writer.append(f"{corpus}/s/1", clip, key=corpus, transform=np.full((2, 3), length, np.float64))
    out = tmp_path / "joined/frames.h5"
    main(None, parts=[str(tmp_path / f"{corpus}.h5") for corpus in ("b", "a")], out=str(out))
    composite = ClipCache(out, "frames")
    assert composite.ragged
    assert [composite[clip_id].shape for clip_id in composite.ids] == [(5, 4, 4, 3), (2, 4, 4, 3)]
    for corpus, length in (("a", 5), ("b", 2)):
        assert (composite[f"{corpus}/s/1"] == length).all()
        assert (composite.extra("transform", f"{corpus}/s/1") == length).all()


def test_releases_have_one_form_and_the_composite_names_both(tmp_path):
    """Flow as it was released names its source; what is computed here has other parameters, and other sizes."""
    for name in ("b", "a"):
        with CacheWriter(tmp_path / f"{name}.h5", kind="flow", ragged=False, params={"source": name}) as writer:
            writer.append(f"{name}/s/1", np.zeros((3, 2, 2), np.float32))
    parts = [ClipCache(tmp_path / f"{name}.h5") for name in ("b", "a")]
    join(tmp_path / "flow.h5", parts)
    assert ClipCache(tmp_path / "flow.h5", "flow").params == {"source": "b and a"}
    with CacheWriter(tmp_path / "c.h5", kind="flow", ragged=False, params={}) as writer:
        writer.append("c/s/1", np.zeros((3, 2, 2), np.float32))
    with pytest.raises(MerError, match=r"c.h5: was made with \{\}, .*b.h5 with .*the same parameters"):
        join(tmp_path / "other.h5", [parts[0], ClipCache(tmp_path / "c.h5")])
