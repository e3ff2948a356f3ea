"""Approvals in the ledger: a run waits for a person, whose first decision counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlmodel import select

from daybook.errors import FenceRefused, IllegalTransition, InvalidInput, NotFound
from daybook.features.backups import uncertain
from daybook.jobs.limits import AgentLimits
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import ApprovalRow, OutboxRow
from daybook.runs import approvals, claims, leases, prefect_ends, retention
from daybook.runs.approvals import Question
from daybook.runs.claim_requests import Finished, Granted, Waiting
from daybook.runs.restored import Restore
from daybook.timing import TIMING
from tests.world import World

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
MAIL = Question("1.1", "d" * 64, 1, "mail_send", 'to="ann"', HOUR)
SECOND = replace(MAIL, position="2.1", after=3, digest="e" * 64)
ANSWERED = Question.of_answer(
    Outcome(Status.SUCCEEDED, output="Sell.", usage={"input_tokens": 70, "cost_usd": 0.5}), HOUR
)


async def asked(
    world: World, question: Question = MAIL, **fields: Any
) -> tuple[StoredJob, Granted]:
    """Return a job and its run, which waits for an approval."""
    schedule: dict[str, Any] = {} if "every" in fields else {"on_demand": True}
    stored = await world.jobs.add(**schedule, **fields)
    which = stored if "every" in fields else await world.runs.request(stored)
    granted = await world.runs.running(which)
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, question)
    return stored, granted


async def decide(world: World, run_id: str, number: int | None = None, **how: Any) -> None:
    given: dict[str, Any] = {"approve": True, "by": "ann (cli)"} | how
    await claims.decide_approval(world.ledger, run_id, number, **given)


async def found(world: World) -> list[ApprovalRow]:
    async with world.ledger.read() as session:
        query = select(ApprovalRow).order_by(ApprovalRow.run_id, ApprovalRow.number)  # type: ignore[arg-type]
        return list((await session.execute(query)).scalars())


async def sent(world: World) -> list[OutboxRow]:
    async with world.ledger.read() as session:
        return list((await session.execute(select(OutboxRow))).scalars())


@pytest.mark.dialect
async def test_a_run_waits_for_its_approval_without_a_holder_and_continues_its_attempt(
    world: World,
) -> None:
    _, granted = await asked(world)
    row = await world.runs.row()
    deadline = world.clock.now() + HOUR
    assert (row.status, row.waits_for, row.until) == ("waiting", "approval", deadline)
    assert (row.holder, row.lease_until, row.attempts) == ("", None, 1)
    assert "mail_send" in row.reason
    waiting = await world.runs.claim(row)
    assert isinstance(waiting, Waiting) and waiting.until == deadline

    world.passes(minutes=5)
    await decide(world, row.id, reason="fine")
    row = await world.runs.row()
    assert (row.until, row.waits_for) == (world.clock.now(), "")
    again = await world.runs.running(row)
    assert again.fence > granted.fence
    row = await world.runs.row()
    assert (row.status, row.attempts) == ("running", 1)
    (attempt,) = await world.runs.attempts()
    assert (attempt.status, attempt.fence) == ("running", again.fence)
    (approval,) = await found(world)
    assert (approval.status, approval.decided_by, approval.reason) == (
        *("approved", "ann (cli)", "fine"),
    )
    assert approval.decided_at == world.clock.now()

    with pytest.raises(FenceRefused):  # a late word of the process that asked
        await world.runs.finish(granted, Status.SUCCEEDED)
    await world.runs.finish(again, Status.SUCCEEDED, usage={"input_tokens": 3})
    (attempt,) = await world.runs.attempts()
    assert (attempt.status, attempt.usage) == ("succeeded", {"input_tokens": 3})


async def test_the_deadline_in_a_waiting_reason_is_in_the_zone_of_the_job(world: World) -> None:
    stored = await world.jobs.add(every="1h", timezone="Asia/Kolkata")
    granted = await world.runs.running(stored)
    deadline = await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, MAIL)
    local = deadline.astimezone(ZoneInfo("Asia/Kolkata"))
    reason = (await world.runs.row(granted.run_id)).reason
    assert reason.endswith(f" until {local:%Y-%m-%d %H:%M:%S} +05:30")


async def test_asking_again_after_a_lost_answer_changes_nothing(world: World) -> None:
    _, granted = await asked(world)
    before = (await world.runs.row()).model_dump()
    again = await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, MAIL)
    assert again == world.clock.now() + HOUR
    assert (await world.runs.row()).model_dump() == before
    assert len(await found(world)) == len(await sent(world)) == 1
    with pytest.raises(FenceRefused):
        await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, SECOND)


async def test_only_a_running_run_can_ask(world: World) -> None:
    granted = await world.runs.claimed(await world.jobs.add())
    with pytest.raises(IllegalTransition):
        await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, MAIL)
    assert await found(world) == []


@pytest.mark.dialect
async def test_the_first_decision_counts_of_many_at_once(world: World) -> None:
    _, granted = await asked(world)

    async def one(number: int) -> str:
        by = f"person {number}"
        try:
            await decide(world, granted.run_id, approve=number % 2 == 0, by=by)
        except InvalidInput as error:
            return str(error)
        return by

    words = await asyncio.gather(*map(one, range(6)))
    (winner,) = [each for each in words if each.startswith("person")]
    assert all(winner in each for each in words)  # the others learn who has decided
    (approval,) = await found(world)
    assert approval.decided_by == winner


async def test_after_the_deadline_nobody_decides_and_the_call_is_refused(world: World) -> None:
    _, granted = await asked(world)
    world.passes(hours=1)
    with pytest.raises(InvalidInput, match="no person decided in time"):
        await decide(world, granted.run_id)
    (approval,) = await found(world)
    assert approval.status == "open"  # the run records it when it goes on

    await world.runs.running(await world.runs.row())
    (approval,) = await found(world)
    assert (approval.status, approval.decided_by) == ("expired", "")
    assert "no person decided" in approvals.refusal(approval)


async def test_two_approvals_of_a_run_and_a_decision_about_the_one_that_was_seen(
    world: World,
) -> None:
    _, granted = await asked(world)
    await decide(world, granted.run_id, 1)
    again = await world.runs.running(await world.runs.row())
    await claims.wait_for_approval(world.ledger, again.run_id, again.fence, SECOND)
    with pytest.raises(InvalidInput, match=r"was approved by ann \(cli\)"):
        await decide(world, granted.run_id, 1, by="bob")  # an old page
    with pytest.raises(InvalidInput, match="3 is no approval"):
        await decide(world, granted.run_id, 3)
    await decide(world, granted.run_id, 2, approve=False, reason="too late")
    first, second = await found(world)
    assert (first.status, second.status) == ("approved", "rejected")
    assert "too late" in approvals.refusal(second)
    assert (await world.runs.row()).attempts == 1
    assert len(await sent(world)) == 2


async def test_what_waits_is_listed_until_it_is_decided(world: World) -> None:
    stored, granted = await asked(world)

    async def listed(owner: str | None = None) -> list[str]:
        async with world.ledger.read() as session:
            rows = await approvals.waiting(session, world.clock.now(), owner)
        return [row.run_id for row, _, _ in rows]

    assert await listed() == await listed(stored.row.owner) == [granted.run_id]
    assert await listed("agent:other") == []
    await decide(world, granted.run_id)
    assert await listed() == []


async def test_a_question_can_be_decided_after_prefect_refused_to_create_the_run(
    world: World,
) -> None:
    _, granted = await asked(world)
    row = await world.runs.row(granted.run_id)
    await prefect_ends.record_refusal(world.ledger, row, "422 parameters")
    assert prefect_ends.is_refused(await world.runs.row(granted.run_id))
    async with world.ledger.read() as session:
        assert len(await approvals.waiting(session, world.clock.now())) == 1

    await decide(world, granted.run_id)

    row = await world.runs.row(granted.run_id)
    assert (row.status, row.until) == ("waiting", world.clock.now())
    assert not prefect_ends.is_refused(row)


async def test_a_run_that_asked_nothing_has_nothing_to_decide(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    with pytest.raises(InvalidInput, match="has not asked for an approval: running"):
        await decide(world, granted.run_id)
    with pytest.raises(NotFound):
        await decide(world, "nothing")


@pytest.mark.parametrize("approve", [True, False])
async def test_a_decided_answer_needs_no_budget_and_no_limit(world: World, approve: bool) -> None:
    stored = await world.jobs.add(owner="agent:ann", every="1h", tokens_per_day=900)
    granted = await world.runs.running(stored)
    await world.runs.stepped(granted, Status.SUCCEEDED, tokens=900, usage={"input_tokens": 900})
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, ANSWERED)
    await decide(world, granted.run_id, approve=approve)
    row = await world.runs.row()
    lowered = AgentLimits.of({"min_interval": "2h"})

    again = await world.runs.claim(world.runs.claim_request(row, rules=lowered))

    assert isinstance(again, Granted) and again.is_answer_decided
    read = await claims.read_grant(world.ledger, again.run_id, again.fence)
    assert read.is_answer_decided


# --- everything else that can happen to a run that waits


async def test_cancelling_withdraws_the_question_and_closes_the_attempt(world: World) -> None:
    _, granted = await asked(world)
    assert (await claims.cancel(world.ledger, granted.run_id)).status == "cancelled"
    (approval,) = await found(world)
    (attempt,) = await world.runs.attempts()
    assert (approval.status, attempt.status) == ("withdrawn", "cancelled")
    with pytest.raises(InvalidInput, match="was withdrawn"):
        await decide(world, granted.run_id)
    assert (await world.runs.row()).status == "cancelled"


@pytest.mark.parametrize("end", ["cancelled", "removed", "unknown", "late"])
async def test_the_usage_of_an_answer_counts_once_however_its_run_ends(
    world: World, end: str
) -> None:
    stored, granted = await asked(world, ANSWERED)
    match end:
        case "cancelled":
            await claims.cancel(world.ledger, granted.run_id)
        case "removed":
            await world.jobs.archive(stored)
        case _:
            await decide(world, granted.run_id)
            again = await world.runs.running(await world.runs.row())
            await claims.holder_died(world.ledger, again.run_id, again.fence, "killed")
    if end == "late":
        await world.runs.finish(again, Status.SUCCEEDED, usage=(ANSWERED.outcome or {})["usage"])
    row = await world.runs.row()
    assert row.usage == {"input_tokens": 70, "cost_usd": 0.5}
    (attempt,) = await world.runs.attempts()
    assert (attempt.status, attempt.tokens, attempt.usd) == (row.status, 70, 0.5)


@pytest.mark.parametrize("overlap", ["skip", "queue_one", "queue_all", "cancel_running", "allow"])
async def test_a_due_time_meets_a_run_that_waits_like_one_that_is_running(
    world: World, overlap: str
) -> None:
    question = replace(MAIL, within=timedelta(days=1))
    stored, granted = await asked(
        world, question, every="1h", overlap=overlap, session="new", prompt="x"
    )
    answer = await world.runs.claim(_next(world, stored))
    first = await world.runs.row(granted.run_id)
    match overlap:
        case "skip":
            assert isinstance(answer, Finished) and answer.status is Status.SKIPPED
            assert granted.run_id[:8] in answer.reason
        case "queue_one" | "queue_all":
            assert isinstance(answer, Waiting) and granted.run_id[:8] in answer.why
        case _:
            assert isinstance(answer, Granted)
    assert first.status == ("cancelled" if overlap == "cancel_running" else "waiting")


def _next(world: World, stored: StoredJob) -> Any:
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due)
    return claim_request


async def test_every_due_time_has_one_outcome_while_a_run_waits_for_hours(world: World) -> None:
    question = replace(MAIL, within=timedelta(hours=5))
    stored, granted = await asked(world, question, every="1h", overlap="skip", session="new")
    for _ in range(3):
        await world.runs.claim(_next(world, stored))
    await decide(world, granted.run_id)
    again = await world.runs.running(await world.runs.row(granted.run_id))
    await world.runs.finish(again, Status.SUCCEEDED)
    assert sorted(each.status for each in await world.runs.rows()) == [
        *("skipped", "skipped", "skipped", "succeeded"),
    ]


async def test_the_jobs_deadline_includes_the_wait(world: World) -> None:
    question = replace(MAIL, within=timedelta(days=1))
    await asked(world, question, deadline="2h")
    world.passes(hours=2)
    (ended,) = await leases.expire_all(world.ledger)
    assert (ended.status, ended.waits_for) == ("timed_out", "")
    (approval,) = await found(world)
    (attempt,) = await world.runs.attempts()
    assert (approval.status, attempt.status) == ("withdrawn", "timed_out")


async def test_a_retry_is_not_used_up_and_a_lost_attempt_is_judged_as_before(
    world: World,
) -> None:
    _, granted = await asked(world, on_lost="rerun", retries=1)
    await decide(world, granted.run_id)
    await world.runs.running(await world.runs.row())
    await world.runs.lose()
    (row,) = await leases.expire_all(world.ledger)
    assert row.status == "waiting"  # the rerun is left: the wait was no attempt
    (lost,) = await world.runs.attempts()
    assert lost.status == "unknown"
    world.passes(minutes=1)
    await world.runs.running(await world.runs.row())
    assert [each.number for each in await world.runs.attempts()] == [1, 2]


async def test_a_process_that_dies_between_the_decision_and_begin_loses_neither(
    world: World,
) -> None:
    _, granted = await asked(world)
    await decide(world, granted.run_id)
    await world.runs.claimed(await world.runs.row())
    await world.runs.lose()
    await leases.expire_all(world.ledger)
    row = await world.runs.row()
    assert row.status == "waiting"
    world.clock.move(TIMING.run_lease)
    await world.runs.running(row)
    (approval,) = await found(world)
    assert approval.status == "approved"
    assert [each.number for each in await world.runs.attempts()] == [1]


async def test_a_paused_job_skips_its_run_that_waits_when_it_is_decided(world: World) -> None:
    stored, granted = await asked(world, every="1h", session="new")
    await world.jobs.edit(stored.id, enabled=False)
    await decide(world, granted.run_id)
    row = await world.runs.row()
    answer = await world.runs.claim(replace(world.runs.claim_request(stored, due=row.due)))
    assert isinstance(answer, Finished) and answer.status is Status.SKIPPED
    (attempt,) = await world.runs.attempts()
    assert attempt.finished_at is not None


async def test_a_restored_ledger_withdraws_the_question(world: World) -> None:
    await asked(world)
    backup = world.clock.now()
    world.passes(minutes=1)
    async with world.ledger.write() as session:
        await uncertain.record(session, Restore(backup=backup, at=world.clock.now()))
    (approval,) = await found(world)
    assert ((await world.runs.row()).status, approval.status) == ("unknown", "withdrawn")


async def test_retention_removes_the_approvals_with_their_run(world: World) -> None:
    stored, granted = await asked(world)
    ended = await claims.cancel(world.ledger, granted.run_id)
    await world.runs.set_row(ended, unmirrored=False)
    world.passes(days=400)
    keep = retention.RetentionLimits(age=timedelta(days=30), runs=None)
    await retention.prune_runs(world.ledger, stored.id, keep)
    assert (await world.runs.rows(), await found(world)) == ([], [])


@pytest.mark.dialect
async def test_retention_removes_the_texts_of_questions_before_their_run(world: World) -> None:
    _, granted = await asked(world)
    keep = retention.RetentionLimits(None, None, texts=timedelta(days=30))
    world.passes(days=31)
    assert await retention.remove_texts(world.ledger, keep) == 0  # the question is still open
    await claims.cancel(world.ledger, granted.run_id)

    assert await retention.remove_texts(world.ledger, keep) == 1

    (approval,) = await found(world)
    assert (approval.input, approval.tool, approval.status) == ("", "mail_send", "withdrawn")
    assert await retention.remove_texts(world.ledger, keep) == 0


# --- who is asked


@pytest.mark.parametrize(
    ("owner", "fields", "expected"),
    [
        ("user", {}, ("alert", "inbox")),
        ("user", {"channel": "team", "chat_id": "7"}, ("message", "team")),
        ("user", {"channel": "team", "silent": True}, ("alert", "inbox")),
        ("agent:ann", {"channel": "team"}, ("alert", "inbox")),
    ],
)
async def test_the_question_goes_to_the_jobs_channel_and_else_to_the_operator(
    world: World, owner: str, fields: dict[str, Any], expected: tuple[str, str]
) -> None:
    stored = await world.jobs.add(owner=owner, on_demand=True, **fields)
    granted = await world.runs.running(await world.runs.request(stored))
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, MAIL)
    (message,) = await sent(world)
    assert (message.purpose, message.address) == expected
    assert message.event == "approval"
    assert f"daybook approve {granted.run_id[:12]}.1" in message.body
    assert "wants to call mail_send with" in message.body and 'to="ann"' in message.body


async def test_a_question_about_an_answer_does_not_send_the_answer_to_the_jobs_channel(
    world: World,
) -> None:
    await asked(world, ANSWERED, channel="team")
    (message,) = await sent(world)
    assert (message.purpose, message.address) == ("alert", "inbox")
    assert "Sell." in message.body


async def test_what_an_attempt_used_counts_while_it_waits(world: World) -> None:
    stored = await world.jobs.add(every="1h", tokens_per_day=900, overlap="allow")
    granted = await world.runs.running(stored)
    await world.runs.stepped(granted, Status.SUCCEEDED, tokens=900, usage={"input_tokens": 900})
    question = replace(MAIL, within=timedelta(hours=3))
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, question)
    other = await world.runs.claim(_next(world, stored))
    assert isinstance(other, Finished) and "900 of 900 tokens" in other.reason

    await claims.cancel(world.ledger, granted.run_id)
    row = await world.runs.row(granted.run_id)
    assert row.usage is not None and row.usage["input_tokens"] == 900
