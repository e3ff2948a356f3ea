from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from daybook.errors import UnknownName
from daybook.http.guard import Guard, Rule
from daybook.http.secrets import Secret
from daybook.tools import calls
from daybook.tools.base import CallResult
from daybook.tools.server_blocks import ToolServer, build

OURS = Path(__file__).parent / "ours.py"
OCCURRENCE = "due:nightly:2026-11-20T09:00:00Z"


class Told:
    """What programs tell, a line each, through a named pipe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # never at its end
        self._rest = b""
        self._lines: list[str] = []

    async def line(self) -> tuple[int, str]:
        """Who told the next one, and what."""
        while not self._lines:
            with anyio.fail_after(60):
                await anyio.wait_readable(self._fd)
            *lines, self._rest = (self._rest + os.read(self._fd, 65536)).split(b"\n")
            self._lines += [each.decode() for each in lines]
        pid, _, word = self._lines.pop(0).partition(" ")
        return int(pid), word

    def nothing(self) -> bool:
        """Whether nobody told anything more."""
        try:
            return not self._lines and not os.read(self._fd, 65536)
        except BlockingIOError:
            return True

    def close(self) -> None:
        os.close(self._fd)


@dataclass
class Saved:
    """Servers and secrets in memory; the names of the secrets that were asked for."""

    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: dict[str, Secret] = field(default_factory=dict)

    async def names(self) -> list[str]:
        return sorted(self.settings)

    async def read(self, name: str) -> Any:
        """Of `Servers` and of `Secrets`: no name is both here."""
        if name in self.kept:
            return self.kept[name]
        if name not in self.settings:
            raise UnknownName("tool server", name, self.settings)
        server: ToolServer = build(name, self.settings[name])
        return server

    @property
    def secrets(self) -> Any:
        return self


@dataclass
class Caller:
    """Calls the tools of one server; ``kind`` is how it is reached."""

    kind: str
    saved: Saved
    told: Told
    host: str = ""

    def name(self, tool: str) -> str:
        return f"ours.{tool}"

    async def prepared(self, tool: str, params: Mapping[str, Any]) -> calls.PreparedCall:
        guard = Guard(Rule.AGENT)  # a saved server is the operator's choice all the same
        return await calls.prepare(
            self.name(tool), dict(params), OCCURRENCE, self.saved, self.saved.secrets, guard
        )

    async def call(
        self, tool: str, timeout: float = 60, idempotent: bool = False, **params: Any
    ) -> CallResult:
        prepared = await self.prepared(tool, params)
        return await calls.call(prepared, timeout=timeout, idempotent=idempotent)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    told = Told(tmp_path / "told")
    yield told
    told.close()


@pytest.fixture(params=["stdio", "http"])
async def ours(request: pytest.FixtureRequest, told: Told) -> AsyncIterator[Caller]:
    """Our server, by its pipes and over HTTP: both are real processes."""
    if request.param == "stdio":
        command = [sys.executable, str(OURS), str(told.path)]
        yield Caller("stdio", Saved({"ours": {"command": command}}), told)
        return
    with socket.create_server(("127.0.0.1", 0)) as listens:  # who connects is kept waiting
        listens.set_inheritable(True)
        host = f"127.0.0.1:{listens.getsockname()[1]}"
        child = subprocess.Popen(  # noqa: ASYNC220 - a short fork
            [sys.executable, str(OURS), str(told.path), str(listens.fileno())],
            pass_fds=[listens.fileno()],
        )
    try:
        settings = {"url": f"http://{host}/mcp", "headers": {"X-Team": "ops"}}
        yield Caller("http", Saved({"ours": settings}), told, host)
    finally:
        child.kill()
        child.wait()


def runs(pid: int) -> bool:
    """A zombie does not run; who reaps it is not ours to say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
