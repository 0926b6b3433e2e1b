"""The one exception a user is meant to read."""

import difflib


class MerError(Exception):
    """Bad input. The message is one line: what is wrong, with which file, clip or parameter, and what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def listed(names, most: int = 5) -> str:
    """`a, b, c and 4 more` - for messages about many clips or files."""
    names = [str(n) for n in names]
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def suggestion(name: str, valid) -> str:
    """`; did you mean 'x'?` for a misspelt name, otherwise the valid names."""
    valid = [str(v) for v in valid]
    near = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"valid names: {', '.join(sorted(valid))}" if valid else "nothing may stand here"
