"""Checks params.yaml, derives plan.yaml from it, and says what that adds and removes, and what the stages cost.

    python -m tools.plan [--raw]

--raw: also check that what the user brings (corpora, manifests, folders of weights) is there.
"""

import argparse
from pathlib import Path

from mer import validation
from mer.errors import MerError
from mer.params import Params, load
from mer.plan import SINGLE, Plan, derive
from mer.plan_file import PLAN, difference, made_from, stages_of, text_of
from mer.project import check_folders, check_git
from mer.storage.files import replace_file
from tools import _costs
from tools._errors import one_line


def derived(params: Params) -> tuple[Plan, str]:
    """The stages and the text of plan.yaml. Raises MerError for parameters that cannot work."""
    validation.check(params)
    stages, wiring = derive(params)
    validation.check_plan(stages)
    return stages, text_of(stages, made_from(params, wiring), wiring)


def write(made: tuple[Plan, str], path: Path = PLAN) -> list[str]:
    """Replace plan.yaml where it differs; what has changed, a line each."""
    stages, text = made
    try:
        before: Plan | None = stages_of(path)
    except MerError:
        before = None  # missing, edited or in conflict: made anew
    if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
        replace_file(path, text.encode())
    count = sum(len(keys) for keys in stages.values()) + len(SINGLE)
    if before is None:
        return [f"plan.yaml is new: {count} stages"]
    return difference(before, stages) or [f"plan.yaml is up to date: {count} stages"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="plan", description="Derive the stages from params.yaml.")
    parser.add_argument("--raw", action="store_true", help="also check that what the user brings is there")
    given = parser.parse_args(arguments)
    with one_line("plan"):
        params = load("params.yaml")
        made = derived(params)
        lines = write(made)
        if given.raw:
            validation.check_raw(params, made[0])
            check_folders(made[0])
            check_git()
        print("\n".join(lines))
        print("\n".join(_costs.lines(made[0], params)))
        print(f"params.yaml is valid: preset {params.preset}, {len(params.experiments)} experiments")


if __name__ == "__main__":
    main()
