"""The example runs as its reader would run it, and finds the signal that is there, and none where there is none."""

import os
import re
import runpy
import subprocess
import sys

import pytest

CHANCE = 1 / 3  # UAR of a guess among three classes
# Of 72 guesses the share that is right has a standard deviation of 0.056; 0.28 is five of them.
FAR = 0.28


@pytest.fixture(scope="module")
def example(root):
    return runpy.run_path(str(root / "examples/minimal.py"))


@pytest.mark.slow
def test_the_example_prints_scores_above_chance(root, example):
    done = subprocess.run(
        [sys.executable, "examples/minimal.py"], cwd=root, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(example["MODELS"])
    for line in lines:
        found = re.fullmatch(r"\w+ +UF1 (\d\.\d{4})  UAR (\d\.\d{4})  accuracy (\d\.\d{4})", line)
        assert found, line
        assert all(CHANCE + FAR < float(value) <= 1 for value in found.groups()), line


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("model", ["linear", "ststnet"])
def test_without_signal_the_example_is_at_chance(example, model):
    """Each subject has a pattern of its own: a model that saw the test subject could do better."""
    flow, table = example["made_up"](signal=0.0)
    assert abs(example["evaluate"](flow, table, model)["uar"] - CHANCE) < FAR
