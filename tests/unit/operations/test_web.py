"""The health page as a child of `daybook up`: its port, its supervision, its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from daybook.cli.main import main
from daybook.cli.web import web_
from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.keeper.leader_lease import LEADERSHIP_NAME
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import LeadRow
from daybook.operations import browser, home_lock, server, web
from daybook.processes import proc
from daybook.web.__main__ import has_private_url
from tests.servers import free_port

pytestmark = pytest.mark.anyio


class ShownLines:
    """The lines that `up` would show, with a method to wait for one."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._more.set()

    async def line(self, beginning: str, count: int = 1) -> str:
        async with asyncio.timeout(60):
            while len(found := [each for each in self.lines if each.startswith(beginning)]) < count:
                self._more.clear()
                await self._more.wait()
        return found[-1]


@asynccontextmanager
async def supervised(home: Home, port: int) -> AsyncIterator[ShownLines]:
    """Supervise the health page as `up` does, until the block ends."""
    output = ShownLines()
    with home_lock.hold(home) as written:
        care = asyncio.create_task(web.supervise(home, port, written, output))
        try:
            yield output
        finally:
            care.cancel()
            await asyncio.wait({care})


def facts(home: Home) -> dict[str, Any]:
    return dict(json.loads(home.up_file.read_text()))


async def status(url: str) -> int:
    async with httpx.AsyncClient(trust_env=False, timeout=60.0) as client:
        return (await client.get(f"{url}/health")).status_code


async def test_the_health_page_answers_and_ends_with_its_supervision(daybook_home: Home) -> None:
    port = free_port()
    async with supervised(daybook_home, port) as output:
        line = await output.line("Health: ")
        url = f"http://127.0.0.1:{port}"
        assert line == f"Health: {url}/health, metrics: {url}/metrics"
        assert facts(daybook_home)["web_url"] == url
        (child,) = facts(daybook_home)["children"]
        assert child["name"] == "web"
        assert await status(url) == 503  # no keeper is the leader
    assert proc.find(child["pid"], child["started"]) is None
    assert server.free_port(port) == port


@pytest.mark.slow
async def test_the_pages_of_a_container_open_at_its_published_port(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("DAYBOOK_WEB_HOST", "0.0.0.0")
    monkeypatch.setenv("DAYBOOK_WEB_NAMES", "book.internal")
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", f"http://localhost:{port}")
    daybook_home.ensure_credential()
    async with supervised(daybook_home, port) as output:
        await output.line("Health: ")
        url = facts(daybook_home)["web_url"]
        assert url == f"http://127.0.0.1:{port}"  # for the processes of the container
        link = (await browser.link(daybook_home, is_public=True)).url
        assert link.startswith(f"http://localhost:{port}/daybook/login?token=")
        async with httpx.AsyncClient(trust_env=False, timeout=60.0) as client:
            assert (await client.get(f"http://localhost:{port}/")).status_code == 401
            assert (await client.get(link)).status_code == 200
            assert (await client.get(f"http://localhost:{port}/")).status_code == 200
            codes = {
                name: (await client.get(f"{url}/health", headers={"Host": name})).status_code
                for name in ("book.internal", "evil.example")
            }
        assert codes == {"book.internal": 503, "evil.example": 403}


@pytest.mark.parametrize(
    ("public_url", "expected"),
    [
        ("", False),
        ("http://localhost:4280", True),
        ("https://daybook.example.org", True),
        ("http://daybook.example.org", False),
        ("http://192.168.1.5:4280", False),
        ("http://localhost.example.org", False),
    ],
)
def test_pages_for_other_machines_need_a_url_with_tls_or_of_this_machine(
    public_url: str, expected: bool
) -> None:
    assert has_private_url(public_url) is expected


@pytest.mark.slow
async def test_a_taken_port_is_replaced_and_the_new_port_is_used_again(daybook_home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with supervised(daybook_home, port) as output:
            await output.line("Health: ")
            assert output.lines[0].startswith(f"Port {port} is taken; the health page uses port ")
            first = facts(daybook_home)["web_url"]
            assert await status(first) == 503
    # The wanted port is free now, but the page stays at the address that was used last.
    async with supervised(daybook_home, port) as output:
        await output.line("Health: ")
        assert facts(daybook_home)["web_url"] == first
    other = free_port()
    async with supervised(daybook_home, other) as output:
        await output.line("Health: ")
        assert facts(daybook_home)["web_url"] == f"http://127.0.0.1:{other}"


@pytest.mark.slow
async def test_two_pages_started_at_once_listen_on_the_ports_they_record(
    daybook_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let both find the wanted port free, as when two homes start within one second."""
    other = Home(tmp_path / "other")
    other.make()
    chosen_port = free_port()
    monkeypatch.setattr(server, "free_port", lambda preferred: preferred or chosen_port)
    async with (
        supervised(daybook_home, chosen_port) as first,
        supervised(other, chosen_port) as second,
    ):
        for home, output in ((daybook_home, first), (other, second)):
            await output.line("Health: ")
            (child,) = facts(home)["children"]
            port = int(facts(home)["web_url"].rpartition(":")[2])
            assert listens(child["pid"], port)
            assert (port == chosen_port) == ("Port" not in output.lines[0])


def listens(pid: int, port: int) -> bool:
    """Return whether the process listens on ``port`` of 127.0.0.1."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[1] == f"0100007F:{port:04X}" and row[3] == "0A"}
    held = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            held.add(os.readlink(each))
    return any(f"socket:[{inode}]" in held for inode in inodes)


@pytest.mark.slow
async def test_a_killed_health_page_is_restarted_on_the_same_port(daybook_home: Home) -> None:
    async with Ledger(f"sqlite+aiosqlite:///{daybook_home.path}/ledger.db") as ledger:
        until = ledger.now() + timedelta(hours=1)
        async with ledger.write() as session:
            session.add(LeadRow(name=LEADERSHIP_NAME, holder="here:1:a", until=until, fence=1))
    async with supervised(daybook_home, free_port()) as output:
        await output.line("Health: ")
        url, (child,) = facts(daybook_home)["web_url"], facts(daybook_home)["children"]
        await server.wait_until_healthy(url, 60)
        os.kill(child["pid"], signal.SIGKILL)
        await output.line("The web was ended by SIGKILL")
        await server.wait_until_healthy(url, 60)
        (again,) = facts(daybook_home)["children"]
        assert again["pid"] != child["pid"]


@pytest.mark.slow
async def test_a_health_page_that_does_not_start_is_reported_and_retried(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = daybook_home.path / "config.toml"
    config.write_text("nothing = 1\n")
    async with supervised(daybook_home, free_port()) as output:
        line = await output.line("The health page did not start")
        assert "unknown settings: nothing" in line
        config.unlink()
        await output.line("Health: ")


@pytest.mark.slow
def test_daybook_web_refuses_a_taken_port_with_a_hint(daybook_home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "daybook", "web", "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert f"cannot listen on http://127.0.0.1:{port}: " in ended.stderr
    assert "Health" not in ended.stderr
    assert "another port with --port or DAYBOOK_WEB_PORT" in ended.stderr


def test_the_error_for_a_taken_mcp_port_names_only_the_option(
    daybook_home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["mcp", "--http", "--port", str(port)]) == 2
    errors = capsys.readouterr().err
    assert f"cannot listen on http://127.0.0.1:{port}: " in errors
    assert "another port with --port" in errors and "DAYBOOK_WEB_PORT" not in errors


@pytest.mark.parametrize("given", [{"port": 0}, {"port": 65536}, {"host": ""}])
def test_an_invalid_host_or_port_is_refused(daybook_home: Home, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        web_(**given)
    assert caught.value.field in given


def test_the_process_of_the_health_page_does_not_import_prefect() -> None:
    program = "import sys, daybook.web.__main__; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.5", False),
        ("localhost.example.org", False),
    ],
)
def test_is_local_accepts_only_loopback_addresses(host: str, local: bool) -> None:
    assert web.is_local(host) is local
