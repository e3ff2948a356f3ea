"""The health page as a child of `daybook up`: its port, its care, its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from daybook.operations import home_lock, server, web
from daybook.processes import proc
from tests.servers import free_port

pytestmark = pytest.mark.anyio


class Said:
    """What `up` would show; a line can be waited for."""

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
async def kept(home: Home, port: int) -> AsyncIterator[Said]:
    """What `up` does with the page, until the block ends."""
    said = Said()
    with home_lock.hold(home) as written:
        care = asyncio.create_task(web.supervise(home, port, written, said))
        try:
            yield said
        finally:
            care.cancel()
            await asyncio.wait({care})


def facts(home: Home) -> dict[str, Any]:
    return dict(json.loads(home.up_file.read_text()))


async def status(url: str) -> int:
    async with httpx.AsyncClient(trust_env=False, timeout=60.0) as client:
        return (await client.get(f"{url}/health")).status_code


async def test_it_answers_and_ends_with_its_care(daybook_home: Home) -> None:
    port = free_port()
    async with kept(daybook_home, port) as said:
        line = await said.line("Health: ")
        url = f"http://127.0.0.1:{port}"
        assert line == f"Health: {url}/health, metrics: {url}/metrics"
        assert facts(daybook_home)["web_url"] == url
        (child,) = facts(daybook_home)["children"]
        assert child["name"] == "web"
        assert await status(url) == 503  # nobody leads
    assert proc.find(child["pid"], child["started"]) is None
    assert server.free_port(port) == port


@pytest.mark.slow
async def test_a_taken_port_hinders_nothing_and_the_next_one_is_kept(daybook_home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = taken.getsockname()[1]
        async with kept(daybook_home, wanted) as said:
            await said.line("Health: ")
            assert said.lines[0].startswith(f"Port {wanted} is taken; the health page uses port ")
            first = facts(daybook_home)["web_url"]
            assert await status(first) == 503
    # The wanted one is free by now; who has noted the address finds it there.
    async with kept(daybook_home, wanted) as said:
        await said.line("Health: ")
        assert facts(daybook_home)["web_url"] == first
    other = free_port()
    async with kept(daybook_home, other) as said:
        await said.line("Health: ")
        assert facts(daybook_home)["web_url"] == f"http://127.0.0.1:{other}"


@pytest.mark.slow
async def test_two_that_begin_at_once_both_answer_at_the_place_that_is_told(
    daybook_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find the wanted port free, as where two homes are started in one second."""
    other = Home(tmp_path / "other")
    other.make()
    wanted = free_port()
    monkeypatch.setattr(server, "free_port", lambda preferred: preferred or wanted)
    async with kept(daybook_home, wanted) as first, kept(other, wanted) as second:
        for home, said in ((daybook_home, first), (other, second)):
            await said.line("Health: ")
            (child,) = facts(home)["children"]
            port = int(facts(home)["web_url"].rpartition(":")[2])
            assert listens(child["pid"], port)
            assert (port == wanted) == ("Port" not in said.lines[0])


def listens(pid: int, port: int) -> bool:
    """Whether the process has a socket open that listens on ``port`` of 127.0.0.1."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[1] == f"0100007F:{port:04X}" and row[3] == "0A"}
    held = {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}
    return any(f"socket:[{inode}]" in held for inode in inodes)


@pytest.mark.slow
async def test_one_that_is_killed_is_begun_again_at_the_same_place(daybook_home: Home) -> None:
    async with Ledger(f"sqlite+aiosqlite:///{daybook_home.path}/ledger.db") as ledger:
        until = ledger.now() + timedelta(hours=1)
        async with ledger.write() as session:
            session.add(LeadRow(name=LEADERSHIP_NAME, holder="here:1:a", until=until, fence=1))
    async with kept(daybook_home, free_port()) as said:
        await said.line("Health: ")
        url, (child,) = facts(daybook_home)["web_url"], facts(daybook_home)["children"]
        await server.wait_until_healthy(url, 60)
        os.kill(child["pid"], signal.SIGKILL)
        await said.line("The web exited with code -9")
        await server.wait_until_healthy(url, 60)
        (again,) = facts(daybook_home)["children"]
        assert again["pid"] != child["pid"]


@pytest.mark.slow
async def test_one_that_does_not_start_is_told_and_tried_again(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = daybook_home.path / "config.toml"
    config.write_text("nothing = 1\n")
    async with kept(daybook_home, free_port()) as said:
        line = await said.line("The health page did not start")
        assert "unknown settings: nothing" in line
        config.unlink()
        await said.line("Health: ")


def test_a_taken_port_is_refused_with_what_to_do(daybook_home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "daybook", "web", "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert f"cannot listen on http://127.0.0.1:{port}: " in ended.stderr
    assert "Health" not in ended.stderr
    assert "another port with --port or DAYBOOK_WEB_PORT" in ended.stderr


def test_the_mcp_servers_port_is_no_setting_of_the_health_page(
    daybook_home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["mcp", "--http", "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert f"cannot listen on http://127.0.0.1:{port}: " in said
    assert "another port with --port" in said and "DAYBOOK_WEB_PORT" not in said


@pytest.mark.parametrize("given", [{"port": 0}, {"port": 65536}, {"host": ""}])
def test_an_address_that_is_none_is_refused(daybook_home: Home, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        web_(**given)
    assert caught.value.field in given


def test_its_process_imports_no_prefect() -> None:
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
def test_which_addresses_are_of_this_machine_alone(host: str, local: bool) -> None:
    assert web.is_local(host) is local
