"""The context of a Python tool's call. Imports nothing."""

from __future__ import annotations

from contextvars import ContextVar

OCCURRENCE: ContextVar[str] = ContextVar("daybook_occurrence", default="")


def occurrence() -> str:
    """Return the idempotency key of the call, the same in every attempt; "" outside of a call.

    A tool that passes it on as an idempotency key has its effect once, however often it is tried.
    """
    return OCCURRENCE.get()
