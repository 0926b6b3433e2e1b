"""Tries a recogniser on a clip of its own corpus, as a video; writes metrics/recognised/<experiment>/.

    python -m stages.recognise synthetic-ststnet

clip.avi is the clip, page.html what `python -m mer.recognise clip.avi --with data/recognisers/<experiment>` shows.
The recogniser has learned from this clip among others: the page shows that the way from a video to an answer
works, and not how good the answer is.
"""

from pathlib import Path

import cv2
import numpy as np

from mer.clips import clips, read_frames, read_index
from mer.errors import MerError
from mer.recognise import page, sources
from mer.recognise.recogniser import Recogniser
from mer.storage.files import replace_file, replaced_folder
from stages._run import run

QUALITY = 95
NOTE = "The recogniser has learned from this clip among others, so its answer shows nothing of how good it is."


def main(stage, *, index: str, recogniser: str, out: str):
    rows = clips(read_index(index))
    if not rows:
        raise MerError(f"{index} has no clip that a recogniser could be tried on")
    row = next((row for row in rows if row.apex_source == "annotated"), rows[0])
    frames = np.stack(list(read_frames(row)))
    with replaced_folder(Path(out)) as fresh:
        fresh.mkdir(exist_ok=True)
        write_video(fresh / "clip.avi", frames, row.fps)
        one = Recogniser(recogniser, stage.device)
        source = sources.opened(fresh / "clip.avi", fresh / "frames")
        answer = one.recognise(source.named(row.id), explain=True)
        for path in source.frames:
            path.unlink()
        (fresh / "frames").rmdir()
        replace_file(fresh / "page.html", page.render([answer], [one.card], NOTE).encode())


def write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    """(T, H, W, 3) uint8 RGB as motion JPEG."""
    height, width = frames.shape[1:3]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (width, height))  # type: ignore[attr-defined]
    try:
        if not video.isOpened():
            raise MerError(f"{path}: OpenCV cannot write a video here; reinstall opencv-python")
        video.set(cv2.VIDEOWRITER_PROP_QUALITY, QUALITY)
        for frame in frames:
            video.write(np.ascontiguousarray(frame[..., ::-1]))
    finally:
        video.release()


if __name__ == "__main__":
    run("recognise", main)
