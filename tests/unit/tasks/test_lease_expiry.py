"""The sweep: leases that are over, at most so many a pass, and the third time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.errors import NothingClaimable
from daybook.tasks import claims, lease_expiry, pause, queue
from tests.world import World

pytestmark = pytest.mark.anyio

LEASE = timedelta(seconds=60)


async def test_the_first_two_times_it_is_queued_as_if_it_came_now(world: World) -> None:
    claimed = await world.tasks.claimed(lease="60s")
    world.clock.move(LEASE + timedelta(seconds=9))

    assert await world.tasks.sweep() == [claimed.run.id]

    row = await world.tasks.run(claimed.run.id)
    assert (row.status, row.expiries, row.queued_at) == ("queued", 1, world.ledger.now())
    assert (row.session_id, row.token_digest, row.lease_until, row.lease_seconds) == (None,) * 4
    assert (row.claimed_at, row.attention) == (None, "")
    event = (await world.tasks.events(row.id))[-1]
    assert (event.event, event.actor, event.session) == ("expired", "scheduler", "one")
    assert event.reason == "its lease expired 9s ago"
    assert await world.tasks.sweep() == []


async def test_the_third_time_it_needs_attention_until_it_is_recovered(world: World) -> None:
    run = await world.tasks.add()
    await world.tasks.register()
    for number in (1, 2, 3):
        await world.tasks.claim(lease="60s")
        world.clock.move(LEASE)
        assert await world.tasks.sweep() == [run.id]
        row = await world.tasks.run(run.id)
        assert (row.status, row.expiries) == ("queued" if number < 3 else "needs_attention", number)
    assert row.attention == "its lease expired 3 times"
    names = [event.event for event in await world.tasks.events(run.id)]
    assert names.count("expired") == 3
    assert names[-2:] == ["expired", "needs_attention"]
    with pytest.raises(NothingClaimable, match="no task is queued"):
        await world.tasks.claim()
    assert await world.tasks.sweep() == []

    world.clock.move(timedelta(seconds=1))
    await queue.recover(world.ledger, run.id, "it is looked after")

    row = await world.tasks.run(run.id)
    assert (row.status, row.expiries, row.attention) == ("queued", 0, "")
    assert row.queued_at == world.ledger.now()
    assert (await world.tasks.claim()).run.fence == 4


@pytest.mark.parametrize("by", ["sweep", "claim"])
async def test_the_operator_is_told_once_whoever_finds_it(world: World, by: str) -> None:
    run = await world.tasks.add("tidy up")
    await world.tasks.register()
    told = "SELECT event, purpose, subject, body FROM outbox"
    for _ in range(3):
        await world.tasks.claim(lease="60s")
        assert world.database.query(told) == []
        world.clock.move(LEASE)
        if by == "sweep" or (await world.tasks.run(run.id)).expiries < 2:
            await world.tasks.sweep()
        else:
            with pytest.raises(NothingClaimable, match="no task is queued"):
                await world.tasks.claim()
    assert (await world.tasks.run(run.id)).status == "needs_attention"
    await world.tasks.sweep()

    ((event, purpose, subject, body),) = world.database.query(told)

    assert (event, purpose, subject) == (
        "needs_attention",
        "alert",
        "task needs attention: tidy up",
    )
    assert body == f"Its lease expired 3 times\ndaybook task show {run.id[:12]}"


async def test_a_pass_takes_at_most_its_limit_the_longest_over_first(world: World) -> None:
    over = []
    for number in range(5):
        over.append((await world.tasks.claimed(f"s{number}", "60s")).run.id)
        world.clock.move(timedelta(seconds=1))
    live = (await world.tasks.claimed("live", "1h")).run.id
    world.clock.move(LEASE)

    assert await world.tasks.sweep(2) == over[:2]
    assert await world.tasks.sweep(2) == over[2:4]
    assert await world.tasks.sweep(2) == over[4:]
    assert await world.tasks.sweep(2) == []

    row = await world.tasks.run(live)
    assert (row.status, row.expiries) == ("claimed", 0)


@pytest.mark.slow
async def test_a_pass_takes_no_more_than_a_hundred(world: World) -> None:
    for number in range(101):
        await world.tasks.claimed(f"s{number}", "1s")
    world.clock.move(timedelta(seconds=1))

    assert len(await world.tasks.sweep()) == 100 == lease_expiry.MAX_EXPIRED_PER_PASS
    assert len(await world.tasks.sweep()) == 1


async def test_it_goes_on_while_the_scheduler_is_paused(world: World) -> None:
    claimed = await world.tasks.claimed(lease="60s")
    await pause.pause(world.ledger)
    world.clock.move(LEASE)

    assert await world.tasks.sweep() == [claimed.run.id]


async def test_what_was_released_has_not_expired(world: World) -> None:
    claimed = await world.tasks.claimed(lease="60s")
    await claims.release(world.ledger, claimed.run.id, claimed.token)
    world.clock.move(LEASE)

    assert await world.tasks.sweep() == []
    assert (await world.tasks.run(claimed.run.id)).expiries == 0


async def test_a_cycle_that_dies_after_its_sweep_has_swept_nothing(world: World) -> None:
    await world.tasks.claimed(lease="60s")
    world.clock.move(LEASE)
    before = world.tasks.everything()

    with pytest.raises(KeyboardInterrupt):
        async with world.ledger.write() as session:
            assert await lease_expiry.expire_leases(session, world.ledger.now())
            raise KeyboardInterrupt

    assert world.tasks.everything() == before
    assert len(await world.tasks.sweep()) == 1
