"""Quiet hours: what waits, what does not, and in which order it arrives when they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from sqlmodel import col, select

from daybook import owners
from daybook.delivery import outbox, sending
from daybook.delivery.channels import registry
from daybook.delivery.dispatcher import DispatchResult, dispatch
from daybook.delivery.outbox import QueueKind
from daybook.delivery.outgoing import ChannelSender
from daybook.errors import InvalidInput, NotFound
from daybook.features.conversations import operations, quiet_hours, store
from daybook.features.conversations.channel import ConversationChannel
from daybook.features.conversations.handling import handle_new
from daybook.features.conversations.platform import Update, UpdateKind
from daybook.features.conversations.tables import PersonRow
from daybook.features.push import store as pushes
from daybook.jobs.model import normal_parameters
from daybook.ledger.states import Status
from daybook.ledger.tables import OutboxRow
from daybook.runs import claims
from daybook.runs.approvals import Question
from daybook.timing import TIMING
from tests.unit.features.conversations.test_channel import Service, ServiceAccount, queued
from tests.unit.features.conversations.test_handling import FakeAccount, FakePlatform
from tests.world import World

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("shared_ledger", "daybook_home"),
]

CHANNEL = "telegram"
HOURS = "11:00-20:00 UTC"
"""They end in eight hours: the clock of the tests shows 12:00."""
END = datetime(2026, 1, 15, 20, tzinfo=UTC)


class Night:
    """Anna's private chat, whose hours are quiet, and the dispatcher that sends to it."""

    def __init__(self, world: World, service: Service) -> None:
        self.world, self.service = world, service

    async def pair(self, person: str = "1", name: str = "Anna", hours: str = HOURS) -> None:
        now = self.world.ledger.now()
        async with self.world.ledger.write() as session:
            row = PersonRow(
                channel=CHANNEL,
                person_id=person,
                chat_id=person,
                name=name,
                role="operator",
                paired_at=now,
                used_at=now,
                quiet_hours=hours,
            )
            session.add(row)

    async def says(self, text: str, id_: str = "1") -> str:
        """Write in Anna's chat; return the answer, which waits to be sent."""
        update = Update(id_, int(id_), UpdateKind.MESSAGE, "1", "1", "Anna", "500", text)
        await store.put(self.world.ledger, CHANNEL, [update])
        await handle_new(self.world.ledger, FakeAccount(), FakePlatform())
        async with self.world.ledger.read() as session:
            key = store.answer_key(CHANNEL, id_)
            query = select(OutboxRow.body).where(col(OutboxRow.key) == key)
            return (await session.execute(query)).scalar_one_or_none() or ""

    async def send(self) -> DispatchResult:
        """Send what is due, as a process that has just started."""
        sender = ChannelSender(cast(Any, None), self.world.ledger, None)
        return await dispatch(self.world.ledger, "test", {QueueKind.CHANNEL: sender})

    @property
    def arrived(self) -> list[str]:
        return [each.text.partition("\n\n")[2] or each.text for each in self.service.sent]

    async def row(self, id_: str) -> OutboxRow:
        async with self.world.ledger.read() as session:
            return await session.get_one(OutboxRow, id_)

    def wakes(self) -> None:
        self.world.clock.move(END - self.world.clock.now())


@pytest.fixture
def night(world: World, monkeypatch: pytest.MonkeyPatch) -> Night:
    service = Service()

    async def find(client: object, name: str) -> ConversationChannel:
        return ConversationChannel(ServiceAccount(service))

    monkeypatch.setattr(registry, "find", find)
    return Night(world, service)


async def test_messages_wait_in_their_order_until_the_hours_end(night: Night) -> None:
    await night.pair()
    texts = [f"brief {number}" for number in range(6)]
    rows = []
    for number, text in enumerate(texts):
        night.world.passes(minutes=1)
        # Some name the chat, and some go to the operator who was paired first.
        rows.append(await queued(night.world, text, text, chat_id="1" if number % 2 else ""))
        await night.send()
    assert night.service.sent == []
    waiting = await night.row(rows[0].id)
    assert (waiting.status, waiting.attempts, waiting.tries) == ("pending", 0, [])
    assert waiting.next_at == END
    assert waiting.error == "waits until 2026-01-15 20:00:00 UTC: quiet hours of Anna"

    night.wakes()
    night.world.clock.move(timedelta(microseconds=-1))
    assert not await night.send()
    night.world.clock.move(timedelta(microseconds=1))
    assert (await night.send()).delivered == 6
    assert night.arrived == texts
    assert (await night.row(rows[0].id)).error is None


async def test_a_message_of_a_sender_that_was_killed_waits_too(night: Night) -> None:
    await night.pair()
    row = await queued(night.world, "a", "brief")
    async with night.world.ledger.write() as session:  # it was claimed, and nothing was recorded
        row.lease_until, row.holder, row.fence = night.world.at(seconds=30), "killed", 1
        session.add(row)
    assert not await night.send()
    night.world.clock.move(TIMING.delivery_lease)
    await night.send()
    assert (await night.row(row.id)).next_at == END
    night.wakes()
    await night.send()
    await night.send()
    assert night.arrived == ["brief"]


async def test_answers_to_what_a_person_wrote_are_sent_at_once(night: Night) -> None:
    await night.pair()
    await night.pair("2", "Ben", "")
    brief = await night.world.jobs.add("brief", on_demand=True, channel=CHANNEL, chat_id="1")
    for_ben = await night.world.jobs.add("ben", on_demand=True, channel=CHANNEL, chat_id="2")
    for_group = await night.world.jobs.add("group", on_demand=True, channel=CHANNEL, chat_id="-9")
    await night.says("/jobs", "1")
    await night.send()
    assert "brief" in night.arrived.pop()
    night.service.sent.clear()

    asked = await claims.request(night.world.ledger, brief, store.answer_key(CHANNEL, "1"), "api")
    for which, text in (
        (asked, "asked here"),
        (await night.world.runs.request(brief), "by itself"),
        (await night.world.runs.request(for_ben), "for Ben"),
        (await night.world.runs.request(for_group), "for the group"),
    ):
        await night.world.runs.finished(which, Status.SUCCEEDED, output=text)
        await night.send()
    assert night.arrived == ["asked here", "for Ben", "for the group"]
    reply = await claims.request_answer(
        night.world.ledger, "default:x", store.answer_key(CHANNEL, "1"), answers_anna()
    )
    # Its update does not have its id yet: the leader was killed after it had requested the run.
    await night.world.runs.finished(reply, Status.SUCCEEDED, output="the answer")
    await night.send()
    assert night.arrived[-1] == "the answer"
    assert night.service.sent[-1].reply_to == "500"


def answers_anna() -> dict[str, Any]:
    given = {"prompt": "hello", "notify": {"channel": CHANNEL, "chat_id": "1"}}
    return dict(normal_parameters("agent-prompt", given))


async def test_a_message_that_is_requested_in_another_chat_waits(night: Night) -> None:
    await night.pair("2", "Ben", "")
    await night.pair()
    stored = await night.world.jobs.add("brief", on_demand=True, channel=CHANNEL, chat_id="1")
    update = Update("7", 7, UpdateKind.MESSAGE, "2", "2", "Ben", "501", "/run brief")
    await store.put(night.world.ledger, CHANNEL, [update])
    run = await claims.request(night.world.ledger, stored, store.answer_key(CHANNEL, "7"), "api")
    await night.world.runs.finished(run, Status.SUCCEEDED, output="hello")
    await night.send()
    assert night.arrived == []


async def test_a_snoozed_message_and_the_rest_of_a_long_one_do_not_wait(night: Night) -> None:
    await night.pair(hours="")
    long = await queued(night.world, "a", "\n\n".join(f"{n} " + "x" * 100 for n in range(3)))
    night.service.fails_at = 1
    await night.send()
    assert len(night.service.sent) == 1
    await operations.set_quiet_hours("Anna", HOURS)
    again = await queued(night.world, f"{store.AGAIN}{long.id}:1", "again")
    night.world.passes(minutes=10)
    await night.send()
    assert (await night.row(long.id)).status == (await night.row(again.id)).status == "delivered"


@pytest.mark.parametrize(
    ("left", "is_sent"), [(timedelta(hours=8, minutes=59), True), (timedelta(hours=9), False)]
)
async def test_a_question_that_cannot_wait_is_sent_and_says_so(
    night: Night, left: timedelta, is_sent: bool
) -> None:
    await night.pair()
    night.service.max_characters = 4_000
    world = night.world
    stored = await world.jobs.add("brief", on_demand=True, channel=CHANNEL, chat_id="1")
    granted = await world.runs.running(await world.runs.request(stored))
    call = Question("1.1", "d" * 64, 1, "mail_send", 'to="ann"', left)
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, call)
    await night.send()
    notes = [each.note for each in night.service.sent]
    assert any("cannot wait until they end" in each for each in notes) == is_sent
    assert bool(notes) == is_sent


async def test_a_question_that_is_decided_before_the_hours_end_is_not_sent(night: Night) -> None:
    await night.pair()
    world = night.world
    asked = []
    for name in ("decided", "ended"):
        stored = await world.jobs.add(name, on_demand=True, channel=CHANNEL, chat_id="1")
        granted = await world.runs.running(await world.runs.request(stored))
        call = Question("1.1", "d" * 64, 1, "mail_send", 'to="ann"', timedelta(days=2))
        await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, call)
        asked.append(granted.run_id)
    await night.send()
    await claims.decide_approval(world.ledger, asked[0], 1, approve=False, by="Ben", reason="no")
    await claims.cancel(world.ledger, asked[1])
    async with world.ledger.read() as session:
        query = select(OutboxRow.status, OutboxRow.note).where(col(OutboxRow.event) == "approval")
        found = (await session.execute(query)).tuples().all()
    assert list(found) == [("suppressed", "withdrawn: it was decided before it was sent")] * 2
    night.wakes()
    await night.send()
    assert not any("wants to call" in each for each in night.arrived)


async def test_a_new_message_comes_after_those_that_waited_for_its_chat(night: Night) -> None:
    await night.pair()
    await queued(night.world, "a", "first")
    night.world.passes(minutes=1)
    await queued(night.world, "b", "second", chat_id="")
    await night.send()
    night.wakes()
    # To the operator, whose chat has not been looked up yet.
    await queued(night.world, "c", "third", chat_id="")
    await night.send()
    assert night.arrived == ["first", "second", "third"]


async def test_hours_that_end_while_a_message_is_prepared_do_not_hold_it(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    await night.pair()
    row = await queued(night.world, "a", "brief")
    check, record = quiet_hours.check, sending.record

    async def off_after_the_first_check(*given: Any) -> str:
        monkeypatch.setattr(quiet_hours, "check", check)
        try:
            return await check(*given)
        finally:
            await operations.set_quiet_hours("Anna", "off")

    monkeypatch.setattr(quiet_hours, "check", off_after_the_first_check)
    await night.send()
    assert night.arrived == ["brief"]

    async def off_before_it_is_recorded(*given: Any) -> None:
        await operations.set_quiet_hours("Anna", "off")
        await record(*given)

    await operations.set_quiet_hours("Anna", HOURS)
    row = await queued(night.world, "b", "another")
    monkeypatch.setattr(sending, "record", off_before_it_is_recorded)
    await night.send()
    assert night.arrived == ["brief", "another"]
    assert (await night.row(row.id)).status == "delivered"


async def test_a_change_of_the_hours_sends_what_waits_or_holds_it_anew(night: Night) -> None:
    await night.pair()
    row = await queued(night.world, "a", "first", chat_id="")
    await queued(night.world, "b", "second")
    await night.send()
    changed = await operations.set_quiet_hours("Anna", "12:00-13:00 UTC")
    assert changed.quiet_hours == "12:00-13:00 UTC"
    await night.send()
    assert night.arrived == []
    assert (await night.row(row.id)).next_at == END - timedelta(hours=7)
    snoozed = await queued(night.world, "c", "snoozed")
    async with night.world.ledger.write() as session:
        snoozed.next_at = night.world.at(hours=2)
        session.add(snoozed)
    await operations.set_quiet_hours("Anna", "off")
    await night.send()
    assert night.arrived == ["first", "second"]


async def test_a_person_who_is_unpaired_has_no_quiet_hours(night: Night) -> None:
    await night.pair()
    await queued(night.world, "a", "brief")
    await night.send()
    await operations.unpair("Anna")
    await night.send()
    assert night.arrived == ["brief"]


async def test_an_alert_that_waits_is_withdrawn_if_its_job_recovers(night: Night) -> None:
    await night.pair()
    world = night.world
    stored = await world.jobs.add("brief", on_demand=True, channel=CHANNEL, chat_id="1")
    for status in (Status.FAILED, Status.SUCCEEDED, Status.FAILED):
        world.passes(minutes=5)
        await world.runs.finished(await world.runs.request(stored), status)
        await night.send()
    async with world.ledger.read() as session:
        query = select(OutboxRow.status).where(col(OutboxRow.event) == "failed")
        found = (await session.execute(query.order_by(col(OutboxRow.created_at)))).scalars().all()
    assert list(found) == ["suppressed", "pending"]
    night.wakes()
    await night.send()
    assert len(night.service.sent) == 1


async def test_a_phone_is_notified_in_the_quiet_hours_of_a_chat(night: Night) -> None:
    await night.pair()
    row = await queued(night.world, "a", "it failed", purpose=outbox.ALERT, event="failed")
    await night.send()
    now = night.world.ledger.now()
    async with night.world.ledger.read() as session:
        pending = await pushes.pending(session, now - timedelta(hours=1), now)
    assert [each.id for each in pending] == [row.id]


async def test_the_hours_are_set_in_the_chat(night: Night) -> None:
    await night.pair(hours="")
    assert await night.says("/quiet", "1") == "There are no quiet hours."
    set_ = await night.says("/quiet 22:00-7:00 Europe/Berlin", "2")
    assert set_ == "Quiet hours: 22:00-7:00 Europe/Berlin."
    assert "is an empty range" in await night.says("/quiet 7:00-7:00", "3")
    assert (await operations.list_people())[0].quiet_hours == "22:00-7:00 Europe/Berlin"
    assert await night.says("/quiet off", "4") == "There are no quiet hours."
    with pytest.raises(NotFound):
        await operations.set_quiet_hours("nobody", "22:00-07:00")


async def test_an_agent_sets_no_quiet_hours(night: Night) -> None:
    await night.pair(hours="")
    with owners.acting_as(owners.Actor(owner="agent:helper")), pytest.raises(InvalidInput):
        await operations.set_quiet_hours("Anna", HOURS)
