"""The sweep that expires leases: requeueing, its limit, and the third expiry of a run."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.errors import NothingClaimable
from daybook.features.tasks import claims, lease_expiry, pause, queue
from daybook.features.tasks.policy import DEFAULTS
from tests.world import World

pytestmark = pytest.mark.anyio

LEASE = timedelta(seconds=60)


@pytest.mark.floor("D", "RecoverExpiredRunLeases requeues a run")
@pytest.mark.floor("D", "A recovered run has no owner")
@pytest.mark.floor("D", "A recovered run has a new queue age")
async def test_an_expired_run_returns_to_the_end_of_the_queue(world: World) -> None:
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


async def test_the_third_expiry_sets_needs_attention_until_the_run_is_recovered(
    world: World,
) -> None:
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
    await queue.recover(world.ledger, run.id, "a person handles it")

    row = await world.tasks.run(run.id)
    assert (row.status, row.expiries, row.attention) == ("queued", 0, "")
    assert row.queued_at == world.ledger.now()
    assert (await world.tasks.claim()).run.fence == 4


@pytest.mark.parametrize("by", ["sweep", "claim"])
async def test_the_third_expiry_alerts_the_operator_once(world: World, by: str) -> None:
    run = await world.tasks.add("tidy up")
    await world.tasks.register()
    query = "SELECT event, purpose, subject, body FROM outbox"
    for _ in range(3):
        await world.tasks.claim(lease="60s")
        assert world.database.query(query) == []
        world.clock.move(LEASE)
        if by == "sweep" or (await world.tasks.run(run.id)).expiries < 2:
            await world.tasks.sweep()
        else:
            with pytest.raises(NothingClaimable, match="no task is queued"):
                await world.tasks.claim()
    assert (await world.tasks.run(run.id)).status == "needs_attention"
    await world.tasks.sweep()

    ((event, purpose, subject, body),) = world.database.query(query)

    assert (event, purpose, subject) == (
        "needs_attention",
        "alert",
        "task needs attention: tidy up",
    )
    assert body == f"Its lease expired 3 times\ndaybook task show {run.id[:12]}"


@pytest.mark.floor("D", "WithSweepLimit sets the limit, oldest first")
async def test_a_sweep_expires_up_to_its_limit_oldest_expiry_first(world: World) -> None:
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


@pytest.mark.floor("D", "WithSweepLimit: 100 leases per cycle by default")
@pytest.mark.slow
async def test_a_sweep_expires_at_most_a_hundred_leases_by_default(world: World) -> None:
    for number in range(101):
        await world.tasks.claimed(f"s{number}", "1s")
    world.clock.move(timedelta(seconds=1))

    assert len(await world.tasks.sweep()) == 100 == DEFAULTS.sweep_limit
    assert len(await world.tasks.sweep()) == 1


async def test_a_sweep_expires_leases_while_the_scheduler_is_paused(world: World) -> None:
    claimed = await world.tasks.claimed(lease="60s")
    await pause.pause(world.ledger)
    world.clock.move(LEASE)

    assert await world.tasks.sweep() == [claimed.run.id]


async def test_a_released_run_does_not_expire(world: World) -> None:
    claimed = await world.tasks.claimed(lease="60s")
    await claims.release(world.ledger, claimed.run.id, claimed.token)
    world.clock.move(LEASE)

    assert await world.tasks.sweep() == []
    assert (await world.tasks.run(claimed.run.id)).expiries == 0


async def test_a_sweep_whose_transaction_fails_expires_nothing(world: World) -> None:
    await world.tasks.claimed(lease="60s")
    world.clock.move(LEASE)
    before = world.tasks.everything()

    with pytest.raises(KeyboardInterrupt):
        async with world.ledger.write() as session:
            assert await lease_expiry.expire_leases(session, world.ledger.now())
            raise KeyboardInterrupt

    assert world.tasks.everything() == before
    assert len(await world.tasks.sweep()) == 1
