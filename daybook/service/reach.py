"""Which Prefect a process that lives long talks to: the one that `daybook up` runs now.

A command asks once, before it imports Prefect (`daybook.home.enter`). An MCP server, or a program
with Daybook inside, may be begun before `daybook up`, and outlives several.
"""

from __future__ import annotations

import os
import sys

from daybook import home

_VARIABLE = "PREFECT_API_URL"


class _Here:
    ours: str | None = None
    """The address that was set here, and not by the user; `""` where none was known yet."""


def prefect() -> None:
    """Point Prefect at the right server, also where it is imported and another one runs now.

    What the user's own settings name stays.
    """
    imported = "prefect" in sys.modules
    if _Here.ours is None and not imported:
        if not home.configured_elsewhere():
            _Here.ours = home.enter() or ""
        return
    if imported and not _Here.ours and _names_one():
        return
    if os.environ.get(_VARIABLE, "") != (_Here.ours or ""):
        return
    address = (home.here().running() or {}).get("api_url")
    if not address or address == _Here.ours:
        return
    os.environ[_VARIABLE] = _Here.ours = str(address)
    if imported:
        from daybook.host import prefect_private

        prefect_private.reread_settings()


def _names_one() -> bool:
    """Whether the settings of a Prefect that was imported, by whomever, name a server."""
    from prefect.settings import get_current_settings

    return get_current_settings().api.url is not None
