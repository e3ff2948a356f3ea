"""Ensure: a waiting row has exactly one scheduled Prefect run (`docs/promise.md` 11)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Pending, Running

from daybook.keeper import ensure, expire, mirror
from daybook.ledger import claims
from daybook.ledger import deployments as records
from daybook.ledger.engine import Ledger
from daybook.ledger.offers import Offer, Waiting
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import Status
from tests.e2e.keeper.conftest import Died, House, dies

pytestmark = pytest.mark.e2e

SLOT = ("SCHEDULED", "AwaitingConcurrencySlot")
SECOND = timedelta(seconds=1)


async def test_where_nothing_is_to_be_done_prefect_is_asked_nothing(house: House) -> None:
    stored = await house.job()
    row = await house.asked(stored)
    await claims.cancel(house.ledger, row.id)

    assert not await ensure.ensure(house.ledger, house.client)
    assert not await ensure.wake(house.ledger, house.client, 4)
    assert not await mirror.mirror(house.ledger, house.client)
    assert not await expire.expire(house.ledger, house.client)

    assert not house.requests


async def test_a_waiting_row_gets_its_prefect_run(house: House) -> None:
    stored = await house.job(prompt="Then")
    until = house.at(minutes=7)
    row = await house.asked(stored, until, reason="later")

    done = await ensure.ensure(house.ledger, house.client)

    (run,) = await house.runs(stored)
    assert done.made == [str(run.id)]
    assert run.state is not None
    assert (run.state.type.value, run.state.name, run.state.message) == (*SLOT, "later")
    assert run.next_scheduled_start_time == until
    assert run.parameters == row.parameters
    row = await house.row(row.id)
    assert (row.flow_run_id, row.prefect_runs, row.status) == (str(run.id), 1, "waiting")
    assert run.idempotency_key == f"{house.ledger.id}:{row.occurrence}:1"

    house.requests.clear()
    assert not await ensure.ensure(house.ledger, house.client)
    assert house.requests == {"filter": 1}


@pytest.mark.slow
async def test_one_that_is_scheduled_elsewhere_is_moved(house: House) -> None:
    stored = await house.job()
    row, run = await house.carried(stored)
    await house.ui.update_flow_run(run.id, infrastructure_pid="a-machine:17")
    for until in (house.at(minutes=9), house.at(minutes=3)):
        await house.edit(row, until=until, reason="another time")

        assert (await ensure.ensure(house.ledger, house.client)).moved == [str(run.id)]

        moved = await house.run(run)
        assert moved.next_scheduled_start_time == until
        assert moved.expected_start_time == run.expected_start_time
        assert moved.infrastructure_pid is None
        assert await house.shown(run) == SLOT
    assert len(await house.runs(stored)) == 1


async def test_two_processes_at_once_make_one_run(house: House) -> None:
    stored = await house.job()
    wanted = [await house.asked(stored) for _ in range(4)]
    async with get_client() as other, Ledger(house.ledger.address, house.clock) as ledger:
        await asyncio.gather(
            ensure.ensure(house.ledger, house.client), ensure.ensure(ledger, other)
        )

    runs = await house.runs(stored)
    assert len(runs) == 4
    carried = {(await house.row(row.id)).flow_run_id for row in wanted}
    assert carried == {str(run.id) for run in runs}


@pytest.mark.slow
async def test_dead_after_the_run_was_made_the_next_pass_finds_it(house: House) -> None:
    stored = await house.job()
    row = await house.asked(stored)
    house.after["create_flow_run"] = dies
    with pytest.raises(Died):
        await ensure.ensure(house.ledger, house.client)
    (run,) = await house.runs(stored)
    assert (await house.row(row.id)).flow_run_id is None

    await ensure.ensure(house.ledger, house.client)

    assert [each.id for each in await house.runs(stored)] == [run.id]
    assert (await house.row(row.id)).flow_run_id == str(run.id)


@pytest.mark.slow
async def test_a_run_that_nobody_knew_and_that_ended_is_followed_by_another(house: House) -> None:
    stored = await house.job()
    row = await house.asked(stored)
    house.after["create_flow_run"] = dies
    with pytest.raises(Died):
        await ensure.ensure(house.ledger, house.client)
    (run,) = await house.runs(stored)
    await house.set(run, Crashed())

    await ensure.ensure(house.ledger, house.client)

    row = await house.row(row.id)
    assert row.flow_run_id not in (None, str(run.id))
    assert await house.shown(row.flow_run_id) == SLOT


@pytest.mark.slow
async def test_a_run_that_was_deleted_is_made_again(house: House) -> None:
    stored = await house.job()
    row, run = await house.carried(stored, until=house.at(minutes=5))
    await house.ui.delete_flow_run(run.id)

    await ensure.ensure(house.ledger, house.client)

    (again,) = await house.runs(stored)
    assert again.id != run.id
    assert again.idempotency_key == f"{house.ledger.id}:{row.occurrence}:2"
    assert (await house.row(row.id)).flow_run_id == str(again.id)


@pytest.mark.parametrize("state", [Pending(), Running()], ids=["pending", "running"])
@pytest.mark.slow
async def test_a_started_one_is_left_to_its_process_for_a_minute(
    house: House, state: State[Any]
) -> None:
    stored = await house.job()
    row, run = await house.carried(stored, Pending(), state)
    house.passes(seconds=30)
    assert not await ensure.ensure(house.ledger, house.client)
    assert await house.shown(run) == (state.type.value, state.name)

    house.passes(seconds=35)
    assert not await ensure.ensure(house.ledger, house.client, supervised={str(run.id)})
    assert (await ensure.ensure(house.ledger, house.client)).moved == [str(run.id)]

    assert await house.shown(run) == SLOT
    assert (await house.run(run)).next_scheduled_start_time == row.until


async def test_a_started_one_whose_process_is_gone_is_set_back_at_once(house: House) -> None:
    stored = await house.job()
    row, run = await house.carried(stored, Pending(), Running())

    await ensure.one(house.ledger, house.client, row)

    assert await house.shown(run) == SLOT
    assert len(await house.runs(stored)) == 1


@pytest.mark.slow
async def test_one_that_was_cancelled_is_not_made_again(house: House) -> None:
    stored = await house.job()
    row, run = await house.carried(stored, Cancelled(), until=house.at(minutes=5))

    assert not await ensure.ensure(house.ledger, house.client)

    assert (await house.row(row.id)).status == "cancelled"
    assert [each.id for each in await house.runs(stored)] == [run.id]
    assert await house.shown(run) == ("CANCELLED", "Cancelled")


async def test_runs_that_end_again_and_again_before_they_begin_are_no_storm(house: House) -> None:
    stored = await house.job()
    row, run = await house.carried(stored)
    for _ in range(3):
        await house.set(run, Crashed(message="no such file"))
        house.passes(minutes=10)
        await ensure.ensure(house.ledger, house.client)
        row = await house.row(row.id)
        if row.status != "waiting":
            break
        run = await house.run(row.flow_run_id)

    assert (row.status, row.attempts) == ("failed", 0)
    assert "no such file" in str(row.error)
    assert len(await house.runs(stored)) == 3


@pytest.mark.parametrize("way", [Cancelled, Completed, Cancelling], ids=lambda way: way.__name__)
@pytest.mark.slow
async def test_what_a_person_does_while_it_is_moved_is_not_lost(
    house: House, way: Callable[[], State[Any]]
) -> None:
    stored = await house.job()
    row, run = await house.carried(stored)
    await house.edit(row, until=house.at(minutes=5))
    house.before["set_state"] = lambda: house.set(run, way())

    assert not await ensure.ensure(house.ledger, house.client)

    ended = await house.row(row.id)
    assert ended.status == ("skipped" if way is Completed else "cancelled")
    name = "Skipped" if way is Completed else "Cancelled"
    assert (await house.shown(run))[1] == name
    assert len(await house.runs(stored)) == 1


async def test_one_that_starts_while_it_is_moved_goes_on(house: House) -> None:
    stored = await house.job()
    row, run = await house.carried(stored)
    await house.edit(row, until=house.at(minutes=5))
    row = await house.row(row.id)

    async def starts() -> None:
        await house.edit(row, until=house.at(seconds=-1))
        await house.acting(row)
        await house.set(run, Pending(), Running())

    house.before["set_state"] = starts
    await ensure.ensure(house.ledger, house.client)

    now = await house.row(row.id)
    assert (now.status, now.fence, now.holder) == ("acting", 1, "somebody")
    # Whoever fetches it now is told that another has it; its flow ends it as ever.
    await house.set(run, Completed())
    await claims.settle(house.ledger, row.id, 1, Outcome(Status.SUCCEEDED, output="done"))
    house.passes(seconds=16)
    await ensure.ensure(house.ledger, house.client)
    await mirror.mirror(house.ledger, house.client)
    assert await house.shown(run) == ("COMPLETED", "Completed")
    assert len(await house.runs(stored)) == 1


async def test_a_row_that_is_claimed_before_the_write_is_not_touched(house: House) -> None:
    stored = await house.job()
    row, run = await house.carried(stored, Pending(), Running())
    house.passes(seconds=70)
    house.after["filter"] = lambda: house.acting(row)

    assert not await ensure.ensure(house.ledger, house.client)

    assert await house.shown(run) == ("RUNNING", "Running")


@pytest.mark.slow
async def test_who_asks_for_a_run_makes_it(house: House) -> None:
    stored = await house.job()
    row = await house.asked(stored)
    await house.edit(row, queued_at=house.ledger.now())

    assert not await ensure.ensure(house.ledger, house.client)
    assert not house.requests

    house.passes(seconds=16)
    assert (await ensure.ensure(house.ledger, house.client)).made


@pytest.mark.slow
async def test_of_a_job_the_next_ten_have_a_run(house: House) -> None:
    stored = await house.job()
    later = house.at(hours=1)
    rows = [await house.asked(stored, later, due=later - timedelta(minutes=n)) for n in range(12)]

    done = await ensure.ensure(house.ledger, house.client)

    assert len(done.made) == 10
    without = [row.id for row in rows if (await house.row(row.id)).flow_run_id is None]
    assert without == [rows[0].id, rows[1].id]


@pytest.mark.slow
async def test_many_are_made_in_several_passes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensure, "MOST_WRITES", 2)
    stored = await house.job()
    later = house.at(hours=1)
    rows = [await house.asked(stored, later, due=later + SECOND * n) for n in range(3)]

    assert len((await ensure.ensure(house.ledger, house.client)).made) == 2
    last = (await ensure.ensure(house.ledger, house.client)).made

    assert last == [(await house.row(rows[2].id)).flow_run_id]


@pytest.mark.slow
async def test_without_a_deployment_a_row_is_left(house: House) -> None:
    stored, other = await house.job(), await house.job()
    gone, fine = await house.asked(stored), await house.asked(other)
    await house.ui.delete_deployment(UUID(str(stored.row.deployment_id)))

    done = await ensure.ensure(house.ledger, house.client)

    assert (len(done.made), done.left) == (1, 1)
    assert (await house.row(fine.id)).flow_run_id == done.made[0]
    left = await house.row(gone.id)
    assert (left.status, left.flow_run_id, left.prefect_runs) == ("waiting", None, 0)


async def test_of_a_job_that_is_off_since_its_deployment_was_deleted_it_is_skipped(
    house: House,
) -> None:
    """It was held while that was noticed, and its process died."""
    stored = await house.job()
    held, _ = await house.carried(stored)
    granted = await house.claimed(held)
    deployment_id = str(stored.row.deployment_id)
    await house.ui.delete_deployment(UUID(deployment_id))
    async with house.ledger.write() as session:
        now = house.ledger.now()
        assert await records.lost(session, stored.id, deployment_id, now, records.DELETED)
    assert (await house.row(held.id)).status == "claimed"
    await claims.died(house.ledger, held.id, granted.fence, "killed")
    assert (await house.row(held.id)).status == "waiting"
    house.passes(seconds=61)
    fresh = await house.asked(stored)  # who asked for it is about to make the deployment

    await ensure.ensure(house.ledger, house.client)

    row = await house.row(held.id)
    assert (row.status, row.reason) == ("skipped", f"the job is off: {records.DELETED}")
    assert (row.finished_at is not None, row.until) == (True, None)
    assert (await house.row(fresh.id)).status == "waiting"
    house.passes(seconds=61)
    await ensure.ensure(house.ledger, house.client)
    assert (await house.row(fresh.id)).status == "skipped"


async def test_of_a_removed_job_it_is_cancelled(house: House) -> None:
    stored = await house.job()
    row = await house.asked(stored)
    granted = await house.claimed(row)
    await house.archive(stored)
    await claims.postpone(house.ledger, row.id, granted.fence, house.at(seconds=-1), "no ledger")

    assert not await ensure.ensure(house.ledger, house.client)

    row = await house.row(row.id)
    assert (row.status, row.reason) == ("cancelled", "the job was removed")


async def test_what_prefect_refuses_does_not_hold_up_the_others(house: House) -> None:
    stored = await house.job()
    bad = await house.asked(stored, parameters={"prompt": ["no", "text"]})
    good = await house.asked(stored)

    done = await ensure.ensure(house.ledger, house.client)

    assert (len(done.made), done.left) == (1, 1)
    assert (await house.row(bad.id)).flow_run_id is None
    assert (await house.row(good.id)).flow_run_id == done.made[0]


async def test_what_prefect_refuses_is_asked_for_after_longer_pauses_and_has_failed_then(
    house: House,
) -> None:
    stored = await house.job()
    bad = await house.asked(stored, parameters={"prompt": ["no", "text"]})
    for count, pause in ((1, 15), (2, 30)):
        before = house.ledger.now()
        assert (await ensure.ensure(house.ledger, house.client)).left == 1
        row = await house.row(bad.id)
        assert row.until is not None
        assert pause <= (row.until - before).total_seconds() < pause + 60
        assert (row.status, row.waits_for, row.prefect_runs) == ("waiting", "prefect", count)
        assert row.reason.startswith("Prefect refused to make its run: ")
        house.requests.clear()
        assert (await ensure.ensure(house.ledger, house.client)).left == 1  # not before its time
        assert not house.requests
        house.passes(seconds=pause + 1)

    await ensure.ensure(house.ledger, house.client)

    row = await house.row(bad.id)
    assert (row.status, row.attempts, row.flow_run_id) == ("failed", 0, None)
    assert "prompt" in str(row.error)
    assert str(row.error).startswith("Prefect refused to make its run, 3 were asked for: ")
    assert not (await ensure.ensure(house.ledger, house.client)).left


async def test_what_was_refused_and_is_not_any_more_is_made(house: House) -> None:
    stored = await house.job()
    row = await house.asked(stored, parameters={"prompt": ["no", "text"]})
    await ensure.ensure(house.ledger, house.client)
    await house.edit(await house.row(row.id), parameters=stored.job.parameters())
    house.passes(seconds=16)

    done = await ensure.ensure(house.ledger, house.client)

    assert (await house.row(row.id)).flow_run_id == done.made[0]


@pytest.mark.parametrize("code", [401, 403])
async def test_a_refusal_that_is_no_fault_of_the_row_is_not_held_against_it(
    house: House, code: int
) -> None:
    row = await house.asked(await house.job())

    async def refuse(response: httpx.Response) -> None:
        if response.request.url.path.endswith("/create_flow_run"):
            response.status_code = code

    house.client._client.event_hooks = {"response": [refuse]}
    with pytest.raises(PrefectHTTPStatusError, match=str(code)):
        await ensure.one(house.ledger, house.client, row)

    found = await house.row(row.id)
    assert (found.status, found.prefect_runs, found.until) == ("waiting", 0, row.until)


@pytest.mark.slow
async def test_a_failed_run_of_a_waiting_row_is_followed_by_another(house: House) -> None:
    stored = await house.job()
    row, run = await house.carried(stored, Failed(message="no slot"))

    done = await ensure.ensure(house.ledger, house.client)

    assert len(done.made) == 1
    row = await house.row(row.id)
    assert row.flow_run_id == done.made[0] != str(run.id)
    assert row.prefect_runs == 2


# --- wake: a free slot (`docs/promise.md` 12)


async def test_a_free_slot_goes_to_the_earliest_due_time(house: House) -> None:
    until = house.at(seconds=30)
    stored, other = await house.job(), await house.job()
    late, late_run = await house.carried(stored, until=until, waits_for="slot")
    early, early_run = await house.carried(
        other, until=until, waits_for="slot", due=late.due - SECOND
    )

    assert await ensure.wake(house.ledger, house.client, 1) == [str(early_run.id)]

    assert await house.start(early_run) < house.at(seconds=1)
    assert await house.start(late_run) == until
    # It stays woken, and is the one that gets the slot.
    assert not await ensure.ensure(house.ledger, house.client)
    assert await house.start(early_run) < house.at(seconds=1)
    offer = Offer(late.occurrence, late.kind, late.trigger, late.due, "w", most=1)
    assert isinstance(await claims.claim(house.ledger, offer), Waiting)
    await house.claimed(await house.row(early.id))
    assert await ensure.wake(house.ledger, house.client, 1) == []


@pytest.mark.slow
async def test_what_is_due_already_is_not_moved_again(house: House) -> None:
    stored = await house.job()
    _, run = await house.carried(stored, waits_for="slot")
    before = await house.states(run)

    assert await ensure.wake(house.ledger, house.client, 4) == [str(run.id)]
    assert await house.states(run) == before
