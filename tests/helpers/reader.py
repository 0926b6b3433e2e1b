"""One reader of foreign files in a process of its own, so that a crash, a hang and hunger for memory are told apart.

    python -m tests.helpers.reader sheet 1000000000 < paths

Answers each path with a line of JSON: what was said, or `fault` where the reader did neither what it promises nor raise
a MerError of one line. `Reader` is the other end of the pipes.
"""

import json
import resource
import select
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import Self

ROOMY = 1 << 30  # bytes of address space that a reader may take beside what its imports have taken
PATIENCE = 30  # seconds for one file


def sheet(path: Path) -> None:
    from mer.clips import hidden
    from mer.corpora import casme2
    from mer.corpora.sheets import ANNOTATIONS

    table = casme2.read_annotations(path)
    assert list(table.columns) == ANNOTATIONS
    assert len(table)
    assert (table["onset"] <= table["apex"]).all()
    assert (table["apex"] <= table["offset"]).all()
    for name in {*table["subject"], *table["clip"]}:
        assert not hidden(name)
        assert not set(name) & set("/\\\0")
        assert name not in (".", "..")


def image(path: Path) -> None:
    import numpy as np

    from mer.clips import MAX_PIXELS, read_frame

    frame = read_frame(path)
    assert frame.dtype == np.uint8
    assert frame.ndim == 3
    assert frame.shape[2] == 3
    assert 0 < frame.shape[0] * frame.shape[1] <= MAX_PIXELS


def params(path: Path) -> None:
    from mer.params import Params, load

    assert isinstance(load(path), Params)


def product(path: Path) -> None:
    import numpy as np

    from mer.storage.cache import ClipCache

    cache = ClipCache(path)
    assert len(cache) == len(cache.ids)
    assert isinstance(cache.kind, str)
    for clip_id in cache.ids:
        try:
            found = cache[clip_id]
        finally:
            cache.whole(clip_id)
        assert isinstance(found, np.ndarray)
        assert found.dtype == cache.dtype
        assert cache.extras(clip_id).keys() == cache.extras(cache.ids[0]).keys()
    cache.load()


def weights(path: Path) -> None:
    import torch

    from mer.storage import weights as files

    expected = {"weight": torch.zeros(4, 3), "bias": torch.zeros(4)}
    found = files.read_weights(path, expected, "a network", "bring it again")
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.shape == expected[name].shape
        assert torch.isfinite(value).all()
    assert files.provenance(path).isprintable()
    assert isinstance(files.subjects_seen(path), set)


READERS = {function.__name__: function for function in (sheet, image, params, product, weights)}


class Reader:
    """A running reader; `read` gives what was said of a file, "" where it was read."""

    def __init__(self, kind: str, roomy: int = ROOMY):
        self.kind, self.roomy = kind, roomy
        self.process: subprocess.Popen | None = None
        self.cases = self.grown = 0  # files read, and bytes by which the largest memory grew with the last one

    def read(self, path: Path) -> str:
        """Raises AssertionError for a crash, a hang, or a fault."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.helpers.reader", self.kind, str(self.roomy)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.cases += 1
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        if not ready:
            self.end()
            raise AssertionError(f"the reader of a {self.kind} has not returned within {PATIENCE} s")
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.process = None
            raise AssertionError(f"the reader of a {self.kind} ended with {code}")
        answer = json.loads(line)
        self.grown = answer.pop("grown")
        assert "fault" not in answer, answer["fault"]
        return answer["said"]

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                pipe.close()
            self.process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()


def answer(function, path: Path) -> dict[str, str]:
    from mer.errors import LONGEST, MerError

    try:
        function(path)
    except MerError as error:
        said = str(error)
        if not said or not said.isprintable() or len(said) > LONGEST + 10:
            return {"fault": f"a message that is no line: {said[:500]!r}"}
        return {"said": said}
    except BaseException:
        return {"fault": traceback.format_exc()[-3000:]}
    return {"said": ""}


def main() -> None:
    warnings.simplefilter("ignore")
    function = READERS[sys.argv[1]]
    answer(function, Path("nothing.xlsx"))  # so that it has imported what it needs
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = used + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for line in sys.stdin:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = answer(function, Path(line.rstrip("\n")))
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        print(json.dumps({**said, "grown": grown}), flush=True)


if __name__ == "__main__":
    main()
