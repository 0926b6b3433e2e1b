"""Lays conf/<preset>.yaml over conf/base.yaml, writes params.yaml, comments kept, and derives plan.yaml.

    python -m tools.preset uamrn casme2,samm

A preset is a paper or a table. It names the corpora that it is meant for; C chooses others of conf/corpora.yaml. A key
with {corpus} stands for one entry each.
"""

import contextlib
import io
import shutil
import sys
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from mer.errors import MerError, listed, suggestion
from mer.params import parse
from mer.storage.files import replace_file
from mer.storage.yaml_files import read_yaml
from tools import plan
from tools._errors import one_line

CONF = Path("conf")
NO_PRESETS = ("base", "corpora")


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 4096  # never rewrap: a diff of params.yaml shows what was changed and nothing else
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def presets() -> list[str]:
    return sorted(p.stem for p in CONF.glob("*.yaml") if p.stem not in NO_PRESETS)


def compose(name: str, corpora: str = "") -> str:
    """The text of params.yaml for a preset and corpora, separated by commas; "": those that the preset names.

    Raises MerError for an unknown preset or corpus, or one that does not validate.
    """
    known = _read("corpora")
    if name not in presets():
        if name in known:
            raise MerError(
                f"{name} is a corpus; name a paper or a table and the corpus: make preset P=baselines C={name}"
            )
        raise MerError(f"preset {name!r} is unknown; {suggestion(name, presets())} (make preset P=<name>)")
    base, overlay = _read("base"), _read(name)
    own = overlay.get("corpora")
    if isinstance(own, list):
        chosen = [c.strip() for c in corpora.split(",")] if corpora else list(own)
        for corpus in chosen:
            if corpus not in known:
                raise MerError(f"C: corpus {corpus!r} is unknown; {suggestion(corpus, known)}")
        if len(set(chosen)) != len(chosen):
            raise MerError(f"C: {listed(chosen)} names a corpus twice; name each once")
        parts = [part for corpus in chosen for part in known[corpus].get("parts", ())]
        overlay["corpora"] = {corpus: known[corpus] for corpus in known if corpus in {*chosen, *parts}}
        _expand(overlay, list(own), chosen)
    elif corpora:
        raise MerError(f"preset {name} has corpora of its own; leave C out")
    runs = base["pretrain"]["runs"]
    for key, run in ((overlay.get("pretrain") or {}).get("runs") or {}).items():
        if run.get("task", runs.get(key, {}).get("task")) != runs.get(key, {}).get("task"):
            runs.pop(key, None)  # another task has other fields: nothing of the entry stays
    _lay(base, overlay)
    text = io.StringIO()
    _yaml().dump(base, text)
    parse(YAML(typ="safe", pure=True).load(text.getvalue()), f"conf/{name}.yaml")
    return text.getvalue()


def _read(name: str):
    path = CONF / f"{name}.yaml"
    content = read_yaml(path, comments=True)
    if not isinstance(content, dict):
        raise MerError(f"{path}: is not a mapping of sections; see conf/demo.yaml")
    return content


def _expand(overlay, corpora: list[str], chosen: list[str]) -> None:
    """Entries of {corpus} for each chosen corpus in turn, which an entry of the corpus's own overrides.

    Beside such entries, one of a corpus that the preset names is left out with its corpus. So are the frames of corpora
    that a pretraining reads; without any it reads those of its pool.
    """
    named, corpora = corpora, chosen
    experiments = {}
    of_all = [key for key in overlay["experiments"] if "{corpus}" in key]
    for corpus in corpora:
        for key, entry in overlay["experiments"].items():
            if key in of_all:
                experiments[_named(key, corpus)] = {"corpus": corpus, **entry}
            elif entry["corpus"] in corpora or not of_all or entry["corpus"] not in named:
                experiments[key] = entry
    overlay["experiments"] = CommentedMap((key, _in_one_line(entry)) for key, entry in experiments.items())
    for section in ("curves", "heatmaps", "motion_maps"):
        if overlay.get(section):
            overlay[section] = CommentedMap(
                (_named(key, corpus), _in_one_line(_of_corpus(entry, corpus)))
                for key, entry in overlay[section].items()
                for corpus in (corpora if "{corpus}" in key else [""])
            )
    for run in ((overlay.get("pretrain") or {}).get("runs") or {}).values():
        if "corpora" in run:
            run["corpora"] = _in_one_line([corpus for corpus in run["corpora"] if corpus in corpora])
    drawn = (overlay.get("explain") or {}).get("drawn")
    if drawn:
        every = {_named(k, c): clip for c in corpora for k, clip in drawn.items() if "{corpus}" in k}
        own = {key: clip for key, clip in drawn.items() if key in every}
        overlay["explain"]["drawn"] = {**every, **own}


def _named(key: str, corpus: str) -> str:
    """Names of experiments have no underscore."""
    return key.replace("{corpus}", corpus.replace("_", "-"))


def _of_corpus(value, corpus: str):
    """The same with {corpus} filled in wherever an experiment is named."""
    if isinstance(value, dict):
        return {key: _of_corpus(inner, corpus) for key, inner in value.items()}
    if isinstance(value, list):
        return [_of_corpus(inner, corpus) for inner in value]
    return _named(value, corpus) if isinstance(value, str) and "{corpus}" in value else value


def _in_one_line(value):
    """A mapping or list that is dumped as `{…}` or `[…]`, all that it holds as well; comments do not fit there."""
    if isinstance(value, dict):
        value = CommentedMap((key, _in_one_line(inner)) for key, inner in value.items())
        value.fa.set_flow_style()
    elif isinstance(value, list):
        value = CommentedSeq(_in_one_line(inner) for inner in value)
        value.fa.set_flow_style()
    return value


def _lay(base, overlay) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict) and base[key]:
            _lay(base[key], value)
        else:
            base[key] = value


# What stages write that others read as whole folders, so nothing of another preset may lie there.
READ_WHOLE = {
    "data/predictions": "train", "metrics/details": "evaluate", "metrics/plots": "evaluate",
    "metrics/figures": "figures", "metrics/explained": "explain", "metrics/heatmaps": "heatmaps",
    "metrics/motion_maps": "motion_maps", "metrics/curves": "curve", "metrics/pretraining": "restore",
}  # fmt: skip


def clear_left(stages: plan.Plan, root: Path = Path()) -> None:
    """Remove the results of what the plan does not have: leakage, tables and report depend on whole folders.

    DVC's cache keeps them; going back to their preset brings them back without computing.
    """
    for folder, stage in READ_WHOLE.items():
        for left in (root / folder).glob("[!.]*"):
            if left.name.partition(".")[0] in stages[stage]:
                continue
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
        with contextlib.suppress(OSError):
            if folder != "data/predictions":
                (root / folder).rmdir()  # an empty one is no dependency


def main() -> None:
    name, corpora = [*sys.argv[1:], "", ""][:2]
    with one_line("preset"):
        text = compose(name, corpora)
        params = parse(YAML(typ="safe", pure=True).load(text))
        made = plan.derived(params)
        replace_file("params.yaml", text.encode())
        lines = plan.write(made)
        clear_left(made[0])
        print("\n".join([f"params.yaml is now preset {name}", *lines, "next: make repro (or dvc repro)"]))


if __name__ == "__main__":
    main()
