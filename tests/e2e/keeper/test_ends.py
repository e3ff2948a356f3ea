"""Ends made in Prefect become outcomes in the ledger (`docs/promise.md` 13)."""

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
from tests.world import World

pytestmark = pytest.mark.e2e


async def seen(world: World, **given: Any) -> None:
    await ended_runs.record_live_ends(world.ledger, world.client, **given)
    await ended_runs.record_unread_ends(world.ledger, world.client, **given)


async def scheduled(world: World) -> FlowRun:
    """A future run that Prefect's scheduler has made of a job."""
    return (await world.prefect.runs(await world.deploy(cron="0 0 1 1 *")))[0]


async def held(world: World, *, running: bool) -> tuple[RunRow, FlowRun, Granted]:
    row, run = await world.prefect.carried(await world.deploy())
    granted = await (
        world.begun(world.offer_of(row)) if running else world.granted(world.offer_of(row))
    )
    await world.prefect.set(run, Pending(), Running())
    return await world.row(row.id), run, granted


# --- without a row


@pytest.mark.slow
async def test_a_future_run_that_was_cancelled_is_an_outcome(world: World) -> None:
    run = await scheduled(world)
    await world.prefect.ui.set_flow_run_state(run.id, Cancelling())  # as the UI's button does
    assert await world.prefect.shown(run) == ("CANCELLED", "Cancelled")

    await ended_runs.record_unread_ends(world.ledger, world.client)

    (row,) = await world.rows()
    assert (row.status, row.flow_run_id) == ("cancelled", str(run.id))
    assert row.occurrence.startswith("due:")
    assert run.expected_start_time is not None
    assert abs(row.due.timestamp() - run.expected_start_time.timestamp()) < 1
    assert row.kind == "agent-prompt"

    # Seen again in the overlap of the passes, it changes nothing.
    await ended_runs.record_unread_ends(world.ledger, world.client)
    assert [each.id for each in await world.rows()] == [row.id]
    world.passes(seconds=16)
    assert (await state_mirror.mirror(world.ledger, world.client)).agreed == 1


@pytest.mark.slow
async def test_a_custom_run_that_fails_before_its_flow_is_an_outcome(world: World) -> None:
    stored = await world.deploy()
    run = await world.prefect.ui.create_flow_run_from_deployment(
        UUID(str(stored.row.deployment_id))
    )
    await world.prefect.set(run, Pending(), Failed(message="prompt: is not a string"))

    await seen(world)

    (row,) = await world.rows()
    assert (row.status, row.occurrence) == ("failed", f"flow:{run.id}")
    assert "prompt: is not a string" in str(row.error)


@pytest.mark.slow
async def test_what_we_showed_as_unknown_is_not_begun_again_when_its_row_is_gone(
    world: World,
) -> None:
    stored = await world.deploy()
    run = await world.prefect.ui.create_flow_run_from_deployment(
        UUID(str(stored.row.deployment_id))
    )
    await world.prefect.set(
        run, Pending(), Running(), terminal_state(Status.UNKNOWN, "the process vanished")
    )

    await seen(world)

    assert await ended_runs.record_end(world.ledger, world.client, str(run.id), gone=True) is None
    assert await world.rows() == []


async def test_a_due_run_that_crashed_before_its_claim_waits_for_another(world: World) -> None:
    stored = await world.deploy(every="1m")
    run = (await world.prefect.runs(stored))[0]
    world.passes(seconds=70)
    await world.prefect.set(run, Pending(), Crashed(message="no process"))

    await seen(world)

    (row,) = await world.rows()
    assert (row.status, row.occurrence[:4]) == ("waiting", "due:")
    assert (await scheduled_runs.ensure_all(world.ledger, world.client)).made == [
        (await world.row(row.id)).flow_run_id
    ]


async def test_what_we_refused_has_no_row(world: World) -> None:
    run = await scheduled(world)
    await world.prefect.set(run, terminal_state(Status.SKIPPED, "not due"))

    await seen(world)

    assert await world.rows() == []


async def test_a_run_of_somebody_else_is_nothing_to_us(world: World) -> None:
    flow = await world.prefect.ui.create_flow_from_name("theirs")
    deployment = await world.prefect.ui.create_deployment(flow, "theirs", tags=["daybook:another"])
    run = await world.prefect.ui.create_flow_run_from_deployment(deployment)
    await world.prefect.set(run, Cancelled())

    await seen(world)
    assert await ended_runs.record_end(world.ledger, world.client, str(run.id)) is None

    assert await world.rows() == []
    await world.prefect.ui.delete_deployment(deployment)


async def test_only_what_ended_since_the_last_pass_is_read_whoever_leads(world: World) -> None:
    run = await scheduled(world)
    await world.prefect.set(run, Cancelled())
    world.passes(minutes=2)
    await prefect_ends.advance(world.ledger, world.at(seconds=-60))

    now = world.ledger.now()
    assert await ended_runs.record_unread_ends(world.ledger, world.client) >= now

    assert await world.rows() == []
    assert world.prefect.requests["filter"] == 1


@pytest.mark.slow
async def test_a_run_cancelled_long_before_a_keeper_leads_again_is_an_outcome(world: World) -> None:
    run = await scheduled(world)
    await ended_runs.record_unread_ends(world.ledger, world.client)
    await world.prefect.set(run, Cancelled())
    world.passes(days=3)

    await ended_runs.record_unread_ends(world.ledger, world.client)

    assert [row.status for row in await world.rows()] == ["cancelled"]


@pytest.mark.parametrize("shortest", one_in(2, [timedelta(milliseconds=1), timedelta(hours=1)]))
async def test_many_ends_are_read_in_parts_and_each_pass_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, shortest: timedelta
) -> None:
    monkeypatch.setattr(flow_runs, "PAGE_SIZE", 3)
    monkeypatch.setattr(flow_runs, "MIN_WINDOW", shortest)
    runs = [await scheduled(world) for _ in range(8)]
    for run in runs:
        await world.prefect.set(run, Cancelled())
    world.passes(minutes=30)

    seen_by_pass, reached = [], list[datetime]()
    while not reached or reached[-1] < world.at(minutes=-1):
        # Each is that of another leader, and has time for one part.
        reached.append(
            await ended_runs.record_unread_ends(world.ledger, world.client, most_seconds=0)
        )
        seen_by_pass.append(len(await world.rows()))

    assert reached == sorted(set(reached))
    assert {row.flow_run_id for row in await world.rows()} == {str(run.id) for run in runs}
    most = max(later - sooner for sooner, later in pairwise([0, *seen_by_pass]))
    assert most == 8 if shortest > timedelta(minutes=5) else 1 <= most < 3


@pytest.mark.slow
async def test_what_is_watched_and_not_told_yet_is_read_again(world: World) -> None:
    run = await scheduled(world)
    await world.prefect.set(run, Cancelled())
    world.passes(minutes=10)

    await ended_runs.record_unread_ends(world.ledger, world.client, supervised=[str(run.id)])
    assert await world.rows() == []

    await ended_runs.record_unread_ends(world.ledger, world.client)
    assert [row.status for row in await world.rows()] == ["cancelled"]


# --- waiting


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
async def test_a_waiting_row(world: World, state: State[Any], status: str) -> None:
    row, run = await world.prefect.carried(await world.deploy(), state, until=world.at(minutes=5))

    await seen(world)

    row = await world.row(row.id)
    assert row.status == status
    assert row.flow_run_id == (None if status == "waiting" else str(run.id))


async def test_cancelling_without_a_process_ends_on_both_sides(world: World) -> None:
    row, run = await world.prefect.carried(await world.deploy(), Pending(), Cancelling())
    assert await world.prefect.shown(run) == ("CANCELLING", "Cancelling")

    await seen(world)

    row = await world.row(row.id)
    assert (row.status, row.unmirrored) == ("cancelled", False)
    assert await world.prefect.shown(run) == ("CANCELLED", "Cancelled")


# --- held


async def test_refused_parameters_never_reach_the_flow(world: World) -> None:
    row, run, _ = await held(world, running=False)
    await world.prefect.set(run, Failed(message="Validation failed"))

    assert await ended_runs.record_end(world.ledger, world.client, str(run.id)) is None
    assert (
        await ended_runs.record_end(world.ledger, world.client, str(run.id), gone=True) == "failed"
    )

    row = await world.row(row.id)
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
async def test_a_holder_that_gives_no_sign_of_life_is_gone(
    world: World, running: bool, state: State[Any], status: str
) -> None:
    row, run, _ = await held(world, running=running)
    await world.prefect.set(run, state)
    await seen(world)
    assert (await world.row(row.id)).state is row.state

    world.passes(seconds=26)
    await seen(world, supervised=[str(run.id)])
    assert (await world.row(row.id)).state is row.state

    await seen(world)
    assert (await world.row(row.id)).status == status


@pytest.mark.slow
async def test_a_holder_that_renews_is_left_to_its_run(world: World) -> None:
    row, run, granted = await held(world, running=True)
    await world.prefect.set(run, Failed(message="by hand"))
    world.passes(seconds=20)
    assert await leases.renew(world.ledger, row.id, granted.fence)
    world.passes(seconds=20)

    await seen(world)

    assert (await world.row(row.id)).status == "running"


@pytest.mark.slow
async def test_cancelling_is_its_holders_to_end(world: World) -> None:
    row, run, _ = await held(world, running=True)
    await world.prefect.set(run, Cancelling())
    world.passes(seconds=50)

    await seen(world)

    assert (await world.row(row.id)).status == "running"
    assert await world.prefect.shown(run) == ("CANCELLING", "Cancelling")


async def test_a_row_that_is_begun_meanwhile_is_not_settled_by_an_old_end(world: World) -> None:
    row, _ = await world.prefect.carried(await world.deploy(), Crashed())
    world.prefect.after["filter"] = lambda: world.begun(world.offer_of(row))

    await seen(world)

    assert (await world.row(row.id)).status == "running"


@pytest.mark.slow
async def test_an_end_of_a_run_that_ended_here_changes_nothing(world: World) -> None:
    row, run = await world.prefect.carried(await world.deploy())
    await claims.cancel(world.ledger, row.id)
    await world.prefect.set(run, Failed())

    assert await ended_runs.record_end(world.ledger, world.client, str(run.id), gone=True) is None

    assert not world.prefect.requests
    assert (await world.row(row.id)).status == "cancelled"


@pytest.mark.slow
async def test_one_that_has_not_ended_is_nothing(world: World) -> None:
    row, run = await world.prefect.carried(await world.deploy(), until=world.at(minutes=5))

    assert await ended_runs.record_end(world.ledger, world.client, str(run.id)) is None

    assert (await world.row(row.id)).status == "waiting"
    assert timedelta(0) < await world.prefect.start(run) - world.ledger.now()
