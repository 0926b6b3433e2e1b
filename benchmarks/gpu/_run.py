"""Parts of a line: each runs once, is kept in the line's JSON file, and is skipped by later calls.

A call stops before its time is over. Between parts it looks at the clock; a part that is still at work then is
interrupted and starts anew in the next call, unless it keeps a checkpoint of its own.
"""

import contextlib
import functools
import gc
import io
import json
import math
import os
import signal
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import torch

from benchmarks import _report
from mer.errors import MerError
from mer.storage.files import replace_file


class TimeUp(BaseException):
    """No Exception: whoever catches those goes on, which must not happen here."""


@dataclass
class Session:
    """What all lines of a call share. deadline: by time.monotonic; minutes: of the whole call."""

    out: Path
    device: torch.device
    tiny: bool
    minutes: float
    deadline: float
    flow: Path | None = None
    weights: Path | None = None
    images: Path | None = None
    steps: int = 20_000

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def pick(self, full, tiny):
        return tiny if self.tiny else full


@dataclass
class Line:
    """The results of a line, as they stand in its file."""

    session: Session
    number: int
    title: str
    settings: dict
    parts: dict[str, dict] = field(default_factory=dict)
    progress: dict = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    summary: dict = field(default_factory=dict)

    def __post_init__(self):
        self.where = where(self.session)
        # What must be the same for two parts to stand in one file; another driver or processor may go on.
        same = {"device": self.where["device"], "torch": self.where["versions"]["torch"], "tiny": self.session.tiny}
        self.settings = {**same, **self.settings}
        if not self.path.is_file():
            return
        kept = json.loads(self.path.read_text())
        now = json.loads(json.dumps(self.settings))  # through JSON, which knows no tuples
        differing = [name for name in now if kept["settings"].get(name) != now[name]]
        if differing:
            told = ", ".join(f"{name} {kept['settings'].get(name)!r}, now {now[name]!r}" for name in differing)
            raise MerError(f"{self.path}: holds results of other settings ({told}); give another --out")
        self.parts, self.progress = kept["parts"], kept["progress"]

    @property
    def path(self) -> Path:
        return self.session.out / f"line_{self.number}.json"

    def part(self, name: str, work: Callable[[], dict | list], needs: float = 20):
        """What `work()` returned, now or in an earlier call; None where it did not end.

        needs: seconds that must be left for it to begin. What it raises is kept and spoils no other part.
        """
        if name in self.parts:
            return self.parts[name]["result"]
        if self.session.left() < needs:
            self.left[name] = f"needs some {math.ceil(needs)} s, {max(0, int(self.session.left()))} were left"
            return None
        start = time.monotonic()
        try:
            with alarm(self.session.left()):
                result = work()
                synchronize(self.session.device)
        except TimeUp:
            self.left[name] = "interrupted when the time was over"
        except MerError as error:
            self.failed[name] = str(error)
        except Exception as error:  # a kernel may fail in any way; the other parts are still worth their time
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = " ".join(str(error).split())[:500]
            self.failed[name] = f"{type(error).__name__}: {reason} ({Path(place.filename).name}:{place.lineno})"
        else:
            took = round(time.monotonic() - start, 2)
            told = {"seconds": took, "commit": self.where["commit"], "driver": self.where.get("driver")}
            self.parts[name] = {"result": result, **told}
            self.save()
        told = self.failed.get(name) or self.left.get(name) or json.dumps(result)
        print(f"line {self.number}, {name}: {told[:600]}", flush=True)
        gc.collect()
        if self.session.device.type == "cuda":
            with contextlib.suppress(RuntimeError):  # after a failed kernel
                torch.cuda.empty_cache()
        return self.parts[name]["result"] if name in self.parts else None

    def result(self, name: str):
        return self.parts[name]["result"] if name in self.parts else None

    def save(self) -> None:
        content = {
            "line": self.number, "title": self.title, "finished": not self.left and not self.failed,
            "summary": self.summary, "left": self.left, "failed": self.failed, "settings": self.settings,
            "where": self.where, "parts": self.parts, "progress": self.progress,
        }  # fmt: skip
        replace_file(self.path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


@contextlib.contextmanager
def alarm(seconds: float):
    """Raise TimeUp inside after that time."""

    def ring(*_):
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    # Again every five seconds: an exception raised while an object is being destroyed is lost.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01), 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- measuring ------------------------------------------------------------------------------------------------------


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(session: Session, work: Callable, repeats: int = 5) -> float:
    """Median seconds, after two runs that warm up."""
    for _ in range(session.pick(2, 1)):
        work()
    seconds = []
    for _ in range(session.pick(repeats, 1)):
        synchronize(session.device)
        start = time.perf_counter()
        work()
        synchronize(session.device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@contextlib.contextmanager
def peak_memory(device: torch.device, result: dict):
    """Writes `peak_mib` into `result` on a GPU: the most that torch held at a time."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield
    if device.type == "cuda":
        result["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)


@contextlib.contextmanager
def tf32(allowed: bool):
    """torch lets convolutions round their inputs to 10 bits (TF32) on a GPU; without it, float32 means float32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def rounded(value: float, digits: int = 4) -> float | None:
    """JSON has no NaN."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def check(name: str, found, expected, tolerance: float, *, relative: bool = False, of=torch.amax) -> dict:
    """of: what is made of all absolute differences; relative: as a share of the largest expected value."""
    found, expected = (torch.as_tensor(x).detach().double().cpu() for x in (found, expected))
    if found.shape != expected.shape:
        raise ValueError(f"{name}: {tuple(found.shape)} is compared with {tuple(expected.shape)}")
    difference = of((found - expected).abs()).item()
    if relative:
        difference /= max(expected.abs().max().item(), 1e-30)
    # NaN is within no tolerance.
    result = {"name": name, "difference": rounded(difference, 3), "tolerance": tolerance, "relative": relative}
    return result | {"passed": difference <= tolerance}


# ---- trainings that take several calls ------------------------------------------------------------------------------


def steps_done(checkpoint: Path) -> int:
    """Of a checkpoint of mer.pretraining.loop; 0 without one."""
    return torch.load(checkpoint, map_location="cpu", weights_only=True)["step"] if checkpoint.is_file() else 0


def keep_weights(path: Path, network: torch.nn.Module) -> None:
    """Write the state as a torch file, whole or not at all."""
    buffer = io.BytesIO()
    torch.save({name: value.cpu() for name, value in network.state_dict().items()}, buffer)
    replace_file(path, buffer.getvalue())


# ---- where it was measured ------------------------------------------------------------------------------------------


def where(session: Session) -> dict:
    about = _report._where(("numpy", "scipy", "torch", "h5py"))
    about["versions"]["opencv"] = cv2.__version__  # its package has several names
    about |= {"commit": os.environ.get("MER_COMMIT") or about["commit"], "device": "cpu"}  # a copy has no history
    if session.device.type == "cuda":
        card = torch.cuda.get_device_properties(session.device)
        about |= {
            "device": card.name,
            "memory_gib": round(card.total_memory / 2**30, 1),
            "multiprocessors": card.multi_processor_count,
            "capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
        }
    return about


@functools.cache
def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
