"""Where the effects of the storm's runs are had, and counted: outside of what may die.

Each kind of job has its effect here: a webhook's request, a tool's call by an MCP server, and the
line that an agent's program writes into a file. Each carries its occurrence.
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
"""Seconds that an effect takes at most, so that what dies then dies in the middle of one."""
AGENT = """\
#!/bin/sh
read -r line
printf '%s\\n' "$line" >> {book}
sleep {nap}
echo done
"""
"""Reads its prompt, has its effect (one line, written at once), works for a while, and answers."""

Message = MutableMapping[str, Any]


@dataclass
class Effects:
    """How often each occurrence had its effect, by the occurrence's key."""

    book: Path
    address: str
    requests: Counter[str] = field(default_factory=Counter)

    def counted(self) -> Counter[str]:
        """Those of the requests, and those of the agents' programs."""
        lines = self.book.read_text().splitlines() if self.book.exists() else []
        return self.requests + Counter(lines)

    def agent(self, folder: Path, nap: float) -> str:
        """The command of a program that is an agent."""
        program = folder / f"agent-{nap:g}.sh"
        program.write_text(AGENT.format(book=self.book, nap=nap))
        program.chmod(0o700)
        return str(program)


@asynccontextmanager
async def had(
    folder: Path, draw: random.Random, longest: float = LONGEST
) -> AsyncIterator[Effects]:
    """A server for the effects, until the end; the agents' lines go to ``folder``.

    A request's effect takes at most ``longest`` seconds.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    effects = Effects(folder / "effects", f"http://127.0.0.1:{port}")
    server = FastMCP("counter")

    @server.tool
    async def mark() -> str:
        """Have an effect."""
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
    """Count the tool calls by what their requests carry, whatever the server makes of them."""

    async def counting(scope: Message, receive: Any, send: Any) -> None:
        async def hears() -> Message:
            message: Message = await receive()
            if b'"tools/call"' in message.get("body", b""):
                key = dict(scope["headers"])[KEY.encode()]
                effects.requests[key.decode()] += 1
            return message

        await application(scope, hears, send)

    return counting
