"""Server for the documentation's examples: MCP with three tools, and 200 for all other requests.

`documented_servers.py FD` serves on the listening socket FD; `http://…/mcp` is the MCP server.
"""

from __future__ import annotations

import sys

import uvicorn
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


if __name__ == "__main__":
    uvicorn.run(server.http_app(), fd=int(sys.argv[1]), log_level="warning")
