"""The sweep: leases that are over, at most so many a pass, and the third time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.errors import NothingClaimable
from daybook.tasks import claims, queue, sweep, switch
from tests.unit.tasks.conftest import Board

pytestmark = pytest.mark.anyio

LEASE = timedelta(seconds=60)


async def test_the_first_two_times_it_is_queued_as_if_it_came_now(board: Board) -> None:
    claimed = await board.claimed(lease="60s")
    board.clock.move(LEASE + timedelta(seconds=9))

    assert await board.sweep() == [claimed.run.id]

    row = await board.run(claimed.run.id)
    assert (row.status, row.expiries, row.queued_at) == ("queued", 1, board.now())
    assert (row.session_id, row.token_digest, row.lease_until, row.lease_seconds) == (None,) * 4
    assert (row.claimed_at, row.attention) == (None, "")
    event = (await board.events(row.id))[-1]
    assert (event.event, event.actor, event.session) == ("expired", "scheduler", "one")
    assert event.reason == "its lease was over 9s ago"
    assert await board.sweep() == []


async def test_the_third_time_it_needs_attention_until_it_is_recovered(board: Board) -> None:
    run = await board.task()
    await board.session()
    for number in (1, 2, 3):
        await board.claim(lease="60s")
        board.clock.move(LEASE)
        assert await board.sweep() == [run.id]
        row = await board.run(run.id)
        assert (row.status, row.expiries) == ("queued" if number < 3 else "needs_attention", number)
    assert row.attention == "its lease was over 3 times"
    names = [event.event for event in await board.events(run.id)]
    assert names.count("expired") == 3
    assert names[-2:] == ["expired", "needs_attention"]
    with pytest.raises(NothingClaimable, match="no task is queued"):
        await board.claim()
    assert await board.sweep() == []

    board.clock.move(timedelta(seconds=1))
    await queue.recover(board.ledger, run.id, "it is looked after")

    row = await board.run(run.id)
    assert (row.status, row.expiries, row.attention) == ("queued", 0, "")
    assert row.queued_at == board.now()
    assert (await board.claim()).run.fence == 4


@pytest.mark.parametrize("by", ["sweep", "claim"])
async def test_the_operator_is_told_once_whoever_finds_it(board: Board, by: str) -> None:
    run = await board.task("tidy up")
    await board.session()
    told = "SELECT event, purpose, subject, body FROM outbox"
    for _ in range(3):
        await board.claim(lease="60s")
        assert board.database.query(told) == []
        board.clock.move(LEASE)
        if by == "sweep" or (await board.run(run.id)).expiries < 2:
            await board.sweep()
        else:
            with pytest.raises(NothingClaimable, match="no task is queued"):
                await board.claim()
    assert (await board.run(run.id)).status == "needs_attention"
    await board.sweep()

    ((event, purpose, subject, body),) = board.database.query(told)

    assert (event, purpose, subject) == (
        "needs_attention",
        "alert",
        "task needs attention: tidy up",
    )
    assert body == f"Its lease was over 3 times\ndaybook task show {run.id[:12]}"


async def test_a_pass_takes_at_most_its_limit_the_longest_over_first(board: Board) -> None:
    over = []
    for number in range(5):
        over.append((await board.claimed(f"s{number}", "60s")).run.id)
        board.clock.move(timedelta(seconds=1))
    live = (await board.claimed("live", "1h")).run.id
    board.clock.move(LEASE)

    assert await board.sweep(2) == over[:2]
    assert await board.sweep(2) == over[2:4]
    assert await board.sweep(2) == over[4:]
    assert await board.sweep(2) == []

    row = await board.run(live)
    assert (row.status, row.expiries) == ("claimed", 0)


@pytest.mark.slow
async def test_a_pass_takes_no_more_than_a_hundred(board: Board) -> None:
    for number in range(101):
        await board.claimed(f"s{number}", "1s")
    board.clock.move(timedelta(seconds=1))

    assert len(await board.sweep()) == 100 == sweep.SWEEP_LIMIT
    assert len(await board.sweep()) == 1


async def test_it_goes_on_while_the_scheduler_is_paused(board: Board) -> None:
    claimed = await board.claimed(lease="60s")
    await switch.pause(board.ledger)
    board.clock.move(LEASE)

    assert await board.sweep() == [claimed.run.id]


async def test_what_was_released_has_not_expired(board: Board) -> None:
    claimed = await board.claimed(lease="60s")
    await claims.release(board.ledger, claimed.run.id, claimed.token)
    board.clock.move(LEASE)

    assert await board.sweep() == []
    assert (await board.run(claimed.run.id)).expiries == 0


async def test_a_cycle_that_dies_after_its_sweep_has_swept_nothing(board: Board) -> None:
    await board.claimed(lease="60s")
    board.clock.move(LEASE)
    before = board.everything()

    with pytest.raises(KeyboardInterrupt):
        async with board.ledger.write() as session:
            assert await sweep.sweep(session, board.now())
            raise KeyboardInterrupt

    assert board.everything() == before
    assert len(await board.sweep()) == 1
