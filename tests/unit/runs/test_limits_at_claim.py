"""A claim refuses a run of an agent's job that exceeds its owner's limits."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from daybook.jobs.limits import AgentLimits
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Outcome, Status
from daybook.runs import claim_requests, claims
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio

AGENT = "agent:scout"
RULES = AgentLimits.of({"min_interval": "10m", "tools": ["look"], "hosts": ["*.example.org"]})


async def owned(world: World, owner: str = AGENT, name: str = "brief", **fields: Any) -> StoredJob:
    stored = await world.jobs.add(name, **fields)
    async with world.ledger.write() as session:
        row = await session.merge(stored.row)
        row.owner = owner
    return await world.jobs.get(stored.id)


def ruled(claim_request: ClaimRequest, rules: AgentLimits = RULES) -> ClaimRequest:
    return replace(claim_request, rules=rules)


async def refused(world: World, claim_request: ClaimRequest) -> str:
    """Return why the claim was refused; check that its row is skipped and has no attempt."""
    world.clock.set(max(world.clock.now(), claim_request.due))
    answer = await world.runs.claim(claim_request)
    assert isinstance(answer, Finished), answer
    assert answer.status is Status.SKIPPED
    row = await world.runs.row(str(answer.run_id))
    assert (row.status, row.reason, row.attempts) == ("skipped", answer.reason, 0)
    return answer.reason


async def test_a_run_within_its_owners_limits_is_claimed(world: World) -> None:
    stored = await owned(world)
    granted = await world.runs.claimed(ruled(world.runs.claim_request(stored)))
    assert granted.tokens == 200_000  # the default per run


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": "dear"}, 'limits: model: "dear" is not allowed'),
        ({"agent": "writer"}, 'limits: agent: "writer" is not allowed'),
        ({"channel": "file"}, 'limits: channel: "file" is reserved for the operator'),
        ({"on_fail": "https://evil.net/x"}, 'limits: on_fail: "evil.net" is not allowed'),
        ({"every": "30s"}, "limits: schedule: is due every 30s"),
        ({"check": {"command": ["true"]}}, "limits: check: only the operator can set a command"),
    ],
)
async def test_a_run_is_refused_if_an_edit_in_prefect_exceeds_its_owners_limits(
    world: World, changes: dict[str, Any], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    stored = await owned(world)
    edited = await world.jobs.edit(stored.id, source="prefect", **changes)
    why = await refused(world, ruled(world.runs.claim_request(edited)))
    assert why.startswith(expected)
    (record,) = [each for each in caplog.records if vars(each).get("action") == "limit_refused"]
    assert (record.levelno, vars(record)["owner"]) == (logging.WARNING, AGENT)
    assert vars(record)["job"] == "brief"
    assert why in record.getMessage()


async def test_webhooks_and_tool_calls_beyond_the_owners_limits_are_refused(world: World) -> None:
    hook = await world.jobs.add("hook", url="https://evil.net/x", every="1h", prompt=None)
    tool = await world.jobs.add("tool", tool="wipe", every="1h", prompt=None)
    for stored in (hook, tool):
        async with world.ledger.write() as session:
            (await session.merge(stored.row)).owner = AGENT
    assert 'url: "evil.net"' in await refused(
        world, ruled(world.runs.claim_request(hook, kind="webhook"))
    )
    assert 'tool: "wipe"' in await refused(
        world, ruled(world.runs.claim_request(tool, kind="tool-call"))
    )


async def test_a_run_of_a_users_job_is_not_limited(world: World) -> None:
    stored = await owned(world, "user", model="dear", every="1s")
    await world.runs.claimed(ruled(world.runs.claim_request(stored)))


def by_hand(world: World, stored: StoredJob, flow_run: str, **parameters: Any) -> ClaimRequest:
    """Return the request of a quick or custom run, as Prefect's UI and its API create it."""
    return ruled(
        world.runs.claim_request(
            stored,
            occurrence=claim_requests.flow_key(flow_run),
            flow_run_id=flow_run,
            trigger="manual",
            due=world.clock.now(),
            parameters={**stored.job.parameters(), **parameters},
        )
    )


async def test_a_custom_run_is_checked_by_its_own_parameters(world: World) -> None:
    stored = await owned(world)
    why = await refused(world, by_hand(world, stored, "custom", model="dear"))
    assert why.startswith('limits: model: "dear"')
    policy = {"check": {"command": ["true"]}}
    assert "limits: check" in await refused(world, by_hand(world, stored, "second", policy=policy))
    # A refused run does not count as a run, and blocks no other run.
    assert isinstance(await world.runs.claim(by_hand(world, stored, "plain")), Granted)


async def test_a_custom_run_with_the_parameters_of_another_flow_is_refused(world: World) -> None:
    """An example is a flow run whose deployment was pointed to another flow."""
    stored = await owned(world)
    claim_request = by_hand(world, stored, "custom")
    claim_request = replace(
        claim_request, kind="webhook", parameters={"url": "https://a.example.org"}
    )
    assert (await refused(world, claim_request)).startswith("limits: ")


async def test_custom_runs_created_in_prefect_must_keep_the_minimum_interval(world: World) -> None:
    stored = await owned(world)
    await world.runs.finished(ruled(world.runs.claim_request(stored)), Status.SUCCEEDED)
    world.clock.move(timedelta(minutes=9))
    expected = "limits: schedule: another run was queued or started less than 10m ago"
    assert (await refused(world, by_hand(world, stored, "one"))).startswith(expected)
    world.clock.move(timedelta(minutes=1))
    await world.runs.finished(by_hand(world, stored, "two"), Status.SUCCEEDED)
    assert (await refused(world, by_hand(world, stored, "three"))).startswith(expected)
    # A key that an agent made up, of a request or of another due time, is not a due time.
    made_up = by_hand(world, stored, "made up")
    why = await refused(
        world, replace(made_up, occurrence=claim_requests.request_key(stored.id, "x"))
    )
    assert why.startswith(expected)
    due = ruled(world.runs.claim_request(stored))
    await world.runs.finished(due, Status.SUCCEEDED)
    again = replace(due, occurrence=f"due:{stored.id}:2026-01-01T00:00:00Z", flow_run_id="again")
    assert (await refused(world, again)).startswith(expected)
    # They delay neither the schedule's own due times nor runs requested from Daybook.
    asked = await claims.request(world.ledger, stored, "by hand", "mcp")
    assert isinstance(await world.runs.claim(ruled(world.runs.claim_request(asked))), Granted)


async def test_custom_runs_that_would_queue_must_keep_the_minimum_interval(world: World) -> None:
    """With an overlap policy of their own they would wait, and run one after the other."""
    stored = await owned(world)
    await world.runs.running(ruled(world.runs.claim_request(stored)))
    world.clock.move(timedelta(minutes=1))
    policy = stored.job.policy.model_dump(mode="json") | {"overlap": "queue_all"}
    for flow_run in ("one", "two"):
        why = await refused(world, by_hand(world, stored, flow_run, policy=policy))
        assert why == (
            "limits: schedule: another run was queued or started less than 10m ago "
            "(use `daybook run` to start one now)"
        )
    world.clock.move(timedelta(minutes=9))
    assert isinstance(
        await world.runs.claim(by_hand(world, stored, "three", policy=policy)), Waiting
    )


@pytest.mark.parametrize("field", ["on_fail", "url"])
async def test_a_custom_run_with_an_invalid_address_is_refused(world: World, field: str) -> None:
    """A claim that raised an error would be repeated forever."""
    hook = await world.jobs.add("hook", url="https://a.example.org/x", every="1h", prompt=None)
    async with world.ledger.write() as session:
        (await session.merge(hook.row)).owner = AGENT
    bad = "https://[a.example.org/x"
    changes: dict[str, Any] = {"url": bad} if field == "url" else {"notify": {"on_fail": bad}}
    claim_request = replace(by_hand(world, hook, "custom", **changes), kind="webhook")
    assert (await refused(world, claim_request)).startswith("limits: ")


async def test_a_refusal_is_logged_as_one_short_line(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    stored = await owned(world)
    why = await refused(world, by_hand(world, stored, "x", model="a\nERROR forged" + "b" * 9_000))
    assert why.startswith("limits: ")
    (record,) = [each for each in caplog.records if vars(each).get("action") == "limit_refused"]
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 3_000


async def test_a_retry_in_prefects_ui_is_checked_against_the_current_limits(world: World) -> None:
    stored = await owned(world)
    due = ruled(world.runs.claim_request(stored))
    await world.runs.finished(due, Status.FAILED)
    world.clock.move(timedelta(minutes=20))
    again = replace(due, flow_starts=2, retries=(1,))
    edited = AgentLimits.of({"agents": []})
    why = await refused(world, replace(again, rules=edited))
    assert why.startswith('limits: agent: "default"')


async def test_a_further_attempt_is_checked_against_the_current_limits(world: World) -> None:
    """The operator removed the model between two attempts: the run fails and is not retried."""
    stored = await owned(world, AGENT, model="small", every="1h")
    allowed = AgentLimits.of({"models": ["small"]})
    granted = await world.runs.running(ruled(world.runs.claim_request(stored), allowed))
    row = await world.runs.row(granted.run_id)
    failed = Outcome(Status.FAILED, error="busy")
    until = world.clock.now() + timedelta(minutes=1)
    await claims.retry(world.ledger, row.id, granted.fence, failed, until)
    world.clock.set(until)
    answer = await world.runs.claim(
        ruled(replace(world.runs.claim_request(row), flow_run_id=row.flow_run_id))
    )
    assert isinstance(answer, Finished)
    row = await world.runs.row(row.id)
    assert (row.status, row.attempts) == ("failed", 1)
    assert str(row.error).startswith('limits: model: "small" is not allowed')


@pytest.mark.floor("A", "User jobs do not fire while they are switched off")
@pytest.mark.parametrize(
    ("owner", "runs"),
    [("user", False), (AGENT, False), ("file", False), ("prefect", False), ("plugin", True)],
)
async def test_scheduled_runs_of_users_and_agents_are_refused_while_user_jobs_are_off(
    world: World, owner: str, runs: bool
) -> None:
    off = AgentLimits.of({}, user_jobs=False)
    stored = await owned(world, owner)
    due = ruled(world.runs.claim_request(stored), off)
    if runs:
        await world.runs.claimed(due)
        return
    assert await refused(world, due) == "user jobs are disabled"
    foreign = replace(by_hand(world, stored, "own"), rules=off, trigger="schedule")
    assert await refused(world, foreign) == "user jobs are disabled"
    # A manual run can be claimed.
    asked = await claims.request(world.ledger, stored, "by hand", "manual")
    assert isinstance(await world.runs.claim(ruled(world.runs.claim_request(asked), off)), Granted)


@pytest.mark.floor("A", "The heartbeat fires while user jobs are switched off")
async def test_a_heartbeat_is_claimed_while_user_jobs_are_disabled(world: World) -> None:
    stored = await world.jobs.add("beat", kind="heartbeat", every="10m", prompt=None)
    await world.runs.claimed(
        ruled(
            world.runs.claim_request(stored, kind="heartbeat"), AgentLimits.of({}, user_jobs=False)
        )
    )


async def test_a_claim_of_a_users_job_makes_no_extra_query_for_limits(world: World) -> None:
    """The claim of a user's job makes the same queries with rules and without."""
    reasons: list[str] = []
    engine = world.ledger._engine.sync_engine

    def note(_: Any, __: Any, statement: str, *rest: Any) -> None:
        reasons.append(statement)

    counts = []
    for name, rules in (("warm", AgentLimits()), ("one", AgentLimits()), ("two", RULES)):
        stored = await world.jobs.add(name)
        claim_request = ruled(world.runs.claim_request(stored), rules)
        world.clock.set(max(world.clock.now(), claim_request.due))
        event.listen(engine, "before_cursor_execute", note)
        assert isinstance(await world.runs.claim(claim_request), Granted)
        event.remove(engine, "before_cursor_execute", note)
        counts.append(len(reasons))
        assert not [each for each in reasons if "attempts" in each and "JOIN" in each]
        reasons.clear()
        world.clock.move(timedelta(minutes=1))
    assert counts[1] == counts[2]
