"""The Prefect server of `up`: its port, its environment, and the guard against foreign pages."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import prefect
import pytest

from daybook.errors import PrefectUnreachable
from daybook.home import Home
from daybook.operations import server
from daybook.operations.host_names import Receive, SameOriginGuard, Scope, Send
from daybook.processes.children import Child
from tests.servers import free_port

pytestmark = pytest.mark.anyio


def listener(port: int = 0, host: str = "127.0.0.1") -> socket.socket:
    taken = socket.create_server((host, port))
    return taken


def test_free_port_returns_the_preferred_port_if_it_is_free() -> None:
    port = free_port()
    with listener(port):
        pass
    assert server.free_port(port) == port


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_free_port_returns_another_port_if_the_preferred_one_is_taken(host: str) -> None:
    with listener(host=host) as taken:
        port = taken.getsockname()[1]
        assert server.free_port(port) != port


def test_the_server_exits_with_a_message_if_its_port_is_taken(daybook_home: Home) -> None:
    with listener() as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "daybook.operations.server", "--port", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == server.EXIT_PORT_TAKEN
    assert f"port {port}" in ended.stderr


async def test_connections_of_the_server_have_tcp_nodelay() -> None:
    accepted = asyncio.get_running_loop().create_future()
    listening = server.listen(free_port())
    serving = await asyncio.start_server(
        lambda _, writer: accepted.set_result(writer), sock=listening
    )
    async with serving:
        _, calling = await asyncio.open_connection(*listening.getsockname())
        writer = await accepted
        delay_off = writer.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY
        )
        for each in (writer, calling):
            each.close()
            await each.wait_closed()
    assert delay_off


def test_the_environment_of_the_prefect_server_is_set_from_the_home(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_PROFILE", "work")
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "true")
    monkeypatch.setenv("PREFECT_UI_API_URL", "http://elsewhere/api")
    monkeypatch.setenv("PREFECT_SERVER_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "user:word")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "user:other")
    monkeypatch.delenv("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"here{os.pathsep}/there")
    given = server.environment(daybook_home, 4217)
    assert given["PREFECT_HOME"] == str(daybook_home.prefect)
    assert given["PREFECT_API_URL"] == "http://127.0.0.1:4217/api"
    assert given["PREFECT_UI_API_URL"] == given["PREFECT_SERVER_UI_API_URL"]
    assert given["PREFECT_UI_API_URL"] == "http://127.0.0.1:4217/api"
    assert given["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert given["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] == (
        "http://127.0.0.1:4217,http://localhost:4217"
    )
    assert not [name for name in given if name.endswith("AUTH_STRING")]  # read from the home
    assert given["DAYBOOK_HOME"] == str(daybook_home.path)
    assert given["PREFECT_SERVER_LOGGING_LEVEL"] == "DEBUG"  # set by the operator
    assert "PREFECT_PROFILE" not in given
    assert given["PYTHONPATH"] == f"{Path('here').absolute()}{os.pathsep}/there"


@pytest.mark.parametrize(
    ("days", "enabled", "seconds"),
    [
        ("", "events,flow_runs,orphans", 7_776_000),
        ("30", "events,flow_runs,orphans", 2_592_000),
        ("0", "events,orphans", 0),
    ],
)
def test_prefect_keeps_flow_runs_as_long_as_the_ledger_keeps_runs(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, days: str, enabled: str, seconds: int
) -> None:
    vacuum = "PREFECT_SERVER_SERVICES_DB_VACUUM"
    for name in (f"{vacuum}_ENABLED", f"{vacuum}_RETENTION_PERIOD"):
        monkeypatch.delenv(name, raising=False)
    if days:
        monkeypatch.setenv("DAYBOOK_KEEP_DAYS", days)

    given = server.environment(daybook_home, 4217)

    assert given[f"{vacuum}_ENABLED"] == enabled
    assert given["PREFECT_SERVER_EVENTS_RETENTION_PERIOD"] == "P2D"
    assert int(given.get(f"{vacuum}_RETENTION_PERIOD", 0)) == seconds


@pytest.mark.parametrize("may_write", [True, False])
def test_the_ui_is_in_the_home_if_prefects_own_folder_cannot_be_written(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, may_write: bool
) -> None:
    folder, access = Path(prefect.__file__).parent / "server", os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: may_write if path == folder else access(path, mode)
    )

    given = server.environment(daybook_home, 4217)

    expected = None if may_write else str(daybook_home.prefect / "ui")
    assert given.get("PREFECT_SERVER_UI_STATIC_DIRECTORY") == expected


async def test_waiting_for_a_server_that_never_answers_ends_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "PROGRESS_INTERVAL_SECONDS", 0.7)
    address = server.api_url(free_port())
    waits: list[float] = []
    with pytest.raises(PrefectUnreachable) as caught:
        await server.wait_until_healthy(address, 1.3, progress=waits.append)
    assert caught.value.address == address
    assert len(waits) == 1
    assert not isinstance(caught.value, server.ServerNotStarted)
    assert "unset PREFECT_API_URL" in str(caught.value)


async def test_a_long_wait_reports_progress_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PROGRESS_INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(server, "POLL_INTERVAL_SECONDS", 0.02)
    waits: list[float] = []
    with pytest.raises(PrefectUnreachable):
        await server.wait_until_healthy(server.api_url(free_port()), 1.5, progress=waits.append)
    assert len(waits) >= 2
    assert all(later - before >= 0.2 for before, later in pairwise(waits))


@dataclass
class FakeChild:
    """A child of which `status` decides the end."""

    log: Path = Path("server.log")
    exit_code: int | None = None

    def tail(self) -> str:
        return "its last words"


async def wait_on_a_slow_clock(
    monkeypatch: pytest.MonkeyPatch, *, status: Callable[[int, FakeChild], int]
) -> list[float]:
    """Wait for a child's server on a clock that goes on by 20 s at each look; return the waits."""
    child, requests, waits = FakeChild(), 0, list[float]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        await reader.readuntil(b"\r\n\r\n")
        code = status(requests, child)
        writer.write(
            f"HTTP/1.1 {code} .\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        writer.close()

    monkeypatch.setattr(server, "POLL_INTERVAL_SECONDS", 0.001)
    clock = SimpleNamespace(monotonic=count(0.0, 20.0).__next__)
    monkeypatch.setattr(server, "time", clock)
    async with await asyncio.start_server(answer, "127.0.0.1", port := free_port()):
        await server.wait_until_healthy(
            server.api_url(port), child=cast("Child", child), progress=waits.append
        )
    return waits


async def test_a_server_that_lives_is_waited_for_while_the_machine_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits = await wait_on_a_slow_clock(
        monkeypatch, status=lambda requests, child: 200 if requests == 20 else 503
    )
    assert max(waits) > 300


async def test_a_server_that_does_not_answer_for_a_quarter_of_an_hour_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(server.ServerNotStarted, match="status 503"):
        await wait_on_a_slow_clock(monkeypatch, status=lambda requests, child: 503)


async def test_a_server_that_ends_while_it_is_waited_for_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(requests: int, child: FakeChild) -> int:
        child.exit_code = 3 if requests == 10 else None
        assert requests <= 10
        return 503

    with pytest.raises(server.ServerNotStarted, match="exited with code 3\nits last words"):
        await wait_on_a_slow_clock(monkeypatch, status=die)


async def test_waiting_for_a_server_that_exited_ends_at_once_with_its_output(
    daybook_home: Home,
) -> None:
    with listener() as taken:
        port = taken.getsockname()[1]
        child = await server.start(daybook_home, port)
        with pytest.raises(server.ServerNotStarted, match=f"port {port}") as caught:
            await server.wait_until_healthy(server.api_url(free_port()), 60, child=child)
    assert child.exit_code == server.EXIT_PORT_TAKEN
    assert "PREFECT_API_URL" not in str(caught.value)  # the variable is not set
    assert (caught.value.code, caught.value.exit_code) == ("prefect_unreachable", 4)


OWN = "http://127.0.0.1:4200"


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("headers", "allowed", "let_in"),
    [
        ({"host": "127.0.0.1:4200"}, OWN, True),
        ({"host": "127.0.0.1:4200", "origin": OWN}, OWN, True),
        ({"host": "127.0.0.1:4200", "origin": "http://evil.example"}, OWN, False),
        ({"host": "127.0.0.1:4200", "origin": "http://127.0.0.1:9999"}, OWN, False),
        ({"host": "127.0.0.1:4200", "origin": "null"}, OWN, False),
        ({"host": "rebound.example:4200", "origin": "http://rebound.example:4200"}, OWN, False),
        ({"host": "rebound.example:4200"}, OWN, False),
        ({}, OWN, False),
        ({"host": "[bad"}, OWN, False),
        ({"host": "evil.example", "origin": "http://evil.example"}, "*", True),
        ({"host": "p.example", "origin": "https://p.example"}, "https://p.example/", True),
    ],
)
async def test_requests_of_foreign_pages_or_hosts_are_refused(
    kind: str, headers: dict[str, str], allowed: str, let_in: bool
) -> None:
    reached: list[str] = []
    sent: list[Any] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["type"])

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await SameOriginGuard(application, [allowed])({"type": kind, "headers": raw}, receive, send)
    assert reached == ([kind] if let_in else [])
    if not let_in:
        assert sent[0].get("status") == (403 if kind == "http" else None)
        assert sent[0]["type"] == ("http.response.start" if kind == "http" else "websocket.close")


def test_an_error_of_a_statement_is_logged_without_its_parameters() -> None:
    """Prefect logs each conflict with its statement, whose parameters may be a job's prompt."""
    script = (
        "import sqlalchemy as sa\n"
        "from daybook.operations import server\n"
        "server.hide_parameters()\n"
        "with sa.create_engine('sqlite://').connect() as connection:\n"
        "    connection.execute(sa.text('CREATE TABLE t (name TEXT UNIQUE)'))\n"
        "    for _ in range(2):\n"
        "        insert = sa.text('INSERT INTO t VALUES (:name)')\n"
        "        connection.execute(insert, {'name': 'sec' + 'ret'})\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "UNIQUE constraint failed: t.name" in ended.stderr
    assert "INSERT INTO t VALUES (?)" in ended.stderr
    assert "secret" not in ended.stderr
