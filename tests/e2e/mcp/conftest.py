"""Fixtures for MCP tests: a home with a worker at the session's Prefect, and an HTTP MCP server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from daybook.api import tokens
from tests.conftest import PrefectServer
from tests.e2e.mcp.clients import PROGRAM, Where
from tests.servers import free_port
from tests.toolbox import install
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld

LIMITS = {"tools": ["reindex"], "models": [], "min_interval": "5m"}
"""The limits that the operator sets for agents, in addition to the defaults."""


@dataclass(frozen=True)
class Place:
    """A world with its MCP server; ``over`` connects one agent by `stdio` or `http`."""

    world: PrefectWorld
    url: str
    variables: dict[str, str]

    async def over(self, how: str, owner: str) -> Where:
        if how == "http":
            token = (await tokens.add(owner)).token
            return Where(self.variables, self.url, token)
        command = (*Where({}).command, "--owner", owner)
        return Where(self.variables, command=command)


@pytest.fixture(scope="module")
async def place(
    prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    root = tmp_path_factory.mktemp("mcp")
    installed = root / "installed"
    install(installed, "def reindex(full: bool = False) -> str:\n    return 'done'\n", "reindex")
    path = os.pathsep.join([str(installed), os.environ["PYTHONPATH"]])
    variables = {
        "DAYBOOK_HOME": str(root / "home"),
        "DAYBOOK_TIMEZONE": "Europe/Berlin",
        "DAYBOOK_LIMITS": json.dumps(LIMITS),
        "PREFECT_API_URL": prefect_server.api_url,
        "PYTHONPATH": path,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        async with at_prefect(root, prefect_server) as world:
            await world.workers.begin()
            async with listening(root) as url:
                yield Place(world, url, {**os.environ, **variables})


@asynccontextmanager
async def listening(root: Path) -> AsyncIterator[str]:
    """Start `daybook mcp --http` as a process of its own, and yield its address."""
    port = free_port()
    child = await asyncio.create_subprocess_exec(
        *(*PROGRAM, "--http", "--port", str(port)),
        stderr=asyncio.subprocess.PIPE,
        cwd=root,
    )
    assert child.stderr is not None
    try:
        line = (await child.stderr.readline()).decode()
        assert line == f"MCP: http://127.0.0.1:{port}/mcp\n", line
        yield line.removeprefix("MCP: ").strip()
    finally:
        child.terminate()
        errors = await child.stderr.read()
        assert await child.wait() == -signal.SIGTERM, errors.decode()
