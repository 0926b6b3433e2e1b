"""Kills, damages and starves a tiny run of the demo, again and again, and says how each time ended.

    python -m tools.torture [--kills 50] [--seed 0] [--only kill] [folder]

The folder, data/torture by default, becomes a project of its own (preset `torture`), which is run once undisturbed.
Then, each time, the outputs of one stage are removed with their copies in DVC's cache, the stage is started and
disturbed, and `dvc repro` is run again as a user would. It has to end with the same bytes, or in one line that names
the remedy, and after the remedy with the same bytes. A table of all is written to benchmarks/results/torture.json.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks import _report
from mer.clips import clips, read_index
from mer.errors import MerError, listed
from mer.params import parse
from mer.plan import SINGLE
from mer.plan_file import stages_of
from mer.storage.files import replace_file
from mer.storage.yaml_files import read_yaml
from tools import plan, preset, rehearse
from tools._dvc import LOCK, stages_of_lock
from tools._errors import one_line

FOLDER = Path("data/torture")
MARK = ".torture"
PATIENCE = 600  # seconds that a run may take; more is a hang
SAME, LINE, SKIPPED = "same bytes", "one line, then the same bytes", "skipped"
BAD = DIFFERS, FAILED = "other bytes", "failed"
# Times of stages stand in the page, so its bytes differ between equal runs.
UNEQUAL = ("report",)
REMEDY = re.compile(r"python -m tools\.repair (\S+?)[,;]?(?: |$)")


@dataclass(frozen=True)
class Trial:
    """what: the disturbance; stage: whose run; when: seconds after its start; ended: how; said: the line."""

    what: str
    stage: str
    when: float | None
    ended: str
    said: str = ""


class Project:
    """A tiny project in a folder, and what its outputs are when nobody disturbs it."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.expected: dict[str, dict[str, str]] = {}

    def lay_out(self) -> None:
        if self.folder.exists() and not (self.folder / MARK).is_file() and any(self.folder.iterdir()):
            raise MerError(f"{self.folder}: is no project of torture; name a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.folder / MARK, b"")
        rehearse.copy_code(self.folder)
        replace_file(self.folder / "params.yaml", preset.compose("torture").encode())
        made = plan.derived(parse(read_yaml(self.folder / "params.yaml")))
        plan.write(made, self.folder / "plan.yaml")
        rehearse.make_user_folders(self.folder, made[0])

    def variables(self, **more: str) -> dict[str, str]:
        """The environment of a user who has activated the project's own."""
        own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | rehearse.OFFLINE | more
        return own | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        variables = self.variables(**environment)
        return subprocess.Popen(["dvc", "repro", *arguments], cwd=self.folder, env=variables, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace")  # fmt: skip

    def repro(self, *arguments: str, **environment: str) -> tuple[int, list[str]]:
        """Exit code and lines. A run that hangs is ended, and its code is 124."""
        running = self.start(*arguments, **environment)
        try:
            said, _ = running.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            end(self.living())
            running.communicate()
            return 124, ["hangs"]
        return running.returncode, said.splitlines()

    def living(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def stages(self) -> dict[str, dict]:
        text = (self.folder / LOCK).read_text(encoding="utf-8")
        return stages_of_lock(text, str(self.folder / LOCK))

    def learn(self) -> None:
        """Remember the outputs of the undisturbed run."""
        stages = self.stages()  # read once: it takes a third of a second
        self.expected = {name: outputs(one) for name, one in stages.items() if name.split("@")[0] not in UNEQUAL}

    def forget(self, stage: str) -> None:
        """Remove the outputs of a stage, their copies in DVC's cache and what it keeps to go on from."""
        shutil.rmtree(self.folder / ".dvc/cache/runs", ignore_errors=True)
        shutil.rmtree(self.folder / "data/.partial" / stage, ignore_errors=True)
        for path, md5 in outputs(self.stages()[stage]).items():
            remove(self.folder / path)
            remove(self.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:])

    def differing(self) -> list[str]:
        """Outputs that are not those of the undisturbed run, by dvc.lock and by `dvc status`."""
        stages = self.stages()
        found = [path for stage, outs in self.expected.items() for path, md5 in outs.items()
                 if outputs(stages.get(stage, {})).get(path) != md5]  # fmt: skip
        done = subprocess.run(["dvc", "status", "--json"], cwd=self.folder, env=self.variables(), capture_output=True,
                              text=True, check=False)  # fmt: skip
        return [*found, *json.loads(done.stdout or "{}")]

    def judged(self, what: str, stage: str, when: float | None) -> Trial:
        """Run again as a user does, with the remedies that the lines name; then compare."""
        lines: list[str] = []
        for _ in range(4):
            mended = subprocess.run([sys.executable, "-m", "tools.mend"], cwd=self.folder, capture_output=True,
                                    text=True, check=False)  # fmt: skip
            if mended.returncode:
                lines.append(mended.stderr.strip())
                if "git checkout" in lines[-1]:  # as it says where git has none
                    (self.folder / LOCK).unlink()
                    continue
                return Trial(what, stage, when, FAILED, lines[-1])
            code, said = self.repro()
            if code == 0:
                bad = self.differing()
                ended = DIFFERS if bad else LINE if lines else SAME
                return Trial(what, stage, when, ended, listed(bad) if bad else listed(lines, 2))
            line = next((text for text in reversed(said) if re.match(r"[a-z_]+(@[a-z0-9_-]+)?: ", text)), "")
            remedy = REMEDY.search(line)
            lines.append(line or said[-1] if said else "nothing")
            if "Traceback (most recent call last):" in said or remedy is None:
                return Trial(what, stage, when, FAILED, lines[-1])
            subprocess.run([sys.executable, "-m", "tools.repair", remedy[1]], cwd=self.folder, check=False,
                           capture_output=True)  # fmt: skip
        return Trial(what, stage, when, FAILED, lines[-1])


def outputs(stage: dict) -> dict[str, str]:
    """Path -> MD5 of the outputs of a stage, as dvc.lock has them."""
    return {out["path"]: out["md5"] for out in stage.get("outs", ())}


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


# ---- disturbances ---------------------------------------------------------------------------------------------------


def kills(project: Project, number: int, chance: random.Random) -> Iterator[Trial]:
    """`number` kills at random moments, every stage in turn: of dvc, of the stage, of both, by each signal."""
    names = list(project.expected)
    chance.shuffle(names)
    signals = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    ways = [(who, how) for how in signals for who in ("dvc", "stage", "both")]
    for n in range(number):
        stage = names[n % len(names)]
        who, how = ways[n % len(ways)]
        project.forget(stage)
        latest = 3.0 + _seconds(project, stage)  # some kills come after the end
        when = chance.uniform(0.3, latest)
        running = project.start("--single-item", stage)
        time.sleep(when)
        targets = [p for p in project.living() if who == "both" or (p.pid == running.pid) == (who == "dvc")]
        for process in targets:
            with contextlib.suppress(psutil.Error):
                process.send_signal(how)
        running.communicate()
        deadline = time.monotonic() + 30
        while project.living() and time.monotonic() < deadline:
            time.sleep(0.1)
        left = project.living()
        if left:
            end(left)
            yield Trial(f"{how.name} to {who}", stage, when, FAILED, f"{len(left)} processes went on for 30 s")
            continue
        yield project.judged(f"{how.name} to {who}", stage, round(when, 2))


def _seconds(project: Project, stage: str) -> float:
    try:
        return float(json.loads((project.folder / f"data/timings/{stage}.json").read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError):
        return 1.0


def flipped(project: Project, chance: random.Random) -> Iterator[Trial]:
    """A bit of an output is another, or its end is missing; what reads it is run."""
    for path, reader in _damageable(project, chance):
        for what in ("bit flipped", "cut"):
            project.forget(reader)
            file = project.folder / path
            if not file.is_file():  # where the trial before this one has failed
                project.repro()
            content = bytearray(file.read_bytes())
            if what == "cut":
                content = content[: chance.randrange(1, len(content))]
            else:
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            # In place: the copy in DVC's cache is the same file. Its date stays, so that DVC sees nothing.
            mode, times = file.stat().st_mode, file.stat()
            file.chmod(0o644)
            file.write_bytes(content)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
            file.chmod(mode)
            yield project.judged(f"{what}: {Path(path).suffix}", reader, None)


def _damageable(project: Project, chance: random.Random) -> list[tuple[str, str]]:
    """(file, stage that reads it): a product or weights of every stage that makes some, and four frames of clips."""
    stages, found = project.stages(), {}
    readers = {dep["path"]: name for name, stage in reversed(stages.items()) for dep in stage.get("deps", ())}
    for name in chance.sample(sorted(stages), len(stages)):
        for path in outputs(stages[name]):
            if path in readers and path.endswith((".h5", ".safetensors")):
                found.setdefault((name.split("@")[0], Path(path).suffix), (path, readers[path]))
    index = project.folder / "data/index/synthetic.csv"
    frames = [str(path) for clip in clips(read_index(index)) for path in clip.paths()]
    looking = [next(name for name in stages if name.startswith(f"{what}@synthetic")) for what in ("landmarks", "align")]
    return [*found.values(), *zip(chance.sample(frames, 4), looking * 2, strict=True)]


def spools(project: Project, chance: random.Random) -> Iterator[Trial]:
    """A stage is killed, and a file of what it keeps is damaged before it goes on."""
    for stage in [name for name in project.expected if name.split("@")[0] in ("align", "flow", "train", "landmarks")][
        :8
    ]:
        project.forget(stage)
        running = project.start("--single-item", stage)
        spool, deadline = project.folder / "data/.partial" / stage, time.monotonic() + 60
        while running.poll() is None and time.monotonic() < deadline and not _blocks(spool):
            time.sleep(0.01)
        for process in project.living():
            with contextlib.suppress(psutil.Error):
                process.kill()
        running.communicate()
        blocks = _blocks(spool)
        if blocks:
            block = chance.choice(blocks)
            content = bytearray(block.read_bytes())
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            block.write_bytes(content)
        yield project.judged("bit flipped: unfinished work" if blocks else "killed before a clip", stage, None)


def _blocks(spool: Path) -> list[Path]:
    return [
        path for path in spool.rglob("*") if path.is_file() and path.stat().st_size > 64 and ".new" not in path.name
    ]


def surroundings(project: Project, chance: random.Random) -> Iterator[Trial]:
    """Another locale, another time zone, clocks of files in the past and in the future, two runs at once."""
    names = [name for name in project.expected if name.split("@")[0] in ("index", "align", "flow", "train", "evaluate")]
    for what, environment in (
        ("LC_ALL=tr_TR.UTF-8", {"LC_ALL": "tr_TR.UTF-8"}), ("LC_ALL=C.UTF-8", {"LC_ALL": "C.UTF-8"}),
        ("TZ=Pacific/Kiritimati", {"TZ": "Pacific/Kiritimati"}), ("PYTHONHASHSEED=7", {"PYTHONHASHSEED": "7"}),
    ):  # fmt: skip
        stage = chance.choice(names)
        project.forget(stage)
        project.repro("--single-item", stage, **environment)
        yield project.judged(what, stage, None)
    for what, moment in (("files of 1990", 631_152_000), ("files of 2090", 3_786_912_000)):
        for path in [p for p in (project.folder / "data").rglob("*") if p.is_file()]:
            os.utime(path, (moment, moment))
        yield project.judged(what, "all", None)
    for stage in chance.sample(names, 3):
        project.forget(stage)
        both = [project.start("--single-item", stage) for _ in range(2)]
        for running in both:
            running.communicate()
        yield project.judged("two dvc repro at once", stage, None)


def starved(project: Project, chance: random.Random) -> Iterator[Trial]:
    """A full disk and a disk that nobody may write to: the project on a small disk in memory, where that is allowed."""
    small = project.folder.with_name(f"{project.folder.name}-small")
    small.mkdir(exist_ok=True)
    used = sum(p.stat().st_size for p in project.folder.rglob("*") if p.is_file() and p.stat().st_nlink == 1)
    used += sum({p.stat().st_ino: p.stat().st_size for p in project.folder.rglob("*") if p.is_file()}.values())
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={used + 64_000_000}", "tmpfs", str(small)],
                             capture_output=True, text=True, check=False)  # fmt: skip
    if mounted.returncode:
        yield Trial("full disk, read-only disk", "-", None, f"{SKIPPED}: {mounted.stderr.strip()}")
        return
    try:
        subprocess.run(["cp", "-a", f"{project.folder}/.", str(small)], check=True)
        other = Project(small)
        other.expected = project.expected
        for stage in [
            n for n in project.expected if n.split("@")[0] in ("align", "flow", "train", "synthesize", "embed")
        ][:8]:
            other.forget(stage)
            ballast = small / "ballast"
            free = shutil.disk_usage(small).free
            ballast.write_bytes(b"\0" * max(0, free - chance.randrange(20_000, 400_000)))
            code, said = other.repro("--single-item", stage)
            ballast.unlink()
            line = next((t for t in reversed(said) if t.startswith(f"{stage}: ")), "")
            trial = other.judged("full disk", stage, None)
            if code and not line and "Traceback (most recent call last):" in said:
                trial = Trial("full disk", stage, None, FAILED, said[-1])
            yield Trial(trial.what, stage, None, trial.ended, line or trial.said)
        stage = next(n for n in project.expected if n.startswith("flow@"))
        other.forget(stage)
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        _, said = other.repro("--single-item", stage)
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
        trial = other.judged("read-only disk", stage, None)
        yield Trial(trial.what, stage, None, trial.ended, said[-1] if said else "")
    finally:
        end(Project(small).living())
        subprocess.run(["umount", "-l", str(small)], check=False)
        small.rmdir()


WAYS: dict[str, Callable[..., Iterator[Trial]]] = {
    "flip": flipped, "spool": spools, "surroundings": surroundings, "starve": starved,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="torture", description="Disturb a tiny run again and again.")
    parser.add_argument("folder", nargs="?", default=str(FOLDER))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["kill", *WAYS], help="one kind of disturbance")
    given = parser.parse_args(arguments)
    with one_line("torture"):
        project, chance = Project(Path(given.folder or FOLDER)), random.Random(given.seed)
        project.lay_out()
        code, said = project.repro()
        if code:
            raise MerError(f"the undisturbed run failed: {said[-1] if said else code}")
        project.learn()
        count = sum(map(len, stages_of(project.folder / "plan.yaml").values())) + len(SINGLE)
        print(f"undisturbed: {count} stages", flush=True)
        trials = []
        chosen = {"kill": lambda p, c: kills(p, given.kills, c), **WAYS}
        for name, way in chosen.items():
            if given.only in (None, name):
                for trial in way(project, chance):
                    trials.append(trial)
                    print(f"{trial.what:<28}{trial.stage:<44}{trial.ended}  {trial.said[:160]}", flush=True)
        summed(trials, given)
        bad = [trial for trial in trials if trial.ended in BAD]
        if bad:
            raise MerError(f"{len(bad)} of {len(trials)} ended otherwise, the first: {bad[0].what} of {bad[0].stage}")


def summed(trials: list[Trial], given: argparse.Namespace) -> None:
    print(table([asdict(trial) for trial in trials]))
    if given.only is None:
        result = {"kills": given.kills, "seed": given.seed, "trials": [asdict(trial) for trial in trials]}
        _report.report("torture", result, ("dvc", "torch"), save=True)


def table(trials: list[dict]) -> str:
    """How often each disturbance ended how, in Markdown, as docs/reliability.md has it."""
    counts = collections.Counter((t["what"], t["ended"].split(":")[0]) for t in trials)
    ends = [end for end in (SAME, LINE, SKIPPED, *BAD) if end in (SAME, LINE, *BAD) or any(e == end for _, e in counts)]
    lines = [f"| disturbance | times | {' | '.join(ends)} |", f"|---|{'---:|' * (len(ends) + 1)}"]
    for what in dict.fromkeys(t["what"] for t in trials):
        numbers = [counts[what, end] for end in ends]
        lines.append(f"| {what} | {sum(numbers)} | {' | '.join(map(str, numbers))} |")
    total = [sum(counts[what, end] for what in {w for w, _ in counts}) for end in ends]
    return "\n".join([*lines, f"| all | {sum(total)} | {' | '.join(map(str, total))} |"])


if __name__ == "__main__":
    main()
