"""The process with Daybook's pages, the health page and the metrics: its command, and its start.

The application is `daybook.web`. `up` starts the process but does not depend on it. If the
configured port is taken, the process gets another port. `up` shows this port, records it in
`up.json`, and prefers it at the next start in this home.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

from daybook import settings
from daybook.errors import DaybookError, InvalidInput
from daybook.home import Home
from daybook.operations import liveness, server, supervision
from daybook.operations.home_lock import UpRecord
from daybook.processes import children, image
from daybook.timing import TIMING

BACKLOG = 128


def url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_local(host: str) -> bool:
    """Return whether a listener on ``host`` is unreachable from other machines."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def local_address(host: str) -> str:
    """Return the address at which processes of this machine reach a listener on ``host``."""
    try:
        return server.HOST if ip_address(host).is_unspecified else host
    except ValueError:
        return host


_COMMAND = [*image.PYTHON_MODULE, "daybook.web", "--host"]


def command(host: str, port: int, names: Sequence[str] = ()) -> list[str]:
    arguments = [*_COMMAND, host, "--port", str(port)]
    return [*arguments, *(word for name in names for word in ("--name", name))]


def listen(host: str, port: int, setting: str = "") -> socket.socket:
    """Return a listening socket.

    Raise `InvalidInput` if ``host`` or ``port`` cannot be used. The error names the option, and for
    a port also the ``setting``.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        problem = f"{host}: {getattr(error, 'strerror', None) or error}"
        raise InvalidInput("host", problem) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        problem = f"cannot listen on {url(host, port)}: {error.strerror or error}"
        hint = "choose another port with --port" + (f" or {setting}" if setting else "")
        raise InvalidInput("port", problem, hint) from error
    return listener


async def start(
    home: Home, listener: socket.socket, forked_from: image.Image | None = None
) -> children.Child:
    """Start a child that serves ``listener``; its log is `logs/web.log`.

    The child inherits the socket. If the child got only the port number, another process could
    listen on that port first, and `up` would mistake the other process for its child.
    """
    home.make()
    descriptor, host = listener.fileno(), listener.getsockname()[0]
    return await children.start(
        "web",
        [*_COMMAND, host, "--descriptor", str(descriptor)],
        environment=server.child_environment(home),
        log=home.logs / "web.log",
        folder=home.path,
        descriptors=[descriptor],
        forked_from=forked_from,
    )


async def supervise(
    home: Home,
    configured: int,
    record: UpRecord,
    say: Callable[[str], None],
    forked_from: image.Image | None = None,
) -> NoReturn:
    """Keep the health page running until cancelled. After an error, report it and try again."""
    pause = 1.0
    while True:
        try:
            with _open_listener(home, configured) as listener:
                host, port = listener.getsockname()[:2]
                host = local_address(host)
                if port != configured:
                    say(f"Port {configured} is taken; the health page uses port {port}")
                _port_file(home).write_text(f"{configured} {port}\n")
                address = url(host, port)
                again = partial(start, home, listener, forked_from)
                child = await _start_answering(again, listener, record)
                say(f"Health: {address}/health, metrics: {address}/metrics")
                watch = supervision.Watch(
                    probe=liveness.http_probe(host, port, "/health"),
                    max_memory=settings.load().max_memory,
                )
                await supervision.supervise(child, again, record, say, watch=watch)
        except (DaybookError, OSError) as error:
            say(f"The health page did not start: {error}; retrying in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, supervision.MAX_RESTART_DELAY_SECONDS)


async def _start_answering(
    start: Callable[[], Awaitable[children.Child]], listener: socket.socket, record: UpRecord
) -> children.Child:
    child = await start()
    try:
        record.add_child(child)
        host, port = listener.getsockname()[:2]
        await _wait_for_answer(child, local_address(host), port)
        record.set_web_url(url(local_address(host), port))
    except BaseException:  # `BaseException` includes Ctrl-C during the start
        await child.terminate()
        record.remove_child(child)
        raise
    return child


async def _wait_for_answer(child: children.Child, host: str, port: int) -> None:
    """Wait for any response of ``child``.

    Raise `DaybookError` if the child ends, or if it does not respond within `Timing.max_start`.
    """
    answer, ended = asyncio.create_task(_answer(host, port)), asyncio.create_task(child.wait())
    try:
        await asyncio.wait(
            {answer, ended},
            timeout=TIMING.max_start.total_seconds(),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if answer.done() and answer.exception() is None and answer.result():
            return
    finally:
        answer.cancel()
        ended.cancel()
    raise DaybookError(f"it does not answer on port {port}\n{child.tail(5)}".rstrip())


async def _answer(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET / HTTP/1.0\r\nHost: {server.HOST}:{port}\r\n\r\n".encode())
        return await reader.read(1)
    finally:
        writer.close()


def _open_listener(home: Home, configured: int) -> socket.socket:
    """Return a listening socket, preferably on the same port as last time.

    Use the last port if ``configured`` is unchanged and the port is free. Otherwise use
    ``configured`` if that port is free. If neither is free, use any free port.
    """
    preferred = configured
    with suppress(OSError, ValueError):
        configured_before, port = map(int, _port_file(home).read_text().split())
        if configured_before == configured and server.free_port(port) == port:
            preferred = port
    host = settings.load().web_host
    with suppress(InvalidInput):
        return listen(host, server.free_port(preferred))
    return listen(host, 0)  # another process has just taken the port


def _port_file(home: Home) -> Path:
    return home.path / "web-port"
