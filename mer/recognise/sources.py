"""Clips of one's own as the pipeline's stages read them: a video, a folder of frames, two images, or an array.

Each becomes frames in a scratch folder and one row of an index, so from there on the stages know no difference. Frames
of a video or an array are written as PNG, which loses nothing; files are linked and not copied.
"""

import contextlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mer.clips import FASTEST, LONGEST, MAX_PIXELS, Clip, files_digest
from mer.errors import MerError

CORPUS = "clips"  # as which all of them are processed
IMAGES = (".png", ".jpg", ".jpeg", ".bmp")
SLOWEST = 8.0  # frames a second: half a second then has its onset, its apex and two frames between them
LONG = 10.0  # s: a movement lasts half a second, so more than this is a recording
MISSED = 0.02  # share of the frames that a header may count too many
UNEVEN = 0.2  # share of the mean by which the time from frame to frame may vary


@dataclass(frozen=True)
class Source:
    """What is recognised, from onset to offset.

    name: for messages and results; fps: of its frames, 0 for two images without a time; apex: a position in `frames`,
    None where it is looked for.
    """

    name: str
    frames: tuple[Path, ...]
    fps: float
    apex: int | None

    def named(self, name: str) -> "Source":
        return replace(self, name=name)

    def clip(self, number: int, folder: Path) -> Clip:
        """Link the frames into `folder` under numbers; the row of the index."""
        name = f"{number:04d}"
        place = folder / name
        place.mkdir(parents=True)
        for n, path in enumerate(self.frames):
            (place / f"{n}.img").symlink_to(path.resolve())
        last = len(self.frames) - 1
        return Clip(
            id=f"{CORPUS}/{name}/clip", corpus=CORPUS, subject=name, clip="clip", emotion="", aus="", onset=0,
            apex=last // 2 if self.apex is None else self.apex, offset=last,
            apex_source="middle" if self.apex is None else "annotated", fps=self.fps or 1.0,
            frame=str(place / "{}.img").replace("{}", "\0").replace("{", "{{").replace("}", "}}").replace("\0", "{}"),
            absent="", digest=files_digest(list(self.frames)),
        )  # fmt: skip


def opened(
    path: str | Path, scratch: Path, *, start: float | None = None, end: float | None = None,
    apex: float | None = None, fps: float | None = None,
) -> Source:  # fmt: skip
    """A video or a folder of frames.

    Args:
        scratch: a folder of its own for the frames of a video.
        start, end: seconds of the recording between which the clip lies; None: its ends.
        apex: seconds of the recording; None: it is looked for.
        fps: of a folder of frames, needed there; of a video instead of what its file says.

    Raises:
        MerError: no such file; a video that cannot be decoded or whose frames come at uneven times; a folder without
            frames; fewer than two frames between start and end, or more than LONG; a frame rate in which nothing of
            half a second shows.
    """
    path = Path(path)
    if path.is_dir():
        frames, rate = frames_of(path), _rate_of_folder(path, fps)
        first, last = _between(str(path), len(frames), rate, start, end)
        _check_length(str(path), first, last, rate)
        frames = frames[first : last + 1]
    elif path.suffix.lower() in IMAGES:
        raise MerError(
            f"{path}: is one image; a clip is a video, a folder of frames, or onset and apex (--onset, --apex)"
        )
    elif path.is_file():
        frames, rate, first = decoded(path, scratch, start=start, end=end, fps=fps)
    else:
        raise MerError(f"{path}: there is no such video or folder of frames")
    return _checked(str(path), tuple(frames), rate, None if apex is None else round(apex * rate) - first)


def pair(onset: str | Path, apex: str | Path) -> Source:
    """Two images, onset and apex, of one face."""
    for path in (Path(onset), Path(apex)):
        if not path.is_file():
            raise MerError(f"{path}: there is no such image")
    return Source(f"{onset} and {apex}", (Path(onset), Path(apex)), 0.0, 1)


def array(
    frames: np.ndarray | Sequence[np.ndarray], fps: float, scratch: Path, *, apex: int | None = None,
    name: str = "frames",
) -> Source:  # fmt: skip
    """A clip (T, H, W, 3) uint8 RGB at `fps` frames a second; apex: a position. Raises MerError for another array."""
    import cv2

    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise MerError(f"{name}: are {frames.shape} {frames.dtype}; needed are (T, H, W, 3) uint8, RGB")
    scratch.mkdir(parents=True, exist_ok=True)
    paths = []
    for n, frame in enumerate(frames):
        paths.append(scratch / f"{n}.png")
        cv2.imwrite(str(paths[-1]), frame[..., ::-1])
    return _checked(name, tuple(paths), fps, apex)


def frames_of(folder: Path) -> list[Path]:
    """The images of a folder in the order of the numbers in their names. Raises MerError where it has none."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in IMAGES and not path.name.startswith(".")]
    if not found:
        raise MerError(f"{folder}: has no frame ({', '.join(IMAGES)})")
    return sorted(found, key=lambda path: ([int(n) for n in re.findall(r"\d+", path.stem)], path.name))


@contextlib.contextmanager
def video(path: Path, fps: float | None = None) -> Iterator[tuple[float, int, Iterator[tuple[np.ndarray, float]]]]:
    """(frames a second, their number as the file says, (frame BGR, its time in ms) one by one) of a video.

    Raises MerError where it cannot be decoded, is too large, or does not say how many frames a second it has.
    """
    import cv2

    file = cv2.VideoCapture(str(path))
    try:
        if not file.isOpened():
            raise MerError(f"{path}: OpenCV cannot decode it; convert it: ffmpeg -i {path.name} -c:v ffv1 clip.avi")
        width, height = (int(file.get(what)) for what in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_PIXELS:
            raise MerError(f"{path}: is {width}x{height}, a frame has at most {MAX_PIXELS} pixels; scale it down")
        rate = fps or file.get(cv2.CAP_PROP_FPS)
        if not math.isfinite(rate) or rate <= 0:
            raise MerError(f"{path}: does not say how many frames a second it has; give --fps")
        _check_rate(str(path), rate)
        said = file.get(cv2.CAP_PROP_FRAME_COUNT)

        def frames() -> Iterator[tuple[np.ndarray, float]]:
            while True:
                read, frame = file.read()
                if not read:
                    return
                yield frame, file.get(cv2.CAP_PROP_POS_MSEC)

        yield rate, int(said) if said > 0 else LONGEST, frames()
    finally:
        file.release()


def decoded(
    path: Path, scratch: Path, *, start: float | None, end: float | None, fps: float | None
) -> tuple[list[Path], float, int]:
    """The frames of a video from `start` to `end` as PNG in `scratch`; the frame rate; the number of the first."""
    import cv2

    with video(path, fps) as (rate, count, frames):
        first, last = _between(str(path), count, rate, start, end)
        if count < LONGEST:  # it says how long it is
            _check_length(str(path), first, last, rate)
        last = min(last, first + math.ceil(LONG * rate))
        scratch.mkdir(parents=True, exist_ok=True)
        paths, times = [], []
        for number, (frame, time) in enumerate(itertools.islice(frames, last + 1)):
            if number < first:
                continue
            times.append(time)
            paths.append(scratch / f"{number}.png")
            cv2.imwrite(str(paths[-1]), frame)
    _check_whole(path, len(paths), last - first + 1 if count < LONGEST else len(paths))
    _check_length(str(path), 0, len(paths) - 1, rate)
    _check_even(str(path), times)
    return paths, rate, first


@dataclass(frozen=True)
class Recording:
    """A video or a folder of frames that is looked at in windows.

    rate: frames a second; first, last: the frames from --from to --to, counted from 0; counted: whether the file says
    how many it has.
    """

    name: str
    path: Path
    rate: float
    first: int
    last: int
    counted: bool = True

    def windows(self, scratch: Path, seconds: float, overlap: float, every: int) -> Iterator[tuple[int, "Source"]]:
        """(position of its first frame, the window), position by position; frames are gone once the next is asked for.

        Args:
            seconds, overlap: of a window, and with the one before it.
            every: of how many frames one is kept; positions count those that are.

        Raises:
            MerError: as `video`; frames at uneven times; once all are read, fewer frames than the video says to have.
        """
        rate = self.rate / every
        length, shared = round(seconds * rate), round(overlap * rate)
        held: list[Path] = []
        times: list[float] = []
        begin = 0
        for path, time in self._kept(scratch, every):
            held.append(path)
            times.append(time)
            if len(held) == length:
                _check_even(self.name, times)
                yield begin, Source(self.name, tuple(held), rate, None)
                gone = length - shared
                if not self.path.is_dir():
                    for old in held[:gone]:
                        old.unlink()
                held, times, begin = held[gone:], times[gone:], begin + gone
        kept = begin + len(held)
        if not self.path.is_dir():
            _check_whole(self.path, kept, len(range(self.first, self.last + 1, every)) if self.counted else kept)
        if len(held) > (shared if begin else 1):
            _check_even(self.name, times)
            yield begin, Source(self.name, tuple(held), rate, None)

    def _kept(self, scratch: Path, every: int) -> Iterator[tuple[Path, float]]:
        if self.path.is_dir():
            for path in frames_of(self.path)[self.first : self.last + 1 : every]:
                yield path, 0.0
            return
        import cv2

        with video(self.path, self.rate) as (_, _, frames):
            for number, (frame, time) in enumerate(itertools.islice(frames, self.last + 1)):
                if number >= self.first and (number - self.first) % every == 0:
                    path = scratch / f"{number}.png"
                    cv2.imwrite(str(path), frame)
                    yield path, time


def recording(
    path: str | Path, *, start: float | None = None, end: float | None = None, fps: float | None = None
) -> Recording:
    """A whole recording; the arguments and errors are those of `opened`."""
    path = Path(path)
    if path.is_dir():
        count, rate = len(frames_of(path)), _rate_of_folder(path, fps)
        _check_rate(str(path), rate)
    elif path.is_file():
        with video(path, fps) as (rate, count, _):
            pass
    else:
        raise MerError(f"{path}: there is no such video or folder of frames")
    first, last = _between(str(path), count, rate, start, end)
    return Recording(str(path), path, rate, first, last, counted=path.is_dir() or count < LONGEST)


def _rate_of_folder(path: Path, fps: float | None) -> float:
    if fps is None:
        raise MerError(f"{path}: a folder of frames does not say how many there are a second; give --fps")
    return fps


def _between(name: str, count: int, fps: float, start: float | None, end: float | None) -> tuple[int, int]:
    """First and last frame, counted from 0."""
    for what, value in (("--from", start), ("--to", end)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise MerError(f"{what} is {value}; needed are seconds from the beginning of {name}")
    first = 0 if start is None else math.ceil(start * fps - 1e-6)
    last = count - 1 if end is None else min(count - 1, math.floor(end * fps + 1e-6))
    if last - first < 1:
        raise MerError(
            f"{name}: has {max(0, last - first + 1)} frames between {start or 0:g} s and "
            f"{'its end' if end is None else f'{end:g} s'} ({count} in all, {fps:g} a second); a clip needs two"
        )
    return first, last


def _check_length(name: str, first: int, last: int, fps: float) -> None:
    if last - first > LONG * fps:
        raise MerError(
            f"{name}: lasts more than {LONG:g} s, so it is a recording and no clip of one movement; cut it with --from "
            "and --to, or look for movements in it with --spot"
        )


def _check_whole(path: Path, decoded: int, said: int) -> None:
    """Raise MerError where a video ends before the frames that it says to have; headers may count a few too many."""
    if not decoded:
        raise MerError(f"{path}: no frame could be decoded; convert it: ffmpeg -i {path.name} -c:v ffv1 clip.avi")
    if said - decoded > max(2, MISSED * said):
        raise MerError(
            f"{path}: ends after {decoded} of {said} frames, so it is cut or damaged; copy it anew, or take less of it "
            "with --to"
        )


def _check_rate(name: str, fps: float) -> None:
    if not 0 < fps <= FASTEST:
        raise MerError(f"{name}: {fps:g} frames a second are none; give --fps")
    if fps < SLOWEST:
        raise MerError(
            f"{name}: has {fps:g} frames a second; a micro-expression lasts half a second at most, so {SLOWEST:g} are "
            "the fewest in which one can be seen, and 100 or more show it well"
        )


def _check_even(name: str, times: list[float]) -> None:
    """Raise MerError where the frames of a video come at uneven times; decoders that tell none give zeros."""
    steps = np.diff(times)
    if len(steps) < 2 or not (steps > 0).all():
        return
    if np.abs(steps - steps.mean()).max() > max(UNEVEN * steps.mean(), 1.5):  # ms: times of many files are whole ones
        raise MerError(
            f"{name}: has a variable frame rate ({steps.min():.1f} to {steps.max():.1f} ms from frame to frame), "
            f"and flow and magnification count frames; convert it: ffmpeg -i {Path(name).name} -vf fps=30 "
            "-c:v ffv1 clip.avi"
        )


def _checked(name: str, frames: tuple[Path, ...], fps: float, apex: int | None) -> Source:
    _check_rate(name, fps)
    if len(frames) < 2:
        raise MerError(f"{name}: has {len(frames)} frames; a clip needs two, onset and apex")
    if apex is not None and not 0 < apex < len(frames):
        raise MerError(
            f"{name}: the apex is frame {apex} of {len(frames)}, counted from 0; needed is one after the onset"
        )
    return Source(name, frames, fps, apex)
