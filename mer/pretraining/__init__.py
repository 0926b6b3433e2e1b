"""Pretraining: the weights that are made before the folds. A task is one file here, found by its name.

What a task's file declares:

    run(entry, context)   trains or fetches a network; returns Made. entry: the parameters of the run by name
                          (pretrain.runs.<name> of params.yaml, checked there); context: what it is given besides
    knobs_of(entry)       optional: the knobs of the network, where they are more than the run's `knobs`
    given(entry, context) optional: whether there is material of the user's, which comes before what is bundled

A task that trains calls mer.pretraining.loop.train with the loss of a step. Whose weights are taken, `run` decides:

    1. the user's own file, in the folder `user_weights`
    2. the task, where the user gave it material: a licensed set in its folder, frames of corpora
    3. the file `bundled`, which came with the repository (docs/weights.md)
    4. the task, with what the synthetic pool has, or with no data at all

What a network's file in mer/networks, mer/magnification or mer/models declares to be found here:

    NETWORK = "…"                             its name; nothing else has to know of it
    build_pretrained()                        the whole network, its weights drawn from torch's generator; a model's
                                              takes its knobs
    load_user_weights(path)                   the network with the weights of a user's own file; a model's takes knobs
    load_official(network, source, revision)  optional: gives the network official weights, without the last two those
                                              of ImageNet; returns it
    PRETRAINED = (…)                          optional: the classes that the whole network tells apart, in label order

Task `macro` needs a network that maps faces (B, size, size, 3) to features (B, network.width). Task `macro_sets` needs
one that maps them to logits (B, 3) of negative, positive and surprise, and says so by PRETRAINED.

What `Made.about` says stands in the file of weights (mer.storage.weights): `weights`, where they come from in a few
words; `subjects`, as a sorted list of `<corpus>/<subject>`, whose frames the training saw. Without it there was nobody
of an evaluated corpus among them: macro-expression sets and the synthetic pool have none of those. A network may add
to it by a property `about`, and find that again in `load_user_weights`.
"""

import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mer.errors import MerError, listed, suggestion
from mer.parallel import SERIAL, Engine

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")  # of a user's own file of weights


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a task is given besides the parameters of the run.

    where: the run's name in messages, such as pretrain.runs.resnet18. device: cpu or cuda. checkpoint: file from which
    a killed training goes on; None: nothing is kept. code: digest of the code that the weights depend on. pool: folder
    of a synthetic corpus's pool (mer.synthetic.pool); None: there is none. frames: folders of shards
    (mer.storage.shards). world: the processes that train together (mer.pretraining.distributed); None: this one alone.
    """

    where: str
    seed: int = 0
    device: str = "cpu"
    engine: Engine = SERIAL
    checkpoint: Path | None = None
    code: str = ""
    pool: Path | None = None
    frames: tuple[Path, ...] = ()
    world: Any = None
    progress: bool = False


@dataclass(frozen=True)
class Made:
    """network: an nn.Module with the weights. about: the note in their file, see above."""

    network: Any
    about: dict[str, str | list[str]]


def run(entry: dict[str, Any], context: Context) -> Made:
    """The weights of a run, from the first of the four sources above that there is; files are taken as they are.

    Args:
        entry: with `task`, `network`, `user_weights` (a folder, or None), `bundled` (a file, or None) and what the task
            needs; `knobs`, where it has some, are those of the network.

    Raises:
        MerError: an unknown task or network, a folder that is not there or holds several files, a file that is missing,
            damaged or not the network's, and what the task refuses.
    """
    load_network(entry["network"])
    own = own_weights(entry, context)
    if own is not None:
        return Made(*_taken(own, "given", entry, context))
    if is_made(entry, context):
        return load_task(entry["task"]).run(entry, context)
    path = Path(entry["bundled"])
    if not path.is_file():
        raise MerError(f"{path}: is missing; {back_again(path, context.where)}")
    try:
        return Made(*_taken(path, "bundled", entry, context))
    except MerError as error:
        raise MerError(f"{str(error).split('; ')[0]}; {back_again(path, context.where)}") from None


def is_made(entry: dict[str, Any], context: Context) -> bool:
    """Whether the task makes the weights, as no file comes before it. Errors are those of `run` and of the task."""
    task = load_task(entry["task"])
    if own_weights(entry, context) is not None:
        return False
    return entry.get("bundled") is None or (hasattr(task, "given") and task.given(entry, context))


def back_again(path: str | Path, where: str) -> str:
    """The remedy for a bundled file that is not as it came; where: the run's name in messages."""
    return f"it came with the repository: git checkout -- {path}, or train here: set {where}.bundled to null"


def _taken(path: Path, kind: str, entry: dict[str, Any], context: Context) -> tuple[Any, dict[str, str | list[str]]]:
    """The network with the weights of a file, and the note: what they are, and whom they have seen."""
    from mer.storage.weights import digest_of, subjects_seen, weights_about

    task, network = load_task(entry["task"]), load_network(entry["network"])
    knobs = task.knobs_of(entry) if hasattr(task, "knobs_of") else entry.get("knobs", {})
    try:
        weights = network.load_user_weights(path, **knobs)
    except TypeError as error:
        raise MerError(
            f"{context.where}.knobs: {entry['network']} cannot be built with {knobs} ({error}); correct it"
        ) from None
    seen = sorted(subjects_seen(path))
    # Whoever bundled the file wrote its note; what a user's file says of itself counts only for subjects.
    about = weights_about(path) if kind == "bundled" else {}
    made = f"{kind}: {path.name}" + (f", {about['weights']}" if "weights" in about else "")
    about |= {"weights": made, "sha256": digest_of(path)} | getattr(weights, "about", {})
    return weights, about | ({"subjects": seen} if seen else {})


def own_weights(entry: dict[str, Any], context: Context) -> Path | None:
    """The user's own file of a run; errors are those of `user_weights`."""
    return user_weights(entry["user_weights"], f"{context.where}.user_weights")


# ---- what a user has put in place -----------------------------------------------------------------------------------


def user_files(folder: str | Path, where: str) -> list[Path]:
    """What lies in a folder of the user beside the note that says what belongs there.

    Raises MerError, naming the parameter `where`, if there is no such folder.
    """
    if not Path(folder).is_dir():
        raise MerError(f"{folder}: there is no such folder; make it, or correct {where}")
    return sorted(p for p in Path(folder).iterdir() if not p.name.startswith(".") and p.name != "README.md")


def user_weights(folder: str | Path | None, where: str) -> Path | None:
    """The one file of weights in a folder; None where it is empty, or `folder` is None.

    Raises MerError for no such folder, two files, or a name that does not end as weights do.
    """
    found = [] if folder is None else user_files(folder, where)
    if len(found) > 1:
        raise MerError(f"{folder}: holds {listed(path.name for path in found)}; leave one file of weights there")
    if found and found[0].suffix not in SUFFIXES:
        raise MerError(f"{found[0]}: is no file of weights; valid ends of its name: {', '.join(SUFFIXES)}")
    return found[0] if found else None


# ---- tasks and networks by name -------------------------------------------------------------------------------------


def tasks() -> dict[str, str]:
    """Name -> module. None is imported for it."""
    return _declaring(["mer.pretraining"], r"^def run\(entry\b")


def networks() -> dict[str, str]:
    """Name -> module. None is imported for it."""
    return _declaring(["mer.networks", "mer.magnification", "mer.models"], r'^NETWORK = "(\w+)"')


def load_task(name: str) -> ModuleType:
    """The module of a task. Raises MerError for an unknown one."""
    return _load("task", name, tasks(), ("run",))


def load_network(name: str) -> ModuleType:
    """The module of a network. Raises MerError for an unknown one, and for one that declares too little."""
    return _load("network", name, networks(), ("build_pretrained", "load_user_weights"))


def _load(kind: str, name: str, known: dict[str, str], needed: tuple[str, ...]) -> ModuleType:
    if name not in known:
        raise MerError(f"pretrain: {kind} {name!r} is unknown; {suggestion(name, known)}")
    module = importlib.import_module(known[name])
    missing = [declaration for declaration in needed if not hasattr(module, declaration)]
    if missing:
        raise MerError(f"{known[name]} declares no {listed(missing)}; see mer/pretraining/__init__.py")
    return module


def _declaring(packages: Iterable[str], declaration: str) -> dict[str, str]:
    """Name -> module of the files with such a line; the name is what the line captures, else the file's."""
    found = {}
    for package in packages:
        for path in sorted(Path(__file__).parents[2].joinpath(*package.split(".")).glob("[!_]*.py")):
            match = re.search(declaration, path.read_text(encoding="utf-8"), re.MULTILINE)
            if match:
                found[match[1] if match.lastindex else path.stem] = f"{package}.{path.stem}"
    return found
