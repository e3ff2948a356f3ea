"""Dispatcher of the outbox in the test's process, with a real ledger, Prefect and receiver."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from sqlmodel import select

from daybook.delivery import destinations, sending
from daybook.delivery import dispatcher as module
from daybook.delivery import outbox as book
from daybook.delivery.dispatcher import DispatchResult, _Dispatcher
from daybook.delivery.outgoing import dispatch_outgoing
from daybook.home import Home
from daybook.ledger.tables import OutboxRow, QueueRow
from daybook.resources import secrets
from tests.at_prefect import add_document
from tests.e2e.delivery.conftest import ReceiverProcess, ask, callbacks, pending, tries
from tests.receiver import answer, serving
from tests.waiting import becomes_true
from tests.world.prefect_world import PrefectWorld

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


async def _drain(world: PrefectWorld, **given: object) -> DispatchResult:
    return await dispatch_outgoing(world.ledger, world.client, "here:1", ui=None, **given)  # type: ignore[arg-type]


async def _row(world: PrefectWorld, id_: str) -> OutboxRow:
    return (await callbacks(world))[id_]


@pytest.mark.slow
async def test_due_callbacks_are_sent_signed_and_recorded_as_delivered(
    world: PrefectWorld, receiver: ReceiverProcess
) -> None:
    ids = await ask(world, *[f"{receiver.address}/hook"] * 3, run_id="r1")
    assert await _drain(world) == DispatchResult(delivered=3, ended={"r1": None})
    for row in (await callbacks(world)).values():
        assert (row.status, row.attempts, row.lease_until) == ("delivered", 1, None)
        assert row.note.startswith("signed with the home's secret")
    assert {each["headers"]["webhook-id"] for each in receiver.got()} == set(ids)
    assert not await _drain(world)


@pytest.mark.slow
async def test_a_failed_callback_is_not_sent_again_before_its_backoff_ends(
    world: PrefectWorld, receiver: ReceiverProcess
) -> None:
    receiver.says("500")
    [id_] = await ask(world, f"{receiver.address}/hook")
    assert await _drain(world) == DispatchResult(again=1)
    assert not await _drain(world)
    receiver.says("well")
    world.passes(seconds=6)
    assert await _drain(world) == DispatchResult(delivered=1)
    row = await _row(world, id_)
    assert [each["status_code"] for each in row.tries] == [500, 200]


async def test_a_dispatch_for_one_run_sends_only_that_runs_callbacks(
    world: PrefectWorld, receiver: ReceiverProcess
) -> None:
    [first] = await ask(world, f"{receiver.address}/mine", run_id="r1")
    [other] = await ask(world, f"{receiver.address}/other", run_id="r2")
    assert await _drain(world, run_id="r1", hurried=True) == DispatchResult(
        delivered=1, ended={"r1": None}
    )
    assert (await _row(world, first)).status == "delivered"
    assert (await _row(world, other)).attempts == 0


async def test_a_later_callback_is_sent_while_an_earlier_one_hangs(
    world: PrefectWorld, receiver: ReceiverProcess
) -> None:
    [hangs] = await ask(world, f"{receiver.address}/hang")
    working = asyncio.create_task(_drain(world))
    assert await becomes_true(lambda: _got(receiver, 1), 20)
    [later] = await ask(world, f"{receiver.address}/later", run_id="later")

    async def delivered() -> bool:
        return (await _row(world, later)).status == "delivered"

    assert await becomes_true(delivered, 10)
    assert (await _row(world, hangs)).attempts == 0
    working.cancel()
    await asyncio.wait({working})


async def _got(receiver: ReceiverProcess, count: int) -> bool:
    return len(receiver.got()) == count


@pytest.mark.slow
async def test_a_cancelled_dispatch_records_finished_tries_and_releases_the_rest(
    world: PrefectWorld, receiver: ReceiverProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The dispatcher records results in batches, so the test cancels it before it records these.
    monkeypatch.setattr(module, "BATCH_WAIT_SECONDS", 60.0)
    drains: list[_Dispatcher] = []

    class CountingDispatcher(_Dispatcher):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            drains.append(self)

    monkeypatch.setattr(module, "_Dispatcher", CountingDispatcher)
    ids = await ask(world, *[f"{receiver.address}/hook", f"{receiver.address}/hang"] * 5)
    working = asyncio.create_task(_drain(world))

    async def known() -> bool:
        return len(receiver.got()) == 10 and len(drains[0]._tried) == 5

    assert await becomes_true(known, 20)
    assert await tries(world) == 0
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    rows = await callbacks(world)
    for number, id_ in enumerate(ids):
        done = number % 2 == 0
        status = "delivered" if done else "pending"
        found = rows[id_].status, rows[id_].attempts, rows[id_].lease_until
        assert found == (status, int(done), None), number


@pytest.mark.slow
async def test_without_prefect_a_file_message_is_sent_and_callbacks_stay_pending(
    world: PrefectWorld, receiver: ReceiverProcess, daybook_home: Home
) -> None:
    """A message to a file arrives, however many callbacks are queued before it."""
    ids = await ask(
        world, *(f"{receiver.address}/{number}" for number in range(module.MAX_IN_FLIGHT))
    )
    world.passes(seconds=1)
    await _tell(world, "nobody-knows-it")
    await _tell(world, "file", chat_id="alerts.md")
    async with get_client() as lost:
        lost._client.base_url = httpx.URL("http://127.0.0.1:1/api/")
        sent = await dispatch_outgoing(world.ledger, lost, "here:1", ui=None)
    assert sent == DispatchResult(delivered=1, prefect_unreachable=True, ended={"r1": None})
    assert "Forty-two." in (daybook_home.path / "out" / "alerts.md").read_text()
    rows = await callbacks(world)
    for id_ in ids:
        found = rows[id_].status, rows[id_].attempts, rows[id_].lease_until
        assert found == ("pending", 0, None)
    assert receiver.got() == []
    again = await _drain(world)
    assert (again.delivered, again.again, again.prefect_unreachable) == (
        module.MAX_IN_FLIGHT,
        1,
        False,
    )


async def test_an_error_of_prefect_uses_no_try_and_blocks_no_other_delivery(
    world: PrefectWorld, receiver: ReceiverProcess
) -> None:
    await _add_token(world)
    await destinations.add(world.client, "ops", f"{receiver.address}/ops", token="ops-token")
    [with_token] = await ask(world, f"{receiver.address}/ops")
    await _tell(world, "team")
    many = await ask(world, *[f"{receiver.address}/hook"] * (module.MAX_IN_FLIGHT + 1), run_id="r2")
    async with serving() as broken, get_client() as client:
        await destinations.load_index(client)
        broken.steps = [answer(500, b"s3cr3t")]
        client._client.base_url = httpx.URL(f"{broken.address}/api/")
        sent = await dispatch_outgoing(world.ledger, client, "here:1", ui=None)
    assert sent == DispatchResult(delivered=len(many), held=True, ended={"r2": None})
    row = await _row(world, with_token)
    assert (row.status, row.attempts, row.lease_until) == ("pending", 0, None)
    assert await pending(world) == 2
    async with world.ledger.read() as session:
        assert (await session.execute(select(QueueRow))).all() == []
    again = await _drain(world)  # an unknown channel is a failed try
    assert (again.delivered, again.again, again.held) == (1, 1, False)


@pytest.mark.slow
async def test_an_unreachable_prefect_before_the_token_is_read_uses_no_try(
    world: PrefectWorld, receiver: ReceiverProcess
) -> None:
    await _add_token(world)
    await destinations.add(world.client, "ops", f"{receiver.address}/hook", token="ops-token")
    [id_] = await ask(world, f"{receiver.address}/hook")
    async with get_client() as client:
        await destinations.load_index(client)
        client._client.base_url = httpx.URL("http://127.0.0.1:1/api/")
        sent = await dispatch_outgoing(world.ledger, client, "here:1", ui=None)
    assert sent == DispatchResult(prefect_unreachable=True)
    row = await _row(world, id_)
    assert (row.status, row.attempts, row.lease_until) == ("pending", 0, None)
    assert await _drain(world) == DispatchResult(delivered=1)
    assert receiver.got()[0]["headers"]["authorization"] == "Bearer t0ken"


async def test_invalid_addresses_block_no_other_callback_and_are_not_logged(
    world: PrefectWorld, receiver: ReceiverProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bad = await ask(world, "http://[s3cr3t", "ftp://s3cr3t.example", "http://127.0.0.1:0/?s3cr3t")
    good = await ask(world, f"{receiver.address}/hook", run_id="r1")
    sent = await _drain(world)
    assert (sent.delivered, sent.again) == (1, 3)
    rows = await callbacks(world)
    assert rows[good[0]].status == "delivered"
    for id_ in bad:
        assert rows[id_].attempts == 1 and rows[id_].error
        assert "s3cr3t" not in str(rows[id_].error) + caplog.text


async def _add_token(world: PrefectWorld) -> None:
    token = {"value": "t0ken", "hosts": ["127.0.0.1"]}
    await add_document(secrets.STORE, world.client, "ops-token", token)


async def _tell(world: PrefectWorld, channel: str, chat_id: str = "") -> None:
    async with world.ledger.write() as session:
        await book.enqueue_message(
            session,
            key=f"test:{channel}",
            purpose="message",
            event="completed",
            channel=channel,
            chat_id=chat_id,
            subject="brief: completed",
            body="Forty-two.",
            run_id="r1",
            now=world.ledger.now(),
        )


async def test_a_message_is_sent_to_its_channel_and_retried_if_that_is_unknown(
    world: PrefectWorld, daybook_home: Home
) -> None:
    await _tell(world, "file", chat_id="out.md")
    await _tell(world, "nobody-knows-it")
    sent = await _drain(world)
    assert (sent.delivered, sent.again) == (1, 1)
    assert "Forty-two." in (daybook_home.path / "out" / "out.md").read_text()


async def test_a_hurried_dispatch_starts_no_message_that_could_arrive_twice(
    world: PrefectWorld, receiver: ReceiverProcess, daybook_home: Home
) -> None:
    await ask(world, f"{receiver.address}/hook", run_id="r1")
    await _tell(world, "file", chat_id="out.md")
    await _tell(world, "nobody-knows-it")
    assert await _drain(world, run_id="r1", hurried=True) == DispatchResult(
        delivered=2, ended={"r1": None}
    )
    async with world.ledger.read() as session:
        pending = select(OutboxRow).where(OutboxRow.status == "pending")
        [left] = (await session.execute(pending)).scalars().all()
    assert (left.address, left.attempts, left.lease_until) == ("nobody-knows-it", 0, None)


async def test_a_dispatch_claims_nothing_after_its_claim_period_ends(
    world: PrefectWorld, receiver: ReceiverProcess
) -> None:
    await ask(world, f"{receiver.address}/hook")
    assert not await _drain(world, claims_for=-1.0)
    assert await _drain(world, claims_for=20.0) == DispatchResult(delivered=1)


@pytest.mark.slow
async def test_a_dispatch_that_lost_a_callbacks_lease_records_no_try(
    world: PrefectWorld, receiver: ReceiverProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module, "POLL_INTERVAL_SECONDS", 60.0
    )  # else it would claim its own row again
    receiver.says("hang")
    [id_] = await ask(world, f"{receiver.address}/hook")
    await destinations.add(world.client, "storm", receiver.address, timeout=5)
    working = asyncio.create_task(_drain(world))
    assert await becomes_true(lambda: _got(receiver, 1), 20)
    world.passes(seconds=100)
    [taken] = await sending.claim(world.ledger, "there:2", most=1)
    await working
    row = await _row(world, id_)
    assert (row.attempts, row.holder, row.fence) == (0, "there:2", taken.fence)
