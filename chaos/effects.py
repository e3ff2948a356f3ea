"""Servers and files that count the runs' effects, outside of the processes that are killed.

Each kind of job has an effect: a webhook's request, a tool call at an MCP server, or a line that an
agent's program writes into a file. Each effect carries its occurrence.
"""

from __future__ import annotations

import asyncio
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

KEY = "idempotency-key"
LONGEST = 1.5
"""Longest duration of an effect in seconds, so that a kill can hit the middle of one."""
AGENT = """\
#!/bin/sh
read -r line
printf '%s\\n' "$line" >> {book}
sleep {nap}
echo done
"""
"""Agent: reads its prompt, has its effect (one line, written at once), works, and answers."""

Message = MutableMapping[str, Any]


@dataclass
class Effects:
    """How often each occurrence had its effect, by the occurrence's key."""

    book: Path
    address: str
    requests: Counter[str] = field(default_factory=Counter)

    def counted(self) -> Counter[str]:
        """Count the effects of the requests and of the agents' programs."""
        lines = self.book.read_text().splitlines() if self.book.exists() else []
        return self.requests + Counter(lines)

    def agent(self, folder: Path, nap: float) -> str:
        """Return the command of an agent program."""
        program = folder / f"agent-{nap:g}.sh"
        program.write_text(AGENT.format(book=self.book, nap=nap))
        program.chmod(0o700)
        return str(program)


@asynccontextmanager
async def had(
    folder: Path, draw: random.Random, longest: float = LONGEST
) -> AsyncIterator[Effects]:
    """Run a server for the effects until the context ends; the agents' lines go to ``folder``.

    A request's effect takes at most ``longest`` seconds.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    effects = Effects(folder / "effects", f"http://127.0.0.1:{port}")
    server = FastMCP("counter")

    @server.tool
    async def mark() -> str:
        """Record an effect."""
        await asyncio.sleep(draw.uniform(0, longest))
        return "marked"

    async def hook(request: Request) -> Response:
        effects.requests[request.headers[KEY]] += 1
        await asyncio.sleep(draw.uniform(0, longest))
        return PlainTextResponse("done")

    tools = server.http_app(path="/")
    application = Starlette(
        routes=[Route("/hook", hook, methods=["POST"]), Mount("/mcp", _counted(tools, effects))],
        lifespan=tools.lifespan,
    )
    config = uvicorn.Config(application, log_level="error", lifespan="on")
    serving = uvicorn.Server(config)
    task = asyncio.create_task(serving.serve(sockets=[listening]))
    try:
        yield effects
    finally:
        serving.should_exit = True
        await task


def _counted(
    application: Callable[..., Awaitable[None]], effects: Effects
) -> Callable[..., Awaitable[None]]:
    """Count the tool calls from their requests, whatever the server does with them."""

    async def counting(scope: Message, receive: Any, send: Any) -> None:
        async def hears() -> Message:
            message: Message = await receive()
            if b'"tools/call"' in message.get("body", b""):
                key = dict(scope["headers"])[KEY.encode()]
                effects.requests[key.decode()] += 1
            return message

        await application(scope, hears, send)

    return counting
