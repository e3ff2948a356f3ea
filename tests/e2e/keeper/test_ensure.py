"""Ensure: each waiting row has exactly one scheduled Prefect run (promise 11)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Pending, Running

from daybook.keeper import lease_reaper, services
from daybook.keeper.keeper import Keeper
from daybook.keeper.term import Term
from daybook.ledger import waits
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.prefect import links as records
from daybook.prefect import scheduled_runs, state_mirror
from daybook.runs import claims, leases
from daybook.runs.claim_requests import ClaimRequest, Waiting
from tests.world.prefect_world import PrefectWorld
from tests.world.traffic import Died, dies

pytestmark = pytest.mark.e2e

SLOT = ("SCHEDULED", "AwaitingConcurrencySlot")
SECOND = timedelta(seconds=1)


async def test_services_without_work_send_no_request_to_prefect(world: PrefectWorld) -> None:
    stored = await world.deploy()
    row = await world.runs.request(stored)
    await claims.cancel(world.ledger, row.id)

    assert not await scheduled_runs.ensure_all(world.ledger, world.client)
    assert not await scheduled_runs.wake(world.ledger, world.client, 4)
    assert not await state_mirror.mirror(world.ledger, world.client)
    assert not await lease_reaper.expire(world.ledger, world.client)

    assert not world.prefect.traffic.requests


async def test_a_waiting_row_gets_its_prefect_run(world: PrefectWorld) -> None:
    stored = await world.deploy(prompt="Then")
    until = world.at(minutes=7)
    row = await world.runs.request(stored, until, reason="later")

    done = await scheduled_runs.ensure_all(world.ledger, world.client)

    (run,) = await world.prefect.runs(stored)
    assert done.made == [str(run.id)]
    assert run.state is not None
    assert (run.state.type.value, run.state.name, run.state.message) == (*SLOT, "later")
    assert run.next_scheduled_start_time == until
    assert run.parameters == row.parameters
    row = await world.runs.row(row.id)
    assert (row.flow_run_id, row.prefect_runs, row.status) == (str(run.id), 1, "waiting")
    assert run.idempotency_key == f"{world.ledger.id}:{row.occurrence}:1"

    world.prefect.traffic.requests.clear()
    assert not await scheduled_runs.ensure_all(world.ledger, world.client)
    assert world.prefect.traffic.requests == {"filter": 1}


async def test_a_leader_reads_only_a_part_of_the_runs_that_it_has_found_on_time(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduled_runs, "READ_AGAIN", 0)
    monkeypatch.setattr(scheduled_runs, "MAX_TURN_PASSES", 2)
    (ensure,) = (each for each in services.RUNS.services if each.name == "ensure")
    keeper = Keeper(world.ledger, "here:1:a")
    cycle = ensure.start(keeper.context(world.client), Term())
    stored = await world.deploy()
    waiting = [await world.waiting_run(stored) for _ in range(4)]
    await cycle()
    (row, run), (_, deleted) = waiting[2], waiting[3]
    await world.prefect.ui.delete_flow_run(deleted.id)
    until = world.at(minutes=9)
    await world.runs.set_row(row, until=until)
    await cycle()  # it reads the changed row, and the first two of the others
    assert (await world.prefect.run(run)).next_scheduled_start_time == until
    assert len(await world.prefect.runs(stored)) == 3

    await cycle()
    assert len(await world.prefect.runs(stored)) == 4


async def test_a_prefect_run_scheduled_for_another_time_is_moved(world: PrefectWorld) -> None:
    stored = await world.deploy()
    row, run = await world.waiting_run(stored)
    await world.prefect.ui.update_flow_run(run.id, infrastructure_pid="a-machine:17")
    for until in (world.at(minutes=9), world.at(minutes=3)):
        await world.runs.set_row(row, until=until, reason="another time")

        assert (await scheduled_runs.ensure_all(world.ledger, world.client)).moved == [str(run.id)]

        moved = await world.prefect.run(run)
        assert moved.next_scheduled_start_time == until
        assert moved.expected_start_time == run.expected_start_time
        assert moved.infrastructure_pid is None
        assert await world.prefect.shown(run) == SLOT
    assert len(await world.prefect.runs(stored)) == 1


async def test_two_concurrent_passes_create_one_prefect_run_for_each_row(
    world: PrefectWorld,
) -> None:
    stored = await world.deploy()
    requested = [await world.runs.request(stored) for _ in range(4)]
    async with get_client() as other, Ledger(world.ledger.address, world.clock) as ledger:
        await asyncio.gather(
            scheduled_runs.ensure_all(world.ledger, world.client),
            scheduled_runs.ensure_all(ledger, other),
        )

    runs = await world.prefect.runs(stored)
    assert len(runs) == 4
    carried = {(await world.runs.row(row.id)).flow_run_id for row in requested}
    assert carried == {str(run.id) for run in runs}


@pytest.mark.slow
async def test_the_next_pass_finds_a_prefect_run_that_a_killed_pass_created(
    world: PrefectWorld,
) -> None:
    stored = await world.deploy()
    row = await world.runs.request(stored)
    world.prefect.traffic.after["create_flow_run"] = dies
    with pytest.raises(Died):
        await scheduled_runs.ensure_all(world.ledger, world.client)
    (run,) = await world.prefect.runs(stored)
    assert (await world.runs.row(row.id)).flow_run_id is None

    await scheduled_runs.ensure_all(world.ledger, world.client)

    assert [each.id for each in await world.prefect.runs(stored)] == [run.id]
    assert (await world.runs.row(row.id)).flow_run_id == str(run.id)


@pytest.mark.slow
async def test_an_unrecorded_prefect_run_that_crashed_is_replaced(world: PrefectWorld) -> None:
    stored = await world.deploy()
    row = await world.runs.request(stored)
    world.prefect.traffic.after["create_flow_run"] = dies
    with pytest.raises(Died):
        await scheduled_runs.ensure_all(world.ledger, world.client)
    (run,) = await world.prefect.runs(stored)
    await world.prefect.set(run, Crashed())

    await scheduled_runs.ensure_all(world.ledger, world.client)

    row = await world.runs.row(row.id)
    assert row.flow_run_id not in (None, str(run.id))
    assert await world.prefect.shown(row.flow_run_id) == SLOT


@pytest.mark.slow
async def test_a_deleted_prefect_run_of_a_waiting_row_is_created_again(world: PrefectWorld) -> None:
    stored = await world.deploy()
    row, run = await world.waiting_run(stored, until=world.at(minutes=5))
    await world.prefect.ui.delete_flow_run(run.id)

    await scheduled_runs.ensure_all(world.ledger, world.client)

    (again,) = await world.prefect.runs(stored)
    assert again.id != run.id
    assert again.idempotency_key == f"{world.ledger.id}:{row.occurrence}:2"
    assert (await world.runs.row(row.id)).flow_run_id == str(again.id)


@pytest.mark.parametrize("state", [Pending(), Running()], ids=["pending", "running"])
@pytest.mark.slow
async def test_a_started_unsupervised_prefect_run_is_set_back_after_a_minute(
    world: PrefectWorld, state: State[Any]
) -> None:
    stored = await world.deploy()
    row, run = await world.waiting_run(stored, Pending(), state)
    world.passes(seconds=30)
    assert not await scheduled_runs.ensure_all(world.ledger, world.client)
    assert await world.prefect.shown(run) == (state.type.value, state.name)

    world.passes(seconds=35)
    assert not await scheduled_runs.ensure_all(world.ledger, world.client, supervised={str(run.id)})
    assert (await scheduled_runs.ensure_all(world.ledger, world.client)).moved == [str(run.id)]

    assert await world.prefect.shown(run) == SLOT
    assert (await world.prefect.run(run)).next_scheduled_start_time == row.until


@pytest.mark.parametrize("state", [Pending(), Running()], ids=["pending", "running"])
async def test_the_prefect_run_of_a_lost_holder_is_set_back_soon_whoever_found_it_lost(
    world: PrefectWorld, state: State[Any]
) -> None:
    stored = await world.deploy()
    row, run = await world.waiting_run(stored, Pending(), state)
    await world.runs.claimed(row)
    for _ in range(2):  # the first finds the lease expired, the second declares the holder lost
        world.passes(seconds=61)
        await leases.expire_all(world.ledger)  # as a claim does, which changes nothing in Prefect
    assert (await world.runs.row(row.id)).state is Status.WAITING
    assert not await scheduled_runs.ensure_all(world.ledger, world.client)

    world.passes(seconds=6)
    assert (await scheduled_runs.ensure_all(world.ledger, world.client)).moved == [str(run.id)]
    assert await world.prefect.shown(run) == SLOT


async def test_a_new_start_after_a_lost_holder_is_not_set_back(world: PrefectWorld) -> None:
    stored = await world.deploy()
    row, run = await world.waiting_run(stored, Pending(), Running())
    assert run.run_count == row.flow_starts + 1
    await world.runs.set_row(row, waits_for=waits.LOST.name)

    world.passes(seconds=30)
    assert not await scheduled_runs.ensure_all(world.ledger, world.client)
    assert await world.prefect.shown(run) == ("RUNNING", "Running")


async def test_ensure_row_sets_a_started_prefect_run_back_at_once(world: PrefectWorld) -> None:
    stored = await world.deploy()
    row, run = await world.waiting_run(stored, Pending(), Running())

    await scheduled_runs.ensure_row(world.ledger, world.client, row)

    assert await world.prefect.shown(run) == SLOT
    assert len(await world.prefect.runs(stored)) == 1


@pytest.mark.slow
async def test_a_cancelled_prefect_run_is_not_created_again(world: PrefectWorld) -> None:
    stored = await world.deploy()
    row, run = await world.waiting_run(stored, Cancelled(), until=world.at(minutes=5))

    assert not await scheduled_runs.ensure_all(world.ledger, world.client)

    assert (await world.runs.row(row.id)).status == "cancelled"
    assert [each.id for each in await world.prefect.runs(stored)] == [run.id]
    assert await world.prefect.shown(run) == ("CANCELLED", "Cancelled")


async def test_a_row_fails_after_three_prefect_runs_crashed_before_they_began(
    world: PrefectWorld,
) -> None:
    stored = await world.deploy()
    row, run = await world.waiting_run(stored)
    for _ in range(3):
        await world.prefect.set(run, Crashed(message="no such file"))
        world.passes(minutes=10)
        await scheduled_runs.ensure_all(world.ledger, world.client)
        row = await world.runs.row(row.id)
        if row.status != "waiting":
            break
        run = await world.prefect.run(row.flow_run_id)

    assert (row.status, row.attempts) == ("failed", 0)
    assert "no such file" in str(row.error)
    assert len(await world.prefect.runs(stored)) == 3


@pytest.mark.parametrize("way", [Cancelled, Completed, Cancelling], ids=lambda way: way.__name__)
@pytest.mark.slow
async def test_an_end_that_a_person_sets_while_a_run_is_moved_is_kept(
    world: PrefectWorld, way: Callable[[], State[Any]]
) -> None:
    stored = await world.deploy()
    row, run = await world.waiting_run(stored)
    await world.runs.set_row(row, until=world.at(minutes=5))
    world.prefect.traffic.before["set_state"] = lambda: world.prefect.set(run, way())

    assert not await scheduled_runs.ensure_all(world.ledger, world.client)

    ended = await world.runs.row(row.id)
    assert ended.status == ("skipped" if way is Completed else "cancelled")
    name = "Skipped" if way is Completed else "Cancelled"
    assert (await world.prefect.shown(run))[1] == name
    assert len(await world.prefect.runs(stored)) == 1


async def test_a_run_that_starts_while_it_is_moved_continues(world: PrefectWorld) -> None:
    stored = await world.deploy()
    row, run = await world.waiting_run(stored)
    await world.runs.set_row(row, until=world.at(minutes=5))
    row = await world.runs.row(row.id)

    async def starts() -> None:
        await world.runs.set_row(row, until=world.at(seconds=-1))
        await world.runs.running(row)
        await world.prefect.set(run, Pending(), Running())

    world.prefect.traffic.before["set_state"] = starts
    await scheduled_runs.ensure_all(world.ledger, world.client)

    now = await world.runs.row(row.id)
    assert (now.status, now.fence, now.holder) == ("running", 1, "here:1")
    # A worker that fetches it now finds it held elsewhere; its flow ends it as usual.
    await world.prefect.set(run, Completed())
    await claims.finish(world.ledger, row.id, 1, Outcome(Status.SUCCEEDED, output="done"))
    world.passes(seconds=16)
    await scheduled_runs.ensure_all(world.ledger, world.client)
    await state_mirror.mirror(world.ledger, world.client)
    assert await world.prefect.shown(run) == ("COMPLETED", "Completed")
    assert len(await world.prefect.runs(stored)) == 1


async def test_a_row_claimed_just_before_the_write_keeps_its_prefect_state(
    world: PrefectWorld,
) -> None:
    stored = await world.deploy()
    row, run = await world.waiting_run(stored, Pending(), Running())
    world.passes(seconds=70)
    world.prefect.traffic.after["filter"] = lambda: world.runs.running(row)

    assert not await scheduled_runs.ensure_all(world.ledger, world.client)

    assert await world.prefect.shown(run) == ("RUNNING", "Running")


@pytest.mark.slow
async def test_a_fresh_request_is_left_to_its_requester_for_some_seconds(
    world: PrefectWorld,
) -> None:
    stored = await world.deploy()
    row = await world.runs.request(stored)
    await world.runs.set_row(row, queued_at=world.ledger.now())

    assert not await scheduled_runs.ensure_all(world.ledger, world.client)
    assert not world.prefect.traffic.requests

    world.passes(seconds=16)
    assert (await scheduled_runs.ensure_all(world.ledger, world.client)).made


@pytest.mark.slow
async def test_only_the_next_ten_rows_of_a_job_have_a_prefect_run(world: PrefectWorld) -> None:
    stored = await world.deploy()
    later = world.at(hours=1)
    rows = [
        await world.runs.request(stored, later, due=later - timedelta(minutes=n)) for n in range(12)
    ]

    done = await scheduled_runs.ensure_all(world.ledger, world.client)

    assert len(done.made) == 10
    without = [row.id for row in rows if (await world.runs.row(row.id)).flow_run_id is None]
    assert without == [rows[0].id, rows[1].id]


@pytest.mark.slow
async def test_runs_over_the_write_limit_are_created_in_the_next_pass(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduled_runs, "MAX_WRITES_PER_PASS", 2)
    stored = await world.deploy()
    later = world.at(hours=1)
    rows = [await world.runs.request(stored, later, due=later + SECOND * n) for n in range(3)]

    assert len((await scheduled_runs.ensure_all(world.ledger, world.client)).made) == 2
    last = (await scheduled_runs.ensure_all(world.ledger, world.client)).made

    assert last == [(await world.runs.row(rows[2].id)).flow_run_id]


@pytest.mark.slow
async def test_a_row_whose_deployment_is_missing_stays_waiting(world: PrefectWorld) -> None:
    stored, other = await world.deploy(), await world.deploy()
    lost, fine = await world.runs.request(stored), await world.runs.request(other)
    await world.prefect.ui.delete_deployment(UUID(str(stored.row.deployment_id)))

    done = await scheduled_runs.ensure_all(world.ledger, world.client)

    assert (len(done.made), done.left) == (1, 1)
    assert (await world.runs.row(fine.id)).flow_run_id == done.made[0]
    left = await world.runs.row(lost.id)
    assert (left.status, left.flow_run_id, left.prefect_runs) == ("waiting", None, 0)


async def test_a_waiting_row_of_a_job_whose_deployment_was_deleted_is_skipped(
    world: PrefectWorld,
) -> None:
    """The row was claimed when the deletion was recorded, and its process died after that."""
    stored = await world.deploy()
    held, _ = await world.waiting_run(stored)
    granted = await world.runs.claimed(held)
    deployment_id = str(stored.row.deployment_id)
    await world.prefect.ui.delete_deployment(UUID(deployment_id))
    async with world.ledger.write() as session:
        now = world.ledger.now()
        assert await records.record_lost_deployment(
            session, stored.id, deployment_id, now, records.DELETED_REASON
        )
    assert (await world.runs.row(held.id)).status == "claimed"
    await claims.holder_died(world.ledger, held.id, granted.fence, "killed")
    assert (await world.runs.row(held.id)).status == "waiting"
    world.passes(seconds=61)
    fresh = await world.runs.request(stored)  # its requester may be about to create the deployment

    await scheduled_runs.ensure_all(world.ledger, world.client)

    row = await world.runs.row(held.id)
    assert (row.status, row.reason) == ("skipped", f"the job is disabled: {records.DELETED_REASON}")
    assert (row.finished_at is not None, row.until) == (True, None)
    assert (await world.runs.row(fresh.id)).status == "waiting"
    world.passes(seconds=61)
    await scheduled_runs.ensure_all(world.ledger, world.client)
    assert (await world.runs.row(fresh.id)).status == "skipped"


async def test_a_waiting_row_of_a_removed_job_is_cancelled(world: PrefectWorld) -> None:
    stored = await world.deploy()
    row = await world.runs.request(stored)
    granted = await world.runs.claimed(world.runs.claim_request(row, flow_run_id=None))
    await world.jobs.archive(stored)
    await claims.postpone(world.ledger, row.id, granted.fence, world.at(seconds=-1), "no ledger")

    assert not await scheduled_runs.ensure_all(world.ledger, world.client)

    row = await world.runs.row(row.id)
    assert (row.status, row.reason) == ("cancelled", "the job was removed")


async def test_a_run_that_prefect_refuses_does_not_block_the_others(world: PrefectWorld) -> None:
    stored = await world.deploy()
    bad = await world.runs.request(stored, parameters={"prompt": ["no", "text"]})
    good = await world.runs.request(stored)

    done = await scheduled_runs.ensure_all(world.ledger, world.client)

    assert (len(done.made), done.left) == (1, 1)
    assert (await world.runs.row(bad.id)).flow_run_id is None
    assert (await world.runs.row(good.id)).flow_run_id == done.made[0]


async def test_a_refused_run_is_retried_with_backoff_and_fails_after_three_refusals(
    world: PrefectWorld,
) -> None:
    stored = await world.deploy()
    bad = await world.runs.request(stored, parameters={"prompt": ["no", "text"]})
    for count, pause in ((1, 15), (2, 30)):
        before = world.ledger.now()
        assert (await scheduled_runs.ensure_all(world.ledger, world.client)).left == 1
        row = await world.runs.row(bad.id)
        assert row.until is not None
        assert pause <= (row.until - before).total_seconds() < pause + 60
        assert (row.status, row.waits_for, row.prefect_runs) == ("waiting", "prefect", count)
        assert row.reason.startswith("Prefect refused to create its run: ")
        world.prefect.traffic.requests.clear()
        assert (
            await scheduled_runs.ensure_all(world.ledger, world.client)
        ).left == 1  # not due yet
        assert not world.prefect.traffic.requests
        world.passes(seconds=pause + 1)

    await scheduled_runs.ensure_all(world.ledger, world.client)

    row = await world.runs.row(bad.id)
    assert (row.status, row.attempts, row.flow_run_id) == ("failed", 0, None)
    assert "prompt" in str(row.error)
    assert str(row.error).startswith("Prefect refused 3 times to create its run: ")
    assert not (await scheduled_runs.ensure_all(world.ledger, world.client)).left


async def test_a_refused_run_is_created_when_prefect_accepts_it(world: PrefectWorld) -> None:
    stored = await world.deploy()
    row = await world.runs.request(stored, parameters={"prompt": ["no", "text"]})
    await scheduled_runs.ensure_all(world.ledger, world.client)
    await world.runs.set_row(await world.runs.row(row.id), parameters=stored.job.parameters())
    world.passes(seconds=16)

    done = await scheduled_runs.ensure_all(world.ledger, world.client)

    assert (await world.runs.row(row.id)).flow_run_id == done.made[0]


@pytest.mark.parametrize("code", [401, 403])
async def test_an_authorization_error_of_prefect_does_not_count_as_a_refusal(
    world: PrefectWorld, code: int
) -> None:
    row = await world.runs.request(await world.deploy())

    async def refuse(response: httpx.Response) -> None:
        if response.request.url.path.endswith("/create_flow_run"):
            response.status_code = code

    world.client._client.event_hooks = {"response": [refuse]}
    with pytest.raises(PrefectHTTPStatusError, match=str(code)):
        await scheduled_runs.ensure_row(world.ledger, world.client, row)

    found = await world.runs.row(row.id)
    assert (found.status, found.prefect_runs, found.until) == ("waiting", 0, row.until)


@pytest.mark.slow
async def test_a_failed_prefect_run_of_a_waiting_row_is_replaced(world: PrefectWorld) -> None:
    stored = await world.deploy()
    row, run = await world.waiting_run(stored, Failed(message="no slot"))

    done = await scheduled_runs.ensure_all(world.ledger, world.client)

    assert len(done.made) == 1
    row = await world.runs.row(row.id)
    assert row.flow_run_id == done.made[0] != str(run.id)
    assert row.prefect_runs == 2


# --- wake: free slots (promise 12)


async def test_a_free_slot_goes_to_the_earliest_due_time(world: PrefectWorld) -> None:
    until = world.at(seconds=30)
    stored, other = await world.deploy(), await world.deploy()
    late, late_run = await world.waiting_run(stored, until=until, waits_for="slot")
    early, early_run = await world.waiting_run(
        other, until=until, waits_for="slot", due=late.due - SECOND
    )

    assert await scheduled_runs.wake(world.ledger, world.client, 1) == [str(early_run.id)]

    assert await world.prefect.start(early_run) < world.at(seconds=1)
    assert await world.prefect.start(late_run) == until
    # The woken run keeps its start time, and only it gets the slot.
    assert not await scheduled_runs.ensure_all(world.ledger, world.client)
    assert await world.prefect.start(early_run) < world.at(seconds=1)
    claim_request = ClaimRequest(late.occurrence, late.kind, late.trigger, late.due, "w", most=1)
    assert isinstance(await claims.claim(world.ledger, claim_request), Waiting)
    await world.runs.claimed(await world.runs.row(early.id))
    assert await scheduled_runs.wake(world.ledger, world.client, 1) == []


async def test_a_run_that_the_worker_has_at_hand_is_woken_without_prefect(
    world: PrefectWorld,
) -> None:
    until, offered = world.at(seconds=30), list[str]()
    row, run = await world.waiting_run(await world.deploy(), until=until, waits_for="slot")

    def at_hand(row: RunRow) -> bool:
        offered.append(row.id)
        return True

    assert await scheduled_runs.wake(world.ledger, world.client, 1, at_hand=at_hand) == []
    assert offered == [row.id]
    assert await world.prefect.start(run) == until


async def test_a_woken_prefect_run_that_is_due_for_long_is_moved_to_tell_its_worker(
    world: PrefectWorld,
) -> None:
    row, run = await world.waiting_run(await world.deploy(), waits_for="slot")
    world.passes(seconds=6)

    assert await scheduled_runs.wake(world.ledger, world.client, 4) == [str(run.id)]
    assert await world.prefect.start(run) >= cast(datetime, row.until) + 6 * SECOND


@pytest.mark.slow
async def test_a_woken_prefect_run_that_is_already_due_is_not_moved(world: PrefectWorld) -> None:
    stored = await world.deploy()
    _, run = await world.waiting_run(stored, waits_for="slot")
    before = await world.prefect.states(run)

    assert await scheduled_runs.wake(world.ledger, world.client, 4) == [str(run.id)]
    assert await world.prefect.states(run) == before
