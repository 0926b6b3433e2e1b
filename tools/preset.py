"""Lays conf/<preset>.yaml over conf/base.yaml, writes params.yaml, comments kept, and derives plan.yaml.

    python -m tools.preset uamrn casme2,samm

A preset is a paper or a table. It names the corpora that it is meant for; C chooses others of conf/corpora.yaml. A key
with {corpus} stands for one entry each.

A preset may be made of others, which it names under `presets`. Each of them is expanded over its own corpora, or over
C; then they are joined, and what the preset says itself is laid over that. Its entries of NAMED are patterns
(`*-linear`), and lie over those that are there.
"""

import contextlib
import io
import shutil
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

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
# Sections whose entries have names of their own; other values are settings, which hold for all experiments.
NAMED = (
    ("corpora",), ("experiments",), ("curves",), ("heatmaps",), ("motion_maps",), ("pretrain", "runs"),
    ("synthesize", "runs"), ("simulate", "runs"),
)  # fmt: skip


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
    base = _read("base")
    for layer in _layers(name, corpora, known, base):
        runs = base["pretrain"]["runs"]
        for key, run in ((layer.get("pretrain") or {}).get("runs") or {}).items():
            if run.get("task", runs.get(key, {}).get("task")) != runs.get(key, {}).get("task"):
                runs.pop(key, None)  # another task has other fields: nothing of the entry stays
        _lay(base, layer)
    text = io.StringIO()
    _yaml().dump(base, text)
    parse(YAML(typ="safe", pure=True).load(text.getvalue()), f"conf/{name}.yaml")
    return text.getvalue()


def _layers(name: str, corpora: str, known, base, above: tuple[str, ...] = ()) -> Iterator[Any]:
    """What is laid over the base, one after the other; each must be laid before the next is asked for.

    above: the presets that this one is a part of. Raises MerError for parts that cannot be, and as `_joined`.
    """
    overlay = _read(name)
    if "presets" not in overlay:
        yield _of_corpora(name, overlay, corpora, known)
        return
    parts = overlay.pop("presets")
    if not isinstance(parts, list) or not parts or len({str(part) for part in parts}) != len(parts):
        raise MerError(f"conf/{name}.yaml: presets is {parts!r}; needed is a list of presets, each once")
    for part in parts:
        if part not in presets() or part in (*above, name):
            others = [one for one in presets() if one not in (*above, name)]
            raise MerError(f"conf/{name}.yaml: presets: {part!r} is no other preset; {suggestion(part, others)}")
    if len(parts) == 1:
        yield from _layers(parts[0], corpora, known, base, (*above, name))
    else:
        for part in parts:
            if "presets" in _read(part):
                raise MerError(f"conf/{name}.yaml: presets: {part} is made of presets itself; name those, or it alone")
        yield _joined({part: _of_corpora(part, _read(part), corpora, known) for part in parts}, known, base)
    yield _by_patterns(overlay, base, f"conf/{name}.yaml", complete=not corpora)


def _of_corpora(name: str, overlay, corpora: str, known):
    """A preset with the corpora that were chosen, and the entries that it has for each. Raises MerError for others."""
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
    return overlay


def _joined(parts: dict[str, Any], known, base):
    """Several presets as one: preset -> what it says. Entries and settings that two of them have must be the same.

    Raises MerError for an entry that two presets define differently, and for a setting that one of them changes and
    another leaves as the base has it: it would hold for the experiments of both.
    """
    joined, said = CommentedMap(), {}
    for name, overlay in parts.items():
        for path, value in _values(overlay):
            if path == ("preset",):
                continue
            first, before = said.setdefault(path, (name, value))
            if before != value:
                raise MerError(
                    f"presets {first} and {name} define {'.'.join(path)} differently; give one of them another name"
                )
            _put(joined, path, value)
    for path, (first, value) in said.items():
        settings = not any(path[: len(section)] == section for section in NAMED)
        if settings and _get(base, path, value) != value:
            for name, overlay in parts.items():
                if _get(overlay, path, None) != value:
                    raise MerError(
                        f"preset {first} sets {'.'.join(path)}, which would hold for {name} too; say it in both, or in "
                        "an experiment"
                    )
    if "corpora" in joined:
        found = joined["corpora"]
        joined["corpora"] = CommentedMap((key, found[key]) for key in [*(k for k in known if k in found), *found])
    return joined


def _values(tree, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(place, value) of every setting and of every whole entry of NAMED."""
    for key, value in tree.items():
        here = (*path, str(key))
        if isinstance(value, dict) and value and path not in NAMED:
            yield from _values(value, here)
        else:
            yield here, value


def _put(tree, path: tuple[str, ...], value) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, CommentedMap())
    tree[path[-1]] = value


def _get(tree, path: tuple[str, ...], otherwise):
    for key in path:
        if not isinstance(tree, dict) or key not in tree:
            return otherwise
        tree = tree[key]
    return tree


def _by_patterns(overlay, base, where: str, *, complete: bool):
    """What a preset of presets says, its entries under the names that they stand for in `base`.

    Raises MerError for an entry that matches none; not so where C has left corpora out (complete: False).
    """
    for section in NAMED:
        entries, there = _get(overlay, section, None), _get(base, section, None) or {}
        if not isinstance(entries, dict):  # nothing, or what `parse` refuses
            continue
        found = CommentedMap()
        for pattern, entry in entries.items():
            names = [name for name in there if fnmatchcase(name, str(pattern))]
            if not names and complete:
                near = suggestion(pattern, there)
                raise MerError(f"{where}: {'.'.join(section)}: {pattern!r} matches none; {near}")
            for name in names:  # a copy each: one object in two places would be dumped as an anchor
                copy = _in_one_line(entry)
                if name in found:
                    _lay(found[name], copy)
                else:
                    found[name] = copy
        _put(overlay, section, found)
    return overlay


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
    "data/index": ("index", "compose", "import_flow", "simulate"),
    "data/predictions": ("train",), "metrics/details": ("evaluate",),
    "metrics/plots": ("evaluate",), "metrics/figures": ("figures",), "metrics/explained": ("explain",),
    "metrics/heatmaps": ("heatmaps",), "metrics/motion_maps": ("motion_maps",), "metrics/curves": ("curve",),
    "metrics/pretraining": ("restore",),
}  # fmt: skip


def clear_left(stages: plan.Plan, root: Path = Path()) -> None:
    """Remove the results of what the plan does not have: leakage, tables and report depend on whole folders.

    DVC's cache keeps them; going back to their preset brings them back without computing.
    """
    for folder, made_by in READ_WHOLE.items():
        keys = {key for stage in made_by for key in stages[stage]}
        for left in (root / folder).glob("[!.]*"):
            if left.name.partition(".")[0] in keys:
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
