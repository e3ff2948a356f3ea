"""The listener of an account: it ends when it is cancelled, and pauses after errors.

The second half listens to the local servers of the services through their real libraries.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from anyio.lowlevel import checkpoint
from sqlalchemy import func
from sqlmodel import col, select

from daybook.delivery import pending
from daybook.features.conversations import (
    accounts,
    chat_commands,
    listening,
    people,
    slack,
    store,
    telegram,
)
from daybook.features.conversations.listening import _Listener
from daybook.features.conversations.platform import Account, Platform, PlatformError, Update
from daybook.features.conversations.status import ConversationStatus
from daybook.features.conversations.store import UpdateState
from daybook.features.conversations.tables import UpdateRow
from daybook.ledger.engine import Ledger
from tests import bot_api, slack_api
from tests.bot_api import BotApi
from tests.chat_service import ChatService, Cut, Hanging
from tests.slack_api import SlackApi
from tests.unit.features.conversations.test_handling import CHANNEL, FakePlatform
from tests.waiting import becomes_true
from tests.world import World

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("shared_ledger", "daybook_home"),
]


class Closing(FakePlatform):
    """A service whose connection fails while it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.receives, self.news = asyncio.Event(), asyncio.Event()
        self.receive_count = 0

    async def receive(self, after: int | None) -> Sequence[Update]:
        self.receive_count += 1
        self.receives.set()
        try:
            await self.news.wait()
        except asyncio.CancelledError:
            raise PlatformError("the connection was closed") from None
        return ()


class ClosingAccount:
    name, agent, account_id, place = CHANNEL, "default", "bot-1", ""

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


async def test_a_listener_ends_when_the_channel_has_another_account(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the accounts are read again, and an old one takes nothing from the new one."""
    old = ClosingAccount()
    task = asyncio.create_task(_Listener(world.ledger, old).run())
    assert isinstance(old.platform, Closing)
    await old.platform.receives.wait()
    new = ClosingAccount()
    new.place = "Robots"
    await store.use_account(world.ledger, new)
    await store.put(world.ledger, CHANNEL, (), 7, new)
    old.platform.position = 500
    old.platform.news.set()
    async with asyncio.timeout(10):
        await task
    async with world.ledger.read() as session:
        assert await store.position_of(session, new, None, world.ledger.now()) == 7


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


# --- with the local services

SERVING: dict[str, Callable[[], AbstractAsyncContextManager[ChatService[Any]]]] = {
    "telegram": bot_api.serving,
    "slack": slack_api.serving,
}
HEARS = {"telegram": "getUpdates", "slack": "apps.connections.open"}
"""The method with which a service delivers updates, or connects to deliver them."""
TOO_MANY = {"telegram": bot_api.too_many(20), "slack": slack_api.too_many(20)}
REFUSED = {
    "telegram": bot_api.error(401, "Unauthorized"),
    "slack": slack_api.refused("token_revoked"),
}
HOUR = 3_600.0


class Heard:
    """A listener whose pauses are recorded and take no time, and the service that it listens to."""

    def __init__(self, world: World, service: ChatService[Any]) -> None:
        self.world, self.service = world, service
        self.account: Account = accounts.build(
            accounts.kind_of(service.service).store.slug, CHANNEL, service.settings
        )
        self.pauses = list[float]()
        self.commands = list[str]()

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await checkpoint()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        task = asyncio.create_task(_Listener(self.world.ledger, self.account, self.pause).run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def pair(self) -> None:
        self.service.write((await people.make_code(CHANNEL)).code)
        await self.until_done(1)

    async def until_done(self, count: int) -> None:
        query = (
            select(func.count())
            .select_from(UpdateRow)
            .where(col(UpdateRow.state) == UpdateState.DONE)
        )

        async def are_done() -> bool:
            async with self.world.ledger.read() as session:
                return bool((await session.execute(query)).scalar_one() >= count)

        assert await becomes_true(are_done, 200), self.pauses

    async def findings(self) -> list[str]:
        async with self.world.ledger.read() as session:
            found = await ConversationStatus.read(session, self.world.ledger.now())
        return [str(each.why) for each in found.findings()]

    async def until_found(self, text: str) -> None:
        """Wait for a finding that contains ``text``; with "", until there is none."""

        async def is_so() -> bool:
            found = await self.findings()
            return any(text in each for each in found) if text else not found

        assert await becomes_true(is_so, 20), await self.findings()


@pytest.fixture
async def heard(
    world: World, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Heard]:
    async with SERVING[request.param]() as service:
        found = Heard(world, service)

        async def answer(word: str, text: str, *given: Any) -> str:
            found.commands.append(text)
            return f"answer to {text}"

        monkeypatch.setattr(chat_commands, "answer", answer)
        yield found


BOTH = pytest.mark.parametrize("heard", SERVING, indirect=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
@BOTH
async def test_a_thousand_updates_that_arrive_twice_and_mixed_are_handled_once(
    heard: Heard,
) -> None:
    service, mix = heard.service, random.Random(62)
    texts = [f"/run job-{number}" for number in range(1_000)]
    async with heard.listening():
        await heard.pair()
    if isinstance(service, BotApi):
        service.redelivers, service.shuffle = True, mix.shuffle
        for each in texts:
            service.write(each)
    if isinstance(service, SlackApi):
        for each in texts:
            service.write(each, types=("message", "app_mention"))
        mixed = list(service.unacknowledged.items())
        mix.shuffle(mixed)
        service.unacknowledged = dict(mixed)
    async with heard.listening():
        await heard.until_done(1_001)
    expected = [each.removeprefix("/run ") for each in texts]
    assert sorted(heard.commands) == sorted(expected)
    if isinstance(service, BotApi):  # Slack delivers each alone, so it may mix the handling too
        assert heard.commands == expected
        assert heard.pauses == []


@BOTH
async def test_a_service_that_fails_loses_no_message_and_is_asked_seldom(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (telegram, slack):
        monkeypatch.setattr(module, "REQUEST_TIMEOUT_SECONDS", 0.2)
        monkeypatch.setattr(module, "POLL_SECONDS", 0.1)
    service, name = heard.service, heard.service.service
    async with heard.listening():
        await heard.pair()
    before = len(service.calls)
    faults = [TOO_MANY[name], bot_api.bad_gateway, Hanging, Cut]
    service.fail(HEARS[name], *faults)
    service.write("/run brief")
    async with heard.listening():
        await heard.until_done(2)
        await heard.until_found("")
        if isinstance(service, SlackApi):
            await service.sockets[0].close()
            service.write("/run another")
            await heard.until_done(3)
            faults.append(Cut)
    assert heard.commands == ["brief", "another"][: len(heard.commands)]
    assert heard.pauses[0] >= 20, "the time that the service has asked for"
    assert len(heard.pauses) == len(faults)
    assert service.calls[before:].count(service.identifies) == len(faults) + 1


@BOTH
async def test_a_token_that_is_revoked_is_a_finding_until_it_is_valid_again(heard: Heard) -> None:
    service, name = heard.service, heard.service.service
    async with heard.listening():
        await heard.pair()
        assert await heard.findings() == []
        count = 60
        service.fail(service.identifies, *[REFUSED[name]] * count)
        if isinstance(service, SlackApi):
            await service.sockets[0].close()
        else:
            service.fail(HEARS[name], REFUSED[name])
            service.write("/run brief")
        await heard.until_found("refuses the token")
        await service.until(lambda: not service.faults[service.identifies], 20)
        service.write("/run brief")
        await heard.until_found("")
        await heard.until_done(2)
    assert "brief" in heard.commands
    assert sum(heard.pauses) >= (count - 1) * HOUR / 60, "at most one attempt a minute"


@pytest.mark.parametrize("heard", ["telegram"], indirect=True)
async def test_messages_that_wait_are_sent_when_the_account_can_be_reached_again(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not if only a poll has failed: the pauses between their attempts would be lost."""
    released = list[str]()

    async def send_now(_: Ledger, channel: str) -> None:
        released.append(channel)

    monkeypatch.setattr(pending, "send_now", send_now)
    service = heard.service
    async with heard.listening():
        await heard.pair()
        assert released == [CHANNEL]
        done = 1
        for methods in ((HEARS["telegram"],), (HEARS["telegram"], service.identifies)):
            for each in methods:
                service.fail(each, bot_api.bad_gateway)
            service.write("/run brief")  # for the poll that has begun
            await service.until(partial(has_no_fault, service, methods[-1]))
            service.write("/run brief")
            done += 2
            await heard.until_done(done)
            assert len(released) == len(methods)


def has_no_fault(service: ChatService[Any], method: str) -> bool:
    return not service.faults[method]
