"""The typed form of params.yaml: one class a stage, refusing at load what cannot work.

A section is named as its stage. `runs` names the stage's instances (`align@synthetic-box224`); the other keys hold for
all of them. Sections that are no stage hold the knobs of a model (`ststnet:`); an experiment names its own under
`knobs`. Knobs and recipes are declared by the model files and checked against them (mer.models, mer.training).
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mer.errors import MerError, suggestion

Key = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]
ExperimentKey = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$")]
Seed = Annotated[int, Field(ge=0)]
Product = Annotated[str, StringConstraints(pattern=r"^data/.*\.h5$")]
Input = Annotated[str, StringConstraints(pattern=r"^data/.*\.(h5|safetensors)$")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SynthesizeRun(Section):
    """Size of an embedded corpus; at most CASME II's."""

    subjects: int = Field(ge=3, le=26)
    clips: int = Field(ge=15, le=246)
    pool_subjects: int = Field(ge=0, le=100)
    pool_images: int = Field(ge=1, le=50)

    @model_validator(mode="after")
    def _enough(self):
        if self.clips < 3 * self.subjects:
            raise ValueError(f"clips is {self.clips}, but every one of the {self.subjects} subjects needs at least 3")
        return self


class Synthesize(Section):
    runs: dict[Key, SynthesizeRun]
    seed: Seed


class Expected(Section):
    """Counts that a corpus is known to have; null: not checked."""

    clips: int | None = Field(default=None, ge=1)
    subjects: int | None = Field(default=None, ge=1)


class IndexRun(Section):
    """`watch` is what DVC looks at for changes: the folder itself, or its manifest (make manifest) when it is large."""

    reader: Literal["casme2", "samm", "smic", "casme3", "ckplus", "rafdb", "fer2013"]
    raw: str
    watch: str
    expect: Expected = Expected()


OnError = Literal["stop", "exclude"]


class Index(Section):
    runs: dict[Key, IndexRun]
    on_error: OnError


class Landmarks(Section):
    backend: Literal["dlib", "face_alignment", "haar", "truth"]
    upsample: int = Field(ge=0, le=2)
    padded: bool
    min_score: float | None
    weights: str | None
    on_error: OnError


class AlignRun(Section):
    corpus: Key
    crop: Literal["box224", "innereye256", "box112", "none224"]


class Align(Section):
    runs: dict[Key, AlignRun]
    top_margin: float = Field(ge=0, le=1)
    rotate: bool
    box: Literal["haar", "landmarks"]
    on_error: OnError


class EulerianRun(Section):
    """`reads`: `<crop>/frames`, or `landmarks` = the corpus's own frames, cropped afterwards (D-02)."""

    corpus: Key
    crop: Literal["box224", "innereye256", "box112", "none224"]
    recipe: Key
    reads: Annotated[str, StringConstraints(pattern=r"^(landmarks|[a-z0-9]+/frames)$")]
    product: Literal["frames", "apex_frame"]


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
    def _band(self):
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g}, high {self.high:g}; a band needs low below high")
        if self.fps and self.high > self.fps / 2 and self.band == "hz":
            raise ValueError(f"high is {self.high:g} Hz, above fps/2 = {self.fps / 2:g} Hz; lower it, or raise fps")
        return self


class MagnifyEulerian(Section):
    runs: dict[Key, EulerianRun]
    recipes: dict[Key, EulerianRecipe]
    on_error: OnError


class MagnetRun(Section):
    """Writes data/weights/<name>.safetensors. `portraits`: a folder of images; data/raw/magnet for none."""

    portraits: str
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    size: int = Field(ge=16, multiple_of=4)
    lr: float = Field(gt=0)
    regularisation: float = Field(ge=0)
    first: Literal["linear", "random"]


class TrainMagnet(Section):
    runs: dict[Key, MagnetRun]
    public: bool
    seed: Seed


class MacroRun(Section):
    """Writes data/weights/<name>.safetensors. `pool` stands in where `raw` holds no set; data/raw/resnet18 for none.

    `watch` is what DVC looks at for changes: `raw` itself, or its manifest (make manifest) when it holds many files.
    """

    given: str
    reader: Literal["fer2013", "ckplus", "rafdb"]
    options: dict[str, str | int] = {}
    raw: str
    watch: str
    crop: Literal["none", "box224"]
    pool: str
    first: Literal["auto", "imagenet", "random"]
    size: int = Field(ge=32, le=512)
    steps: int = Field(ge=0)
    batch_size: int = Field(ge=2)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)


class PretrainMacro(Section):
    runs: dict[Key, MacroRun]
    seed: Seed


class LearnedRun(Section):
    corpus: Key
    crop: Literal["box224", "innereye256", "box112", "none224"]
    weights: Key


class MagnifyLearned(Section):
    runs: dict[Key, LearnedRun]
    size: int = Field(ge=16, le=1024)
    factors: Annotated[str, StringConstraints(pattern=r"^(linspace|arange)_[0-9.]+_[0-9.]+_[0-9.]+$")]
    convention: Literal["network", "one_plus"]
    absolute: bool


class EmbedRun(Section):
    corpus: Key
    crop: Literal["box224", "innereye256", "box112", "none224"]
    weights: Key


class Embed(Section):
    runs: dict[Key, EmbedRun]


class Spot(Section):
    missing: Literal["middle", "spotted"]
    stride: int = Field(ge=1, le=16)


class FlowRun(Section):
    """`product`: flow = from onset to apex, one image a clip; flows = from each frame to the next."""

    corpus: Key
    crop: Key
    chain: Key
    product: Literal["flow", "flows"]


class Flow(Section):
    runs: dict[Key, FlowRun]
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


class DynamicImageRun(Section):
    corpus: Key
    crop: Key
    chain: Key


class DynamicImage(Section):
    runs: dict[Key, DynamicImageRun]
    solver: Literal["ranksvm_pairs", "approximate"]
    frames: Literal["clip", "onset_apex"]
    c: float = Field(gt=0)


class JoinRun(Section):
    """Corpora (three slots) whose products (three slots; an unused one repeats the first) become one composite.

    `expect` counts what the class lists `labels` select.
    """

    parts: Annotated[list[Key], Field(min_length=3, max_length=3)]
    chain: Key
    products: Annotated[list[Literal["flow"]], Field(min_length=3, max_length=3)]
    labels: Key
    classes: Literal[3, 4, 5, 7]
    expect: Expected = Expected()


class Join(Section):
    runs: dict[Key, JoinRun]


class ImportFlowRun(Section):
    raw: str


class ImportFlow(Section):
    runs: dict[Key, ImportFlowRun]


class Experiment(Section):
    """One cell of a table: a model on a corpus.

    `inputs` has three slots, for products and one file of weights; an unused one repeats the first.
    """

    index: str
    inputs: Annotated[list[Input], Field(min_length=3, max_length=3)]
    corpus: Key
    labels: Key
    classes: Literal[3, 4, 5, 7]
    model: Key
    knobs: Key
    overrides: dict[str, Any] = {}
    recipe: dict[str, Any] = {}


class Train(Section):
    seed: Seed
    seeds: list[Seed]
    selection: Literal["last_epoch", "inner_val", "test_best"]
    audit: bool
    held_out: float = Field(gt=0, lt=1)
    folds_together: Literal["auto"] | Annotated[int, Field(ge=1)]


class Evaluate(Section):
    bootstrap: int = Field(ge=100, le=100_000)
    seed: Seed


class ExplainRun(Section):
    """`clip`: whose attention is drawn; `sequence`: the product that the model read."""

    clip: str
    sequence: Product


class Explain(Section):
    runs: dict[ExperimentKey, ExplainRun]


class FiguresRun(Section):
    """What the pictures of a corpus are drawn from; what there is not repeats `flow`.

    `magnified` is made of `frames`, `apex_frame` stands beside the `plain` crop of the same kind.
    """

    corpus: Key
    flow: Product
    frames: Product
    landmarks: Product
    apex: Product
    dynamic: Product
    magnified: Product
    plain: Product
    apex_frame: Product
    overdriven: Product
    magnet: Product
    labels: Key
    classes: Literal[3, 4, 5, 7]


class Figures(Section):
    runs: dict[Key, FiguresRun]
    clips_per_class: int = Field(ge=1, le=8)


class Runtime(Section):
    """How, not what: declared by no stage, and may change no byte of a result on one kind of device."""

    workers: int = Field(ge=0)
    device: Literal["cpu", "cuda", "auto"]


class Params(Section):
    preset: Key
    synthesize: Synthesize
    index: Index
    landmarks: Landmarks
    align: Align
    spot: Spot
    magnify_eulerian: MagnifyEulerian
    train_magnet: TrainMagnet
    magnify_learned: MagnifyLearned
    pretrain_macro: PretrainMacro
    embed: Embed
    flow: Flow
    dynamic_image: DynamicImage
    join: Join
    import_flow: ImportFlow
    train: Train
    experiments: dict[ExperimentKey, Experiment]
    evaluate: Evaluate
    explain: Explain
    figures: Figures
    runtime: Runtime
    knobs: dict[Key, dict[str, Any]] = {}  # the sections of models, gathered by load()

    @model_validator(mode="after")
    def _stages_fit_together(self):
        corpora = {*self.index.runs, *self.import_flow.runs, *self.composites()}
        products = self.products()
        for key, run in self.join.runs.items():
            if not key.endswith(f"-{run.chain}"):
                raise ValueError(f"join.runs.{key} must be named <composite>-{run.chain} after what it joins")
            for corpus in run.parts:
                for kind in run.products:
                    self._made(f"join.runs.{key}", f"data/cache/{corpus}/{run.chain}/{kind}.h5", products)
        for section, name, run in self._runs_with_corpus():
            if run.corpus not in corpora:
                raise ValueError(
                    f"{section}.{name}.corpus {run.corpus!r} has no index; {suggestion(run.corpus, corpora)}"
                )
        for key, run in self.align.runs.items():
            self._named(f"align.runs.{key}", key, f"{run.corpus}-{run.crop}")
        for key, run in self.flow.runs.items():
            suffix = "" if run.product == "flow" else f"-{run.product}"
            self._named(f"flow.runs.{key}", key, f"{run.corpus}-{run.chain}{suffix}")
        for key, run in self.dynamic_image.runs.items():
            self._named(f"dynamic_image.runs.{key}", key, f"{run.corpus}-{run.chain}")
        self._magnifiers(products)
        for section in ("flow", "dynamic_image"):
            for key, run in getattr(self, section).runs.items():
                where = f"{section}.runs.{key}"
                self._made(f"{where}.chain", f"data/cache/{run.corpus}/{run.chain}/frames.h5", products)
                self._made(f"{where}.crop", f"data/cache/{run.corpus}/{run.crop}/apex.h5", products)
                if run.chain.partition("-")[0] != run.crop:
                    raise ValueError(f"{where}.crop is {run.crop!r}, but chain {run.chain} is made of another one")
        for name, item in self.experiments.items():
            where = f"experiments.{name}"
            if item.index != f"data/index/{item.corpus}.csv":
                raise ValueError(
                    f"{where}.index is {item.index}, the index of its corpus is data/index/{item.corpus}.csv"
                )
            for path in item.inputs:
                self._made(f"{where}.inputs", path, products)
            if item.knobs not in self.knobs:
                raise ValueError(f"{where}.knobs {item.knobs!r} is no section; {suggestion(item.knobs, self.knobs)}")
        for name, run in self.explain.runs.items():
            if name not in self.experiments:
                raise ValueError(f"explain.runs.{name} is no experiment; {suggestion(name, self.experiments)}")
            self._made(f"explain.runs.{name}.sequence", run.sequence, products)
        for name, run in self.figures.runs.items():
            for field in type(run).model_fields:
                if str(getattr(run, field)).endswith(".h5"):
                    self._made(f"figures.runs.{name}.{field}", getattr(run, field), products)
        return self

    def _magnifiers(self, products: set[str]):
        for key, run in self.magnify_eulerian.runs.items():
            where = f"magnify_eulerian.runs.{key}"
            suffix = "" if run.product == "frames" else "-apex"
            self._named(where, key, f"{run.corpus}-{run.crop}-{run.recipe}{suffix}")
            if run.recipe not in self.magnify_eulerian.recipes:
                known = suggestion(run.recipe, self.magnify_eulerian.recipes)
                raise ValueError(f"{where}.recipe {run.recipe!r} is none of magnify_eulerian.recipes; {known}")
            if run.reads not in ("landmarks", f"{run.crop}/frames"):
                raise ValueError(f"{where}.reads is {run.reads}; it must be landmarks, or {run.crop}/frames")
            for needed in (run.reads, f"{run.crop}/apex"):
                self._made(where, f"data/cache/{run.corpus}/{needed}.h5", products)
        for key, run in self.magnify_learned.runs.items():
            where = f"magnify_learned.runs.{key}"
            self._named(where, key, f"{run.corpus}-{run.crop}")
            self._made(where, f"data/cache/{run.corpus}/{run.crop}/frames.h5", products)
            if run.weights not in self.train_magnet.runs:
                known = suggestion(run.weights, self.train_magnet.runs)
                raise ValueError(f"{where}.weights {run.weights!r} is no entry of train_magnet.runs; {known}")
        for name in self.train_magnet.runs.keys() & self.pretrain_macro.runs.keys():
            raise ValueError(f"train_magnet.runs and pretrain_macro.runs both write weights {name!r}; rename one")
        for key, run in self.embed.runs.items():
            where = f"embed.runs.{key}"
            self._named(where, key, f"{run.corpus}-{run.crop}")
            self._made(where, f"data/cache/{run.corpus}/{run.crop}/magnet.h5", products)
            if run.weights not in self.pretrain_macro.runs:
                known = suggestion(run.weights, self.pretrain_macro.runs)
                raise ValueError(f"{where}.weights {run.weights!r} is no entry of pretrain_macro.runs; {known}")

    def _runs_with_corpus(self):
        for section in ("align", "magnify_eulerian", "magnify_learned", "embed", "flow", "dynamic_image", "figures"):
            for name, run in getattr(self, section).runs.items():
                yield f"{section}.runs", name, run
        for name, run in self.experiments.items():
            yield "experiments", name, run

    @staticmethod
    def _named(where: str, key: str, wanted: str):
        if key != wanted:
            raise ValueError(f"{where} must be named {wanted} after its corpus and what it reads")

    @staticmethod
    def _made(where: str, path: str, products: set[str]):
        if path not in products:
            raise ValueError(f"{where}: no stage makes {path}; {suggestion(path, products)}")

    def composites(self) -> dict[str, JoinRun]:
        """Name of a composite -> what it is joined from."""
        return {key.removesuffix(f"-{run.chain}"): run for key, run in self.join.runs.items()}

    def products(self) -> set[str]:
        """Every product, and every file of weights, that the graph makes."""
        made = {f"data/cache/{c}/landmarks.h5" for c in self.index.runs}
        made |= {f"data/cache/{r.corpus}/{r.crop}/frames.h5" for r in self.align.runs.values()}
        made |= {f"data/cache/{r.corpus}/{r.crop}/apex.h5" for r in self.align.runs.values()}
        magnified = self.magnify_eulerian.runs.values()
        made |= {f"data/cache/{r.corpus}/{r.crop}-{r.recipe}/{r.product}.h5" for r in magnified}
        made |= {f"data/cache/{r.corpus}/{r.crop}/magnet.h5" for r in self.magnify_learned.runs.values()}
        made |= {f"data/cache/{r.corpus}/{r.crop}/embedding.h5" for r in self.embed.runs.values()}
        made |= {f"data/weights/{name}.safetensors" for name in (*self.train_magnet.runs, *self.pretrain_macro.runs)}
        made |= {f"data/cache/{r.corpus}/{r.chain}/{r.product}.h5" for r in self.flow.runs.values()}
        made |= {f"data/cache/{r.corpus}/{r.chain}/dynamic_image.h5" for r in self.dynamic_image.runs.values()}
        made |= {f"data/cache/{c}/{r.chain}/{kind}.h5" for c, r in self.composites().items() for kind in r.products}
        made |= {f"data/cache/{c}/released/flow.h5" for c in self.import_flow.runs}
        return made


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check all parameters. Raises MerError naming the first wrong one, with the nearest valid name."""
    try:
        raw = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise MerError(f"{path}: is not UTF-8 text; save it as UTF-8, or write it anew with make preset") from None
    except FileNotFoundError:
        raise MerError(
            f"{path}: there is no such file here; run from the project's root, or make preset P=demo"
        ) from None
    except YAMLError as error:
        raise MerError(f"{path}: is not valid YAML: {error}; correct it, or write it anew with make preset") from None
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
    used = {str(entry.get("knobs")) for entry in entries if isinstance(entry, dict)}
    for name, value in knobs.items():
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
    name = ".".join(where)
    if problem["type"] == "extra_forbidden":
        return f"{name} is unknown; {suggestion(where[-1], _fields(where[:-1]))}"
    if problem["type"] == "missing":
        return f"{name} is missing; copy it from conf/base.yaml"
    if problem["type"] == "value_error":
        return f"{name + ': ' if name else ''}{problem['ctx']['error']}"
    return f"{name} is {problem['input']!r}: {problem['msg'].lower()}"


def _fields(path: list[str]) -> list[str]:
    """Valid names at a place in the tree of sections."""
    model: Any = Params
    for part in path:
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        if field is not None:
            model = field.annotation
            values = getattr(model, "__args__", None)
            if getattr(model, "__origin__", None) is dict and hasattr(values[1], "model_fields"):
                model = values[1]  # the next part is the name of a run
    return [n for n in getattr(model, "model_fields", {}) if n != "knobs" or model is not Params]
