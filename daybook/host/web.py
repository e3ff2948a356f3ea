"""The health page and metrics of this machine, as `daybook up` and `daybook web` run them.

Its own work is `daybook.web`'s. `up` does not depend on it: where its port is taken it gets
another, which is said, stands in `up.json`, and is taken again at the next start of this home.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

from daybook.errors import DaybookError, Refused
from daybook.home import Home
from daybook.host import children, server, supervision
from daybook.host.record import Record

WITHIN = 30.0
"""Seconds after which one that does not listen is no longer waited for."""
LOOK_AGAIN = 0.1
BACKLOG = 128


def url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_local(host: str) -> bool:
    """Whether nobody on another machine reaches what listens there."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def command(host: str, port: int, names: Sequence[str] = ()) -> list[str]:
    # -P: not what is named daybook in the folder where it is begun, such as another checkout.
    words = [sys.executable, "-P", "-m", "daybook.web", "--host", host, "--port", str(port)]
    return [*words, *(word for name in names for word in ("--name", name))]


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises `Refused` where that is not to be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise Refused("host", f"{host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        why = f"cannot listen on {url(host, port)}: {error.strerror or error}"
        raise Refused("port", why, "another: --port, or DAYBOOK_WEB_PORT") from error
    return listener


async def start(home: Home, port: int) -> children.Child:
    """Begin it as a child; its log is `logs/web.log`."""
    home.make()
    return await children.start(
        "web",
        command(server.HOST, port),
        environment={
            **os.environ,
            "DAYBOOK_HOME": str(home.path),
            "PYTHONUNBUFFERED": "1",
            **server.absolute_python_path(),
        },
        log=home.logs / "web.log",
        folder=home.path,
    )


async def keep(home: Home, wanted: int, record: Record, say: Callable[[str], None]) -> NoReturn:
    """Have it run, and run again, until cancelled; what hinders it is said and stops nothing."""
    pause = 1.0
    while True:
        try:
            child, port = await _begin(home, wanted, record, say)
        except (DaybookError, OSError) as error:
            say(f"The health page did not start: {error}; it is tried again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, supervision.LONGEST)
            continue
        address = url(server.HOST, port)
        say(f"Health: {address}/health, metrics: {address}/metrics")
        await supervision.keep(child, partial(start, home, port), record, say)


async def _begin(
    home: Home, wanted: int, record: Record, say: Callable[[str], None]
) -> tuple[children.Child, int]:
    port = _port(home, wanted)
    if port != wanted:
        say(f"Port {wanted} is taken: the health page gets port {port}")
    child = await start(home, port)
    try:
        record.began(child)
        await _listens(child, port)
        _port_file(home).write_text(f"{wanted} {port}\n")
        record.web(url(server.HOST, port))
    except BaseException:  # Ctrl-C while it starts, as well
        await child.terminate()
        record.ended(child)
        raise
    return child, port


async def _listens(child: children.Child, port: int) -> None:
    end = time.monotonic() + WITHIN
    while time.monotonic() < end and child.exit_code is None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(server.HOST, port)
            writer.close()
            if child.exit_code is None:  # else somebody else listens there
                return
        await asyncio.sleep(LOOK_AGAIN)
    raise DaybookError(f"it does not listen on port {port}\n{child.tail(5)}".rstrip())


def _port(home: Home, wanted: int) -> int:
    """The port of the last start, if the same one was wanted then; else that, or any free one."""
    with suppress(OSError, ValueError):
        before, got = map(int, _port_file(home).read_text().split())
        if before == wanted and server.free_port(got) == got:
            return got
    return server.free_port(wanted)


def _port_file(home: Home) -> Path:
    return home.path / "web-port"
