"""What a Python tool may know of its call. Imports nothing."""

from __future__ import annotations

from contextvars import ContextVar

OCCURRENCE: ContextVar[str] = ContextVar("daybook_occurrence", default="")


def occurrence() -> str:
    """What the call is known by, the same in every attempt; "" outside of one.

    Whoever passes it on as an idempotency key has the effect once, however often it is tried.
    """
    return OCCURRENCE.get()
