"""Ends made in Prefect become outcomes in the ledger (`docs/promise.md` 13)."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Pending, Running

from daybook.keeper import ends, ensure, mirror, prefect_runs
from daybook.ledger import claims, ends_read, leases
from daybook.ledger.offers import Granted
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.runs.prefect_states import state_of
from tests.e2e.keeper.conftest import House

pytestmark = pytest.mark.e2e


async def seen(house: House, **given: Any) -> None:
    await ends.live(house.ledger, house.client, **given)
    await ends.unread(house.ledger, house.client, **given)


async def scheduled(house: House) -> FlowRun:
    """A future run that Prefect's scheduler has made of a job."""
    return (await house.runs(await house.job(cron="0 0 1 1 *")))[0]


async def held(house: House, *, acting: bool) -> tuple[RunRow, FlowRun, Granted]:
    row, run = await house.carried(await house.job())
    granted = await (house.acting(row) if acting else house.claimed(row))
    await house.set(run, Pending(), Running())
    return await house.row(row.id), run, granted


# --- without a row


@pytest.mark.slow
async def test_a_future_run_that_was_cancelled_is_an_outcome(house: House) -> None:
    run = await scheduled(house)
    await house.ui.set_flow_run_state(run.id, Cancelling())  # as the UI's button does
    assert await house.shown(run) == ("CANCELLED", "Cancelled")

    await ends.unread(house.ledger, house.client)

    (row,) = await house.rows()
    assert (row.status, row.flow_run_id) == ("cancelled", str(run.id))
    assert row.occurrence.startswith("due:")
    assert run.expected_start_time is not None
    assert abs(row.due.timestamp() - run.expected_start_time.timestamp()) < 1
    assert row.kind == "agent-prompt"

    # Seen again in the overlap of the passes, it changes nothing.
    await ends.unread(house.ledger, house.client)
    assert [each.id for each in await house.rows()] == [row.id]
    house.passes(seconds=16)
    assert (await mirror.mirror(house.ledger, house.client)).agreed == 1


@pytest.mark.slow
async def test_a_custom_run_that_fails_before_its_flow_is_an_outcome(house: House) -> None:
    stored = await house.job()
    run = await house.ui.create_flow_run_from_deployment(UUID(str(stored.row.deployment_id)))
    await house.set(run, Pending(), Failed(message="prompt: is no text"))

    await seen(house)

    (row,) = await house.rows()
    assert (row.status, row.occurrence) == ("failed", f"flow:{run.id}")
    assert "prompt: is no text" in str(row.error)


@pytest.mark.slow
async def test_what_we_showed_as_unknown_is_not_begun_again_when_its_row_is_gone(
    house: House,
) -> None:
    stored = await house.job()
    run = await house.ui.create_flow_run_from_deployment(UUID(str(stored.row.deployment_id)))
    await house.set(run, Pending(), Running(), state_of(Status.UNKNOWN, "the process vanished"))

    await seen(house)

    assert await ends.one(house.ledger, house.client, str(run.id), gone=True) is None
    assert await house.rows() == []


async def test_a_due_run_that_crashed_before_its_claim_waits_for_another(house: House) -> None:
    stored = await house.job(every="1m")
    run = (await house.runs(stored))[0]
    house.passes(seconds=70)
    await house.set(run, Pending(), Crashed(message="no process"))

    await seen(house)

    (row,) = await house.rows()
    assert (row.status, row.occurrence[:4]) == ("waiting", "due:")
    assert (await ensure.ensure(house.ledger, house.client)).made == [
        (await house.row(row.id)).flow_run_id
    ]


async def test_what_we_refused_has_no_row(house: House) -> None:
    run = await scheduled(house)
    await house.set(run, state_of(Status.SKIPPED, "not due"))

    await seen(house)

    assert await house.rows() == []


async def test_a_run_of_somebody_else_is_nothing_to_us(house: House) -> None:
    flow = await house.ui.create_flow_from_name("theirs")
    deployment = await house.ui.create_deployment(flow, "theirs", tags=["daybook:another"])
    run = await house.ui.create_flow_run_from_deployment(deployment)
    await house.set(run, Cancelled())

    await seen(house)
    assert await ends.one(house.ledger, house.client, str(run.id)) is None

    assert await house.rows() == []
    await house.ui.delete_deployment(deployment)


async def test_only_what_ended_since_the_last_pass_is_read_whoever_leads(house: House) -> None:
    run = await scheduled(house)
    await house.set(run, Cancelled())
    house.passes(minutes=2)
    await ends_read.advance(house.ledger, house.at(seconds=-60))

    now = house.ledger.now()
    assert await ends.unread(house.ledger, house.client) >= now

    assert await house.rows() == []
    assert house.requests["filter"] == 1


@pytest.mark.slow
async def test_a_run_cancelled_long_before_a_keeper_leads_again_is_an_outcome(house: House) -> None:
    run = await scheduled(house)
    await ends.unread(house.ledger, house.client)
    await house.set(run, Cancelled())
    house.passes(days=3)

    await ends.unread(house.ledger, house.client)

    assert [row.status for row in await house.rows()] == ["cancelled"]


@pytest.mark.parametrize("shortest", [timedelta(milliseconds=1), timedelta(hours=1)])
async def test_many_ends_are_read_in_parts_and_each_pass_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch, shortest: timedelta
) -> None:
    monkeypatch.setattr(prefect_runs, "PAGE", 3)
    monkeypatch.setattr(prefect_runs, "SHORTEST", shortest)
    runs = [await scheduled(house) for _ in range(8)]
    for run in runs:
        await house.set(run, Cancelled())
    house.passes(minutes=30)

    seen_by_pass, reached = [], list[datetime]()
    while not reached or reached[-1] < house.at(minutes=-1):
        # Each is that of another leader, and has time for one part.
        reached.append(await ends.unread(house.ledger, house.client, most_seconds=0))
        seen_by_pass.append(len(await house.rows()))

    assert reached == sorted(set(reached))
    assert {row.flow_run_id for row in await house.rows()} == {str(run.id) for run in runs}
    most = max(later - sooner for sooner, later in pairwise([0, *seen_by_pass]))
    assert most == 8 if shortest > timedelta(minutes=5) else 1 <= most < 3


@pytest.mark.slow
async def test_what_is_watched_and_not_told_yet_is_read_again(house: House) -> None:
    run = await scheduled(house)
    await house.set(run, Cancelled())
    house.passes(minutes=10)

    await ends.unread(house.ledger, house.client, supervised=[str(run.id)])
    assert await house.rows() == []

    await ends.unread(house.ledger, house.client)
    assert [row.status for row in await house.rows()] == ["cancelled"]


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
async def test_a_waiting_row(house: House, state: State[Any], status: str) -> None:
    row, run = await house.carried(await house.job(), state, until=house.at(minutes=5))

    await seen(house)

    row = await house.row(row.id)
    assert row.status == status
    assert row.flow_run_id == (None if status == "waiting" else str(run.id))


async def test_cancelling_without_a_process_ends_on_both_sides(house: House) -> None:
    row, run = await house.carried(await house.job(), Pending(), Cancelling())
    assert await house.shown(run) == ("CANCELLING", "Cancelling")

    await seen(house)

    row = await house.row(row.id)
    assert (row.status, row.unmirrored) == ("cancelled", False)
    assert await house.shown(run) == ("CANCELLED", "Cancelled")


# --- held


async def test_refused_parameters_never_reach_the_flow(house: House) -> None:
    row, run, _ = await held(house, acting=False)
    await house.set(run, Failed(message="Validation failed"))

    assert await ends.one(house.ledger, house.client, str(run.id)) is None
    assert await ends.one(house.ledger, house.client, str(run.id), gone=True) == "failed"

    row = await house.row(row.id)
    assert "Validation failed" in str(row.error)


@pytest.mark.parametrize(
    ("acting", "state", "status"),
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
    house: House, acting: bool, state: State[Any], status: str
) -> None:
    row, run, _ = await held(house, acting=acting)
    await house.set(run, state)
    await seen(house)
    assert (await house.row(row.id)).state is row.state

    house.passes(seconds=26)
    await seen(house, supervised=[str(run.id)])
    assert (await house.row(row.id)).state is row.state

    await seen(house)
    assert (await house.row(row.id)).status == status


@pytest.mark.slow
async def test_a_holder_that_renews_is_left_to_its_run(house: House) -> None:
    row, run, granted = await held(house, acting=True)
    await house.set(run, Failed(message="by hand"))
    house.passes(seconds=20)
    assert await leases.renew(house.ledger, row.id, granted.fence)
    house.passes(seconds=20)

    await seen(house)

    assert (await house.row(row.id)).status == "acting"


@pytest.mark.slow
async def test_cancelling_is_its_holders_to_end(house: House) -> None:
    row, run, _ = await held(house, acting=True)
    await house.set(run, Cancelling())
    house.passes(seconds=50)

    await seen(house)

    assert (await house.row(row.id)).status == "acting"
    assert await house.shown(run) == ("CANCELLING", "Cancelling")


@pytest.mark.slow
async def test_a_row_that_is_begun_meanwhile_is_not_settled_by_an_old_end(house: House) -> None:
    row, _ = await house.carried(await house.job(), Crashed())
    house.after["filter"] = lambda: house.acting(row)

    await seen(house)

    assert (await house.row(row.id)).status == "acting"


@pytest.mark.slow
async def test_an_end_of_a_run_that_ended_here_changes_nothing(house: House) -> None:
    row, run = await house.carried(await house.job())
    await claims.cancel(house.ledger, row.id)
    await house.set(run, Failed())

    assert await ends.one(house.ledger, house.client, str(run.id), gone=True) is None

    assert not house.requests
    assert (await house.row(row.id)).status == "cancelled"


@pytest.mark.slow
async def test_one_that_has_not_ended_is_nothing(house: House) -> None:
    row, run = await house.carried(await house.job(), until=house.at(minutes=5))

    assert await ends.one(house.ledger, house.client, str(run.id)) is None

    assert (await house.row(row.id)).status == "waiting"
    assert timedelta(0) < await house.start(run) - house.ledger.now()
