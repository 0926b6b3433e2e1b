"""Runs every experiment of preset paper in small, on fictional corpora in the real layouts, and says what went wrong.

    python -m tools.rehearse [--corpora casme2,samm] [--only 'casme2-*'] [folder]

The folder, data/rehearsal by default, becomes a project of its own: this code, preset rehearsal, and the corpora
and macro-expression sets as their owners would ship them, with rendered faces. Then `dvc repro` runs its graph.
Nothing of this project changes, and nothing is fetched. A killed rehearsal goes on where it was.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks import _report
from mer import imports
from mer.errors import MerError, listed
from mer.evaluation.tables import NOT_RUN
from mer.fictional import rehearsal
from mer.parallel import Engine
from mer.params import Params, parse
from mer.plan import SINGLE, derive
from mer.storage.files import digest, replace_file
from mer.storage.yaml_files import read_yaml
from stages.synthesize import face_is_found
from tools import manifest, mend, plan, preset
from tools._dvc import dvc_processes
from tools._errors import one_line

PRESET = "rehearsal"
FOLDER = Path("data/rehearsal")
MARK = ".rehearsal"  # a file in the folder: it is a rehearsal's, and which raw data lie there
CODE = ("mer", "stages", "tools", "assets", "results", "dvc.yaml", ".dvcignore")
DRAWN_BY = ("mer/fictional/", "mer/synthetic/")
LOG = "rehearsal.log"
DVC = """[core]
    analytics = false
    check_update = false
    no_scm = true
[cache]
    type = "hardlink,copy"
"""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
RUNNING = re.compile(r"Running stage '([^']+)'")
FAILED = re.compile(r"failed to reproduce '([^']+)'")
EXCEPTION = re.compile(r"^[\w.]*(Error|Exception|Interrupt)\b")  # the last line of a traceback


# ---- the project ----------------------------------------------------------------------------------------------------


def lay_out(folder: Path, corpora: str = "") -> Params:
    """Make the folder a project with the present code, parameters, plan and raw data; finished work in it stays.

    Raises MerError for a folder that holds something else, or in which DVC runs.
    """
    folder = Path(os.path.realpath(folder))
    if folder == Path().resolve() or Path().resolve().is_relative_to(folder):
        raise MerError(f"{folder}: holds this project; name a folder of the rehearsal's own")
    if folder.exists() and not (folder / MARK).is_file() and any(folder.iterdir()):
        raise MerError(f"{folder}: is no rehearsal; name a new folder")
    running = dvc_processes(folder) if folder.exists() else []
    if running:
        raise MerError(f"{folder}: DVC runs there (process {running[0]}); wait for it, or end it")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARK).exists():
        replace_file(folder / MARK, b"")
    copy_code(folder)
    text = preset.compose(PRESET, corpora)
    replace_file(folder / "params.yaml", text.encode())
    params = parse(read_yaml(folder / "params.yaml"))
    made = plan.derived(params)
    plan.write(made, folder / "plan.yaml")
    preset.clear_left(made[0], folder)
    _write_raw(folder)
    for run in params.pretrain.runs.values():
        for path in (run.user_weights, getattr(run, "raw", None)):
            if path is not None:
                (folder / path).mkdir(parents=True, exist_ok=True)
    mend.mend(folder)
    return params


def copy_code(folder: Path) -> None:
    """Files that are the same stay, so that DVC need not read them again; what is gone here goes there."""
    wanted = {name: Path(name) for top in CODE for name in _files(Path(top))}
    for name, source in wanted.items():
        target = folder / name
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            replace_file(target, source.read_bytes())
    for top in CODE:
        for name in [*_files(folder / top, folder)]:
            if name not in wanted:
                (folder / name).unlink()
    replace_file(folder / ".dvc/config", DVC.encode())
    (folder / "data/predictions").mkdir(parents=True, exist_ok=True)


def make_user_folders(folder: Path, stages: dict[str, dict]) -> None:
    """The folders, empty, in which a user may put weights and sets: pretrain names them, and DVC asks for them.

    stages: of mer.plan.
    """
    made = tuple(f"data/raw/{name}/" for name in stages["synthesize"])
    for entry in stages["pretrain"].values():
        for path in entry["reads"]:
            if path.startswith("data/raw/") and not path.startswith(made):
                (folder / path).mkdir(parents=True, exist_ok=True)


def _files(top: Path, root: Path = Path()) -> Iterator[str]:
    paths = [top] if top.is_file() else sorted(top.rglob("*"))
    for path in paths:
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(root).as_posix()


def _write_raw(folder: Path) -> None:
    """The corpora and sets with their manifests, once for each state of the code that draws them."""
    # Not the readers, of which only the classes count: after an edit of one, what is finished shall stay.
    code = [name for name in imports.files(["mer.fictional.rehearsal"]) if name.startswith(DRAWN_BY)]
    state = digest(repr(rehearsal.TAKES), *(Path(name).read_text(encoding="utf-8") for name in code))
    if (folder / MARK).read_text(encoding="utf-8") == state:
        return
    raw = folder / "data/raw"
    rehearsal.write(raw, face_is_found, Engine(workers=0, progress=True))
    for corpus in rehearsal.TAKES:
        manifest.write(corpus, raw)
    replace_file(folder / MARK, state.encode())


# ---- running --------------------------------------------------------------------------------------------------------


def reproduce(folder: Path, targets: list[str]) -> tuple[int, list[str]]:
    """Run `dvc repro` for some stages, or all, to the end even where one fails; returns its exit code and lines."""
    command = ["dvc", "repro", "--keep-going", *targets]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | OFFLINE
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    lines = []
    with (folder / LOG).open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace",
        )  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                log.flush()
                lines.append(line.rstrip("\n"))
                if RUNNING.match(line):
                    print(line, end="", flush=True)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return process.wait(), lines


def failures(lines: list[str]) -> list[str]:
    """The stages that failed by themselves, each with the line that it ended with."""
    said: dict[str, list[str]] = {}
    failed: dict[str, None] = {}
    running = ""
    for line in lines:
        if match := RUNNING.match(line):
            running = match[1]
        said.setdefault(running, []).append(line)
        failed |= dict.fromkeys(FAILED.findall(line))
    return [_last_words(name, said.get(name, [])) for name in failed]


def _last_words(name: str, said: list[str]) -> str:
    for line in reversed(said):
        if line.startswith(f"{name}: "):
            return line
        if EXCEPTION.match(line):
            return f"{name}: {line}"
    return f"{name}: failed; {LOG} has what it said"


def without_metrics(folder: Path, experiments: list[str]) -> list[str]:
    """The experiments that have no metrics, and those of a row of the papers' tables that was not run."""
    lacking = {name for name in experiments if not (folder / f"metrics/{name}.json").is_file()}
    tables = folder / "metrics/tables.json"
    if tables.is_file():
        rows = [row for table in json.loads(tables.read_text(encoding="utf-8"))["tables"] for row in table["rows"]]
        lacking |= {row["experiment"] for row in rows
                    if any(score["verdict"] == NOT_RUN for score in row["scores"].values())}  # fmt: skip
    return [name for name in experiments if name in lacking]


def note(params: Params, chosen: list[str], lacking: list[str], failed: list[str], ran: int, minutes: float) -> None:
    """Write down how a whole rehearsal ended, for git. stages_run: fewer than all where an earlier one went on."""
    result = {
        "experiments": len(chosen), "with_metrics": len(chosen) - len(lacking), "lacking": lacking, "failed": failed,
        "stages": sum(map(len, derive(params)[0].values())) + len(SINGLE), "stages_run": ran,
        "minutes": round(minutes, 1),
    }  # fmt: skip
    _report.report("rehearsal", result, ("dvc", "torch"), save=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="rehearse", description="Run preset paper in small, on fictional corpora.")
    parser.add_argument("folder", nargs="?", default=str(FOLDER), help=f"of the rehearsal; {FOLDER} if not said")
    parser.add_argument("--corpora", default="", help="separated by commas; those of preset paper if not said")
    parser.add_argument("--only", default="", help="experiments, * for any letters; all if not said")
    given = parser.parse_args(arguments)
    with one_line("rehearse"):
        start, folder = time.monotonic(), Path(given.folder or FOLDER)
        params = lay_out(folder, given.corpora)
        chosen = [name for name in params.experiments if fnmatchcase(name, given.only or "*")]
        if not chosen:
            raise MerError(f"--only: {given.only!r} matches no experiment")
        code, lines = reproduce(folder, [f"evaluate@{name}" for name in chosen] if given.only else [])
        ran = sum(RUNNING.match(line) is not None for line in lines)
        lacking = without_metrics(folder, chosen)
        minutes = (time.monotonic() - start) / 60
        print(
            f"\n{len(chosen) - len(lacking)} of {len(chosen)} experiments have metrics; stages that ran: {ran}; "
            f"minutes: {minutes:.1f} ({folder})"
        )
        found = failures(lines)
        if not given.corpora and not given.only:
            note(params, chosen, lacking, found, ran, minutes)
        if found:
            print("failed:\n" + "\n".join(f"  {line}" for line in found))
        if lacking:
            print(f"without metrics: {listed(lacking, 12)}")
        if code or lacking:
            what = f"failed: {len(found)}, the first: {found[0]}" if found else f"dvc repro ended with {code}"
            raise MerError(f"{what} ({folder / LOG} has all lines)")
        print("every experiment went through")


if __name__ == "__main__":
    main()
