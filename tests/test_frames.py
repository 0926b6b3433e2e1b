"""Image files: what is read bit for bit as OpenCV reads it, and what is refused before it is decoded."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest

from mer import clips
from mer.clips import files_digest, read_frame
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


def test_a_bmp_that_was_not_finished_is_refused(tmp_path):
    data = encoded(".bmp")
    for name, damaged in (
        ("half", data[: len(data) // 2] + bytes(len(data) - len(data) // 2)),
        ("all", data[:54] + bytes(len(data) - 54)),
        ("hole", middle(data, bytes(4096))),
    ):
        refused(rf"{name}.bmp: is a damaged BMP \(4096 or more zero bytes .* save it as PNG", read_frame,
                written(tmp_path, damaged, f"{name}.bmp"))  # fmt: skip
    refused("cut.bmp: cannot be read as an image", read_frame,
            written(tmp_path, data[: len(data) // 2], "cut.bmp"))  # fmt: skip


def test_a_black_border_is_no_damage(tmp_path):
    image = TEXTURE.copy()
    image[:5] = 0  # 5 rows of 672 bytes, less than a disk block
    np.testing.assert_array_equal(read_frame(written(tmp_path, encoded(".bmp", image), "img1.bmp")), image[..., ::-1])


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
    refused("cannot be read .Is a directory.; unpack the corpus again", read, tmp_path)
    refused("cannot be read .File name too long.", read, tmp_path / ("x" * 5000))
    refused("none.jpg: frame is missing", read, tmp_path / "none.jpg")
