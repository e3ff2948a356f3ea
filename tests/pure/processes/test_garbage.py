from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from daybook.cli import entry


@pytest.fixture
def default_threshold() -> Iterator[int]:
    """Set Python's default for a test, and yield it."""
    earlier = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield 700
    gc.set_threshold(*earlier)


def test_a_command_collects_garbage_less_often_than_python_by_default(
    default_threshold: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["daybook", "--version"])
    assert entry.main() == 0
    assert capsys.readouterr().out
    assert gc.isenabled() and gc.get_threshold()[0] > 10 * default_threshold
