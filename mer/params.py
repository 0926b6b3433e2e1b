"""The typed form of params.yaml: one class a section, refusing at load what cannot work.

A person decides here: `corpora`, `experiments` and the knobs of each stage. Which stages follow from them is derived by
mer.plan. A stage's section has its name. Sections that are no stage hold the knobs of a model (`ststnet:`), which apply
to all experiments with it; the models declare and check them (mer.models).
"""

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, ValidationError, model_validator

from mer.errors import MerError, listed, short, suggestion
from mer.products import named_factors
from mer.storage.yaml_files import read_yaml

# Keys become names of files and stages: nothing that a shell or a path could understand otherwise.
Key = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,63}$")]
ExperimentKey = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Experiments = Annotated[str, StringConstraints(pattern=r"^[a-z0-9*][a-z0-9*-]{0,63}$")]  # * stands for any letters
Folder = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f]+$")]
Classes = Literal[3, 4, 5, 7, 8]
Seed = Annotated[int, Field(ge=0)]
Selection = Literal["last_epoch", "inner_val", "nested", "mean", "test_best"]
LeaveOut = Literal["subject", "corpus", "origin"]
Inner = Annotated[int, Field(ge=0, le=100)]
Validation = Literal["held_out", "test_subject"]
HeldOut = Annotated[float, Field(gt=0, lt=1)]
OnError = Literal["stop", "exclude"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SynthesizeRun(Section):
    """Size of a synthetic corpus; at most CASME II's."""

    subjects: int = Field(ge=3, le=26)
    clips: int = Field(ge=15, le=246)
    pool_subjects: int = Field(ge=0, le=2000)
    pool_images: int = Field(ge=1, le=50)
    pool_clips: int = Field(default=1, ge=0, le=50)
    pool_pairs: int = Field(default=12, ge=0, le=100)

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.clips < 3 * self.subjects:
            raise ValueError(f"clips is {self.clips}, but every one of the {self.subjects} subjects needs at least 3")
        return self


class Synthesize(Section):
    runs: dict[Name, SynthesizeRun]
    seed: Seed


class SimulateRun(Section):
    """Size of a corpus of simulated flow: how many faces, and maps of each; nuisance: of mer.synthetic.flow_maps."""

    subjects: int = Field(ge=2, le=512)  # mer.synthetic.flow_maps.FACES
    clips: int = Field(ge=3, le=999)  # ids have three digits, so that their order is that of the numbers
    nuisance: dict[str, Any] = {}


class Simulate(Section):
    runs: dict[Name, SimulateRun]
    seed: Seed


class Expected(Section):
    """Counts that a corpus is known to have; null: not checked."""

    clips: int | None = Field(default=None, ge=1)
    subjects: int | None = Field(default=None, ge=1)


class Corpus(Section):
    """A corpus, by its name. What is not said follows from the name.

    reader: the module that reads its layout; raw: the folder; watch: what DVC looks at for changes, the folder's
    manifest (make manifest) or the folder itself; labels: whose class lists apply; classes: how many of them; expect:
    counts to be checked. parts: a composite of other corpora, which has no layout of its own. sheets: of a release
    without action units the label sheets that have them, by the corpus in its clips' ids.
    """

    reader: Name | None = None
    raw: Folder | None = None
    watch: Folder | None = None
    labels: Name | None = None
    classes: Classes
    expect: Expected = Expected()
    parts: list[Key] | None = Field(default=None, min_length=2, max_length=5)
    sheets: dict[Name, Folder] = Field(default={}, max_length=2)

    @model_validator(mode="after")
    def _composite(self) -> Self:
        for name in ("reader", "raw", "watch", "sheets"):
            if self.parts is not None and getattr(self, name):
                raise ValueError(f"has parts, so {name} belongs to them; remove it")
        return self


class Index(Section):
    on_error: OnError


class Landmarks(Section):
    backend: Literal["dlib", "face_alignment", "haar", "truth"]
    upsample: int = Field(ge=0, le=2)
    padded: bool
    min_score: float | None
    weights: str | None
    on_error: OnError


class Align(Section):
    top_margin: float = Field(ge=0, le=1)
    rotate: bool
    box: Literal["haar", "landmarks"]
    on_error: OnError


class EulerianRecipe(Section):
    alpha: float = Field(ge=0)
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    band: Literal["hz", "clip"]
    filter: Literal["iir", "ideal", "butterworth"]
    fps: float | None = Field(gt=0)
    around: float = Field(ge=0)
    lambda_c: float = Field(ge=0)
    chroma: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _band(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g}, high {self.high:g}; a band needs low below high")
        if self.fps and self.high > self.fps / 2 and self.band == "hz":
            raise ValueError(f"high is {self.high:g} Hz, above fps/2 = {self.fps / 2:g} Hz; lower it, or raise fps")
        return self


class MagnifyEulerian(Section):
    recipes: dict[Name, EulerianRecipe]
    on_error: OnError


class MagnifyLearned(Section):
    size: int = Field(ge=16, le=1024)
    convention: Literal["network", "one_plus"]
    absolute: bool


class MovingLayersRun(Section):
    """MagNet trained on moving layers, made of textures and the portraits of a synthetic pool."""

    task: Literal["moving_layers"]
    network: Literal["magnet"]
    user_weights: Folder | None
    bundled: Folder | None = None  # a file
    pool: Name | None
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    size: int = Field(ge=16, multiple_of=4)
    lr: float = Field(gt=0)
    regularisation: float = Field(ge=0)
    first: Literal["linear", "random"]
    skin: float = Field(ge=0, le=1)


class MacroRun(Section):
    """A network that learns the macro-expressions in `raw`; where it holds no set, those of a synthetic pool."""

    task: Literal["macro"]
    network: Name
    knobs: dict[str, Any] = {}
    user_weights: Folder | None
    bundled: Folder | None = None  # a file
    reader: Literal["fer2013", "ckplus", "rafdb"]
    options: dict[str, str | int] = {}
    raw: Folder
    watch: Folder
    crop: Literal["none", "box224"]
    pool: Name | None
    first: Literal["auto", "imagenet", "random"]
    size: int = Field(ge=32, le=512)
    steps: int = Field(ge=0)
    batch_size: int = Field(ge=2)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)


class MacroSet(Section):
    """Where a macro-expression set lies; what is not said follows from its name: data/raw/<name>, watched itself."""

    raw: Folder | None = None
    watch: Folder | None = None
    options: dict[str, str | int] = {}
    crop: Literal["none", "box224", "box112"] = "none"


class MacroSetsRun(Section):
    """A network that learns three classes of macro-expressions of several sets, or of a synthetic pool."""

    task: Literal["macro_sets"]
    network: Name
    knobs: dict[str, Any] = {}
    user_weights: Folder | None
    bundled: Folder | None = None  # a file
    sets: dict[Literal["ckplus", "rafdb", "fer2013"], MacroSet] = Field(min_length=1)
    missing: Literal["refuse", "leave_out"]
    pool: Name | None
    balance: Literal["undersample", "oversample", "weights"]
    held_out: HeldOut
    size: int = Field(ge=16, le=512)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    optimizer: Literal["adam", "adamw"]
    lr: float = Field(gt=0)
    factor: float = Field(gt=0, lt=1)
    patience: int = Field(ge=0)
    stop: int = Field(ge=0)
    mirror: bool

    def located(self) -> dict[str, dict[str, Any]]:
        """The sets with what follows from their names: raw, watch, options, crop."""
        found: dict[str, dict[str, Any]] = {}
        for name, one in self.sets.items():
            raw = one.raw or f"data/raw/{name}"
            found[name] = {"raw": raw, "watch": one.watch or raw, "options": dict(one.options), "crop": one.crop}
        return found


class FetchRun(Section):
    """The official weights of a network: source is a name on the hub or a folder, revision a commit or tag there."""

    task: Literal["fetch"]
    network: Name
    user_weights: Folder | None
    source: Folder
    revision: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class FramePairsRun(Section):
    """A network that learns from pairs of unlabelled frames: of corpora, or without any of a synthetic pool."""

    task: Literal["frame_pairs"]
    network: Name
    knobs: dict[str, Any] = {}
    user_weights: Folder | None
    bundled: Folder | None = None  # a file
    corpora: list[Key] = Field(max_length=4)
    exclude_subjects: list[str]
    pool: Name | None
    size: int = Field(ge=16, le=1024)
    gap: list[float] = Field(min_length=2, max_length=2)
    unit: Literal["frames", "ms"]
    ratio: float = Field(gt=0, lt=1)
    min_block: float = Field(gt=0)
    min_aspect: float = Field(gt=0, le=1)
    count: Literal["once", "literal"]
    gamma: float = Field(ge=0)
    beta: float = Field(ge=0)
    agreement: Literal["mse", "mse_stopgrad", "dino"]
    crop_area: list[float] = Field(min_length=2, max_length=2)
    target: Literal["imagenet", "unit", "patch"]
    epochs: int = Field(ge=1)
    global_batch: int = Field(ge=1)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    bf16: bool
    checkpointing: bool

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name, low, high in (("gap", 0, math.inf), ("crop_area", 0, 1)):
            least, most = getattr(self, name)
            if not low < least <= most <= high:
                raise ValueError(f"{name} is [{least:g}, {most:g}]; needed are numbers above {low}, the least first")
        if self.unit == "frames" and self.gap[0] < 1:
            raise ValueError(f"gap is [{self.gap[0]:g}, {self.gap[1]:g}] frames; the least is 1")
        return self

    def shards(self) -> dict[str, str]:
        """The frames that are read: name of stage frames -> corpus, or for the pool its folder."""
        if self.corpora or self.pool is None:
            return {f"{corpus}-{self.size}": corpus for corpus in self.corpora}
        return {f"{self.pool}-pool-{self.size}": f"data/raw/{self.pool}/pool/clips"}


class SimulatedFlowRun(Section):
    """A network that learns action units from simulated flow maps; nuisance: changes of mer.synthetic.flow_maps."""

    task: Literal["simulated_flow"]
    network: Name
    knobs: dict[str, Any] = {}
    user_weights: Folder | None
    bundled: Folder | None = None  # a file
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    emotion: float = Field(ge=0)
    nuisance: dict[str, Any] = {}


class Pretrain(Section):
    runs: dict[
        Name,
        Annotated[
            MovingLayersRun | MacroRun | MacroSetsRun | FramePairsRun | SimulatedFlowRun | FetchRun,
            Discriminator("task"),
        ],
    ]
    seed: Seed


class Spot(Section):
    missing: Literal["middle", "spotted"]
    stride: int = Field(ge=1, le=16)
    head: Literal["removed", "kept"]


class Flow(Section):
    tau: float = Field(gt=0, le=0.25)
    lambda_: float = Field(gt=0)
    theta: float = Field(gt=0)
    scales: int = Field(ge=1)
    warps: int = Field(ge=1)
    iterations: int = Field(ge=1)
    sigma: float = Field(ge=0)
    brightness: bool
    noise: bool
    on_error: OnError


class DynamicImage(Section):
    solver: Literal["ranksvm_pairs", "approximate"]
    frames: Literal["clip", "onset_apex"]
    c: float = Field(gt=0)


class Candidate(Section):
    """One of those that an experiment chooses between or averages: changes of its knobs and of its recipe."""

    knobs: dict[str, Any] = {}
    recipe: dict[str, Any] = {}


class Experiment(Section):
    """A cell of a table: a model on a corpus. What is not said is the corpus's, the model's and `train`'s."""

    corpus: Key
    model: Name
    labels: Name | None = None
    classes: Classes | None = None
    knobs: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    candidates: dict[Key, Candidate] = Field(default={}, max_length=16)
    selection: Selection | None = None
    inner: Inner | None = None
    leave_out: LeaveOut | None = None
    held_out: HeldOut | None = None
    validation: Validation | None = None
    seeds: list[Seed] | None = None
    audit: bool | None = None
    shuffled: bool | None = None


# Fields of Train that an experiment may have for itself.
OVERRIDDEN = ("selection", "inner", "leave_out", "held_out", "validation", "seeds", "audit", "shuffled")


class Train(Section):
    seed: Seed
    seeds: list[Seed]
    selection: Selection
    inner: Inner
    leave_out: LeaveOut
    audit: bool
    held_out: HeldOut
    validation: Validation
    shuffled: bool
    folds_in_parallel: Literal["auto"] | Annotated[int, Field(ge=1)]

    def of(self, experiment: Experiment) -> "Train":
        """The settings with which an experiment is trained: its own before those of all."""
        own = {name: getattr(experiment, name) for name in OVERRIDDEN}
        return self.model_copy(update={name: value for name, value in own.items() if value is not None})


class Evaluate(Section):
    bootstrap: int = Field(ge=100, le=100_000)
    seed: Seed


class Curve(Section):
    """A metric over experiments that differ in one knob; baseline: an experiment without it, drawn as a level line."""

    experiments: list[Experiments] = Field(min_length=1)
    knob: Name
    baseline: ExperimentKey | None = None


class HeatMaps(Section):
    """Maps of several experiments side by side; clips: how many, by class and subject, or which."""

    experiments: list[ExperimentKey] = Field(min_length=2, max_length=8)
    clips: Annotated[int, Field(ge=1, le=24)] | Annotated[list[Folder], Field(min_length=1, max_length=24)]


class MotionMaps(Section):
    """Where a model finds two frames to differ, beside flow, learned magnification and difference.

    factors: of the magnification, the last of which is drawn; null: without it. clips: as of HeatMaps.
    """

    experiment: ExperimentKey
    factors: str | None = "arange_10_11_1"
    clips: Annotated[int, Field(ge=1, le=24)] | Annotated[list[Folder], Field(min_length=1, max_length=24)]

    @model_validator(mode="after")
    def _magnifies(self) -> Self:
        if self.factors is not None:
            try:
                named_factors(self.factors)
            except MerError as error:
                raise ValueError(str(error)) from None
        return self


class Explain(Section):
    """drawn: experiment -> the clip that is drawn; "": the first."""

    drawn: dict[ExperimentKey, str]


class Fit(Section):
    """experiments: whose models are trained once more, on all subjects, as recognisers."""

    experiments: list[ExperimentKey] = []


class Figures(Section):
    """macro: the set whose images stand beside micro-expressions; null: the pool of a synthetic corpus, else none."""

    clips_per_class: int = Field(ge=1, le=8)
    macro: Literal["ckplus", "rafdb", "fer2013"] | None = None


class Runtime(Section):
    """How, not what: declared by no stage, and may change no byte of a result on one kind of device."""

    workers: int = Field(ge=0)
    device: Literal["cpu", "cuda", "auto"]
    launcher: str
    scheduler: str
    unfinished: float = Field(ge=0)


class Params(Section):
    preset: Key
    corpora: dict[Key, Corpus]
    experiments: dict[ExperimentKey, Experiment]
    synthesize: Synthesize
    simulate: Simulate
    index: Index
    landmarks: Landmarks
    align: Align
    spot: Spot
    magnify_eulerian: MagnifyEulerian
    pretrain: Pretrain
    magnify_learned: MagnifyLearned
    flow: Flow
    dynamic_image: DynamicImage
    train: Train
    evaluate: Evaluate
    curves: dict[ExperimentKey, Curve] = {}
    heatmaps: dict[ExperimentKey, HeatMaps] = {}
    motion_maps: dict[ExperimentKey, MotionMaps] = {}
    explain: Explain
    fit: Fit
    figures: Figures
    runtime: Runtime
    knobs: dict[Key, dict[str, Any]] = {}  # the sections of models, gathered by load()

    @model_validator(mode="after")
    def _names_meet(self) -> Self:
        for name, corpus in self.corpora.items():
            for part in corpus.parts or ():
                if part not in self.corpora:
                    raise ValueError(f"corpora.{name}.parts: {part!r} is no corpus; {suggestion(part, self.corpora)}")
                if self.corpora[part].parts is not None:
                    raise ValueError(f"corpora.{name}.parts: {part!r} is a composite itself; name its parts")
            if len(set(corpus.parts or ())) != len(corpus.parts or ()):
                raise ValueError(f"corpora.{name}.parts names a corpus twice; name each once")
        for name, experiment in self.experiments.items():
            if experiment.corpus not in self.corpora:
                raise ValueError(
                    f"experiments.{name}.corpus is {experiment.corpus!r}; {suggestion(experiment.corpus, self.corpora)}"
                )
        for name in self.explain.drawn:
            if name not in self.experiments:
                raise ValueError(f"explain.drawn.{name} is no experiment; {suggestion(name, self.experiments)}")
        for name in self.fit.experiments:
            if name not in self.experiments:
                raise ValueError(f"fit.experiments: {name!r} is no experiment; {suggestion(name, self.experiments)}")
        for name, entry in self.motion_maps.items():
            if entry.experiment not in self.experiments:
                raise ValueError(
                    f"motion_maps.{name}.experiment: {entry.experiment!r} is no experiment; "
                    f"{suggestion(entry.experiment, self.experiments)}"
                )
        for name, run in self.pretrain.runs.items():
            pool = getattr(run, "pool", None)
            if pool is not None and pool not in self.synthesize.runs:
                raise ValueError(
                    f"pretrain.runs.{name}.pool is {pool!r}; {suggestion(pool, self.synthesize.runs)} (synthesize.runs)"
                )
        return self

    @model_validator(mode="after")
    def _curves_compare_like_with_like(self) -> Self:
        for name, curve in self.curves.items():
            where = f"curves.{name}"
            for pattern in curve.experiments:
                if not any(fnmatchcase(experiment, pattern) for experiment in self.experiments):
                    raise ValueError(
                        f"{where}.experiments: {pattern!r} matches none; {suggestion(pattern, self.experiments)}"
                    )
            first, *others = self.members_of(curve)
            if not others:
                raise ValueError(f"{where}.experiments: {first} alone is no curve; name two at least")
            for other in others:
                self._alike(f"{where}.experiments", first, other, set(Experiment.model_fields) - {"knobs", "audit"})
            if curve.baseline is not None:
                if curve.baseline not in self.experiments:
                    raise ValueError(
                        f"{where}.baseline: {curve.baseline!r} is no experiment; "
                        f"{suggestion(curve.baseline, self.experiments)}"
                    )
                self._alike(f"{where}.baseline", first, curve.baseline, {"corpus", "labels", "classes"})
        return self

    @model_validator(mode="after")
    def _heat_maps_are_of_the_same_clips(self) -> Self:
        for name, entry in self.heatmaps.items():
            where = f"heatmaps.{name}.experiments"
            for one in entry.experiments:
                if one not in self.experiments:
                    raise ValueError(f"{where}: {one!r} is no experiment; {suggestion(one, self.experiments)}")
            if len(set(entry.experiments)) < len(entry.experiments):
                raise ValueError(f"{where} names an experiment twice; name each once")
            first, *others = entry.experiments
            for other in others:
                self._alike(where, first, other, {"corpus", "labels", "classes"})
        return self

    def _alike(self, where: str, first: str, other: str, fields: set[str]) -> None:
        """Raise ValueError unless two experiments are the same in these fields."""
        one, two = self.experiments[first], self.experiments[other]
        differing = sorted(field for field in fields if getattr(one, field) != getattr(two, field))
        if differing:
            raise ValueError(f"{where}: {first} and {other} differ in {listed(differing)}; leave one of them out")

    def members_of(self, curve: Curve) -> list[str]:
        """The experiments of a curve, in the order of params.yaml."""
        return [name for name in self.experiments if any(fnmatchcase(name, e) for e in curve.experiments)]

    def knobs_of(self, experiment: Experiment) -> dict[str, Any]:
        """The knobs of a model that params.yaml says: the model's section, and those of the experiment before it."""
        return {**self.knobs.get(experiment.model, {}), **experiment.knobs}

    def candidates_of(self, experiment: Experiment) -> dict[str, Experiment]:
        """By name: the experiment with the changes of each candidate; without candidates itself, by the name ""."""
        if not experiment.candidates:
            return {"": experiment}
        return {
            name: experiment.model_copy(
                update={"knobs": {**experiment.knobs, **one.knobs}, "recipe": {**experiment.recipe, **one.recipe},
                        "candidates": {}}
            ) for name, one in experiment.candidates.items()
        }  # fmt: skip


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check all parameters. Raises MerError naming the first wrong one, with the nearest valid name."""
    raw = read_yaml(
        path, missing="run from the project's root, or make preset P=demo", otherwise="write it anew with make preset"
    )
    return parse(raw, str(path))


def parse(raw: Any, source: str = "params.yaml") -> Params:
    """The same for a mapping that was read already."""
    if not isinstance(raw, dict):
        raise MerError(f"{source}: is not a mapping of sections; write it anew with make preset P=demo")
    stages = {name for name in Params.model_fields if name != "knobs"}
    sections = {name: value for name, value in raw.items() if name in stages}
    knobs = {name: value if value is not None else {} for name, value in raw.items() if name not in stages}
    entries = raw.get("experiments")
    entries = entries.values() if isinstance(entries, dict) else []
    used = {str(entry.get("model")) for entry in entries if isinstance(entry, dict)}
    for name, value in knobs.items():
        if name in GONE_SECTIONS:
            raise MerError(f"{source}: section {name} is gone: {GONE_SECTIONS[name]} (CHANGELOG.md); {ANEW}")
        if not isinstance(value, dict):
            raise MerError(f"{source}: {name} is no section; {suggestion(name, stages)}")
        near = suggestion(name, stages)
        if name not in used and near.startswith("did you mean"):
            raise MerError(f"{source}: section {name!r} is unknown; {near}")
    try:
        return Params(**sections, knobs=knobs)
    except ValidationError as error:
        raise MerError(f"{source}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    """The first problem as one line, unknown names first: they usually explain a missing one."""
    problems = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    problem = problems[0]
    where = [str(part) for part in problem["loc"] if part != "[key]"]
    if where[:2] == ["pretrain", "runs"]:
        where[3:4] = []  # the task, which pydantic counts as a name
    name = ".".join(where)
    if problem["type"] == "extra_forbidden":
        if where[-1] in GONE:
            return f"{name} is gone: {GONE[where[-1]]} (CHANGELOG.md); {ANEW}"
        return f"{name} is unknown; {suggestion(where[-1], _fields(problem['loc'][:-1]))}"
    if problem["type"] == "union_tag_invalid":
        return f"{name}.task is {short(problem['input'].get('task'))}; valid: {problem['ctx']['expected_tags']}"
    if problem["type"] == "missing":
        return f"{name} is missing; copy it from conf/base.yaml"
    if problem["type"] == "value_error":
        return f"{name + ': ' if name else ''}{problem['ctx']['error']}"
    if problem["type"] == "string_pattern_mismatch" and "[key]" in problem["loc"]:
        more = " and ".join(sign for sign in "_-" if sign in problem["ctx"]["pattern"].rpartition("[")[2])
        return (
            f"{'.'.join(where[:-1])}: the name {short(where[-1])} must begin with a-z or 0-9, have only those and "
            f"{more}, and 64 signs at most"
        )
    return f"{name} is {short(problem['input'])}: {problem['msg'].lower()}"


ANEW = "write params.yaml anew with make preset"
# Sections and names of older versions, and what has taken their place.
GONE_SECTIONS = {
    "train_magnet": "it is an entry of pretrain.runs",
    "pretrain_macro": "it is an entry of pretrain.runs",
    "embed": "the stage follows from what a model reads",
    "join": "a composite is a corpus with parts",
    "import_flow": "a release is a corpus",
}
GONE = {
    "given": "it is called user_weights",
    "public": "user_weights: null trains although there is a file",
    "runs": "the stages follow from corpora and experiments",
    "inputs": "a model declares what it reads",
    "index": "the index follows from the corpus",
    "overrides": "it is called knobs",
    "folds_together": "it is called folds_in_parallel",
    "factors": "it is a knob of the model that reads the frames",
}


def _fields(path: Iterable[int | str]) -> list[str]:
    """Valid names at a place in the tree of sections; `path` as pydantic gives it."""
    model: Any = Params
    for part in path:
        choices = get_args(model) if get_origin(model) is Annotated else (model,)
        model = choices[0]
        if get_origin(model) is dict:
            model = get_args(model)[1]  # `part` is the name of a run
        elif isinstance(model, UnionType) or get_origin(model) is Union:  # `part` is the task
            model = next(m for m in get_args(model) if get_args(m.model_fields["task"].annotation) == (part,))
        elif hasattr(model, "model_fields") and part in model.model_fields:
            model = model.model_fields[part].annotation
    return [n for n in getattr(model, "model_fields", {}) if n != "knobs" or model is not Params]
