"""The Prefect server that a long-lived process uses, and the address of its UI.

The server is the user's own server, or the server of `daybook up`. A command selects its server
once, before it imports Prefect (`daybook.home.configure_prefect`). An MCP server, or a program that
embeds Daybook, may start before `daybook up` and outlive the server of `daybook up`.
"""

from __future__ import annotations

import os
import sys

from daybook import home
from daybook.errors import PrefectUnreachable
from daybook.prefect import private_names

_VARIABLE = "PREFECT_API_URL"


class _Selected:
    ours: str | None = None
    """The address that this module set; `""` if none was known yet.

    None before the first selection, or if the user or another module selected the server.
    """


def use_current_server() -> None:
    """Point Prefect at the current server, even if Prefect was imported before the server started.

    If the user's own settings name a server, Prefect continues to use that server. Also set the
    credential of this home's own server.
    """
    if _Selected.ours is None and "prefect" not in sys.modules:
        by_user = home.is_configured_by_user()
        address = home.configure_prefect()
        _Selected.ours = None if by_user else address or ""
        return
    before = _current_variables()
    _follow_running_server()
    if "prefect" in sys.modules and _current_variables() != before:
        private_names.reload_settings()


def _follow_running_server() -> None:
    if "prefect" in sys.modules and not _Selected.ours:
        from prefect.settings import get_current_settings

        if imported := get_current_settings().api.url:  # another module may have imported Prefect
            home.use_credential(imported)
            return
    if os.environ.get(_VARIABLE, "") != (_Selected.ours or ""):
        return
    if address := (home.current_home().running() or {}).get("api_url"):
        os.environ[_VARIABLE] = _Selected.ours = str(address)
        home.use_credential(_Selected.ours)


def _current_variables() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in (_VARIABLE, home.CLIENT_CREDENTIAL))


def ui_address() -> str | None:
    """Return the address of the pages of Prefect's UI, or None if it is not known."""
    from prefect.settings import get_current_settings

    running = home.current_home().running() or {}
    address = running.get("pages_url") or running.get("ui_url") or get_current_settings().ui_url
    return str(address).rstrip("/") if address else None


def client_environment() -> dict[str, str]:
    """Return the environment variables with which another program connects to this server.

    Include the credential, if there is one. Call `use_current_server` or
    `daybook.home.configure_prefect` first. Raise `PrefectUnreachable` if no server is known.
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
