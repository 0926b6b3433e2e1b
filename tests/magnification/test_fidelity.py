"""Ambiguities U-01 to U-04, S-12 and D-01 to D-03: default, alternatives, where each is decided, what it changes.

Each is run through the function of its stage, on a clip with frames before and after it.
"""

import functools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from mer import models, pretraining
from mer.clips import Clip
from mer.faces.alignment import clip_transform, warp
from mer.magnification.eulerian import RECIPES
from mer.magnification.magnet import MagNet
from mer.params import EulerianRecipe, MagnifyLearned, Spot
from mer.products import FACTORS, eulerian, frames, recording
from mer.storage.cache import CacheWriter, ClipCache
from mer.storage.weights import save_weights
from stages import magnify_eulerian, magnify_learned, spot

ROOT = Path(__file__).parent.parent.parent
BASE_TEXT = (ROOT / "conf/base.yaml").read_text()
BASE = YAML(typ="safe").load(BASE_TEXT)
FIRST, ONSET, APEX, OFFSET, LAST = 1, 40, 52, 60, 700  # 3.5 s at 200 fps: as long as DCMA's band needs
CLIP_ID = "c/s/1"


class World:
    """A clip on disk, its crop and its apex; the pattern goes to the right and comes back during the clip."""

    def __init__(self, folder: Path):
        self.folder = folder
        x, y = np.meshgrid(np.arange(96), np.arange(96))
        for number in range(FIRST, LAST + 1):
            moved = x - 0.6 * np.interp(number, [ONSET, APEX, OFFSET], [0, 1, 0.2])
            image = 128 + 50 * np.sin(2 * np.pi * moved / 24) * np.cos(2 * np.pi * y / 32)
            image = np.stack([image, 0.8 * image, 0.6 * image], -1)
            assert cv2.imwrite(str(folder / f"{number}.png"), np.rint(image).astype(np.uint8)[..., ::-1])
        self.clip = Clip(
            CLIP_ID, "c", "s", "1", "", "", ONSET, (ONSET + OFFSET) // 2, OFFSET, "middle", 200.0,
            str(folder / "{}.png"), "", "",
        )  # fmt: skip
        frames = np.stack([cv2.imread(str(self.clip.path(n)))[..., ::-1] for n in self.clip.numbers])
        angle = np.linspace(0, 2 * np.pi, 68)
        landmarks = np.stack([48 + 30 * np.cos(angle), 52 + 30 * np.sin(angle)], -1).astype(np.float32)
        transform = clip_transform(frames[0], landmarks, "box112", top_margin=0.2, rotate=False, box="landmarks")
        cropped = warp(frames, transform, 112)
        self.landmarks = self.write("landmarks", landmarks)
        self.frames = self.write("frames", cropped, transform=transform)
        self.apex = self.write("apex", np.int64(APEX - ONSET))
        self.weights = folder / "magnet.safetensors"
        save_weights(MagNet(), self.weights)

    def write(self, kind: str, value: np.ndarray, **extras) -> ClipCache:
        path = self.folder / f"{kind}.h5"
        with CacheWriter(path, kind=kind, ragged=kind == "frames", params={}) as writer:
            writer.append(CLIP_ID, value, **extras)
        return ClipCache(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def magnified(world, name="dcma", full=False, product="apex_frame", **changes) -> np.ndarray:
    crop = {"crop": "box112", "top_margin": 0.2, "rotate": False, "box": "haar"}
    source = world.landmarks if full else world.frames
    recipe = BASE["magnify_eulerian"]["recipes"][name] | changes
    return magnify_eulerian.compute(
        world.clip, source=source, full=full, product=product, apex=world.apex, recipe=recipe, crop=crop
    )["data"]


def learned(world, **changes) -> np.ndarray:
    section = {key: BASE["magnify_learned"][key] for key in ("convention", "absolute")}
    section |= {"factors": BASE["uamrn"]["factors"]} | changes
    return magnify_learned.compute(
        world.clip, size=16, weights=str(world.weights), device="cpu", frames=world.frames, apex=world.apex, **section
    )["data"]


def spotted(world, missing="middle") -> np.ndarray:
    return spot.compute(world.clip, frames=world.frames, missing=missing, stride=1, head="removed")["data"]


RECIPE = "magnify_eulerian.recipes"
SMALL = {"d_model": 8, "blocks": 1}  # no factor depends on it
TABLE = [  # id, key, default, alternatives (each a change of keys), what is computed
    ("U-01", "uamrn.factors", "linspace_2_13_32",
     [{"factors": "arange_2_14_1"}, {"factors": "arange_2_34_1"}], learned),
    ("U-02", "magnify_learned.convention", "network", [{"convention": "one_plus"}], learned),
    ("U-03", "magnify_learned.absolute", False, [{"absolute": True}], learned),
    ("S-12", f"{RECIPE}.msmmt.alpha", 10, [{"low": 0.1, "high": 0.4}], functools.partial(magnified, name="msmmt")),
    ("D-01", f"{RECIPE}.dcma.filter", "iir", [{"filter": "ideal", "around": 3.2}], magnified),
    ("D-01", f"{RECIPE}.dcma.fps", None, [{"fps": 8}, {"fps": 4, "filter": "ideal"}], magnified),
    ("D-01", f"{RECIPE}.dcma.band", "hz", [{"band": "clip"}, {"band": "clip", "filter": "ideal"}], magnified),
    ("D-03", "spot.missing", "middle", [{"missing": "spotted"}], spotted),
]  # fmt: skip


@pytest.mark.parametrize(("name", "key", "default", "alternatives", "compute"), TABLE)
def test_every_reading_is_accepted_named_and_changes_the_output(name, key, default, alternatives, compute, world):
    section = BASE
    *parents, last = key.split(".")
    for part in parents:
        section = section[part]
    assert section[last] == default
    lines = [line for line in BASE_TEXT.splitlines() if name in line]
    assert any(line.strip().startswith((f"{last}:", f"{parents[-1]}:")) for line in lines), f"{name} is not named there"
    form = {
        "magnify_learned": MagnifyLearned, "magnify_eulerian": EulerianRecipe, "spot": Spot,
        "uamrn": lambda **knobs: models.build("uamrn", 3, **knobs | SMALL),
    }[parents[0]]  # fmt: skip
    form(**section)
    expected = compute(world)
    for other in alternatives:
        form(**section | other)
        found = compute(world, **other)
        assert found.shape[1:] == expected.shape[1:]
        assert not np.array_equal(found, expected), other


def test_u01_has_the_readings_that_a_model_may_name():
    assert {"linspace_2_13_32", "arange_2_14_1", "arange_2_34_1"} == set(FACTORS)


def test_d02_before_or_after_the_crop(world):
    """Not a value of a recipe but what a model declares: the magnified recording is cropped, or the crop magnified."""
    assert "D-02" in BASE_TEXT
    assert "D-02" in Path(magnify_eulerian.__file__).read_text()
    found = {}
    for product in (frames("box112", of=eulerian(recording(), "dcma")), eulerian(frames("box112"), "dcma")):
        source = dict(product.reads)["source"].kind
        found[product.chain] = magnified(world, full=source == "landmarks")
    assert list(found) == ["dcma-box112", "box112-dcma"]
    before, after = found.values()
    assert before.shape == after.shape == (112, 112, 3)
    assert not np.array_equal(before, after)
    # The same motion of the same face, though: nobody finds a box in this pattern, so both crops are the landmarks'.
    assert np.abs(before.astype(int) - after).mean() < 3


def test_u04_trained_elsewhere_or_here(tmp_path):
    """Frozen and cached each way: weights in the folder `user_weights`, else the bundled ones, else the task's own."""
    assert any("U-04" in line and "moving_layers" in line for line in BASE_TEXT.splitlines())
    declared = BASE["pretrain"]["runs"]["magnet"]
    assert declared["user_weights"] == "data/raw/magnet"
    entry = declared | {"user_weights": str(tmp_path), "pool": None, "steps": 1, "batch_size": 1, "size": 16}
    context = pretraining.Context(where="pretrain.runs.magnet")
    assert pretraining.run(entry | {"bundled": None}, context).about == {"weights": "trained here, 1 steps"}
    bundled = pretraining.run(entry | {"bundled": str(ROOT / entry["bundled"])}, context)
    assert str(bundled.about["weights"]).startswith("bundled: magnet.safetensors, trained here, ")
    torch.save(MagNet().state_dict(), tmp_path / "elsewhere.pth")
    assert pretraining.run(entry, context).about["weights"] == "given: elsewhere.pth"


def test_the_recipes_are_the_kernels_own():
    for name, recipe in RECIPES.items():
        section = BASE["magnify_eulerian"]["recipes"][name]
        assert {key: section[key] for key in recipe} == recipe
        assert {key: section[key] for key in section.keys() - recipe.keys()} == {"band": "hz", "fps": None, "around": 0}


def test_apex_and_clip_are_one_thing(world):
    """`apex_frame` is that frame of `frames`, and a causal filter reads no frame that comes later."""
    for changes in ({}, {"band": "clip"}, {"around": 0.1}):
        whole = magnified(world, product="frames", **changes)
        assert whole.shape == (OFFSET - ONSET + 1, 112, 112, 3)
        np.testing.assert_array_equal(magnified(world, **changes), whole[APEX - ONSET])
    recipe = BASE["magnify_eulerian"]["recipes"]["dcma"] | {"around": 0.1}
    numbers, keep = magnify_eulerian.frames_needed(world.clip, "apex_frame", world.apex, recipe)
    assert numbers == list(range(ONSET - 20, APEX + 1))
    assert numbers[keep] == [APEX]
    numbers, keep = magnify_eulerian.frames_needed(world.clip, "frames", world.apex, recipe | {"filter": "ideal"})
    assert numbers == list(range(ONSET - 20, OFFSET + 21))
    assert numbers[keep] == world.clip.numbers


def test_the_recording_ends_where_its_files_end(world):
    assert world.clip.numbers_around(100) == list(range(FIRST, LAST + 1))
    assert world.clip.numbers_around(0) == world.clip.numbers


def test_a_recording_that_is_read_is_in_the_key(world):
    """A frame before the onset is no part of the clip's own digest."""
    key = functools.partial(
        magnify_eulerian.fingerprint, world.clip, source=world.frames, full=False, product="frames",
        apex=world.apex,
    )  # fmt: skip
    recipe = BASE["magnify_eulerian"]["recipes"]["dcma"]
    inside, around = key(recipe=recipe), key(recipe=recipe | {"around": 0.1})
    path = world.clip.path(ONSET - 1)
    content = path.read_bytes()
    path.write_bytes(world.clip.path(LAST).read_bytes() + b" ")
    try:
        assert key(recipe=recipe) == inside
        assert key(recipe=recipe | {"around": 0.1}) != around
    finally:
        path.write_bytes(content)


def test_a_clip_that_is_too_short_is_named_with_the_way_out(world):
    with pytest.raises(Exception, match=r"^c/s/1: magnify: the band .* holds no bin .*0.105 s.*on_error: exclude"):
        magnified(world, filter="ideal")
