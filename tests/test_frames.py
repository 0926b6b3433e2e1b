"""Image files: what is read bit for bit as OpenCV reads it, and what is refused before it is decoded."""

import errno
import os
import struct
import zlib

import cv2
import numpy as np
import pytest

from mer import clips
from mer.clips import files_digest, read_frame
from mer.errors import FileError
from tests.helpers.reader import Reader
from tests.helpers.refusals import refused

RNG = np.random.default_rng(0)
# Blurred noise: edges everywhere, so that no stretch of a file says nothing.
TEXTURE = cv2.GaussianBlur(RNG.integers(0, 256, (160, 224, 3), dtype=np.uint8), (5, 5), 0)
KINDS = {
    "jpg": (".jpg", []),
    "jpg q50": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 50]),
    "jpg progressive": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "jpg restarts": (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 3]),
    "jpg optimised": (".jpg", [cv2.IMWRITE_JPEG_OPTIMIZE, 1]),
    "jpg 4:4:4": (".jpg", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]),
    "jpg 4:1:1": (".jpg", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411]),
    "png": (".png", []),
    "bmp": (".bmp", []),
}


def encoded(ending=".jpg", image=TEXTURE, options=()):
    return cv2.imencode(ending, image, list(options))[1].tobytes()


def written(folder, data, name="img1.jpg"):
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("shape", ["colour", "grey", "one pixel"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_file_is_read_as_opencv_reads_it(tmp_path, kind, shape):
    ending, options = KINDS[kind]
    image = {"colour": TEXTURE, "grey": TEXTURE[:, :, 0], "one pixel": TEXTURE[:1, :1]}[shape]
    data = encoded(ending, image, options)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    found = read_frame(written(tmp_path, data))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_what_stands_behind_the_end_of_a_jpeg_does_not_matter(tmp_path):
    """Cameras put previews and notes there."""
    np.testing.assert_array_equal(
        read_frame(written(tmp_path, encoded() + b"a note")), read_frame(written(tmp_path, encoded(), "img2.jpg"))
    )


# ---- damage -----------------------------------------------------------------------------------------------------


def middle(data, new):
    place = len(data) // 2
    return data[:place] + new + data[place + len(new) :]


DAMAGE = {
    "a disk block of noise": lambda data: middle(data, np.random.default_rng(1).bytes(4096)),
    "512 bytes of noise": lambda data: middle(data, np.random.default_rng(2).bytes(512)),
    "a disk block of zeros": lambda data: middle(data, bytes(4096)),
    "a disk block of ones": lambda data: middle(data, b"\xff" * 4096),
    "cut": lambda data: data[: len(data) // 2],
    "cut, with an end marker": lambda data: data[: len(data) // 2] + b"\xff\xd9",
    "not finished": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "sent as text": lambda data: data[:1000] + data[1000:].replace(b"\n", b"\r\n"),  # behind the header
}


@pytest.mark.parametrize("options", ["jpg", "jpg progressive", "jpg restarts"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_jpeg_is_refused(tmp_path, damage, options):
    path = written(tmp_path, DAMAGE[damage](encoded(options=KINDS[options][1])))
    refused(r"img1.jpg: is a damaged JPEG \(.+\); replace the file", read_frame, path)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_png_is_refused(tmp_path, damage):
    path = written(tmp_path, DAMAGE[damage](encoded(".png")), "img1.png")
    refused(r"img1.png: cannot be read as an image \(\d+ bytes\); replace the file", read_frame, path)


def refused_bmp(folder, data, name="img1.bmp"):
    refused(rf"{name}: is a damaged BMP \(4096 or more zero bytes .* save it as PNG", read_frame,
            written(folder, data, name))  # fmt: skip


def test_a_bmp_that_was_not_finished_is_refused(tmp_path):
    data = encoded(".bmp")
    for name, damaged in (
        ("half", data[: len(data) // 2] + bytes(len(data) - len(data) // 2)),
        ("nearly all", data[:8192] + bytes(len(data) - 8192)),
        ("hole", middle(data, bytes(4096))),
    ):
        refused_bmp(tmp_path, damaged, f"{name}.bmp")
    refused("cut.bmp: cannot be read as an image", read_frame,
            written(tmp_path, data[: len(data) // 2], "cut.bmp"))  # fmt: skip


def smooth(tone=1.0):
    """(480, 640, 3) uint8 from 40 to 220 without a black pixel, as a lit scene is."""
    waves = 130 + 60 * np.sin(np.linspace(0, 9, 480))[:, None] * np.cos(np.linspace(0, 7, 640))
    noise = np.random.default_rng(6).normal(0, 3, (480, 640, 3))
    return (tone * (waves[:, :, None] + (0, 10, 20) + noise)).clip(1, 255).astype(np.uint8)


def face(noise=0, edge=1.5, tone=1.0):
    """(480, 640, 3) uint8: a face and shoulders before a black background with grey levels 0 to `noise`.

    edge: px by which outlines are blurred.
    """
    y, x = np.mgrid[:480, :640]
    shape = ((x - 320) / 110) ** 2 + ((y - 230) / 140) ** 2 < 1
    shape |= (y > 340) & (abs(x - 320) < y - 260)
    share = shape.astype(np.float32)
    share = cv2.GaussianBlur(share, (0, 0), edge) if edge else share
    black = np.random.default_rng(5).integers(0, noise + 1, (480, 640, 3)) * (share == 0)[:, :, None]
    return (smooth(tone) * share[:, :, None] + black).astype(np.uint8)


def black(image, *place):
    image = image.copy()
    image[place] = 0
    return image


def turned(image, degrees):
    return cv2.warpAffine(image, cv2.getRotationMatrix2D((320, 240), degrees, 1), (640, 480))


def masked(image, *corners):
    mask = cv2.fillPoly(np.zeros(image.shape[:2], np.uint8), [np.array(corners, np.int32)], 1)
    return image * mask[:, :, None]


SPARSE = (np.random.default_rng(7).random((480, 640, 3)) < 0.001).astype(np.uint8)
BLACK_AREAS = {
    "all": np.zeros((480, 640, 3), np.uint8),
    "all but single bright pixels": SPARSE,
    "left half": black(smooth(), np.s_[:], np.s_[:320]),
    "right half": black(smooth(), np.s_[:], np.s_[320:]),
    "bar at the top": black(smooth(), np.s_[:57]),
    "bar at the bottom": black(smooth(), np.s_[-33:]),
    "both bars": black(black(smooth(), np.s_[:60]), np.s_[-60:]),
    "both bars, from a JPEG": cv2.imdecode(
        cv2.imencode(".jpg", black(black(smooth(), np.s_[:60]), np.s_[-60:]))[1], cv2.IMREAD_COLOR
    ),
    "all but a band": black(black(smooth(), np.s_[:200]), np.s_[280:]),
    "corner": black(smooth(), np.s_[:100], np.s_[:100]),
    "border": cv2.copyMakeBorder(smooth()[40:-40, 60:-60], 40, 40, 60, 60, cv2.BORDER_CONSTANT),
    **{f"bars turned by {d} degrees": turned(black(black(smooth(), np.s_[:40]), np.s_[-40:]), d)
       for d in (-1.0, -0.1, 0.05, 0.3)},
    "an oval mask": smooth() * (face(edge=0) > 0),
    "a mask with a nearly level edge": masked(smooth(), (150, 90), (490, 92), (470, 400), (160, 398)),
    **{f"face, noise {noise}, edge {edge}": face(noise, edge) for noise in (0, 1) for edge in (0, 0.8, 3)},
    "dark face": face(1, tone=0.1),
    "face below a bar, noise 1": black(face(1), np.s_[:50]),
}  # fmt: skip


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "grey"])
@pytest.mark.parametrize("area", BLACK_AREAS)
def test_a_black_area_is_no_damage(tmp_path, area, colour):
    """SMIC's raw frames are BMP of 640x480."""
    image = BLACK_AREAS[area]
    data = encoded(".bmp", image if colour else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(read_frame(written(tmp_path, data, "img1.bmp")), expected)


def upside_down(data):
    """The same rows in the file, with a negative height: the first one is the upper one."""
    height = struct.unpack("<i", data[22:26])[0]
    return data[:22] + struct.pack("<i", -height) + data[26:]


SCENES = {
    "lit": smooth(),
    "dark": smooth(0.05),
    "dark noise": np.random.default_rng(8).integers(0, 2, (480, 640, 3), "uint8"),
    "texture": np.tile(TEXTURE, (3, 3, 1))[:480, :640],
}


def lost(data, kind, place):
    size = {"block": 4096, "sectors": 4608, "blocks": 3 * 4096}.get(kind, len(data) - place)
    return data[:place] + bytes(size) + data[place + size :]


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "grey"])
@pytest.mark.parametrize("scene", SCENES)
def test_lost_blocks_of_a_bmp_are_refused(tmp_path, scene, colour):
    """At every place where both ends are not just at the edge of the picture."""
    image = SCENES[scene]
    data = encoded(".bmp", image if colour else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
    start, stride = int.from_bytes(data[10:14], "little"), 640 * (3 if colour else 1)
    rng = np.random.default_rng(9)
    for kind, unit in (("block", 4096), ("blocks", 4096), ("sectors", 512), ("rest", 4096), ("rest", 1)):
        for place in unit * rng.integers(8192 // unit, (len(data) - 16384) // unit, 6):
            if kind == "rest" and not 60 < (place - start) % stride < stride - 60:
                continue
            damaged = lost(data, kind, int(place))
            refused_bmp(tmp_path, damaged)
            refused_bmp(tmp_path, upside_down(damaged))


def test_a_block_that_is_lost_before_a_noisy_black_background_is_refused(tmp_path):
    """Unless both its ends are near the edge of the picture: of the blocks, 1 in 30."""
    data = encoded(".bmp", face(noise=3))
    for place in range(8 * 4096, len(data) - 8192, 13 * 4096):
        if 200 < (place - 54) % 1920 < 1700:
            refused_bmp(tmp_path, lost(data, "block", place))


def test_zeros_from_sector_to_sector_are_refused_whatever_stands_around(tmp_path):
    """A single bright pixel before and behind them; the same zeros elsewhere are a black area."""
    image = encoded(".bmp", BLACK_AREAS["all"])
    for shift in (0, 1):
        data = bytearray(image)
        data[200 * 512 - 1 + shift] = data[220 * 512 + shift] = 9
        if shift:
            read_frame(written(tmp_path, bytes(data), "img1.bmp"))
        else:
            refused_bmp(tmp_path, bytes(data))


def run_lengths(image):
    """An 8-bit BMP whose rows are pairs of a length, 1 to 255, and a grey level."""
    rows = b""
    for row in image[::-1]:
        starts = np.flatnonzero(np.diff(row, prepend=row[0] ^ 1))
        for begin, end in zip(starts, [*starts[1:], len(row)], strict=True):
            for _ in range((end - begin) // 255):
                rows += bytes([255, row[begin]])
            if (end - begin) % 255:
                rows += bytes([(end - begin) % 255, row[begin]])
        rows += b"\0\0"
    palette = b"".join(bytes([g, g, g, 0]) for g in range(256))
    height, width = image.shape
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows) + 2, 0, 0, 256, 256)
    place = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", place + len(rows) + 2, 0, 0, place) + header + palette + rows + b"\0\1"


def test_a_bmp_of_run_lengths(tmp_path):
    """Black areas are no zeros there, so many zeros are always damage."""
    image = black(smooth()[:, :, 0], np.s_[:200])
    data = run_lengths(image)
    np.testing.assert_array_equal(read_frame(written(tmp_path, data, "img1.bmp"))[:, :, 0], image)
    refused_bmp(tmp_path, middle(data, bytes(4096)))


@pytest.mark.parametrize("bits", [0, 7, 99])
def test_a_bmp_of_a_depth_that_there_is_not(tmp_path, bits):
    data = encoded(".bmp", BLACK_AREAS["all"])
    refused("img1.bmp: cannot be read as an image", read_frame,
            written(tmp_path, data[:28] + struct.pack("<H", bits) + data[30:], "img1.bmp"))  # fmt: skip


def test_what_is_no_image(tmp_path):
    for content in (b"", b"no image at all", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"BM", b"\x89PNG\r\n\x1a\n"):
        refused(rf"cannot be read as an image \({len(content)} bytes\); replace", read_frame,
                written(tmp_path, content))  # fmt: skip
    for ending, kind in ((".tiff", "TIFF"), (".webp", "WebP")):
        refused(f"img1.jpg: is a {kind} file; frames are read as JPEG, PNG or BMP: convert it", read_frame,
                written(tmp_path, encoded(ending)))  # fmt: skip


# ---- grey levels ------------------------------------------------------------------------------------------------

RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (RAMP % 1024, "of which 10 are used .bits 1 to 10, the largest value is 1023.* keep 4 grey levels; .* by 4,"),
        (RAMP % 4096, "of which 12 are used .bits 1 to 12, the largest value is 4095.* keep 16 grey levels; .* by 16,"),
        (RAMP * 16, "of which 12 are used .bits 5 to 16, .* keep 256 grey levels; .* by 256,"),
        (RAMP % 256, "of which 8 are used .bits 1 to 8, .* keep 1 grey levels; .* by 1,"),
        (RAMP * 15 + 1, "of which 16 are used"),
    ],
)
def test_more_than_eight_bits_are_refused_with_those_that_are_used(tmp_path, levels, message):
    path = written(tmp_path, encoded(".png", levels), "img1.png")
    refused(f"img1.png: has 16 bits a channel, {message}", read_frame, path)
    assert "convert all frames of the corpus in one way" in refused("16 bits", read_frame, path)


@pytest.mark.parametrize("factor", [256, 257])
def test_sixteen_bits_that_say_what_eight_do_are_read(tmp_path, factor):
    levels = RAMP % 256
    frame = read_frame(written(tmp_path, encoded(".png", (levels * factor).astype(np.uint16)), "img1.png"))
    np.testing.assert_array_equal(frame, np.repeat(levels[:, :, None], 3, axis=2))


def test_transparency_uses_no_bits_of_the_grey_levels(tmp_path):
    image = np.dstack([RAMP % 1024] * 3 + [np.full_like(RAMP, 65535)])
    refused("10 are used", read_frame, written(tmp_path, encoded(".png", image), "img1.png"))


def test_a_jpeg_of_twelve_bits_is_refused(tmp_path):
    data = encoded()
    place = data.index(b"\xff\xc0") + 4
    refused("has 12 bits a channel, frames have 8; .* by dividing by 16", read_frame,
            written(tmp_path, data[:place] + b"\x0c" + data[place + 1 :]))  # fmt: skip


# ---- limits -----------------------------------------------------------------------------------------------------


def png_header(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_header(width, height):
    data = encoded()
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def bmp_header(width, height):
    data = encoded(".bmp")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png_header(30_000, 30_000), "30000x30000"),
        (png_header(2**31 - 1, 2**31 - 1), "2147483647x2147483647"),  # beyond 2**30 pixels OpenCV throws
        (png_header(8193, 8192), "8193x8192"),
        (jpeg_header(65_500, 65_500), "65500x65500"),
        (bmp_header(30_000, -30_000), "30000x30000"),
    ],
    ids=["png", "png of 2**62", "png by one row", "jpg", "bmp"],
)
def test_a_picture_beyond_the_limit_is_refused_by_its_header(tmp_path, data, size):
    assert len(data) < 200_000
    refused(f"is {size}, a frame has at most 67108864 pixels; scale the corpus down", read_frame,
            written(tmp_path, data))  # fmt: skip


def test_a_picture_at_the_limit_is_not(tmp_path):
    """Its header passes; its rows are not there."""
    refused("cannot be read as an image", read_frame, written(tmp_path, png_header(8192, 8192)))


def test_a_jpeg_of_endless_scans_is_refused(tmp_path):
    data = encoded(options=KINDS["jpg progressive"][1])
    scan = data[data.rindex(b"\xff\xda") : -2]
    refused("more than 200 scans", read_frame, written(tmp_path, data[:-2] + scan * 200 + data[-2:]))


@pytest.mark.parametrize("read", [read_frame, lambda path: files_digest([path])])
def test_a_file_beyond_the_limit_a_pipe_and_a_folder(tmp_path, read):
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(clips.MAX_BYTES + 1)  # no byte of it is written
    refused("large.jpg: has 269484033 bytes, a frame at most 269484032; replace", read, tmp_path / "large.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    refused("pipe.jpg: is no file, but a pipe or a device", read, tmp_path / "pipe.jpg")
    refused("is no file, but a folder; put the frame itself there", read, tmp_path)
    refused("x: file name too long; shorten the name", read, tmp_path / ("x" * 5000))
    refused("none.jpg: frame is missing", read, tmp_path / "none.jpg")


@pytest.mark.parametrize("read", [read_frame, lambda path: files_digest([path])])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_an_error_of_the_system_is_no_fault_of_the_frame(tmp_path, monkeypatch, read, code):
    """FileError excludes no clip (tests/storage/test_cache.py)."""

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(FileError, match=f"^a.jpg: (?i:{os.strerror(code)});") as error:
        read("a.jpg")
    assert "unpack" not in str(error.value)


def test_a_damaged_frame_that_the_pipeline_rendered_is_repaired_and_not_replaced(tmp_path):
    """Its copy in DVC's cache is damaged as well, and nobody has another."""
    folder = tmp_path / "a corpus/sub01/EP01"
    folder.mkdir(parents=True)
    cut, none = written(folder, encoded()[:-400]), written(folder, b"none", "img2.jpg")
    for path, what in ((cut, r"is a damaged JPEG \(.+\)"), (none, r"cannot be read as an image \(4 bytes\)")):
        refused(rf"{path.name}: {what}; replace the file$", read_frame, path)
    (tmp_path / "truth.h5").touch()
    for path, what in ((cut, r"it is a damaged JPEG \(.+\)"), (none, r"it cannot be read as an image \(4 bytes\)")):
        remedy = rf"run python -m tools.repair '{path}', then dvc repro"
        with pytest.raises(FileError, match=rf"{path.name}: is damaged: {what}; {remedy}$"):
            read_frame(path)


@pytest.mark.parametrize(
    "data", [png_header(50_000, 50_000), jpeg_header(50_000, 50_000), bmp_header(50_000, 50_000)],
    ids=["png", "jpg", "bmp"],
)  # fmt: skip
def test_fifty_thousand_pixels_a_side_take_no_memory(tmp_path, data):
    with Reader("image", roomy=1 << 32) as reader:
        assert "is 50000x50000, a frame has at most" in reader.read(written(tmp_path, data))
        assert reader.grown < 20_000_000


@pytest.mark.parametrize("marker", [b"\xff\xd0", b"\xff\x01"])
def test_a_jpeg_whose_header_reads_in_two_ways_is_refused_by_libjpegs(tmp_path, marker):
    """Markers without a length: who takes what follows for one finds a frame header that is none."""
    filler = (
        b"\xff\xe5" + struct.pack(">H", 65_002) + bytes(65_000) + b"\xff\xe6" + struct.pack(">H", 5002) + bytes(5000)
    )
    data = bytearray(b"\xff\xd8" + marker + filler + jpeg_header(32_000, 32_000)[2:])
    place = 4 + 0xFFE5
    data[place : place + 10] = b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 8, 8) + b"\x03"
    refused("is 32000x32000, a frame has at most 67108864 pixels", read_frame, written(tmp_path, bytes(data)))


def test_a_png_that_ends_in_its_header_is_refused(tmp_path):
    data = encoded(".png")
    for length in range(8, 33):
        refused("cannot be read as an image", read_frame, written(tmp_path, data[:length], "img1.png"))


def test_a_chunk_of_a_png_that_says_two_gigabytes_takes_no_memory(tmp_path):
    """OpenCV takes what a chunk says before it reads any of it."""
    data = encoded(".png")
    path = written(tmp_path, data[:33] + struct.pack(">I", 2**31 - 1) + b"IDAT" + data[41:], "img1.png")
    with Reader("image", roomy=1 << 32) as reader:
        assert "cannot be read as an image" in reader.read(path)
        assert reader.grown < 50_000_000


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_note_of_a_png_that_unpacks_to_much_takes_no_memory(tmp_path, kind):
    note = b"n\0\0" + zlib.compress(bytes(400_000_000), 9)
    chunk = struct.pack(">I", len(note)) + kind + note + struct.pack(">I", zlib.crc32(kind + note))
    data = encoded(".png")
    with Reader("image", roomy=1 << 32) as reader:
        assert reader.read(written(tmp_path, data[:33] + chunk + data[33:], "img1.png")) == ""
        assert reader.grown < 50_000_000
