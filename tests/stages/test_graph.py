"""dvc.yaml against the code: what a stage reads, depends on and writes is what the graph says.

Every stage is run on a tiny corpus, in this process, with its parameters and the files it opens recorded. The stages
are found in dvc.yaml and stages/; a new one needs no entry here.
"""

import ast
import importlib
import re
import sys
from pathlib import Path

import h5py
import pytest
from pydantic import BaseModel

from mer import imports, models
from mer import params as mer_params
from mer.parallel import Engine
from mer.plan import ALWAYS, CODE_PLACES, PLACES, SINGLE, STAGES
from mer.plan_file import stages_of
from stages._run import Stage, options
from tests.helpers.graph import GRAPH, ROOT, body, expanded
from tests.helpers.project import edit, make_project

SCRIPTS = {path.stem for path in (ROOT / "stages").glob("[!_]*.py")}
# Pictures: what draws them is what the stage is for, but a change of it computes nothing anew elsewhere.
DRAWN_BY = {"figures": {"mer.evaluation.figures", "mer.evaluation.magnified", "mer.evaluation.galleries",
                        "mer.evaluation.canvas"},
            "curve": {"mer.evaluation.canvas"}, "heatmaps": {"mer.evaluation.canvas"},
            "motion_maps": {"mer.evaluation.canvas"}, "restore": {"mer.evaluation.canvas"}}  # fmt: skip
# Stages whose entries name code of their own: by name imported, so not to be seen in the script.
OF_AN_ENTRY = {
    "index": ("mer/corpora/", "mer/macro/"), "compose": ("mer/corpora/",), "figures": ("mer/corpora/", "mer/macro/"),
    "pretrain": ("mer/",), "restore": ("mer/pretraining/", "mer/storage/"), "embed": ("mer/",), "train": ("mer/",),
    "fit": ("mer/",),
    "explain": ("mer/evaluation/explained/",),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ code dependencies


def test_every_stage_has_its_script_its_section_and_its_command():
    assert set(GRAPH) == SCRIPTS, "give each stage of dvc.yaml a script in stages/, and each script a stage"
    assert set(GRAPH) - set(STAGES) == set(SINGLE), "add the stage to mer.plan.STAGES, or SINGLE"
    for stage in GRAPH:
        if "foreach" not in GRAPH[stage]:
            continue
        assert GRAPH[stage]["foreach"] == f"${{plan.{stage}}}"
        arguments = " ${item.args}" if options(importlib.import_module(f"stages.{stage}").main) else ""
        assert body(stage)["cmd"] == f"python -m stages.{stage} ${{key}}{arguments}"
        sections = {d.split(".")[0] for d in body(stage).get("params", []) if not d.startswith("$")}
        assert sections <= set(mer_params.Params.model_fields), f"{stage}: add its section to mer.params"


def files_below(paths) -> set[str]:
    """Python files of a list of files and rooms."""
    found = set()
    for path in paths:
        if path.endswith(".py"):
            found.add(path)
        elif (ROOT / path).is_dir() and path.startswith("mer/"):
            found |= imports.room(path)
    return found


@pytest.mark.parametrize("stage", sorted(GRAPH))
def test_code_dependencies_are_the_modules_that_can_change_numbers(stage):
    literal = {d for d in body(stage)["deps"] if "${" not in d and not d.startswith("data")}
    declared = files_below(literal)
    without = imports.CANNOT_CHANGE_NUMBERS - DRAWN_BY.get(stage, set())
    needed = set(imports.files([f"stages.{stage}"], without))
    own = {path for path in needed - declared if path.startswith(OF_AN_ENTRY.get(stage, ()))}
    missing, idle = needed - declared - own, {d for d in literal if d.endswith(".py")} - needed
    rooms = {path for path in literal - idle if path.startswith("mer/") and not Path(path).suffix}
    idle |= {room for room in rooms if not files_below([room]) & needed}
    idle -= ALWAYS if stage in CODE_PLACES else set()  # what the modules of `code` share
    assert not missing, f"add {sorted(missing)} to the deps of {stage} in dvc.yaml"
    assert not idle, f"{stage} does not import {sorted(idle)}: remove them from its deps in dvc.yaml"


def test_lists_of_dependencies_have_the_places_that_the_plan_fills():
    for stage in GRAPH:
        deps = body(stage)["deps"]
        for what, count in [("code", CODE_PLACES.get(stage, 0)), *PLACES.items()]:
            places = [d for d in deps if d.startswith(f"${{item.{what}[")]
            assert places in ([], [f"${{item.{what}[{n}]}}" for n in range(count)]), f"{stage}: {what}"
        assert bool(CODE_PLACES.get(stage)) == any("item.code[" in d for d in deps), stage


@pytest.mark.parametrize("name", models.names())
def test_a_models_code_is_what_it_imports_and_the_engine_of_its_kind(name):
    from mer.plan import _code

    spec = models.load(name)
    network = spec.recipe is not None
    engine = ("mer.loso.run", "mer.loso.nested")
    listed = _code("train", [f"mer.models.{name}", *engine, *(["mer.loso.networks"] * network)],
                   without=frozenset() if network else frozenset({"mer.loso.networks"}))  # fmt: skip
    assert set(imports.files([f"mer.models.{name}"])) - ALWAYS <= files_below(listed)
    assert ("mer/loso" in listed) == network
    if not network:
        torch = {path for path in files_below(listed) if "import torch" in (ROOT / path).read_text()}
        own = set(imports.files([f"mer.models.{name}"]))  # a frozen network that makes its inputs
        assert not torch - own, f"an estimator would rerun for {torch - own}"


def test_arrows_point_one_way():
    """The five do not import each other, nor what stands on them; what all share imports none of them."""
    five = ("corpora", "macro", "synthetic", "faces", "magnification", "motion", "models", "networks")
    allowed = {
        ("macro", "corpora"),
        ("corpora", "macro"),
        ("models", "networks"),
        ("magnification", "networks"),
        ("synthetic", "motion"),
    }  # the strain of simulated flow is that of recorded flow
    above = ("loso", "pretraining", "evaluation", "training")
    planning = ("plan", "plan_file", "validation")  # they know what there is
    for path in sorted((ROOT / "mer").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        room = parts[1] if len(parts) > 2 else ""
        module = ".".join(parts).removesuffix(".__init__")
        for name in imports.imported(module):
            other = name.split(".")[1]
            assert name.split(".")[0] == "mer", f"{module} imports {name}"
            if room in five and (room, other) not in allowed:
                assert other not in set(five) - {room} | set(above), f"{module} imports {name}"
            if (not room and parts[-1] not in planning) or room == "storage":
                assert other not in five + above, f"{module} imports {name}"


def _without_texts(path: Path) -> list[str]:
    """Lines of code without comments, docstrings and recipes of magnification, which have the names of papers too."""
    text = path.read_text()
    if path.suffix == ".py":
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = ""
        text = ast.unparse(tree)
        text = re.sub(r'eulerian\([\w()]+, "\w+"\)|RECIPES = .*', "", text.replace("'", '"'))  # unparse writes '
    return [line.split("#")[0] for line in text.splitlines()]


def test_no_file_but_its_own_knows_a_model_by_name():
    """uamrn.py, its pictures, its presets, texts and tests; everything else would have to be edited for each model."""
    names = [name for name in models.names() if name not in ("linear", "ststnet")]
    for path in [*(ROOT / "mer").rglob("*.py"), *(ROOT / "stages").glob("*.py"), *(ROOT / "tools").glob("*.py"),
                 ROOT / "dvc.yaml"]:  # fmt: skip
        for name in names:
            if path.stem == name:
                continue
            code = [line for line in _without_texts(path) if "python -m" not in line]
            found = [line for line in code if f'"{name}"' in line or f"{name}." in line or f"-{name}" in line]
            assert not found, f"{path.relative_to(ROOT)} knows {name}: {found[0].strip()}"


# ------------------------------------------------------------------------------------------------ a recorded run


class Recorder:
    """Stands for a parameter section and notes the dotted name of every value that is read."""

    def __init__(self, value, path: str, seen: set):
        self.__dict__.update(_value=value, _path=path, _seen=seen)

    def _child(self, name, value):
        path = f"{self._path}.{name}" if self._path else str(name)
        path = path.removeprefix("knobs.")
        if isinstance(value, BaseModel | dict):
            if not (value.model_dump() if isinstance(value, BaseModel) else value):
                self._seen.add(path)
            return Recorder(value, path, self._seen)
        self._seen.add(path)
        return value

    def __getattr__(self, name):
        if name == "model_dump":
            return self._dumped
        if name == "get":
            return lambda key, default=None: self[key] if key in self._value else default
        if name == "items":
            return lambda: [(key, self[key]) for key in self._value]
        if name == "values":
            return lambda: [self[key] for key in self._value]
        if name == "of":  # train's settings of an experiment read both
            return lambda experiment: Recorder(self._value.of(experiment._value), self._path, self._seen)
        if name == "knobs_of":
            return lambda experiment: {**self.knobs.get(experiment.model, {}), **experiment.knobs}
        if name == "candidates_of":
            return lambda experiment: {"": experiment, **experiment.candidates}
        if name == "keys":
            self._seen.add(self._path)  # unpacked whole
            return self._value.keys
        return self._child(name, getattr(self._value, name))

    def _dumped(self, mode="python"):
        """mode json: plain values, all of which are read."""
        found = {n: self._child(n, v) for n, v in self._value.model_dump().items()}
        if mode == "json":
            self._seen |= {f"{self._path}.{name}" for name in found}
            return self._value.model_dump(mode="json")
        return found

    def __getitem__(self, key):
        return self._child(key, self._value[key])

    def __bool__(self):
        return bool(self._value)

    def __contains__(self, key):
        return key in self._value

    def __iter__(self):
        return iter(self._value)


class Opened:
    """Files below data/ and metrics/ that are opened for reading, or folders that are listed, while it is on."""

    def __init__(self, folder: Path):
        self.folder, self.paths, self.on = folder, set(), False
        sys.addaudithook(self._audit)

    def _audit(self, event, args):
        if self.on and event == "open" and isinstance(args[0], str | Path) and "w" not in str(args[1] or "r"):
            self.note(args[0])
        if self.on and event in ("os.scandir", "os.listdir") and isinstance(args[0], str | Path):
            self.note(args[0])

    def note(self, path):
        path = Path(path)
        path = path.relative_to(self.folder) if path.is_absolute() and path.is_relative_to(self.folder) else path
        if path.parts[:1] in (("data",), ("metrics",)) and not any(
            part.endswith((".partial", ".new", ".old")) for part in path.parts
        ):
            self.paths.add(path.as_posix())


@pytest.fixture(scope="module")
def recorded(root, tmp_path_factory):
    """stage@key -> (parameters read, files read, files written), from one run of the tiny demo and what it lacks."""
    folder = make_project(root, tmp_path_factory.mktemp("project"))
    edit(folder, _with_a_curve_and_maps)
    opened = Opened(folder)
    real_open = h5py.File.__init__

    def open_h5(self, name, mode="r", *args, **options):
        if opened.on and mode == "r" and isinstance(name, str | Path):
            opened.note(name)
        real_open(self, name, mode, *args, **options)

    records = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(h5py.File, "__init__", open_h5)
        patch.setattr(Stage, "engine", Engine())  # in this process, so that what is opened is seen
        patch.setattr("stages.train.check_plan", lambda stage: None)  # refuses, and decides nothing
        params, plan = mer_params.load(), stages_of()
        for stage in GRAPH:
            main = importlib.import_module(f"stages.{stage}").main
            for key, entry in plan[stage].items() if "foreach" in GRAPH[stage] else [("", {"args": {}})]:
                assert entry["args"].keys() <= options(main).keys(), f"{stage}@{key}: main lacks an argument"
                seen = set()
                before = snapshot(folder)
                opened.paths, opened.on = set(), True
                main(Stage(stage, key, Recorder(params, "", seen)), **entry["args"])
                opened.on = False
                written = snapshot(folder) - before
                records[f"{stage}@{key}"] = (seen, opened.paths - written, written, entry)
    return params, records


def _with_a_curve_and_maps(params) -> None:
    """Which the demo lacks, being of one experiment a model."""
    small = {"start": "random", "classifier": "new", "stem": 2, "blocks": 2, "layers": 1, "growth": 2, "size": 16}
    both = [f"synthetic-maps-{attention}" for attention in ("none", "spatial")]
    for name in both:
        knobs = {**small, "attention": name.rpartition("-")[2]}
        params["experiments"][name] = {"corpus": "synthetic", "model": "dcma", "knobs": knobs, "recipe": {"epochs": 1}}
    params["heatmaps"] = {"maps": {"experiments": both, "clips": 2}}
    params["explain"]["drawn"][both[1]] = ""
    # The factors that another experiment reads, too.
    params["motion_maps"]["synthetic-micronbert"].update(factors="linspace_2_13_8", clips=2)
    params["experiments"]["synthetic-linear-fine"] = {"corpus": "synthetic", "model": "linear", "knobs": {"grid": 14}}
    params["curves"] = {"grid": {"experiments": ["synthetic-linear*"], "knob": "grid", "baseline": "synthetic-ststnet"}}


def snapshot(folder: Path) -> set[str]:
    files = [p for top in ("data", "metrics") for p in (folder / top).rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix() for p in files if ".partial" not in p.parts}


def below(path: str, declared) -> bool:
    return any(path == d or path.startswith(f"{d}/") for d in declared)


def test_parameters_read_are_the_parameters_declared(recorded):
    params, records = recorded
    assert len(records) == 48
    for name, (seen, _, _, entry) in records.items():
        stage, key = name.split("@")
        declared = set(expanded(stage, "params", key, entry))
        # The corpus, the classes and the labels are arguments; checking an experiment looks at all of it.
        given = tuple({"runtime", "preset", "corpora"} - declared)
        read = {p for p in seen if not p.startswith(given)}
        undeclared = {p for p in read if not any(p == d or p.startswith(f"{d}.") for d in declared)}
        assert not undeclared, f"{name} reads {sorted(undeclared)}: add them to its params in dvc.yaml"
        for d in declared:
            section = getattr(params, d, None)
            if isinstance(section, BaseModel):  # a whole section: each of its values must matter
                unread = {f"{d}.{f}" for f in type(section).model_fields} - {".".join(p.split(".")[:2]) for p in read}
                assert not unread, f"{name} declares {sorted(unread)} and does not read it: name single parameters"
            else:
                assert any(p == d or p.startswith(f"{d}.") for p in read), f"{name} declares {d} and does not read it"


def test_files_read_are_the_dependencies_declared(recorded):
    _, records = recorded
    for name, (_, read, _, entry) in records.items():
        stage, key = name.split("@")
        declared = {d for d in expanded(stage, "deps", key, entry) if d.startswith(("data", "metrics"))}
        # Frames count through the digest of each clip in the index.
        through_index = {"data/raw"} if stage in ("landmarks", "align", "magnify_eulerian", "recognise") else set()
        # A stage that is run by hand lists its own folder, and removes what is no longer of it.
        own = set(expanded(stage, "outs", key, entry))
        # A scratch folder that is removed is opened from within itself, so by its own "data".
        own |= {"data"} if stage == "recognise" else set()
        undeclared = {p for p in read - own if not below(p, declared | through_index)}
        assert not undeclared, f"{name} reads {sorted(undeclared)[:3]}: add them to its deps in dvc.yaml"
        unread = {d for d in declared if not any(below(p, {d}) for p in read)}
        assert not unread, f"{name} depends on {sorted(unread)} and does not read it"


def test_files_written_are_the_outputs_declared(recorded):
    _, records = recorded
    for name, (_, _, written, entry) in records.items():
        stage, key = name.split("@")
        declared = {o for what in ("outs", "metrics", "plots") for o in expanded(stage, what, key, entry)}
        assert not {p for p in written if not below(p, declared)}, f"{name} writes what dvc.yaml does not declare"
        assert not {o for o in declared if not any(below(p, {o}) for p in written)}, f"{name} does not write {declared}"
