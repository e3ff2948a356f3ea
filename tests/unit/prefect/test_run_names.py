"""Names of Prefect runs that the keeper gives: which runs it renames, and in which order."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs.lateness import ON_TIME_GRACE
from daybook.prefect.run_names import NamingState, name_runs
from tests.unit.worker.one_job import DEPLOYMENT, one_job

pytestmark = pytest.mark.anyio


class Prefect:
    """Prefect with the runs that its scheduler has created; ``renamed`` has the new names."""

    def __init__(self, *due: datetime) -> None:
        self._runs = [
            FlowRun(
                id=uuid4(),
                flow_id=uuid4(),
                name="lazy-cat",
                deployment_id=DEPLOYMENT,
                expected_start_time=cast(Any, each),
            )
            for each in due
        ]
        self.renamed = list[str]()

    async def read_flow_runs(self, *, flow_run_filter: Any, **_: Any) -> list[FlowRun]:
        by_scheduler = flow_run_filter.created_by.type_ == ["SCHEDULE"]
        return self._runs if by_scheduler else []

    async def update_flow_run(self, flow_run_id: UUID, *, name: str) -> None:
        self.renamed.append(name)


async def test_runs_are_named_by_their_due_times_except_late_ones_which_the_worker_names(
    tmp_path: Path,
) -> None:
    now = SYSTEM_CLOCK.now().replace(microsecond=0)
    late, soon, later = now - ON_TIME_GRACE * 2, now, now + timedelta(hours=1)
    prefect = Prefect(later, late, soon)
    memory = NamingState()
    async with one_job(tmp_path) as there:
        assert await name_runs(there.ledger, cast(Any, prefect), memory) == 2

    assert [name.split()[2] for name in prefect.renamed] == [
        f"{at:%H:%M:%S}" for at in (soon, later)
    ]
    assert not memory.unnamed
