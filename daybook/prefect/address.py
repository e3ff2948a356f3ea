"""The Prefect server that a long-lived process uses: the one that `daybook up` runs now.

A command selects its server once, before it imports Prefect (`daybook.home.configure_prefect`). An
MCP server, or a program that embeds Daybook, may start before `daybook up` and outlive several.
"""

from __future__ import annotations

import os
import sys

from daybook import home
from daybook.errors import PrefectUnreachable

_VARIABLE = "PREFECT_API_URL"


class _Selected:
    ours: str | None = None
    """The address that this module set; `""` if none was known yet, None if the user set it."""


def use_current_server() -> None:
    """Point Prefect at the right server, even if it is imported already and another one runs now.

    A server that the user's own settings name stays. The credential of this home's own server is
    set.
    """
    if _Selected.ours is None and "prefect" not in sys.modules:
        by_user = home.is_configured_by_user()
        address = home.configure_prefect()
        _Selected.ours = None if by_user else address or ""
        return
    before = _current_variables()
    _follow_running_server()
    if "prefect" in sys.modules and _current_variables() != before:
        from daybook.prefect import private_names

        private_names.reload_settings()


def _follow_running_server() -> None:
    if "prefect" in sys.modules and not _Selected.ours:
        from prefect.settings import get_current_settings

        if imported := get_current_settings().api.url:  # any module may have imported Prefect
            home.use_credential(imported)
            return
    if os.environ.get(_VARIABLE, "") != (_Selected.ours or ""):
        return
    if address := (home.current_home().running() or {}).get("api_url"):
        os.environ[_VARIABLE] = _Selected.ours = str(address)
        home.use_credential(_Selected.ours)


def _current_variables() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in (_VARIABLE, home.CLIENT_CREDENTIAL))


def client_environment() -> dict[str, str]:
    """Return the environment variables with which another program reaches the Prefect in use here.

    They contain its credential. Call `use_current_server` or `daybook.home.configure_prefect`
    first. Raises `PrefectUnreachable` if no Prefect is known.
    """
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    if api.url is None:
        raise PrefectUnreachable(None)
    environment = {_VARIABLE: api.url}
    if api.auth_string is not None:
        environment[home.CLIENT_CREDENTIAL] = api.auth_string.get_secret_value()
    elif api.key is not None:
        environment["PREFECT_API_KEY"] = api.key.get_secret_value()
    return {**environment, "DO_NOT_TRACK": "1"}
