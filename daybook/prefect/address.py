"""Which Prefect a process that lives long talks to: the one that `daybook up` runs now.

A command asks once, before it imports Prefect (`daybook.home.enter`). An MCP server, or a program
with Daybook inside, may be begun before `daybook up`, and outlives several.
"""

from __future__ import annotations

import os
import sys

from daybook import home
from daybook.errors import PrefectUnreachable

_VARIABLE = "PREFECT_API_URL"


class _Here:
    ours: str | None = None
    """The address that was set here, and not by the user; `""` where none was known yet."""


def prefect() -> None:
    """Point Prefect at the right server, also where it is imported and another one runs now.

    What the user's own settings name stays. The credential of this home's own server is set.
    """
    if _Here.ours is None and "prefect" not in sys.modules:
        theirs = home.configured_elsewhere()
        entered = home.enter()
        _Here.ours = None if theirs else entered or ""
        return
    before = _set()
    _follow()
    if "prefect" in sys.modules and _set() != before:
        from daybook.prefect import private_names

        private_names.reread_settings()


def _follow() -> None:
    if "prefect" in sys.modules and not _Here.ours and (named := _named()):
        home.use_credential(named)
        return
    if os.environ.get(_VARIABLE, "") != (_Here.ours or ""):
        return
    if address := (home.here().running() or {}).get("api_url"):
        os.environ[_VARIABLE] = _Here.ours = str(address)
        home.use_credential(_Here.ours)


def _set() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in (_VARIABLE, home.CLIENT_CREDENTIAL))


def _named() -> str | None:
    """The server that the settings of a Prefect name that was imported, by whomever."""
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def variables() -> dict[str, str]:
    """The variables with which another program reaches the Prefect that is used here.

    They hold its credential. To be called after `prefect`, or `daybook.home.enter`. Raises
    `PrefectUnreachable` if no Prefect is known.
    """
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    if api.url is None:
        raise PrefectUnreachable(None)
    found = {_VARIABLE: api.url}
    if api.auth_string is not None:
        found[home.CLIENT_CREDENTIAL] = api.auth_string.get_secret_value()
    elif api.key is not None:
        found["PREFECT_API_KEY"] = api.key.get_secret_value()
    return {**found, "DO_NOT_TRACK": "1"}
