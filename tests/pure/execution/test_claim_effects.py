"""The effects of each answer to a claim, for each kind of caller: the table of `claim_effects`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from daybook.execution.claim_effects import (
    DECISION_INTERVAL,
    Caller,
    Effect,
    Flow,
    LeaveToHolder,
    ReadRetries,
    Reconcile,
    RequestCancellation,
    ShowEnd,
    Start,
    Suspend,
    WaitHere,
    WakeEarlier,
    Worker,
    effects,
)
from daybook.ledger.states import Status
from daybook.runs.claim_requests import (
    ClaimResult,
    Finished,
    Granted,
    HeldElsewhere,
    NeedsReconcile,
    Waiting,
)
from tests.rows import each

NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)
SOON, LATER = NOW + timedelta(seconds=30), NOW + timedelta(days=2)

WORKER = Worker("own")
FLOW = Flow("own", timedelta(seconds=30))
UNSTARTED = Flow("own", timedelta(0))
"""Flow whose worker has claimed the run, and that has lost this claim."""
DIRECT = Flow("own", timedelta.max)

GRANTED = Granted("run", 1, {}, "flow:own", NOW, "manual", None, kind="webhook", queued_at=NOW)
BRIEF, LONG = Waiting(SOON, "not due yet"), Waiting(LATER, "max 4", "run", fence=2)
FREE = Waiting(SOON, "earlier runs", "run", free=True)
CANCELLING = Waiting(LATER, "replaced", "run", cancel=("a", "b"))
ASKING = Waiting(LATER, "a person decides", "run", for_person=True)
DONE = Finished(Status.SUCCEEDED, "already succeeded", "run", "own")
NEW = Finished(Status.MISSED, "late", "run", "own", is_new=True)
ELSEWHERE = Finished(Status.FAILED, "already failed", "run", "other", "broken")
RECORDED = ShowEnd(Finished(Status.SKIPPED, "already recorded as failed", "run"))
MISSED = Finished(Status.MISSED, "late", "run", "other")
NOT_DUE = Finished(Status.SKIPPED, "not due")
HELD = HeldElsewhere("run-0123456789", "here:1", "own")
DUPLICATE = HeldElsewhere("run-0123456789", "here:1", "other")
IN_PROGRESS = ShowEnd(
    Finished(Status.SKIPPED, "run run-0123 is already in progress", "run-0123456789")
)
CANCEL = RequestCancellation(("a", "b"), "replaced")

ROWS: list[tuple[ClaimResult, Caller, tuple[Effect, ...]]] = [
    *((GRANTED, caller, (Start(GRANTED),)) for caller in (WORKER, FLOW, UNSTARTED, DIRECT)),
    (BRIEF, WORKER, (Suspend(BRIEF),)),
    (BRIEF, FLOW, (WaitHere(SOON - NOW),)),
    (BRIEF, UNSTARTED, (Suspend(BRIEF),)),
    (Waiting(NOW, "now"), UNSTARTED, (WaitHere(timedelta(0)),)),
    (BRIEF, DIRECT, (WaitHere(SOON - NOW),)),
    (LONG, WORKER, (Suspend(LONG),)),
    (LONG, FLOW, (Suspend(LONG),)),
    (LONG, DIRECT, (WaitHere(LATER - NOW),)),
    (FREE, WORKER, (Suspend(FREE), WakeEarlier())),
    (FREE, FLOW, (WaitHere(SOON - NOW),)),
    (CANCELLING, WORKER, (CANCEL, Suspend(CANCELLING))),
    (CANCELLING, FLOW, (CANCEL, Suspend(CANCELLING))),
    (CANCELLING, DIRECT, (CANCEL, WaitHere(LATER - NOW))),
    (ASKING, WORKER, (Suspend(ASKING),)),
    (ASKING, FLOW, (Suspend(ASKING),)),
    (ASKING, DIRECT, (WaitHere(DECISION_INTERVAL),)),
    (Waiting(NOW, "decided", for_person=True), DIRECT, (WaitHere(timedelta(0)),)),
    (DONE, WORKER, (ReadRetries(), ShowEnd(DONE))),
    (DONE, Worker("own", has_retries=True), (ShowEnd(DONE),)),
    (NEW, WORKER, (ShowEnd(NEW),)),
    (NEW, Worker("own", has_start_time=True), (ReadRetries(), ShowEnd(NEW))),
    (DONE, FLOW, (ShowEnd(DONE),)),
    (DONE, DIRECT, (ShowEnd(DONE),)),
    (ELSEWHERE, WORKER, (RECORDED,)),
    (ELSEWHERE, Worker("own", has_start_time=True), (ReadRetries(), RECORDED)),
    (ELSEWHERE, Worker("own", has_start_time=True, has_retries=True), (RECORDED,)),
    (ELSEWHERE, FLOW, (RECORDED,)),
    (MISSED, WORKER, (ShowEnd(MISSED),)),
    (MISSED, FLOW, (ShowEnd(MISSED),)),
    (NOT_DUE, WORKER, (ShowEnd(NOT_DUE),)),
    (NOT_DUE, FLOW, (ShowEnd(NOT_DUE),)),
    (HELD, WORKER, ()),
    (HELD, FLOW, (LeaveToHolder("run run-0123456789 is held by here:1"),)),
    *((DUPLICATE, caller, (IN_PROGRESS,)) for caller in (WORKER, FLOW, DIRECT)),
    *((NeedsReconcile("job"), caller, (Reconcile("job"),)) for caller in (WORKER, FLOW, DIRECT)),
]


def test_each_answer_has_its_effects_for_each_caller() -> None:
    for (answer, caller, expected), trying in each(ROWS):
        with trying:
            assert effects(answer, caller, NOW) == expected


def test_the_wait_of_a_flow_ends_its_patience() -> None:
    at_limit = Waiting(NOW + FLOW.patience, "max 4", "run")
    beyond = Waiting(at_limit.until + timedelta(microseconds=1), "max 4", "run")
    assert effects(at_limit, FLOW, NOW) == (WaitHere(FLOW.patience),)
    assert effects(beyond, FLOW, NOW) == (Suspend(beyond),)
