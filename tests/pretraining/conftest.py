import pytest

from mer.pretraining import loop


@pytest.fixture
def one_thread_of_the_loop(monkeypatch):
    monkeypatch.setattr(loop, "THREADS", 1)  # a second would wait for a core that other tests use
