"""The lease reaper: the runs of ended workers, and the outcomes that they have spooled."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from daybook.execution import outcome_spool
from daybook.execution.outcome_spool import SpooledOutcome
from daybook.keeper import lease_reaper
from daybook.ledger.states import Outcome, Status
from daybook.runs import holders
from tests.world import World

pytestmark = pytest.mark.anyio

HOLDER = f"{socket.gethostname()}:1:one"
NO_PREFECT = cast(Any, None)


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_run_whose_outcome_was_spooled_is_not_released(
    world: World, tmp_path: Path, *, has_begun: bool
) -> None:
    stored = await world.jobs.add()
    granted = await (world.runs.running(stored) if has_begun else world.runs.claimed(stored))
    await world.runs.set_row(await world.runs.row(), holder=HOLDER)
    descriptor = holders.lock(tmp_path, HOLDER)
    assert descriptor is not None
    failed = Outcome(Status.FAILED, error="the check failed")
    outcome_spool.put(SpooledOutcome(world.ledger.id, granted.run_id, granted.fence, failed))

    assert not await lease_reaper.release_ended(world.ledger, NO_PREFECT, tmp_path)
    assert (await world.runs.row()).state is not Status.FAILED  # its worker may still record it
    os.close(descriptor)
    assert not await lease_reaper.release_ended(world.ledger, NO_PREFECT, tmp_path)

    row = await world.runs.row()
    assert (row.state, row.error) == (Status.FAILED, "the check failed")
    assert outcome_spool.pending_files() == []
