"""Weights for learned magnification; writes data/weights/<name>.safetensors.

    python -m stages.train_magnet magnet

The public weights where data/raw/magnet holds them; else the network is trained on moving layers made of textures and
portraits. A killed training goes on from its last checkpoint. What the weights are stands in the file.
"""

from pathlib import Path

from mer.clips import read_frame
from mer.errors import MerError, listed
from mer.magnification.magnet import load_magnet
from mer.pretraining.moving_layers import train
from mer.storage.weights import digest_of, save_weights
from stages._run import run

PUBLIC = Path("data/raw/magnet")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp")


def main(stage):
    target = Path("data/weights") / f"{stage.key}.safetensors"
    public = public_weights()
    if stage.section.public and public is not None:
        save_weights(
            load_magnet(public), target, about={"weights": f"public: {public.name}", "sha256": digest_of(public)}
        )
        return
    item = stage.item.model_dump()
    images = portraits(Path(item.pop("portraits")))
    stage.spool.mkdir(parents=True, exist_ok=True)
    model = train(
        images, **item, seed=stage.section.seed, device=stage.device, checkpoint=stage.spool / "checkpoint.pt",
        code=stage.code(), progress=True,
    )  # fmt: skip
    save_weights(model, target, about={"weights": f"trained here, {item['steps']} steps"})


def public_weights() -> Path | None:
    """The file that a user has put in place."""
    found = sorted(path for path in PUBLIC.iterdir() if path.suffix in (".pth", ".pt"))
    if len(found) > 1:
        raise MerError(f"{PUBLIC}: holds {listed(p.name for p in found)}; leave one file of weights there")
    return found[0] if found else None


def portraits(folder: Path) -> list:
    """The images below a folder, (H, W, 3) uint8 RGB; none where there are none."""
    return [read_frame(path) for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGES]


if __name__ == "__main__":
    run("train_magnet", main)
