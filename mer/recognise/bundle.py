"""A trained recogniser in one folder: what it is, how clips are processed for it, and its weights.

    card.json              everything but numbers of weights, see `Card`
    model.safetensors      a network; or model.skops, a scikit-learn estimator
    weights/<name>.safetensors   the networks that its products are made with

Nothing in it runs code when it is loaded. The card has the SHA-256 of every other file and its own.
"""

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mer import models
from mer.errors import MerError, listed
from mer.params import Params
from mer.storage.files import replace_file, unreadable

SCHEMA = 1
IN_PIXELS = "px"
NETWORK, ESTIMATOR = "model.safetensors", "model.skops"
# Types of skops' own default list, and what the estimators of this project are made of.
TRUSTED = "mer.models."


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")


class Range(_Part):
    """Of a number over the clips that were trained on: the 5 %, 50 % and 95 % quantiles."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Any) -> "Range | None":
        values = np.asarray([v for v in np.asarray(values, float).ravel() if math.isfinite(v)])
        if not len(values):
            return None
        low, middle, high = (round(float(q), 6) for q in np.quantile(values, (0.05, 0.5, 0.95)))
        return cls(low=low, middle=middle, high=high)


class Scored(_Part):
    """What leave-one-subject-out of the same experiment scored, on people whom the models had not seen."""

    uf1: float | None
    uar: float | None
    acc: float
    uf1_ci95: tuple[float, float] | None
    seeds: int
    n_clips: int
    n_subjects: int
    leaky: bool


class Card(_Part):
    """What stands in card.json.

    classes: their names, in the order of the outputs; corpus: it was trained on; subjects: `<corpus>/<subject>` that it
    has seen; seen: of its clips, by name: fps, face_px (height of the face in the frame), motion_px (the 95 % quantile
    of the flow's magnitude, px of the crop), entropy (of the calibrated probabilities of leave-one-subject-out, nats);
    temperature: see mer.evaluation.calibration; form: in which flow is given to it, IN_PIXELS, or the reader of the
    release that it learned from, into whose form mer.stretch brings it; params: the sections of params.yaml by which
    clips are processed; files: SHA-256 by name.
    """

    schema_: int = Field(SCHEMA, alias="schema")
    experiment: str
    model: str
    knobs: dict[str, Any]
    recipe: dict[str, Any] | None
    seed: int
    classes: list[str] = Field(min_length=2)
    corpus: str
    subjects: list[str]
    n_clips: int = Field(ge=1)
    class_counts: dict[str, int]
    loso: Scored | None
    temperature: float = Field(gt=0)
    seen: dict[str, Range | None]
    form: str
    made_with: dict[str, str]
    networks: dict[str, str]
    licence: str
    intended: str
    not_for: list[str]
    params: dict[str, Any]
    files: dict[str, str]


INTENDED = (
    "Research on methods of micro-expression recognition: which class of this corpus the movement between two frames "
    "of a face resembles most."
)
LICENCES = {
    "rendered": "Learned from faces that this project renders; no person's recording is in it.",
    "simulated": "Learned from simulated flow; no person's recording is in it.",
    "released": "Learned from public flow maps of licensed recordings; their owners' terms may hold for it too.",
    "recorded": "Learned from licensed recordings: what their owners allow for these holds for it too. Hand it on only "
    "if they do.",
}
NOT_FOR = [
    "Judging a person: an expression is no feeling, and a class of a corpus is no diagnosis, no lie and no intention.",
    "Decisions about people, as in hiring, education, policing, borders, courts, insurance or health.",
    "People, cameras, light, poses or movements unlike those that it was trained on; it says how unlike a clip is.",
    "Watching people who have not agreed to it.",
]


def write(folder: Path, card: dict[str, Any], model: Any, weights: dict[str, Path]) -> None:
    """Write a recogniser; the folder is there whole or not at all only as far as its caller sees to it.

    Args:
        card: the fields of `Card` without files.
        model: a network or an estimator.
        weights: name -> file of the networks that its products are made with; copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = NETWORK if models.load(card["model"]).recipe is not None else ESTIMATOR
    if name == NETWORK:
        from mer.storage.weights import save_weights

        save_weights(model, folder / name, {"weights": f"recogniser {card['experiment']}"})
    else:
        import skops.io

        replace_file(folder / name, _same_for_same(skops.io.dumps(model)))
    for title, source in sorted(weights.items()):
        replace_file(folder / f"weights/{title}.safetensors", source.read_bytes())
    files = {path.relative_to(folder).as_posix(): _sum(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop("card.json", None)
    full = Card.model_validate(card | {"files": files}).model_dump(by_alias=True, mode="json")
    text = json.dumps(full | {"sha256": _digest(full)}, indent=1)
    replace_file(folder / "card.json", (text + "\n").encode())


def _same_for_same(content: bytes) -> bytes:
    """A skops file whose bytes depend on the model alone.

    skops names objects and their files by where they lay in memory, and its archive has the time of writing; here they
    are numbered in the order of the schema, and have no date.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(files.pop("schema.json"))
    numbers: dict[int, int] = {}
    renamed: dict[str, bytes] = {}
    for count, node in enumerate(_nodes(schema), 1):
        # Whether two equal numbers or texts are one object depends on where they came from; it means nothing.
        old = node["__id__"]
        node["__id__"] = count if node.get("is_json") else numbers.setdefault(old, count)
        file = node.get("file")
        if file in files:
            node["file"] = re.sub(rf"^{old}(?=\.)", str(node["__id__"]), file)
            renamed[node["file"]] = files[file]
    if len(renamed) != len(files):
        raise MerError(f"{ESTIMATOR}: a file of skops' archive stands in no node; this version of skops is unknown")
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        for name, data in {"schema.json": json.dumps(schema, indent=1).encode(), **renamed}.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return found.getvalue()


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    """The nodes of skops' schema, in its order."""
    if isinstance(part, dict):
        if "__id__" in part:
            yield part
        for value in part.values():
            yield from _nodes(value)
    elif isinstance(part, list):
        for value in part:
            yield from _nodes(value)


def read_card(folder: str | Path) -> Card:
    """The card. Raises MerError where there is none, or it is damaged, edited, or of another version."""
    path = Path(folder) / "card.json"
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it is no object")
    except FileNotFoundError:
        raise MerError(
            f"{folder}: is no recogniser (it has no card.json); dvc repro fit@<experiment> makes one in "
            "data/recognisers/<experiment>"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        raise MerError(f"{path}: is damaged ({error}); copy the recogniser anew, or make it again") from None
    version = content.get("schema")
    if version != SCHEMA:
        raise MerError(
            f"{path}: is of version {version!r}, this code reads {SCHEMA}; make the recogniser again with it"
        )
    if content.pop("sha256", None) != _digest(content):
        raise MerError(f"{path}: was changed after it was written; copy the recogniser anew, or make it again")
    try:
        return Card.model_validate(content, strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise MerError(f"{path}: {where}: {first['msg'].lower()}; make the recogniser again with this code") from None


def check_files(folder: str | Path, card: Card) -> None:
    """Raise MerError for a file of the card that is missing or not the one that was written."""
    folder = Path(folder)
    missing = [name for name in card.files if not (folder / name).is_file()]
    if missing:
        raise MerError(f"{folder}: {listed(missing)} missing; copy the folder whole, or make the recogniser again")
    for name, expected in card.files.items():
        if _sum(folder / name) != expected:
            raise MerError(f"{folder / name}: is damaged; copy the recogniser anew, or make it again")


def read_model(folder: str | Path, card: Card) -> Any:
    """The network in evaluation mode, or the estimator.

    Raises MerError where its file is missing, damaged, or of another network than this code builds.
    """
    folder = Path(folder)
    check_files(folder, card)
    spec = models.load(card.model)
    if spec.recipe is None:
        import skops.io

        content = (folder / ESTIMATOR).read_bytes()
        alien = [name for name in skops.io.get_untrusted_types(data=content) if not name.startswith(TRUSTED)]
        if alien:
            raise MerError(f"{folder / ESTIMATOR}: holds {listed(alien)}, which no model here is made of; refused")
        return skops.io.loads(content, trusted=skops.io.get_untrusted_types(data=content))
    from mer.storage.weights import read_weights

    network = models.build(card.model, len(card.classes), **card.knobs)
    state = read_weights(folder / NETWORK, network.state_dict(), card.model, "make the recogniser again with this code")
    network.load_state_dict(state)
    return network.eval()


def params_of(card: Card) -> Params:
    """The parameters by which clips are processed. Raises MerError where this code has others."""
    found: dict[str, Any] = {}
    for name, content in card.params.items():
        field = Params.model_fields.get(name)
        try:
            if field is None or not isinstance(field.annotation, type):
                raise MerError(
                    f"recogniser {card.experiment}: there is no section {name}; make it again with this code"
                )
            found[name] = field.annotation.model_validate(content)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise MerError(
                f"recogniser {card.experiment}: parameter {name}.{where} is another in this version; make it again "
                "with this code"
            ) from None
    return Params.model_construct(**found)


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
