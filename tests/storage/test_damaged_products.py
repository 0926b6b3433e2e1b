"""Product files whose bytes are not those that were written, or that another program wrote: refused, with the clip."""

import json
import re
import shutil

import h5py
import numpy as np
import pytest

from mer.errors import MerError
from mer.storage.build import build_product
from mer.storage.cache import CacheWriter, ClipCache
from mer.storage.seal import SEALED, sealed
from tests.helpers.refusals import refused

IDS = ["c/s0/a", "c/s0/b", "c/s1/a"]
LENGTHS = [3, 4, 2]
FRAME = (32, 32, 3)  # 3072 bytes


def frames(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 255, (LENGTHS[i], *FRAME), dtype=np.uint8)


def write(path, kind="frames"):
    """A ragged product of frames, or a fixed one of floats (3, 8, 8); extras in an order that is not that of names."""
    ragged = kind == "frames"
    with CacheWriter(path, kind=kind, ragged=ragged, params={"margin": 0.2}) as file:
        for i, clip_id in enumerate(IDS):
            data = frames(i) if ragged else frames(i)[0, :8, :8].transpose(2, 0, 1).astype(np.float32)
            file.append(clip_id, data, key=str(i), score=np.float64(i), box=np.arange(4.0) + i)
    return path


@pytest.fixture
def product(tmp_path):
    return write(tmp_path / "frames.h5")


def place(path) -> tuple[int, int]:
    """Where the data stand, in bytes."""
    start, end = json.loads(path.read_bytes()[:SEALED].partition(b"\n")[0])["data"]
    return start, end


def change(path, damage) -> None:
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)


# ---- data -----------------------------------------------------------------------------------------------------------


def test_what_is_sound_is_read(product):
    cache = ClipCache(product, "frames")
    for i, clip_id in enumerate(IDS):
        assert np.array_equal(cache[clip_id], frames(i))
        assert np.array_equal(cache.frame(clip_id, 1), frames(i)[1])
        assert list(cache.extras(clip_id)) == ["box", "score"]
        assert np.array_equal(cache.extra("box", clip_id), np.arange(4.0) + i)
    with h5py.File(product) as file:  # by any other reader, too
        assert np.array_equal(file["data"][3:7], frames(1))
    refused("frames.h5: has no 'boxes' beside its clips; did you mean 'box'", cache.extra, "boxes", IDS[0])


def flip(content, start):
    content[start + 5 * 3072 + 77] ^= 1


def zero(content, start):
    content[start + 5 * 3072 : start + 6 * 3072] = bytes(3072)


def swap_blocks(content, start):
    """Two blocks of 512 bytes of a frame change places, so every sum without an order stays."""
    a, b = start + 5 * 3072, start + 5 * 3072 + 1024
    content[a : a + 512], content[b : b + 512] = content[b : b + 512], content[a : a + 512]


def swap_frames(content, start):
    a, b = start + 5 * 3072, start + 6 * 3072
    content[a:b], content[b : b + 3072] = content[b : b + 3072], content[a:b]


@pytest.mark.parametrize("damage", [flip, zero, swap_blocks, swap_frames])
def test_changed_bytes_of_a_frame_are_named_wherever_they_are_read(product, damage):
    change(product, lambda content: damage(content, place(product)[0]))
    cache = ClipCache(product)
    message = (
        r"frames\.h5: is damaged: frame 2 of clip c/s0/b has other bytes than were written; run python -m tools\.repair"
    )
    for read in (lambda: cache[IDS[1]], lambda: cache.frame(IDS[1], 2), cache.load, lambda: cache.load([IDS[1]])):
        refused(message, read)
    assert np.array_equal(cache[IDS[0]], frames(0))  # the others are as good as before
    assert np.array_equal(cache.frame(IDS[1], 1), frames(1)[1])
    assert [cache.whole(clip_id) for clip_id in IDS] == [True, False, True]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0, 1e30])
def test_changed_values_of_a_fixed_product_are_named(tmp_path, value):
    path = write(tmp_path / "flow.h5", "flow")
    size = 3 * 8 * 8 * 4

    def damage(content):
        at = place(path)[0] + size + 40
        content[at : at + 4] = np.float32(value).tobytes()

    change(path, damage)
    cache = ClipCache(path)
    for read in (lambda: cache[IDS[1]], cache.load):
        refused(r"flow\.h5: is damaged: clip c/s0/b has other bytes", read)
    assert cache.load([IDS[2], IDS[0]]).shape == (2, 3, 8, 8)


def test_two_clips_that_changed_places(tmp_path):
    path = write(tmp_path / "flow.h5", "flow")
    size = 3 * 8 * 8 * 4

    def damage(content):
        a, b = place(path)[0], place(path)[0] + size
        content[a:b], content[b : b + size] = content[b : b + size], content[a:b]

    change(path, damage)
    refused("clip c/s0/a has other bytes", ClipCache(path).load)


def test_a_file_that_becomes_shorter_while_it_is_read(product):
    cache = ClipCache(product)
    product.write_bytes(product.read_bytes()[: place(product)[0] + 100])
    refused("frames.h5: is damaged: it has become shorter", lambda: cache[IDS[0]])
    product.unlink()
    refused("frames.h5: has gone while it was read; run dvc repro", lambda: cache[IDS[0]])


# ---- all but the data -----------------------------------------------------------------------------------------------


def test_no_damage_around_the_data_reaches_hdf5(product, monkeypatch):
    """HDF5 may never return from a damaged file, so it must not see one: eight bytes zeroed, at every place."""
    content = product.read_bytes()
    start, end = place(product)
    monkeypatch.setattr(h5py, "File", lambda *a, **k: pytest.fail("HDF5 has seen a damaged file"))
    places = [p for p in (*range(0, start, 8), *range(end, len(content), 8)) if any(content[p : p + 8])]
    assert len(places) > 200
    for p in places:
        product.write_bytes(content[:p] + bytes(8) + content[p + 8 :])
        refused(r"frames\.h5: is damaged: .*; run python -m tools\.repair \S*frames\.h5, then dvc", ClipCache, product)


def test_single_bits_of_the_seal(product):
    content = product.read_bytes()
    for p in range(SEALED):
        product.write_bytes(content[:p] + bytes([content[p] ^ 1]) + content[p + 1 :])
        refused(r"frames\.h5: is damaged: ", ClipCache, product)


def test_a_damaged_file_that_hdf5_never_returns_from(tmp_path):
    """Eight zeroed bytes of a small apex.h5, at places where HDF5 2.0 did not end."""
    with CacheWriter(tmp_path / "apex.h5", kind="apex", ragged=False, params={"kernel": 5}) as file:
        for i in range(100):
            file.append(f"synthetic/sub{i:02d}/EP", np.int64(i), key=f"{i:064d}")
    content = (tmp_path / "apex.h5").read_bytes()
    for p in range(SEALED + 2048, SEALED + 2304, 8):
        (tmp_path / "apex.h5").write_bytes(content[:p] + bytes(8) + content[p + 8 :])
        if any(content[p : p + 8]):
            refused("apex.h5: is damaged", ClipCache, tmp_path / "apex.h5")


def test_a_file_of_an_older_version_or_of_another_program(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["schema"] = 1
    refused(r"a\.h5: is no product of schema 2, but of an older version .* run python -m tools\.repair", ClipCache,
            tmp_path / "a.h5")  # fmt: skip


# ---- sealed, but not by the writer ----------------------------------------------------------------------------------


def forge(path, edit) -> None:
    """Let `edit` change the file through HDF5, then seal it as if it had been written so."""
    with h5py.File(path, "r+") as file:
        edit(file)
    content = path.read_bytes()
    start, end = place(path)
    path.write_bytes(sealed(content[:start], end, content[end:]) + content[start:])


def test_what_is_forged_without_a_change_is_read(product):
    forge(product, lambda file: None)
    assert len(ClipCache(product)) == 3


def elsewhere(file):
    del file["data"]
    file["data"] = h5py.ExternalLink("other.h5", "data")


def within(file):
    file.move("sums", "numbers")
    file["sums"] = h5py.SoftLink("/numbers")


def virtual(file):
    """Without its source it reads as zeros."""
    del file["data"]
    layout = h5py.VirtualLayout((9, *FRAME), np.uint8)
    layout[:] = h5py.VirtualSource("gone.h5", "data", (9, *FRAME))
    file.create_virtual_dataset("data", layout)


def external(file):
    del file["data"]
    file.create_dataset("data", (9, *FRAME), np.uint8, external=[("gone.raw", 0, 9 * 3072)])


def compressed(file):
    values = file["data"][:]
    del file["data"]
    file.create_dataset("data", data=values, compression="gzip")


def huge(file):
    """A table that says it has 8 TB."""
    del file["keys"]
    file.create_dataset("keys", (10**12,), np.int64)


def replaced(name, change):
    def edit(file):
        values = change(file[name][:])
        del file[name]
        file[name] = values

    return edit


def references(file):
    """They may lead anywhere."""
    del file["extra/box"]
    file.create_dataset("extra/box", (3,), h5py.ref_dtype)[:] = [file["ids"].ref] * 3


def linked_group(file):
    file.move("extra", "more")
    file["extra"] = h5py.SoftLink("/more")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (elsewhere, "data is a link"),
        (within, "sums is a link"),
        (virtual, "data does not lie in one piece"),
        (external, "data does not lie in one piece"),
        (compressed, "data does not lie in one piece"),
        (huge, "keys is larger than the file"),
        (linked_group, "extra is no group of its own"),
        (lambda file: file.__delitem__("data"), "data"),
        (lambda file: file.__delitem__("ids"), "ids"),
        (lambda file: file.attrs.__delitem__("kind"), "kind"),
        (lambda file: file.attrs.__setitem__("parameters", "[1]"), ""),
        (lambda file: file.attrs.__setitem__("excluded", "{"), ""),
        (replaced("offsets", lambda o: o * 10**12), "its clips do not fit its data"),
        (replaced("offsets", lambda o: o[::-1].copy()), "its clips do not fit its data"),
        (replaced("offsets", lambda o: np.array([0, 5, 5, 9])), "its clips do not fit its data"),
        (replaced("offsets", lambda o: o[:-1]), "its tables do not fit together"),
        (replaced("sums", lambda s: s[:-1]), "its clips do not fit its data"),
        (replaced("ids", lambda i: i[[0, 0, 2]]), "its tables do not fit together"),
        (replaced("extra/box", lambda b: b[:2]), "its tables do not fit together"),
        (replaced("ids", lambda i: np.arange(len(i))), "ids is .3,. int64"),
        (replaced("keys", lambda k: np.zeros((len(k), 2), "S3")), "keys is .3, 2. ."),
        (replaced("sums", lambda s: np.stack([s, s], 1)), "sums is .9, 2. uint32"),
        (replaced("sums", lambda s: s.astype(float)), "sums is .9,. float64"),
        (replaced("offsets", lambda o: o.astype(float)), "offsets is .4,. float64"),
        (replaced("extra/box", lambda b: np.array([b"a"] * 3)), "extra/box is .3,. .S1"),
        (references, "extra/box is .3,. object"),
        (lambda file: file.attrs.__setitem__("schema", np.inf), "cannot convert float infinity to integer"),
        (lambda file: file.attrs.__setitem__("excluded", '{"c/s0/a": ["no", "face"]}'), "excluded holds more than"),
        (lambda file: file.attrs.__setitem__("parameters", "[" * 100_000), "recursion"),
    ],
)  # fmt: skip
def test_what_the_writer_does_not_write_is_refused(product, edit, reason):
    forge(product, edit)
    refused(rf"frames\.h5: is not a product of this project \(.*{reason}.*\); run", ClipCache, product)


# ---- writing --------------------------------------------------------------------------------------------------------


def test_the_order_of_extras_is_that_of_their_names_whoever_brings_them(tmp_path):
    contents = []
    for n, names in enumerate((("score", "box", "attempt"), ("attempt", "box", "score"))):
        with CacheWriter(tmp_path / f"{n}.h5", kind="landmarks", ragged=False, params={}) as file:
            for i in range(3):
                file.append(f"c/{i}", np.zeros(4), **{name: np.full(len(name), i) for name in names})
        contents.append((tmp_path / f"{n}.h5").read_bytes())
    assert contents[0] == contents[1]


def test_a_clip_comes_once_with_the_same_extras_and_finite(tmp_path):
    with CacheWriter(tmp_path / "a.h5", kind="flow", ragged=False, params={}) as file:
        file.append("a", np.zeros(2), score=np.float64(np.inf))  # beside the data anything may stand
        refused(r"a\.h5: clip a comes twice", file.append, "a", np.ones(2), score=np.float64(1))
        refused(r"a\.h5: clip b has nothing beside its data, the clips before it score", file.append, "b", np.ones(2))
        refused(r"clip b has more, score beside its data", file.append, "b", np.ones(2), score=1.0, more=1.0)
        for value in (np.nan, -np.inf):
            refused(r"a\.h5: clip b: 1 of 2 values that were computed are not finite; look at its frames",
                    file.append, "b", np.array([0, value]), score=1.0)  # fmt: skip
        refused("clip b is complex128; a product holds numbers", file.append, "b", np.zeros(2, complex), score=1.0)
    assert ClipCache(tmp_path / "a.h5").ids == ["a"]


class Item:
    def __init__(self, number):
        self.id, self.number = f"c/{number}", number


def test_a_clip_that_is_not_finite_stops_or_is_excluded(tmp_path):
    def build(**more):
        build_product(
            tmp_path / "a.h5", [Item(i) for i in range(3)], lambda item: {"data": np.full(2, np.log(item.number))},
            lambda item: item.id, kind="flow", ragged=False, params={}, code="", spool=tmp_path / "spool", **more,
        )  # fmt: skip

    with np.errstate(divide="ignore"):
        refused("^clip c/0: 2 of 2 values that were computed are not finite", build)
        build(on_error="exclude")
    assert ClipCache(tmp_path / "a.h5").ids == ["c/1", "c/2"]
    assert list(ClipCache(tmp_path / "a.h5").excluded) == ["c/0"]


def test_the_remedy_is_quoted_for_a_shell(tmp_path):
    folder = tmp_path / "a b; c"
    folder.mkdir()
    shutil.copyfile(write(tmp_path / "x.h5"), folder / "x.h5")
    change(folder / "x.h5", lambda content: content.pop())
    with pytest.raises(MerError, match=re.escape(f"python -m tools.repair '{folder}/x.h5', then")):
        ClipCache(folder / "x.h5")
