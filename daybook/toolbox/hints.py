"""Hints in a tool's answer that name another tool, only if the caller has that tool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_OFFERED: ContextVar[Mapping[str, str] | None] = ContextVar("daybook_offered_tools", default=None)


@contextmanager
def offering(tools: Mapping[str, str]) -> Iterator[None]:
    """Limit hints inside to these tools; the values are how the caller calls each."""
    token = _OFFERED.set(tools)
    try:
        yield
    finally:
        _OFFERED.reset(token)


def hint(tool: str, text: str) -> str:
    """Return ``text`` with `{}` replaced by how ``tool`` is called; empty if it is not offered.

    Outside of `offering` every tool is offered, under its own name.
    """
    offered = _OFFERED.get()
    name = tool if offered is None else offered.get(tool)
    return "" if name is None else text.replace("{}", name)
