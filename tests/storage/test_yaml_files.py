"""Reading YAML that people write: what is refused, and in one line; and how long a message becomes."""

import time

import pytest

from mer.errors import short
from mer.storage.yaml_files import MOST_CHARACTERS, read_yaml
from tests.helpers.refusals import refused
from tests.helpers.trees import BOMB

MERGED = "{b0: &b0 {k: 1}, " + ", ".join(f"b{n}: &b{n} {{<<: [{f'*b{n - 1}, ' * 10}]}}" for n in range(1, 9)) + "}"


@pytest.fixture
def written(tmp_path):
    def write(text: str):
        path = tmp_path / "x.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("comments", [False, True])
@pytest.mark.parametrize("bomb", [BOMB, MERGED], ids=["lists", "merge keys"])
def test_aliases_of_aliases_are_refused_before_they_are_written_out(written, comments, bomb):
    start = time.perf_counter()
    said = refused("with its aliases .* it has more than 1,000,000 characters; correct it$", read_yaml,
                   written(f"a: 1\nb: {bomb}\n"), comments=comments)  # fmt: skip
    assert time.perf_counter() - start < 5  # for ever, with gigabytes
    assert len(said) < 300


def test_an_alias_of_a_value_that_is_not_large_is_read(written):
    text = "a: &a {x: 1, y: [2, 3]}\nb: *a\nc: {<<: *a, y: 4}\n"
    a = {"x": 1, "y": [2, 3]}
    assert read_yaml(written(text)) == {"a": a, "b": a, "c": {"x": 1, "y": 4}}


def test_how_much_is_read(written):
    long = "x" * (MOST_CHARACTERS - 10)  # and the key, the mapping, an end of each
    assert read_yaml(written(f"a: {long}"))["a"] == long
    refused("more than 1,000,000 characters", read_yaml, written(f"a: {long}{'x' * 10}"))


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: {c: *a}}"])
def test_a_value_that_holds_itself_is_refused(written, text):
    refused("an alias .* stands inside of what it names", read_yaml, written(text))


@pytest.mark.parametrize("value", ["!!bool x", "!!int ''", "!!float .", "2001-99-99", "9" * 5000])
def test_what_the_parser_takes_without_checking_is_one_line(written, value):
    refused("x.yaml: has a value that cannot be read .*; correct it", read_yaml, written(f"a: {value}"))


def test_what_to_do_is_said_as_the_caller_has_it(tmp_path, written):
    refused("there is no such file here; look elsewhere", read_yaml, tmp_path / "y.yaml", missing="look elsewhere")
    refused("is not valid YAML: .*; correct it, or make it anew", read_yaml, written("a: ["), otherwise="make it anew")


def test_a_message_shows_the_beginning_of_a_large_value():
    value = [1]
    for _ in range(200):
        value = [value] * 200
    assert short(3) == "3"
    assert short("dlib") == "'dlib'"
    for large in (value, "x" * 10**6, {str(n): n for n in range(10**5)}, 10**4000):
        assert len(short(large)) <= 100


def test_a_long_file_is_refused_before_it_is_parsed(written):
    """The parser takes two minutes for it."""
    start = time.perf_counter()
    refused("x.yaml: has more than 1,048,576 bytes; correct it", read_yaml, written(f"a: [{'1,' * 5_000_000}]"))
    refused("has more than 1,048,576 bytes", read_yaml, written("#" * 2**20 + "\na: 1"))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [id]", "!!python/name:os.system", "!x y"])
@pytest.mark.parametrize("comments", [False, True])
def test_a_tag_makes_no_object(written, tag, comments):
    path = written(f"a: {tag}")
    if not comments:
        refused("could not determine a constructor for the tag", read_yaml, path)
        return
    # What has a tag of others is kept as it stands.
    assert type(read_yaml(path, comments=True)["a"]).__module__.startswith("ruamel.yaml.")
