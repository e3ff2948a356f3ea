"""A run of a deployment that waits for a person: its process leaves, and another one goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from daybook import api
from daybook.prefect import scheduled_runs
from tests.calling import ModelAgent, calls
from tests.flows.test_agent_own_tools import PYTHON
from tests.toolbox import install
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


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

    (waiting,) = await api.approvals.list_waiting()
    assert (waiting.tool, waiting.input) == ("note", 'text="rain"')
    await api.approvals.decide(waiting.ref, approve=approve, reason="so be it")
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
    install(tmp_path / "site", PYTHON.format(notes=str(notes)), "note")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    fields = {"prompt": None, "tool": "note", "params": {"text": "rain"}, "approve": ["note"]}
    stored = await world.deploy(on_demand=True, **fields)
    run = await world.prefect.custom_run(stored)
    assert (await world.executions.complete_here(run)).is_scheduled()
    row = await world.runs.row()
    assert (row.status, row.waits_for, row.holder) == ("waiting", "approval", "")
    assert not notes.exists()

    (waiting,) = await api.approvals.list_waiting()
    assert (waiting.tool, waiting.input) == ("note", 'text="rain"')
    await api.approvals.decide(waiting.ref, approve=approve, reason="so be it")
    await scheduled_runs.ensure_all(world.ledger, world.client)
    state = await world.executions.complete_here(await world.prefect.run(run))

    assert state.is_completed() == approve
    noted = notes.read_text().splitlines() if notes.exists() else []
    row = await world.runs.row()
    assert (row.status, row.attempts) == ("succeeded" if approve else "failed", 1)
    assert noted == ([f"{row.occurrence} rain"] if approve else [])
    assert approve == ("so be it" not in str(row.error))
