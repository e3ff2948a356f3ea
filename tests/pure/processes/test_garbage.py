from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from daybook.cli import entry
from daybook.processes import garbage


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


async def test_a_process_that_has_started_collects_its_garbage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(garbage, "SETTLED_THRESHOLD", gc.get_threshold()[0])

    class Node:
        own: Any = None

    node = Node()
    node.own, gone = node, asyncio.Event()
    weakref.finalize(node, gone.set)
    monkeypatch.setattr(garbage, "SETTLE_SECONDS", 0.0)
    gc.disable()
    try:
        del node
        garbage.settle_soon()
        await gone.wait()
    finally:
        gc.enable()
