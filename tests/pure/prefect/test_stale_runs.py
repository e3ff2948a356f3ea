"""Stale Prefect runs: the log of their new states."""

from __future__ import annotations

import logging
from typing import Any, cast
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed

from daybook.prefect import flow_runs, stale_runs

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("is_accepted", "message"),
    [
        (True, "brisk-fox has no process: set to Crashed"),
        (False, "brisk-fox has no process: Prefect refused the state Crashed"),
    ],
)
async def test_a_state_that_prefect_refused_is_not_logged_as_set(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_accepted: bool,
    message: str,
) -> None:
    async def change_state(*_: object) -> flow_runs.StateChange:
        return flow_runs.StateChange(is_accepted, None, not is_accepted)

    monkeypatch.setattr(flow_runs, "change_state", change_state)
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="brisk-fox")
    with caplog.at_level(logging.INFO, logger=stale_runs.__name__):
        done = await stale_runs._set_state(cast(Any, None), run, Crashed())
    assert done is is_accepted
    assert caplog.messages == [message]
