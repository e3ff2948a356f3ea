"""Sessions are woken by one signed request, which an HTTP receiver on this machine gets."""

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
from daybook.home import Home
from daybook.ledger.tables import OutboxRow
from daybook.tasks import cycle, queue, sessions
from daybook.tasks.model import EscalationPolicy
from daybook.tasks.notifier import StarvingRun
from daybook.tasks.statistics import CycleReport
from tests.e2e.delivery.conftest import ReceiverProcess
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


async def _capable() -> Mapping[str, frozenset[str]]:
    return {}


async def _told(starving: StarvingRun) -> None:
    raise AssertionError(starving)


async def _cycle(world: World, receiver: ReceiverProcess) -> CycleReport:
    policy = EscalationPolicy(wake_url=f"{receiver.address}/wake?key=private")
    return await cycle.cycle(world.ledger, policy=policy, notifier=_told, capabilities_of=_capable)


async def _wakes(world: World) -> list[OutboxRow]:
    of_ours = select(OutboxRow).where(col(OutboxRow.purpose) == book.WAKE)
    async with world.ledger.read() as session:
        found = await session.execute(of_ours.order_by(col(OutboxRow.created_at)))
        return list(found.scalars())


async def _queued(world: World, *names: str) -> dict[str, str]:
    """A session for each name, and a task that only it can do; the runs' ids."""
    runs = {}
    for name in names:
        await sessions.register(world.ledger, name, capabilities=[name])
        _, run = await queue.add(world.ledger, f"for {name}", capabilities=[name])
        runs[name] = run.id
    return runs


async def test_one_signed_request_wakes_all_of_a_cycle(
    world: World, receiver: ReceiverProcess, daybook_home: Home
) -> None:
    runs = await _queued(world, "one", "two", "three")
    assert (await _cycle(world, receiver)).wakes_tried == 3
    assert await dispatch_outgoing(world.ledger, world.client, "here:1") == DispatchResult(
        delivered=1
    )

    (got,) = receiver.got()
    assert got["path"] == "/wake?key=private"
    secret = home_secret.default_secret(daybook_home, world.ledger.now())
    said = Webhook(secret).verify(got["body"].encode(), got["headers"])
    assert said == json.loads(got["body"])
    assert said["event"] == got["headers"]["x-cronevent"] == "task.wake"
    assert {each["session"]: each["run_id"] for each in said["targets"]} == runs

    # It arrived: for a minute none of them is woken, and nothing is sent.
    report = await _cycle(world, receiver)
    assert (report.wakes_succeeded, report.count("recently_notified")) == (3, 3)
    world.passes(seconds=61)
    assert (await _cycle(world, receiver)).wakes_tried == 3
    assert await dispatch_outgoing(world.ledger, world.client, "here:1") == DispatchResult(
        delivered=1
    )
    assert len(receiver.got()) == 2


async def test_a_wake_that_is_refused_is_not_tried_again_and_the_next_cycle_is(
    world: World, receiver: ReceiverProcess
) -> None:
    await _queued(world, "one", "two")
    receiver.says("500")
    await _cycle(world, receiver)
    assert await dispatch_outgoing(world.ledger, world.client, "here:1") == DispatchResult(failed=1)
    (row,) = await _wakes(world)
    assert (row.status, row.attempts) == ("failed", 1)
    assert "500" in str(row.error)

    world.passes(seconds=15)
    receiver.says("well")
    report = await _cycle(world, receiver)
    assert (report.wakes_failed, report.wakes_tried) == (2, 2)
    assert "500" in report.errors[0]
    # The query, in which a token may stand, is in nothing that is told.
    assert "private" not in report.summary().model_dump_json() + str(row.error) + row.lane
    # After a failure the lane lets few through, but these are one.
    assert await dispatch_outgoing(world.ledger, world.client, "here:1") == DispatchResult(
        delivered=1
    )
    assert (await _cycle(world, receiver)).wakes_succeeded == 2


@pytest.mark.slow
async def test_where_nobody_listens_cycles_go_on(world: World, receiver: ReceiverProcess) -> None:
    await _queued(world, "one")
    await receiver.kill()
    for number in range(3):
        report = await _cycle(world, receiver)
        assert (report.wakes_tried, report.wakes_failed) == (1, min(number, 1))
        assert await dispatch_outgoing(world.ledger, world.client, "here:1") == DispatchResult(
            failed=1
        )
        world.passes(seconds=timedelta(seconds=15).total_seconds())
    async with world.ledger.read() as session:
        alerts = select(OutboxRow).where(col(OutboxRow.purpose) == book.ALERT)
        assert (await session.execute(alerts)).first() is None
