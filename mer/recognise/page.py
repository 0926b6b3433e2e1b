"""What a recogniser saw in clips, and what it says of them, as one HTML page without scripts or requests.

Of each clip the onset with its landmarks, the apex, the flow between them, the model's own map where it has one, the
probabilities of every recogniser side by side, and what of the clip is unlike what the training saw.
"""

import base64
from collections.abc import Sequence
from importlib import resources

import cv2
import matplotlib
import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import mer.evaluation.report as report
from mer.evaluation.canvas import flow_colours
from mer.evaluation.report import charts
from mer.recognise.bundle import Card
from mer.recognise.measures import MEASURES
from mer.recognise.recogniser import Answer

JPEG = 90
SIDE = 224  # px of a picture
HEAT = matplotlib.colormaps["magma"]
LOUDER = 4.0  # times, of the motion in the picture that magnifies it


def render(answers: Sequence[Answer], cards: Sequence[Card], note: str = "") -> str:
    """The page.

    Args:
        answers: of every clip by every recogniser, in the order of the clips.
        cards: of the recognisers.
        note: a sentence of its own at the top.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=report.number, span=report.span, count=report.count)
    environment.globals.update(
        pictures=pictures,
        own_map=own_map,
        between=between,
        said=said,
        bars=bars,
        measures=MEASURES,
        plural=report.plural,
    )
    style = resources.files("mer.evaluation.report").joinpath("style.css").read_text(encoding="utf-8")
    page = environment.from_string(resources.files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8"))
    clips: dict[str, list[Answer]] = {}
    for answer in answers:
        clips.setdefault(answer.name, []).append(answer)
    return page.render(clips=clips, cards=cards, note=note, style=Markup(style)) + "\n"


def bars(answer: Answer) -> Markup:
    """Probabilities of the classes as bars, in their order."""
    label = ", ".join(f"{c} {p:.2f}" for c, p in zip(answer.classes, answer.probability, strict=True))
    return charts.bars([float(p) for p in answer.probability], f"Probabilities of {answer.recogniser}: {label}")


def pictures(answer: Answer) -> list[tuple[str, str]]:
    """(what is shown, data URI) of a clip: the onset with its landmarks, the apex as it is and magnified, the flow."""
    frames, flow = answer.products["frames"], answer.products["flow"]
    onset, apex = frames[0], frames[answer.apex]
    shown = [
        (f"onset, frame 0 of {len(frames)}, with its landmarks", marked(onset, answer.products["points"])),
        (f"apex, frame {answer.apex}", apex),
        (f"apex, its motion {LOUDER:g} times as large", louder(onset, flow)),
        ("flow from onset to apex: colour is direction, strength is length", as_bytes(flow_colours(flow[:2]))),
    ]
    return [(what, uri(image)) for what, image in shown]


def own_map(answer: Answer) -> tuple[str, str] | None:
    """(what is shown, data URI): the model's own map, over the picture that it belongs to where there is one."""
    heat = answer.explained.get("data")
    if heat is None:
        return None
    heat = heat.mean(tuple(range(heat.ndim - 2)))
    ground = answer.explained.get("picture")
    if ground is None:
        return "attention between the magnified frames: rows attend to columns", uri(as_bytes(HEAT(heat / heat.max())))
    if ground.shape[0] == 3 and ground.ndim == 3:
        ground = ground.transpose(1, 2, 0)
    span = np.ptp(ground)
    grey = np.repeat((ground - ground.min()).mean(-1, keepdims=True) / (span or 1), 3, axis=-1)
    return "where this model looks", uri(over(as_bytes(grey), heat))


def between(answer: Answer, name: str) -> str:
    """From where to where 90 % of the training clips lie, by a name of Card.seen; a dash where nobody measured."""
    seen = answer.seen.get(name)
    return report.DASH if seen is None else f"{seen.low:.3g} to {seen.high:.3g}"


def said(value: float | None) -> str:
    return report.DASH if value is None else f"{value:.3g}"


def marked(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The picture, twice as large, with its landmarks."""
    large = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    for x, y in points * 2 + 0.5:
        cv2.circle(large, (round(float(x)), round(float(y))), 3, (255, 214, 10), -1, cv2.LINE_AA)
    return large


def as_bytes(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3 or 4) of 0..1 or bytes -> (H, W, 3) uint8."""
    if picture.dtype == np.uint8:
        return picture[..., :3]
    return np.rint(np.clip(picture[..., :3], 0, 1) * 255).astype(np.uint8)


def louder(onset: np.ndarray, flow: np.ndarray, times: float = LOUDER) -> np.ndarray:
    """The onset warped by `times` the flow: backwards, so that a pixel takes its colour from where the motion came."""
    height, width = onset.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    u, v = flow[0].astype(np.float32) * times, flow[1].astype(np.float32) * times
    return cv2.remap(onset, x - u, y - v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def over(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map, from its smallest value to its largest, in red over a picture (H, W, 3) uint8."""
    height, width = picture.shape[:2]
    share = cv2.resize(heat.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    share = (share - share.min()) / (np.ptp(share) or 1)
    share = share[..., None] * 0.6
    return (picture * (1 - share) + np.array([190, 30, 45]) * share).astype(np.uint8)


def uri(image: np.ndarray) -> str:
    side = max(image.shape[:2])
    if side > SIDE:
        image = cv2.resize(image, None, fx=SIDE / side, fy=SIDE / side, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG])
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
