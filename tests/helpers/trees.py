"""Nested parameters, changed at one place."""

import copy


def change(raw: dict, path: str, value) -> dict:
    """A copy of the tree with another value at `path`, such as "flow/theta"."""
    raw = copy.deepcopy(raw)
    *parents, last = path.split("/")
    node = raw
    for part in parents:
        node = node[part]
    node[last] = value
    return raw


def without(raw: dict, path: str) -> dict:
    """A copy of the tree without the entry at `path`."""
    raw = copy.deepcopy(raw)
    *parents, last = path.split("/")
    node = raw
    for part in parents:
        node = node[part]
    del node[last]
    return raw
