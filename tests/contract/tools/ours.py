"""MCP server with test tools: `ours.py PIPE` uses stdio, `ours.py PIPE FD` uses HTTP.

PIPE is a named pipe for progress lines, FD a listening socket.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from typing import Any

import uvicorn
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.server.dependencies import get_http_headers

server = FastMCP("ours")


def tell(word: str) -> None:
    with open(sys.argv[1], "a") as pipe:
        pipe.write(f"{os.getpid()} {word}\n")


@server.tool
def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    tell("added")
    return a + b


@server.tool(output_schema=None)
def say(text: str, times: int = 1) -> str:
    """Say it again."""
    return text * times


@server.tool
def about(topic: str) -> dict[str, Any]:
    """JSON."""
    return {"topic": topic, "parts": [1, None, {"deep": True}]}


@server.tool
def fail(words: str) -> None:
    """Fail."""
    raise ToolError(words)


@server.tool
def key(context: Context) -> dict[str, Any]:
    """What the call is known by."""
    assert context.request_context is not None
    meta = context.request_context.meta or {}
    headers = get_http_headers(include_all=True)
    return {
        "meta": dict(meta).get("daybook/idempotency-key"),
        "header": headers.get("idempotency-key"),
        "team": headers.get("x-team"),
    }


@server.tool(output_schema=None)
def digest(password: str) -> str:
    """Say it back, and its hash."""
    return f"{password} {hashlib.sha256(password.encode()).hexdigest()}"


@server.tool
def variable(name: str) -> str:
    """A variable of the environment."""
    return os.environ.get(name, "absent")


def begin() -> None:
    """Start a child process that only SIGKILL ends."""
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    command = [sys.executable, "-c", f"import signal; {deaf}"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    tell(str(child.pid))


@server.tool
def wait() -> None:
    """Begin something, and wait for ever."""
    begin()
    signal.pause()


@server.tool
def leave_behind() -> str:
    """Begin something, and answer."""
    begin()
    return "left"


@server.tool
def crash() -> None:
    """End in the middle of the work."""
    tell("crashes")
    print("it hurts", file=sys.stderr, flush=True)
    os._exit(7)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        uvicorn.run(server.http_app(), fd=int(sys.argv[2]), log_level="warning")
    else:
        server.run(transport="stdio", show_banner=False)
