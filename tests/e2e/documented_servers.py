"""Servers for the documentation's examples: MCP with three tools, any other request, and mail.

`documented_servers.py HTTP MAIL` serves on two listening sockets. `http://…/mcp` is the MCP server,
and all other requests get 200. The mail server accepts any mail.
"""

from __future__ import annotations

import asyncio
import socket
import sys

import uvicorn
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP
from fastmcp import FastMCP
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

server = FastMCP("documented")


@server.tool
def find(words: str) -> str:
    """Find documents."""
    return f"nothing about {words}"


@server.tool
def reindex(full: bool = False) -> str:
    """Build the index again."""
    return "everything" if full else "what is new"


@server.tool
def has_new() -> bool:
    """Return whether there is new mail."""
    return True


@server.custom_route("/{rest:path}", methods=["GET", "POST"])
async def anything(request: Request) -> Response:
    """Accept any webhook, callback or message."""
    await request.body()
    return PlainTextResponse("ok")


async def serve(http: int, mail: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: SMTP(Sink()), sock=socket.socket(fileno=mail))
    config = uvicorn.Config(server.http_app(), fd=http, log_level="warning")
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(serve(*map(int, sys.argv[1:])))
