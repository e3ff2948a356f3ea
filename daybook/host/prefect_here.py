"""Which Prefect this machine's `daybook up` works with: the user's own, or one that it begins."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daybook.errors import PrefectUnreachable
from daybook.home import Home
from daybook.host import prefect_private, server
from daybook.host.children import Child
from daybook.host.record import Record

PORTS_TRIED = 5
"""Others may take the port between our look and the server's start."""


@dataclass(frozen=True)
class PrefectHere:
    """``child`` is the server's process if it is our own, else None."""

    api_url: str
    ui_url: str
    child: Child | None = None


async def find_or_start(
    home: Home, record: Record, say: Callable[[str], None], within: float = 120.0
) -> PrefectHere:
    """The Prefect that the user's settings name, else a server of our own that answers.

    ``say`` gets a line for what a person should know. Afterwards Prefect's clients in this
    process, and in processes that it begins, talk to that server. Raises `PrefectUnreachable` if
    the configured one does not answer: starting another would split the user's runs over two.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url is not None:
        here = PrefectHere(settings.api.url, settings.ui_url or "")
        await _answers(here.api_url)
        say(f"Prefect: {here.api_url}, as configured")
        record.server(here.api_url, here.ui_url, own=False)
        return here
    here = await _start(home, record, say, within)
    _use(here)
    return here


async def _answers(api_url: str) -> None:
    """Ask as the user's settings say, with their authentication, certificates and proxies."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        if (error := await client.api_healthcheck()) is not None:
            raise PrefectUnreachable(api_url, str(error) or type(error).__name__)


async def _start(
    home: Home, record: Record, say: Callable[[str], None], within: float
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
                progress=lambda waited: say(f"Waiting for Prefect: {waited:.0f} s"),
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


def _use(here: PrefectHere) -> None:
    os.environ["PREFECT_API_URL"] = here.api_url
    if auth := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        os.environ.setdefault("PREFECT_API_AUTH_STRING", auth)
    if "prefect" in sys.modules:
        prefect_private.reread_settings()
