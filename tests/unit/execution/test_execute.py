"""What a worker is told while a run is prepared, and what does not end one that has its outcome."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, cast

import httpx
import pytest

from daybook.execution import checks, execute
from daybook.execution.checks import Verdict
from daybook.jobs.checks import Check
from daybook.jobs.policy import Policy

pytestmark = pytest.mark.anyio

OPEN = Verdict(opens=True, reason="something came")


class Worker:
    """Hears what it is told of a run."""

    def __init__(self) -> None:
        self.facts: list[dict[str, object]] = []

    def report(self, **facts: object) -> None:
        self.facts.append(facts)


class Grant:
    fence = 7

    def __init__(self, check: Check) -> None:
        self.parameters = {"policy": Policy(check=check).model_dump(mode="json")}


class Run:
    """Of a worker's; ``check`` is what is asked."""

    kind = "heartbeat"

    def __init__(self, check: Any) -> None:
        self.given, self.check = Worker(), check


async def opens(granted: Any) -> Verdict:
    return OPEN


async def asked(gate: Any, check: Check) -> tuple[Verdict, list[dict[str, object]]]:
    run = Run(gate)
    verdict = await execute._checked(cast(Any, None), cast(Any, run), cast(Any, Grant(check)))
    return verdict, run.given.facts


async def test_only_while_a_gate_is_asked_has_a_run_the_time_of_an_attempt() -> None:
    # The worker ends a process that takes longer; what only prepares may wait for a server.
    assert await asked(checks.check_job, Check()) == (checks.NO_CHECK, [])
    assert await asked(opens, Check()) == (OPEN, [{"checking": 7}, {"claimed": 7}])


async def test_a_gate_that_does_not_answer_in_time_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hangs(granted: Any) -> Verdict:
        await asyncio.Event().wait()
        return OPEN

    monkeypatch.setattr(execute, "CHECK_GRACE", timedelta())
    run, grant = cast(Any, Run(hangs)), cast(Any, Grant(Check()))
    with pytest.raises(checks.CheckFailed, match=r"^heartbeat: no answer within 1s$"):
        await execute._in_time(run, grant, timedelta(seconds=1))


async def test_what_cannot_be_brought_to_prefect_is_brought_later() -> None:
    class Prefect:
        async def push(self, job_id: str) -> None:
            asked = httpx.Request("GET", "http://127.0.0.1:1")
            answer = httpx.Response(500, request=asked)
            raise httpx.HTTPStatusError("500", request=asked, response=answer)

    await execute._push(cast(Any, Prefect()), "a job")
