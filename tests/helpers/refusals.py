"""What every refusal must be: a MerError of one line."""

import pytest

from mer.errors import MerError


def refused(message, function, *args, **kwargs) -> str:
    """Call `function`, which must raise a MerError that matches the regular expression `message`; returns its text."""
    with pytest.raises(MerError, match=message) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)
