"""Lays conf/<preset>.yaml over conf/base.yaml and writes params.yaml, comments kept.

python -m tools.preset demo
"""

import io
import shutil
import sys
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mer.errors import MerError, suggestion
from mer.params import parse

CONF = Path("conf")


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 4096  # never rewrap: a diff of params.yaml shows what was changed and nothing else
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def presets() -> list[str]:
    return sorted(p.stem for p in CONF.glob("*.yaml") if p.stem != "base")


def compose(name: str) -> str:
    """The text of params.yaml for a preset. Raises MerError for an unknown one, or one that does not validate."""
    if name not in presets():
        raise MerError(f"preset {name!r} is unknown; {suggestion(name, presets())} (make preset P=<name>)")
    base = _yaml().load(CONF / "base.yaml")
    try:
        overlay = _yaml().load(CONF / f"{name}.yaml")
    except YAMLError as error:
        raise MerError(f"conf/{name}.yaml: is not valid YAML: {error}") from None
    if not isinstance(overlay, dict):
        raise MerError(f"conf/{name}.yaml: is not a mapping of sections; see conf/demo.yaml")
    _lay(base, overlay)
    text = io.StringIO()
    _yaml().dump(base, text)
    parse(YAML(typ="safe", pure=True).load(text.getvalue()), f"conf/{name}.yaml")
    return text.getvalue()


def _lay(base, overlay) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict) and base[key]:
            _lay(base[key], value)
        else:
            base[key] = value


def clear_predictions(experiments, folder: Path = Path("data/predictions")) -> None:
    """Remove predictions of experiments that this preset does not have: stage leakage depends on the whole folder.

    DVC's cache keeps them; going back to their preset brings them back without computing.
    """
    for left in folder.glob("*/"):
        if left.name not in experiments:
            shutil.rmtree(left)


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        text = compose(name)
    except MerError as error:
        sys.exit(f"preset: {error}")
    Path("params.yaml").write_text(text)
    clear_predictions(YAML(typ="safe").load(text)["experiments"])
    print(f"params.yaml is now preset {name}; next: dvc repro (or make repro)")


if __name__ == "__main__":
    main()
