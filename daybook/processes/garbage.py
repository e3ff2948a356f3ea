"""Garbage collection in Daybook's own processes."""

from __future__ import annotations

import gc

THRESHOLD = 50_000
"""Number of new objects after which Python collects cyclic garbage; its default is 700."""


def collect_rarely() -> None:
    """Collect garbage less often in this process; call it before the large imports.

    A start creates several hundred thousand objects and almost no garbage. With Python's default,
    examining them is a fifth of the CPU time of a command, and of a start of Prefect's server.
    """
    gc.set_threshold(THRESHOLD)
