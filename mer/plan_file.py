"""plan.yaml: the stages that mer.plan derives from params.yaml, for dvc.yaml to read.

It stands in git and is never edited. It remembers, as short digests, each entry of params.yaml that it was made from:
`check` compares them before a stage works, in milliseconds and without importing a model.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mer.errors import MerError, listed
from mer.params import Params
from mer.plan import Plan
from mer.storage.yaml_files import parsed_yaml

PLAN = Path("plan.yaml")
VERSION = 1
REMEDY = "run make plan"
MOST_CHARACTERS = 10_000_000  # with its aliases written out: a hundred times those of the largest preset


def made_from(params: Params, wiring: dict[str, list[str]]) -> dict[str, str]:
    """What the stages follow from: dotted name in params.yaml -> digest of what counts of it.

    wiring: by model the knobs that decide what it reads. Others may change without a new plan.
    """
    parts: dict[str, Any] = {f"corpora.{name}": corpus.model_dump() for name, corpus in params.corpora.items()}
    for name, item in params.experiments.items():
        knobs = params.knobs_of(item)
        parts[f"experiments.{name}"] = [
            item.corpus, item.model, item.labels, item.classes, item.model in params.knobs,
            {knob: knobs.get(knob) for knob in wiring.get(item.model, ())},
        ]  # fmt: skip
    sources = ("task", "network", "user_weights", "bundled", "reader", "raw", "watch", "pool", "source")
    for name, run in params.pretrain.runs.items():
        parts[f"pretrain.runs.{name}"] = {field: getattr(run, field, None) for field in sources}
    parts["synthesize.runs"] = list(params.synthesize.runs)
    if params.simulate.runs:
        parts["simulate.runs"] = list(params.simulate.runs)
    without = [name for name, run in params.synthesize.runs.items() if not run.pool_subjects]
    if without:
        parts["synthesize.runs without a pool"] = without
    parts["magnify_eulerian.recipes"] = list(params.magnify_eulerian.recipes)
    for name, curve in params.curves.items():
        values = {member: params.knobs_of(params.experiments[member]) for member in params.members_of(curve)}
        parts[f"curves.{name}"] = [curve.model_dump(), {m: knobs.get(curve.knob) for m, knobs in values.items()}]
    for name, entry in params.heatmaps.items():
        parts[f"heatmaps.{name}"] = entry.model_dump()
    for name, maps in params.motion_maps.items():
        parts[f"motion_maps.{name}"] = maps.model_dump()
    parts["explain.drawn"] = params.explain.drawn
    if params.fit.experiments:
        parts["fit.experiments"] = params.fit.experiments
    if params.figures.macro is not None:
        parts["figures.macro"] = params.figures.macro
    return {name: _digest(part)[:12] for name, part in parts.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def text_of(plan: Plan, sources: dict[str, str], wiring: dict[str, list[str]]) -> str:
    """The text of plan.yaml."""
    yaml = YAML()
    yaml.width, yaml.default_flow_style = 4096, None
    out = io.StringIO()
    yaml.dump({"plan": plan}, out)
    body = out.getvalue()
    sha256 = hashlib.sha256(body.encode()).hexdigest()
    head = {"version": VERSION, "wiring": wiring, "made_from": sources, "sha256": sha256}
    return (
        "# The stages that follow from params.yaml, made by `make plan`. Never edit this file: edit params.yaml.\n"
        f"# {json.dumps(head, sort_keys=True)}\n{body}"
    )


def read(path: Path = PLAN) -> tuple[dict, str]:
    """The head of a plan file and its body. Raises MerError for a file that `make plan` has not written like that."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MerError(f"{path}: is missing; {REMEDY}") from None
    except (UnicodeDecodeError, OSError) as error:
        raise MerError(f"{path}: cannot be read ({error}); {REMEDY}") from None
    lines = text.split("\n", 2)
    if any(line.startswith(("<<<<<<<", ">>>>>>>", "=======")) for line in text.splitlines()):
        raise MerError(f"{path}: holds a merge conflict; merge params.yaml, then {REMEDY}")
    try:
        head, body = json.loads(lines[1].removeprefix("# ")), lines[2]
        version, sha256 = head["version"], head["sha256"]
    except (IndexError, ValueError, KeyError, TypeError, RecursionError):
        raise MerError(f"{path}: was not made by make plan; {REMEDY}") from None
    if version != VERSION:
        raise MerError(f"{path}: has version {version}, this code makes {VERSION}; {REMEDY}")
    if hashlib.sha256(body.encode()).hexdigest() != sha256:
        raise MerError(f"{path}: was edited; change params.yaml instead, then {REMEDY}")
    return head, body


def stages_of(path: Path = PLAN) -> Plan:
    """The stages in a plan file. Raises MerError as `read`, and for a body of another form."""
    _, body = read(path)
    content = parsed_yaml(body, path, otherwise=REMEDY, most=MOST_CHARACTERS)
    plan = content.get("plan") if isinstance(content, dict) else None
    if not isinstance(plan, dict) or not all(isinstance(entries, dict) for entries in plan.values()):
        raise MerError(f"{path}: holds no stages; {REMEDY}")
    return plan


def check(params: Params, path: Path = PLAN) -> None:
    """Raise MerError unless plan.yaml is whole and was made from these parameters."""
    head, _ = read(path)
    found, now = head["made_from"], made_from(params, head["wiring"])
    for name in [*now, *found]:
        if now.get(name) != found.get(name):
            what = "is not in it" if name not in found else "is gone" if name not in now else "differs"
            raise MerError(
                f"{path} is older than params.yaml: {name} {what}; {REMEDY} (a change of -S that adds or removes "
                "stages goes into params.yaml first)"
            )


def difference(before: Plan, after: Plan) -> list[str]:
    """What a new plan adds, removes and changes, a line each; [] for equal plans."""
    old, new = (
        {f"{stage}@{key}": entry for stage, keys in plan.items() for key, entry in keys.items()}
        for plan in (before, after)
    )
    lines = []
    for what, some in (
        ("more", [n for n in new if n not in old]),
        ("less", [n for n in old if n not in new]),
        ("changed", [n for n in new if n in old and new[n] != old[n]]),
    ):
        if some:
            lines.append(f"{len(some)} stage{'s' * (len(some) > 1)} {what}: {listed(some, 12)}")
    return lines
