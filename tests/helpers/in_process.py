"""Stages in this process: starting Python and torch anew takes longer than most of them."""

import contextlib
import importlib
import io
import runpy
import sys
import warnings
from pathlib import Path

import pytest
import torch

from mer.networks.resnet import frozen_resnet18
from mer.params import load
from stages._run import Stage, from_plan


def run(name: str, *keys: str) -> None:
    """`main` of stages.<name> for each key, in the current folder, with the arguments that plan.yaml has for it."""
    main = importlib.import_module(f"stages.{name}").main
    for key in keys:
        stage = Stage(name, key, load())
        main(stage, **from_plan(main, stage))


def command(folder: Path, name: str, key: str, *arguments: str) -> tuple[int, list[str]]:
    """Exit code of `python -m stages.<name> <key> <arguments>` in a project and its lines on stderr, without bars."""
    frozen_resnet18.cache_clear()  # a process of its own would not have it
    said, code, threads = io.StringIO(), 0, torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said), warnings.catch_warnings():
        patch.chdir(folder)
        patch.setattr(sys, "argv", [name, key, *arguments])
        warnings.filterwarnings("ignore", "'stages", RuntimeWarning)  # another test has imported it
        torch.set_num_threads(1)  # as the workers have it: on small arrays several wait longer than they compute
        try:
            runpy.run_module(f"stages.{name}", run_name="__main__")
        except SystemExit as end:
            code = end.code
        finally:
            torch.set_num_threads(threads)
    lines = said.getvalue().replace("\r", "\n").splitlines()
    return code, [line for line in lines if line.strip() and "%|" not in line]
