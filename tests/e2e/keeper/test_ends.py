"""Ends of runs in Prefect that become outcomes in the ledger (promise 13)."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Pending, Running

from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.prefect import ended_runs, flow_runs, scheduled_runs, state_mirror
from daybook.prefect.states import terminal_state
from daybook.runs import claims, leases, prefect_ends
from daybook.runs.claim_requests import Granted
from tests.costs import one_in
from tests.world.prefect_world import PrefectWorld

pytestmark = pytest.mark.e2e


async def record_ends(world: PrefectWorld, **given: Any) -> None:
    await ended_runs.record_live_ends(world.ledger, world.client, **given)
    await ended_runs.record_unread_ends(world.ledger, world.client, **given)


async def scheduled(world: PrefectWorld) -> FlowRun:
    """Return a future run that Prefect's scheduler created for a job."""
    return (await world.prefect.runs(await world.deploy(cron="0 0 1 1 *")))[0]


async def held(world: PrefectWorld, *, running: bool) -> tuple[RunRow, FlowRun, Granted]:
    row, run = await world.waiting_run(await world.deploy())
    granted = await (world.runs.running(row) if running else world.runs.claimed(row))
    await world.prefect.set(run, Pending(), Running())
    return await world.runs.row(row.id), run, granted


# --- runs without a row


@pytest.mark.slow
async def test_a_future_run_cancelled_in_prefect_is_recorded_as_cancelled(
    world: PrefectWorld,
) -> None:
    run = await scheduled(world)
    await world.prefect.ui.set_flow_run_state(run.id, Cancelling())  # as the UI's button does
    assert await world.prefect.shown(run) == ("CANCELLED", "Cancelled")

    await ended_runs.record_unread_ends(world.ledger, world.client)

    (row,) = await world.runs.rows()
    assert (row.status, row.flow_run_id) == ("cancelled", str(run.id))
    assert row.occurrence.startswith("due:")
    assert run.expected_start_time is not None
    assert abs(row.due.timestamp() - run.expected_start_time.timestamp()) < 1
    assert row.kind == "agent-prompt"

    # Passes overlap, and reading the same end again changes nothing.
    await ended_runs.record_unread_ends(world.ledger, world.client)
    assert [each.id for each in await world.runs.rows()] == [row.id]
    world.passes(seconds=16)
    assert (await state_mirror.mirror(world.ledger, world.client)).agreed == 1


@pytest.mark.slow
async def test_a_custom_run_that_fails_before_its_flow_is_recorded_as_failed(
    world: PrefectWorld,
) -> None:
    stored = await world.deploy()
    run = await world.prefect.ui.create_flow_run_from_deployment(
        UUID(str(stored.row.deployment_id))
    )
    await world.prefect.set(run, Pending(), Failed(message="prompt: is not a string"))

    await record_ends(world)

    (row,) = await world.runs.rows()
    assert (row.status, row.occurrence) == ("failed", f"flow:{run.id}")
    assert "prompt: is not a string" in str(row.error)


@pytest.mark.slow
async def test_a_run_mirrored_as_unknown_is_not_recorded_again_without_its_row(
    world: PrefectWorld,
) -> None:
    stored = await world.deploy()
    run = await world.prefect.ui.create_flow_run_from_deployment(
        UUID(str(stored.row.deployment_id))
    )
    await world.prefect.set(
        run, Pending(), Running(), terminal_state(Status.UNKNOWN, "the process vanished")
    )

    await record_ends(world)

    assert (
        await ended_runs.record_end(world.ledger, world.client, str(run.id), has_no_process=True)
        is None
    )
    assert await world.runs.rows() == []


async def test_a_due_run_that_crashed_before_its_claim_gets_a_new_prefect_run(
    world: PrefectWorld,
) -> None:
    stored = await world.deploy(every="1m")
    run = (await world.prefect.runs(stored))[0]
    world.passes(seconds=70)
    await world.prefect.set(run, Pending(), Crashed(message="no process"))

    await record_ends(world)

    (row,) = await world.runs.rows()
    assert (row.status, row.occurrence[:4]) == ("waiting", "due:")
    assert (await scheduled_runs.ensure_all(world.ledger, world.client)).made == [
        (await world.runs.row(row.id)).flow_run_id
    ]


async def test_a_run_refused_as_not_due_gets_no_row(world: PrefectWorld) -> None:
    run = await scheduled(world)
    await world.prefect.set(run, terminal_state(Status.SKIPPED, "not due"))

    await record_ends(world)

    assert await world.runs.rows() == []


async def test_a_run_of_another_ledgers_deployment_is_ignored(world: PrefectWorld) -> None:
    flow = await world.prefect.ui.create_flow_from_name("theirs")
    deployment = await world.prefect.ui.create_deployment(flow, "theirs", tags=["daybook:another"])
    run = await world.prefect.ui.create_flow_run_from_deployment(deployment)
    await world.prefect.set(run, Cancelled())

    await record_ends(world)
    assert await ended_runs.record_end(world.ledger, world.client, str(run.id)) is None

    assert await world.runs.rows() == []
    await world.prefect.ui.delete_deployment(deployment)


async def test_ends_before_the_stored_read_position_are_not_read_again(world: PrefectWorld) -> None:
    run = await scheduled(world)
    await world.prefect.set(run, Cancelled())
    world.passes(minutes=2)
    await prefect_ends.advance(world.ledger, world.at(seconds=-60))

    now = world.ledger.now()
    assert await ended_runs.record_unread_ends(world.ledger, world.client) >= now

    assert await world.runs.rows() == []
    assert world.prefect.traffic.requests["filter"] == 1


@pytest.mark.slow
async def test_a_run_cancelled_days_before_the_next_pass_is_recorded(world: PrefectWorld) -> None:
    run = await scheduled(world)
    await ended_runs.record_unread_ends(world.ledger, world.client)
    await world.prefect.set(run, Cancelled())
    world.passes(days=3)

    await ended_runs.record_unread_ends(world.ledger, world.client)

    assert [row.status for row in await world.runs.rows()] == ["cancelled"]


@pytest.mark.parametrize("shortest", one_in(2, [timedelta(milliseconds=1), timedelta(hours=1)]))
async def test_many_ends_are_read_in_parts_over_several_passes(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch, shortest: timedelta
) -> None:
    monkeypatch.setattr(flow_runs, "PAGE_SIZE", 3)
    monkeypatch.setattr(flow_runs, "MIN_WINDOW", shortest)
    runs = [await scheduled(world) for _ in range(8)]
    for run in runs:
        await world.prefect.set(run, Cancelled())
    world.passes(minutes=30)

    seen_by_pass, reached = [], list[datetime]()
    while not reached or reached[-1] < world.at(minutes=-1):
        # Each pass is by a new leader, which has time for one part.
        reached.append(
            await ended_runs.record_unread_ends(world.ledger, world.client, most_seconds=0)
        )
        seen_by_pass.append(len(await world.runs.rows()))

    assert reached == sorted(set(reached))
    assert {row.flow_run_id for row in await world.runs.rows()} == {str(run.id) for run in runs}
    most = max(later - sooner for sooner, later in pairwise([0, *seen_by_pass]))
    assert most == 8 if shortest > timedelta(minutes=5) else 1 <= most < 3


@pytest.mark.slow
async def test_the_end_of_a_supervised_run_is_left_and_read_in_a_later_pass(
    world: PrefectWorld,
) -> None:
    run = await scheduled(world)
    await world.prefect.set(run, Cancelled())
    world.passes(minutes=10)

    await ended_runs.record_unread_ends(world.ledger, world.client, supervised=[str(run.id)])
    assert await world.runs.rows() == []

    await ended_runs.record_unread_ends(world.ledger, world.client)
    assert [row.status for row in await world.runs.rows()] == ["cancelled"]


# --- waiting rows


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (Cancelled(), "cancelled"),
        (Completed(), "skipped"),
        (Crashed(), "waiting"),
        (Failed(), "waiting"),
    ],
    ids=["cancelled", "completed", "crashed", "failed"],
)
@pytest.mark.slow
async def test_a_waiting_row_follows_the_end_of_its_prefect_run(
    world: PrefectWorld, state: State[Any], status: str
) -> None:
    row, run = await world.waiting_run(await world.deploy(), state, until=world.at(minutes=5))

    await record_ends(world)

    row = await world.runs.row(row.id)
    assert row.status == status
    assert row.flow_run_id == (None if status == "waiting" else str(run.id))


async def test_a_cancelling_run_without_a_process_is_cancelled_on_both_sides(
    world: PrefectWorld,
) -> None:
    row, run = await world.waiting_run(await world.deploy(), Pending(), Cancelling())
    assert await world.prefect.shown(run) == ("CANCELLING", "Cancelling")

    await record_ends(world)

    row = await world.runs.row(row.id)
    assert (row.status, row.unmirrored) == ("cancelled", False)
    assert await world.prefect.shown(run) == ("CANCELLED", "Cancelled")


# --- claimed and running rows


async def test_a_claimed_run_with_refused_parameters_is_recorded_as_failed(
    world: PrefectWorld,
) -> None:
    row, run, _ = await held(world, running=False)
    await world.prefect.set(run, Failed(message="Validation failed"))

    assert await ended_runs.record_end(world.ledger, world.client, str(run.id)) is None
    assert (
        await ended_runs.record_end(world.ledger, world.client, str(run.id), has_no_process=True)
        == "failed"
    )

    row = await world.runs.row(row.id)
    assert "Validation failed" in str(row.error)


@pytest.mark.parametrize(
    ("running", "state", "status"),
    [
        (False, Crashed(), "waiting"),
        (False, Cancelled(), "cancelled"),
        (True, Crashed(), "unknown"),
        (True, Cancelled(), "cancelled"),
        (True, Failed(), "unknown"),
    ],
    ids=lambda each: str(getattr(each, "name", each)),
)
@pytest.mark.slow
async def test_an_end_in_prefect_is_recorded_after_the_holder_stopped_renewing(
    world: PrefectWorld, running: bool, state: State[Any], status: str
) -> None:
    row, run, _ = await held(world, running=running)
    await world.prefect.set(run, state)
    await record_ends(world)
    assert (await world.runs.row(row.id)).state is row.state

    world.passes(seconds=26)
    await record_ends(world, supervised=[str(run.id)])
    assert (await world.runs.row(row.id)).state is row.state

    await record_ends(world)
    assert (await world.runs.row(row.id)).status == status


@pytest.mark.slow
async def test_an_end_in_prefect_is_ignored_while_the_holder_renews(world: PrefectWorld) -> None:
    row, run, granted = await held(world, running=True)
    await world.prefect.set(run, Failed(message="by hand"))
    world.passes(seconds=20)
    assert await leases.renew(world.ledger, row.id, granted.fence)
    world.passes(seconds=20)

    await record_ends(world)

    assert (await world.runs.row(row.id)).status == "running"


@pytest.mark.slow
async def test_a_cancelling_run_is_left_to_its_holder(world: PrefectWorld) -> None:
    row, run, _ = await held(world, running=True)
    await world.prefect.set(run, Cancelling())
    world.passes(seconds=50)

    await record_ends(world)

    assert (await world.runs.row(row.id)).status == "running"
    assert await world.prefect.shown(run) == ("CANCELLING", "Cancelling")


async def test_an_old_end_in_prefect_does_not_end_a_row_that_began_meanwhile(
    world: PrefectWorld,
) -> None:
    row, _ = await world.waiting_run(await world.deploy(), Crashed())
    world.prefect.traffic.after["filter"] = lambda: world.runs.running(row)

    await record_ends(world)

    assert (await world.runs.row(row.id)).status == "running"


@pytest.mark.slow
async def test_an_end_in_prefect_does_not_change_a_run_that_has_an_outcome(
    world: PrefectWorld,
) -> None:
    row, run = await world.waiting_run(await world.deploy())
    await claims.cancel(world.ledger, row.id)
    await world.prefect.set(run, Failed())

    assert (
        await ended_runs.record_end(world.ledger, world.client, str(run.id), has_no_process=True)
        is None
    )

    assert not world.prefect.traffic.requests
    assert (await world.runs.row(row.id)).status == "cancelled"


@pytest.mark.slow
async def test_a_prefect_run_that_has_not_ended_changes_nothing(world: PrefectWorld) -> None:
    row, run = await world.waiting_run(await world.deploy(), until=world.at(minutes=5))

    assert await ended_runs.record_end(world.ledger, world.client, str(run.id)) is None

    assert (await world.runs.row(row.id)).status == "waiting"
    assert timedelta(0) < await world.prefect.start(run) - world.ledger.now()
