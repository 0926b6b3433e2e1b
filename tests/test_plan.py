"""The derived plan: the wiring of every preset, what makes it stale, and what it refuses."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mer import params as mer_params
from mer import plan
from tests.helpers.graph import wiring
from tools import preset

WIRING = Path(__file__).parent / "data/wiring"


@pytest.fixture(autouse=True)
def _in_project(root, monkeypatch):
    monkeypatch.chdir(root)


def composed(name: str, corpora: str = "") -> mer_params.Params:
    return mer_params.parse(YAML(typ="safe").load(preset.compose(name, corpora)))


@pytest.mark.parametrize("path", sorted(WIRING.glob("*.txt")), ids=lambda path: path.stem)
def test_the_wiring_of_presets_is_as_written_down(path):
    """What a stage reads and writes; the files were written from the hand-made graph that the plan has replaced."""
    name, _, corpus = path.stem.partition(".")
    stages, _ = plan.derive(composed(name, corpus))
    assert sorted(wiring(stages)) == path.read_text().splitlines()
