"""Messages of the process that prepares Prefect, as `up` reads them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daybook.api.sync import SyncReport
from daybook.errors import DaybookError, InvalidInput, PrefectUnreachable
from daybook.home import Home
from daybook.operations import preparation
from daybook.operations.preparation import MessageKind, Preparation
from daybook.prefect.report import ReconcileReport
from daybook.processes import children

pytestmark = pytest.mark.anyio


class Talk:
    """A `preparation.Reporter` that records what it gets."""

    def __init__(self) -> None:
        self.shown = list[Any]()

    def say(self, line: str) -> None:
        self.shown.append(line)

    def progress(self, line: str) -> None:
        self.shown.append(line)

    def synced(self, report: SyncReport) -> None:
        self.shown.append(report)


@asynccontextmanager
async def piped(talk: Talk) -> AsyncIterator[tuple[preparation._Pipe, Preparation]]:
    """Yield both ends of a pipe; the child has printed `no space left`."""
    reader, writer = os.pipe()
    lines = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(reader, "rb")
    )
    child = cast(Any, SimpleNamespace(tail=lambda: "no space left"))
    pipe = preparation._Pipe(writer)
    try:
        yield pipe, Preparation(child, lines, talk)
    finally:
        transport.close()
        pipe.close()


async def test_up_shows_what_the_child_reports_until_the_expected_message() -> None:
    talk, report = Talk(), SyncReport.of(ReconcileReport(unchanged=3))
    async with piped(talk) as (pipe, prepared):
        pipe.say("Created the agent `default`")
        pipe.synced(report)
        pipe.send(MessageKind.PREPARED)
        pipe.say("later")
        pipe.send(MessageKind.FACTS, {"jobs": 1})
        assert await prepared.wait_for(MessageKind.PREPARED) is None
        assert talk.shown == ["Created the agent `default`", report]
        assert await prepared.wait_for(MessageKind.FACTS) == {"jobs": 1}
    assert talk.shown[2:] == ["later"]


@pytest.mark.parametrize(
    "error",
    [InvalidInput("home", "is full", "free some"), PrefectUnreachable("http://x/api", "no answer")],
)
async def test_an_error_of_the_child_is_raised_in_up(
    error: DaybookError, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(preparation, "_work", fail)
    async with piped(Talk()) as (pipe, prepared):
        descriptor = os.dup(pipe._file.fileno())
        assert await asyncio.to_thread(preparation.main, ["--report", str(descriptor)]) == (
            error.exit_code
        )
        with pytest.raises(type(error)) as raised:
            await prepared.wait_for(MessageKind.ONLINE)
    assert (str(raised.value), vars(raised.value)) == (str(error), vars(error))


async def test_an_unexpected_error_of_the_child_is_named_in_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise LookupError("no such table")

    monkeypatch.setattr(preparation, "_work", fail)
    async with piped(Talk()) as (pipe, prepared):
        descriptor = os.dup(pipe._file.fileno())
        assert await asyncio.to_thread(preparation.main, ["--report", str(descriptor)]) == 1
        with pytest.raises(DaybookError, match=r"has failed: LookupError\('no such table'\)"):
            await prepared.wait_for(MessageKind.ONLINE)
    assert "Traceback" in capsys.readouterr().err


async def test_a_child_that_ends_without_a_message_is_an_error_with_its_log() -> None:
    async with piped(Talk()) as (pipe, prepared):
        pipe.close()
        with pytest.raises(
            DaybookError, match="the preparation of Prefect has ended\nno space left"
        ):
            await prepared.wait_for(MessageKind.PREPARED)


async def test_a_child_whose_up_has_ended_ends_too(tmp_path: Path) -> None:
    async def work(talk: preparation._Pipe, *, link: bool) -> None:
        talk.say("is a server there?")
        raise AssertionError("up has ended")

    reader, writer = os.pipe()
    os.close(reader)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(preparation, "_work", work)
        assert await asyncio.to_thread(preparation.main, ["--report", str(writer)]) == 0


async def test_a_child_whose_pipe_cannot_be_connected_is_ended(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = list[str]()

    async def terminate() -> None:
        ended.append("ended")

    async def start(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(terminate=terminate)

    async def interrupted(*_: Any) -> None:
        raise asyncio.CancelledError

    def note(_: Any) -> None:
        pass

    monkeypatch.setattr(children, "start", start)
    monkeypatch.setattr(asyncio.get_running_loop(), "connect_read_pipe", interrupted)
    prefect, record = SimpleNamespace(api_url="http://x/api", child=None), SimpleNamespace()
    record.add_child = record.remove_child = note
    with pytest.raises(asyncio.CancelledError):
        async with preparation.start(
            daybook_home, cast(Any, prefect), cast(Any, record), Talk(), link=False
        ):
            pass
    assert ended == ["ended"]
