"""dvc.yaml against the code: what a stage reads, depends on and writes is what the graph says.

Every stage is run on a tiny corpus, in this process, with its parameters and the files it opens recorded.
"""

import ast
import importlib
import re
import sys
from pathlib import Path

import h5py
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from mer import models
from mer import params as mer_params
from mer.parallel import Engine
from stages._run import Stage
from tests.helpers.project import make_project

# Modules whose edits cannot change a number, guarded by tests of their own (golden bytes in test_cache.py).
ALLOWED = {
    "mer.errors",
    "mer.params",
    "mer.storage.cache",
    "mer.storage.spool",
    "mer.parallel",
    "mer.evaluation.figures",
    "mer.evaluation.magnified",
    "stages._run",
}
ORDER = (
    "synthesize",
    "index",
    "landmarks",
    "align",
    "spot",
    "magnify_eulerian",
    "train_magnet",
    "magnify_learned",
    "pretrain_macro",
    "embed",
    "flow",
    "dynamic_image",
    "join",
    "import_flow",
    "train",
    "evaluate",
    "leakage",
    "explain",
    "figures",
)
GRAPH = YAML(typ="safe").load(Path(__file__).parent.parent.parent / "dvc.yaml")["stages"]


# ------------------------------------------------------------------------------------------------ code dependencies


def imported_modules(module: str) -> set[str]:
    """Modules of this project that `module` takes something from, each re-exported name traced to where it is made."""
    found = set()
    for node in ast.walk(ast.parse(Path(importlib.util.find_spec(module).origin).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("mer", "stages"):
            source = importlib.import_module(node.module)
            for name in node.names:
                try:
                    found.add(importlib.import_module(f"{node.module}.{name.name}").__name__)
                except ModuleNotFoundError:
                    made_in = getattr(getattr(source, name.name), "__module__", node.module)
                    found.add(made_in if made_in.startswith(("mer", "stages")) else node.module)
        elif isinstance(node, ast.Import):
            found |= {n.name for n in node.names if n.name.split(".")[0] == "mer"}
    return found


def closure(module: str) -> set[str]:
    seen, todo = set(), {module}
    while todo:
        name = todo.pop()
        seen.add(name)
        # What an allowed module imports cannot change a number through it either.
        todo |= imported_modules(name) - seen - ALLOWED if name not in ALLOWED else set()
    return seen


def as_path(module: str) -> str:
    return str(Path(importlib.util.find_spec(module).origin).relative_to(Path(__file__).parent.parent.parent.resolve()))


def body(stage: str) -> dict:
    return GRAPH[stage].get("do", GRAPH[stage])


def test_every_stage_has_its_script_its_section_and_its_command():
    assert set(GRAPH) == set(ORDER)
    for stage in GRAPH:
        assert (Path(__file__).parent.parent.parent / f"stages/{stage}.py").is_file()
        key = " ${key}" if "foreach" in GRAPH[stage] else ""
        assert body(stage)["cmd"] == f"python -m stages.{stage}{key}"
        assert stage in mer_params.Params.model_fields or not key


@pytest.mark.parametrize("stage", ORDER)
def test_code_dependencies_are_the_modules_that_can_change_numbers(stage):
    declared = {d for d in body(stage)["deps"] if d.endswith(".py")}
    needed = {as_path(m) for m in closure(f"stages.{stage}") if m not in ALLOWED}
    dynamic = {d for d in declared if "${" in d}
    plotting = (
        {"mer/evaluation/figures.py", "mer/evaluation/magnified.py"} if stage == "figures" else set()
    )  # what that stage is for
    if "mer/models/${item.model}.py" in dynamic:  # what models share
        needed |= {as_path(m) for name in models.names() for m in closure(f"mer.models.{name}") if m not in ALLOWED}
        needed -= {f"mer/models/{name}.py" for name in models.names()}
    assert declared - dynamic - plotting == needed
    # and what is imported by name: readers and models
    source = (Path(__file__).parent.parent.parent / f"stages/{stage}.py").read_text()
    assert ("corpora.load(" in source) == ("mer/corpora/${item.reader}.py" in dynamic)
    assert ("corpora.select(" in source) == ("mer/corpora/${item.labels}.py" in dynamic)
    assert ("models." in source) == ("mer/models/${item.model}.py" in dynamic)


@pytest.mark.parametrize("kind", ["models", "corpora"])
def test_what_is_imported_by_name_hides_no_further_code(kind):
    """A model or a reader is one dependency, so it may import only modules that its stage declares anyway."""
    stage = {"models": "train", "corpora": "index"}[kind]
    declared = {d for d in body(stage)["deps"] if d.endswith(".py")}
    for path in (Path(__file__).parent.parent.parent / "mer" / kind).glob("*.py"):
        if path.stem != "__init__" and hasattr(
            importlib.import_module(f"mer.{kind}.{path.stem}"), {"models": "build", "corpora": "read_corpus"}[kind]
        ):
            module = f"mer.{kind}.{path.stem}"
            extra = {as_path(m) for m in closure(module) - {module} if m not in ALLOWED}
            assert extra <= declared, f"{path.name} imports {extra - declared}"


def test_arrows_point_one_way():
    """The five do not import each other, nor what stands on them; what all share imports none of them."""
    five = ("corpora", "faces", "magnification", "motion", "models")
    above = ("training", "evaluation")
    root = Path(__file__).parent.parent.parent
    for path in sorted((root / "mer").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        room = parts[1] if len(parts) > 2 else ""
        module = ".".join(parts).removesuffix(".__init__")
        for name in imported_modules(module):
            other = name.split(".")[1] if name.count(".") > 1 or name.split(".")[-1] in five + above else ""
            assert name.split(".")[0] == "mer", f"{module} imports {name}"
            if room in five:
                assert other not in set(five) - {room} | set(above), f"{module} imports {name}"
            if not room:
                assert other not in five + above, f"{module} imports {name}"


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
            return lambda: {n: self._child(n, v) for n, v in self._value.model_dump().items()}
        if name == "get":
            return lambda key, default=None: self[key] if key in self._value else default
        if name == "keys":
            self._seen.add(self._path)  # unpacked whole
            return self._value.keys
        return self._child(name, getattr(self._value, name))

    def __getitem__(self, key):
        return self._child(key, self._value[key])

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
        if path.parts[:1] in (("data",), ("metrics",)) and not any(part.endswith(".partial") for part in path.parts):
            self.paths.add(path.as_posix())


@pytest.fixture(scope="module")
def recorded(root, tmp_path_factory):
    """stage@key -> (parameters read, files read, files written), from one run of the whole tiny demo."""
    folder = make_project(root, tmp_path_factory.mktemp("project"))
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
        params = mer_params.load()
        for stage in ORDER:
            for key in keys(stage, params):
                seen = set()
                before = snapshot(folder)
                opened.paths, opened.on = set(), True
                importlib.import_module(f"stages.{stage}").main(Stage(stage, key, Recorder(params, "", seen)))
                opened.on = False
                written = snapshot(folder) - before
                records[f"{stage}@{key}"] = (seen, opened.paths - written, written)
    return params, records


def keys(stage: str, params) -> list[str]:
    if "foreach" not in GRAPH[stage]:
        return [""]
    where = re.fullmatch(r"\$\{(.*)\}", GRAPH[stage]["foreach"])[1]
    node = params
    for part in where.split("."):
        node = getattr(node, part)
    return list(node)


def snapshot(folder: Path) -> set[str]:
    files = [p for top in ("data", "metrics") for p in (folder / top).rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix() for p in files if ".partial" not in p.parts}


def expanded(stage: str, key: str, params, what: str) -> list[str]:
    """Entries of a list in dvc.yaml with ${key} and ${item…} filled in."""
    if "foreach" not in GRAPH[stage]:
        return [next(iter(e)) if isinstance(e, dict) else e for e in body(stage).get(what, [])]
    where = re.fullmatch(r"\$\{(.*)\}", GRAPH[stage]["foreach"])[1]
    item = params
    for part in where.split("."):
        item = getattr(item, part)
    item = item[key].model_dump()

    def fill(match):
        if match[1] == "key":
            return key
        name, _, place = match[1].removeprefix("item.").partition("[")
        return str(item[name][int(place[:-1])] if place else item[name])

    entries = [next(iter(e)) if isinstance(e, dict) else e for e in body(stage).get(what, [])]
    return [re.sub(r"\$\{(.*?)\}", fill, e) for e in entries]


def below(path: str, declared) -> bool:
    return any(path == d or path.startswith(f"{d}/") for d in declared)


def test_parameters_read_are_the_parameters_declared(recorded):
    params, records = recorded
    assert len(records) == 25
    for name, (seen, _, _) in records.items():
        stage, key = name.split("@")
        declared = set(expanded(stage, key, params, "params"))
        read = {p for p in seen if not p.startswith(("runtime", "preset"))}
        undeclared = {p for p in read if not any(p == d or p.startswith(f"{d}.") for d in declared)}
        assert not undeclared, f"{name} reads {undeclared}, which dvc.yaml does not declare"
        for d in declared:
            section = getattr(params, d, None)
            if isinstance(section, BaseModel):  # a whole section: each of its values must matter
                unread = {f"{d}.{f}" for f in type(section).model_fields} - read
                assert not unread, f"{name} declares {unread} and does not read it"
            else:
                assert any(p == d or p.startswith(f"{d}.") for p in read), f"{name} declares {d} and does not read it"


def test_files_read_are_the_dependencies_declared(recorded):
    params, records = recorded
    for name, (_, read, _) in records.items():
        stage, key = name.split("@")
        declared = {d for d in expanded(stage, key, params, "deps") if d.startswith(("data", "metrics"))}
        # Frames count through the digest of each clip in the index.
        through_index = {"data/raw"} if stage in ("landmarks", "align", "magnify_eulerian") else set()
        undeclared = {p for p in read if not below(p, declared | through_index)}
        assert not undeclared, f"{name} reads {sorted(undeclared)[:3]}, which dvc.yaml does not declare"
        unread = {d for d in declared if not any(below(p, {d}) for p in read)}
        assert not unread, f"{name} depends on {unread} and does not read it"


def test_files_written_are_the_outputs_declared(recorded):
    params, records = recorded
    for name, (_, _, written) in records.items():
        stage, key = name.split("@")
        declared = {o for what in ("outs", "metrics", "plots") for o in expanded(stage, key, params, what)}
        assert not {p for p in written if not below(p, declared)}, f"{name} writes what dvc.yaml does not declare"
        assert not {o for o in declared if not any(below(p, {o}) for p in written)}, f"{name} does not write {declared}"
