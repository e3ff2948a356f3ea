"""Steps of a run in the ledger: fenced, written once, closed with their attempt."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.errors import FenceRefused
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import StepRow
from daybook.runs import claims, leases, steps
from daybook.runs.claim_requests import Granted
from tests.world import World
from tests.world.runs import step_of

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]


def step(granted: Granted, number: int = 1) -> StepRow:
    return step_of(granted.run_id, granted.due, number)


async def of(world: World, granted: Granted) -> list[StepRow]:
    async with world.ledger.read() as session:
        return await steps.of_run(session, granted.run_id)


async def test_a_step_is_written_once_with_the_ledgers_times(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    given = step(granted)
    for _ in range(2):  # the answer to the first commit was lost
        await steps.start(world.ledger, granted.fence, given)
    started = world.clock.now()
    world.clock.move(timedelta(seconds=3))
    used = {"input_tokens": 7, "cost_usd": 0.5}
    for _ in range(2):
        await steps.finish(
            world.ledger,
            granted.fence,
            granted.run_id,
            1,
            Status.SUCCEEDED,
            usage=used,
            output="Hi",
        )
    (row,) = await of(world, granted)
    assert (row.status, row.started_at, row.usage) == ("succeeded", started, used)
    assert (row.finished_at, row.output) == (world.clock.now(), "Hi")


async def test_no_step_is_written_without_the_claim(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    await steps.start(world.ledger, granted.fence, step(granted))
    await world.runs.lose()
    row = await world.runs.row(granted.run_id)
    async with world.ledger.write() as session:
        found = await session.get(type(row), row.id)
        assert found is not None
        assert await leases.check_lease(session, found, world.clock.now())

    # The run is unknown now, and its token is still the same.
    with pytest.raises(FenceRefused):
        await steps.start(world.ledger, granted.fence, step(granted, 2))
    with pytest.raises(FenceRefused):
        await steps.finish(world.ledger, granted.fence, granted.run_id, 1, Status.SUCCEEDED)
    with pytest.raises(FenceRefused):
        await steps.start(world.ledger, granted.fence + 1, step(granted, 3))
    assert [each.status for each in await of(world, granted)] == ["unknown"]


async def test_an_attempt_that_ends_closes_its_steps(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    await steps.start(world.ledger, granted.fence, step(granted))
    await steps.finish(world.ledger, granted.fence, granted.run_id, 1, Status.FAILED, error="503")
    await steps.start(world.ledger, granted.fence, step(granted, 2))

    outcome = Outcome(Status.FAILED, error="503")
    until = world.at(seconds=1)
    await claims.retry(world.ledger, granted.run_id, granted.fence, outcome, until)

    assert [each.status for each in await of(world, granted)] == ["failed", "unknown"]


async def test_the_names_of_the_tools_stay_when_the_replies_are_removed(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    offered = ({"old": "1"}, {"web_fetch": "2", "files_read": "3"}, {"replaced": "4"})
    for number, tools in enumerate(offered, 1):
        reply = {"facts": {"tools": tools, "model": "x"}, "value": "a long text"}
        await steps.start(world.ledger, granted.fence, step(granted, number))
        await steps.finish(
            world.ledger, granted.fence, granted.run_id, number, Status.SUCCEEDED, reply=reply
        )
    for number, kind in ((4, "tool"), (5, "request")):
        later = step_of(granted.run_id, granted.due, number, kind=kind)
        replaced = [3] if number == 4 else []
        await steps.start(world.ledger, granted.fence, later, replaced)
    await steps.finish(
        world.ledger, granted.fence, granted.run_id, 4, Status.SUCCEEDED, reply={"value": "Hm."}
    )
    names = ["web_fetch", "files_read"]
    assert steps.tools_of(await of(world, granted)) == names
    await world.runs.finish(granted, Status.SUCCEEDED)
    ended = await of(world, granted)
    assert steps.tools_of(ended) == names
    assert [each.reply for each in ended] == [None, {"tools": names}, None, None, None]


async def test_a_run_whose_model_had_no_tools_keeps_no_reply(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    for number, reply in ((1, {"facts": {"tools": {}}, "value": "x"}), (2, {"value": "x"})):
        await steps.start(world.ledger, granted.fence, step(granted, number))
        await steps.finish(
            world.ledger, granted.fence, granted.run_id, number, Status.SUCCEEDED, reply=reply
        )
    assert steps.tools_of(await of(world, granted)) == []
    await world.runs.finish(granted, Status.SUCCEEDED)
    assert [each.reply for each in await of(world, granted)] == [None, None]
