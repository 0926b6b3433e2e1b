"""Readers of foreign files against files that nobody meant: each returns what it promises, or one line says why not.

The readers run in processes of their own (tests/helpers/reader.py): a crash, a hang of half a minute and a gigabyte of
memory fail the test as well. `MER_FUZZ=2000 pytest tests/test_fuzz.py` tries as many files a test; the same number
tries the same files. docs/reliability.md says how many were tried.
"""

import csv
import io
import json
import math
import os
import struct
import zipfile

import cv2
import h5py
import numpy as np
import openpyxl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from ruamel.yaml import YAML

from mer.storage.cache import CacheWriter
from mer.storage.seal import SEALED, sealed
from tests.helpers.reader import READERS, Reader

EXAMPLES = int(os.environ.get("MER_FUZZ", "12"))
fuzz = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck), print_blob=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def readers():
    found = {kind: Reader(kind) for kind in READERS}
    yield found
    for reader in found.values():
        reader.end()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def read(readers, folder, kind, name, content) -> str:
    path = folder / name
    path.write_bytes(content)
    return readers[kind].read(path)


# ---- how files are spoilt -------------------------------------------------------------------------------------------


@st.composite
def spoilt(draw, content: bytes):
    """Bytes with a few places flipped, overwritten, inserted, removed, doubled or cut."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        size = draw(st.sampled_from([1, 1, 2, 4, 8, 64, 600]))
        match draw(st.sampled_from(["bit", "bytes", "number", "insert", "remove", "double", "cut"])):
            case "bit" if data:
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "bytes":
                data[place : place + size] = draw(st.binary(min_size=size, max_size=size))
            case "number":  # a length or a count that lies
                kind = draw(st.sampled_from(["<I", ">I", "<H", ">H", "<Q", ">Q"]))
                most = 2 ** (8 * struct.calcsize(kind)) - 1
                value = draw(st.sampled_from([0, 1, 255, most // 2, most // 2 + 1, most - 1, most]))
                data[place : place + struct.calcsize(kind)] = struct.pack(kind, value)
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=size))
            case "remove":
                del data[place : place + size]
            case "double":
                data[place:place] = data[place : place + size]
            case "cut":
                del data[place:]
    return bytes(data)


@st.composite
def with_spoilt_part(draw, archive: bytes):
    """A zip archive, one part of which is spoilt and has a right checksum all the same."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as parts, zipfile.ZipFile(out, "w") as fresh:
        chosen = draw(st.sampled_from(parts.namelist()))
        for name in parts.namelist():
            content = parts.read(name)
            fresh.writestr(name, draw(spoilt(content)) if name == chosen else content)
    return out.getvalue()


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
ODD = st.sampled_from(
    ["", " ", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b", "a\nb", "\x1b[2J", "\x9b31m", "\u202ex", "\u200b", "=1+1",
     "@x", "<b>", "${x}", "{0.__class__}", "{:99999999}", "%s", "nan", "NaN", "inf", "-1", "1e999", "9" * 400,
     "x" * 5000, "46.0", "sub01", "/", "happiness", "EP01_01", "$a$b_$"]
)  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), ODD, TEXT,
    st.just([]), st.just({}), st.lists(ODD, max_size=3), st.dictionaries(ODD, st.integers(), max_size=2),
)  # fmt: skip

# ---- label sheets ---------------------------------------------------------------------------------------------------

HEADINGS = ["Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units", "Estimated Emotion"]
ROWS = [
    ["1", "EP01_01", "46", "49", "52", "12", "happiness"],
    ["1", "EP01_02f", "11", "/", "16", "4", "disgust"],
    ["2", "EP09_05", "3", "3", "9", "?", "others"],
]


def csv_of(grid) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(grid)
    return out.getvalue().encode("utf-8", "surrogatepass")


def xlsx_of(grid) -> bytes:
    book = openpyxl.Workbook()
    for row in grid:
        # What openpyxl does not write; a longer cell it cuts.
        book.active.append([ILLEGAL_CHARACTERS_RE.sub("", c) if isinstance(c, str) else c for c in row])
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


@st.composite
def grids(draw):
    grid = [list(HEADINGS), *(list(row) for row in ROWS)]
    for _ in range(draw(st.integers(1, 5))):
        row = draw(st.integers(0, len(grid) - 1))
        match draw(st.sampled_from(["cell", "cell", "cell", "row", "twice", "column", "gone"])):
            case "cell" if grid[row]:
                grid[row][draw(st.integers(0, len(grid[row]) - 1))] = draw(st.one_of(ODD, TEXT))
            case "row":
                grid.insert(row, draw(st.lists(st.one_of(ODD, TEXT), max_size=9)))
            case "twice":
                grid.append(list(grid[row]))
            case "column":
                place = draw(st.integers(0, 7))
                grid = [[*r[:place], draw(ODD), *r[place:]] for r in grid]
            case "gone" if len(grid) > 1:
                del grid[row]
    return grid


@fuzz
@given(grid=grids(), ending=st.sampled_from(["csv", "csv", "xlsx"]))
def test_cells_of_a_sheet(readers, folder, grid, ending):
    read(readers, folder, "sheet", f"s.{ending}", {"csv": csv_of, "xlsx": xlsx_of}[ending](grid))


@fuzz
@given(content=spoilt(csv_of([HEADINGS, *ROWS])))
def test_bytes_of_a_csv(readers, folder, content):
    read(readers, folder, "sheet", "s.csv", content)


BOOK = xlsx_of([HEADINGS, *ROWS])


@fuzz
@given(content=st.one_of(with_spoilt_part(BOOK), with_spoilt_part(BOOK), spoilt(BOOK)))
def test_bytes_of_an_xlsx(readers, folder, content):
    read(readers, folder, "sheet", "s.xlsx", content)


# ---- frames ---------------------------------------------------------------------------------------------------------

FACE = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
FACE[:8] = 128
IMAGES = {
    "jpg": cv2.imencode(".jpg", FACE)[1].tobytes(),
    "progressive.jpg": cv2.imencode(".jpg", FACE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
    "png": cv2.imencode(".png", FACE)[1].tobytes(),
    "16.png": cv2.imencode(".png", FACE.astype(np.uint16) * 257)[1].tobytes(),
    "bmp": cv2.imencode(".bmp", FACE)[1].tobytes(),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_bytes_of_an_image(readers, folder, kind):
    @fuzz
    @given(content=spoilt(IMAGES[kind]))
    def check(content):
        read(readers, folder, "image", f"a.{kind}", content)

    check()


# ---- parameters -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(root) -> bytes:
    """params.yaml as JSON, which is YAML and is written a hundred times as fast."""
    return json.dumps(YAML(typ="safe", pure=True).load((root / "params.yaml").read_text()), indent=1).encode()


@st.composite
def parameters(draw, content):
    """Parameters with values replaced, added, renamed or removed, anywhere."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        place = content
        for _ in range(draw(st.integers(0, 4))):
            inner = [
                v for v in (place.values() if isinstance(place, dict) else place) if isinstance(v, dict | list) and v
            ]
            if not inner:
                break
            place = draw(st.sampled_from(inner))
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        match draw(st.sampled_from(["replace", "replace", "add", "rename", "remove"])):
            case "add" if isinstance(place, dict):
                place[draw(st.one_of(ODD, TEXT))] = draw(VALUES)
            case "rename" if isinstance(place, dict):
                place[draw(st.one_of(ODD, TEXT))] = place.pop(key)
            case "remove" if len(place) > 1:
                del place[key]
            case _:
                place[key] = draw(VALUES)
    return content


@fuzz
@given(data=st.data())
def test_entries_of_the_parameters(readers, folder, sound, data):
    text = json.dumps(data.draw(parameters(json.loads(sound)))).replace("Infinity", ".inf").replace("NaN", ".nan")
    read(readers, folder, "params", "params.yaml", text.encode())


@fuzz
@given(data=st.data())
def test_bytes_of_the_parameters(readers, folder, root, data):
    read(readers, folder, "params", "params.yaml", data.draw(spoilt((root / "params.yaml").read_bytes())))


YAMLISH = st.lists(
    st.sampled_from(["a", ":", " ", "\n", "- ", "{", "}", "[", "]", "&a ", "*a", "<<", "!!", "!!python/name:os.system ",
                     "'", '"', "|", ">", "?", "%", "@", "#", "---", "...", "\t", "~", "0x", "1e", "2001-01-01",
                     "\\x", ","]),
    max_size=40,
).map("".join)  # fmt: skip


@fuzz
@given(text=st.one_of(YAMLISH.map(str.encode), TEXT.map(str.encode), st.binary(max_size=60)))
def test_any_text_as_parameters(readers, folder, text):
    said = read(readers, folder, "params", "params.yaml", text)
    assert said


# ---- products -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def product(folder) -> bytes:
    path = folder / "sound.h5"
    with CacheWriter(path, kind="frames", ragged=True, params={"margin": 0.2}, excluded={"c/s9/a": "no face"}) as file:
        for i, length in enumerate((3, 4, 2)):
            frames = np.random.default_rng(i).integers(0, 255, (length, 6, 5, 3), dtype=np.uint8)
            file.append(f"c/s{i}/a", frames, key=str(i), score=np.float64(i), box=np.arange(4.0))
    return path.read_bytes()


@fuzz
@given(data=st.data())
def test_bytes_of_a_product(readers, folder, product, data):
    content = data.draw(spoilt(product))
    said = read(readers, folder, "product", "a.h5", content)
    assert said or content == product


DTYPES = st.sampled_from(
    ["u1", ">u2", "<i8", "f2", ">f8", "?", "S3", "S1", "c16", h5py.string_dtype(), h5py.vlen_dtype(np.int32),
     h5py.ref_dtype, h5py.regionref_dtype, np.dtype([("a", "i4"), ("b", "S2")]),
     h5py.enum_dtype({"A": 1}, basetype="i1"), h5py.opaque_dtype(np.dtype("M8[s]"))]
)  # fmt: skip
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 9, 1000, 2**31, 2**62]), max_size=4).map(tuple)
NAMES = st.sampled_from(["data", "ids", "keys", "sums", "offsets", "extra/box", "extra/score", "extra", "more"])
ATTRIBUTES = st.one_of(
    VALUES.filter(lambda v: v is not None and not isinstance(v, dict | list)),
    st.sampled_from(["{}", "[]", "null", '{"a": 1}', '{"a": {"b": []}}', '"x"', "[" * 3000, "{" * 500, "NaN",
                     "[[1, 2]]"]),
    st.sampled_from([math.inf, math.nan, np.float16(np.inf), np.zeros((2, 2)), np.bool_(True), np.bytes_(b"\xff\xfe"),
                     b"frames"]),
)  # fmt: skip


def _small(file: h5py.File, name: str) -> bool:
    """Whether a dataset can be read here: another may say that it has any size."""
    return name in file and isinstance(file[name], h5py.Dataset) and file[name].size < 10_000


def spoil(draw, file: h5py.File) -> None:
    """One change through HDF5. What it names besides the file lies beside it, for HDF5 may write there."""
    name = draw(NAMES)
    match draw(st.sampled_from(["attribute", "dataset", "values", "link", "gone", "move", "layout"])):
        case "attribute":
            file.attrs[draw(st.sampled_from(["schema", "kind", "ragged", "parameters", "excluded"]))] = draw(ATTRIBUTES)
        case "dataset":
            file.pop(name, None)
            shape, dtype = draw(SHAPES), np.dtype(draw(DTYPES))
            dataset = file.create_dataset(name, shape, dtype)
            if math.prod(shape) < 2000 and dtype.kind != "O":  # or nothing lies in the file
                dataset[...] = np.zeros(shape, dtype)
        case "values" if _small(file, name):
            values = np.array(file[name][:])
            flat = (
                values.reshape(-1).view(np.uint8)
                if values.dtype.kind in "biufS" and values.size
                else np.zeros(0, np.uint8)
            )
            if len(flat):
                flat[draw(st.integers(0, len(flat) - 1))] = draw(st.integers(0, 255))
                file[name][...] = values
        case "link":
            file.pop(name, None)
            file[name] = draw(st.sampled_from([
                h5py.SoftLink("/data"), h5py.SoftLink("/nowhere"), h5py.SoftLink(f"/{name}"),
                h5py.ExternalLink("sound.h5", "data"), h5py.ExternalLink("other.raw", "/"),
            ]))  # fmt: skip
        case "gone":
            file.pop(name, None)
        case "move":
            other = draw(NAMES)
            if name in file and other not in file:
                file.move(name, other)
        case "layout" if _small(file, name) and file[name].shape:
            values = file[name][:]
            del file[name]
            layouts = [{"compression": "gzip"}, {"chunks": True}, {"maxshape": (None, *values.shape[1:])},
                       {"fletcher32": True}, {"external": [(f"{file.filename}.raw", 0, values.nbytes)]}]  # fmt: skip
            more = draw(st.sampled_from(layouts))
            if values.size:
                file.create_dataset(name, values.shape, values.dtype, **more)


@fuzz
@given(data=st.data())
def test_structure_of_a_product(readers, folder, product, data):
    """Changed through HDF5, and sealed as if the writer had done it: a seal is a sum and no signature."""
    path = folder / "forged.h5"
    path.write_bytes(product)
    with h5py.File(path, "r+") as file:
        for _ in range(data.draw(st.integers(1, 3))):
            try:
                spoil(data.draw, file)
            except (ValueError, TypeError, OSError, KeyError, RuntimeError, OverflowError):  # HDF5 does not write that
                continue
    content = path.read_bytes()
    start, end = json.loads(product[:SEALED].partition(b"\n")[0])["data"]
    if len(content) < end:
        return
    content = sealed(content[:start], end, content[end:]) + content[start:]
    read(readers, folder, "product", "b.h5", content)


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(folder) -> dict[str, bytes]:
    from mer.storage.weights import save_weights

    network = torch.nn.Linear(3, 4)
    save_weights(network, folder / "w.safetensors", {"weights": "trained here", "subjects": ["c/s1"]})
    torch.save(network.state_dict(), folder / "w.pt")
    torch.save(network.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    return {name: (folder / name).read_bytes() for name in ("w.safetensors", "w.pt", "old.pt")}


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "old.pt"])
def test_bytes_of_weights(readers, folder, weights, name):
    @fuzz
    @given(data=st.data())
    def check(data):
        whole = weights[name]
        content = data.draw(with_spoilt_part(whole) if name == "w.pt" and data.draw(st.booleans()) else spoilt(whole))
        read(readers, folder, "weights", f"a-{name}", content)

    check()


@fuzz
@given(data=st.data())
def test_head_of_safetensors(readers, folder, weights, data):
    content = weights["w.safetensors"]
    size = struct.unpack("<Q", content[:8])[0]
    head = json.loads(content[8 : 8 + size])
    note = json.loads(head["__metadata__"]["about"])
    if data.draw(st.booleans()):
        note.pop("sha256_of_content")  # as a writer of another program
    head["__metadata__"]["about"] = json.dumps(data.draw(parameters(note)))
    if data.draw(st.booleans()):
        head = data.draw(parameters(head))
    text = json.dumps(head).encode()
    read(readers, folder, "weights", "h.safetensors", struct.pack("<Q", len(text)) + text + content[8 + size :])


KINDS = {
    "sparse": lambda: torch.zeros(4, 3).to_sparse(),
    "csr": lambda: torch.eye(4, 3).to_sparse_csr(),
    "without content": lambda: torch.zeros(4, 3, device="meta"),
    "complex": lambda: torch.zeros(4, 3, dtype=torch.complex64),
    "of 8 bits": lambda: torch.zeros(4, 3).to(torch.float8_e4m3fn),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(4, 3), 1.0, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "a number": lambda: 3,
    "text": lambda: "\x1b[2J",
    "not finite": lambda: torch.full((4, 3), math.nan),
}


@pytest.mark.filterwarnings("ignore")  # torch's, about kinds of tensors that it will not keep
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_every_kind(readers, folder, kind):
    out = io.BytesIO()
    torch.save({"weight": KINDS[kind](), "bias": torch.zeros(4)}, out)
    said = read(readers, folder, "weights", "k.pt", out.getvalue())
    assert "not the weights of a network" in said or "is not a torch file" in said
