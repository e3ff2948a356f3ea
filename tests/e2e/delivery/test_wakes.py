"""Signed wake requests for task sessions, sent to a real HTTP receiver on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

import pytest
from sqlmodel import col, select
from standardwebhooks import Webhook

from daybook.delivery import home_secret
from daybook.delivery import outbox as book
from daybook.delivery.dispatcher import DispatchResult
from daybook.delivery.outgoing import dispatch_outgoing
from daybook.features.tasks import cycle, queue, sessions
from daybook.features.tasks.notifier import StarvingRun
from daybook.features.tasks.policy import SchedulerPolicy
from daybook.features.tasks.statistics import CycleReport
from daybook.home import Home
from daybook.ledger.tables import OutboxRow
from tests.e2e.delivery.conftest import ReceiverProcess
from tests.world.prefect_world import PrefectWorld

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


async def _capable() -> Mapping[str, frozenset[str]]:
    return {}


async def _notified(starving: StarvingRun) -> None:
    raise AssertionError(starving)


async def _cycle(world: PrefectWorld, receiver: ReceiverProcess) -> CycleReport:
    policy = SchedulerPolicy(wake_url=f"{receiver.address}/wake?key=private")
    return await cycle.cycle(
        world.ledger, policy=policy, notifier=_notified, capabilities_of=_capable
    )


async def _wakes(world: PrefectWorld) -> list[OutboxRow]:
    of_ours = select(OutboxRow).where(col(OutboxRow.purpose) == book.WAKE)
    async with world.ledger.read() as session:
        found = await session.execute(of_ours.order_by(col(OutboxRow.created_at)))
        return list(found.scalars())


async def _queued(world: PrefectWorld, *names: str) -> dict[str, str]:
    """Register a session and add a matching task for each name; return the run ids by name."""
    runs = {}
    for name in names:
        await sessions.register(world.ledger, name, capabilities=[name])
        _, run = await queue.add(world.ledger, f"for {name}", capabilities=[name])
        runs[name] = run.id
    return runs


@pytest.mark.floor("D", "BatchWaker.WakeMany: one call for all sessions of a cycle")
async def test_one_signed_request_wakes_all_sessions_of_a_cycle(
    world: PrefectWorld, receiver: ReceiverProcess, daybook_home: Home
) -> None:
    runs = await _queued(world, "one", "two", "three")
    assert (await _cycle(world, receiver)).wakes_tried == 3
    assert await dispatch_outgoing(world.ledger, world.client, "here:1", ui=None) == DispatchResult(
        delivered=1
    )

    (got,) = receiver.got()
    assert got["path"] == "/wake?key=private"
    secret = home_secret.default_secret(daybook_home, world.ledger.now())
    payload = Webhook(secret).verify(got["body"].encode(), got["headers"])
    assert payload == json.loads(got["body"])
    assert payload["event"] == got["headers"]["x-cronevent"] == "task.wake"
    assert {each["session"]: each["run_id"] for each in payload["targets"]} == runs

    # The wake has arrived, so no session is woken again for a minute.
    report = await _cycle(world, receiver)
    assert (report.wakes_succeeded, report.count("recently_notified")) == (3, 3)
    world.passes(seconds=61)
    assert (await _cycle(world, receiver)).wakes_tried == 3
    assert await dispatch_outgoing(world.ledger, world.client, "here:1", ui=None) == DispatchResult(
        delivered=1
    )
    assert len(receiver.got()) == 2


async def test_a_refused_wake_is_not_retried_but_the_next_cycle_wakes_again(
    world: PrefectWorld, receiver: ReceiverProcess
) -> None:
    await _queued(world, "one", "two")
    receiver.says("500")
    await _cycle(world, receiver)
    assert await dispatch_outgoing(world.ledger, world.client, "here:1", ui=None) == DispatchResult(
        failed=1
    )
    (row,) = await _wakes(world)
    assert (row.status, row.attempts) == ("failed", 1)
    assert "500" in str(row.error)

    world.passes(seconds=15)
    receiver.says("well")
    report = await _cycle(world, receiver)
    assert (report.wakes_failed, report.wakes_tried) == (2, 2)
    assert "500" in report.errors[0]
    # No report contains the URL's query, which may hold a token.
    assert "private" not in report.summary().model_dump_json() + str(row.error) + row.queue
    # After a failure the queue sends few requests at a time, but all wakes are one request.
    assert await dispatch_outgoing(world.ledger, world.client, "here:1", ui=None) == DispatchResult(
        delivered=1
    )
    assert (await _cycle(world, receiver)).wakes_succeeded == 2


@pytest.mark.slow
async def test_cycles_continue_without_an_alert_if_the_wake_receiver_is_down(
    world: PrefectWorld, receiver: ReceiverProcess
) -> None:
    await _queued(world, "one")
    await receiver.kill()
    for number in range(3):
        report = await _cycle(world, receiver)
        assert (report.wakes_tried, report.wakes_failed) == (1, min(number, 1))
        assert await dispatch_outgoing(
            world.ledger, world.client, "here:1", ui=None
        ) == DispatchResult(failed=1)
        world.passes(seconds=timedelta(seconds=15).total_seconds())
    async with world.ledger.read() as session:
        alerts = select(OutboxRow).where(col(OutboxRow.purpose) == book.ALERT)
        assert (await session.execute(alerts)).first() is None
