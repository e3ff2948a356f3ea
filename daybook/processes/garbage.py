"""Garbage collection and unused memory of Daybook's own processes."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

THRESHOLD = 50_000
"""Number of new objects after which Python collects cyclic garbage; its default is 700."""
SETTLED_THRESHOLD = 2_000
"""The threshold after the start: most new objects soon are garbage, and 50,000 use several MB."""
SETTLE_SECONDS = 20.0
"""Time after which a process has finished its start, and the memory that the start used is free."""
_M_ARENA_MAX = -8


def collect_rarely() -> None:
    """Collect garbage less often in this process; call it before the large imports.

    A start creates several hundred thousand objects and almost no garbage. To examine them at
    Python's default threshold takes a fifth of the CPU time of a command, and of a start of
    Prefect's server.
    """
    gc.set_threshold(THRESHOLD)


def use_one_arena() -> None:
    """Let all threads of this process and of its forks allocate from one arena (glibc on Linux).

    Otherwise each thread's own arena keeps the memory that the thread has freed.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def settle() -> None:
    """Collect the garbage of this process, and return its free memory to the system (glibc).

    After the call, Python collects garbage more often again.
    """
    gc.set_threshold(SETTLED_THRESHOLD)
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def settle_soon() -> None:
    """Call `settle` once, after `SETTLE_SECONDS`; this process must have an event loop."""
    import asyncio  # each command imports this module, and few of them need asyncio

    asyncio.get_running_loop().call_later(SETTLE_SECONDS, settle)
