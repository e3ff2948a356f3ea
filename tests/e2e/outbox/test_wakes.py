"""Sessions are woken by one signed request, which an HTTP receiver on this machine gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

import pytest
from sqlmodel import col, select
from standardwebhooks import Webhook

from daybook.home import Home
from daybook.ledger import outbox as book
from daybook.ledger.tables import OutboxRow
from daybook.outbox import home_secret
from daybook.outbox.drain import Sent, drain
from daybook.spec.tasks import Ladder
from daybook.tasks import cycle, queue, sessions
from daybook.tasks.sink import Starving
from daybook.tasks.statistics import Report
from tests.e2e.outbox.conftest import Outbox, Receiver

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


async def _capable() -> Mapping[str, frozenset[str]]:
    return {}


async def _told(starving: Starving) -> None:
    raise AssertionError(starving)


async def _cycle(outbox: Outbox, receiver: Receiver) -> Report:
    ladder = Ladder(wake_url=f"{receiver.address}/wake?key=private")
    return await cycle.cycle(outbox.ledger, ladder=ladder, sink=_told, capabilities_of=_capable)


async def _wakes(outbox: Outbox) -> list[OutboxRow]:
    of_ours = select(OutboxRow).where(col(OutboxRow.purpose) == book.WAKE)
    async with outbox.ledger.read() as session:
        found = await session.execute(of_ours.order_by(col(OutboxRow.created_at)))
        return list(found.scalars())


async def _queued(outbox: Outbox, *names: str) -> dict[str, str]:
    """A session for each name, and a task that only it can do; the runs' ids."""
    runs = {}
    for name in names:
        await sessions.register(outbox.ledger, name, capabilities=[name])
        _, run = await queue.add(outbox.ledger, f"for {name}", capabilities=[name])
        runs[name] = run.id
    return runs


async def test_one_signed_request_wakes_all_of_a_cycle(
    outbox: Outbox, receiver: Receiver, daybook_home: Home
) -> None:
    runs = await _queued(outbox, "one", "two", "three")
    assert (await _cycle(outbox, receiver)).wakes_tried == 3
    assert await drain(outbox.ledger, outbox.client, "here:1") == Sent(delivered=1)

    (got,) = receiver.got()
    assert got["path"] == "/wake?key=private"
    secret = home_secret.default_secret(daybook_home, outbox.ledger.now())
    said = Webhook(secret).verify(got["body"].encode(), got["headers"])
    assert said == json.loads(got["body"])
    assert said["event"] == got["headers"]["x-cronevent"] == "task.wake"
    assert {each["session"]: each["run_id"] for each in said["targets"]} == runs

    # It arrived: for a minute none of them is woken, and nothing is sent.
    report = await _cycle(outbox, receiver)
    assert (report.wakes_succeeded, report.count("recently_notified")) == (3, 3)
    outbox.clock.move(seconds=61)
    assert (await _cycle(outbox, receiver)).wakes_tried == 3
    assert await drain(outbox.ledger, outbox.client, "here:1") == Sent(delivered=1)
    assert len(receiver.got()) == 2


async def test_a_wake_that_is_refused_is_not_tried_again_and_the_next_cycle_is(
    outbox: Outbox, receiver: Receiver
) -> None:
    await _queued(outbox, "one", "two")
    receiver.says("500")
    await _cycle(outbox, receiver)
    assert await drain(outbox.ledger, outbox.client, "here:1") == Sent(failed=1)
    (row,) = await _wakes(outbox)
    assert (row.status, row.attempts) == ("failed", 1)
    assert "500" in str(row.error)

    outbox.clock.move(seconds=15)
    receiver.says("well")
    report = await _cycle(outbox, receiver)
    assert (report.wakes_failed, report.wakes_tried) == (2, 2)
    assert "500" in report.errors[0]
    # The query, in which a token may stand, is in nothing that is told.
    assert "private" not in json.dumps(report.as_json()) + str(row.error) + row.lane
    # After a failure the lane lets few through, but these are one.
    assert await drain(outbox.ledger, outbox.client, "here:1") == Sent(delivered=1)
    assert (await _cycle(outbox, receiver)).wakes_succeeded == 2


@pytest.mark.slow
async def test_where_nobody_listens_cycles_go_on(outbox: Outbox, receiver: Receiver) -> None:
    await _queued(outbox, "one")
    await receiver.kill()
    for number in range(3):
        report = await _cycle(outbox, receiver)
        assert (report.wakes_tried, report.wakes_failed) == (1, min(number, 1))
        assert await drain(outbox.ledger, outbox.client, "here:1") == Sent(failed=1)
        outbox.clock.move(seconds=timedelta(seconds=15).total_seconds())
    async with outbox.ledger.read() as session:
        alerts = select(OutboxRow).where(col(OutboxRow.purpose) == book.ALERT)
        assert (await session.execute(alerts)).first() is None
