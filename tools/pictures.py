"""Copies pictures of the demo to docs/images, as WebP in full colour; and a view of the report where Chromium is.

    python -m tools.pictures

The wheel of flow has steps where a picture has few colours, so none is reduced.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import cv2

from mer.errors import MerError, listed
from mer.evaluation.simulated import draw_simulated
from mer.params import load
from tools._errors import one_line

FIGURES = Path("metrics/figures/synthetic")
SHOWN = {"clips": "synthetic", "flow": "flow", "factors": "factors", "magnified": "magnified", "too_much": "too_much",
         "dynamic_images": "dynamic_images"}  # fmt: skip
PAGE = Path("metrics/report/index.html")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUALITY = 92  # of WebP: no difference is seen, and a picture has an eighth of the bytes
SIZE = (1400, 1500)  # of the view of the report, px


def copy(root: Path = Path()) -> list[str]:
    """What was written. Raises MerError where the demo has not run."""
    if load(root / "params.yaml").preset != "demo":
        raise MerError("docs/images are of the demo; go back to it first: make preset P=demo, then make repro")
    missing = [path for path in (*(FIGURES / f"{name}.png" for name in SHOWN), PAGE) if not (root / path).exists()]
    if missing:
        raise MerError(f"{listed(missing)}: not here yet; run make repro first")
    target, written = root / "docs/images", []
    for name, shown in SHOWN.items():
        _convert(root / FIGURES / f"{name}.png", target / f"{shown}.webp")
        written.append(f"{shown}.webp")
    with tempfile.TemporaryDirectory() as folder:
        draw_simulated(Path(folder) / "simulated.png")
        _convert(Path(folder) / "simulated.png", target / "simulated_flow.webp")
    written.append("simulated_flow.webp")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return [*written, f"report.webp stays as it is: none of {listed(BROWSERS)} is installed"]
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={shot}",
             f"--window-size={SIZE[0]},{SIZE[1]}", (root / PAGE).resolve().as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        _convert(shot, target / "report.webp")
    return [*written, "report.webp"]


def _convert(source: Path, target: Path) -> None:
    cv2.imwrite(str(target), cv2.imread(str(source)), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])


def main() -> None:
    with one_line("pictures"):
        print("docs/images: " + ", ".join(copy()))


if __name__ == "__main__":
    main()
