"""Projects that several files here begin with; see tests/helpers/sequences.py."""

import shutil

import pytest

from tests.helpers import sequences
from tests.helpers.in_process import command


@pytest.fixture(scope="session")
def begun(root, tmp_path_factory):
    """A tiny project up to its magnified sequences, with weights of a ResNet-18."""
    folder = sequences.begin(root, tmp_path_factory.mktemp("begun"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def embedded(begun, tmp_path_factory):
    """With what the ResNet-18 makes of the sequences."""
    with sequences.copied(begun, tmp_path_factory.mktemp("embedded") / "p") as folder:
        assert command(folder, "embed", sequences.EMBED) == (0, [])
        yield folder


@pytest.fixture(scope="session")
def learned(embedded, tmp_path_factory):
    """With UAMRN's predictions and explanations."""
    with sequences.copied(embedded, tmp_path_factory.mktemp("learned") / "p") as folder:
        assert sequences.train(folder) == (0, [])
        yield folder


@pytest.fixture
def embedded_copy(embedded, tmp_path):
    with sequences.copied(embedded, tmp_path / "p") as folder:
        yield folder


@pytest.fixture
def learned_copy(learned, tmp_path):
    with sequences.copied(learned, tmp_path / "p") as folder:
        yield folder
