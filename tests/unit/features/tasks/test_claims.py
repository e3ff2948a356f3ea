"""Claims of task runs: order, leases, tokens and owners, on real ledgers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from sqlalchemy import delete, update
from sqlmodel import col

from daybook import owners
from daybook.errors import (
    Ambiguous,
    IllegalTransition,
    InvalidInput,
    NotFound,
    NothingClaimable,
    TokenRefused,
)
from daybook.features.tasks import claims, pause, queue, selection, sessions
from daybook.features.tasks.states import TaskRunStatus
from daybook.features.tasks.tables import TaskEventRow, TaskRunRow
from daybook.ledger.engine import Ledger
from daybook.ledger.tokens import digest
from tests.waiting import becomes_true
from tests.world import World
from tests.world.tasks import AGENT, OTHER

pytestmark = pytest.mark.anyio

Act = Callable[..., Awaitable[TaskRunRow]]
ACTS: list[Act] = [claims.heartbeat, claims.complete, claims.fail, claims.release]
INSTANT = timedelta(microseconds=1)


@pytest.mark.floor("D", "A lease lasts 5 minutes by default")
async def test_a_claim_has_a_lease_of_five_minutes(world: World) -> None:
    run, session = await world.tasks.add(), await world.tasks.register()

    claimed = await world.tasks.claim()

    row = await world.tasks.run(run.id)
    assert claimed.run.id == run.id
    assert claimed.task.title == "tidy up"
    assert (row.status, row.session_id, row.fence) == ("claimed", session.id, 1)
    assert row.token_digest == digest(claimed.token)
    assert row.lease_until == world.ledger.now() + timedelta(minutes=5)
    (added, claimed_event) = await world.tasks.events(run.id)
    assert (added.event, added.actor) == ("added", "user")
    assert (claimed_event.event, claimed_event.actor) == ("claimed", "user")
    assert (claimed_event.session, claimed_event.session_id) == ("one", session.id)


@pytest.mark.floor("D", "ClearRunStarvation: a claim clears the budget")
async def test_a_claim_resets_the_escalation_of_the_run(world: World) -> None:
    run = await world.tasks.add()
    await world.tasks.register()
    async with world.ledger.write() as session:
        row = await session.get(TaskRunRow, run.id)
        assert row is not None
        row.starved_cycles, row.tiers = 10, ["fan_out", "request_worker"]
        row.spawned_run_id, row.attention = "a run", "no agent came"

    await world.tasks.claim()

    row = await world.tasks.run(run.id)
    assert (row.starved_cycles, row.tiers, row.spawned_run_id, row.attention) == (0, [], None, "")


@pytest.mark.floor("D", "A lease lasts at most 24 hours")
async def test_a_claim_refuses_a_lease_below_1_second_or_above_24_hours(world: World) -> None:
    await world.tasks.add()
    await world.tasks.register()
    before = world.tasks.everything()
    for wrong in (timedelta(0), timedelta(milliseconds=999), timedelta(hours=24, seconds=1), "25h"):
        with pytest.raises(InvalidInput, match="lease"):
            await claims.claim(world.ledger, "one", wrong)
    assert world.tasks.everything() == before

    claimed = await claims.claim(world.ledger, "one", "24h")

    assert claimed.run.lease_until == world.ledger.now() + timedelta(hours=24)


@pytest.mark.dialect
async def test_claims_go_by_priority_and_then_by_time_in_the_queue(world: World) -> None:
    late_urgent = None
    priorities = ["low", "medium", "high"]
    for priority in priorities:
        await world.tasks.add(priority, priority=priority)
    world.clock.move(timedelta(seconds=1))
    await world.tasks.add("later medium", priority="medium")
    late_urgent = await world.tasks.add("urgent", priority="urgent")
    titles = []
    for number in range(5):
        await world.tasks.register(f"s{number}")
        titles.append((await world.tasks.claim(f"s{number}")).task.title)

    assert titles == ["urgent", "high", "medium", "later medium", "low"]
    assert (await world.tasks.run(late_urgent.id)).status == "claimed"


@pytest.mark.dialect
async def test_runs_queued_at_the_same_instant_are_claimed_in_order_of_id(world: World) -> None:
    ids = sorted([(await world.tasks.add(f"t{number}")).id for number in range(4)])
    got = []
    for number in range(4):
        await world.tasks.register(f"s{number}")
        got.append((await world.tasks.claim(f"s{number}")).run.id)

    assert got == ids


@pytest.mark.dialect
async def test_a_claim_finds_a_fitting_run_beyond_the_first_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "FIRST_BATCH_SIZE", 3)
    for number in range(7):
        await world.tasks.add(f"t{number}", capabilities=["gpu"])
    fitting = await world.tasks.add("for all", priority="low")
    await world.tasks.register()

    assert (await world.tasks.claim()).run.id == fitting.id
    await world.tasks.register("two")
    with pytest.raises(NothingClaimable, match=r"queued runs \(7\) fits"):
        await world.tasks.claim("two")


async def test_a_session_that_holds_a_run_cannot_claim_another(world: World) -> None:
    first = await world.tasks.claimed()
    await world.tasks.add("another")

    with pytest.raises(NothingClaimable, match=f"holds run {first.run.id[:8]};"):
        await world.tasks.claim()

    assert [run.status for run in await world.tasks.runs()].count("claimed") == 1
    await claims.complete(world.ledger, first.run.id, first.token)
    assert (await world.tasks.claim()).task.title == "another"


async def test_a_claim_without_a_result_names_the_reason(world: World) -> None:
    with pytest.raises(NotFound, match='task session "one" not found'):
        await world.tasks.claim()
    await world.tasks.register()
    with pytest.raises(NothingClaimable, match="no task is queued"):
        await world.tasks.claim()
    await world.tasks.add(capabilities=["gpu"])
    with pytest.raises(NothingClaimable, match="lacks gpu"):
        await world.tasks.claim()
    await sessions.report(world.ledger, "one", state="active")
    with pytest.raises(NothingClaimable, match="is active"):
        await world.tasks.claim()


async def test_a_claim_without_a_result_still_renews_the_session(world: World) -> None:
    await world.tasks.register()
    world.clock.move(timedelta(minutes=10))

    with pytest.raises(NothingClaimable):
        await world.tasks.claim()

    assert (await world.tasks.session()).expires_at == world.ledger.now() + sessions.SESSION_TIMEOUT


async def test_claims_without_a_result_renew_the_session_at_most_once_a_minute(
    world: World,
) -> None:
    await world.tasks.register()
    before = world.tasks.everything()
    world.clock.move(sessions.TOUCH_INTERVAL)
    with pytest.raises(NothingClaimable):
        await world.tasks.claim()
    assert world.tasks.everything() == before
    world.clock.move(INSTANT)
    with pytest.raises(NothingClaimable):
        await world.tasks.claim()
    assert (await world.tasks.session()).expires_at == world.ledger.now() + sessions.SESSION_TIMEOUT


@pytest.mark.dialect
async def test_a_claim_without_a_result_does_not_wait_for_another_writer(world: World) -> None:
    await world.tasks.register()
    await world.tasks.add(capabilities=["gpu"])
    async with Ledger(world.ledger.address, world.clock) as other, other.write():
        with pytest.raises(NothingClaimable, match=r"queued runs \(1\) fits"):
            await world.tasks.claim()


@pytest.mark.dialect
async def test_a_claim_that_waited_to_write_evaluates_the_queue_again(world: World) -> None:
    run = await world.tasks.add()
    await world.tasks.register()
    async with Ledger(world.ledger.address, world.clock) as other:
        async with other.write() as session:
            late = asyncio.create_task(world.tasks.claim())

            async def waits_to_write() -> bool:
                return world.ledger._turn.locked()

            assert await becomes_true(
                waits_to_write, 10
            )  # the claim has found the run and waits to write
            row = await session.get_one(TaskRunRow, run.id)
            row.status, row.finished_at = "cancelled", world.ledger.now()
        with pytest.raises(NothingClaimable, match="no task is queued"):
            await late
    assert (await world.tasks.session()).expires_at == world.ledger.now() + sessions.SESSION_TIMEOUT


async def test_a_paused_scheduler_refuses_claims_but_held_runs_continue(world: World) -> None:
    held = await world.tasks.claimed()
    await world.tasks.add("another")
    await world.tasks.register("two")
    await pause.pause(world.ledger, "a move of offices")

    with pytest.raises(NothingClaimable, match="paused: a move of offices"):
        await world.tasks.claim("two")
    await claims.heartbeat(world.ledger, held.run.id, held.token)
    await claims.complete(world.ledger, held.run.id, held.token)

    await pause.resume(world.ledger)
    assert (await world.tasks.claim("two")).task.title == "another"


# --- the lease


@pytest.mark.dialect
@pytest.mark.floor("D", "lease_until <= now is expired")
async def test_a_lease_expires_exactly_at_its_end(world: World) -> None:
    claimed = await world.tasks.claimed(lease="60s")
    assert claimed.run.lease_until is not None
    world.clock.set(claimed.run.lease_until - INSTANT)
    assert await world.tasks.sweep() == []
    world.clock.set(claimed.run.lease_until)
    before = world.tasks.everything()
    for act in ACTS:
        with pytest.raises(TokenRefused, match="the lease expired"):
            await act(world.ledger, claimed.run.id, claimed.token)
    assert world.tasks.everything() == before

    assert await world.tasks.sweep() == [claimed.run.id]


@pytest.mark.parametrize("act", ACTS)
async def test_a_token_is_valid_until_just_before_its_lease_ends(world: World, act: Act) -> None:
    claimed = await world.tasks.claimed(lease="60s")
    assert claimed.run.lease_until is not None
    world.clock.set(claimed.run.lease_until - INSTANT)

    await act(world.ledger, claimed.run.id, claimed.token)

    statuses: dict[Act, str] = {claims.heartbeat: "claimed", claims.complete: "completed"}
    statuses |= {claims.fail: "failed", claims.release: "queued"}
    assert (await world.tasks.run(claimed.run.id)).status == statuses[act]


@pytest.mark.floor("D", "A heartbeat extends the lease from now")
async def test_a_heartbeat_extends_the_lease_from_now(world: World) -> None:
    claimed = await world.tasks.claimed(lease="60s")
    world.clock.move(timedelta(seconds=50))

    run = await claims.heartbeat(world.ledger, claimed.run.id, claimed.token)
    assert run.lease_until == world.ledger.now() + timedelta(seconds=60)
    run = await claims.heartbeat(world.ledger, claimed.run.id, claimed.token, "10s")
    assert run.lease_until == world.ledger.now() + timedelta(seconds=10)
    world.clock.move(timedelta(seconds=5))
    run = await claims.heartbeat(world.ledger, claimed.run.id, claimed.token)

    assert run.lease_until == world.ledger.now() + timedelta(seconds=10)
    assert (await world.tasks.run(run.id)).lease_until == run.lease_until
    with pytest.raises(InvalidInput, match="lease"):
        await claims.heartbeat(world.ledger, claimed.run.id, claimed.token, "25h")


@pytest.mark.parametrize("act", ACTS)
async def test_each_act_with_a_token_renews_the_session(world: World, act: Act) -> None:
    claimed = await world.tasks.claimed(lease="1h")
    world.clock.move(timedelta(minutes=59))

    await act(world.ledger, claimed.run.id, claimed.token)

    assert (await world.tasks.session()).expires_at == world.ledger.now() + sessions.SESSION_TIMEOUT


# --- the end of a claim


@pytest.mark.floor("D", "Complete, fail and release end a claim")
async def test_complete_fail_and_release_record_the_end_of_a_claim(world: World) -> None:
    done = await world.tasks.claimed("one")
    bad = await world.tasks.claimed("two")
    back = await world.tasks.claimed("three")
    queued = back.run.queued_at
    world.clock.move(timedelta(seconds=7))

    await claims.complete(world.ledger, done.run.id, done.token, "all is tidy")
    await claims.fail(world.ledger, bad.run.id, bad.token, "no broom")
    await claims.release(world.ledger, back.run.id, back.token, "going home")

    rows = [await world.tasks.run(each.run.id) for each in (done, bad, back)]
    assert [row.status for row in rows] == ["completed", "failed", "queued"]
    assert [row.finished_at for row in rows] == [world.ledger.now(), world.ledger.now(), None]
    assert [row.done_by for row in rows] == ["one", "two", ""]
    assert (rows[0].output, rows[1].error) == ("all is tidy", "no broom")
    assert (rows[2].queued_at, rows[2].expiries) == (queued, 0)
    for row in rows:
        assert (row.session_id, row.token_digest, row.lease_until, row.lease_seconds) == (None,) * 4
    last = (await world.tasks.events(back.run.id))[-1]
    assert (last.event, last.reason, last.session) == ("released", "going home", "three")


async def test_the_failed_event_has_the_first_line_of_the_error(world: World) -> None:
    reasons: dict[str, str] = {
        "": "",
        "\n \n  no broom \n\nTraceback: at home\n": "no broom",
        "\x1b[31mred\there": "[31mred here",
        "é" * 300: "é" * 199 + "…",
    }
    for number, (error, reason) in enumerate(reasons.items()):
        claimed = await world.tasks.claimed(f"s{number}")
        await claims.fail(world.ledger, claimed.run.id, claimed.token, error)
        last = (await world.tasks.events(claimed.run.id))[-1]
        assert (last.event, last.session, last.reason) == ("failed", f"s{number}", reason)
        assert (await world.tasks.run(claimed.run.id)).error == error


async def test_the_failed_event_masks_the_token(world: World) -> None:
    claimed = await world.tasks.claimed()
    error = f"{'x' * 180} {claimed.token} was not taken"
    await claims.fail(world.ledger, claimed.run.id, claimed.token, error)
    last = (await world.tasks.events(claimed.run.id))[-1]
    assert last.reason == f"{'x' * 180} dbt_… was not taken"


async def test_an_invalid_text_is_refused_and_the_run_stays_claimed(world: World) -> None:
    claimed = await world.tasks.claimed()
    before = world.tasks.everything()
    wrong: list[tuple[Act, str]] = [
        (claims.complete, "x" * 20_001),
        (claims.fail, "x" * 20_001),
        (claims.release, "x" * 201),
        (claims.release, "two\nlines"),
    ]
    for act, words in wrong:
        with pytest.raises(InvalidInput):
            await act(world.ledger, claimed.run.id, claimed.token, words)
    assert world.tasks.everything() == before


@pytest.mark.parametrize("end", [claims.complete, claims.fail, claims.release])
async def test_a_token_is_refused_after_it_has_ended_its_claim(world: World, end: Act) -> None:
    claimed = await world.tasks.claimed()
    await end(world.ledger, claimed.run.id, claimed.token)
    before = world.tasks.everything()

    for act in ACTS:
        with pytest.raises(TokenRefused):
            await act(world.ledger, claimed.run.id, claimed.token)

    assert world.tasks.everything() == before


@pytest.mark.floor("D", "A wrong token is refused and changes nothing")
async def test_a_wrong_token_is_refused_and_changes_nothing(world: World) -> None:
    own, theirs = await world.tasks.claimed("one"), await world.tasks.claimed("two")
    before = world.tasks.everything()
    wrong = ["", "dbt_", own.token[:-1], f"{own.token}x", theirs.token, digest(own.token)]
    short = own.run.id[:8]

    for token in [*wrong, "\udcff", own.run.token_digest or ""]:
        for act in ACTS:
            with pytest.raises(TokenRefused, match=f"^task run {short}: the token is wrong"):
                await act(world.ledger, own.run.id, token)

    assert world.tasks.everything() == before


@pytest.mark.floor("D", "A stale token is refused and changes nothing")
async def test_an_expired_token_cannot_change_the_next_claim(world: World) -> None:
    stale = await world.tasks.claimed("one", "60s")
    world.clock.move(timedelta(seconds=60))
    assert await world.tasks.sweep() == [stale.run.id]
    with pytest.raises(TokenRefused, match="it is queued"):
        await claims.complete(world.ledger, stale.run.id, stale.token)
    await world.tasks.register("two")
    current = await world.tasks.claim("two")
    assert (current.run.id, current.run.fence) == (stale.run.id, 2)
    before = world.tasks.everything()

    for act in ACTS:
        with pytest.raises(TokenRefused):
            await act(world.ledger, stale.run.id, stale.token)

    assert world.tasks.everything() == before
    await claims.complete(world.ledger, current.run.id, current.token)


@pytest.mark.parametrize("end", [queue.recover, queue.cancel])
async def test_a_token_is_refused_after_the_operator_recovers_or_cancels_the_run(
    world: World, end: Callable[..., Awaitable[TaskRunRow]]
) -> None:
    claimed = await world.tasks.claimed()
    await end(world.ledger, claimed.run.id, "by hand")
    before = world.tasks.everything()

    for act in ACTS:
        with pytest.raises(TokenRefused):
            await act(world.ledger, claimed.run.id, claimed.token)

    assert world.tasks.everything() == before


async def test_a_session_with_an_expired_lease_claims_again_before_any_sweep(world: World) -> None:
    first = await world.tasks.claimed(lease="60s")
    second = await world.tasks.add("another")
    world.clock.move(timedelta(seconds=60))

    claimed = await world.tasks.claim()

    assert claimed.run.id == second.id  # the first run moved to the end of the queue
    row = await world.tasks.run(first.run.id)
    assert (row.status, row.expiries, row.queued_at) == ("queued", 1, world.ledger.now())
    expired = (await world.tasks.events(row.id))[-1]
    assert (expired.event, expired.actor, expired.session) == ("expired", "scheduler", "one")


async def test_a_run_with_an_expired_lease_is_available_to_its_session_like_to_a_claim(
    world: World,
) -> None:
    async def available() -> bool:
        async with world.ledger.read() as session:
            row = await sessions.find(session, "one")
            return await claims.is_run_available(session, row, world.ledger.now())

    first = await world.tasks.claimed(lease="60s")
    assert not await available()
    world.clock.move(timedelta(seconds=60))
    assert await available()
    assert (await world.tasks.claim(lease="60s")).run.id == first.run.id

    # Not while its task is paused.
    world.clock.move(timedelta(seconds=60))
    await queue.pause(world.ledger, first.run.id)
    assert not await available()
    await queue.resume(world.ledger, first.run.id)
    assert (await world.tasks.claim(lease="60s")).run.id == first.run.id

    # The third expiry does not queue it again.
    world.clock.move(timedelta(seconds=60))
    assert not await available()
    with pytest.raises(NothingClaimable):
        await world.tasks.claim()


# --- secrets and owners


@pytest.mark.floor("D", "A claim returns a token, of which only the hash is stored")
async def test_a_token_is_never_stored_in_the_ledger(world: World) -> None:
    held, done = await world.tasks.claimed("one"), await world.tasks.claimed("two")
    await claims.heartbeat(world.ledger, held.run.id, held.token)
    await claims.complete(world.ledger, done.run.id, done.token, "tidy")
    if world.database.kind == "sqlite":
        names = "SELECT name FROM sqlite_master WHERE type = 'table'"
    else:
        names = "SELECT table_name::text FROM information_schema.tables"
        names += " WHERE table_schema = 'public'"
    tables = [name for (name,) in world.database.query(names)]
    assert {"task_runs", "task_events", "outbox", "facts"} <= set(tables)

    whole = "\n".join(str(world.database.query(f'SELECT * FROM "{name}"')) for name in tables)

    assert digest(held.token) in whole  # proves that the search covers the tokens' column
    for claimed in (held, done):
        assert claimed.token not in whole
        assert claimed.token.removeprefix("dbt_") not in whole
        assert claimed.token not in repr(claimed)
        assert (claimed.run.token_digest or "none") not in repr(claimed)


@pytest.mark.dialect
async def test_a_run_is_found_by_a_prefix_of_its_id(world: World) -> None:
    claimed = await world.tasks.claimed()
    await world.tasks.add("another")

    with pytest.raises(NotFound):
        await claims.complete(world.ledger, "", claimed.token)
    with pytest.raises(NotFound):
        await claims.complete(world.ledger, "%", claimed.token)
    run = await claims.complete(world.ledger, claimed.run.id[:12], claimed.token)
    assert run.id == claimed.run.id


@pytest.mark.dialect
async def test_an_id_prefix_of_several_runs_is_refused(world: World) -> None:
    claimed = await world.tasks.claimed()
    other = await world.tasks.add("other")
    async with world.ledger.write() as session:
        of_other = col(TaskEventRow.run_id) == other.id
        await session.execute(delete(TaskEventRow).where(of_other))
        near = update(TaskRunRow).where(col(TaskRunRow.id) == other.id)
        await session.execute(near.values(id=claimed.run.id[:8] + other.id[8:]))

    with pytest.raises(Ambiguous):
        await claims.complete(world.ledger, claimed.run.id[:8], claimed.token)
    with pytest.raises(NotFound):
        await claims.complete(world.ledger, claimed.run.id[:3], claimed.token)


async def test_a_run_of_another_agent_is_not_found_even_with_its_token(world: World) -> None:
    with owners.acting_as(OTHER):
        theirs = await world.tasks.claimed("two")
    with owners.acting_as(AGENT):
        own = await world.tasks.claimed("one")
        before = world.tasks.everything()
        for act in ACTS:
            with pytest.raises(NotFound):  # even with the valid token
                await act(world.ledger, theirs.run.id, theirs.token)
        with pytest.raises(NotFound, match='task session "two" not found'):
            await world.tasks.claim("two")
        assert world.tasks.everything() == before
        await claims.complete(world.ledger, own.run.id, own.token)
        with pytest.raises(
            TokenRefused
        ):  # the agent's own run is found, but its token is no longer valid
            await claims.complete(world.ledger, own.run.id, own.token)

    await claims.complete(world.ledger, theirs.run.id, theirs.token)  # as the operator
    assert (await world.tasks.run(theirs.run.id)).status == TaskRunStatus.COMPLETED


async def test_an_agent_cannot_use_the_token_of_another_owners_session(world: World) -> None:
    with owners.acting_as(AGENT):
        first = await world.tasks.claimed("one")
        await claims.release(world.ledger, first.run.id, first.token)
    with owners.acting_as(OTHER):
        await world.tasks.register("two")
        second = await world.tasks.claim("two")
    assert second.run.id == first.run.id
    before = world.tasks.everything()

    with owners.acting_as(AGENT):
        for act in ACTS:
            with pytest.raises(TokenRefused, match="session of another owner"):
                await act(world.ledger, second.run.id, second.token)

    assert world.tasks.everything() == before


async def test_a_claim_checks_the_state_of_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await world.tasks.add()
    await world.tasks.register()
    await queue.cancel(world.ledger, run.id)

    async def ended(*_: object) -> str:
        return run.id

    monkeypatch.setattr(selection, "first_fitting", ended)  # as if the selection had a fault
    with pytest.raises(IllegalTransition):
        await world.tasks.claim()
    assert (await world.tasks.run(run.id)).status == "cancelled"
