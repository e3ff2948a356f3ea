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


class ReportPipe:
    """Named pipe into which programs write progress lines for the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # read and write: never at end of file
        self._rest = b""
        self._lines: list[str] = []

    async def line(self) -> tuple[int, str]:
        """Return the pid and the word of the next line; wait until there is one."""
        while not self._lines:
            with anyio.fail_after(60):
                await anyio.wait_readable(self._fd)
            *lines, self._rest = (self._rest + os.read(self._fd, 65536)).split(b"\n")
            self._lines += [each.decode() for each in lines]
        pid, _, word = self._lines.pop(0).partition(" ")
        return int(pid), word

    def nothing(self) -> bool:
        """Return whether no further line has arrived."""
        try:
            return not self._lines and not os.read(self._fd, 65536)
        except BlockingIOError:
            return True

    def close(self) -> None:
        os.close(self._fd)


@dataclass
class Saved:
    """Tool servers and secrets in memory."""

    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    stored_secrets: dict[str, Secret] = field(default_factory=dict)

    async def names(self) -> list[str]:
        return sorted(self.settings)

    async def read(self, name: str) -> Any:
        """Return the server or the secret of this name, for `Servers` and for `Secrets`."""
        if name in self.stored_secrets:
            return self.stored_secrets[name]
        if name not in self.settings:
            raise UnknownName("tool server", name, self.settings)
        server: ToolServer = build(name, self.settings[name])
        return server

    @property
    def secrets(self) -> Any:
        return self


@dataclass
class Caller:
    """Calls the tools of one server; ``kind`` is its transport."""

    kind: str
    saved: Saved
    report_pipe: ReportPipe
    host: str = ""

    def name(self, tool: str) -> str:
        return f"ours.{tool}"

    async def prepared(self, tool: str, params: Mapping[str, Any]) -> calls.PreparedCall:
        guard = Guard(Rule.AGENT)  # does not restrict a saved server, the operator's choice
        return await calls.prepare(
            self.name(tool), dict(params), OCCURRENCE, self.saved, self.saved.secrets, guard
        )

    async def call(
        self, tool: str, timeout: float = 60, idempotent: bool = False, **params: Any
    ) -> CallResult:
        prepared = await self.prepared(tool, params)
        return await calls.call(prepared, timeout=timeout, idempotent=idempotent)


@pytest.fixture
def report_pipe(tmp_path: Path) -> Iterator[ReportPipe]:
    report_pipe = ReportPipe(tmp_path / "report")
    yield report_pipe
    report_pipe.close()


@pytest.fixture(params=["stdio", "http"])
async def caller(request: pytest.FixtureRequest, report_pipe: ReportPipe) -> AsyncIterator[Caller]:
    """Yield a caller of our test server over stdio and over HTTP; both are real processes."""
    if request.param == "stdio":
        command = [sys.executable, str(OURS), str(report_pipe.path)]
        yield Caller("stdio", Saved({"ours": {"command": command}}), report_pipe)
        return
    with socket.create_server(("127.0.0.1", 0)) as listens:  # queues early connections
        listens.set_inheritable(True)
        host = f"127.0.0.1:{listens.getsockname()[1]}"
        child = subprocess.Popen(  # noqa: ASYNC220 - a short fork
            [sys.executable, str(OURS), str(report_pipe.path), str(listens.fileno())],
            pass_fds=[listens.fileno()],
        )
    try:
        settings = {"url": f"http://{host}/mcp", "headers": {"X-Team": "ops"}}
        yield Caller("http", Saved({"ours": settings}), report_pipe, host)
    finally:
        child.kill()
        child.wait()


def runs(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
