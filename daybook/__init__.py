"""Daybook schedules the work of AI agents on Prefect and keeps the book of every due time.

A program that has Daybook inside uses the names below: `docs/programs.md`. Each is imported when it
is first named, so that `import daybook` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daybook.api.client import Client
    from daybook.api.context import context
    from daybook.api.listening import listening
    from daybook.api.recurring import Recurring
    from daybook.api.sync_client import SyncClient
    from daybook.registry import listener, tool
    from daybook.toolbox.agents_tools import Skill, schedule_tool, toolset

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Recurring",
    "Skill",
    "SyncClient",
    "context",
    "listener",
    "listening",
    "schedule_tool",
    "tool",
    "toolset",
]

_WHERE = {
    "Client": "daybook.api.client",
    "Recurring": "daybook.api.recurring",
    "Skill": "daybook.toolbox.agents_tools",
    "SyncClient": "daybook.api.sync_client",
    "context": "daybook.api.context",
    "listener": "daybook.registry",
    "listening": "daybook.api.listening",
    "schedule_tool": "daybook.toolbox.agents_tools",
    "tool": "daybook.registry",
    "toolset": "daybook.toolbox.agents_tools",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_WHERE[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
