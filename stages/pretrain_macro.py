"""Weights of a network pretrained on macro-expressions; writes data/weights/<name>.safetensors.

    python -m stages.pretrain_macro resnet18

The user's own weights where `given` holds a file of them; else the network learns the images of `raw`, or, where nobody
has put a set there, those of the embedded corpus's pool. What the weights are stands in the file, and from there in the
metrics. A killed training goes on from its last checkpoint.
"""

import inspect
import sys
from pathlib import Path

import torch

from mer import corpora
from mer.errors import MerError, listed, suggestion
from mer.macro import pool
from mer.networks.resnet import ResNet18, load_imagenet, load_resnet18
from mer.pretraining import macro
from mer.storage.weights import digest_of, save_weights
from stages._run import run

WEIGHTS = (".pth", ".pt", ".bin", ".safetensors")


def main(stage):
    item = stage.item
    target = Path("data/weights") / f"{stage.key}.safetensors"
    where = f"pretrain_macro.runs.{stage.key}"
    for folder in (item.given, item.raw):
        if not Path(folder).is_dir():
            raise MerError(f"{folder}: there is no such folder; make it, or correct {where}")
    own = given(Path(item.given))
    if own is not None:
        about = {"weights": f"given: {own.name}", "sha256": digest_of(own)}
        save_weights(load_resnet18(ResNet18(), own), target, about)
        return
    table, what, crop = images(item, where)
    network, first = start(item, stage.section.seed)
    if table is None:
        save_weights(network, target, {"weights": first})
        return
    stage.spool.mkdir(parents=True, exist_ok=True)
    faces = macro.faces(table, item.size, crop=crop, engine=stage.engine)
    found = [face is not None for face in faces]
    table, faces = table[found], [face for face in faces if face is not None]
    if not faces:
        raise MerError(f"no face was found in any image of {what}; set {where}.crop to none")
    names = macro.emotions(table)
    targets, out = macro.targets(table, names), macro.hold_out(table)
    learned, tested = (
        ([face for face, here in zip(faces, rows, strict=True) if here], targets[rows]) for rows in (~out, out)
    )
    result = macro.pretrain(
        *learned, network, held_faces=tested[0], held_targets=tested[1], steps=item.steps, batch_size=item.batch_size,
        size=item.size, lr=item.lr, weight_decay=item.weight_decay, seed=stage.section.seed, device=stage.device,
        checkpoint=stage.spool / "checkpoint.pt", code=stage.code(), progress=True,
    )  # fmt: skip
    if not all(found):
        what = f"{what}, {found.count(False)} of them without a face"
    about = {"weights": f"{item.steps} steps on {what}, from {first}"}
    if result.accuracy is not None:
        about["accuracy"] = f"{result.accuracy:.3f} of {len(tested[0])} held-out images, {len(names)} emotions"
    save_weights(result.network, target, about)


def given(folder: Path) -> Path | None:
    """The file of weights that a user has put in place."""
    found = visible(folder)
    if len(found) > 1:
        raise MerError(f"{folder}: holds {listed(p.name for p in found)}; leave one file of weights there")
    if found and found[0].suffix not in WEIGHTS:
        raise MerError(f"{found[0]}: is no file of weights; valid ends of its name: {', '.join(WEIGHTS)}")
    return found[0] if found else None


def images(item, where: str):
    """The set's table, what it is called, and its crop; (None, "", "") where there is no set, nor a pool."""
    if visible(Path(item.raw)):
        reader = corpora.load(item.reader).read_macro
        check_options(reader, item.options, f"params.yaml: {where}.options")
        table = reader(item.raw, **item.options)
        how = "".join(f", {name} {value}" for name, value in item.options.items())
        return table, f"{item.reader}{how} ({len(table)} images)", item.crop
    if not (Path(item.pool) / "labels.csv").exists():
        return None, "", ""
    table = pool.read_macro(item.pool)
    return table, f"the synthetic macro pool ({len(table)} images, {table['subject'].nunique()} people)", "box224"


def check_options(reader, options: dict, where: str) -> None:
    """Raise MerError for an option that the set's reader does not have, or a value of another type."""
    _, *known = inspect.signature(reader, eval_str=True).parameters.values()  # the first is the folder
    types = {parameter.name: parameter.annotation for parameter in known}
    for name, value in options.items():
        if name not in types:
            raise MerError(f"{where}.{name} is unknown; {suggestion(name, types)}")
        if not isinstance(value, types[name]):
            raise MerError(f"{where}.{name} is {value!r}; needed is a value of type {types[name].__name__}")


def visible(folder: Path) -> list[Path]:
    """What a user has put there beside the note that says what belongs there."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "README.md")


def start(item, seed: int) -> tuple[ResNet18, str]:
    """The network before training, and what its weights are (U-21)."""
    torch.manual_seed(seed)
    network = ResNet18()
    if item.first == "random":
        return network, "random weights"
    try:
        return load_imagenet(network), "ImageNet weights"
    except MerError as error:
        if item.first == "imagenet":
            raise
        print(f"{error}; so it begins with random weights", file=sys.stderr)
        return network, "random weights"


if __name__ == "__main__":
    run("pretrain_macro", main)
