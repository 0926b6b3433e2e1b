"""Reading YAML that people write, and what a message shows of it."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import CollectionNode, Node

from mer.errors import MerError

# The longest params.yaml has 20,000. Aliases of aliases make any number from a few lines, and every reader walks them.
MOST_CHARACTERS = 1_000_000
MOST_BYTES = 2**20  # of a file: the parser takes up to 20 s for as many, and minutes for ten times that


def read_yaml(
    path: str | Path, *, missing: str = "run from the project's root", otherwise: str = "", comments: bool = False
) -> Any:
    """The content of a file.

    Args:
        missing: what to do where there is no such file.
        otherwise: what else to do about a file that cannot be read than to correct it.
        comments: keep them, in ruamel.yaml's own kinds of dicts and lists.

    Raises:
        MerError: no such file, more than MOST_BYTES, no UTF-8, or what `parsed_yaml` refuses.
    """
    instead = f", or {otherwise}" if otherwise else ""
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise MerError(f"{path}: has more than {MOST_BYTES:,} bytes; correct it{instead}")
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise MerError(f"{path}: is not UTF-8 text; save it as UTF-8{instead}") from None
    except FileNotFoundError:
        raise MerError(f"{path}: there is no such file here; {missing}") from None
    return parsed_yaml(text, path, otherwise=otherwise, comments=comments)


def parsed_yaml(
    text: str, path: str | Path, *, otherwise: str = "", comments: bool = False, most: int = MOST_CHARACTERS
) -> Any:
    """The content of a text, which messages call `path`.

    Args:
        otherwise, comments: as for `read_yaml`.
        most: characters, once the aliases are written out.

    Raises MerError for what is no YAML, and for more than `most`.
    """
    remedy = f"correct it, or {otherwise}" if otherwise else "correct it"
    yaml = YAML(typ="rt" if comments else "safe", pure=True)
    yaml.Constructor = type("Limited", (_Limited, yaml.Constructor), {"most": most})
    try:
        return yaml.load(text)
    except YAMLError as error:
        raise MerError(f"{path}: is not valid YAML: {error}; {remedy}") from None
    except RecursionError:
        raise MerError(f"{path}: is nested too deeply; {remedy}") from None
    # Tags and numbers that ruamel.yaml takes without checking, such as `!!bool x` or 5,000 digits.
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise MerError(f"{path}: has a value that cannot be read ({error}); correct it") from None


class _Limited:
    """A constructor that counts before it constructs: merge keys (<<) write aliases out."""

    most: int

    def construct_document(self, node: Node) -> Any:
        if _written_out(node, {}) > self.most:
            raise YAMLError(f"with its aliases (*name) written out it has more than {self.most:,} characters")
        return super().construct_document(node)  # type: ignore[misc]  # that of the class it stands before


def _written_out(node: Node, sizes: dict[int, int | None]) -> int:
    """How many characters the values below a node have, aliases counted as often as they stand.

    sizes: of the nodes that were counted; None of those that are being counted.
    """
    if not isinstance(node, CollectionNode):
        return len(node.value) + 1
    if id(node) not in sizes:
        sizes[id(node)] = None
        entries = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        sizes[id(node)] = 1 + sum(_written_out(entry, sizes) for entry in entries)
    size = sizes[id(node)]
    if size is None:
        raise YAMLError("an alias (*name) stands inside of what it names")
    return size
