"""The stages of the graph, derived from params.yaml: plan.yaml, which dvc.yaml reads.

    experiments, corpora  ->  what the models read (mer.products)  ->  one entry a stage and run

An entry has what its stage is called with (`args`), and what only DVC has to know: further dependencies, and the files
of code that belong to this run alone. A list of dependencies has a fixed number of places in dvc.yaml; a place that is
not needed repeats the first.

mer.plan_file writes and compares the file.
"""

import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

from mer import imports, pretraining
from mer.errors import MerError, listed, suggestion
from mer.params import Corpus, Curve, Experiment, FramePairsRun, HeatMaps, MotionMaps, Params
from mer.products import CROPS, Product, Weights, flow, frames, landmarks, magnet

if TYPE_CHECKING:  # it brings torch
    from mer.models import ModelSpec

SAFE = re.compile(r"[a-z0-9][a-z0-9_-]*")  # keys go into commands and paths as they are
STAGES = (
    "synthesize", "simulate", "index", "compose", "landmarks", "align", "spot", "magnify_eulerian", "frames",
    "pretrain", "restore", "magnify_learned", "embed", "pair", "flow", "dynamic_image", "join", "import_flow", "train",
    "evaluate", "curve", "explain", "fit", "recognise", "heatmaps", "motion_maps", "figures", "report",
)  # fmt: skip
SINGLE = ("leakage", "tables")  # stages of the graph that have one run, and so no entry
# How many places dvc.yaml has for lists of dependencies.
PLACES = {"reads": 5, "parts": 5, "drawn": 11, "scores": 22, "explained": 8, "compared": 6, "shards": 2, "shown": 7,
          "fitted": 10, "brought": 3}  # fmt: skip
CODE_PLACES = {
    "index": 2,
    "compose": 3,
    "pretrain": 13,
    "restore": 13,
    "embed": 2,
    "train": 11,
    "fit": 11,
    "figures": 3,
    "import_flow": 7,
}
SIMULATED = "simulated_flow"  # the reader of corpora that stage simulate makes
RELEASED = "released"  # the chain of products that a corpus was released as
ROOMS = ("mer/loso", "mer/faces")  # of which all files count where all are imported
LOOP = "mer.loso.networks"  # what trains networks; a scikit-learn estimator does not depend on it

Entry = dict[str, Any]
Plan = dict[str, dict[str, Entry]]


# ---- deriving -------------------------------------------------------------------------------------------------------


def derive(params: Params) -> tuple[Plan, dict[str, list[str]]]:
    """The stages, by name and key; and by model the knobs that decide what it reads.

    Raises MerError for a model that reads what its corpus cannot have, naming experiment and reason.
    """
    planner = _Planner(params)
    for corpus in params.corpora:
        planner.index(corpus)
    for name, experiment in params.experiments.items():
        planner.experiment(name, experiment)
    for name in params.fit.experiments:
        planner.fit(name)
    for name, curve in params.curves.items():
        planner.curve(name, curve)
    for name, entry in params.heatmaps.items():
        planner.heatmaps(name, entry)
    for corpus in params.corpora:
        planner.figures(corpus)
    # After the figures, which draw the magnified sequences that models read, and not these.
    for name, maps in params.motion_maps.items():
        planner.motion_maps(name, maps)
    planner.report(params.preset)
    return planner.plan(), {model: sorted(knobs) for model, knobs in sorted(planner.wiring.items())}


def derive_training(params: Params, name: str) -> Entry:
    """The entry of stage train for one experiment, as `derive` makes it."""
    return _Planner(params).training(name, params.experiments[name])


def derive_products(params: Params, corpus: str, products: Iterable[Product]) -> tuple[Plan, list[str]]:
    """The stages that make products of a corpus, as `derive` plans them, and the products' paths.

    Weights are taken as they are: what makes them is not planned.
    """
    planner = _Planner(params)
    planner.weights = lambda weights, why: weights.path  # type: ignore[method-assign]
    paths = [planner.make(product, corpus, corpus) for product in products]
    return planner.plan(), paths


class _Planner:
    """Collects the entries; `stages` is stage -> key -> entry."""

    def __init__(self, params: Params):
        self.params = params
        self.stages: Plan = {stage: {} for stage in STAGES}
        self.wiring: dict[str, set[str]] = {}
        self.sequences: dict[str, Product] = {}  # corpus -> a product of learned magnification that is made of it

    def plan(self) -> Plan:
        return {stage: dict(sorted(entries.items())) for stage, entries in self.stages.items()}

    def add(self, stage: str, key: str, entry: Entry) -> None:
        if not SAFE.fullmatch(key):
            raise MerError(f"plan: {stage}@{key}: a name has a-z, 0-9, - and _ only")
        known = self.stages[stage].setdefault(key, entry)
        if known != entry:
            raise MerError(
                f"plan: {stage}@{key} would be made in two ways, {known['args']} and {entry['args']}; give the recipe, "
                "the weights or the corpus of one of them another name"
            )

    # ---- corpora

    def index(self, name: str) -> None:
        corpus = self.params.corpora[name]
        if corpus.parts is not None:
            self.check_parts(name, corpus.parts)
            args = {
                "parts": [index_path(part) for part in corpus.parts], "labels": labels_of(name, corpus),
                "classes": corpus.classes, **_expected(corpus), "out": index_path(name),
            }  # fmt: skip
            self.add("compose", name, {"args": args, "code": _code("compose", [_labels_module(args["labels"])]),
                                       "parts": _places("parts", args["parts"])})  # fmt: skip
            return
        reader = reader_of(name, corpus)
        module = _reader_module(name, reader)
        made, raw = name in self.params.synthesize.runs, self.raw(name)
        if made:
            self.add("synthesize", name, {"args": {}})
        if name in self.params.simulate.runs or reader == SIMULATED:
            self.simulated(name, reader)
            return
        if hasattr(module, "RELEASED"):
            if corpus.watch is not None:
                raise MerError(f"corpora.{name}.watch: a release is watched itself; remove it")
            args = {"reader": reader, "raw": raw, "index": index_path(name), "out": f"data/cache/{name}/{RELEASED}"}
            code = [module.__name__]
            if corpus.sheets:
                args["sheets"] = [f"{part}={path}" for part, path in sorted(corpus.sheets.items())]
                code += [_sheet_module(name, part) for part in sorted(corpus.sheets)]
                code += [path for part in sorted(corpus.sheets) if (path := _corrections(part)) is not None]
            read = _places("brought", [raw, *(path for _, path in sorted(corpus.sheets.items()))])
            self.add("import_flow", name, {"args": args, "brought": read, "code": _code("import_flow", code)})
            return
        if corpus.sheets:
            raise MerError(
                f"corpora.{name}.sheets: it is no release, and its own label sheet has action units; remove it"
            )
        watch = corpus.watch or (raw if made else f"data/raw/{name}.manifest.csv")
        code = [module.__name__, *([path] if (path := _corrections(reader)) is not None else [])]
        args = {"reader": reader, "raw": raw, **_expected(corpus), "out": index_path(name)}
        self.add("index", name, {"args": args, "watch": watch, "code": _code("index", code)})

    def simulated(self, name: str, reader: str) -> None:
        """Add what simulates a corpus. Raises MerError where corpora and simulate.runs do not agree."""
        corpus, runs = self.params.corpora[name], self.params.simulate.runs
        if name not in runs:
            raise MerError(
                f"corpora.{name}.reader is {SIMULATED}, and simulate.runs has no {name!r}; {suggestion(name, runs)}"
            )
        if reader != SIMULATED:
            raise MerError(f"simulate.runs.{name}: corpora.{name} is read by {reader}; set its reader to {SIMULATED}")
        for field in ("raw", "watch", "sheets"):
            if getattr(corpus, field):
                raise MerError(f"corpora.{name}.{field}: {name} is simulated from nothing; remove it")
        args = {"index": index_path(name), "out": f"data/cache/{name}/{RELEASED}"}
        self.add("simulate", name, {"args": args})

    def is_made(self, name: str) -> bool:
        """Whether nobody of a corpus was recorded."""
        return name in self.params.synthesize.runs or name in self.params.simulate.runs

    def raw(self, name: str) -> str:
        """The folder of a corpus."""
        made = name in self.params.synthesize.runs
        return self.params.corpora[name].raw or (f"data/raw/{name}/corpus" if made else f"data/raw/{name}")

    def check_parts(self, name: str, parts: list[str]) -> None:
        """Raise MerError where parts of a composite have the same people: a subject of one would be tested by a model
        that was trained on the other. They have where they are read alike (rendered ones, which have one seed, are
        apart from the real ones), where they are releases of the same recordings, or simulated, or where one lies in
        the other's folder.
        """
        for part, other in itertools.combinations(parts, 2):
            made = {self.is_made(which) for which in (part, other)}
            readers = {reader_of(which, self.params.corpora[which]) for which in (part, other)}
            raws = [Path(os.path.realpath(self.raw(which))) for which in (part, other)]
            people = {_people(which) for which in readers}
            simulated = {which in self.params.simulate.runs for which in (part, other)}
            remedy = "leave one out"
            if raws[0].is_relative_to(raws[1]) or raws[1].is_relative_to(raws[0]):
                why = f"lie in one folder ({self.raw(part)}, {self.raw(other)})"
            elif simulated == {True}:
                why = "are simulated on the same faces"
                remedy = "make one of them, with more subjects"
            elif made == {True} and simulated == {False}:
                why = "are rendered from one seed"
            elif made == {False} and len(readers) == 1:
                why = f"have one reader, {readers.pop()}"
                remedy += ". Other people's recordings in that layout need a reader of their own (CONTRIBUTING.md)"
            elif made == {False} and len(people) == 1 and people != {None}:
                why = "are releases of the same recordings"
                remedy += ", or let a model read it as a second view (docs/real_flow.md)"
            else:
                continue
            raise MerError(
                f"corpora.{name}.parts: {part} and {other} {why}, so the same person would be in training and test; "
                f"{remedy}"
            )

    # ---- products

    def make(self, product: Product | Weights, corpus: str, why: str) -> str:
        """Add what makes a product of a corpus; returns its path. `why` begins messages."""
        if isinstance(product, Weights):
            return self.weights(product, why)
        if product.corpus:
            corpus = self.other(product.corpus, corpus, why)
        entry = self.params.corpora[corpus]
        if not product.stage:
            raise MerError(f"{why} reads {product}, which is no file; crop it: frames(crop, of=…)")
        if entry.parts is not None:
            return self.joined(product, corpus, entry.parts, why)
        module = _reader_module(corpus, reader_of(corpus, entry))
        if hasattr(module, "RELEASED"):
            if product.kind not in module.RELEASED or product.chain not in CROPS:
                raise MerError(
                    f"{why} reads {product}, and corpus {corpus} was released as {listed(module.RELEASED)} without its "
                    "frames; choose a corpus with frames"
                )
            return replace(product, chain=RELEASED).path(corpus)
        args: Entry = {"index": index_path(corpus)}
        for name, source in product.reads:
            args[name] = self.make(source, corpus, why)
        recipe = dict(product.settings).get("recipe")
        if recipe is not None and recipe not in self.params.magnify_eulerian.recipes:
            known = self.params.magnify_eulerian.recipes
            raise MerError(
                f"{why} reads {product}, and magnify_eulerian.recipes has no {recipe!r}; {suggestion(recipe, known)}"
            )
        args |= {name: list(value) if isinstance(value, tuple) else value for name, value in product.settings if value}
        args["out"] = product.path(corpus)
        item: Entry = {"args": args}
        if product.stage == "embed":
            if imports.source(f"mer.{args['by']}") is None:
                raise MerError(f"{why} reads {product} by mer.{args['by']}: there is no such module; correct READS")
            item["code"] = _code("embed", [f"mer.{args['by']}"])
        if product.kind == "magnet":
            self.sequences.setdefault(corpus, product)
        self.add(product.stage, stage_key(product, corpus), item)
        return args["out"]

    def other(self, name: str, corpus: str, why: str) -> str:
        """The corpus that has the same clips as the experiment's, as another view of them."""
        if name not in self.params.corpora:
            raise MerError(f"{why} reads flow of corpus {name!r}; {suggestion(name, self.params.corpora)}")
        if name == corpus:
            raise MerError(f"{why} reads flow of {name} twice; name another corpus with the same clips, or none")
        return name

    def joined(self, product: Product, corpus: str, parts: list[str], why: str) -> str:
        paths = [self.make(product, part, why) for part in parts]
        args: Entry = {"parts": paths, "out": product.path(corpus)}
        self.add(
            "join", "-".join(p for p in (corpus, product.chain, product.kind) if p),
            {"args": args, "parts": _places("parts", paths)},
        )  # fmt: skip
        return args["out"]

    def weights(self, weights: Weights, why: str) -> str:
        runs = self.params.pretrain.runs
        if weights.name not in runs:
            raise MerError(
                f"{why} reads weights {weights.name!r}, which are no entry of pretrain.runs; "
                f"{suggestion(weights.name, runs)}"
            )
        run = runs[weights.name]
        code = [f"mer.pretraining.{run.task}"]
        bundled = getattr(run, "bundled", None)
        reads = [path for path in (run.user_weights, bundled) if path is not None]
        if run.task == "macro":
            reads.append(run.watch)
            code.append(f"mer.macro.{run.reader}")
        if run.task == "macro_sets":
            reads += [one["watch"] for one in run.located().values()]
            code += [f"mer.macro.{name}" for name in run.sets]
        if run.task == "fetch" and run.source.startswith(
            ("data/", "./", "../", "/")
        ):  # a folder, not a name on the hub
            reads.append(run.source)
        pool, frames = getattr(run, "pool", None), []
        if run.task == "frame_pairs":
            shards = run.shards()
            if not shards:
                where = f"pretrain.runs.{weights.name}"
                raise MerError(f"{why}: {where} has neither corpora nor pool, so there are no frames; name some")
            frames = [self.shards(key, source, run, why) for key, source in shards.items()]
            reads += frames if run.corpora or bundled is None else []
        elif pool is not None and bundled is None:  # what is bundled comes before the pool
            self.add("synthesize", pool, {"args": {}})
            reads.append(f"data/raw/{pool}/pool/macro")
        networks = pretraining.networks()
        if run.network not in networks:
            raise MerError(
                f"pretrain.runs.{weights.name}.network is {run.network!r}; {suggestion(run.network, networks)}"
            )
        code.append(networks[run.network])
        item = {"args": {}, "reads": _places("reads", reads or ["stages/pretrain.py"]), "code": _code("pretrain", code)}
        self.add("pretrain", weights.name, item)
        if frames:
            self.add("restore", weights.name, {"args": {}, "reads": _places("reads", frames), "code": item["code"]})
        return weights.path

    def shards(self, key: str, source: str, run: FramePairsRun, why: str) -> str:
        """Add what makes the shards of a corpus's frames, or of a pool's; returns their folder."""
        args: Entry = {"size": run.size, "out": f"data/frames/{key}"}
        if not run.corpora:
            self.add("synthesize", str(run.pool), {"args": {}})
            args, read = {"pool": source, **args}, source
        else:
            if source not in self.params.corpora or self.params.corpora[source].parts is not None:
                raise MerError(
                    f"{why} reads frames of corpus {source!r}, which is none of corpora (composites have no frames of "
                    f"their own); {suggestion(source, self.params.corpora)}"
                )
            self.index(source)
            args = {"corpus": source, "index": index_path(source), **args}
            read = self.stages["index"][source]["watch"]
        paths = [read, args["index"]] if run.corpora else [read]
        self.add("frames", key, {"args": args, "shards": _places("shards", paths)})
        return str(args["out"])

    # ---- experiments

    def experiment(self, name: str, experiment: Experiment) -> None:
        self.add("train", name, self.training(name, experiment))
        self.add("evaluate", name, {"args": {}})
        if name in self.params.explain.drawn:
            from mer import models

            if models.load(experiment.model).explain is None:
                raise MerError(
                    f"explain.drawn.{name}: model {experiment.model} explains nothing (no `explain` in its file); "
                    "remove it"
                )
            clip = self.params.explain.drawn[name]
            drawer = f"mer/evaluation/explained/{experiment.model}.py"
            if not (imports.ROOT / drawer).is_file():
                raise MerError(f"explain.drawn.{name}: nothing draws it; write {drawer}, or remove it")
            self.add("explain", name, {"args": {"clip": clip} if clip else {}, "drawer": drawer})

    def training(self, name: str, experiment: Experiment) -> Entry:
        """The entry of stage train."""
        from mer import models  # brings torch: not where a plan is only compared

        spec = models.load(experiment.model)
        why, paths = f"experiments.{name}: model {spec.name}", []
        reads: dict[str, list[str]] = {}  # candidate -> products
        weights: dict[str, str] = {}  # candidate -> a file
        for candidate, one in self.params.candidates_of(experiment).items():
            products, network = self.read_by(spec, one, why)
            reads[candidate] = [self.make(product, experiment.corpus, why) for product in products]
            if network is not None:
                self.check_faces(network, experiment.corpus, why)
                weights[candidate] = self.make(network, experiment.corpus, why)
        if len(set(weights.values())) > 1:
            raise MerError(f"{why}: its candidates begin with {listed(sorted(set(weights.values())))}; take one file")
        paths = list(dict.fromkeys(path for some in reads.values() for path in some))
        corpus = self.params.corpora[experiment.corpus]
        labels = experiment.labels or labels_of(experiment.corpus, corpus)
        args: Entry = {
            "index": index_path(experiment.corpus), "labels": labels,
            "classes": experiment.classes or corpus.classes, "model": spec.name,
            "reads": paths,
        }  # fmt: skip
        if weights:
            args["weights"] = next(iter(weights.values()))
        made = self.made_of(experiment.corpus)
        if made:
            args["made"] = made
        elif self.params.train.of(experiment).leave_out == "origin":
            raise MerError(
                f"experiments.{name}.leave_out is origin: {experiment.corpus} has no recorded and simulated parts; "
                "take a composite of both, or leave out subject or corpus"
            )
        if experiment.candidates:
            # Which of the files each candidate reads, by their places; w: and the weights.
            args["candidates"] = [
                f"{one}={','.join([*(str(paths.index(p)) for p in some), *(['w'] if one in weights else [])])}"
                for one, some in reads.items()
            ]
        args["out"] = f"data/predictions/{name}"
        engine = ["mer.loso.run", "mer.loso.nested", *([LOOP] if spec.recipe is not None else [])]
        estimator = frozenset() if spec.recipe is not None else frozenset({LOOP})
        code = _code("train", [f"mer.models.{spec.name}", *engine, _labels_module(labels)], without=estimator)
        paths = [*paths, *([args["weights"]] if weights else [])]
        section = spec.name if spec.name in self.params.knobs else f"experiments.{name}"
        return {"args": args, "section": section, "reads": _places("reads", paths), "code": code}

    def check_faces(self, network: Weights, corpus: str, why: str) -> None:
        """Raise MerError for weights that were learned on the faces of a simulated corpus, with labels."""
        run = self.params.pretrain.runs.get(network.name)
        simulated = [p for p in self.params.corpora[corpus].parts or [corpus] if p in self.params.simulate.runs]
        if simulated and run is not None and run.task == "simulated_flow":
            raise MerError(
                f"{why} reads weights {network.name}, which were learned on the faces that {simulated[0]} is made of; "
                "take knobs without these weights"
            )

    def read_by(
        self, spec: "ModelSpec", experiment: Experiment, why: str
    ) -> tuple[list[Product], Weights | None]:  # fmt: skip
        """What a model with an experiment's knobs reads: products, and the file of weights that it begins with."""
        knobs = _Noting(spec.all_knobs(self.params.knobs_of(experiment)))
        try:
            reads = spec.reads(knobs)
        except MerError as error:
            raise MerError(f"{why}: {error}") from None
        self.wiring.setdefault(spec.name, set()).update(knobs.seen)
        products = [product for product in reads if isinstance(product, Product)]
        weights = [product for product in reads if isinstance(product, Weights)]
        if not products or len(products) + len(weights) != len(reads):
            raise MerError(f"{spec.path}: READS must hold products of mer.products, at least one; see its docstring")
        if len(weights) > 1:
            raise MerError(f"{spec.path}: READS names {len(weights)} files of weights; a model takes one")
        if weights and not spec.takes_weights:
            raise MerError(f"{spec.path}: READS names weights, but there is no load_weights; declare it")
        return products, weights[0] if weights else None

    def fit(self, name: str) -> None:
        """The recogniser of an experiment: trained as its folds, with what is measured of its clips."""
        experiment, training = self.params.experiments[name], self.stages["train"][name]
        where, corpus = f"fit.experiments: {name}", self.params.corpora[experiment.corpus]
        if self.params.train.of(experiment).shuffled:
            raise MerError(f"{where}: its labels are exchanged at random, so it recognises nothing; leave it out")
        left_out = self.params.train.of(experiment).leave_out
        if left_out != "subject":
            raise MerError(
                f"{where}: with leave_out {left_out} its metric is not that of subjects left out, which the card "
                "states; fit an experiment with leave_out subject"
            )
        if experiment.candidates:
            raise MerError(
                f"{where}: it has several candidates, and a recogniser is one model; fit an experiment with the "
                "knobs of one"
            )
        from mer import models

        spec = models.load(experiment.model)
        reads = [p for p in spec.reads(spec.all_knobs(self.params.knobs_of(experiment))) if isinstance(p, Product)]
        if spec.load_weights is None and "weights" in training["args"]:
            raise MerError(f"{where}: a network makes its inputs, which a recogniser does not carry; leave it out")
        if others := sorted({product.corpus for product in reads} - {""}):
            raise MerError(f"{where}: it reads flow of {listed(others)}, which no new clip has; leave it out")
        released = self.is_released(experiment.corpus)
        args = {name: value for name, value in training["args"].items() if name != "made"} | {
            "out": f"data/recognisers/{name}",
            "data": self.data_of(experiment.corpus),
            "form": self.form_of(experiment.corpus, where),
        }
        networks = sorted({one.path for product in reads for one in _weights_of(product)})
        paths = [*args["reads"], *([args["weights"]] if "weights" in args else []), *networks]
        if networks:
            args["networks"] = networks
        if not released:
            args["flow"] = self.make(flow(frames("box224")), experiment.corpus, where)
            paths.append(args["flow"])
            if corpus.parts is None:
                args["landmarks"] = self.make(landmarks(), experiment.corpus, where)
                paths.append(args["landmarks"])
        paths += [f"data/predictions/{name}", f"metrics/{name}.json", f"metrics/details/{name}.json"]
        self.add("fit", name, {"args": args, "section": training["section"], "fitted": _places("fitted", paths),
                               "code": training["code"]})  # fmt: skip
        if not released:
            tried = {"index": args["index"], "recogniser": args["out"], "out": f"metrics/recognised/{name}"}
            self.add("recognise", name, {"args": tried})

    def is_released(self, name: str) -> bool:
        """Whether a corpus, or a part of it, was released as flow and has no frames."""
        corpus = self.params.corpora[name]
        if corpus.parts is not None:
            return any(self.is_released(part) for part in corpus.parts)
        return hasattr(_reader_module(name, reader_of(name, corpus)), "RELEASED")

    def made_of(self, name: str) -> list[str]:
        """The parts of a composite that nobody was recorded for; none where all are alike."""
        parts = self.params.corpora[name].parts or [name]
        made = [part for part in parts if self.is_made(part)]
        return made if len(made) < len(parts) else []

    def form_of(self, name: str, why: str) -> str:
        """In which form a corpus has its flow: "px", or the reader of the release that it is, or is made of."""
        corpus = self.params.corpora[name]
        forms = {self.form_of(part, why) for part in corpus.parts or []}
        if len(forms) > 1:
            raise MerError(f"{why}: the parts of {name} have flow of different forms, {listed(sorted(forms))}; fit one")
        return forms.pop() if forms else reader_of(name, corpus) if self.is_released(name) else "px"

    def data_of(self, name: str) -> str:
        """What a corpus is: `rendered` faces, `simulated` flow, a `released` set of flow, or `recorded` people."""
        if self.is_made(name):
            return "rendered" if name in self.params.synthesize.runs else "simulated"
        return "released" if self.is_released(name) else "recorded"

    def curve(self, name: str, curve: Curve) -> None:
        """Metrics against a knob: its values, ascending, with the experiments that have them."""
        from mer import models

        where, members = f"curves.{name}", self.params.members_of(curve)
        first = self.params.experiments[members[0]]
        spec = models.load(first.model)
        if curve.knob not in spec.knobs:
            raise MerError(
                f"{where}.knob: model {spec.name} has no knob {curve.knob!r}; {suggestion(curve.knob, spec.knobs)}"
            )
        knobs = {member: spec.all_knobs(self.params.knobs_of(self.params.experiments[member])) for member in members}
        holders: dict[float, str] = {}
        for member, own in knobs.items():
            others = [k for k in own if k != curve.knob and own[k] != knobs[members[0]].get(k)]
            if others:
                raise MerError(
                    f"{where}.experiments: {members[0]} and {member} differ in {listed(others)} beside {curve.knob}; "
                    "leave one of them out"
                )
            value = own[curve.knob]
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise MerError(f"{where}.knob: {curve.knob} of {member} is {value!r}; needed is a number")
            if holders.setdefault(value, member) != member:
                raise MerError(
                    f"{where}.experiments: {holders[value]} and {member} have the same {curve.knob}, {value}; "
                    "leave one of them out"
                )
        args: Entry = {
            "corpus": first.corpus, "model": spec.name, "knob": curve.knob,
            "points": [f"{holders[value]}={value}" for value in sorted(holders)],
        }  # fmt: skip
        if curve.baseline is not None:
            args["baseline"] = curve.baseline
        read = [f"metrics/details/{one}.json" for one in [*members, *([curve.baseline] if curve.baseline else [])]]
        self.add("curve", name, {"args": args, "scores": _places("scores", read)})

    # ---- pictures

    def heatmaps(self, name: str, entry: HeatMaps) -> None:
        """Maps of several experiments on the same clips."""
        where, kinds = f"heatmaps.{name}.experiments", {}
        for one in entry.experiments:
            model = self.params.experiments[one].model
            kinds[one] = _maps_of(model)
            if kinds[one] is None:
                raise MerError(f"{where}: {one}: model {model} explains no maps over its pictures; leave it out")
        first = entry.experiments[0]
        for one, kind in kinds.items():
            if kind != kinds[first]:
                raise MerError(f"{where}: {first} explains {kinds[first]}, {one} {kind}; leave one of them out")
        args: Entry = {"maps": kinds[first], "experiments": entry.experiments}
        args |= {"number": entry.clips} if isinstance(entry.clips, int) else {"clips": entry.clips}
        read = [f"data/predictions/{one}" for one in entry.experiments]
        self.add("heatmaps", name, {"args": args, "explained": _places("explained", read)})

    def motion_maps(self, name: str, entry: MotionMaps) -> None:
        """Maps of a model that reads two frames, beside what else is made of the same frames."""
        from mer import models

        where, own = f"motion_maps.{name}", self.params.experiments[entry.experiment]
        who, kind = f"{where}.experiment: {entry.experiment}: model {own.model}", _maps_of(own.model)
        if kind is None:
            raise MerError(f"{who} explains no maps over its pictures; name an experiment whose model does")
        spec, corpus = models.load(own.model), self.params.corpora[own.corpus]
        read = spec.reads(spec.all_knobs(self.params.knobs_of(own)))
        pairs = [product for product in read if isinstance(product, Product) and product.kind == "pair"]
        if len(pairs) != 1:
            raise MerError(
                f"{who} reads {len(pairs) or 'no'} pairs of onset and apex, needed is one; name an experiment whose "
                "model reads pair(…)"
            )
        clip = dict(pairs[0].reads)["frames"]
        assert isinstance(clip, Product)
        products = {"pair": pairs[0], "flow": flow(clip)}
        if entry.factors is not None:
            products["magnet"] = magnet(clip, factors=entry.factors)
        # A magnified clip moves otherwise than the recording, and a corpus in another folder has no truth beside it.
        if own.corpus in self.params.synthesize.runs and corpus.raw is None and clip.stage == "align":
            products["frames"] = clip
        paths = {what: self.make(product, own.corpus, where) for what, product in products.items()}
        if "frames" in paths:
            paths["truth"] = f"data/raw/{own.corpus}/truth.h5"
        args: Entry = {"maps": kind, "experiment": entry.experiment}
        args |= {"number": entry.clips} if isinstance(entry.clips, int) else {"clips": entry.clips}
        compared = [f"data/predictions/{entry.experiment}", *paths.values()]
        self.add("motion_maps", name, {"args": args | paths, "compared": _places("compared", compared)})

    def report(self, preset: str) -> None:
        """The page of all: after every stage that draws, and with the clips of each corpus."""
        drawing = {"figures": "figures", "explain": "explained", "heatmaps": "heatmaps", "motion_maps": "motion_maps",
                   "curve": "curves", "restore": "pretraining"}  # fmt: skip
        shown = [f"metrics/{folder}" for stage, folder in drawing.items() if self.stages[stage]]
        self.add("report", preset, {"args": {}, "shown": _places("shown", ["data/index", *shown])})

    def figures(self, name: str) -> None:
        """Pictures of a corpus; a composite has those of its parts."""
        from mer.evaluation.figures import NEEDS

        corpus = self.params.corpora[name]
        if corpus.parts is not None:
            return
        module = _reader_module(name, reader_of(name, corpus))
        if hasattr(module, "read_macro"):
            return
        why = f"the pictures of corpora.{name}"
        args: Entry = {
            "corpus": name, "index": index_path(name), "labels": labels_of(name, corpus), "classes": corpus.classes,
        }  # fmt: skip
        needs = NEEDS if not hasattr(module, "RELEASED") else {"flow": NEEDS["flow"]}
        if name in self.sequences:
            needs = {**needs, "magnet": self.sequences[name]}
        paths = {what: self.make(product, name, why) for what, product in needs.items()}
        code = [_labels_module(args["labels"])]
        if len(needs) > 1:  # with frames
            reader, raw = self.macro(name)
            if reader is not None:
                args["macro_reader"], paths["macro"] = reader, raw
                code.append(f"mer.macro.{reader}")
        entry = {"args": args | paths, "drawn": _places("drawn", list(paths.values()))}
        self.add("figures", name, entry | {"code": _code("figures", code)})

    def macro(self, name: str) -> tuple[str | None, str]:
        """(reader, folder) of the macro-expressions that stand beside a corpus's clips; (None, "") without any."""
        chosen = self.params.figures.macro
        if chosen is not None:
            return chosen, f"data/raw/{chosen}"
        made = self.params.synthesize.runs.get(name)
        return ("pool", f"data/raw/{name}/pool/macro") if made is not None and made.pool_subjects else (None, "")


class _Noting(dict):
    """Knobs that remember which of them were looked at."""

    def __init__(self, values: dict):
        super().__init__(values)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        return super().get(name, default)

    def _all(self) -> Self:
        self.seen |= set(super().keys())
        return self

    def __iter__(self) -> Iterator[str]:
        return super(_Noting, self._all()).__iter__()

    def keys(self) -> Any:
        return super(_Noting, self._all()).keys()

    def values(self) -> Any:
        return super(_Noting, self._all()).values()

    def items(self) -> Any:
        return super(_Noting, self._all()).items()


def _weights_of(product: Product) -> Iterator[Weights]:
    """The files of weights that a product is made with."""
    for source in product.needs:
        if isinstance(source, Weights):
            yield source
        else:
            yield from _weights_of(source)


def index_path(corpus: str) -> str:
    return f"data/index/{corpus}.csv"


def stage_key(product: Product, corpus: str) -> str:
    """A product's key; where one stage makes several kinds of a chain, all but the first have a suffix."""
    suffix = {"apex_frame": "apex", "flows": "flows", "flow_offset": "offset"}.get(product.kind, "")
    return "-".join(part for part in (corpus, product.chain, suffix) if part)


def reader_of(name: str, corpus: Corpus) -> str:
    """The name of the module that reads a corpus."""
    from mer import corpora

    return corpora.ALIASES.get(corpus.reader or name, corpus.reader or name)


def labels_of(name: str, corpus: Corpus) -> str:
    """The name of the module whose class lists apply."""
    from mer import corpora

    return corpora.ALIASES.get(corpus.labels or corpus.reader or name, corpus.labels or corpus.reader or name)


def _reader_module(name: str, reader: str) -> ModuleType:
    from mer import corpora

    try:
        module = corpora.load(reader)
    except MerError as error:
        raise MerError(f"corpora.{name}.reader: {error}") from None
    if not any(hasattr(module, what) for what in ("read_corpus", "read_macro", "RELEASED")):
        raise MerError(
            f"corpora.{name}: {module.__name__} reads no layout; say with reader which module reads it, or with parts "
            "which corpora it is made of"
        )
    return module


def _corrections(reader: str) -> str | None:
    """The file of what is wrong in the published sheet of a corpus; None where nothing is."""
    path = f"mer/corpora/corrections/{reader}.csv"
    return path if (imports.ROOT / path).is_file() else None


def _sheet_module(name: str, part: str) -> str:
    """The module that reads the label sheet of a corpus in a release."""
    from mer import corpora

    try:
        module = corpora.load(part)
    except MerError as error:
        raise MerError(f"corpora.{name}.sheets: {error}") from None
    if not hasattr(module, "read_annotations"):
        raise MerError(f"corpora.{name}.sheets: {module.__name__} reads no label sheet; name a corpus that has one")
    return module.__name__


def _people(reader: str) -> str | None:
    """Whose recordings a release has; None for what is no release."""
    from mer import corpora

    release = getattr(corpora.load(reader), "RELEASE", None)
    return None if release is None else release.people


def _maps_of(model: str) -> str | None:
    """What a model's maps over its pictures are called; None where it explains nothing, or something else."""
    from mer import models
    from mer.evaluation.explained import drawer

    return getattr(drawer(model), "MAPS", None) if models.load(model).explain is not None else None


def _labels_module(labels: str) -> str:
    from mer import corpora

    return corpora.module_name(labels)


def _expected(corpus: Corpus) -> Entry:
    return {name: value for name, value in corpus.expect.model_dump().items() if value is not None}


def _code(stage: str, modules: Iterable[str], without: frozenset[str] = frozenset()) -> list[str]:
    """The files of modules for a stage; a room of which every file counts, as its folder. A path stays what it is."""
    modules = list(modules)
    paths = [m for m in modules if "/" in m]
    found = imports.files((m for m in modules if "/" not in m), imports.CANNOT_CHANGE_NUMBERS | without)
    for room in ROOMS:
        if imports.room(room) <= set(found):
            found = [room, *(path for path in found if not path.startswith(f"{room}/"))]
    # What every run of a stage depends on stands in dvc.yaml by itself.
    return _places(f"code of {stage}", [*paths, *(path for path in found if path not in ALWAYS)], CODE_PLACES[stage])


# Modules that dvc.yaml names itself wherever a reader or a model stands.
ALWAYS = frozenset({
    "mer/clips.py", "mer/storage/weights.py", "mer/corpora/__init__.py", "mer/corpora/facts.py",
    "mer/corpora/layout.py", "mer/corpora/sheets.py", "mer/macro/tables.py", "mer/models/__init__.py",
})  # fmt: skip


def _places(what: str, values: list[str], count: int | None = None) -> list[str]:
    """As many values as dvc.yaml has places for; the first is repeated."""
    values, count = list(dict.fromkeys(values)), PLACES[what] if count is None else count
    if len(values) > count:
        raise MerError(
            f"plan: {len(values)} dependencies ({listed(values, 12)}), but dvc.yaml has {count} places for the {what}; "
            "add places there and in mer/plan.py"
        )
    return [*values, *[values[0]] * (count - len(values))]
