"""Every pair of states, as in `docs/promise.md`, through the functions that make transitions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from daybook.errors import IllegalTransition, LedgerError, NotFound
from daybook.ledger import states, waits
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests, claims, prefect_ends
from daybook.runs.claim_requests import ClaimRequest, ClaimResult, Finished, Granted
from daybook.runs.prefect_ends import EndInPrefect
from tests import rows
from tests.world import World, copies

pytestmark = pytest.mark.anyio

# "The states" of docs/promise.md, line by line.
JOINED = {
    "none": "waiting claimed skipped missed cancelled failed",
    "waiting": "claimed skipped missed cancelled timed_out",
    "claimed": "running waiting skipped cancelled failed timed_out",
    "running": "succeeded failed timed_out cancelled unknown waiting",
    "unknown": "succeeded failed timed_out cancelled",
    "succeeded": "",
    "failed": "",
    "timed_out": "",
    "cancelled": "",
    "skipped": "",
    "missed": "",
}
NAMES = [name for name in JOINED if name != "none"]
PAIRS = list(product(JOINED, NAMES))
LEGAL = [(old, new) for old, new in PAIRS if new in JOINED[old].split()]


def _status(name: str) -> Status | None:
    return None if name == "none" else Status(name)


def test_the_table_names_every_state() -> None:
    assert sorted(NAMES) == sorted(Status)
    assert len(LEGAL) == 27
    assert len(PAIRS) == 110


def test_check_transition_accepts_exactly_the_legal_transitions() -> None:
    for (old, new), row in rows.each(PAIRS):
        with row:
            if (old, new) in LEGAL:
                states.check_transition("run", _status(old), Status(new))
            else:
                with pytest.raises(IllegalTransition, match=f"from {old} to {new}"):
                    states.check_transition("run", _status(old), Status(new))


async def _bring(world: World, state: str) -> tuple[ClaimRequest, RunRow | None]:
    """Return the request and row of a run that the real functions put into ``state``."""
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored)
    match state:
        case "none":
            return claim_request, None
        case "waiting":
            row = await claims.request(world.ledger, stored, "1", "manual")
            return world.runs.claim_request(row), row
        case "skipped":
            answer = await _switched_off(world, claim_request, None)
        case "missed":
            world.clock.set(claim_request.due + timedelta(hours=1))
            answer = await world.runs.claim(claim_request)
        case "claimed":
            answer = await world.runs.claimed(claim_request)
        case "unknown":
            answer = await world.runs.running(claim_request)
            await world.runs.lose()
            await world.runs.claim(claim_request)
        case "running":
            answer = await world.runs.running(claim_request)
        case _:
            answer = await world.runs.finished(claim_request, Status(state))
    assert isinstance(answer, Granted | Finished)
    row = await world.runs.row(str(answer.run_id))
    assert row.status == state
    return claim_request, row


async def _step(
    world: World, claim_request: ClaimRequest, row: RunRow | None, new: str
) -> ClaimResult | None:
    """Try the transition to ``new`` with the one function that makes it."""
    run_id, fence = (row.id, row.fence) if row else ("nobody", 0)
    match new:
        case "waiting":
            until = world.clock.now() + timedelta(minutes=1)
            await claims.postpone(world.ledger, run_id, fence, until, "not now")
        case "claimed":
            return await world.runs.claim(claim_request)
        case "running":
            await claims.begin(world.ledger, run_id, fence)
        case _:
            await claims.finish(world.ledger, run_id, fence, Outcome(Status(new)))
    return None


def _without_evidence(row: RunRow) -> dict[str, Any]:
    return row.model_dump(exclude={"evidence"})


async def _refuse(
    world: World, old: str, new: str, claim_request: ClaimRequest, run: RunRow | None
) -> None:
    """Try an illegal transition, which is refused and changes nothing."""
    if new == "claimed":
        assert not isinstance(await _step(world, claim_request, run, new), Granted)
    elif old == new and old not in ("waiting", "running"):
        # The same outcome again means that the answer to its commit was lost: no error.
        await _step(world, claim_request, run, new)
    else:
        with pytest.raises((LedgerError, NotFound)):
            await _step(world, claim_request, run, new)

    if run is None:
        assert await world.runs.rows() == []
    else:
        assert _without_evidence(await world.runs.row(run.id)) == _without_evidence(run)


Way = Callable[[World, ClaimRequest, RunRow | None], Awaitable[object]]


async def _ask(world: World, claim_request: ClaimRequest, row: RunRow | None) -> object:
    stored = await world.jobs.get(str(claim_request.job_id))
    return await claims.request(world.ledger, stored, "2", "manual")


async def _switched_off(
    world: World, claim_request: ClaimRequest, row: RunRow | None
) -> ClaimResult:
    # After the due time and before its claim: while a job is disabled, nothing is due.
    world.clock.set(claim_request.due + timedelta(seconds=1))
    await world.jobs.edit(str(claim_request.job_id), enabled=False)
    return await world.runs.claim(claim_request)


async def _removed(world: World, claim_request: ClaimRequest, row: RunRow | None) -> object:
    await world.jobs.archive(str(claim_request.job_id))
    return await world.runs.claim(claim_request)


async def _in_time(world: World, claim_request: ClaimRequest, row: RunRow | None) -> object:
    world.clock.set(max(world.clock.now(), claim_request.due))
    return await world.runs.claim(claim_request)


async def _too_late(world: World, claim_request: ClaimRequest, row: RunRow | None) -> object:
    world.clock.set(claim_request.due + timedelta(hours=1))
    return await world.runs.claim(claim_request)


async def _cancelled_in_prefect(
    world: World, claim_request: ClaimRequest, row: RunRow | None
) -> object:
    end = EndInPrefect(str(claim_request.flow_run_id), "CANCELLED", "Cancelled", "", claim_request)
    return await prefect_ends.apply_end(world.ledger, end)


async def _parameters_do_not_fit(
    world: World, claim_request: ClaimRequest, row: RunRow | None
) -> object:
    world.clock.set(claim_request.due)
    key = claim_requests.flow_key(str(claim_request.flow_run_id))
    return await world.runs.claim(
        replace(claim_request, occurrence=key, refused="prompt: is blank")
    )


async def _cancelled(world: World, claim_request: ClaimRequest, row: RunRow | None) -> object:
    assert row is not None
    return await claims.cancel(world.ledger, row.id)


async def _past_its_deadline(
    world: World, claim_request: ClaimRequest, row: RunRow | None
) -> object:
    assert row is not None
    async with world.ledger.write() as session:
        row.parameters = row.parameters | {"policy": {"deadline": "1s"}}
        session.add(row)
    world.clock.move(timedelta(seconds=1))
    return await world.runs.claim(claim_request)


async def _nobody_came(world: World, claim_request: ClaimRequest, row: RunRow | None) -> object:
    assert row is not None
    claim_request = world.runs.claim_request(
        await world.jobs.get(str(claim_request.job_id)), flow_run_id=claim_request.flow_run_id
    )
    async with world.ledger.write() as session:
        row.occurrence, row.due, row.until = (
            claim_request.occurrence,
            claim_request.due,
            claim_request.due,
        )
        row.waits_for = waits.DUE.name
        session.add(row)
    return await _too_late(world, claim_request, row)


async def _temporary_error(world: World, claim_request: ClaimRequest, row: RunRow | None) -> object:
    assert row is not None
    until = world.clock.now() + timedelta(minutes=1)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, row.id, row.fence, failed, until)
    return None


async def _killed(world: World, claim_request: ClaimRequest, row: RunRow | None) -> object:
    assert row is not None
    return await claims.holder_died(world.ledger, row.id, row.fence, "killed")


WAYS: dict[tuple[str, str], Way] = {
    ("none", "waiting"): _ask,
    ("none", "claimed"): _in_time,
    ("none", "skipped"): _switched_off,
    ("none", "missed"): _too_late,
    ("none", "cancelled"): _cancelled_in_prefect,
    ("none", "failed"): _parameters_do_not_fit,
    ("waiting", "skipped"): _removed,
    ("waiting", "missed"): _nobody_came,
    ("waiting", "cancelled"): _cancelled,
    ("waiting", "timed_out"): _past_its_deadline,
    ("running", "waiting"): _temporary_error,
    ("running", "unknown"): _killed,
}


async def _make(
    world: World, old: str, new: str, claim_request: ClaimRequest, run: RunRow | None
) -> None:
    """Make a legal transition."""
    if way := WAYS.get((old, new)):
        await way(world, claim_request, run)
    else:
        await _step(world, claim_request, run, new)

    (found,) = await world.runs.rows()
    assert found.status == new


@pytest.mark.parametrize("old", JOINED)
async def test_every_legal_transition_is_made_and_every_illegal_one_changes_nothing(
    world: World, old: str
) -> None:
    claim_request, run = await _bring(world, old)
    before = await copies.copy(world)
    for new, row in rows.each(NAMES):
        with row:
            await before.restore()
            restored = await world.runs.row(run.id) if run else None
            assert restored == run, "the copy is not complete"
            act = _make if (old, new) in LEGAL else _refuse
            await act(world, old, new, claim_request, restored)


async def test_a_running_run_cannot_be_postponed(world: World) -> None:
    claim_request, row = await _bring(world, "running")

    with pytest.raises(IllegalTransition):
        await _step(world, claim_request, row, "waiting")
