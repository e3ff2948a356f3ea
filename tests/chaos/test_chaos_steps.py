"""Check of the chaos test's steps: it finds repeated calls and requests that no row explains."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from chaos.steps import CountedSteps, violations
from daybook.ledger.tables import RunRow, StepRow
from tests.world.runs import step_of

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
RUN = RunRow(
    id="r",
    occurrence="due:1:noon",
    kind="agent-prompt",
    trigger="schedule",
    due=NOON,
    status="succeeded",
    queued_at=NOON,
)
POSITIONS = ("1", "1.1", "2", "2.1", "3", "3.1", "4")


def made(*positions: str, status: str = "succeeded") -> list[StepRow]:
    return [
        step_of(
            "r",
            NOON,
            number,
            position=each,
            kind="tool" if "." in each else "request",
            status=status,
        )
        for number, each in enumerate(positions, start=1)
    ]


def counted(*keys: str) -> CountedSteps:
    return CountedSteps(
        requests=Counter(each for each in keys if "/" not in each),
        calls=Counter(each for each in keys if "/" in each),
    )


ALL = [f"{RUN.occurrence}{each}" for each in ("", ".2", ".3", ".4", "/a", "/b", "/c")]


def test_a_run_whose_steps_were_made_once_is_no_violation() -> None:
    assert violations(counted(*ALL), [RUN], made(*POSITIONS)) == []


def test_an_unanswered_request_may_be_repeated_and_a_finished_one_may_not() -> None:
    again = counted(*ALL, ALL[1])
    unanswered = [*made("2", status="unknown"), *made(*POSITIONS)]
    assert violations(again, [RUN], unanswered) == []
    found = [f"2 requests, of which 1 are recorded: {ALL[1]}"]
    assert violations(again, [RUN], made(*POSITIONS)) == found
    found = [f"a finished request was made again: {ALL[1]}"]
    assert violations(again, [RUN], made("2", *POSITIONS)) == found


def test_a_repeated_call_is_found_even_if_it_is_recorded_twice() -> None:
    found = [f"a call was made 2 times: {ALL[4]}"]
    assert violations(counted(*ALL, ALL[4]), [RUN], made("1.1", *POSITIONS)) == found


def test_a_call_of_no_run_and_a_success_without_a_step_are_found() -> None:
    assert violations(counted("due:2:noon/a"), [], []) == [
        "1 calls, of which 0 are recorded: due:2:noon"
    ]
    (found,) = violations(counted(*ALL[:6]), [RUN], made(*POSITIONS[:5], POSITIONS[6]))
    assert found.startswith("succeeded after the steps")
