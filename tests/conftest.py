"""Shared fixtures. Real reference data is used where it lies (MER_REFERENCE), and its absence skips with a reason."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of the public reference data; never part of the repository."""
    folder = Path(os.environ.get("MER_REFERENCE", ROOT / "../shared/reference"))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set MER_REFERENCE)")
    return folder.resolve()
