"""Starts of runs at a Prefect that another worker has changed meanwhile."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from prefect.client import base
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus
from prefect.states import Pending, Running

from daybook.clock import SYSTEM_CLOCK
from daybook.prefect import known_answers
from daybook.prefect.known_answers import KnownAnswers
from daybook.prefect.states import waiting_state
from tests.world.prefect_world import PrefectWorld

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


@pytest.mark.parametrize("is_own", [True, False])
async def test_a_claimed_run_that_was_rescheduled_after_it_became_pending_runs_at_once(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch, is_own: bool
) -> None:
    run = await world.prefect.custom_run(await world.deploy())
    later = SYSTEM_CLOCK.now() + timedelta(hours=1)
    await world.prefect.set(run, Pending(), waiting_state(later, "8 of 8 runs are active"))

    for each in (base.PrefectHttpxAsyncClient, base.PrefectHttpxSyncClient):
        monkeypatch.setattr(each, "send", each.send)  # the test's end restores it
    known = KnownAnswers(str(world.client.api_url), run.model_dump(mode="json"), {}, is_own=is_own)
    assert known_answers.install(known)
    result: OrchestrationResult[Any] = await world.client.set_flow_run_state(run.id, Running())

    assert result.status is (SetStateStatus.ACCEPT if is_own else SetStateStatus.WAIT)
    shown = ("RUNNING", "Running") if is_own else ("SCHEDULED", "AwaitingConcurrencySlot")
    assert await world.prefect.shown(run) == shown
