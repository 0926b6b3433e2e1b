"""Line 5: MSMMT at the paper's size, two ViT-B/16 at 256, 128 and 64 px, batch 16; and on the flow of real clips.

`step`: images a second and memory of a training step, of every form of benchmarks.msmmt; utilisation is what the
forward pass of the network computes, three times (backward is twice forward, and what `keep` forms again does not
count), by the device's peak.

With `--flow` the leave-one-subject-out run of a flow-only network at m 128 over the 442 clips, from random weights;
finished folds lie in line_5_folds, so an interrupted call loses none. Predictions are in line_5_predictions_<seed>.csv,
as mer.loso.run.run returns them.
"""

import argparse
import functools
import statistics

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import msmmt as bench
from benchmarks.gpu._run import Line, Session, peak_memory, rounded
from mer.models import msmmt
from mer.storage.files import replace_file

NUMBER, TITLE = 5, "MSMMT"
GOAL = 0.4  # of the device's peak in bfloat16
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16, operations a second
CLIPS, SUBJECTS = 246, 26  # CASME II
RELEASE = {"size": 128, "modalities": "flow", "magnified": "none", "start": "random", "width": 192, "layers": 6,
           "heads": 3, "scaling": "minmax"}  # fmt: skip
RELEASE_RECIPE = {"lr": 5e-4, "schedule": "cosine", "warmup": 3, "rotate": 0.0, "zoom": 0.0}
SEEDS = (0, 1, 2)
TINY = {"size": 128, "width": 16, "layers": 2, "heads": 2, "batch": 4}


def made(session: Session, half: bool) -> bench.Bench:
    size = session.pick(bench.PAPER, TINY)
    return bench.Bench(argparse.Namespace(device=str(session.device), half=half, **size))


def operations(network: torch.nn.Module, size: int) -> int:
    """Of a clip's forward pass."""
    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 6, size, size, device=device))
    network.train()
    return counter.get_total_flops()


def step(session: Session, form: str, half: bool) -> dict:
    """Median seconds of a step, its memory, and the share of the peak."""
    one = made(session, half)
    size = session.pick(bench.PAPER, TINY)
    result = {"form": form, "precision": "bf16" if half else "float32", **size}
    try:
        with peak_memory(session.device, result):
            one.step(form)
            seconds = statistics.median(one.step(form) for _ in range(session.pick(10, 1)))
    except torch.cuda.OutOfMemoryError:
        return result | {"not_possible": "does not fit into the memory"}
    rate = 3 * operations(one.network, size["size"]) * size["batch"] / seconds
    found = {"seconds": rounded(seconds), "images_per_s": rounded(2 * size["batch"] / seconds),
             "tera_operations_per_s": rounded(rate / 1e12)}  # fmt: skip
    peak = next((v for k, v in PEAKS.items() if session.device.type == "cuda" and k in torch.cuda.get_device_name()), 0)
    steps = -(-(CLIPS - CLIPS // SUBJECTS) // size["batch"])
    minutes = seconds * steps * SUBJECTS * msmmt.RECIPE["epochs"] / 60
    return result | found | {"utilisation": rounded(rate / peak, 3) if peak else None,
                             "minutes_a_cell_by_proportion": rounded(minutes)}  # fmt: skip


def release(session: Session, seed: int) -> dict:
    """UF1 and UAR of a seed."""
    import numpy as np

    from mer.corpora import megc2019_flow, select
    from mer.evaluation.metrics import score
    from mer.loso import run as loso
    from mer.storage.spool import Spool

    table = select(megc2019_flow.read_labels(session.flow), "megc2019_flow", 3)
    images = np.stack([megc2019_flow.read_image(path) for path in table["flow"]])
    recipe = RELEASE_RECIPE | session.pick({}, {"epochs": 4})
    with Spool(session.out / "line_5_folds" / str(seed)) as spool:
        found = loso.run(
            [images], table, model="msmmt", classes=3, knobs=RELEASE, recipe=recipe, seeds=[seed],
            device=str(session.device), folds_in_parallel=session.pick("auto", 1), spool=spool,
        )  # fmt: skip
    replace_file(session.out / f"line_5_predictions_{seed}.csv", found.to_csv(index=False).encode())
    predicted = found[["p0", "p1", "p2"]].to_numpy().argmax(1)
    scores = score(found["label"].to_numpy(), predicted, megc2019_flow.NAMES)
    return {"seed": seed, "clips": len(found), "uf1": rounded(scores["uf1"]), "uar": rounded(scores["uar"])}


def measure(line: Line) -> dict:
    session = line.session
    for half in (True, False):
        for form in bench.FORMS:
            name = f"step, {form}, {'bf16' if half else 'float32'}"
            line.part(name, functools.partial(step, session, form, half), needs=session.pick(40, 1))
    if session.flow is not None:
        for seed in SEEDS:
            line.part(f"release, seed {seed}", functools.partial(release, session, seed), needs=session.pick(60, 1))
    found = [line.result(f"step, {form}, bf16") for form in bench.FORMS]
    done = {r["form"]: r for r in found if r and "not_possible" not in r}
    best = max((r["utilisation"] or 0 for r in done.values()), default=0)
    times = {
        form: rounded(done["separate"]["seconds"] / r["seconds"], 3) for form, r in done.items() if "separate" in done
    }
    return {"goal": GOAL, "utilisation": best, "reached": best >= GOAL, "times_as_fast_as_separate": times}
