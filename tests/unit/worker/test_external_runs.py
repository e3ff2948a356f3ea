"""The end of an external run: Prefect is asked only if the process did not report it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from daybook.worker import external_runs
from daybook.worker.supervision import ReportedFacts, StopCause, SupervisedRun

pytestmark = pytest.mark.anyio


class Prefect:
    """A client that knows one completed run, and records what it is asked."""

    def __init__(self) -> None:
        self.asked = list[str]()

    async def read_flow_run(self, run_id: Any) -> FlowRun:
        self.asked.append("read")
        return FlowRun(id=run_id, flow_id=uuid4(), state=State(type=StateType.COMPLETED))


@pytest.mark.parametrize(
    ("ended", "cause", "asked"),
    [("COMPLETED", None, []), ("", None, ["read"]), ("COMPLETED", StopCause.SHUTDOWN, ["read"])],
)
async def test_prefect_is_asked_unless_it_has_accepted_the_end(
    ended: str, cause: StopCause | None, asked: list[str]
) -> None:
    run: Any = SimpleNamespace(id=uuid4())
    process: Any = None
    supervised = SupervisedRun(run, process, facts=ReportedFacts(ended=ended), cause=cause)
    prefect: Any = Prefect()
    await external_runs.report_end(prefect, process, supervised)
    assert prefect.asked == asked
