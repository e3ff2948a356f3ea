"""The listener of an account: it ends when it is cancelled, and pauses after errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from daybook.features.conversations import listening
from daybook.features.conversations.listening import _Listener
from daybook.features.conversations.platform import Platform, PlatformError, Update
from tests.unit.features.conversations.test_handling import CHANNEL, FakePlatform
from tests.world import World

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("shared_ledger", "daybook_home", "prefect_is_away"),
]


class Closing(FakePlatform):
    """A service whose connection fails while it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.receives = asyncio.Event()
        self.receive_count = 0

    async def receive(self, after: int | None) -> Sequence[Update]:
        self.receive_count += 1
        self.receives.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise PlatformError("the connection was closed") from None
        return ()


class ClosingAccount:
    name, agent, account_id = CHANNEL, "default", "bot-1"

    def __init__(self) -> None:
        self.platform: FakePlatform = Closing()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Platform]:
        yield self.platform


async def test_a_listener_ends_when_it_is_cancelled_whatever_its_connection_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "MIN_PAUSE_SECONDS", 0.0)
    account = ClosingAccount()
    task = asyncio.create_task(_Listener(world.ledger, account).run())
    assert isinstance(account.platform, Closing)
    await account.platform.receives.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0.9)
    assert done
    assert task.cancelled()
    assert account.platform.receive_count == 1


class Failing(FakePlatform):
    """A service that fails at first, and then answers."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()
        self.failures = [PlatformError("502"), RuntimeError("a mistake"), PlatformError("429")]

    async def receive(self, after: int | None) -> Sequence[Update]:
        if self.failures:
            raise self.failures.pop(0)
        self.answers.set()
        await asyncio.Event().wait()
        return ()


class FailingAccount(ClosingAccount):
    def __init__(self) -> None:
        self.platform: FakePlatform = Failing()


async def test_a_listener_goes_on_after_each_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "MIN_PAUSE_SECONDS", 0.0)
    account = FailingAccount()
    task = asyncio.create_task(_Listener(world.ledger, account).run())
    assert isinstance(account.platform, Failing)
    waits = asyncio.create_task(account.platform.answers.wait())
    done, _ = await asyncio.wait([task, waits], return_when=asyncio.FIRST_COMPLETED)
    assert done == {waits}
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
