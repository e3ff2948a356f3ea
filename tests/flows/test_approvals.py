"""A run of a deployment that waits for a person: its process leaves, and another one goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from daybook import api
from daybook.errors import InvalidInput
from daybook.features.approvals import operations
from daybook.jobs.store import StoredJob
from daybook.prefect import scheduled_runs
from daybook.prefect.links import DELETED_REASON
from daybook.runs import disabled_jobs
from tests.calling import ModelAgent, calls
from tests.flows.test_agent_own_tools import PYTHON
from tests.toolbox import install
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

Way = Callable[[PrefectWorld, StoredJob], Awaitable[None]]
"""A way to disable a job."""


async def deployed_call(
    world: PrefectWorld, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> StoredJob:
    """Deploy a job whose call of the tool `note` has to be approved; the tool writes ``notes``."""
    site = notes.with_name("site")
    install(site, PYTHON.format(notes=str(notes)), "note")
    monkeypatch.syspath_prepend(str(site))
    fields = {"prompt": None, "tool": "note", "params": {"text": "rain"}, "approve": ["note"]}
    stored = await world.deploy(every="1h", **fields)
    await world.sync()
    return stored


@pytest.mark.parametrize("approve", [True, False])
async def test_a_call_is_made_once_after_its_approval_and_never_without(
    model_agent: ModelAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, approve: bool
) -> None:
    world, fake_provider = model_agent.world, model_agent.fake_provider
    notes = tmp_path / "notes"
    install(tmp_path / "site", PYTHON.format(notes=str(notes)), "note")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    await model_agent.given("note")
    fake_provider.script = [calls("note", text="rain"), "Done."]
    stored = await world.deploy(on_demand=True, agent=model_agent.name, approve=["note"])
    run = await world.prefect.custom_run(stored)
    state = await world.executions.complete_here(run)
    assert state.is_scheduled()
    row = await world.runs.row()
    assert (row.status, row.waits_for, row.holder) == ("waiting", "approval", "")
    assert (notes.exists(), len(fake_provider.requests)) == (False, 1)

    (waiting,) = await operations.list_waiting()
    assert (waiting.tool, waiting.input) == ("note", 'text="rain"')
    await operations.decide(waiting.ref, approve=approve, reason="so be it")
    moved = await scheduled_runs.ensure_all(world.ledger, world.client)
    assert moved.moved == [str(run.id)]  # the keeper starts it now, and not at the deadline
    state = await world.executions.complete_here(await world.prefect.run(run))

    assert state.is_completed()
    assert len(fake_provider.requests) == 2  # none is repeated
    noted = notes.read_text().splitlines() if notes.exists() else []
    assert [each.split(" ")[1] for each in noted] == (["rain"] if approve else [])
    assert approve == ("so be it" not in fake_provider.requests[-1].prompt)
    row = await world.runs.row()
    assert (row.status, row.output, row.attempts) == ("succeeded", "Done.", 1)
    assert row.usage is not None and row.usage["requests"] == 2


@pytest.mark.parametrize("approve", [True, False])
async def test_the_call_of_a_job_is_made_once_after_its_approval_and_never_without(
    world: PrefectWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, approve: bool
) -> None:
    notes = tmp_path / "notes"
    stored = await deployed_call(world, notes, monkeypatch)
    run = await world.prefect.custom_run(stored)
    assert (await world.executions.complete_here(run)).is_scheduled()
    row = await world.runs.row()
    assert (row.status, row.waits_for, row.holder) == ("waiting", "approval", "")
    assert not notes.exists()

    (waiting,) = await operations.list_waiting()
    assert (waiting.tool, waiting.input) == ("note", 'text="rain"')
    await operations.decide(waiting.ref, approve=approve, reason="so be it")
    await scheduled_runs.ensure_all(world.ledger, world.client)
    state = await world.executions.complete_here(await world.prefect.run(run))

    assert state.is_completed() == approve
    noted = notes.read_text().splitlines() if notes.exists() else []
    row = await world.runs.row()
    assert (row.status, row.attempts) == ("succeeded" if approve else "failed", 1)
    assert noted == ([f"{row.occurrence} rain"] if approve else [])
    assert approve == ("so be it" not in str(row.error))


async def paused(world: PrefectWorld, stored: StoredJob) -> None:
    await world.jobs.edit(stored.id, enabled=False, reason="paused: holiday")


async def paused_in_prefect(world: PrefectWorld, stored: StoredJob) -> None:
    path = f"/deployments/{stored.row.deployment_id}/pause_deployment"
    await world.prefect.request("POST", path, {})


async def deleted_in_prefect(world: PrefectWorld, stored: StoredJob) -> None:
    await world.prefect.request("DELETE", f"/deployments/{stored.row.deployment_id}")


async def paused_and_deleted(world: PrefectWorld, stored: StoredJob) -> None:
    await paused(world, stored)
    await world.sync()
    await deleted_in_prefect(world, stored)


async def keeper_disables(world: PrefectWorld, way: Way, stored: StoredJob) -> None:
    """Disable the job, and do what the keeper then does."""
    await way(world, stored)
    await keeper_works(world)
    assert not (await world.jobs.get(stored.id)).job.enabled


async def keeper_works(world: PrefectWorld) -> None:
    await world.sync()
    await disabled_jobs.skip_all(world.ledger)
    await scheduled_runs.ensure_all(world.ledger, world.client)


@pytest.mark.parametrize(
    "case",
    [
        (paused, True, "daybook"),
        (paused, True, "prefect"),
        (paused, False, "daybook"),
        (paused_in_prefect, True, "prefect"),
        (paused_in_prefect, False, "daybook"),
        (deleted_in_prefect, True, "daybook"),
        (paused_and_deleted, True, "daybook"),
    ],
)
async def test_a_run_by_hand_of_a_disabled_job_makes_its_approved_call(
    world: PrefectWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[Way, bool, str],
) -> None:
    way, is_before, by = case
    notes = tmp_path / "notes"
    stored = await deployed_call(world, notes, monkeypatch)
    if is_before:
        await keeper_disables(world, way, stored)
    if by == "prefect":
        run = await world.prefect.custom_run(stored)
    else:
        requested = await api.runs.run(stored.id)
        run = await world.prefect.run(requested.flow_run_id)
    assert (await world.executions.complete_here(run)).is_scheduled()
    if not is_before:
        await keeper_disables(world, way, stored)
    (waiting,) = await operations.list_waiting()

    await operations.decide(waiting.ref, approve=True)
    await keeper_works(world)

    state = await world.executions.complete_here(await world.prefect.run(run))
    row = await world.runs.row()
    assert (row.status, row.reason, state.is_completed()) == ("succeeded", "", True)
    assert notes.read_text().splitlines() == [f"{row.occurrence} rain"]
    assert not (await world.jobs.get(stored.id)).job.enabled


async def test_a_run_that_waits_is_skipped_at_once_if_its_deployment_is_deleted(
    world: PrefectWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect has no deployment left from which a worker could continue the run."""
    notes = tmp_path / "notes"
    stored = await deployed_call(world, notes, monkeypatch)
    requested = await api.runs.run(stored.id)
    run = await world.prefect.run(requested.flow_run_id)
    assert (await world.executions.complete_here(run)).is_scheduled()
    (waiting,) = await operations.list_waiting()

    await keeper_disables(world, deleted_in_prefect, stored)

    assert await operations.list_waiting() == []
    row = await world.runs.row()
    assert (row.status, row.reason) == ("skipped", f"the job is disabled: {DELETED_REASON}")
    with pytest.raises(InvalidInput, match="withdrawn"):
        await operations.decide(waiting.ref, approve=True)
    assert not notes.exists()
