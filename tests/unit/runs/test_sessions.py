"""Sessions: one run at a time in each, their messages, and the source of each message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.errors import Ambiguous, FenceRefused, NotFound
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger import triggers
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import MessageRow
from daybook.runs import claim_requests, claims, sessions
from daybook.runs.claim_requests import ClaimRequest, ClaimResult, Finished, Granted, Waiting
from daybook.runs.sessions import RETRY_INTERVAL
from tests.world import World

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)


def direct(world: World, name: str, **parameters: Any) -> ClaimRequest:
    """Return the claim request of a run without a job."""
    given = {"prompt": f"{name}?", "agent": "default", "session": "reuse", **parameters}
    return ClaimRequest(
        claim_requests.flow_key(name),
        "agent-prompt",
        "direct",
        world.clock.now(),
        "here:1",
        given,
        flow_run_id=name,
    )


async def messages_of(world: World, session_id: str, limit: int = 100) -> Sequence[MessageRow]:
    async with world.ledger.read() as session:
        return await sessions.history(session, session_id, limit)


async def answered_turn(
    world: World, claim_request: ClaimRequest, answer: str = "Nothing."
) -> Granted:
    """Run the request until it has succeeded; return its grant."""
    granted = await world.runs.running(claim_request)
    prompt = str(granted.parameters["prompt"])
    await world.runs.finish(granted, Status.SUCCEEDED, output=answer, prompt=prompt)
    return granted


def waits(answer: ClaimResult) -> Waiting:
    assert isinstance(answer, Waiting), answer
    return answer


# --- session ids


@pytest.mark.floor("A", "A session id has the agent id as its prefix")
@pytest.mark.parametrize(
    ("parameters", "job_id", "expected"),
    [
        ({"agent": "a", "session": "reuse"}, "j", "a:job:j"),
        ({"agent": "a"}, "j", "a:job:j"),
        ({}, "j", "default:job:j"),
        ({"agent": "a", "session": "reuse", "session_key": ""}, "j", "a:job:j"),
        ({"agent": "a", "session": "reuse", "session_key": "ops: x"}, "j", "a:ops: x"),
        ({"agent": "b", "session_key": "ops: x"}, None, "b:ops: x"),
        ({"agent": "daybook-model-agent/a"}, "j", "a:job:j"),
        ({"agent": "daybook-model-agent/a", "session_key": "x/y"}, "j", "a:x/y"),
        ({"agent": "a", "session": "new"}, "j", "a:run:r"),
        ({"agent": "a", "session": "new"}, None, "a:run:r"),
        ({"agent": "a", "session": "reuse"}, None, "a:run:r"),
    ],
)
def test_the_session_id_of_a_run_depends_on_its_agent_mode_and_key(
    parameters: dict[str, object], job_id: str | None, expected: str
) -> None:
    assert sessions.session_id_of(parameters, job_id=job_id, run_id="r") == expected


@pytest.mark.floor("A", "reuse: one stable session id for all runs of a job")
async def test_a_jobs_session_is_the_same_for_all_its_runs(world: World) -> None:
    stored = await world.jobs.add(every="1h", agent="scribe")
    first = await answered_turn(world, world.runs.claim_request(stored))
    row = await claims.request(world.ledger, stored, "by hand", "manual")
    by_hand = await answered_turn(world, world.runs.claim_request(row))
    await world.jobs.edit(stored.id, name="renamed", prompt="Another?")
    custom = replace(direct(world, "custom", agent="scribe"), job_id=stored.id)
    in_ui = await answered_turn(world, custom)

    ids = {each.session_id for each in (first, by_hand, in_ui)}
    assert ids == {f"scribe:job:{stored.id}"}
    assert {(await world.runs.row(each.run_id)).session_id for each in (first, by_hand)} == ids


async def test_changing_the_agent_of_a_job_starts_another_session(world: World) -> None:
    stored = await world.jobs.add(every="1h", agent="scribe")
    await answered_turn(world, world.runs.claim_request(stored))
    stored = await world.jobs.edit(stored.id, agent="poet")

    granted = await world.runs.claimed(stored)

    assert granted.session_id == f"poet:job:{stored.id}"
    assert granted.history == ()


@pytest.mark.floor("A", "Session mode new: a fresh session for each run")
@pytest.mark.floor("C", "Each run has a session of its own")
async def test_session_new_gives_each_run_and_each_retry_its_own_session(world: World) -> None:
    stored = await world.jobs.add(every="1h", session="new")
    first = await answered_turn(world, world.runs.claim_request(stored, flow_run_id="f"))
    retried = world.runs.claim_request(
        stored, due=first.due, flow_run_id="f", flow_starts=2, retries=(1,)
    )
    again = await answered_turn(world, retried)
    second = await answered_turn(world, world.runs.claim_request(stored))

    assert [each.session_id for each in (first, again, second)] == [
        f"default:run:{each.run_id}" for each in (first, again, second)
    ]
    assert first.run_id != again.run_id
    assert all(each.history == () for each in (first, again, second))


# --- messages


@pytest.mark.floor("E", "A message has kind, channel, session, user, job name and job id")
async def test_prompt_and_answer_are_stored_in_full_with_their_source(world: World) -> None:
    stored = await world.jobs.add("brief", every="1h", agent="scribe")
    long = "é" * 9_000
    granted = await answered_turn(world, world.runs.claim_request(stored), long)

    prompt, answer = await messages_of(world, granted.session_id)

    assert [(each.number, each.role) for each in (prompt, answer)] == [
        (1, "user"),
        (2, "assistant"),
    ]
    assert prompt.content == "What is new?"
    assert answer.content == long
    assert len(str((await world.runs.row(granted.run_id)).output)) < len(long)
    assert (answer.run_id, answer.at) == (granted.run_id, world.clock.now())
    assert prompt.source == answer.source
    assert prompt.source == {
        "kind": "agent-prompt",
        "channel": None,
        "session": f"scribe:job:{stored.id}",
        "user": None,
        "job": "brief",
        "job_id": stored.id,
        "due": "2026-01-15T13:00:00Z",
        "trigger": "schedule",
    }


@pytest.mark.floor("E", "A message names the user of its job")
async def test_the_source_of_a_message_names_the_user_of_the_job(world: World) -> None:
    job = new_job(now=world.clock.now(), name="brief", prompt="What is new?", every="1h")
    async with world.ledger.write() as session:
        stored = await store.add(session, job, "brief", world.clock.now(), user_id="u-17")
    granted = await answered_turn(world, world.runs.claim_request(stored))
    assert [each.source["user"] for each in await messages_of(world, granted.session_id)] == [
        "u-17"
    ] * 2


async def test_the_next_run_receives_the_history_oldest_first(world: World) -> None:
    stored = await world.jobs.add(every="1h")
    await answered_turn(world, world.runs.claim_request(stored), "one")
    await answered_turn(world, world.runs.claim_request(stored), "two")

    granted = await world.runs.claimed(stored)

    given = [(each.role, each.content) for each in granted.history]
    assert given == [
        ("user", "What is new?"),
        ("assistant", "one"),
        ("user", "What is new?"),
        ("assistant", "two"),
    ]


@pytest.mark.slow
async def test_a_run_receives_the_last_twenty_messages_of_a_long_session(world: World) -> None:
    stored = await world.jobs.add(every="1h")
    for number in range(1, 50):
        await answered_turn(world, world.runs.claim_request(stored), f"answer {number}")

    granted = await world.runs.claimed(stored)

    assert [each.number for each in granted.history] == list(range(79, 99))
    assert granted.history[-1].content == "answer 49"
    assert len(await messages_of(world, granted.session_id)) == 98


@pytest.mark.parametrize(
    "status", [Status.FAILED, Status.TIMED_OUT, Status.CANCELLED, Status.UNKNOWN]
)
async def test_a_run_that_did_not_succeed_adds_no_messages(world: World, status: Status) -> None:
    granted = await world.runs.running(await world.jobs.add())
    await world.runs.finish(granted, status, output="half an answer", prompt="What is new?")

    assert await messages_of(world, granted.session_id) == ()
    async with world.ledger.read() as session:
        assert await sessions.recent(session, 10) == []


async def test_an_outcome_that_is_recorded_twice_adds_its_messages_once(world: World) -> None:
    granted = await answered_turn(world, world.runs.claim_request(await world.jobs.add()), "one")
    await world.runs.finish(granted, Status.SUCCEEDED, output="one", prompt="What is new?")

    assert len(await messages_of(world, granted.session_id)) == 2


async def test_a_late_answer_is_appended_after_the_messages_of_other_runs(world: World) -> None:
    stored = await world.jobs.add(every="1h")
    slow = await world.runs.running(stored)
    await world.runs.finish(slow, Status.UNKNOWN)
    quick = await answered_turn(world, world.runs.claim_request(stored), "quick")

    await world.runs.finish(slow, Status.SUCCEEDED, output="slow", prompt="What is new?")

    messages = await messages_of(world, quick.session_id)
    assert [each.run_id for each in messages] == [quick.run_id] * 2 + [slow.run_id] * 2
    assert messages[-1].content == "slow"


async def test_a_run_that_lost_its_claim_adds_no_messages(world: World) -> None:
    granted = await world.runs.claimed(await world.jobs.add())
    await claims.postpone(world.ledger, granted.run_id, granted.fence, world.clock.now(), "later")

    with pytest.raises(FenceRefused):
        await world.runs.finish(granted, Status.SUCCEEDED, output="late", prompt="What is new?")

    assert await messages_of(world, granted.session_id) == ()


async def test_the_last_output_is_read_only_if_the_prompt_names_it(world: World) -> None:
    stored = await world.jobs.add(every="1h", prompt="Before it was: {{ last_output }}")
    assert (await answered_turn(world, world.runs.claim_request(stored), "one")).last_output == ""
    failed = await world.runs.running(stored)
    assert failed.last_output == "one"
    await world.runs.finish(failed, Status.FAILED, output="no")
    assert (
        await answered_turn(world, world.runs.claim_request(stored), "two")
    ).last_output == "one"
    assert (
        await answered_turn(world, world.runs.claim_request(stored), "three")
    ).last_output == "two"
    await world.jobs.edit(stored.id, prompt="It goes alone")
    assert (
        await answered_turn(world, world.runs.claim_request(await world.jobs.get(stored.id)))
    ).last_output == ""


async def test_a_run_of_a_person_continues_the_given_session_whatever_its_parameters_say(
    world: World,
) -> None:
    stored = await world.jobs.add(every="1h")
    first = await answered_turn(world, world.runs.claim_request(stored), "one")
    trigger = triggers.SESSION.name
    request = replace(direct(world, "person"), trigger=trigger, session_id=first.session_id)
    held = await world.runs.running(stored)

    busy = waits(await world.runs.claim(request))
    assert busy.why.endswith(f"run {held.run_id[:8]} holds it")
    await world.runs.finish(held, Status.FAILED)
    world.clock.set(busy.until)
    # The process that claims again after an attempt knows the session from the row alone.
    granted = await answered_turn(world, replace(request, session_id=""), "two")

    assert granted.session_id == first.session_id
    assert [each.content for each in granted.history] == ["What is new?", "one"]
    sources = [each.source for each in await messages_of(world, first.session_id)]
    assert [each["trigger"] for each in sources] == ["schedule", "schedule", "session", "session"]
    assert (await found_title(world, first.session_id)) == "What is new?"


async def found_title(world: World, session_id: str) -> str:
    async with world.ledger.read() as session:
        return (await sessions.find(session, session_id)).row.title


# --- the lock


async def test_the_second_of_two_jobs_that_share_a_session_waits(world: World) -> None:
    one = await world.jobs.add("one", every="1h", session_key="ops")
    two = await world.jobs.add("two", every="1h", session_key="ops", prompt="And you?")
    first = await world.runs.running(one)
    claim_request = world.runs.claim_request(two, due=first.due)

    answer = waits(await world.runs.claim(claim_request))

    why = f"session default:ops is busy: run {first.run_id[:8]} holds it"
    assert answer == Waiting(world.clock.now() + RETRY_INTERVAL, why, answer.run_id)
    row = await world.runs.row(str(answer.run_id))
    assert (row.status, row.until, row.reason) == ("waiting", answer.until, why)
    assert (row.occurrence, row.job_id, row.revision) == (claim_request.occurrence, two.id, 1)
    assert (row.parameters, row.session_id) == (two.job.parameters(), "default:ops")
    assert (row.flow_run_id, row.fence, row.attempts) == (claim_request.flow_run_id, 0, 0)

    await world.runs.finish(first, Status.SUCCEEDED, output="Fine.", prompt="How are you?")
    assert await world.runs.claim(claim_request) == answer  # not before the time that it waits for
    world.clock.set(answer.until)
    second = await world.runs.claim(claim_request)

    assert isinstance(second, Granted)
    assert second.run_id == answer.run_id
    assert [each.content for each in second.history] == ["How are you?", "Fine."]
    row = await world.runs.row(second.run_id)
    assert (row.status, row.until, row.reason, row.fence) == ("claimed", None, "", 1)


async def test_a_run_that_waits_for_its_session_keeps_its_parameters_and_is_never_late(
    world: World,
) -> None:
    one = await world.jobs.add("one", every="1h", session_key="ops")
    two = await world.jobs.add("two", every="1h", session_key="ops", prompt="As it was")
    first = await world.runs.running(one)
    claim_request = world.runs.claim_request(two, due=first.due)
    answer = waits(await world.runs.claim(claim_request))
    world.clock.move(SECOND)
    await world.jobs.edit(two.id, prompt="As it is now")
    await world.runs.finish(first, Status.SUCCEEDED)
    world.clock.move(timedelta(days=2))

    second = await world.runs.claim(claim_request)

    assert isinstance(second, Granted)
    assert (second.run_id, second.parameters["prompt"]) == (answer.run_id, "As it was")
    assert second.job is not None
    assert second.job.revision.number == 1


async def test_a_custom_run_in_the_second_of_its_jobs_creation_keeps_its_job(world: World) -> None:
    holder = await world.runs.running(direct(world, "holder", session_key="ops"))
    stored = await world.jobs.add(on_demand=True, session_key="ops")
    floored = world.clock.now().replace(microsecond=0)  # as Prefect's times are
    claim_request = direct(world, "custom", session_key="ops")
    claim_request = replace(claim_request, job_id=stored.id, due=floored)
    answer = waits(await world.runs.claim(claim_request))
    await world.runs.finish(holder, Status.SUCCEEDED)
    world.clock.set(answer.until)

    granted = await world.runs.claim(claim_request)

    assert isinstance(granted, Granted)
    assert granted.job is not None
    assert granted.job.id == stored.id


async def test_of_two_waiting_runs_the_one_due_earlier_gets_the_session_first(world: World) -> None:
    holder = await world.runs.running(direct(world, "holder", session_key="ops"))
    world.clock.move(SECOND)
    early = direct(world, "early", session_key="ops")
    world.clock.move(SECOND)
    late = direct(world, "late", session_key="ops")
    waits(await world.runs.claim(late))
    first = waits(await world.runs.claim(early))
    await world.runs.finish(holder, Status.SUCCEEDED)
    world.clock.move(RETRY_INTERVAL)

    behind = waits(await world.runs.claim(late))
    assert behind.why == f"session default:ops is busy: run {str(first.run_id)[:8]} goes first"
    granted = await world.runs.running(early)
    assert granted.run_id == first.run_id
    await world.runs.finish(granted, Status.SUCCEEDED)
    world.clock.set(behind.until)
    assert isinstance(await world.runs.claim(late), Granted)


async def test_a_new_run_waits_for_runs_of_its_session_that_were_due_earlier(world: World) -> None:
    holder = await world.runs.running(direct(world, "holder", session_key="ops"))
    early = direct(world, "early", session_key="ops")
    waits(await world.runs.claim(early))
    await world.runs.finish(holder, Status.SUCCEEDED)
    world.clock.move(SECOND)

    assert waits(await world.runs.claim(direct(world, "late", session_key="ops"))).why.endswith(
        "first"
    )


async def test_an_abandoned_waiting_run_does_not_block_its_session_for_long(world: World) -> None:
    holder = await world.runs.running(direct(world, "holder", session_key="ops"))
    abandoned = waits(await world.runs.claim(direct(world, "gone", session_key="ops")))
    await world.runs.finish(holder, Status.SUCCEEDED)
    world.clock.set(abandoned.until + sessions.WAITER_GRACE)
    late = direct(world, "late", session_key="ops")

    waits(await world.runs.claim(late))
    world.clock.move(RETRY_INTERVAL)

    assert isinstance(await world.runs.claim(late), Granted)
    assert (await world.runs.row(str(abandoned.run_id))).status == "waiting"  # it is not lost


async def test_a_run_in_a_backoff_does_not_block_its_session(world: World) -> None:
    first = await world.runs.running(direct(world, "first", session_key="ops"))
    until = world.clock.now() + timedelta(minutes=5)
    outcome = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, first.run_id, first.fence, outcome, until)
    world.clock.move(SECOND)

    second = await answered_turn(world, direct(world, "second", session_key="ops"), "Done.")
    world.clock.set(until)
    again = await world.runs.claim(replace(direct(world, "first"), due=first.due))

    assert isinstance(again, Granted)
    assert (again.run_id, again.session_id) == (first.run_id, second.session_id)
    assert again.history == ()  # as in its first attempt, so that recorded steps still fit
    await claims.begin(world.ledger, again.run_id, again.fence)
    await world.runs.finish(again, Status.SUCCEEDED, output="Yes.", prompt="first?")
    world.clock.move(SECOND)
    third = await world.runs.claimed(direct(world, "third", session_key="ops"))
    assert [each.content for each in third.history] == ["second?", "Done.", "first?", "Yes."]


async def test_a_run_of_the_same_job_is_skipped_instead_of_waiting_for_the_session(
    world: World,
) -> None:
    stored = await world.jobs.add(every="1h")
    await world.runs.running(stored)
    row = await claims.request(world.ledger, stored, "by hand", "manual")

    answer = await world.runs.claim(row)

    assert isinstance(answer, Finished)
    assert answer.status is Status.SKIPPED
    assert answer.reason.startswith("overlap: ")


async def test_two_agents_do_not_share_a_session_of_the_same_key(world: World) -> None:
    await world.runs.running(direct(world, "one", session_key="ops", agent="a"))

    assert isinstance(
        await world.runs.claim(direct(world, "two", session_key="ops", agent="b")), Granted
    )
    assert isinstance(await world.runs.claim(direct(world, "three", agent="a")), Granted)


async def test_a_run_of_a_job_disabled_while_it_waits_for_its_session_is_skipped(
    world: World,
) -> None:
    one = await world.jobs.add("one", every="1h", session_key="ops")
    two = await world.jobs.add("two", every="1h", session_key="ops")
    first = await world.runs.running(one)
    claim_request = world.runs.claim_request(two, due=first.due)
    answer = waits(await world.runs.claim(claim_request))
    await world.jobs.edit(two.id, enabled=False)
    world.clock.set(answer.until)

    assert await world.runs.claim(claim_request) == Finished(
        Status.SKIPPED, "the job is disabled", answer.run_id, claim_request.flow_run_id
    )


# --- listing and finding sessions


async def listed(world: World, limit: int = 10) -> list[tuple[str, str | None, int]]:
    async with world.ledger.read() as session:
        found = await sessions.recent(session, limit)
    return [(each.row.id, each.job, each.messages) for each in found]


async def found(world: World, ref: str) -> str:
    async with world.ledger.read() as session:
        return (await sessions.find(session, ref)).row.id


async def test_sessions_are_listed_last_used_first(world: World) -> None:
    own = await world.jobs.add("own", every="1h")
    shared = await world.jobs.add("shared", every="1h", session_key="ops")
    await answered_turn(world, world.runs.claim_request(own))
    await answered_turn(world, world.runs.claim_request(shared))
    await answered_turn(world, world.runs.claim_request(own))

    assert await listed(world) == [(f"default:job:{own.id}", "own", 4), ("default:ops", None, 2)]
    assert len(await listed(world, 1)) == 1


async def test_a_session_is_found_by_its_key_if_only_one_agent_uses_it(world: World) -> None:
    for name, agent in (("one", "oa"), ("two", "oa"), ("three", "an")):
        key = "cat" if name == "one" else "dog"
        stored = await world.jobs.add(name, every="1h", agent=agent, session_key=key)
        await answered_turn(world, world.runs.claim_request(stored))

    assert await found(world, "cat") == "oa:cat"
    with pytest.raises(Ambiguous, match="an:dog") as ambiguous:
        await found(world, "dog")
    assert "oa:dog" in str(ambiguous.value)
    for ref in ("at", "oa:ca%", "c_t", ""):
        with pytest.raises(NotFound):
            await found(world, ref)


async def test_a_session_is_found_by_its_id_a_prefix_or_its_job(world: World) -> None:
    own = await world.jobs.add("own", every="1h")
    shared = await world.jobs.add("shared", every="1h", session_key="ops")
    fresh = await world.jobs.add("fresh", every="1h", session="new", agent="poet")
    unused = await world.jobs.add("unused", every="1h")
    for each in (own, shared, fresh):
        await answered_turn(world, world.runs.claim_request(each))
    last = await answered_turn(world, world.runs.claim_request(fresh))
    id_of_own = f"default:job:{own.id}"

    assert await found(world, id_of_own) == id_of_own
    assert await found(world, id_of_own[:20]) == id_of_own
    assert await found(world, "own") == id_of_own
    assert await found(world, own.id[:12]) == id_of_own
    assert await found(world, "shared") == await found(world, "default:op") == "default:ops"
    assert await found(world, "fresh") == last.session_id
    for ref, sentence in [
        ("unused", 'session of "unused" not found'),
        ("default:x", 'session "default:x" not found'),
        (unused.id, f'session "{unused.id}" not found'),
        ("", 'session "" not found'),
        ("%", 'session "%" not found'),
    ]:
        with pytest.raises(NotFound) as missing:
            await found(world, ref)
        assert str(missing.value) == sentence
    with pytest.raises(Ambiguous, match="default:ops"):
        await found(world, "default")
