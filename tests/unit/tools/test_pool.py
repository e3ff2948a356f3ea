"""Pooled sessions of MCP servers: each call gets its own result, error or timeout."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult, TextContent

from daybook.tools.connection import CallFailed, CallUnanswered, ToolDescription
from daybook.tools.pool import PooledSession, PreloadedSecrets
from daybook.tools.server_blocks import ToolServer
from daybook.tools.server_settings import ToolServerSettings
from tests.unit.tools.test_stdio import PROGRAM

pytestmark = pytest.mark.anyio

Opens = Callable[..., AbstractAsyncContextManager[PooledSession]]

CLOSED = -32000
"""The protocol's library reports a connection that broke by this code; servers send it, too."""


@pytest.fixture
def opens(tmp_path: Path) -> Opens:
    """Return a function that opens a pooled session whose tool executes ``called``."""

    @asynccontextmanager
    async def opened(called: str) -> AsyncIterator[PooledSession]:
        script = tmp_path / "program.py"
        text = PROGRAM.replace("BEFORE", "").replace("CALLED", called).replace("LISTED", "pass")
        script.write_text(text)
        settings = ToolServerSettings(command=[sys.executable, "-I", "-S", str(script)])
        held = PooledSession(ToolServer("search", settings), PreloadedSecrets())
        await held.open()
        try:
            yield held
        finally:
            await held.close()

    return opened


async def test_the_death_of_a_server_is_not_mistaken_for_its_earlier_error(
    opens: Opens,
) -> None:
    says = (
        'what = params["arguments"]["what"]; '
        f'says({{"error": {{"code": {CLOSED}, "message": "not today"}}}}) if what == "error" '
        'else os._exit(3) if what == "die" else text("here")'
    )
    async with opens(says) as held:
        with pytest.raises(CallFailed, match=r"^not today$"):
            await held.call("reindex", {"what": "error"}, "k", 60)
        with pytest.raises(CallFailed, match=r"code 3.*its effect is unknown"):
            await held.call("reindex", {"what": "die"}, "k", 60)
        assert await held.call("reindex", {"what": "live"}, "k", 60) == "here"


async def test_a_tool_that_the_settings_name_only_reads_although_its_server_does_not_mark_it(
    tmp_path: Path,
) -> None:
    tools: list[dict[str, Any]] = [
        {"name": name, "inputSchema": {"type": "object"}} for name in ("get_mail", "send")
    ]
    tools.append({**tools[1], "name": "look", "annotations": {"readOnlyHint": True}})
    script = tmp_path / "program.py"
    changed = PROGRAM.replace("BEFORE", f"tools = {tools!r}")
    script.write_text(changed.replace("CALLED", "pass").replace("LISTED", "pass"))
    command = [sys.executable, "-I", "-S", str(script)]
    for patterns, expected in ((["get_*"], {"get_mail", "look"}), ([], {"look"})):
        settings = ToolServerSettings(command=command, read_only=patterns)
        session = PooledSession(ToolServer("mail", settings), PreloadedSecrets())
        await session.open()
        await session.close()
        assert {name for name, each in session.tools.items() if each.read_only} == expected


async def test_a_server_that_times_out_is_ended_and_restarted(opens: Opens) -> None:
    says = 'text(str(os.getpid())) if params["arguments"] else signal.pause()'
    async with opens(says) as held:
        first = await held.call("reindex", {"x": 1}, "k", 60)
        with pytest.raises(CallFailed, match=r"did not answer within 0\.5 s.*is unknown"):
            await held.call("reindex", {}, "k", 0.5)
        assert await held.call("reindex", {"x": 1}, "k", 60) != first


async def test_an_error_answer_without_a_message_says_so(opens: Opens) -> None:
    says = 'says({"result": {"content": [], "isError": True}})'
    async with opens(says) as held:
        with pytest.raises(CallFailed, match="the tool failed without a message"):
            await held.call("reindex", {}, "k", 60)


async def test_a_server_that_died_between_two_calls_is_restarted(
    opens: Opens,
) -> None:
    """The second call was not sent, so it is repeated and the new program answers it."""
    async with opens("text(str(os.getpid()))") as held:
        first = int(await held.call("reindex", {}, "k", 60))
        os.kill(first, signal.SIGKILL)
        await _ended(held)
        second = int(await held.call("reindex", {}, "k", 60))
        assert second != first
        assert await held.call("reindex", {}, "k", 60) == str(second)


async def _ended(held: PooledSession) -> None:
    """Wait until the end of the server's program has been noticed."""
    there: Any = held._open
    await there._wire._group.exited.wait()


class Answering:
    """A connection whose calls end in ``error``, or are answered if it is None."""

    def __init__(self, error: CallUnanswered | None) -> None:
        self.error, self.calls = error, 0
        self.tools: dict[str, ToolDescription] = {}

    async def call(
        self, tool: str, params: dict[str, Any], key: str, timeout: float
    ) -> CallToolResult:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return CallToolResult(content=[TextContent(type="text", text="done")])

    async def close(self) -> None:
        pass


async def test_a_reopened_connection_counts_towards_the_timeout_of_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[object] = []

    async def connect(*_: object, **__: object) -> Answering:
        opened.append(_)
        if len(opened) == 2:
            await asyncio.Event().wait()
        return Answering(CallUnanswered("the server died", sent=False))

    monkeypatch.setattr("daybook.tools.connection.connect", connect)
    settings = ToolServerSettings(url="https://tools.example/mcp")
    held = PooledSession(ToolServer("search", settings), PreloadedSecrets())
    await held.open()
    with pytest.raises(CallFailed, match=r'"search" was not ready within 0\.1 s$'):
        await held.call("reindex", {}, "k", 0.1)


@pytest.mark.parametrize(
    ("status", "repeated"), [(None, True), (404, True), (429, False), (500, False), (503, False)]
)
async def test_only_a_call_that_had_no_effect_is_repeated_over_a_new_connection(
    status: int | None, repeated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Answering(CallUnanswered(f"answered {status}", sent=False, status=status))
    second = Answering(None)
    opened = iter([first, second])

    async def connect(*_: object, **__: object) -> Answering:
        return next(opened)

    monkeypatch.setattr("daybook.tools.connection.connect", connect)
    settings = ToolServerSettings(url="https://tools.example/mcp")
    held = PooledSession(ToolServer("search", settings), PreloadedSecrets())
    await held.open()
    if repeated:
        assert await held.call("reindex", {}, "k", 60) == "done"
    else:
        with pytest.raises(CallFailed, match=f"answered {status}"):
            await held.call("reindex", {}, "k", 60)
    assert (first.calls, second.calls) == (1, int(repeated))
