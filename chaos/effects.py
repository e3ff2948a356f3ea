"""Servers and files that count the runs' effects, outside of the killed processes.

Each kind of job has an effect: a webhook's request, a tool call at an MCP server, or a line that an
agent's program writes into a file. Each effect carries its occurrence. The requests and calls of an
agent with several steps are counted by `chaos.steps`.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastmcp import FastMCP
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from chaos import steps
from chaos.steps import CountedSteps
from daybook.tools.connection import OCCURRENCE_META_KEY

KEY_HEADER = "idempotency-key"
MAX_EFFECT_SECONDS = 1.5
"""Longest duration of an effect, so that a kill can hit the middle of one."""
AGENT_PROGRAM = """\
#!/bin/sh
read -r line
printf '%s\\n' "$line" >> {file}
sleep {seconds}
echo done
"""
"""Agent: reads its prompt, has its effect (one line, written at once), works, and answers."""

Message = MutableMapping[str, Any]


@dataclass
class Effects:
    """Number of effects of each occurrence; programs write theirs to ``agents_file``."""

    agents_file: Path
    address: str
    requests: Counter[str] = field(default_factory=Counter)
    steps: CountedSteps = field(default_factory=CountedSteps)

    def counts(self) -> Counter[str]:
        """Count the effects by the occurrence that they carried.

        All steps of an agent are one effect.
        """
        lines = self.agents_file.read_text().splitlines() if self.agents_file.exists() else []
        return self.requests + Counter(lines) + self.steps.occurrences()

    def agent_command(self, folder: Path, seconds: float) -> str:
        """Write an agent program that works for ``seconds``; return its command."""
        program = folder / f"agent-{seconds:g}.sh"
        program.write_text(AGENT_PROGRAM.format(file=self.agents_file, seconds=seconds))
        program.chmod(0o700)
        return str(program)


@asynccontextmanager
async def serve(
    folder: Path,
    draw: random.Random,
    max_seconds: float = MAX_EFFECT_SECONDS,
    host: str = "127.0.0.1",
) -> AsyncIterator[Effects]:
    """Run a server for the effects until the context ends; the agents' lines go to ``folder``.

    The effect of a request takes at most ``max_seconds``. The server is at the address ``host``.
    """
    listener = socket.create_server((host, 0))
    port = listener.getsockname()[1]
    effects = Effects(folder / "effects", f"http://{host}:{port}")
    mcp_server = FastMCP("counter")

    @mcp_server.tool
    async def mark() -> str:
        """Record an effect."""
        await asyncio.sleep(draw.uniform(0, max_seconds))
        return "marked"

    @mcp_server.tool
    async def note(number: int) -> str:
        """Record a step of an agent."""
        await asyncio.sleep(draw.uniform(0, steps.MAX_STEP_SECONDS))
        return f"noted {number}"

    async def ask(request: Request) -> Response:
        return await effects.steps.answer(request, request.headers[KEY_HEADER], draw)

    async def hook(request: Request) -> Response:
        effects.requests[request.headers[KEY_HEADER]] += 1
        await asyncio.sleep(draw.uniform(0, max_seconds))
        return PlainTextResponse("done")

    tools = mcp_server.http_app(path="/")
    routes = [
        Route("/hook", hook, methods=["POST"]),
        Route("/v1/chat/completions", ask, methods=["POST"]),
        Mount("/mcp", _count_tool_calls(tools, effects)),
    ]
    application = Starlette(routes=routes, lifespan=tools.lifespan)
    http_server = uvicorn.Server(uvicorn.Config(application, log_level="error", lifespan="on"))
    task = asyncio.create_task(http_server.serve(sockets=[listener]))
    try:
        yield effects
    finally:
        http_server.should_exit = True
        await task


def _count_tool_calls(
    application: Callable[..., Awaitable[None]], effects: Effects
) -> Callable[..., Awaitable[None]]:
    """Return middleware that counts tool calls as they arrive, even if the server fails them."""

    async def counting(scope: Message, receive: Any, send: Any) -> None:
        async def receive_and_count() -> Message:
            message: Message = await receive()
            body = message.get("body", b"")
            if b'"tools/call"' in body:
                # An agent's connection is open for several calls: the key is in the call only.
                key = json.loads(body)["params"]["_meta"][OCCURRENCE_META_KEY]
                counted = effects.steps.calls if "/" in key else effects.requests
                counted[key] += 1
            return message

        await application(scope, receive_and_count, send)

    return counting
