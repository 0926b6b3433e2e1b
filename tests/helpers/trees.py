"""Nested parameters, changed at one place."""

import copy

# A few lines of YAML that stand for 10**9 values ("billion laughs"), as one value of another mapping.
BOMB = "[&b0 [" + "1, " * 10 + "], " + ", ".join(f"&b{n} [" + f"*b{n - 1}, " * 10 + "]" for n in range(1, 9)) + "]"


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
