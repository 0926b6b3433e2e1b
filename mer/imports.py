"""Which files of this project a module is made of: its imports, followed through the source without running it."""

import ast
import functools
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Modules whose edits cannot change a number, guarded by tests of their own: they are no dependency of any stage.
CANNOT_CHANGE_NUMBERS = frozenset({
    "mer.cluster", "mer.errors", "mer.imports", "mer.parallel", "mer.params", "mer.plan", "mer.plan_file",
    "mer.products", "mer.project", "mer.shapes", "mer.validation", "mer.storage.build", "mer.storage.cache",
    "mer.storage.files", "mer.storage.seal", "mer.storage.spool", "mer.storage.tables", "mer.storage.unfinished",
    "mer.evaluation.canvas", "mer.evaluation.figures", "mer.evaluation.galleries", "mer.evaluation.magnified",
    "stages._run",
})  # fmt: skip

# Libraries that make numbers.
NUMERIC_PACKAGES = (
    "dlib-bin",
    "face-alignment",
    "numba",
    "numpy",
    "opencv-python",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "torch",
)


def versions() -> str:
    """Of those libraries, one text."""
    installed = {d.name.lower().replace("_", "-"): d.version for d in metadata.distributions()}
    return "".join(f"{package} {installed.get(package)}" for package in NUMERIC_PACKAGES)


def files(modules: Iterable[str], without: Iterable[str] = CANNOT_CHANGE_NUMBERS) -> list[str]:
    """The files of modules and of all that they import, as paths from the project's root, sorted.

    Args:
        modules: dotted names, such as mer.models.linear.
        without: modules that are left out, with what only they import.
    """
    without = frozenset(without)
    seen: set[str] = set()
    todo = set(modules)
    while todo:
        module = todo.pop()
        if module in seen or module in without:
            continue
        seen.add(module)
        todo |= imported(module)
    return sorted(path for module in seen if (path := source(module)) and not _says_nothing(path))


@functools.cache
def _says_nothing(path: str) -> bool:
    """Whether a file holds a docstring at most."""
    body = ast.parse((ROOT / path).read_text("utf-8")).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def room(folder: str) -> set[str]:
    """The files of a room, such as mer/loso, that hold code."""
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob("*.py")}
    return {path for path in found if not _says_nothing(path)}


@functools.cache
def imported(module: str) -> frozenset[str]:
    """The modules of this project that a module imports, also inside its functions."""
    path = source(module)
    if path is None:
        return frozenset()
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("mer", "stages"):
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                found.add(inner if source(inner) else node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.split(".")[0] in ("mer", "stages")}
    return frozenset(found)


def source(module: str) -> str | None:
    """A module's file as a path from the project's root; None where there is none."""
    stem = module.replace(".", "/")
    return next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if (ROOT / path).is_file()), None)
