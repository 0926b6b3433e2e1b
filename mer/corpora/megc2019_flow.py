"""The public flow release of the MEGC2019 composite: 442 real clips of 68 subjects as 28x28 (u, v, strain) images.

First released by the authors of STSTNet (Liong et al. 2019); a copy lies in github.com/wangzhifengharrison/HTNet.
Each image is an 8-bit PNG whose channels, read as RGB, are u, v and strain, each stretched to 0..255 by itself. So
magnitudes are lost and zero motion has no fixed grey level; mirroring is still exact (255 - u is the image of -u).
"""

import hashlib
import shlex
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from mer.errors import MerError, listed

LABELS = "combined_3_class2_for_optical_flow.csv"
IMAGES = "STSNet_whole_norm_u_v_os"
RELEASED = ("flow",)  # the kinds of products that the release holds in place of frames
SIZE = 28
NAMES = ("negative", "positive", "surprise")
CLASSES = {3: {name: {name} for name in NAMES}}
N_CLIPS, N_SUBJECTS, COUNTS = 442, 68, (250, 109, 83)
REPOSITORY = "https://github.com/wangzhifengharrison/HTNet"
REVISION = "91cf4bda0a2db50d638d46c04c5d7cf3b602d446"


def how(root: str | Path) -> tuple[str, str]:
    """The commands that bring images and labels to `root`."""
    images, labels = (
        f"dvc get --rev {REVISION} {REPOSITORY} {path} -o {shlex.quote((Path(root) / Path(path).name).as_posix())}"
        for path in (f"datasets/{IMAGES}", LABELS)
    )
    return images, labels


def image_folder(root: str | Path) -> Path:
    """The folder with the images below `root`, named as released or simply `images`."""
    for name in (IMAGES, "images"):
        if (Path(root) / name).is_dir():
            return Path(root) / name
    raise MerError(f"{root}: has no folder {IMAGES} (or images); bring it with: {how(root)[0]}")


def read_labels(root: str | Path) -> pd.DataFrame:
    """The released label csv as an index: one row a clip, with mer.clips.COLUMNS and `image`, its file.

    Raises MerError when the csv or the images are missing, changed, or do not count 442/68/(250, 109, 83).
    """
    root = Path(root)
    if not (root / LABELS).is_file():
        raise MerError(f"{root / LABELS}: is missing; bring it with: {how(root)[1]}")
    folder = image_folder(root)
    try:
        released = pd.read_csv(root / LABELS, dtype=str, keep_default_na=False)
        released = released[["dataset", "sub", "filename_o", "label"]].astype({"label": int})
    except (ValueError, KeyError) as error:  # pandas' parser and decoding errors are ValueErrors
        raise MerError(f"{root / LABELS}: is not the release's csv ({error}); bring it anew: {how(root)[1]}") from None
    images = released["sub"] + "_" + released["filename_o"] + " .png"
    missing = [name for name in images if not (folder / name).is_file()]
    if missing:
        raise MerError(
            f"{folder}: {len(missing)} of {len(images)} images are missing: {listed(missing)}; {how(root)[0]}"
        )
    table = pd.DataFrame(
        {
            "id": released["dataset"] + "/" + released["sub"] + "/" + released["filename_o"],
            "corpus": released["dataset"],
            "subject": released["sub"],
            "clip": released["filename_o"],
            "emotion": released["label"].map(dict(enumerate(NAMES))),
            "aus": "",
            "onset": 0,  # the release has no frames, only the flow between onset and apex
            "apex": 0,
            "offset": 0,
            "apex_source": "released",
            "fps": released["dataset"].map({"casme2": 200.0, "samm": 200.0, "smic": 100.0}),
            "frame": "",
            "absent": "",
            "edition": f"HTNet {REVISION[:8]}",
            "digest": "",
            "image": [str(folder / name) for name in images],
        }
    )
    counts = (
        len(table),
        len(table[["corpus", "subject"]].drop_duplicates()),
        tuple(int((released["label"] == i).sum()) for i in range(3)),
    )
    if counts != (N_CLIPS, N_SUBJECTS, COUNTS):
        raise MerError(
            f"{root / LABELS}: counts {counts[0]} clips, {counts[1]} subjects, classes {counts[2]}; the release has "
            f"{N_CLIPS}, {N_SUBJECTS}, {COUNTS}; bring it anew with: {how(root)[1]}"
        )
    place = {name: root if name == LABELS else folder for name in _released_hashes()}
    changed = [name for name, wanted in _released_hashes().items() if _sha256(place[name] / name) != wanted]
    if changed:
        remedy = how(root)[1 if changed == [LABELS] else 0]
        raise MerError(f"{root}: {len(changed)} files differ from the release: {listed(changed)}; bring anew: {remedy}")
    return table


def read_image(path: str | Path) -> np.ndarray:
    """One released image as a flow image: (3, 28, 28) float32 (u, v, strain).

    u and v in grey levels about the middle one (-127.5..127.5), so that a mirrored u is -u; strain 0..255.
    """
    from mer.clips import read_frame

    image = read_frame(Path(path))
    if image.shape != (SIZE, SIZE, 3):
        raise MerError(f"{path}: is {image.shape}, the release has ({SIZE}, {SIZE}, 3); bring it anew")
    flow = image.transpose(2, 0, 1).astype(np.float32)
    flow[:2] -= 127.5
    return flow


def as_released(flow: np.ndarray) -> np.ndarray:
    """Flow images in px, (N, 3, H, W), as `read_image` has those of the release: (N, 3, 28, 28) float32.

    Each channel of each image is stretched to 0..255 and rounded to whole levels; u and v are about the middle one. A
    channel without any motion is the middle (u, v) or 0 (strain).
    """
    import cv2

    out = np.empty((len(flow), 3, SIZE, SIZE), np.float32)
    for image, place in zip(flow, out, strict=True):
        small = cv2.resize(image.transpose(1, 2, 0), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        low, high = small.min((0, 1)), small.max((0, 1))
        grey = np.round((small - low) * (255 / np.where(high > low, high - low, 1))).transpose(2, 0, 1)
        grey[:2] = np.where((high > low)[:2, None, None], grey[:2] - 127.5, 0)
        place[...] = grey
    return out


def _released_hashes() -> dict[str, str]:
    """File name -> SHA-256, of the label csv and of every image."""
    lines = resources.files("mer.corpora").joinpath("megc2019_flow.sha256").read_text(encoding="utf-8").splitlines()
    return {line[66:].removeprefix(f"{IMAGES}/"): line[:64] for line in lines}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
