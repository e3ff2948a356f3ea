"""How long a process may run on after it has recorded its outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from daybook.ledger.states import Status
from daybook.worker import supervision
from daybook.worker.supervision import StopCause, SupervisedRun

pytestmark = pytest.mark.anyio


class Reporting:
    """A process that has ended, with what it reported."""

    def __init__(self, *facts: dict[str, Any]) -> None:
        self._facts = facts

    async def facts(self) -> AsyncIterator[dict[str, Any]]:
        for each in self._facts:
            yield each

    async def ended(self) -> int:
        await asyncio.Event().wait()
        return 0

    async def end(self, grace: float) -> None:
        pass


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        ([{"running": 1}, {"ended": "succeeded"}], StopCause.LOST),
        ([{"running": 1}, {"ended": "succeeded"}, {"summarizing": True}], None),
    ],
)
async def test_only_a_process_that_summarizes_may_run_on_for_two_renewals(
    facts: list[dict[str, Any]], cause: StopCause | None
) -> None:
    watched = SupervisedRun(flow_run=None, running=Reporting(*facts))  # type: ignore[arg-type]
    await watched._read_facts()
    for _ in range(2):
        watched.renewed(Status.SUCCEEDED)
    assert watched.cause is cause
    # A summary has the time of an attempt.
    assert (StopCause.TIMEOUT in watched._stop_times()) is (cause is None)


async def test_a_renewal_between_the_answer_and_its_summary_does_not_stop_the_summary() -> None:
    running = Reporting({"running": 1}, {"ended": "succeeded"})
    watched = SupervisedRun(flow_run=None, running=running)  # type: ignore[arg-type]
    await watched._read_facts()
    watched.renewed(Status.SUCCEEDED)
    watched.facts.summarizing = True
    watched.renewed(Status.SUCCEEDED)
    assert watched.cause is None


def test_a_process_that_stays_while_its_run_waits_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watched = SupervisedRun(flow_run=None, running=Reporting())  # type: ignore[arg-type]
    for status in (Status.WAITING, Status.CLAIMED, Status.WAITING, Status.WAITING):
        watched.renewed(status)
        now += supervision.MAX_WAIT_SECONDS / 2
    assert watched.cause is None
    now += 1.0
    watched.renewed(Status.WAITING)
    assert watched.cause is StopCause.LOST


async def test_a_process_that_tries_again_and_again_while_its_run_waits_is_not_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each renewal may see a wait, although the process makes an attempt between two renewals."""
    now, real = 0.0, time.monotonic
    watched = SupervisedRun(flow_run=None, running=Reporting({"running": 1}))  # type: ignore[arg-type]
    for _ in range(8):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        watched.renewed(Status.WAITING)
        monkeypatch.setattr(time, "monotonic", real)
        now += 20.0
        await watched._read_facts()
    assert watched.cause is None


async def test_the_usage_of_an_attempt_that_has_ended_is_not_that_of_the_next_one() -> None:
    running = Reporting({"running": 1}, {"took": {"input_tokens": 7}}, {"waiting": 1})
    watched = SupervisedRun(flow_run=None, running=running)  # type: ignore[arg-type]
    await watched._read_facts()
    assert watched.facts.took is None
