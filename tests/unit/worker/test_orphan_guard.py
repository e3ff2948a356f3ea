"""Guard of a run whose worker and parent have died."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from daybook.worker import orphan_guard


@pytest.mark.skipif(sys.platform != "linux", reason="other systems report no closed read end")
def test_the_guard_ends_a_run_whose_parent_died_before_the_watch_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = threading.Event()

    def popen(*_: Any, **__: Any) -> None:
        started.set()

    monkeypatch.setattr(subprocess, "Popen", popen)
    reader, status = os.pipe()
    os.close(reader)  # the worker has died
    orphan_guard.watch(status, parent_pid=os.getpid())  # not the pid of the present parent
    try:
        assert started.wait(30)
    finally:
        os.close(status)
