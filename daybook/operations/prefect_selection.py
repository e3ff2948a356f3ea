"""Selection of the Prefect server for `daybook up`: the user's server, or a server of `up`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from daybook import home as homes
from daybook.errors import PrefectUnreachable
from daybook.home import Home
from daybook.operations import server
from daybook.operations.home_lock import UpRecord
from daybook.operations.host_names import LOOPBACK_NAMES
from daybook.prefect import client as connection
from daybook.prefect import private_names
from daybook.processes import image
from daybook.processes.children import Child

MAX_PORT_TRIES = 5
"""Maximum number of starts. Another process may take the port between our check and a start."""
UI_TIMEOUT_SECONDS = 5.0
SLOW_START_SECONDS = 60.0
"""Time after which a start is unusually slow, so that the user gets more details."""


@dataclass(frozen=True)
class SelectedPrefect:
    """The selected Prefect server. ``child`` is its process if `up` started it, otherwise None.

    ``ui_url`` is empty if the configured server has no known UI.
    """

    api_url: str
    ui_url: str
    child: Child | None = None


async def find_or_start(
    home: Home,
    record: UpRecord,
    say: Callable[[str], None],
    *,
    progress: Callable[[str], None] | None = None,
    forked_from: image.Image | None = None,
) -> SelectedPrefect:
    """Return the Prefect server in the user's settings. If there is none, start our own server.

    ``say`` gets lines for the user. ``progress`` (by default ``say``) gets a line each second while
    this function waits for our own server. It waits as long as the server's process lives, at most
    `Timing.max_start`. After this call, Prefect's clients in this process, and in processes that it
    starts, use our server.

    Raise `PrefectUnreachable` if our own server does not start. Raise it also if the configured
    server does not answer, because a second server would split the user's runs. Raise
    `PrefectRefused` if the configured server requires another credential. Raise `InvalidInput` if
    our own server needs settings of this home that are invalid.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url is not None:
        selected = SelectedPrefect(settings.api.url, settings.ui_url or "")
        async with connection.connected() as client:
            await connection.check_connection(client)
        say(f"Prefect: {selected.api_url}, as configured")
        pages = await pages_url(selected.ui_url)
        record.set_server(selected.api_url, selected.ui_url, own=False, pages_url=pages)
        return selected
    selected = await _start(home, record, say, progress=progress or say, forked_from=forked_from)
    os.environ["PREFECT_API_URL"] = selected.api_url
    os.environ[homes.CLIENT_CREDENTIAL] = home.credential()
    if "prefect" in sys.modules:
        private_names.reload_settings()
    return selected


async def _start(
    home: Home,
    record: UpRecord,
    say: Callable[[str], None],
    *,
    progress: Callable[[str], None],
    forked_from: image.Image | None,
) -> SelectedPrefect:
    for _ in range(MAX_PORT_TRIES):
        port = _port(home, say)
        say(f"Starting a Prefect server on {server.ui_url(port)}; the first start takes longer")
        child = await server.start(home, port, forked_from)
        selected = SelectedPrefect(server.api_url(port), server.ui_url(port), child)
        try:
            record.add_child(child)
            await server.wait_until_healthy(
                selected.api_url, child=child, progress=partial(_show_wait, child, progress)
            )
            pages = await pages_url(selected.ui_url)
            record.set_server(selected.api_url, selected.ui_url, own=True, pages_url=pages)
            _port_file(home).write_text(f"{port}\n")
        except BaseException as error:  # the error may also be Ctrl-C during the start
            port_taken = (
                isinstance(error, PrefectUnreachable) and child.exit_code == server.EXIT_PORT_TAKEN
            )
            await child.terminate()
            record.remove_child(child)
            if port_taken:
                continue
            raise
        say(f"Prefect: {selected.ui_url}, started by this command")
        return selected
    raise PrefectUnreachable(None, f"other processes took {MAX_PORT_TRIES} ports in a row")


def _show_wait(child: Child, show: Callable[[str], None], waited: float) -> None:
    line = f"Waiting for Prefect: {waited:.0f} s"
    if waited >= SLOW_START_SECONDS:
        line += f"; its process {child.pid} runs, but does not answer yet; its log is {child.log}"
    show(line)


async def pages_url(ui_url: str) -> str:
    """Return the address of the version of the UI that a browser reaches by a login at ``ui_url``.

    A server may have two versions, and redirects only its start page to the default version. Return
    ``ui_url`` if the server does not name the default version.
    """
    import httpx

    is_local = urlsplit(ui_url).hostname in LOOPBACK_NAMES
    try:
        async with httpx.AsyncClient(timeout=UI_TIMEOUT_SECONDS, trust_env=not is_local) as client:
            response = await client.get(f"{ui_url.rstrip('/')}/ui-settings")
        ui = response.raise_for_status().json()
        path = ui[f"{ui['default_ui']}_base_url"] or ""
        return urljoin(f"{ui_url}/", str(path)).rstrip("/")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return ui_url


def _port(home: Home, say: Callable[[str], None]) -> int:
    """Return the port of the last start, so that a user's bookmarks stay valid.

    At the first start, or if that port is not free, return `server.PORT`. If `server.PORT` is not
    free either, return any free port.
    """
    preferred = server.PORT
    with suppress(OSError, ValueError):
        last = int(_port_file(home).read_text())
        preferred = last if 0 < last < 2**16 else server.PORT
    if (port := server.free_port(preferred)) == preferred:
        return port
    port = port if preferred == server.PORT else server.free_port()
    say(f"Port {preferred} is taken; Prefect uses port {port}")
    return port


def _port_file(home: Home) -> Path:
    return home.path / "port"
