"""What a message is: one line that is safe to show, however hostile what it quotes."""

import errno
import pickle

import pytest

from mer.errors import LONGEST, MerError, explained, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\n c\t d", "a b c d"),
        ("\x1b[2Ja\x07\x00", "\\x1b[2Ja\\x07\\x00"),
        ("\x9b31mred", "\\x9b31mred"),  # the same as ESC [ where a terminal has eight bits
        ("gpj.\u202eexe", "gpj.\\u202eexe"),  # turns what follows
        ("a\u200bb\ud800", "a\\u200bb\\ud800"),
        ("M\u00fcller \u8868\u60c5", "M\u00fcller \u8868\u60c5"),
    ],
)
def test_nothing_steers_a_terminal(text, shown):
    assert one_line(text) == shown == str(MerError(text))
    assert one_line(shown) == shown  # also when an error has come from a worker
    assert str(pickle.loads(pickle.dumps(MerError(text)))) == shown


def test_a_name_of_millions_of_characters_leaves_the_remedy():
    said = str(MerError(f"a.safetensors: {'x' * 5_000_000} is too many; bring it again"))
    assert len(said) < LONGEST + 10
    assert said.startswith("a.safetensors: xxx")
    assert said.endswith("xxx is too many; bring it again")


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no", "a\x1b[2J\nb"), MemoryError("\x1b[2J")])
def test_errors_of_the_system_are_shown_alike(error):
    said = explained(error)
    assert said.isprintable()
    assert "\\x1b[2J" in said
