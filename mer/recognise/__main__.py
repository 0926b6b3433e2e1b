"""python -m mer.recognise CLIP... --with RECOGNISER: see --help."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mer.errors import MerError, explained
from mer.recognise import sources
from mer.recognise.recogniser import Answer, Recogniser
from mer.recognise.sources import Source
from mer.storage.files import replace_file

BAD_INPUT = 2


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mer.recognise",
        description="Which class of a corpus the movement in a clip of a face resembles most. An answer judges "
        "no person: read the card of the recogniser.",
    )
    parser.add_argument("clips", nargs="*", metavar="CLIP", help="a video (avi, mp4, mov, …) or a folder of frames")
    parser.add_argument("--with", dest="recognisers", nargs="+", required=True, metavar="RECOGNISER",
                        help="folders that stage fit@<experiment> has made; several stand side by side")  # fmt: skip
    parser.add_argument("--onset", metavar="IMAGE", help="instead of clips: two images of one face, onset and apex")
    parser.add_argument("--apex-image", metavar="IMAGE", help="see --onset")
    parser.add_argument("--from", dest="start", type=float, metavar="S", help="second at which the clip begins")
    parser.add_argument("--to", dest="end", type=float, metavar="S", help="second at which it ends")
    parser.add_argument("--apex", type=float, metavar="S", help="second of the apex; otherwise the most flow decides")
    parser.add_argument("--fps", type=float, help="frames a second; needed for a folder of frames")
    parser.add_argument("--json", action="store_true", help="one JSON object a clip and recogniser, a line each")
    parser.add_argument("--html", metavar="FILE", help="also write a page with what was seen")
    parser.add_argument(
        "--spot", metavar="FILE", help="recognise nothing: look for candidates, movements that come and go within half "
        "a second, in whole recordings, and write them as csv",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    found = parser.parse_args(given)
    two = [found.onset, found.apex_image]
    if any(two) != all(two):
        parser.error("--onset and --apex-image go together")
    if found.spot and (found.apex is not None or found.html or found.json or any(two)):
        parser.error("--spot looks for apexes in recordings: it goes with --from, --to, --fps and --device alone")
    if bool(found.clips) == any(two):
        parser.error("name clips, or --onset and --apex-image")
    return found


def main(given: list[str] | None = None) -> int:
    """0, or 2 where a clip was not recognised: its line says why, and the others are recognised all the same."""
    found = arguments(given)
    try:
        recognisers = [Recogniser(folder, found.device) for folder in found.recognisers]
    except MerError as error:
        print(f"recognise: {error}", file=sys.stderr)
        return BAD_INPUT
    return _spot(found, recognisers[0]) if found.spot else _recognise(found, recognisers)


def _recognise(found: argparse.Namespace, recognisers: list[Recogniser]) -> int:
    answers: list[Answer] = []

    def one(job: str | None) -> None:
        with tempfile.TemporaryDirectory(prefix="mer-recognise-") as folder:
            source = _source(job, found, Path(folder) / "frames")
            for recogniser in recognisers:
                answer = recogniser.recognise(source, explain=bool(found.html))
                answers.append(answer)
                text = json.dumps(answer.as_json()) if found.json else line(answer, len(recognisers) > 1)
                tqdm.write(text, file=sys.stdout)
                sys.stdout.flush()

    failed = _each([*found.clips] or [None], one)
    if found.html and answers:
        from mer.recognise import page

        replace_file(Path(found.html), page.render(answers, [one.card for one in recognisers]).encode())
        print(f"page: {found.html}", file=sys.stderr)
    return BAD_INPUT if failed else 0


def _spot(found: argparse.Namespace, recogniser: Recogniser) -> int:
    from mer.recognise import recordings

    spotted: list[recordings.Spotted] = []

    def one(job: str) -> None:
        recording = sources.recording(job, start=found.start, end=found.end, fps=found.fps)
        seconds = (recording.last - recording.first + 1) / recording.rate
        with tqdm(total=round(seconds), desc=Path(job).name, unit=" s", disable=not sys.stderr.isatty()) as bar:
            done = recordings.spot(recording, recogniser.chain, progress=lambda s: bar.update(round(s) - bar.n))
            spotted.append(done)
        for begin, end, why in spotted[-1].gaps:
            tqdm.write(f"recognise: {job}: nothing is known from {begin:.1f} s to {end:.1f} s: {why}", file=sys.stderr)
        tqdm.write(f"{job}: {len(spotted[-1].candidates)} candidates", file=sys.stdout)

    failed = _each(found.clips, one)
    replace_file(Path(found.spot), recordings.as_csv(spotted).encode())
    print(f"candidates: {found.spot}", file=sys.stderr)
    return BAD_INPUT if failed else 0


def _each(jobs: Sequence[Any], one: Callable[[Any], None]) -> int:
    """How many of the jobs failed; each that did is said in a line."""
    failed = 0
    for job in tqdm(jobs, desc="clips", unit="", disable=len(jobs) == 1 or not sys.stderr.isatty()):
        try:
            one(job)
        except MerError as error:
            failed += 1
            tqdm.write(f"recognise: {error}", file=sys.stderr)
        except Exception as error:
            said = explained(error)
            if said is None:
                raise
            failed += 1
            tqdm.write(f"recognise: {job}: {said}", file=sys.stderr)
    return failed


def _source(job: str | None, found: argparse.Namespace, scratch: Path) -> Source:
    if job is None:
        return sources.pair(found.onset, found.apex_image)
    return sources.opened(job, scratch, start=found.start, end=found.end, apex=found.apex, fps=found.fps)


def line(answer: Answer, named: bool) -> str:
    """`clip.avi: surprise 0.71 (happiness 0.12, …)`, and in words how unusual it is."""
    order = answer.probability.argsort()[::-1]
    others = ", ".join(f"{answer.classes[k]} {answer.probability[k]:.2f}" for k in order[1:])
    text = f"{answer.name}: {answer.best} {answer.probability[order[0]]:.2f} ({others})"
    if named:
        text = f"{text} by {answer.recogniser}"
    return f"{text}; unusual: {'; '.join(answer.unusual)}" if answer.unusual else text


if __name__ == "__main__":
    sys.exit(main())
