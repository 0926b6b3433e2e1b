"""The synthetic corpus: rendered micro-expressions with known motion, in CASME II's own layout.

It needs no licence, and the loader, the sheet and every later stage are those of CASME II:

    root/corpus/CASME2-coding.xlsx          the label sheet
    root/corpus/sub01/EP01_01/img46.jpg     frames, 200 fps, a few before the onset and after the offset
    root/truth.h5                           the true motion of every clip, see `mer.synthetic.truth`
    root/pool/                              other people, for pretraining, see `mer.synthetic.pool`

Everything is derived from (seed, subject, clip): neither the number of workers nor the order of the work changes a
byte. What makes it hard: people differ in how strongly and in which direction they move. Clips differ in intensity,
side and subset of action units. Classes share units. A head drift of about the same size is added to all motion.
"""

import io
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mer.errors import MerError
from mer.parallel import SERIAL, Engine, map_clips
from mer.synthetic import clip as make
from mer.synthetic.clip import COUNTS, FPS, PEAK, stream
from mer.synthetic.face import OVERSAMPLE
from mer.synthetic.motion import forward_flow, forward_points
from mer.synthetic.pool import FIRST_POOL_SUBJECT, write_pool
from mer.synthetic.truth import read_truth as read_truth
from mer.synthetic.truth import write_truth

PAD = 2  # frames kept before the onset and after the offset, as in CASME II's own folders
CONTENTS = ("corpus", "truth.h5", "pool")  # all that may lie in the corpus's folder


# ---- plan -----------------------------------------------------------------------------------------------------


def class_counts(clips: int, subjects: int) -> dict[str, int]:
    """How many clips each emotion gets: CASME II's proportions, and 3 clips at least where there are enough."""
    share = {name: clips * n / sum(COUNTS.values()) for name, n in COUNTS.items()}
    least = max(1, min(3, subjects, clips // (2 * len(COUNTS))))
    counts = {name: max(least, int(s)) for name, s in share.items()}
    while sum(counts.values()) != clips:
        # Largest remainder: the class furthest below its share gains one, the furthest above loses one.
        step = 1 if sum(counts.values()) < clips else -1
        open_ = [c for c in counts if step > 0 or counts[c] > least]
        name = max(open_, key=lambda c: step * (share[c] - counts[c]))
        counts[name] += step
    return counts


def plan(*, subjects: int = 8, clips: int = 100, seed: int = 0, length: tuple[int, int] = (24, 36)) -> pd.DataFrame:
    """The label sheet before anything is rendered, one row a clip, sorted by subject and clip.

    Columns: subject (1...), number (of the clip within its subject, 0...), filename, first and last (frames on disk),
    onset, apex (the true one), offset, annotated (False: the sheet says "/"), aus, emotion, peak (px at a 224 px
    face). `length` = least and most frames from onset to offset, both included.
    Raises MerError when the sizes cannot be met.
    """
    if not 3 <= subjects <= 99:
        raise MerError(f"synthesize.subjects: {subjects} is outside 3..99 (every class needs 3 subjects); change it")
    if clips < max(3 * subjects, 2 * len(COUNTS) - 1):
        raise MerError(
            f"synthesize.clips: {clips} clips are too few for {subjects} subjects; every subject gets 3 and every "
            f"class one: set at least {max(3 * subjects, 2 * len(COUNTS) - 1)}"
        )
    if not 8 <= length[0] <= length[1]:
        raise MerError(f"synthesize.length: {tuple(length)} must be (least, most) frames, 8 or more")
    rows = [
        _plan_clip(seed, subject, number, emotion, length)
        for subject, emotions in enumerate(_assign(subjects, clips, seed), start=1)
        for number, emotion in enumerate(emotions)
    ]
    table = pd.DataFrame(rows)
    rng = stream(seed, make.PLAN, 1)
    blank = rng.choice(clips, size=max(1, round(0.05 * clips)), replace=False)
    table["annotated"] = ~np.isin(np.arange(clips), blank)
    # Readers put the apex of these in the middle, so that is where it has to be.
    table["apex"] = np.where(table["annotated"], table["apex"], (table["onset"] + table["offset"]) // 2)
    return table


def _assign(subjects: int, clips: int, seed: int) -> list[list[str]]:
    """Emotions of every subject's clips: uneven sizes of 3 or more, each rarer class in some subjects only."""
    counts = class_counts(clips, subjects)
    rng = stream(seed, make.PLAN, 0)
    for _ in range(1000):
        weights = rng.dirichlet(np.full(subjects, 4.0))
        sizes = 3 + rng.multinomial(clips - 3 * subjects, weights)
        rows: list[list[str]] = [[] for _ in range(subjects)]
        for emotion in sorted(counts, key=counts.__getitem__):
            reach = max(3, round(subjects * rng.uniform(0.5, 0.8))) if emotion != "others" else subjects
            chosen = rng.permutation(subjects)[:reach]
            for k in range(counts[emotion]):
                room = [s for s in range(subjects) if len(rows[s]) < sizes[s]]
                free = [s for s in room if s in chosen] or room
                # The first three go to three people; after that by chance.
                new = [s for s in free if emotion not in rows[s]]
                pick = new if k < 3 and new else free
                rows[pick[rng.integers(len(pick))]].append(emotion)
        present = {e: sum(e in row for row in rows) for e in counts}
        if all(present[e] >= min(3, counts[e]) for e in counts):
            return [[row[i] for i in rng.permutation(len(row))] for row in rows]
    raise MerError(f"synthesize: no arrangement of {clips} clips over {subjects} subjects was found; set more clips")


def _plan_clip(seed: int, subject: int, number: int, emotion: str, length: tuple[int, int]) -> dict:
    rng = stream(seed, make.CLIP, subject, number)
    aus = make.draw_units(rng, emotion)
    frames = int(rng.integers(length[0], length[1] + 1))
    first = int(rng.integers(1, 300))
    onset = first + PAD
    peak = float(np.clip(make.strength(seed, subject) * np.exp(0.3 * rng.standard_normal()), *PEAK))
    return {
        "subject": subject,
        "number": number,
        "filename": f"EP{1 + number // 4:02d}_{1 + number % 4:02d}",
        "first": first,
        "onset": onset,
        "apex": onset + round((frames - 1) * rng.uniform(0.35, 0.65)),
        "offset": onset + frames - 1,
        "last": onset + frames - 1 + PAD,
        "aus": aus,
        "emotion": emotion,
        "peak": peak,
    }


@dataclass(frozen=True)
class _Job:
    row: dict
    seed: int
    attempt: int
    corpus: Path
    truth: Path


def _write_clip(job: _Job) -> None:
    """Frames into the corpus folder, truth into a file of its own (gathered later: HDF5 has one writer)."""
    row = job.row
    person = make.identity(job.seed, row["subject"], job.attempt)
    rng = stream(job.seed, make.RENDER, row["subject"], row["number"])
    motion = make.draw_motion(rng, person, row["aus"], row["peak"], make.style(job.seed, row["subject"]))
    folder = job.corpus / f"sub{row['subject']:02d}" / row["filename"]
    folder.mkdir(parents=True)
    for number, image in make.render_clip(person, motion, row, rng):
        make.write_jpeg(folder / f"img{number}.jpg", image)
    drift = motion.drift((row["apex"] - row["onset"]) / FPS)
    np.savez(
        job.truth / f"{row['subject']:02d}_{row['filename']}.npz",
        flow=forward_flow(motion.bumps.grid(), motion.amplitude, drift).astype(np.float16),
        landmarks_onset=motion.landmarks.astype(np.float32),
        landmarks_apex=forward_points(motion.landmarks, motion.bumps, motion.amplitude, drift).astype(np.float32),
    )


# ---- the corpus on disk ---------------------------------------------------------------------------------------


def synthesize(
    root: Path,
    *,
    subjects: int = 8,
    clips: int = 100,
    seed: int = 0,
    length: tuple[int, int] = (24, 36),
    pool_subjects: int = 6,
    pool_macro: int = 2,
    pool_clips: int = 1,
    pool_pairs: int = 12,
    accept: Callable | None = None,
    engine: Engine = SERIAL,
) -> None:
    """Write the corpus, its truth and the pool to `root`, replacing an earlier one in one step.

    pool_macro = images per pool subject and emotion, pool_clips and pool_pairs = per pool subject.
    accept(image (H, W, 3) uint8, landmarks (68, 2) float32) -> bool judges every new face; refused ones are redrawn.
    Raises MerError for impossible sizes, after 20 refused faces, or when `root` is a link or holds other files.
    """
    root = Path(root)
    if root.is_symlink():
        raise MerError(f"{root}: is a link, which no folder can be renamed over; name the folder itself, or remove it")
    others = sorted(p.name for p in root.iterdir() if p.name not in CONTENTS) if root.exists() else []
    if others:
        raise MerError(
            f"{root}: holds {others[0]!r}, which synthesize did not write; give synthesize a folder of its own"
        )
    table = plan(subjects=subjects, clips=clips, seed=seed, length=length)
    people = [*range(1, subjects + 1), *range(FIRST_POOL_SUBJECT, FIRST_POOL_SUBJECT + pool_subjects)]
    # One after the other: `accept` may hold what cannot travel to another process (a dlib detector).
    chosen = map_clips(
        lambda subject: make.choose_identity(
            seed, subject, accept, oversample=1 if subject >= FIRST_POOL_SUBJECT else OVERSAMPLE
        ),
        people,
        Engine(workers=1, progress=engine.progress),
        label="synthetic faces",
    )
    attempts = dict(zip(people, chosen, strict=True))

    part = root.with_name(f".{root.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    corpus, truth = part / "corpus", part / "truth"
    corpus.mkdir(parents=True)
    truth.mkdir()
    rows = table.to_dict("records")
    jobs = [_Job(row, seed, attempts[row["subject"]], corpus, truth) for row in rows]
    map_clips(_write_clip, jobs, engine, label="synthetic clips")
    _write_sheet(corpus / "CASME2-coding.xlsx", table)
    _gather_truth(part / "truth.h5", truth, rows)
    write_pool(
        part / "pool",
        subjects={s: attempts[s] for s in people if s >= FIRST_POOL_SUBJECT},
        seed=seed,
        macro=pool_macro,
        clips=pool_clips,
        pairs=pool_pairs,
        length=length,
        engine=engine,
    )
    if root.exists():
        shutil.rmtree(root)
    part.replace(root)


def _write_sheet(path: Path, table: pd.DataFrame) -> None:
    """CASME II's label sheet, with its two empty unnamed columns; equal tables give equal bytes."""
    import datetime

    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Sheet1"
    sheet.append(
        [
            *("Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None),
            *("Action Units", "Estimated Emotion"),
        ]
    )
    for row in table.to_dict("records"):
        apex = row["apex"] if row["annotated"] else "/"
        # A single unit is a number in the original, several are text.
        aus = int(row["aus"]) if row["aus"].isdigit() else row["aus"]
        frames = (row["onset"], apex, row["offset"])
        sheet.append([f"{row['subject']:02d}", row["filename"], None, *frames, None, aus, row["emotion"]])
    book.properties.creator = "mer"
    book.properties.created = datetime.datetime(2000, 1, 1)
    raw = io.BytesIO()
    book.save(raw)
    # openpyxl stamps the time of saving into the properties and into every zip entry.
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "docProps/core.xml":
                data = re.sub(rb"(<dcterms:modified[^>]*>)[^<]*", rb"\g<1>2000-01-01T00:00:00Z", data)
            entry = zipfile.ZipInfo(name, date_time=(2000, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, data)


def _gather_truth(path: Path, folder: Path, rows: list[dict]) -> None:
    """The clips' own truth files into one, in the order of the sheet; the folder is removed."""

    def of_clips() -> Iterator[tuple[str, dict]]:
        for row in rows:
            with np.load(folder / f"{row['subject']:02d}_{row['filename']}.npz") as motion:
                yield f"sub{row['subject']:02d}/{row['filename']}", row | dict(motion)

    write_truth(path, of_clips())
    shutil.rmtree(folder)
