"""The call that a job makes without an agent waits for a person, as a call of an agent does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput
from daybook.execution import attempt
from daybook.execution.attempt import AttemptResult, RetryAt
from daybook.features.hooks import requests
from daybook.home import Home
from daybook.jobs.limits import AgentLimits
from daybook.jobs.model import new_job
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import ApprovalRow
from daybook.ledger.views import Approval
from daybook.runs import approvals, claims
from daybook.runs.claim_requests import Granted
from tests.world import World

pytestmark = pytest.mark.anyio

MAIL = {"tool": "mail.send", "params": {"to": "ann", "key": "{{secret:mail}}"}}
SHOWN = '{"to": "ann", "key": "{{secret:mail}}"}'


class Call:
    """Act that makes a call; its results are ``results``, and then a success."""

    def __init__(self, *results: AttemptResult) -> None:
        self.results, self.made, self.closed = list(results), 0, 0

    async def __call__(self) -> AttemptResult:
        self.made += 1
        return self.results.pop(0) if self.results else AttemptResult(Outcome(Status.SUCCEEDED))

    async def close(self) -> None:
        self.closed += 1


class CallingRun:
    """A run of a job, whose attempts are made one after the other, as a worker does."""

    def __init__(self, world: World, stored: StoredJob) -> None:
        self.world, self.stored, self.call = world, stored, Call()

    async def is_requested(self, payload: Any = None) -> CallingRun:
        made = await requests.request(self.world.ledger, self.stored, "pulls", "r", payload, rate=1)
        assert made.run_id is not None
        await self.begins(made.run_id)
        return self

    async def begins(self, run_id: str) -> None:
        row = await self.world.runs.row(run_id)
        if row.until is not None and row.until > self.world.clock.now():
            self.world.clock.set(row.until)
        rules = AgentLimits.of({"tools": ["*"], "secrets": ["*"]})
        self.granted = await self.world.runs.claimed(
            self.world.runs.claim_request(row, rules=rules)
        )
        self.number = await claims.begin(self.world.ledger, run_id, self.granted.fence)

    async def goes_on(self) -> Outcome | RetryAt:
        world = self.world
        return await attempt.run_attempt(
            world.ledger, self.granted, self.number, self.call, world.clock
        )

    async def is_decided(self, *, approve: bool, reason: str = "") -> None:
        run_id = self.granted.run_id
        await claims.decide_approval(
            self.world.ledger, run_id, None, approve=approve, by="ann (cli)", reason=reason
        )
        await self.begins(run_id)

    async def asked(self) -> list[ApprovalRow]:
        async with self.world.ledger.read() as session:
            return await approvals.of_run(session, self.granted.run_id)


async def run_of(world: World, payload: Any = None, **fields: Any) -> CallingRun:
    call = {} if "url" in fields else MAIL
    given = {"prompt": None, "on_demand": True, "approve": ["mail"], **call, **fields}
    return await CallingRun(world, await world.jobs.add(**given)).is_requested(payload)


async def test_a_call_is_made_once_after_its_approval_and_never_before(world: World) -> None:
    run = await run_of(world)
    paused = await run.goes_on()
    assert isinstance(paused, RetryAt)
    row = await world.runs.row()
    assert (row.status, row.waits_for, row.until) == ("waiting", "approval", paused.until)
    assert paused.until == world.clock.now() + timedelta(days=1)
    assert (run.call.made, run.call.closed) == (0, 1)
    (asked,) = await run.asked()
    assert (asked.tool, asked.input, asked.position) == ("mail.send", SHOWN, "1")

    await run.is_decided(approve=True)
    ended = await run.goes_on()
    assert isinstance(ended, Outcome) and ended.status is Status.SUCCEEDED
    assert (run.call.made, run.call.closed) == (1, 1)
    row = await world.runs.row()
    assert (row.status, row.attempts) == ("succeeded", 1)


@pytest.mark.parametrize("expired", [False, True])
async def test_a_refused_call_fails_the_run_whatever_its_retries(
    world: World, expired: bool
) -> None:
    run = await run_of(world, policy={"approve": ["mail.*"], "retries": 3})
    assert isinstance(await run.goes_on(), RetryAt)
    if expired:
        await run.begins(run.granted.run_id)
    else:
        await run.is_decided(approve=False, reason="wrong address")
    ended = await run.goes_on()
    words = "no person decided in time" if expired else "ann (cli) rejected it. The reason: wrong"
    assert isinstance(ended, Outcome) and words in str(ended.error)
    assert (run.call.made, run.call.closed) == (0, 2)
    row = await world.runs.row()
    assert (row.status, row.error, row.attempts) == ("failed", ended.error, 1)


async def test_a_retry_makes_the_approved_call_again_without_a_question(world: World) -> None:
    run = await run_of(world, policy={"approve": ["*"], "retries": 3})
    await run.goes_on()
    await run.is_decided(approve=True)
    run.call = Call(AttemptResult(Outcome(Status.FAILED, error="busy"), temporary=True))
    assert isinstance(await run.goes_on(), RetryAt)
    await run.begins(run.granted.run_id)
    assert run.number == 2
    ended = await run.goes_on()
    assert isinstance(ended, Outcome) and ended.status is Status.SUCCEEDED
    assert run.call.made == 2 and len(await run.asked()) == 1


async def test_a_process_killed_before_the_question_asks_again_and_after_it_asks_nobody(
    world: World,
) -> None:
    run = await run_of(world, policy={"approve": ["*.send"], "on_lost": "rerun", "retries": 3})
    await lost(run)  # killed between `begin` and the question
    assert await run.asked() == []
    assert isinstance(await run.goes_on(), RetryAt)
    await run.is_decided(approve=True)
    await lost(run)  # killed after the decision: the call may have been made
    ended = await run.goes_on()
    assert isinstance(ended, Outcome) and ended.status is Status.SUCCEEDED
    assert run.call.made == 1 and len(await run.asked()) == 1


async def lost(run: CallingRun) -> None:
    granted: Granted = run.granted
    await claims.holder_died(run.world.ledger, granted.run_id, granted.fence, "killed")
    await run.begins(granted.run_id)


async def test_a_webhook_shows_all_that_it_sends_but_secrets(world: World) -> None:
    fields: dict[str, Any] = {
        "url": "https://a.example/pay?sum=9",
        "headers": {"Authorization": "Bearer {{secret:pay}}"},
        "body": '{"sum": "{{payload.sum}}"}',
        "approve": ["webhook"],
    }
    run = await run_of(world, {"sum": 7}, **fields)
    assert isinstance(await run.goes_on(), RetryAt)
    (asked,) = await run.asked()
    assert asked.tool == "webhook"
    shown = Approval.of(asked).full_input.splitlines()
    assert shown[1] == 'url="https://a.example/pay?sum=9"'
    assert shown[2] == 'headers={"Authorization": "Bearer {{secret:pay}}"}'
    assert shown[3] == r'body="{\"sum\": 7}"'
    assert run.call.made == 0


async def test_a_call_with_a_payload_that_nobody_can_read_fails(world: World) -> None:
    params = {"text": "{{payload}}"}
    run = await run_of(world, {"text": "x" * 70_000}, tool="mail.send", params=params)
    ended = await run.goes_on()
    assert isinstance(ended, Outcome) and ended.status is Status.FAILED
    assert "The limit is 65,536 bytes" in str(ended.error)
    assert (run.call.made, run.call.closed) == (0, 1)


@pytest.mark.parametrize("entry", ["mail.*", "search.*"])
async def test_the_limits_of_an_agent_hold_the_calls_of_its_jobs(
    world: World, daybook_home: Home, entry: str
) -> None:
    (daybook_home.path / "config.toml").write_text(f'[limits]\napprove = ["{entry}"]\n')
    given: dict[str, Any] = {"prompt": None, "on_demand": True, **MAIL}
    stored = await world.jobs.add(owner="agent:scout", **given)
    run = await CallingRun(world, stored).is_requested()
    ended = await run.goes_on()
    assert isinstance(ended, RetryAt) == (entry == "mail.*") == (run.call.made == 0)


def test_an_entry_has_to_name_the_call_of_the_job() -> None:
    given: dict[str, Any] = {"now": SYSTEM_CLOCK.now(), "on_demand": True}
    calls: list[tuple[dict[str, Any], str]] = [
        ({"tool": "mail.send"}, "mail.send"),
        ({"url": "https://a.example"}, "webhook"),
    ]
    for fields, name in calls:
        assert new_job(**given, **fields, approve=[name]).policy.approve == (name,)
        assert new_job(**given, **fields, approve=["*"]).policy.approve == ("*",)
        for wrong in ("mail.read", "answer"):
            with pytest.raises(InvalidInput, match=f'approve: "{wrong}" does not name .*{name}'):
                new_job(**given, **fields, approve=[name, wrong])
