from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from typing import Any

import pytest

from daybook.processes import garbage

_SHOW_VERSION = """
import atexit, gc, sys
from daybook.cli import entry
atexit.register(lambda: print(gc.isenabled(), gc.get_threshold()[0]))
sys.argv = ["daybook", "--version"]
sys.exit(entry.main())
"""


def test_a_command_collects_garbage_less_often_than_python_by_default() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", _SHOW_VERSION], capture_output=True, text=True, check=True
    )
    version, enabled, threshold = shown.stdout.split()
    assert version and enabled == "True"
    assert int(threshold) > 10 * 700  # Python's default


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
