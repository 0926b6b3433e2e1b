"""What every stage shares: its parameters, one line for bad input, and dying with the process that started it.

    python -m stages.align synthetic-box224

A stage module is a `main(stage)` and `run("align", main)` at its end.
"""

import errno
import functools
import hashlib
import json
import re
import resource
import sys
import time
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ruamel.yaml import YAML

from mer.errors import MerError, suggestion
from mer.parallel import Engine
from mer.params import Params, load
from mer.storage.spool import Spool

BAD_INPUT = 2
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
    def item(self):
        """This run's entry, from where dvc.yaml's foreach takes it: `experiments`, or the `runs` of a section."""
        where = _graph()[self.name]["foreach"][2:-1]
        entries = functools.reduce(getattr, where.split("."), self.params)
        if self.key not in entries:
            raise MerError(f"params.yaml: {where} has no {self.key!r}; {suggestion(self.key, entries)}")
        return entries[self.key]

    @property
    def engine(self) -> Engine:
        return Engine(workers=self.params.runtime.workers, progress=True)

    @property
    def device(self) -> str:
        """cpu or cuda, as runtime.device asks for. Raises MerError for a GPU that is not there."""
        import torch

        wanted, there = self.params.runtime.device, torch.cuda.is_available()
        if wanted == "cuda" and not there:
            raise MerError("runtime.device is cuda, but torch sees no GPU; set it to cpu or auto")
        return "cuda" if wanted != "cpu" and there else "cpu"

    @property
    def spool(self) -> Path:
        return Path("data/.partial") / self.full_name

    def code(self) -> str:
        """Digest of the code that DVC knows this stage to depend on, and of the libraries that make numbers.

        So a resumed run never mixes two versions of either.
        """
        deps = _graph()[self.name].get("do", _graph()[self.name])["deps"]
        files = [re.sub(r"\$\{item\.(\w+)\}", lambda m: str(getattr(self.item, m[1])), d) for d in deps]
        digest = hashlib.sha256()
        for name in sorted(f for f in files if f.endswith(".py")):
            digest.update(Path(name).read_bytes())
        installed = {d.name.lower().replace("_", "-"): d.version for d in metadata.distributions()}
        for package in NUMERIC_PACKAGES:
            digest.update(f"{package} {installed.get(package)}".encode())
        return digest.hexdigest()


@functools.cache
def _graph() -> dict:
    return YAML(typ="safe").load(Path("dvc.yaml"))["stages"]


def run(name: str, main) -> None:
    """Run a stage's `main(stage)`; bad input prints one line and exits 2."""
    key = sys.argv[1] if len(sys.argv) > 1 else ""
    label = f"{name}@{key}" if key else name
    warnings.simplefilter("default")
    start = time.perf_counter()
    try:
        # Also a stage that keeps no spool must not be run twice at a time.
        with Spool(Path("data/.partial/locks") / label):
            main(Stage(name, key, load("params.yaml")))
    except MerError as error:
        print(f"{label}: {error}", file=sys.stderr, flush=True)
        sys.exit(BAD_INPUT)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            f"{label}: the disk is full; free some space, dvc repro goes on after the finished clips", file=sys.stderr
        )
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print(f"{label}: interrupted; finished clips and folds are kept, dvc repro goes on after them", file=sys.stderr)
        sys.exit(130)
    _note_time(label, time.perf_counter() - start)


def _note_time(label: str, seconds: float) -> None:
    """Timings stay out of DVC's outputs, which must not differ between equal runs."""
    folder = Path("data/timings")
    folder.mkdir(parents=True, exist_ok=True)
    peak = [resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    record = {"seconds": round(seconds, 2), "peak_mb": peak[0], "peak_mb_of_a_worker": peak[1]}
    (folder / f"{label}.json").write_text(json.dumps(record) + "\n")
