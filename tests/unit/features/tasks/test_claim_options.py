"""Options of a claim: the lowest priority, an idempotency key, and how long to wait."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace

import pytest

from daybook.errors import InvalidInput, NothingClaimable, TokenRefused
from daybook.features.tasks import claims, operations
from daybook.home import Home
from tests.world import World

pytestmark = pytest.mark.anyio

LEASE = timedelta(seconds=60)


@pytest.mark.floor("D", "priority_min of a claim")
async def test_a_claim_gets_no_run_below_its_lowest_priority(world: World) -> None:
    medium = await world.tasks.add("medium")
    await world.tasks.register()
    for lowest in ("urgent", "high"):
        with pytest.raises(NothingClaimable, match=rf"\(1\) has the priority {lowest}"):
            await world.tasks.claim(priority_min=lowest)
    async with world.ledger.read() as session:
        row = await world.tasks.session()
        available = [
            await claims.is_run_available(session, row, world.clock.now(), each)
            for each in ("high", "medium", "low")
        ]
    assert available == [False, True, True]
    high = await world.tasks.add("high", priority="high")
    assert (await world.tasks.claim(priority_min="high")).run.id == high.id
    await world.tasks.register("two")
    assert (await world.tasks.claim("two", priority_min="medium")).run.id == medium.id


async def test_an_expired_run_of_the_session_counts_only_with_its_priority(world: World) -> None:
    await world.tasks.add("low", priority="low")
    await world.tasks.register()
    held = await world.tasks.claim(lease="60s")
    world.clock.move(LEASE)
    async with world.ledger.read() as session:
        row, now = await world.tasks.session(), world.clock.now()
        assert not await claims.is_run_available(session, row, now, "high")
        assert await claims.is_run_available(session, row, now, "low")
    with pytest.raises(NothingClaimable):
        await world.tasks.claim(priority_min="high")
    assert (await world.tasks.claim(priority_min="low")).run.id == held.run.id


@pytest.mark.floor("D", "idempotency_key of a claim")
async def test_a_repeated_claim_gets_the_same_run_with_a_new_token_and_lease(world: World) -> None:
    await world.tasks.add("one")
    await world.tasks.add("two")
    await world.tasks.register()
    first = await world.tasks.claim(lease="60s", key="k")
    world.clock.move(LEASE / 2)

    again = await world.tasks.claim(lease="60s", key="k")

    assert (again.run.id, again.run.fence) == (first.run.id, first.run.fence)
    assert again.run.lease_until == world.clock.now() + LEASE
    with pytest.raises(TokenRefused, match="the token is wrong"):
        await claims.complete(world.ledger, first.run.id, first.token)
    ended = await claims.complete(world.ledger, again.run.id, again.token)
    assert ended.status == "completed"
    reasons = [each.reason for each in await world.tasks.events(first.run.id)]
    assert "claimed again with the same idempotency key" in reasons


async def test_a_key_never_claims_a_second_run(world: World) -> None:
    """The request may arrive again after the end of its run: no caller would know of a run."""
    await world.tasks.add("one")
    world.clock.move(timedelta(seconds=1))
    other = await world.tasks.add("two")
    await world.tasks.register()
    first = await world.tasks.claim(lease="60s", key="k")
    short = first.run.id[:8]
    world.clock.move(LEASE)
    expired = f"used for run {short}, which is claimed, but its lease has expired; use a new key"
    with pytest.raises(NothingClaimable, match=expired):
        await world.tasks.claim(key="k")
    assert await world.tasks.sweep() == [first.run.id]
    with pytest.raises(NothingClaimable, match=f"used for run {short}, which is queued"):
        await world.tasks.claim(key="k")
    second = await world.tasks.claim(lease="60s", key="k2")
    await claims.complete(world.ledger, second.run.id, second.token)
    for key in ("k", "k2"):
        with pytest.raises(NothingClaimable, match="use a new key"):
            await world.tasks.claim(key=key)
    assert {(await world.tasks.run(each)).status for each in (first.run.id, other.id)} == {
        "queued",
        "completed",
    }


async def test_a_key_belongs_to_its_session(world: World) -> None:
    runs = {(await world.tasks.add(name)).id for name in ("one", "two")}
    for name in ("a", "b"):
        await world.tasks.register(name)
    assert {(await world.tasks.claim(name, key="k")).run.id for name in ("a", "b")} == runs


async def test_concurrent_claims_with_one_key_get_one_run(world: World) -> None:
    for name in ("one", "two", "three"):
        await world.tasks.add(name)
    await world.tasks.register()
    claimed = await asyncio.gather(*(world.tasks.claim(key="k") for _ in range(5)))
    assert len({each.run.id for each in claimed}) == 1
    held = [each for each in await world.tasks.runs() if each.status == "claimed"]
    assert len(held) == 1


async def test_invalid_options_of_a_claim_are_refused(world: World) -> None:
    await world.tasks.add()
    await world.tasks.register()
    before = world.tasks.everything()
    for options, message in (
        ({"priority_min": "soon"}, 'priority_min: "soon" is not a priority'),
        ({"key": " "}, "idempotency_key: is blank"),
        ({"key": "x" * 101}, "idempotency_key: "),
    ):
        with pytest.raises(InvalidInput, match=message):
            await world.tasks.claim(**options)
    assert world.tasks.everything() == before


@pytest.mark.floor("D", "wait of a claim")
async def test_a_claim_waits_for_a_run(daybook_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "POLL_INTERVAL_SECONDS", 0.01)
    await operations.register("one")
    with pytest.raises(NothingClaimable, match="no task is queued"):
        await operations.next_run("one", wait=timedelta(milliseconds=20))
    waiting = asyncio.create_task(operations.next_run("one", wait="1m", priority_min="high"))
    await operations.add("medium")
    added = await operations.add("high", priority="high")
    claimed = await waiting
    assert (claimed.task.title, claimed.run_id) == ("high", added.run_id)
    with pytest.raises(InvalidInput, match="wait: "):
        await operations.next_run("one", wait="soon")


async def test_a_claim_does_not_wait_with_the_key_of_a_run_that_has_ended(
    daybook_home: Home,
) -> None:
    """The other run does not make it claim again and again, without a pause."""
    await operations.register("one")
    await operations.add("first")
    claimed = await operations.next_run("one", idempotency_key="k")
    await operations.complete(claimed.run_id, claimed.token)
    await operations.add("second")
    async with asyncio.timeout(30):
        with pytest.raises(NothingClaimable, match="use a new key"):
            await operations.next_run("one", wait="1h", idempotency_key="k")


@pytest.mark.usefixtures("shared_ledger")
async def test_a_session_stays_live_while_it_waits_for_hours(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.tasks.register("one")

    async def waited(name: str, seconds: float, priority_min: str) -> bool:
        world.clock.move(timedelta(seconds=seconds))
        return False

    monkeypatch.setattr(operations, "wait_until_claimable", waited)
    clock = SimpleNamespace(monotonic=lambda: world.clock.now().timestamp())
    monkeypatch.setattr(operations, "time", clock)
    began = world.clock.now()
    with pytest.raises(NothingClaimable, match="no task is queued"):
        await operations.next_run("one", wait="3h")
    assert world.clock.now() - began == timedelta(hours=3)
    assert (await world.tasks.session("one")).expires_at > world.clock.now()
