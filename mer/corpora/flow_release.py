"""A public release of the MEGC2019 composite as flow maps: 442 real clips of 68 subjects, 28x28 px, without frames.

A map is an 8-bit PNG of three channels, each of which was stretched to 0..255 by itself. So magnitudes are lost and
zero motion has no fixed grey level; mirroring is still exact (255 - u is the image of -u).
"""

import hashlib
import shlex
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from mer.errors import MerError, listed
from mer.stretch import SIZE

LABELS = "combined_3_class2_for_optical_flow.csv"
IMAGES = "STSNet_whole_norm_u_v_os"
NAMES = ("negative", "positive", "surprise")
N_CLIPS, N_SUBJECTS, COUNTS = 442, 68, (250, 109, 83)
# Who keeps a copy of the label csv, which all releases share, and where.
LABELS_FROM = ("https://github.com/wangzhifengharrison/HTNet", "91cf4bda0a2db50d638d46c04c5d7cf3b602d446", LABELS)
FLOWS = ("flow", "flow_offset")  # kinds that hold u, v and strain; other maps are read as they are


@dataclass(frozen=True)
class Release:
    """Where a release comes from, and which maps it has.

    module: its reader below mer.corpora, beside which `<module>.sha256` holds the sums of its files. edition: what the
    index calls it. suffixes: kind of product -> what the file's name has behind the clip's.
    people: whose recordings they are; two releases with the same ones cannot be parts of one composite.
    """

    module: str
    edition: str
    repository: str
    revision: str
    suffixes: dict[str, str]
    people: str = "megc2019"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of products that it holds in place of frames."""
        return tuple(self.suffixes)

    def how(self, root: str | Path) -> tuple[str, str]:
        """The commands that bring images and labels to `root`."""
        sources = (self.repository, self.revision, f"datasets/{IMAGES}"), LABELS_FROM
        images, labels = (
            f"dvc get --rev {rev} {url} {path} -o {shlex.quote((Path(root) / Path(path).name).as_posix())}"
            for url, rev, path in sources
        )
        return images, labels

    def image_folder(self, root: str | Path) -> Path:
        """The folder with the images below `root`, named as released or simply `images`."""
        for name in (IMAGES, "images"):
            if (Path(root) / name).is_dir():
                return Path(root) / name
        raise MerError(f"{root}: has no folder {IMAGES} (or images); bring it with: {self.how(root)[0]}")

    def read_labels(self, root: str | Path) -> pd.DataFrame:
        """The released label csv as an index: one row a clip, with mer.clips.COLUMNS, and a column a kind: its file.

        Raises MerError when the csv or the images are missing, changed, or do not count 442/68/(250, 109, 83).
        """
        root = Path(root)
        if not (root / LABELS).is_file():
            raise MerError(f"{root / LABELS}: is missing; bring it with: {self.how(root)[1]}")
        folder = self.image_folder(root)
        try:
            released = pd.read_csv(root / LABELS, dtype=str, keep_default_na=False)
            released = released[["dataset", "sub", "filename_o", "label"]].astype({"label": int})
        except (ValueError, KeyError) as error:  # pandas' parser and decoding errors are ValueErrors
            raise MerError(
                f"{root / LABELS}: is not the release's csv ({error}); bring it anew: {self.how(root)[1]}"
            ) from None
        stems = released["sub"] + "_" + released["filename_o"]
        images = {kind: [f"{stem}{suffix} .png" for stem in stems] for kind, suffix in self.suffixes.items()}
        names = [name for some in images.values() for name in some]
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise MerError(
                f"{folder}: {len(missing)} of {len(names)} images are missing: {listed(missing)}; {self.how(root)[0]}"
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
                "edition": self.edition,
                "digest": "",
                **{kind: [str(folder / name) for name in some] for kind, some in images.items()},
            }
        )
        self._check(root, folder, table, released["label"])
        return table

    def read_map(self, path: str | Path, kind: str = "flow") -> np.ndarray:
        """One released map: (3, 28, 28) float32.

        Of the kinds in FLOWS (u, v, strain): u and v in grey levels about the middle one (-127.5..127.5), so that a
        mirrored u is -u; strain 0..255. Of others the red, green and blue that were released, 0..255.
        """
        from mer.clips import read_frame

        image = read_frame(Path(path))
        if image.shape != (SIZE, SIZE, 3):
            raise MerError(f"{path}: is {image.shape}, the release has ({SIZE}, {SIZE}, 3); bring it anew")
        values = image.transpose(2, 0, 1).astype(np.float32)
        if kind in FLOWS:
            values[:2] -= 127.5
        return values

    def with_units(
        self, table: pd.DataFrame, corpus: str, sheet: pd.DataFrame, path: str | Path
    ) -> tuple[pd.DataFrame, int]:
        """The index with the action units of a label sheet in column `aus`, joined by the clips' ids.

        Args:
            table: the index of a release.
            corpus: which of its clips the sheet describes.
            sheet: as a corpus's `read_annotations` returns it.
            path: of the sheet, for messages.

        Returns:
            (index, how many clips have units now); clips that the sheet does not have keep what they have.

        Raises:
            MerError: no clip of the corpus, none of them in the sheet, or none with units.
        """
        units = dict(zip(f"{corpus}/" + sheet["subject"] + "/" + sheet["clip"], sheet["aus"], strict=True))
        own = table["corpus"] == corpus
        if not own.any():
            known = listed(sorted(table["corpus"].unique()))
            raise MerError(f"{path}: is the sheet of {corpus}, and the release has clips of {known}; correct sheets")
        found = table["id"].map(units).where(own)
        if not found.notna().any():
            raise MerError(f"{path}: has none of the release's {own.sum()} clips of {corpus}; take that corpus's sheet")
        if not found.fillna("").str.contains(r"\d").any():
            raise MerError(f"{path}: tells no action unit of the release's clips of {corpus}; leave it out of sheets")
        return table.assign(aus=found.fillna(table["aus"])), int(found.fillna("").str.contains(r"\d").sum())

    def _check(self, root: Path, folder: Path, table: pd.DataFrame, label: pd.Series) -> None:
        """Raise MerError for other counts than the release's, and for files with other sums."""
        counts = (
            len(table),
            len(table[["corpus", "subject"]].drop_duplicates()),
            tuple(int((label == i).sum()) for i in range(3)),
        )
        if counts != (N_CLIPS, N_SUBJECTS, COUNTS):
            raise MerError(
                f"{root / LABELS}: counts {counts[0]} clips, {counts[1]} subjects, classes {counts[2]}; the release "
                f"has {N_CLIPS}, {N_SUBJECTS}, {COUNTS}; bring it anew with: {self.how(root)[1]}"
            )
        sums = self._sums()
        place = {name: root if name == LABELS else folder for name in sums}
        changed = [name for name, wanted in sums.items() if _sha256(place[name] / name) != wanted]
        if changed:
            remedy = self.how(root)[1 if changed == [LABELS] else 0]
            raise MerError(
                f"{root}: {len(changed)} files differ from the release: {listed(changed)}; bring anew: {remedy}"
            )

    def _sums(self) -> dict[str, str]:
        """File name -> SHA-256, of the label csv and of every image."""
        text = resources.files("mer.corpora").joinpath(f"{self.module}.sha256").read_text(encoding="utf-8")
        return {line[66:].removeprefix(f"{IMAGES}/"): line[:64] for line in text.splitlines()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
