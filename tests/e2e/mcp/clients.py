"""MCP clients of several vendors over stdio and HTTP, with one interface for tests."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

SDK = "@modelcontextprotocol/sdk@1.32.2"
PROGRAM = (
    sys.executable,
    "-c",
    "import sys; from daybook.cli.main import main; from daybook.toolbox import calls; "
    "calls.WAIT_TIMEOUT_SECONDS = 50.0; sys.exit(main(sys.argv[1:]))",
    "mcp",
)
"""`daybook mcp` with a longer wait for a run than usual, because the machine may be busy."""
TALK = Path(__file__).with_name("talk.mjs")


@dataclass(frozen=True)
class Answer:
    text: str
    refused: bool


Call = Callable[..., Coroutine[Any, Any, Answer]]


@dataclass(frozen=True)
class Talk:
    """A connection: ``tools`` as listed by the client (name to read-only hint), and a call."""

    tools: dict[str, Any]
    call: Call


@dataclass(frozen=True)
class Where:
    """How to reach the server: by its address with a token, or as a program."""

    variables: dict[str, str]
    url: str = ""
    token: str = field(default="", repr=False)
    command: tuple[str, ...] = PROGRAM


def _answer(result: Any) -> Answer:
    (content,) = result.content
    return Answer(content.text, bool(result.is_error))


@asynccontextmanager
async def by_mcp(where: Where) -> AsyncIterator[Talk]:
    """Connect with the official Python client."""
    from mcp.client.session import ClientSession
    from mcp.client.stdio import StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client

    command, *arguments = where.command
    program = StdioServerParameters(command=command, args=arguments, env=where.variables)
    bearer = {"Authorization": f"Bearer {where.token}"}
    async with httpx2.AsyncClient(headers=bearer, timeout=60.0) as http:
        wire = streamable_http_client(where.url, http_client=http) if where.url else None
        async with (
            wire or stdio_client(program) as (reads, writes, *_),
            ClientSession(reads, writes) as session,
        ):
            await session.initialize()
            listed = (await session.list_tools()).tools
            tools = {each.name: each.annotations for each in listed}

            async def call(name: str, /, **given: object) -> Answer:
                return _answer(await session.call_tool(name, given))

            yield Talk({name: each and each.read_only_hint for name, each in tools.items()}, call)


@asynccontextmanager
async def by_fastmcp(where: Where) -> AsyncIterator[Talk]:
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport, StreamableHttpTransport

    command, *arguments = where.command
    transport: Any = StdioTransport(command, arguments, env=where.variables, keep_alive=False)
    if where.url:
        bearer = {"Authorization": f"Bearer {where.token}"}
        transport = StreamableHttpTransport(where.url, headers=bearer)
    async with Client(transport) as client:
        tools = {each.name: each.annotations for each in await client.list_tools()}

        async def call(name: str, /, **given: object) -> Answer:
            return _answer(await client.call_tool(name, given, raise_on_error=False))

        yield Talk({name: each and each.read_only_hint for name, each in tools.items()}, call)


def sdk_in(folder: Path) -> Path:
    """Install the JavaScript client into ``folder``; skip the test if that is impossible."""
    npm, why = shutil.which("npm"), "it is not installed"
    if npm is not None:
        words = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", SDK]
        try:
            done = subprocess.run(
                words, cwd=folder, capture_output=True, text=True, check=False, timeout=60
            )
        except subprocess.TimeoutExpired:
            why = "its registry does not answer"
        else:
            if done.returncode == 0:
                return Path(shutil.copy(TALK, folder))
            why = " ".join(done.stderr.split())[-200:]
    pytest.skip(f"service absent: npm ({why})")


@asynccontextmanager
async def by_javascript(where: Where, program: Path) -> AsyncIterator[Talk]:
    """Connect with the official JavaScript client; ``program`` is the path from `sdk_in`."""
    words = ["http", where.url] if where.url else ["stdio", *where.command]
    child = await asyncio.create_subprocess_exec(
        "node",
        str(program),
        *words,
        env={**os.environ, **where.variables, "TOKEN": where.token},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert child.stdin is not None
    assert child.stdout is not None

    async def ask(**asked: object) -> Any:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(asked).encode() + b"\n")
        line = await child.stdout.readline()
        assert line, "the JavaScript client ended"
        return json.loads(line)

    async def call(name: str, /, **given: object) -> Answer:
        answer = await ask(tool=name, arguments=given)
        return Answer(answer["content"][0]["text"], bool(answer.get("isError")))

    try:
        listed = (await ask(list=True))["tools"]
        yield Talk({each["name"]: each["annotations"]["readOnlyHint"] for each in listed}, call)
        child.stdin.close()
        assert await child.wait() == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
