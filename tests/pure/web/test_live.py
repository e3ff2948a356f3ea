"""Streams of live updates, with a ledger whose answers the test gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from daybook.api.changes import Changes
from daybook.errors import DaybookError
from daybook.operations.login import LoginSession
from daybook.web import live
from daybook.web.live import LiveUpdates
from daybook.web.login import Admitted
from tests.waiting import becomes_true

pytestmark = pytest.mark.anyio

WITHIN = 20.0


class FakeLedger:
    """Answers of the poller's query; ``failure`` is raised instead if it is set."""

    def __init__(self) -> None:
        self.changes = Changes("first", frozenset())
        self.failure: Exception | None = None
        self.reads = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def read(self) -> Changes:
        self.reads += 1
        await self.may_answer.wait()
        if self.failure is not None:
            raise self.failure
        return self.changes


class Viewer:
    """A viewer of a live page: what its stream sent, and whether it ended."""

    def __init__(self, updates: LiveUpdates, session: str = "a", token_id: str = "") -> None:
        self.is_current = True
        self.status = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self.sent = asyncio.Queue[str]()
        self._leave = asyncio.Event()
        admitted = Admitted(LoginSession(session, 0, token_id), lambda: self.is_current)
        scope: Any = {"type": "http", "method": "GET", "path": live.PATH, "daybook": admitted}
        self.task = asyncio.create_task(
            updates({**scope, "headers": []}, self._receive, self._send)
        )

    async def _receive(self) -> Any:
        await self._leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        self.status = message.get("status", self.status)
        self.sent.put_nowait(message.get("body", b"").decode())

    async def version(self) -> str:
        """Return the version in the next event."""
        async with asyncio.timeout(WITHIN):
            while True:
                text = await self.sent.get()
                if text.startswith("data: "):
                    return text.removeprefix("data: ").strip()

    async def leave(self) -> None:
        self._leave.set()
        await self.end()

    async def end(self) -> None:
        async with asyncio.timeout(WITHIN):
            await self.task


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "POLL_INTERVAL_SECONDS", 0.001)


@pytest.fixture
async def ledger() -> FakeLedger:
    return FakeLedger()


@pytest.fixture
async def updates(ledger: FakeLedger) -> AsyncIterator[LiveUpdates]:
    found = LiveUpdates(ledger.read, clock=lambda: 0.0)
    yield found
    found.close()


async def test_a_viewer_gets_the_version_and_the_next_one_after_a_change(
    ledger: FakeLedger, updates: LiveUpdates
) -> None:
    viewer = Viewer(updates)
    first = await viewer.version()
    assert await Viewer(updates, "b").version() == first
    ledger.changes = Changes("second", frozenset())
    second = await viewer.version()
    assert second != first
    ledger.changes = Changes("first", frozenset())
    assert await viewer.version() == first


async def test_the_version_changes_with_the_minute(ledger: FakeLedger) -> None:
    now = 59.0
    updates = LiveUpdates(ledger.read, clock=lambda: now)
    viewer = Viewer(updates)
    first = await viewer.version()
    now = 60.0
    assert await viewer.version() != first
    updates.close()
    await viewer.end()


async def test_twenty_viewers_share_one_query(ledger: FakeLedger, updates: LiveUpdates) -> None:
    ledger.may_answer.clear()
    viewers = [Viewer(updates, str(number)) for number in range(20)]
    for each in viewers:
        assert await each.sent.get() == ""
        assert await each.sent.get() == ":\n\n"
    assert ledger.reads == 1
    ledger.may_answer.set()
    assert len({await each.version() for each in viewers}) == 1


async def test_without_viewers_nothing_is_read(
    ledger: FakeLedger, updates: LiveUpdates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LINGER_SECONDS", 0.0)
    assert ledger.reads == 0
    viewer = Viewer(updates)
    await viewer.version()
    await viewer.leave()

    async def has_stopped() -> bool:
        return updates.version == ""

    assert await becomes_true(has_stopped, WITHIN)
    before = ledger.reads
    viewer = Viewer(updates)
    await viewer.version()
    assert ledger.reads > before


async def test_two_hundred_streams_of_one_session_leave_room_for_others(
    updates: LiveUpdates,
) -> None:
    greedy = [Viewer(updates) for _ in range(200)]
    other = Viewer(updates, "b")
    await other.version()
    for each in greedy[live.MAX_STREAMS_PER_SESSION :]:
        await each.end()
    counts = [each.status for each in greedy]
    assert counts.count(200) == live.MAX_STREAMS_PER_SESSION
    assert counts.count(503) == 200 - live.MAX_STREAMS_PER_SESSION
    await greedy[0].leave()
    again = Viewer(updates)
    await again.version()


async def test_the_number_of_streams_of_all_sessions_is_limited(updates: LiveUpdates) -> None:
    viewers = [Viewer(updates, str(number)) for number in range(live.MAX_STREAMS + 1)]
    await viewers[-1].end()
    assert viewers[-1].status == 503
    await viewers[0].version()


async def test_many_sessions_of_shared_links_leave_room_for_other_links_and_the_operator(
    ledger: FakeLedger, updates: LiveUpdates
) -> None:
    ledger.changes = Changes("first", frozenset({"1", "2", "3"}))
    for link in ("1", "2", "3"):
        viewers = [Viewer(updates, f"{link}.{number}", link) for number in range(30)]
        allowed = min(live.MAX_STREAMS_PER_LINK, live.MAX_STREAMS_OF_LINKS * (3 - int(link)))
        for viewer in viewers[:allowed]:
            await viewer.version()
        for viewer in viewers[allowed:]:
            await viewer.end()
            assert viewer.status == 503
    for number in range(live.MAX_STREAMS - live.MAX_STREAMS_OF_LINKS):
        await Viewer(updates, f"own {number}").version()


async def test_a_viewer_that_does_not_read_holds_one_event_and_delays_nobody(
    ledger: FakeLedger, updates: LiveUpdates
) -> None:
    slow, quick = Viewer(updates), Viewer(updates, "b")
    await slow.version()
    await quick.version()
    slow.reads.clear()
    for number in range(50):
        ledger.changes = Changes(str(number), frozenset())
        last = await quick.version()
    slow.reads.set()
    waiting = [await slow.version()]
    while waiting[-1] != last:
        waiting.append(await slow.version())
    assert len(waiting) <= 2  # the one that it was sent meanwhile, and the last
    slow.reads.clear()
    await slow.leave()


@pytest.mark.parametrize("reason", ["logout", "revoked"])
async def test_a_stream_ends_with_its_session(
    ledger: FakeLedger, updates: LiveUpdates, reason: str
) -> None:
    ledger.changes = Changes("first", frozenset({"link"}))
    viewer, other = Viewer(updates, "a", "link"), Viewer(updates, "b")
    await viewer.version()
    await other.version()
    if reason == "logout":
        viewer.is_current = False
    else:
        ledger.changes = Changes("first", frozenset())
    await viewer.end()
    assert not other.task.done()


async def test_all_streams_end_when_the_server_stops(
    ledger: FakeLedger, updates: LiveUpdates
) -> None:
    ledger.may_answer.clear()
    viewers = [Viewer(updates, str(number)) for number in range(3)]
    for each in viewers:
        await each.sent.get()
    updates.close()
    for each in viewers:
        await each.end()
        assert each.status == 200
    late = Viewer(updates)
    await late.end()
    assert late.status == 503


@pytest.mark.parametrize("failure", [DaybookError("no ledger"), RuntimeError("a mistake")])
async def test_after_an_error_of_the_ledger_the_streams_continue(
    ledger: FakeLedger, updates: LiveUpdates, failure: Exception
) -> None:
    viewer = Viewer(updates)
    await viewer.version()
    ledger.failure, reads = failure, ledger.reads

    async def has_failed() -> bool:
        return ledger.reads > reads + 2

    assert await becomes_true(has_failed, WITHIN)
    ledger.changes, ledger.failure = Changes("second", frozenset()), None
    await viewer.version()
