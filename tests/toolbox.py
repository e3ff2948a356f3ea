"""Tools that are there for one test: an installed distribution, saved servers that are programs.

The programs tell by the pipes of `tests.world.agents` where they are, so no test guesses how long
anything takes.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import uuid4

from daybook.tools.server_blocks import PrefectServers
from tests.world import World
from tests.world.agents import PRELUDE, Agent

_METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"

# A server over the pipes of its process. What it has for a tool is what the test writes between.
_BEGIN = """
from fastmcp import FastMCP
from fastmcp.exceptions import ToolError
server = FastMCP("a test's")
"""
_END = """
server.run(transport="stdio", show_banner=False)
"""

# begun(): a process of the tool's own, which ends only when somebody ends it.
BEGUN = """
import subprocess
def begun():
    waits = "import signal, time\\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\\nsignal.pause()"
    return subprocess.Popen([sys.executable, "-c", waits, sys.argv[1]]).pid
"""


def install(folder: Path, source: str, *tools: str) -> None:
    """Put a distribution into ``folder`` whose module is ``source``; the tools are functions in it.

    ``folder`` has to be on the path of who calls them.
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
    """The address of a server that refuses connections: its port is taken, and not listened on."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{kept.getsockname()[1]}/mcp"


@asynccontextmanager
async def served(world: World, source: str) -> AsyncIterator[Agent]:
    """A saved server whose tools are the functions of ``source`` under ``@server.tool``.

    Its name is the agent's, so that a tool of it is ``<agent.name>.<function>``.
    """
    agent = Agent(f"s-{uuid4().hex[:8]}", world.workers.elsewhere)
    script = agent.base.with_suffix(".py")
    script.write_text(PRELUDE + BEGUN + _BEGIN + source + _END)
    servers = PrefectServers(world.client)
    await servers.add(agent.name, {"command": [sys.executable, str(script), str(agent.base)]})
    try:
        yield agent
    finally:
        await servers.remove(agent.name)
        agent.close()
