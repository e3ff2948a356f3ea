"""Tools for one test: an installed distribution, and saved servers that are programs.

The programs report their progress through the pipes of `tests.world.agents`, so no test guesses
durations.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import uuid4

from daybook.tools.server_blocks import STORE
from tests.at_prefect import add_document
from tests.world.agents import PRELUDE, Agent
from tests.world.prefect_world import PrefectWorld

_METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"

# An MCP server over the pipes of its process. The test inserts its tools between the parts.
_BEGIN = """
from fastmcp import FastMCP
from fastmcp.exceptions import ToolError
server = FastMCP("a test's")
"""
_END = """
server.run(transport="stdio", show_banner=False)
"""

# start_child(): starts a process that runs until it is killed; returns its pid.
START_CHILD = """
import subprocess
def start_child():
    waits = "import signal, time\\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\\nsignal.pause()"
    return subprocess.Popen([sys.executable, "-c", waits, sys.argv[1]]).pid
"""


def install(folder: Path, source: str, *tools: str) -> None:
    """Put a distribution into ``folder`` whose module is ``source``; the tools are functions in it.

    ``folder`` has to be on the path of the process that calls them.
    """
    name = f"toolbox_{uuid4().hex[:8]}"
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / f"{name}.py").write_text(source)
    (about / "METADATA").write_text(_METADATA.format(name=name))
    lines = [f"{tool} = {name}:{tool}\n" for tool in tools]
    (about / "entry_points.txt").write_text("[daybook.tools]\n" + "".join(lines))


@contextmanager
def nobody_there() -> Iterator[str]:
    """Yield an address that refuses connections: its port is bound, but nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/mcp"


@asynccontextmanager
async def served(world: PrefectWorld, source: str) -> AsyncIterator[Agent]:
    """Yield a saved server whose tools are the functions of ``source`` under ``@server.tool``.

    It has the agent's name, so a tool's name is ``<agent.name>.<function>``.
    """
    agent = Agent(f"s-{uuid4().hex[:8]}", world.agents.folder)
    script = agent.base.with_suffix(".py")
    script.write_text(PRELUDE + START_CHILD + _BEGIN + source + _END)
    await add_document(
        STORE, world.client, agent.name, {"command": [sys.executable, str(script), str(agent.base)]}
    )
    try:
        yield agent
    finally:
        await STORE.remove(world.client, agent.name)
        agent.close()
