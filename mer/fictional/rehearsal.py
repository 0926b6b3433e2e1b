"""The raw data of a rehearsal: four corpora and three macro-expression sets, each in its real layout, and a tiny ViT.

Every class of every class list occurs, in three people at least. The clips are short and the people few: what is to be
seen is that each layout and each experiment goes through, not how well anything is recognised.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from mer.corpora import casme2, casme3, samm, smic
from mer.fictional import layouts, macro_sets
from mer.fictional.faces import UNITS, Accept, Cast
from mer.fictional.layouts import Take
from mer.macro import ckplus, fer2013, rafdb
from mer.parallel import SERIAL, Engine, map_clips
from mer.storage.files import replaced_folder

FRAMES = 9  # of a clip, from onset to offset: with what lies around, pairs of frames 5 to 11 apart are found
APEX = 4  # frames after the onset
APART = 40  # frame numbers between two onsets of a person, in what is one recording
PEOPLE = 4  # of a corpus: one is tested, one may be held out, two are left to learn from
MACRO_PEOPLE = 4  # of a macro set
VIT = {"width": 16, "layers": 2, "heads": 2, "side": 64}  # of the folder in transformers' format; side: px


# ---- clips ----------------------------------------------------------------------------------------------------------


def _takes(
    emotions: Sequence[str], numbers: Sequence[int], first: int, name: Callable[[int, int, str], str]
) -> list[Take]:
    """A clip of each person and emotion; emotion k is lacking in person k modulo their number, as in real corpora.

    numbers: of the people; first: number of the first onset; name: of person, place among their clips, emotion.
    """
    found = []
    for place, subject in enumerate(numbers):
        shown = [emotion for k, emotion in enumerate(emotions) if k % len(numbers) != place]
        for k, emotion in enumerate(shown):
            onset = first + APART * k
            offset = onset + FRAMES - 1
            found.append(
                Take(subject, name(subject, k, emotion), onset, onset + APEX, offset, emotion, UNITS[emotion.lower()])
            )
    return found


_CODES = {emotion: code for code, emotion in smic.CODES.items()}
_EVERYBODY = range(1, PEOPLE + 1)
# One clip of CASME II is named as the one that preset uamrn draws: sub02/EP03_02f, Figure 4.
CASME2 = _takes(
    list(casme2.CLASSES[5]), _EVERYBODY, 46, lambda s, k, e: "EP03_02f" if (s, k) == (2, 0) else f"EP{10 + k}_01"
)
SAMM = _takes(
    [e.capitalize() for e in [*samm.CLASSES[5], "disgust", "fear", "sadness"]], [6, 7, 11, 12], 5562,
    lambda s, k, e: f"{s:03d}_{k + 1}_1",
)  # fmt: skip
SMIC = _takes(list(smic.CLASSES[3]), _EVERYBODY, 61250, lambda s, k, e: f"s{s}_{_CODES[e]}_{k + 1:02d}")
CASME3 = _takes(list(casme3.CLASSES[7]), _EVERYBODY, 40, lambda s, k, e: "ab"[k % 2])
TAKES = {"casme2": CASME2, "samm": SAMM, "smic": SMIC, "casme3": CASME3}


def _grey(picture: layouts.Picture) -> layouts.Picture:
    return lambda subject, number: cv2.cvtColor(picture(subject, number), cv2.COLOR_RGB2GRAY)


def _casme2(root: Path, cast: Cast) -> None:
    layouts.casme2(root, takes=CASME2, picture=cast.frames(CASME2))


def _samm(root: Path, cast: Cast) -> None:
    layouts.samm(root, preface=True, takes=SAMM, picture=_grey(cast.frames(SAMM)))


def _smic(root: Path, cast: Cast) -> None:
    layouts.smic(root, takes=SMIC, picture=cast.frames(SMIC))


def _casme3(root: Path, cast: Cast) -> None:
    flat = np.full((4, 6), 38, np.uint8)
    layouts.casme3(root, takes=CASME3, picture=cast.frames(CASME3), depth=lambda subject, number: flat)


# ---- images ---------------------------------------------------------------------------------------------------------


def _ckplus(root: Path, cast: Cast) -> None:
    """A neutral frame and the peak of each emotion; one sequence has no label."""
    emotions = {
        f"S{100 + person:03d}/{number:03d}": (person, ckplus.CODES[number])
        for person in range(1, MACRO_PEOPLE + 1)
        for number in range(1, 8)
    }
    codes = {emotion: code for code, emotion in ckplus.CODES.items()}
    sequences: dict[str, tuple[int, int | None]] = {p: (2, codes[emotion]) for p, (_, emotion) in emotions.items()}
    sequences |= {"S101/008": (1, None)}

    def picture(place: str, number: int) -> np.ndarray:
        person, emotion = emotions.get(place, (1, "neutral"))
        return cv2.cvtColor(cast.still(person, emotion if number > 1 else "neutral"), cv2.COLOR_RGB2GRAY)

    macro_sets.ckplus(root, sequences, picture)


def _rafdb(root: Path, cast: Cast) -> None:
    shown: dict[str, tuple[int, str]] = {}
    codes: dict[str, int] = {}
    for person in range(1, MACRO_PEOPLE + 1):
        for code, emotion in rafdb.CODES.items():
            stem = f"{'test' if person == MACRO_PEOPLE else 'train'}_{len(codes) + 1:05d}"
            codes[stem], shown[stem] = code, (person, emotion)

    def picture(stem: str, edition: str) -> np.ndarray:
        return face(cast.still(*shown[stem]), 100) if edition == "aligned" else cast.still(*shown[stem])

    macro_sets.rafdb(root, codes, picture)


def _fer2013(root: Path, cast: Cast) -> None:
    usage = ["Training", "Training", "PublicTest", "PrivateTest"]
    rows, emotions = [], []
    for person in range(1, MACRO_PEOPLE + 1):
        for code, emotion in fer2013.CODES.items():
            grey = cv2.cvtColor(face(cast.still(person, emotion), 48), cv2.COLOR_RGB2GRAY)
            rows.append((code, usage[person - 1], grey))
            emotions.append(emotion)
    macro_sets.fer2013(root, rows, emotions)


def face(image: np.ndarray, side: int) -> np.ndarray:
    """The middle of a rendered frame, where the face is, as a square of so many px."""
    return cv2.resize(image[40:290, 35:285], (side, side), interpolation=cv2.INTER_AREA)


# ---- a network ------------------------------------------------------------------------------------------------------


def _vit(folder: Path, cast: Cast) -> None:
    """A ViT with random weights in transformers' format, as `task: fetch` reads it from a folder."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(cast.seed)
    config = transformers.ViTConfig(
        hidden_size=VIT["width"], num_hidden_layers=VIT["layers"], num_attention_heads=VIT["heads"],
        intermediate_size=4 * VIT["width"], image_size=VIT["side"], patch_size=16,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(folder)


# ---- all of it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    name: str
    seed: int
    make: Callable[[Path, Cast], None]


PARTS = tuple(
    _Part(name, seed, make)
    for seed, (name, make) in enumerate({
        "casme2": _casme2, "samm": _samm, "smic": _smic, "casme3": _casme3, "ckplus": _ckplus, "rafdb": _rafdb,
        "fer2013": _fer2013, "vit_official": _vit,
    }.items(), start=1)
)  # fmt: skip


def write(raw: Path, accept: Accept | None = None, engine: Engine = SERIAL) -> None:
    """Write everything below `raw` (data/raw of a project), each part whole or not at all; older parts are replaced.

    accept: as for mer.fictional.faces.Cast; a function that workers can import.
    """
    map_clips(partial(_write, raw=raw, accept=accept), PARTS, engine, "fictional corpora")


def _write(part: _Part, raw: Path, accept: Accept | None) -> None:
    with replaced_folder(raw / part.name) as folder:
        part.make(folder, Cast(part.seed, accept))
