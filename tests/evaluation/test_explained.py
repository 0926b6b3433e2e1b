"""Every model that explains itself has a file that draws it."""

import inspect

import pytest

from mer import models
from mer.errors import MerError
from mer.evaluation.explained import drawer


@pytest.mark.parametrize("model", models.names())
def test_what_explains_can_be_drawn(model):
    if models.load(model).explain is None:
        with pytest.raises(
            MerError, match=rf"write mer/evaluation/explained/{model}\.py with a function draw, or remove"
        ):
            drawer(model)
        return
    assert list(inspect.signature(drawer(model).draw).parameters) == [
        "found", "predictions", "run_info", "folder", "title", "clip",
    ]  # fmt: skip


def test_a_name_that_is_no_model():
    with pytest.raises(MerError, match=r"model \.\./x: nothing draws"):
        drawer("../x")
