"""Line 8: learned magnification, pairs a second and a whole training.

The peer is benchmarks/_naive_magnet's network with the same weights on the same device: the whole of it once a factor,
in float32. torch lets its convolutions take TF32 on a GPU, ours and the peer's; the goal is against the peer without,
which is what float32 says, and the ratio to the peer with TF32 stands beside it.

The training is mer.pretraining.moving_layers.train on moving layers, which goes on from its checkpoint in `--out`. Its
weights, those it starts from and the public ones (`--weights`) then magnify pairs with known motion:

    still   mean error of a pair without motion, in grey levels
    gain    motion beyond the apex in units of factor * motion, by the slope of a regression on our flow; 1 is right

on the last two of `--images`, which are not trained on, or on textures.
"""

import functools
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks import _naive_magnet
from benchmarks.gpu import _data
from benchmarks.gpu._run import Line, Session, keep_weights, peak_memory, rounded, steps_done, tf32, timed
from benchmarks.gpu._steps import network
from mer.errors import MerError
from mer.magnification.magnet import MagNet, magnify_pair
from mer.motion.tvl1 import tvl1
from mer.pretraining import moving_layers as training

NUMBER, TITLE = 8, "MagNet"
GOAL = 15  # times faster than one factor at a time in float32
TOLERANCE = {"largest": 3, "mean": 0.3}  # grey levels, of bf16; that of benchmarks/magnification.py
SIZES = ((8, 112), (32, 224))  # factors, px
PLAN = {"batch_size": 8, "size": 96, "lr": 5e-4}
TINY = {"batch_size": 2, "size": 16, "lr": 1e-3}
MOTIONS, FACTORS = (0.25, 0.5, 1.0), (2, 4, 6, 8)  # px
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def settings(session: Session) -> dict:
    weights = session.weights.name if session.weights else "random"
    return {"weights": weights, "steps": session.steps, "images": len(portraits(session)), **plan(session)}


def plan(session: Session) -> dict:
    return session.pick(PLAN, TINY)


# ---- speed ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def one_by_one(model: _naive_magnet.Network, onset: np.ndarray, apex: np.ndarray, factors) -> np.ndarray:
    """_naive_magnet.magnify, on the device of the network."""
    device = next(model.parameters()).device
    a, b = (torch.from_numpy(frame).to(device).permute(2, 0, 1)[None] / 127.5 - 1 for frame in (onset, apex))
    frames = torch.cat([model(a, b, float(factor)) for factor in factors])
    return ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def speed(session: Session, factors: int, side: int) -> dict:
    model = network(session.weights).to(session.device)
    plain = _naive_magnet.Network().to(session.device).eval()
    plain.load_state_dict(model.state_dict())
    clip, amount = _data.clip(8, side), np.linspace(2, 13, factors)
    pair = clip[0], clip[6]
    ours = functools.partial(magnify_pair, model, *pair, amount)
    programs = {
        "peer, float32": (functools.partial(one_by_one, plain, *pair, amount), False),
        "peer, TF32": (functools.partial(one_by_one, plain, *pair, amount), True),
        "float32": (functools.partial(ours, batch=factors), False),
        "TF32": (functools.partial(ours, batch=factors), True),
        "bf16, 8 at a time": (functools.partial(ours, batch=8, bf16=True), True),
        "bf16": (functools.partial(ours, batch=factors, bf16=True), True),
    }
    result: dict = {"factors": factors, "size": side}
    seconds, made = {}, {}
    with peak_memory(session.device, result):
        for name, (work, allowed) in programs.items():
            with tf32(allowed):
                seconds[name], made[name] = timed(session, work, 10), work().astype(np.int16)
    apart = {name: np.abs(frames - made["peer, float32"]) for name, frames in made.items()}
    error = {name: {"largest": int(a.max()), "mean": rounded(float(a.mean()), 3)} for name, a in apart.items()}
    fastest = min(seconds["bf16"], seconds["bf16, 8 at a time"])
    return result | {
        "pairs_per_s": {name: rounded(1 / took) for name, took in seconds.items()},
        "difference_grey_levels": error,
        "times_faster": {
            "float32": rounded(seconds["peer, float32"] / seconds["float32"], 3),
            "bf16": rounded(seconds["peer, float32"] / fastest, 3),
            "bf16, peer with TF32": rounded(seconds["peer, TF32"] / fastest, 3),
        },
        "tolerance_grey_levels": TOLERANCE,
        "passed": all(error["bf16"][key] <= most for key, most in TOLERANCE.items()),
    }


# ---- training -------------------------------------------------------------------------------------------------------


def portraits(session: Session) -> list[Path]:
    if session.images is None:
        return []
    found = sorted(path for path in session.images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) < 4:
        raise MerError(
            f"--images {session.images}: holds {len(found)} images; needed are 4, two of which are kept back"
        )
    return found


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    if image is None:
        raise MerError(f"{path}: is no image that OpenCV reads")
    return image[..., ::-1].copy()


def train(line: Line) -> dict:
    """To the last step, or until the time is over; seconds are those of all calls."""
    session = line.session
    images = [read(path) for path in portraits(session)[:-2]]
    checkpoint = session.out / "line_8_checkpoint.pt"
    start, before = time.monotonic(), line.progress.get("training_seconds", 0)
    try:
        model = training.train(
            images, **plan(session), steps=session.steps, device=session.device.type, checkpoint=checkpoint,
            every=session.pick(100, 2),
        )  # fmt: skip
    finally:
        line.progress["training_seconds"] = round(before + time.monotonic() - start, 1)
        line.progress["training_steps"] = steps_done(checkpoint)
    weights = session.out / "line_8_magnet.pth"
    keep_weights(weights, model)
    checkpoint.unlink()  # a finished training needs no second 10 MB
    seconds = line.progress["training_seconds"]
    return {"steps": session.steps, **plan(session), "images": len(images), "weights": weights.name,
            "minutes": rounded(seconds / 60), "steps_per_s": rounded(session.steps / seconds)}  # fmt: skip


# ---- what the weights do --------------------------------------------------------------------------------------------


def scenes(session: Session) -> list[np.ndarray]:
    """Two pictures (side + 2 BORDER)^2 x 3."""
    side = session.pick(112, 40) + 2 * _data.BORDER
    kept = portraits(session)[-2:]
    if not kept:
        return [_data.texture(side, np.random.default_rng([9, k]), channels=3) for k in range(2)]
    return [cv2.resize(read(path), (side, side), interpolation=cv2.INTER_AREA).astype(float) for path in kept]


def magnification(session: Session, model: MagNet) -> dict:
    """Still error and gains of weights."""
    still, gains = [], {motion: [] for motion in session.pick(MOTIONS, MOTIONS[-1:])}
    for k, image in enumerate(scenes(session)):
        apex = _data.eight_bit(_data.middle(image))
        still.append(np.abs(magnify_pair(model, apex, apex, [5])[0].astype(int) - apex).mean())
        for motion in gains:
            field = _data.smooth_motion(apex.shape[0], motion, np.random.default_rng([8, k]))
            onset = _data.eight_bit(_data.moved(image, field))
            frames = magnify_pair(model, onset, apex, FACTORS)
            grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (apex, *frames)]
            later = torch.from_numpy(np.stack(grey[1:])).to(session.device)
            found = tvl1(torch.from_numpy(grey[0]).to(session.device).expand_as(later), later).cpu().numpy()
            # Where the picture moves, and away from its border, beyond which nothing is known.
            inside = np.pad(np.hypot(*field)[12:-12, 12:-12], 12)
            strong = inside > 0.5 * inside.max()
            size = (field[:, strong] ** 2).sum()
            slopes = [(flow[:, strong] * field[:, strong]).sum() / size for flow in found]
            gains[motion].append([s / f for s, f in zip(slopes, FACTORS, strict=True)])
    return {
        "still_grey_levels": rounded(float(np.mean(still)), 3),
        "gain": {
            f"{motion} px": [rounded(float(g), 3) for g in np.mean(some, axis=0)] for motion, some in gains.items()
        },
        "factors": list(FACTORS),
    }


def compare(session: Session) -> dict:
    def on(model: MagNet) -> MagNet:
        return model.to(session.device).eval()

    weights = {
        "start": lambda: on(training.start(MagNet(), 0)),
        "trained": lambda: on(network(session.out / "line_8_magnet.pth")),
    }
    if session.weights is not None:
        weights["public"] = lambda: on(network(session.weights))
    return {name: magnification(session, load()) for name, load in weights.items()}


def measure(line: Line) -> dict:
    session = line.session
    found = [
        line.part(
            f"{factors} factors, {side} px", functools.partial(speed, session, factors, side), session.pick(30, 1)
        )
        for factors, side in session.pick(SIZES, ((3, 16),))
    ]
    trained = line.part("training", functools.partial(train, line), needs=session.pick(30, 1))
    if trained is not None:
        line.part("magnification", functools.partial(compare, session), needs=session.pick(20, 1))
    elif "magnification" not in line.parts:
        done = line.progress.get("training_steps", 0)
        line.left["magnification"] = f"the training has {done} of {session.steps} steps behind it"
    summary: dict = {"goal": GOAL}
    found = [f for f in found if f is not None]
    if found:
        fastest = max(f["times_faster"]["bf16"] for f in found)
        summary |= {
            "pairs_per_s": {f"{f['factors']} factors, {f['size']} px": f["pairs_per_s"]["bf16"] for f in found},
            "times_faster": fastest, "reached": fastest >= GOAL, "passed": all(f["passed"] for f in found),
        }  # fmt: skip
    return summary | ({"magnification": line.result("magnification")} if line.result("magnification") else {})
