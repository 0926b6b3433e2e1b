"""How the pipeline fills cores, and which part of it becomes the limit with many.

    python -m benchmarks.scaling [--repeats 3] [--save]     real stages, with one worker and with two
    python -m benchmarks.scaling --limits [--save]          writer, joblib, dask and DVC by simulation

Stages are those of preset demo on a rendered corpus of CASME II's size, as DVC starts them. Where its clips are done in
seconds, its index names each several times, under other ids. An efficiency is the time with one worker over twice that
with two: of the whole stage, and of what comes after its start, which is the time that it takes for FEW clips. A
machine's own shared limits (memory, boost) are measured beside: as many plain processes as workers that compute the
same for themselves, without anything of mer between them.

The simulated items take a known time and hold arrays of a real size, so what is beyond that time is the engine's.
"""

import argparse
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import _report
from mer import cluster
from mer.clips import read_index, write_index
from mer.parallel import Engine, map_clips
from mer.storage.build import build_product

# Stage, key, and how many clips it is given.
STAGES = (
    ("landmarks", "synthetic", 984), ("align", "synthetic-box224", 984), ("spot", "synthetic-box224", 984),
    ("flow", "synthetic-box224", 984), ("magnify_eulerian", "synthetic-box224-msmmt", 492),
    ("magnify_learned", "synthetic-box224-magnet-linspace_2_13_8", 123), ("train", "synthetic-ststnet", 246),
)  # fmt: skip
SUBJECTS, CLIPS, FEW = 26, 246, 6
PREPARED = (("synthesize", "synthetic"), ("synthesize", "people"), ("index", "synthetic"), ("pretrain", "magnet"))
ONE_THREAD = os.environ | cluster.ONE_THREAD


# ---- real stages ----------------------------------------------------------------------------------------------------


def stages(repeats: int, folder: Path) -> dict:
    """Seconds of each stage with one worker and with two, in turn, and the efficiency of two."""
    lay_out(folder)
    for name, key in PREPARED:
        run(folder, name, key, workers=2)
    index = folder / "data/index/synthetic.csv"
    table = repeated(read_index(index), max(count for *_, count in STAGES))
    found = {}
    for name, key, count in STAGES:
        seconds: dict[str, dict[int, list[float]]] = {"few": {1: [], 2: []}, "all": {1: [], 2: []}}
        for _ in range(repeats):
            # Last with all of them, as the next stage reads what is left.
            for what, number in (("few", FEW), ("all", count)) if name != "train" else (("all", count),):
                write_index(index, table.iloc[:number])
                for workers in (1, 2):
                    seconds[what][workers].append(run(folder, name, key, workers=workers))
        (one, two), work = (
            (statistics.median(seconds["all"][n]) for n in (1, 2)),
            SUBJECTS if name == "train" else count,
        )
        row = {
            "clips": count, "frames_a_clip": round(float((table["offset"] - table["onset"] + 1)[:count].mean()), 2),
            "seconds": {
                w: {str(n): [round(s, 2) for s in times] for n, times in of.items()} for w, of in seconds.items()
            },
            "per_second_and_core": round(work / one, 3), "efficiency_of_two": round(one / two / 2, 3),
        }  # fmt: skip
        if name != "train":
            start = [statistics.median(seconds["few"][n]) for n in (1, 2)]
            row["per_second_and_core"] = round((count - FEW) / (one - start[0]), 3)
            row["efficiency_after_the_start"] = round((one - start[0]) / (two - start[1]) / 2, 3)
        found[f"{name}@{key}"] = row
        print(f"{name}@{key}: {row}", file=sys.stderr, flush=True)
    return found


def repeated(table, count: int):
    """So many clips: those of an index, again and again under other ids, the copies of a clip far apart."""
    import pandas as pd

    copies = [table.assign(id=table["id"] + (f"_{n}" if n else "")) for n in range(-(-count // len(table)))]
    return pd.concat(copies, ignore_index=True).iloc[:count]


def lay_out(folder: Path) -> None:
    from mer.params import parse
    from mer.storage.files import replace_file
    from mer.storage.yaml_files import read_yaml
    from tools import plan, preset, rehearse

    rehearse.copy_code(folder)
    text = preset.compose("demo").replace("subjects: 8, clips: 100", f"subjects: {SUBJECTS}, clips: {CLIPS}")
    replace_file(folder / "params.yaml", text.encode())
    made = plan.derived(parse(read_yaml(folder / "params.yaml")))
    plan.write(made, folder / "plan.yaml")
    rehearse.make_user_folders(folder, made[0])


def run(folder: Path, name: str, key: str, *, workers: int) -> float:
    """Seconds of a stage from nothing, its start included."""
    import re

    params = folder / "params.yaml"
    params.write_text(re.sub(r"\n  workers: \d+", f"\n  workers: {workers}", params.read_text()))
    shutil.rmtree(folder / f"data/.partial/{name}@{key}", ignore_errors=True)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", f"stages.{name}", key], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(folder)}, check=False)  # fmt: skip
    if done.returncode:
        sys.exit(f"{name}@{key}: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - start


def machine(seconds: float = 8.0) -> dict:
    """What two processes lose to each other here, whatever they run: a sum in the cache, and one through memory."""
    found = {}
    for name, size in (("in_cache", 10_000), ("through_memory", 20_000_000)):
        code = (f"import time, numpy as np; a = np.ones({size}); end = time.time() + {seconds}; n = 0\n"
                "while time.time() < end: a += 1; n += 1\nprint(n * a.size)")  # fmt: skip

        def rate(count: int, code: str = code) -> float:
            started = [subprocess.Popen([sys.executable, "-c", code], env=ONE_THREAD, stdout=subprocess.PIPE, text=True)
                       for _ in range(count)]  # fmt: skip
            return sum(float(process.communicate()[0]) for process in started)

        found[name] = round(rate(2) / rate(1) / 2, 3)
    return found


# ---- limits, by simulation ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    id: str


def items(number: int) -> list[Item]:
    return [Item(f"s{n % 100:03d}/{n:06d}") for n in range(number)]


def arrays(item: Item, *, shape: tuple[int, ...], kind: str, seconds: float = 0.0) -> dict[str, np.ndarray]:
    """As a clip's result, of the same size, after a known time."""
    time.sleep(seconds)
    return {"data": np.zeros(shape, kind)}


def name_of(item: Item) -> str:
    return item.id


def doze(item: Item, *, seconds: float) -> int:
    time.sleep(seconds)
    return 0


def writer(folder: Path, repeats: int) -> dict:
    """Items and MB a second of a product whose clips cost nothing to compute: what one writing process can take."""
    found = {}
    for what, shape, kind, number in (
        ("aligned frames, 70 of 224x224", (70, 224, 224, 3), "uint8", 200),
        ("flow of a pair, 28x28", (3, 28, 28), "float32", 3000),
        ("flow of a pair, 224x224", (3, 224, 224), "float32", 1000),
    ):
        rates = []
        for n in range(repeats):
            path = folder / f"{n}.h5"
            start = time.perf_counter()
            compute = functools.partial(arrays, shape=shape, kind=kind)
            build_product(path, items(number), compute, name_of, kind="flow", ragged=False, params={}, code="c",
                          spool=folder / "spool", engine=Engine(workers=2))  # fmt: skip
            rates.append(number / (time.perf_counter() - start))
            path.unlink()
            shutil.rmtree(folder / "spool")
        size = np.zeros(shape, kind).nbytes / 1e6
        found[what] = {"items_per_second": round(statistics.median(rates), 1),
                       "mb_per_second": round(statistics.median(rates) * size, 1)}  # fmt: skip
    return found


def joblib(repeats: int) -> dict:
    """Empty items a second through two processes."""
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        map_clips(name_of, items(4000), Engine(workers=2))
        rates.append(4000 / (time.perf_counter() - start))
    return {"empty_items_per_second": round(statistics.median(rates), 1)}


def dask(repeats: int) -> dict:
    """Items of a known length through many workers: how many one scheduler and one client keep at work.

    Workers are threads of one process here, which sleep: what is measured is the scheduler, the network stack and this
    project's own loop, on the cores of this machine.
    """
    from distributed import LocalCluster

    found = {}
    for workers in (2, 16, 64):  # 256 in one process keep its two cores busy with their own messages
        with tempfile.TemporaryDirectory() as folder:
            started = LocalCluster(n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=None,
                                   memory_limit=0, local_directory=folder)  # fmt: skip
            with started:
                for seconds in (0.1, 1.0):
                    number = min(2048, round(10 * workers / seconds))  # ten seconds, so that a start counts little
                    rates = []
                    for _ in range(repeats):
                        start = time.perf_counter()
                        map_clips(functools.partial(doze, seconds=seconds), items(number),
                                  Engine(scheduler=started.scheduler_address))  # fmt: skip
                        rates.append(number / (time.perf_counter() - start))
                    rate = statistics.median(rates)
                    found[f"{workers} workers, items of {seconds} s"] = {
                        "items_per_second": round(rate, 1), "efficiency": round(rate * seconds / workers, 3),
                    }  # fmt: skip
                    print(workers, seconds, found[f"{workers} workers, items of {seconds} s"], file=sys.stderr)
    return found


def dvc(folder: Path) -> dict:
    """What DVC itself takes: a stage more, a file hashed."""
    found: dict = {"seconds_a_stage": {}}
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for stages in (50, 200, 800):
        place = folder / str(stages)
        place.mkdir()
        lines = ["stages:"]
        for n in range(stages):
            lines += [f"  s{n}:", f"    cmd: echo {n} > o{n}", f"    deps: [{f'o{n - 1}' if n else 'seed'}]",
                      f"    outs: [o{n}]"]  # fmt: skip
        (place / "dvc.yaml").write_text("\n".join(lines) + "\n")
        (place / "seed").write_text("0\n")
        subprocess.run(["dvc", "init", "-q", "--no-scm"], cwd=place, env=environment, check=True)
        taken = {}
        for name, command in (("repro", "repro"), ("repro_of_nothing", "repro"), ("status", "status")):
            start = time.perf_counter()
            subprocess.run(["dvc", command], cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL)
            taken[name] = round((time.perf_counter() - start) / stages, 4)
        found["seconds_a_stage"][str(stages)] = taken
    block = np.random.default_rng(0).integers(0, 255, 1 << 20, dtype=np.uint8).tobytes()
    for name, count, size in (("one_file", 1, 1 << 30), ("files_of_20_kB", 10_000, 20_000)):
        place = folder / name
        (place / "data").mkdir(parents=True)
        for n in range(count):
            content = block * (size // len(block)) if size > len(block) else block[n : n + size]
            (place / "data" / str(n)).write_bytes(content)
        subprocess.run(["dvc", "init", "-q", "--no-scm"], cwd=place, env=environment, check=True)
        start = time.perf_counter()
        subprocess.run(["dvc", "add", "-q", "--no-commit", "data"], cwd=place, env=environment, check=True)
        seconds = time.perf_counter() - start
        found[name] = {"mb_per_second": round(count * size / 1e6 / seconds, 1),
                       "files_per_second": round(count / seconds, 1)}  # fmt: skip
    return found


# ---- as docs/scaling.md has them ------------------------------------------------------------------------------------

CASME3 = 8_000_000  # frames, in 80 hours of recordings
FRAME = 224 * 224 * 3  # bytes of an aligned one


def table(result: dict) -> str:
    """Rates and efficiencies, and the hours of one core for as many frames as CAS(ME)3 has, in clips of that length."""
    lines = ["| stage | clips | clips/s of a core | efficiency of two | after the start | core hours for 8 M frames |",
             "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for name, row in result["stages"].items():
        if name.startswith("train@"):
            continue
        hours = CASME3 / row["frames_a_clip"] / row["per_second_and_core"] / 3600
        lines.append(
            f"| `{name.split('@')[0]}` | {row['clips']} | {row['per_second_and_core']:.1f} | "
            f"{row['efficiency_of_two']:.2f} | {row['efficiency_after_the_start']:.2f} | {hours:.1f} |"
        )
    return "\n".join(lines)


def limits_table(result: dict) -> str:
    """What one process, one scheduler and DVC take at most."""
    lines = ["| what | at most |", "|---|---:|"]
    for what, row in result["writer"].items():
        lines.append(f"| writer, {what} | {row['items_per_second']:.0f} clips/s, {row['mb_per_second']:.0f} MB/s |")
    lines.append(f"| joblib, two processes | {result['joblib']['empty_items_per_second']:.0f} clips/s |")
    for what, row in result["dask"].items():
        rate, share = row["items_per_second"], row["efficiency"]
        lines.append(f"| dask, {what} | {rate:.0f} clips/s, {share:.0%} of the workers' time |")
    for count, taken in result["dvc"]["seconds_a_stage"].items():
        said = ", ".join(f"{what.replace('_', ' ')} {1000 * t:.0f} ms" for what, t in taken.items())
        lines.append(f"| DVC, a stage of {count} | {said} |")
    for what in ("one_file", "files_of_20_kB"):
        row = result["dvc"][what]
        lines.append(
            f"| DVC, hashes of {what.replace('_', ' ')} | {row['mb_per_second']:.0f} MB/s, "
            f"{row['files_per_second']:.0f} files/s |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limits", action="store_true")
    _report.add_options(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("MER_BENCHMARK_DIR")) as name:
        folder = Path(name)
        if args.limits:
            result = {"writer": writer(folder, args.repeats), "joblib": joblib(args.repeats),
                      "dask": dask(args.repeats), "dvc": dvc(folder)}  # fmt: skip
        else:
            result = {"machine": machine(), "stages": stages(args.repeats, folder)}
    label = "scaling_limits" if args.limits else "scaling"
    _report.report(label, result, ("dask", "distributed", "dvc", "h5py", "joblib", "numpy", "torch"), args.save)


if __name__ == "__main__":
    main()
