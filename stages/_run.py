"""What every stage shares: its parameters and arguments, one line for bad input, and dying with whoever started it.

    python -m stages.align synthetic-box224

A stage module is a `main(stage, *, ...)` and `run("align", main)` at its end. The keyword arguments of `main` are the
arguments of the command, as dvc.yaml passes them from plan.yaml; with the key alone they are read from there.
"""

import argparse
import hashlib
import inspect
import json
import resource
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from mer import imports, plan_file
from mer.errors import MerError, explained, suggestion
from mer.parallel import Engine
from mer.params import Params, load
from mer.plan import SAFE
from mer.project import check_encoding, check_folders
from mer.storage.files import replace_file
from mer.storage.unfinished import FOLDER, keep_within, lock_of

BAD_INPUT = 2


@dataclass(frozen=True)
class Stage:
    """A stage at work. `key` is the part behind the @ in DVC's name (empty without foreach)."""

    name: str
    key: str
    params: Params

    @property
    def full_name(self) -> str:
        return f"{self.name}@{self.key}" if self.key else self.name

    @property
    def section(self):
        return getattr(self.params, self.name)

    @property
    def engine(self) -> Engine:
        runtime = self.params.runtime
        return Engine(workers=runtime.workers, progress=True, scheduler=runtime.scheduler)

    @property
    def one_process(self) -> Engine:
        """For work on a GPU, which is fed by one process."""
        return self.engine if self.device == "cpu" else Engine(workers=1, progress=True)

    @property
    def device(self) -> str:
        """cpu or cuda, as runtime.device asks for. Raises MerError for a GPU that is not there."""
        import torch

        wanted, available = self.params.runtime.device, torch.cuda.is_available()
        if wanted == "cuda" and not available:
            raise MerError("runtime.device is cuda, but torch sees no GPU; set it to cpu or auto")
        return "cuda" if wanted != "cpu" and available else "cpu"

    @property
    def spool(self) -> Path:
        return FOLDER / self.full_name

    def entry(self) -> dict[str, Any]:
        """This run's entry in plan.yaml."""
        entries = plan_file.stages_of()[self.name]
        if self.key not in entries:
            raise MerError(f"plan.yaml has no {self.full_name}; {suggestion(self.key, entries)}")
        return entries[self.key]

    def code(self) -> str:
        """Digest of the code of this run, and of the libraries that make numbers.

        So a resumed run never mixes two versions of either.
        """
        # A run that was typed by hand has no entry.
        own = plan_file.stages_of()[self.name].get(self.key, {}).get("code", []) if self.key else []
        files = {*imports.files([f"stages.{self.name}"]), *(file for path in own for file in _python_files(path))}
        digest = hashlib.sha256()
        for name in sorted(files):
            digest.update(Path(name).read_bytes())
        digest.update(imports.versions().encode())
        return digest.hexdigest()


def _python_files(path: str) -> list[str]:
    folder = Path(path)
    return sorted(p.as_posix() for p in folder.glob("*.py")) if folder.is_dir() else [path]


def run(name: str, main) -> None:
    """Run a stage's `main(stage, …)`; bad input prints one line and exits 2."""
    key = next((argument for argument in sys.argv[1:2] if not argument.startswith("-")), "")
    label = f"{name}@{key}" if key else name
    warnings.simplefilter("default")
    start = time.perf_counter()
    try:
        # Before anything is opened: the key becomes part of paths.
        if (key and not SAFE.fullmatch(key)) or len(key) > 200:
            raise MerError(f"{key[:80]!r} is no key of a stage: a-z, 0-9, - and _ only; plan.yaml names them")
        check_encoding()
        params = load("params.yaml")
        plan_file.check(params)
        check_folders(plan_file.stages_of())
        stage = Stage(name, key, params)
        arguments = parsed(main, sys.argv[2:], label) if len(sys.argv) > 2 else from_plan(main, stage)
        # Also a stage that keeps no spool must not be run twice at a time.
        with lock_of(label):
            _make_room(stage)
            main(stage, **arguments)
    except MerError as error:
        print(f"{label}: {error}", file=sys.stderr, flush=True)
        sys.exit(BAD_INPUT)
    except Exception as error:
        line = explained(error)
        if line is None:
            raise
        print(f"{label}: {line}; dvc repro goes on after the finished clips", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print(f"{label}: interrupted; finished clips and folds are kept, dvc repro goes on after them", file=sys.stderr)
        sys.exit(130)
    _note_time(label, time.perf_counter() - start)


def _make_room(stage: Stage) -> None:
    """Keep the unfinished work of killed runs within runtime.unfinished."""
    limit = stage.params.runtime.unfinished
    for gone in keep_within(int(limit * 1e9), stage.full_name) if limit else ():
        print(
            f"{stage.full_name}: unfinished work of {gone.stage} ({gone.size / 1e9:.2f} GB) is removed: all of it has "
            f"more than runtime.unfinished ({limit:g} GB)",
            file=sys.stderr,
        )


def chosen(entries: Mapping[str, Any], name: str, where: str) -> Any:
    """An entry of a part of params.yaml, which messages call `where`. Raises MerError where none has this name."""
    if name not in entries:
        raise MerError(f"params.yaml: {where} has no {name!r}; {suggestion(name, entries)}")
    return entries[name]


def options(main) -> dict[str, inspect.Parameter]:
    """The keyword arguments of a stage's main."""
    parameters = inspect.signature(main, eval_str=True).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def parsed(main, arguments: list[str], label: str) -> dict[str, Any]:
    """The arguments of a command, of the types that `main` is annotated with: str, int, or a list of them."""

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise MerError(f"{message}; dvc.yaml and stages/ do not fit together, or the command was typed wrongly")

    parser = Parser(prog=label, add_help=False, allow_abbrev=False)
    for name, parameter in options(main).items():
        annotation = _plain(parameter.annotation)
        several = get_origin(annotation) is list
        kind = get_args(annotation)[0] if several else annotation
        required = parameter.default is inspect.Parameter.empty
        more = {"nargs": "+"} if several else {}
        parser.add_argument(f"--{name}", type=kind, required=required, **more)
    found = vars(parser.parse_args(arguments))
    return {name: value for name, value in found.items() if value is not None}


def _plain(annotation):
    """`str` of `str | None`."""
    if get_origin(annotation) is not UnionType:
        return annotation
    return next(inner for inner in get_args(annotation) if inner is not type(None))


def from_plan(main, stage: Stage) -> dict[str, Any]:
    """The same from plan.yaml, for a stage that is called by its key alone."""
    if stage.name not in plan_file.stages_of():  # a stage without runs
        return {}
    return {name: value for name, value in stage.entry()["args"].items() if name in options(main)}


def _note_time(label: str, seconds: float) -> None:
    """Timings stay out of DVC's outputs, which must not differ between equal runs; without them nothing is lost."""
    peak = [resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    torch = sys.modules.get("torch")  # what has not imported it has used no GPU
    device = "cuda" if torch is not None and torch.cuda.is_initialized() else "cpu"
    record = {"seconds": round(seconds, 2), "peak_mb": peak[0], "peak_mb_of_a_worker": peak[1], "device": device}
    try:
        replace_file(Path("data/timings") / f"{label}.json", (json.dumps(record) + "\n").encode())
    except OSError as error:
        print(f"{label}: its time is not kept ({error})", file=sys.stderr)
