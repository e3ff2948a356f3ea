"""Reports to the worker while a run is prepared, and errors and signals that do not end it."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NoReturn, cast
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort, PrefectHTTPStatusError

from daybook import __version__
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput, PrefectUnreachable, UnknownName
from daybook.execution import checks, execute, handover, lease, session_upkeep
from daybook.execution.attempt import Act
from daybook.execution.checks import Verdict
from daybook.execution.claim import NO_LEDGER_DELAY
from daybook.home import Home
from daybook.ledger.states import Outcome, Status
from daybook.policies.checks import Check
from daybook.policies.policy import Policy
from daybook.prefect import reconcile, states
from daybook.runs import claims
from daybook.runs.approvals import Question
from tests.timings import expire_timeout
from tests.unit.runs import ending
from tests.world import World

pytestmark = pytest.mark.anyio

OPEN = Verdict(opens=True, reason="something came")


class Worker:
    """Worker that keeps the reports about a run."""

    def __init__(self) -> None:
        self.facts: list[dict[str, object]] = []

    def report(self, **facts: object) -> None:
        self.facts.append(facts)


class Grant:
    fence = 7

    def __init__(self, check: Check) -> None:
        self.policy = Policy(check=check)


class Run:
    """Run that a worker started, with the check to evaluate."""

    kind = "heartbeat"

    def __init__(self, check: Any) -> None:
        self.given, self.check = Worker(), check


async def opens(granted: Any) -> Verdict:
    return OPEN


async def checked(gate: Any, check: Check) -> tuple[Verdict, list[dict[str, object]]]:
    run = Run(gate)
    verdict = await execute._checked(cast(Any, None), cast(Any, run), cast(Any, Grant(check)))
    return verdict, run.given.facts


async def test_a_run_reports_the_start_and_end_of_a_check_to_its_worker() -> None:
    # The worker ends a check that takes too long; preparation may wait for a server.
    assert await checked(checks.check_job, Check()) == (checks.NO_CHECK, [])
    assert await checked(opens, Check()) == (OPEN, [{"checking": 7}, {"claimed": 7}])


async def test_a_check_that_times_out_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = asyncio.Event()

    async def hangs(granted: Any) -> Verdict:
        began.set()
        await asyncio.Event().wait()
        return OPEN

    monkeypatch.setattr(execute, "CHECK_GRACE", timedelta())
    run, grant = cast(Any, Run(hangs)), cast(Any, Grant(Check()))
    checking = asyncio.create_task(execute._in_time(run, grant, timedelta(seconds=60)))
    await began.wait()
    await expire_timeout(60.0)
    with pytest.raises(checks.CheckFailed, match=r"^heartbeat: no answer within 1m$"):
        await checking


async def test_a_failed_push_to_prefect_raises_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def push(job_id: str) -> None:
        asked = httpx.Request("GET", "http://127.0.0.1:1")
        answer = httpx.Response(500, request=asked)
        raise httpx.HTTPStatusError("500", request=asked, response=answer)

    monkeypatch.setattr(reconcile, "push", push)
    await execute._push("a job")


@pytest.mark.parametrize("raised", [None, Abort("its outcome is in the spool")])
async def test_sigterm_is_ignored_once_the_run_has_ended(
    raised: Exception | None,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with suppress(Abort), handover.cancel_on_sigterm():
            if raised is not None:
                raise raised
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_run_that_is_cancelled_in_prefect_during_its_check_ends_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.claimed(claim_request)

    async def named(run: object, granted: object) -> None:
        pass

    async def checked(ledger: object, run: object, granted: object) -> Verdict:
        await ending.take(world, claim_request, "CANCELLED")
        return Verdict(opens=False, reason="nothing came")

    monkeypatch.setattr(execute, "_name_run", named)
    monkeypatch.setattr(execute, "_checked", checked)
    assert await execute._check_and_begin(world.ledger, cast(Any, Run(opens)), granted) is None
    assert (await world.runs.row(granted.run_id)).status == "cancelled"


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_a_run_waits_if_prefect_has_no_answer_for_its_preparation(
    world: World, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    granted = await world.runs.claimed(await world.jobs.add())

    async def named(run: object, granted: object) -> None: ...

    async def prepare(granted: object) -> Act:
        asked = httpx.Request("GET", "http://127.0.0.1:1/api/block_documents")
        answer = httpx.Response(status, request=asked)
        raise PrefectHTTPStatusError(str(status), request=asked, response=answer)

    monkeypatch.setattr(execute, "_name_run", named)
    run = cast(Any, Run(checks.check_job))
    run.clock, run.prepare = world.clock, prepare
    with pytest.raises(PrefectUnreachable):
        await execute._check_and_begin(world.ledger, run, granted)

    row = await world.runs.row(granted.run_id)
    assert (row.status, row.until) == ("waiting", world.clock.now() + NO_LEDGER_DELAY)


async def test_a_run_whose_answer_is_decided_begins_without_its_agent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = await world.runs.running(await world.jobs.add())
    question = Question.of_answer(Outcome(Status.SUCCEEDED, output="Yes."), timedelta(hours=1))
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, question)
    await claims.decide_approval(world.ledger, granted.run_id, None, approve=True, by="ann (cli)")
    again = await world.runs.claimed(await world.runs.row())

    async def named(run: object, granted: object) -> None: ...

    async def prepare(granted: object) -> Act:
        raise UnknownName("agent", "default", [])

    monkeypatch.setattr(execute, "_name_run", named)
    run = cast(Any, Run(checks.check_job))
    run.prepare = prepare
    assert isinstance(await execute._check_and_begin(world.ledger, run, again), tuple)
    assert (await world.runs.row()).status == "running"


class Instant:
    """Clock that does not wait; it keeps the waits, in seconds."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def now(self) -> datetime:
        return SYSTEM_CLOCK.now()

    async def wait_until(self, until: datetime) -> None:
        self.waits.append(round((until - self.now()).total_seconds()))


@pytest.fixture
def crashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of the messages with which runs end as crashed in Prefect."""
    messages: list[str] = []

    async def end(flow_run_id: str, state: State[Any]) -> NoReturn:
        assert state.is_crashed()
        messages.append(state.message or "")
        raise Abort

    monkeypatch.setattr(states, "end_flow_run", end)
    return messages


@pytest.fixture
def suspended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[datetime, str]]:
    """Return the list of the times until which runs wait in Prefect, with the reasons."""
    found: list[tuple[datetime, str]] = []

    async def suspend(flow_run_id: str, until: datetime, why: str) -> NoReturn:
        found.append((until, why))
        raise Abort

    monkeypatch.setattr(execute, "suspend_flow_run", suspend)
    monkeypatch.setattr(states, "suspend_flow_run", suspend)
    return found


def of_another_worker(tag: str = "daybook:another", starts: int = 1) -> Any:
    run = cast(Any, Run(opens))
    run.id, run.given, run.is_direct, run.clock = "flow-run", None, False, Instant()
    run.flow_run = FlowRun(flow_id=uuid4(), deployment_id=uuid4(), tags=[tag], run_count=starts)
    return run


async def test_a_run_of_another_worker_crashes_if_a_setting_stays_invalid(
    daybook_home: Home, crashes: list[str]
) -> None:
    (daybook_home.path / "config.toml").write_text("max_concurent = 3\n")
    run = of_another_worker()
    with pytest.raises(Abort):
        await execute._execute(run)
    (message,) = crashes
    assert "max_concurent" in message
    assert run.clock.waits == [30.0]


@pytest.mark.parametrize("by_worker", [False, True])
async def test_while_a_setting_is_invalid_a_direct_call_fails_and_a_run_of_our_worker_waits(
    daybook_home: Home,
    monkeypatch: pytest.MonkeyPatch,
    suspended: list[tuple[datetime, str]],
    by_worker: bool,
) -> None:
    (daybook_home.path / "config.toml").write_text("max_concurent = 3\n")
    run = of_another_worker()
    run.is_direct = not by_worker
    run.flow_run.deployment_id = uuid4() if by_worker else None
    if by_worker:
        monkeypatch.setattr(handover, "_received", [])
        handover.receive("flow-run", "run", 1, "here:1", -1, skew_seconds=0)
        run.given = handover.received_for("flow-run")
    with pytest.raises(Abort if by_worker else InvalidInput):
        await execute._execute(run)
    assert [why.count("max_concurent") for _, why in suspended] == ([1] if by_worker else [])


async def test_a_run_of_another_worker_without_a_ledger_crashes_with_the_reason(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, crashes: list[str]
) -> None:
    """The keeper reads the reason in Prefect; the Prefect run is not repeated without an end."""
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", "postgresql://127.0.0.1:1/nothing")
    run = of_another_worker()
    with pytest.raises(Abort):
        await execute._execute(run)
    (message,) = crashes
    assert f"Daybook {__version__} on " in message
    assert "127.0.0.1:1/nothing cannot be reached" in message
    assert run.clock.waits == [30.0]


@pytest.mark.usefixtures("daybook_home")
@pytest.mark.parametrize(("tag", "starts"), [("daybook:another", 2), ("theirs", 1)])
async def test_a_run_that_the_keeper_would_not_start_again_waits_for_its_ledger(
    monkeypatch: pytest.MonkeyPatch,
    crashes: list[str],
    suspended: list[tuple[datetime, str]],
    tag: str,
    starts: int,
) -> None:
    """A Retry by a person, or a run of a deployment that belongs to no ledger yet."""
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", "postgresql://127.0.0.1:1/nothing")
    run = of_another_worker(tag, starts)
    with pytest.raises(Abort):
        await execute._execute(run)
    assert crashes == []
    ((_, why),) = suspended
    assert "cannot be reached" in why


async def test_a_run_of_another_worker_whose_ledger_is_another_one_crashes(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, crashes: list[str]
) -> None:
    """Without DAYBOOK_LEDGER_URL, it would use an empty ledger in its own home."""
    run = of_another_worker()
    with pytest.raises(Abort):
        await execute._execute(run)
    (message,) = crashes
    assert f"{daybook_home.path}/ledger.db is not the ledger of the job" in message
    assert "set DAYBOOK_LEDGER_URL" in message
    assert run.clock.waits == []


async def test_a_run_without_a_ledger_waits_by_the_clock_that_its_worker_knows(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, suspended: list[tuple[datetime, str]]
) -> None:
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", "postgresql://127.0.0.1:1/nothing")
    monkeypatch.setattr(handover, "_received", [])
    handover.receive("flow-run", "run", 1, "here:1", -1, skew_seconds=3600)
    run = of_another_worker()
    run.clock, run.given = SYSTEM_CLOCK, handover.received_for("flow-run")
    before = SYSTEM_CLOCK.now()
    with pytest.raises(Abort):
        await execute._execute(run)
    ahead = timedelta(hours=1) + NO_LEDGER_DELAY
    ((until, _),) = suspended
    assert before + ahead <= until <= SYSTEM_CLOCK.now() + ahead


@pytest.mark.parametrize("is_direct", [False, True])
async def test_a_run_whose_check_is_stopped_without_a_renewal_gives_its_claim_back(
    world: World, monkeypatch: pytest.MonkeyPatch, is_direct: bool
) -> None:
    granted = await world.runs.claimed(await world.jobs.add())

    async def named(run: object, granted: object) -> None:
        pass

    async def checked(ledger: object, run: object, granted: object) -> Verdict:
        raise lease.LeaseNotRenewed("its lease could not be renewed")

    monkeypatch.setattr(execute, "_name_run", named)
    monkeypatch.setattr(execute, "_checked", checked)
    run = cast(Any, Run(opens))
    run.given, run.is_direct, run.clock = None, is_direct, world.clock
    beginning = execute._check_and_begin(world.ledger, run, granted)
    if is_direct:
        with pytest.raises(lease.LeaseNotRenewed):
            await beginning
    else:
        assert await beginning is None

    row = await world.runs.row(granted.run_id)
    if is_direct:
        assert (row.status, row.reason) == ("cancelled", "stopped before it began")
    else:
        assert (row.status, row.reason) == ("waiting", "its lease could not be renewed")
        assert row.until == world.clock.now() + NO_LEDGER_DELAY


@pytest.mark.parametrize("by_worker", [True, False])
async def test_a_run_whose_summary_is_stopped_by_its_worker_still_returns_its_state(
    by_worker: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def tend(*_: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(session_upkeep, "tend", tend)
    run = Run(opens)
    run.given = run.given if by_worker else None  # type: ignore[assignment]
    given: Any = (None, run, None, None)
    tending = asyncio.create_task(execute._tend_session(*given))
    await asked.wait()
    tending.cancel()
    if by_worker:
        await tending
        assert tending.cancelling() == 0
    else:
        with pytest.raises(asyncio.CancelledError):
            await tending
