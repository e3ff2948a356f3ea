"""What a server that is held open says in one call is not taken for what it says in another."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from daybook.tools.connection import CallFailed
from daybook.tools.pool import PooledSession, PreloadedSecrets
from daybook.tools.server_blocks import ToolServer, ToolServerSettings
from tests.unit.tools.test_stdio import PROGRAM

pytestmark = pytest.mark.anyio

Opens = Callable[..., AbstractAsyncContextManager[PooledSession]]

CLOSED = -32000
"""The code by which the protocol's library tells a connection that broke; servers send it, too."""


@pytest.fixture
def opens(tmp_path: Path) -> Opens:
    """A server whose tool does ``called``, held open."""

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


async def test_an_error_that_it_once_sent_does_not_stand_for_its_death_in_a_later_call(
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


async def test_one_that_does_not_answer_in_time_is_ended_and_started_anew(opens: Opens) -> None:
    says = 'text(str(os.getpid())) if params["arguments"] else signal.pause()'
    async with opens(says) as held:
        first = await held.call("reindex", {"x": 1}, "k", 60)
        with pytest.raises(CallFailed, match=r"did not answer within 1 s.*is unknown"):
            await held.call("reindex", {}, "k", 1)
        assert await held.call("reindex", {"x": 1}, "k", 60) != first


async def test_an_answer_that_is_an_error_without_words_says_so(opens: Opens) -> None:
    says = 'says({"result": {"content": [], "isError": True}})'
    async with opens(says) as held:
        with pytest.raises(CallFailed, match="the tool failed without a message"):
            await held.call("reindex", {}, "k", 60)


async def test_one_that_died_between_two_calls_is_started_anew_for_the_second(
    opens: Opens,
) -> None:
    """That call was never sent: it is made once more, and the new program answers it."""
    async with opens("text(str(os.getpid()))") as held:
        first = int(await held.call("reindex", {}, "k", 60))
        os.kill(first, signal.SIGKILL)
        await _ended(held)
        second = int(await held.call("reindex", {}, "k", 60))
        assert second != first
        assert await held.call("reindex", {}, "k", 60) == str(second)


async def _ended(held: PooledSession) -> None:
    """Its program has ended, and that was noticed."""
    there: Any = held._open
    await there._wire._group.exited.wait()
