"""What the stages of a plan cost: how many there are, of how many clips, and what they took here before.

Times are those that stages/_run.py writes after a stage: the last run of each, which may have gone on from another.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mer import corpora
from mer.clips import read_index
from mer.corpora.facts import is_whole_corpus
from mer.errors import MerError
from mer.loso.nested import MEAN, cost
from mer.params import Params
from mer.plan import SINGLE, Plan, index_path, labels_of, reader_of

TIMINGS = Path("data/timings")
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Time:
    """Of one run: seconds, and the highest memory of the stage and of one of its workers, MB."""

    seconds: float
    peak: int
    peak_of_a_worker: int


def lines(stages: Plan, params: Params, root: Path = Path()) -> list[str]:
    """A line for each kind of stage, and their sum.

    clips: over all runs of the stage, of their corpora, or of the class lists of its experiments; `?` where that is not
    known before the corpus is indexed, and nothing for stages that read no clips of a corpus. minutes and MB: of the
    runs that this machine has measured.
    """
    clips = _Clips(params, root)
    kinds: Plan = {stage: entries for stage, entries in stages.items() if entries}
    kinds |= {stage: {"": {}} for stage in SINGLE}
    width = max(map(len, kinds))
    found = [f"{'stage':<{width}}{'runs':>6}{'clips':>9}  {'minutes':<24}{'peak MB':>8}{'a worker':>10}"]
    every: list[Time] = []
    for stage, entries in kinds.items():
        times = [t for key in entries if (t := measured(f"{stage}@{key}" if key else stage, root)) is not None]
        every += times
        counted = clips.text(clips.of(stage, key, entry) for key, entry in entries.items())
        row = f"{stage:<{width}}{len(entries):>6}{counted:>9}  {minutes(times, len(entries)):<24}"
        if times:
            row += f"{max(t.peak for t in times):>8,}{max(t.peak_of_a_worker for t in times):>10,}"
        found.append(row.rstrip())
        if stage == "train":
            found += [clips.models(key) for key in entries if params.experiments[key].candidates]
    count = sum(map(len, kinds.values()))
    found.append(f"{'all':<{width}}{count:>6}{'':>9}  {minutes(every, count)}")
    return found


def measured(name: str, root: Path = Path()) -> Time | None:
    """What a stage took here; None where nobody knows: never run, or a file that is none of the pipeline's."""
    try:
        record = json.loads((root / TIMINGS / f"{name}.json").read_text(encoding="utf-8"))
        return Time(float(record["seconds"]), int(record["peak_mb"]), int(record["peak_mb_of_a_worker"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def minutes(times: list[Time], runs: int) -> str:
    """Minutes of the runs that were measured, and how many of all these are."""
    if not times:
        return NOT_MEASURED
    found = sum(t.seconds for t in times) / 60
    total = f"{found:.1f}" if found >= 0.05 else "<0.1"
    return total if len(times) == runs else f"{total} ({len(times)} of {runs} measured)"


class _Clips:
    """How many clips a run has: by the index of its corpus where that is there, else by what is known of the corpus."""

    def __init__(self, params: Params, root: Path):
        self.params, self.root = params, root
        self.indices: dict[str, Any] = {}

    def text(self, counts: Iterable[int | str | None]) -> str:
        """The sum; `?` where one is not known, nothing where no run has clips."""
        found = [count for count in counts if count is not None]
        if not found:
            return ""
        return "?" if "?" in found else f"{sum(c for c in found if isinstance(c, int)):,}"

    def of(self, stage: str, key: str, entry: dict[str, Any]) -> int | str | None:
        args = entry.get("args", {})
        if stage in ("train", "evaluate"):
            experiment = self.params.experiments[key]
            corpus = self.params.corpora[experiment.corpus]
            labels = experiment.labels or labels_of(experiment.corpus, corpus)
            return self.selected(experiment.corpus, labels, experiment.classes or corpus.classes)
        if stage in ("index", "compose"):
            return self.whole(key)
        if stage == "join":
            return self.whole(Path(args["out"]).parts[2])
        return self.whole(Path(args["index"]).stem) if "index" in args else None

    def models(self, key: str) -> str:
        """How many models an experiment with candidates trains, as a line."""
        experiment = self.params.experiments[key]
        settings, corpus = self.params.train.of(experiment), self.params.corpora[experiment.corpus]
        table, folds, number = self.index(experiment.corpus), None, len(experiment.candidates)
        subjects = corpus.expect.subjects or self.published(experiment.corpus).get("subjects")
        if table is not None:
            labels = experiment.labels or labels_of(experiment.corpus, corpus)
            table = corpora.select(table, labels, experiment.classes or corpus.classes)
            subjects = len(table[["corpus", "subject"]].drop_duplicates())
            folds = {"corpus": table["corpus"].nunique(), "origin": 2}.get(settings.leave_out)
        if settings.selection == MEAN:
            return f"  {key}: {number} candidates, each as an experiment by itself"
        what = f"  {key}: {number} candidates, inside each fold {settings.inner or 'every subject'}"
        what += " groups of subjects" if settings.inner else ""
        if subjects is None or (table is None and settings.leave_out != "subject"):
            return f"{what}: trainings are counted when the corpus is indexed"
        return f"{what}: {(len(settings.seeds) or 1) * cost(subjects, number, settings.inner, folds):,} trainings"

    def index(self, name: str) -> Any:
        """The index of a corpus as a table; None where there is none yet."""
        if name not in self.indices:
            try:
                self.indices[name] = read_index(self.root / index_path(name))
            except MerError:
                self.indices[name] = None
        return self.indices[name]

    def whole(self, name: str) -> int | str:
        """All clips of a corpus."""
        corpus, table = self.params.corpora[name], self.index(name)
        if table is not None:
            return len(table)
        if corpus.parts is not None:
            counts = [self.whole(part) for part in corpus.parts]
            return "?" if "?" in counts else sum(c for c in counts if isinstance(c, int))
        if name in self.params.synthesize.runs:
            return self.params.synthesize.runs[name].clips
        if name in self.params.simulate.runs:
            return self.params.simulate.runs[name].subjects * self.params.simulate.runs[name].clips
        return corpus.expect.clips or self.published(name).get("clips", "?")

    def selected(self, name: str, labels: str, classes: int) -> int | str:
        """Those of them that a class list keeps."""
        corpus, table = self.params.corpora[name], self.index(name)
        if table is not None:
            try:
                return len(corpora.select(table, labels, classes))
            except MerError:
                return "?"
        if corpus.parts is not None and classes == corpus.classes:
            return corpus.expect.clips or "?"
        if corpus.expect.clips is not None or labels != labels_of(name, corpus):
            return "?"
        selection = self.published(name).get("selections", {}).get(classes)
        return sum(selection["counts"].values()) if selection else "?"

    def published(self, name: str) -> dict[str, Any]:
        """What is known beforehand of a whole corpus."""
        corpus = self.params.corpora[name]
        reader = reader_of(name, corpus)
        whole = corpus.parts is None and is_whole_corpus(name, reader) and corpus.expect.clips is None
        return getattr(corpora.load(reader), "FACTS", {}) if whole else {}
