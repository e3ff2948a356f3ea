"""Which Prefect this machine's `daybook up` works with: the user's own, or one that it begins."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daybook import home as homes
from daybook.errors import PrefectUnreachable
from daybook.home import Home
from daybook.operations import server
from daybook.operations.home_lock import Record
from daybook.prefect import client as connection
from daybook.prefect import private_names
from daybook.processes.children import Child

PORTS_TRIED = 5
"""Others may take the port between our look and the server's start."""


@dataclass(frozen=True)
class PrefectHere:
    """``child`` is the server's process if it is our own, else None."""

    api_url: str
    ui_url: str
    child: Child | None = None


async def find_or_start(
    home: Home,
    record: Record,
    say: Callable[[str], None],
    within: float = 120.0,
    *,
    progress: Callable[[str], None] | None = None,
) -> PrefectHere:
    """The Prefect that the user's settings name, else a server of our own that answers.

    ``say`` gets a line for what a person should know, ``progress`` (by default ``say``) how long
    the server has been waited for, each second. Afterwards Prefect's clients in this
    process, and in processes that it begins, talk to that server. Raises `PrefectUnreachable` if
    the configured one does not answer: starting another would split the user's runs over two;
    `PrefectRefused` if it asks for another credential.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url is not None:
        here = PrefectHere(settings.api.url, settings.ui_url or "")
        await _answers()
        say(f"Prefect: {here.api_url}, as configured")
        record.server(here.api_url, here.ui_url, own=False)
        return here
    here = await _start(home, record, say, within, progress or say)
    _use(home, here)
    return here


async def _answers() -> None:
    """Ask as the user's settings say, with their authentication, certificates and proxies."""
    async with connection.connected() as client:
        await connection.answers(client)


async def _start(
    home: Home,
    record: Record,
    say: Callable[[str], None],
    within: float,
    progress: Callable[[str], None],
) -> PrefectHere:
    for _ in range(PORTS_TRIED):
        port = _port(home, say)
        say(f"Starting a Prefect server on {server.ui_url(port)}; the first time takes longer")
        child = await server.start(home, port)
        record.began(child)
        here = PrefectHere(server.api_url(port), server.ui_url(port), child)
        try:
            await server.healthy(
                here.api_url,
                within,
                child=child,
                progress=lambda waited: progress(f"Waiting for Prefect: {waited:.0f} s"),
            )
        except BaseException as error:  # Ctrl-C while it starts, as well
            taken = isinstance(error, PrefectUnreachable) and child.exit_code == server.TAKEN
            await child.terminate()
            record.ended(child)
            if taken:
                continue
            raise
        record.server(here.api_url, here.ui_url, own=True)
        _port_file(home).write_text(f"{port}\n")
        say(f"Prefect: {here.ui_url}, started here")
        return here
    raise PrefectUnreachable(None, f"{PORTS_TRIED} ports were taken by others one after the other")


def _port(home: Home, say: Callable[[str], None]) -> int:
    """The port of the last start, so that addresses which a person has noted stay right; else
    `server.PORT`, else any that is free.
    """
    wanted = server.PORT
    with suppress(OSError, ValueError):
        last = int(_port_file(home).read_text())
        wanted = last if 0 < last < 2**16 else server.PORT
    if (port := server.free_port(wanted)) == wanted:
        return port
    port = port if wanted == server.PORT else server.free_port()
    say(f"Port {wanted} is taken: Prefect gets port {port}")
    return port


def _port_file(home: Home) -> Path:
    return home.path / "port"


def _use(home: Home, here: PrefectHere) -> None:
    os.environ["PREFECT_API_URL"] = here.api_url
    os.environ[homes.CLIENT_CREDENTIAL] = home.credential()
    if "prefect" in sys.modules:
        private_names.reread_settings()
