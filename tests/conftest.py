"""Shared fixtures. Real reference data is used where it lies (MER_REFERENCE), and its absence skips with a reason."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the stages have it (stages/__init__.py), before torch is imported
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="module")
def one_thread():
    """As the workers have it; on small arrays several threads wait for each other longer than they compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of the public reference data; never part of the repository."""
    folder = Path(os.environ.get("MER_REFERENCE", ROOT / "../shared/reference"))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set MER_REFERENCE)")
    return folder.resolve()
