"""A lease and its token: what holds a run, until when, and what a token that does not may do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from daybook.errors import Ambiguous, NotFound, NothingClaimable, Refused, TokenRefused
from daybook.ledger.engine import Ledger
from daybook.ledger.task_tables import TaskRunRow
from daybook.ledger.tokens import digest
from daybook.spec import owners
from daybook.tasks import choice, claims, queue, sessions, switch
from daybook.tasks.states import Status
from tests.crew import so
from tests.unit.tasks.conftest import AGENT, OTHER, Board

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

Act = Callable[..., Awaitable[TaskRunRow]]
ACTS: list[Act] = [claims.heartbeat, claims.complete, claims.fail, claims.release]
INSTANT = timedelta(microseconds=1)


async def test_a_claim_holds_the_run_for_five_minutes(board: Board) -> None:
    run, session = await board.task(), await board.session()

    claimed = await board.claim()

    row = await board.run(run.id)
    assert claimed.run.id == run.id
    assert claimed.task.title == "tidy up"
    assert (row.status, row.session_id, row.fence) == ("claimed", session.id, 1)
    assert row.token_digest == digest(claimed.token)
    assert row.lease_until == board.now() + timedelta(minutes=5)
    (added, claimed_event) = await board.events(run.id)
    assert (added.event, added.actor) == ("added", "user")
    assert (claimed_event.event, claimed_event.actor) == ("claimed", "user")
    assert (claimed_event.session, claimed_event.session_id) == ("one", session.id)


async def test_a_claim_forgets_how_the_run_starved(board: Board) -> None:
    run = await board.task()
    await board.session()
    async with board.ledger.write() as session:
        row = await session.get(TaskRunRow, run.id)
        assert row is not None
        row.starved_cycles, row.tiers = 10, ["fan_out", "request_worker"]
        row.spawned_run_id, row.attention = "a run", "nobody came"

    await board.claim()

    row = await board.run(run.id)
    assert (row.starved_cycles, row.tiers, row.spawned_run_id, row.attention) == (0, [], None, "")


async def test_leases_have_a_shortest_and_a_longest(board: Board) -> None:
    await board.task()
    await board.session()
    before = board.everything()
    for wrong in (timedelta(0), timedelta(milliseconds=999), timedelta(hours=24, seconds=1), "25h"):
        with pytest.raises(Refused, match="lease"):
            await claims.claim(board.ledger, "one", wrong)
    assert board.everything() == before

    claimed = await claims.claim(board.ledger, "one", "24h")

    assert claimed.run.lease_until == board.now() + timedelta(hours=24)


async def test_the_order_is_priority_then_the_longest_queued(board: Board) -> None:
    late_urgent = None
    wanted = ["low", "medium", "high"]
    for priority in wanted:
        await board.task(priority, priority=priority)
    board.clock.move(timedelta(seconds=1))
    await board.task("later medium", priority="medium")
    late_urgent = await board.task("urgent", priority="urgent")
    titles = []
    for number in range(5):
        await board.session(f"s{number}")
        titles.append((await board.claim(f"s{number}")).task.title)

    assert titles == ["urgent", "high", "medium", "later medium", "low"]
    assert (await board.run(late_urgent.id)).status == "claimed"


async def test_of_the_same_instant_the_lower_id_comes_first(board: Board) -> None:
    ids = sorted([(await board.task(f"t{number}")).id for number in range(4)])
    got = []
    for number in range(4):
        await board.session(f"s{number}")
        got.append((await board.claim(f"s{number}")).run.id)

    assert got == ids


async def test_a_run_far_down_the_queue_is_found(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "HEAD", 3)
    for number in range(7):
        await board.task(f"t{number}", capabilities=["gpu"])
    wanted = await board.task("for all", priority="low")
    await board.session()

    assert (await board.claim()).run.id == wanted.id
    await board.session("two")
    with pytest.raises(NothingClaimable, match="of 7 queued none fits"):
        await board.claim("two")


async def test_a_second_claim_of_the_same_session_is_refused(board: Board) -> None:
    first = await board.claimed()
    await board.task("another")

    with pytest.raises(NothingClaimable, match=f"holds run {first.run.id[:8]};"):
        await board.claim()

    assert [run.status for run in await board.runs()].count("claimed") == 1
    await claims.complete(board.ledger, first.run.id, first.token)
    assert (await board.claim()).task.title == "another"


async def test_nothing_is_claimable_and_why(board: Board) -> None:
    with pytest.raises(NotFound, match='task session "one" not found'):
        await board.claim()
    await board.session()
    with pytest.raises(NothingClaimable, match="no task is queued"):
        await board.claim()
    await board.task(capabilities=["gpu"])
    with pytest.raises(NothingClaimable, match="lacks gpu"):
        await board.claim()
    await sessions.report(board.ledger, "one", state="active")
    with pytest.raises(NothingClaimable, match="is active"):
        await board.claim()


async def test_one_that_asks_in_vain_was_heard_of(board: Board) -> None:
    await board.session()
    board.clock.move(timedelta(minutes=10))

    with pytest.raises(NothingClaimable):
        await board.claim()

    assert (await board.of()).expires_at == board.now() + sessions.SILENT


async def test_one_that_asks_in_vain_often_is_written_down_once_a_minute(board: Board) -> None:
    await board.session()
    before = board.everything()
    board.clock.move(sessions.OFTEN)
    with pytest.raises(NothingClaimable):
        await board.claim()
    assert board.everything() == before
    board.clock.move(INSTANT)
    with pytest.raises(NothingClaimable):
        await board.claim()
    assert (await board.of()).expires_at == board.now() + sessions.SILENT


async def test_whoever_asks_in_vain_waits_for_no_writer(board: Board) -> None:
    await board.session()
    await board.task(capabilities=["gpu"])
    async with Ledger(board.ledger.address, board.clock) as other, other.write():
        with pytest.raises(NothingClaimable, match="of 1 queued none fits"):
            await board.claim()


async def test_a_claim_is_judged_again_when_its_turn_has_come(board: Board) -> None:
    run = await board.task()
    await board.session()
    async with Ledger(board.ledger.address, board.clock) as other:
        async with other.write() as session:
            late = asyncio.create_task(board.claim())

            async def waits_to_write() -> bool:
                return board.ledger._turn.locked()

            assert await so(waits_to_write, 10)  # it has looked, and a run was there
            row = await session.get_one(TaskRunRow, run.id)
            row.status, row.finished_at = "cancelled", board.now()
        with pytest.raises(NothingClaimable, match="no task is queued"):
            await late
    assert (await board.of()).expires_at == board.now() + sessions.SILENT


async def test_while_the_scheduler_is_paused_nothing_is_claimed(board: Board) -> None:
    held = await board.claimed()
    await board.task("another")
    await board.session("two")
    await switch.pause(board.ledger, "a move of offices")

    with pytest.raises(NothingClaimable, match="paused: a move of offices"):
        await board.claim("two")
    await claims.heartbeat(board.ledger, held.run.id, held.token)
    await claims.complete(board.ledger, held.run.id, held.token)

    await switch.resume(board.ledger)
    assert (await board.claim("two")).task.title == "another"


# --- the lease


async def test_a_lease_is_over_exactly_at_its_end(board: Board) -> None:
    claimed = await board.claimed(lease="60s")
    assert claimed.run.lease_until is not None
    board.clock.set(claimed.run.lease_until - INSTANT)
    assert await board.sweep() == []
    board.clock.set(claimed.run.lease_until)
    before = board.everything()
    for act in ACTS:
        with pytest.raises(TokenRefused, match="the lease was over"):
            await act(board.ledger, claimed.run.id, claimed.token)
    assert board.everything() == before

    assert await board.sweep() == [claimed.run.id]


@pytest.mark.parametrize("act", ACTS)
async def test_an_instant_before_its_end_the_token_holds(board: Board, act: Act) -> None:
    claimed = await board.claimed(lease="60s")
    assert claimed.run.lease_until is not None
    board.clock.set(claimed.run.lease_until - INSTANT)

    await act(board.ledger, claimed.run.id, claimed.token)

    ends: dict[Act, str] = {claims.heartbeat: "claimed", claims.complete: "completed"}
    ends |= {claims.fail: "failed", claims.release: "queued"}
    assert (await board.run(claimed.run.id)).status == ends[act]


async def test_a_heartbeat_extends_from_now(board: Board) -> None:
    claimed = await board.claimed(lease="60s")
    board.clock.move(timedelta(seconds=50))

    run = await claims.heartbeat(board.ledger, claimed.run.id, claimed.token)
    assert run.lease_until == board.now() + timedelta(seconds=60)
    run = await claims.heartbeat(board.ledger, claimed.run.id, claimed.token, "10s")
    assert run.lease_until == board.now() + timedelta(seconds=10)
    board.clock.move(timedelta(seconds=5))
    run = await claims.heartbeat(board.ledger, claimed.run.id, claimed.token)

    assert run.lease_until == board.now() + timedelta(seconds=10)
    assert (await board.run(run.id)).lease_until == run.lease_until
    with pytest.raises(Refused, match="lease"):
        await claims.heartbeat(board.ledger, claimed.run.id, claimed.token, "25h")


@pytest.mark.parametrize("act", ACTS)
async def test_whoever_acts_with_a_token_was_heard_of(board: Board, act: Act) -> None:
    claimed = await board.claimed(lease="1h")
    board.clock.move(timedelta(minutes=59))

    await act(board.ledger, claimed.run.id, claimed.token)

    assert (await board.of()).expires_at == board.now() + sessions.SILENT


# --- how it ends


async def test_completed_failed_and_released(board: Board) -> None:
    done = await board.claimed("one")
    bad = await board.claimed("two")
    back = await board.claimed("three")
    queued = back.run.queued_at
    board.clock.move(timedelta(seconds=7))

    await claims.complete(board.ledger, done.run.id, done.token, "all is tidy")
    await claims.fail(board.ledger, bad.run.id, bad.token, "no broom")
    await claims.release(board.ledger, back.run.id, back.token, "going home")

    rows = [await board.run(each.run.id) for each in (done, bad, back)]
    assert [row.status for row in rows] == ["completed", "failed", "queued"]
    assert [row.finished_at for row in rows] == [board.now(), board.now(), None]
    assert [row.done_by for row in rows] == ["one", "two", ""]
    assert (rows[0].output, rows[1].error) == ("all is tidy", "no broom")
    assert (rows[2].queued_at, rows[2].expiries) == (queued, 0)
    for row in rows:
        assert (row.session_id, row.token_digest, row.lease_until, row.lease_seconds) == (None,) * 4
    last = (await board.events(back.run.id))[-1]
    assert (last.event, last.reason, last.session) == ("released", "going home", "three")


async def test_that_it_failed_is_told_with_the_first_line_of_why(board: Board) -> None:
    told: dict[str, str] = {
        "": "",
        "\n \n  no broom \n\nTraceback: at home\n": "no broom",
        "\x1b[31mred\there": "[31mred here",
        "é" * 300: "é" * 200 + "…",
    }
    for number, (error, reason) in enumerate(told.items()):
        claimed = await board.claimed(f"s{number}")
        await claims.fail(board.ledger, claimed.run.id, claimed.token, error)
        last = (await board.events(claimed.run.id))[-1]
        assert (last.event, last.session, last.reason) == ("failed", f"s{number}", reason)
        assert (await board.run(claimed.run.id)).error == error


async def test_why_it_failed_is_told_without_the_token(board: Board) -> None:
    claimed = await board.claimed()
    error = f"{'x' * 180} {claimed.token} was not taken"
    await claims.fail(board.ledger, claimed.run.id, claimed.token, error)
    last = (await board.events(claimed.run.id))[-1]
    assert last.reason == f"{'x' * 180} dbt_… was not taken"


async def test_what_is_too_long_is_refused_and_the_run_is_held(board: Board) -> None:
    claimed = await board.claimed()
    before = board.everything()
    wrong: list[tuple[Act, str]] = [
        (claims.complete, "x" * 20_001),
        (claims.fail, "x" * 20_001),
        (claims.release, "x" * 201),
        (claims.release, "two\nlines"),
    ]
    for act, words in wrong:
        with pytest.raises(Refused):
            await act(board.ledger, claimed.run.id, claimed.token, words)
    assert board.everything() == before


@pytest.mark.parametrize("end", [claims.complete, claims.fail, claims.release])
async def test_a_token_that_ended_its_claim_changes_nothing(board: Board, end: Act) -> None:
    claimed = await board.claimed()
    await end(board.ledger, claimed.run.id, claimed.token)
    before = board.everything()

    for act in ACTS:
        with pytest.raises(TokenRefused):
            await act(board.ledger, claimed.run.id, claimed.token)

    assert board.everything() == before


async def test_a_wrong_token_changes_nothing(board: Board) -> None:
    mine, theirs = await board.claimed("one"), await board.claimed("two")
    before = board.everything()
    wrong = ["", "dbt_", mine.token[:-1], f"{mine.token}x", theirs.token, digest(mine.token)]
    short = mine.run.id[:8]

    for token in [*wrong, "\udcff", mine.run.token_digest or ""]:
        for act in ACTS:
            with pytest.raises(TokenRefused, match=f"^task run {short}: the token is not that"):
                await act(board.ledger, mine.run.id, token)

    assert board.everything() == before


async def test_a_stale_token_changes_nothing_of_the_next_claim(board: Board) -> None:
    stale = await board.claimed("one", "60s")
    board.clock.move(timedelta(seconds=60))
    assert await board.sweep() == [stale.run.id]
    with pytest.raises(TokenRefused, match="it is queued"):
        await claims.complete(board.ledger, stale.run.id, stale.token)
    await board.session("two")
    current = await board.claim("two")
    assert (current.run.id, current.run.fence) == (stale.run.id, 2)
    before = board.everything()

    for act in ACTS:
        with pytest.raises(TokenRefused):
            await act(board.ledger, stale.run.id, stale.token)

    assert board.everything() == before
    await claims.complete(board.ledger, current.run.id, current.token)


@pytest.mark.parametrize("end", [queue.recover, queue.cancel])
async def test_what_the_operator_takes_away_its_token_has_lost(
    board: Board, end: Callable[..., Awaitable[TaskRunRow]]
) -> None:
    claimed = await board.claimed()
    await end(board.ledger, claimed.run.id, "by hand")
    before = board.everything()

    for act in ACTS:
        with pytest.raises(TokenRefused):
            await act(board.ledger, claimed.run.id, claimed.token)

    assert board.everything() == before


async def test_a_session_whose_lease_is_over_claims_again_without_a_sweep(board: Board) -> None:
    first = await board.claimed(lease="60s")
    second = await board.task("another")
    board.clock.move(timedelta(seconds=60))

    claimed = await board.claim()

    assert claimed.run.id == second.id  # the first went to the end of the queue
    row = await board.run(first.run.id)
    assert (row.status, row.expiries, row.queued_at) == ("queued", 1, board.now())
    expired = (await board.events(row.id))[-1]
    assert (expired.event, expired.actor, expired.session) == ("expired", "scheduler", "one")


# --- secrets, and whose it is


async def test_the_token_is_nowhere_in_the_ledger(board: Board) -> None:
    held, done = await board.claimed("one"), await board.claimed("two")
    await claims.heartbeat(board.ledger, held.run.id, held.token)
    await claims.complete(board.ledger, done.run.id, done.token, "tidy")
    if board.kind == "sqlite":
        names = "SELECT name FROM sqlite_master WHERE type = 'table'"
    else:
        names = "SELECT table_name::text FROM information_schema.tables"
        names += " WHERE table_schema = 'public'"
    tables = [name for (name,) in board.database.query(names)]
    assert {"task_runs", "task_events", "outbox", "facts"} <= set(tables)

    whole = "\n".join(str(board.database.query(f'SELECT * FROM "{name}"')) for name in tables)

    assert digest(held.token) in whole  # it was looked for where it would be
    for claimed in (held, done):
        assert claimed.token not in whole
        assert claimed.token.removeprefix("dbt_") not in whole
        assert claimed.token not in repr(claimed)
        assert (claimed.run.token_digest or "none") not in repr(claimed)


async def test_a_run_is_named_by_the_beginning_of_its_id(board: Board) -> None:
    claimed = await board.claimed()
    await board.task("another")

    with pytest.raises(NotFound):
        await claims.complete(board.ledger, "", claimed.token)
    with pytest.raises(NotFound):
        await claims.complete(board.ledger, "%", claimed.token)
    run = await claims.complete(board.ledger, claimed.run.id[:12], claimed.token)
    assert run.id == claimed.run.id


async def test_a_beginning_that_fits_several_is_refused(board: Board) -> None:
    claimed = await board.claimed()
    ids = [(await board.task(f"t{number}")).id for number in range(16)]
    letters = [id_[0] for id_ in [claimed.run.id, *ids]]
    twice = next(each for each in letters if letters.count(each) > 1)

    with pytest.raises(Ambiguous):
        await claims.complete(board.ledger, twice, claimed.token)


async def test_an_agent_is_told_of_anothers_run_that_there_is_none(board: Board) -> None:
    with owners.acting_as(OTHER):
        theirs = await board.claimed("two")
    with owners.acting_as(AGENT):
        mine = await board.claimed("one")
        before = board.everything()
        for act in ACTS:
            with pytest.raises(NotFound):  # with the very token
                await act(board.ledger, theirs.run.id, theirs.token)
        with pytest.raises(NotFound, match='task session "two" not found'):
            await board.claim("two")
        assert board.everything() == before
        await claims.complete(board.ledger, mine.run.id, mine.token)
        with pytest.raises(TokenRefused):  # it was its own
            await claims.complete(board.ledger, mine.run.id, mine.token)

    await claims.complete(board.ledger, theirs.run.id, theirs.token)  # the operator's is all
    assert (await board.run(theirs.run.id)).status == Status.COMPLETED


async def test_an_agent_does_not_act_for_another_who_has_its_run_now(board: Board) -> None:
    with owners.acting_as(AGENT):
        first = await board.claimed("one")
        await claims.release(board.ledger, first.run.id, first.token)
    with owners.acting_as(OTHER):
        await board.session("two")
        second = await board.claim("two")
    assert second.run.id == first.run.id
    before = board.everything()

    with owners.acting_as(AGENT):
        for act in ACTS:
            with pytest.raises(TokenRefused, match="somebody else"):
                await act(board.ledger, second.run.id, second.token)

    assert board.everything() == before
