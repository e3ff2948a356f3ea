"""Requests to answer a message in a session: stored once, with the session, before any process."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.errors import InvalidInput
from daybook.jobs.model import normal_parameters
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow, SessionRow
from daybook.runs import claim_requests, claims, outcomes, sessions, slots
from daybook.runs.claim_requests import ClaimRequest, Granted, Waiting
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]


async def ask(world: World, prompt: str, request_id: str, session_id: str = "") -> RunRow:
    parameters = normal_parameters("agent-prompt", {"prompt": prompt, "agent": "model/helper"})
    return await claims.request_answer(world.ledger, session_id, request_id, dict(parameters))


async def test_a_new_session_is_stored_with_its_first_request(world: World) -> None:
    row = await ask(world, "Which is urgent?\nAnd why?", "a")

    assert (row.job_id, row.trigger, row.state) == (None, "session", Status.WAITING)
    async with world.ledger.read() as session:
        stored = await session.get(SessionRow, row.session_id)
    assert stored is not None
    assert (stored.id, stored.agent) == (f"helper:run:{row.id}", "helper")
    assert stored.title == "Which is urgent?"


async def test_a_repeated_request_is_the_same_run_and_changes_nothing(world: World) -> None:
    first = await ask(world, "One?", "a")
    again = await ask(world, "Another?", "a", "helper:else")
    other = await ask(world, "Two?", "b", str(first.session_id))

    assert (again.id, again.parameters["prompt"]) == (first.id, "One?")
    assert (other.id != first.id, other.session_id) == (True, first.session_id)
    async with world.ledger.read() as session:
        assert await session.get(SessionRow, "helper:else") is None


async def test_an_id_that_is_too_long_for_a_key_stores_nothing(world: World) -> None:
    with pytest.raises(InvalidInput, match="has 201 characters"):
        await ask(world, "One?", "a" * 201)
    assert await world.runs.rows() == []


async def test_the_claim_keeps_the_session_and_the_turns(world: World) -> None:
    first = await ask(world, "One?", "a")
    world.clock.move(timedelta(seconds=1))
    second = await ask(world, "Two?", "b", str(first.session_id))

    def request(row: RunRow) -> ClaimRequest:
        return ClaimRequest(row.occurrence, row.kind, "manual", row.due, "here:1", row.parameters)

    granted = await claims.claim(world.ledger, request(first))
    waits = await claims.claim(world.ledger, request(second))
    assert isinstance(granted, Granted)
    assert granted.session_id == first.session_id
    assert getattr(waits, "why", "").endswith("holds it")


async def test_a_message_whose_process_died_is_answered_before_the_next(world: World) -> None:
    first = await ask(world, "One?", "a")
    world.clock.move(timedelta(seconds=1))
    second = await ask(world, "Two?", "b", str(first.session_id))

    def request(row: RunRow) -> ClaimRequest:
        return ClaimRequest(row.occurrence, row.kind, "manual", row.due, "here:1", row.parameters)

    world.clock.move(timedelta(minutes=3))  # no process claims the first one
    waits = await claims.claim(world.ledger, request(second))
    assert getattr(waits, "why", "").endswith(f"run {first.id[:8]} goes first")
    assert isinstance(await claims.claim(world.ledger, request(first)), Granted)


async def test_a_message_in_a_long_queue_for_a_slot_is_answered_before_the_next(
    world: World,
) -> None:
    await world.runs.running(message(await ask(world, "Another session?", "a")))
    first = await ask(world, "One?", "1")
    world.clock.move(timedelta(seconds=1))
    second = await ask(world, "Two?", "2", str(first.session_id))
    assert isinstance(await claims.claim(world.ledger, replace(message(first), most=1)), Waiting)
    until = world.ledger.now() + slots.MAX_RETRY_INTERVAL  # it is far behind in the queue
    await world.runs.set_row(first, until=until)

    waits = await claims.claim(world.ledger, replace(message(second), worker=""))
    assert getattr(waits, "why", "").endswith(f"run {first.id[:8]} goes first")


async def test_many_messages_claim_seldom_and_in_their_order(world: World) -> None:
    first = await ask(world, "Zero?", "0")
    others = list[RunRow]()
    for number in range(1, 61):
        world.clock.move(timedelta(milliseconds=1))
        others.append(await ask(world, f"{number}?", str(number), str(first.session_id)))
    for row in [*others[:2], others[-1]]:
        number, seconds = int(row.parameters["prompt"].rstrip("?")), []
        for request in message(row), replace(message(row), worker=""):
            waits = await claims.claim(world.ledger, request)
            assert isinstance(waits, Waiting)
            assert waits.why.endswith(f"run {first.id[:8]} goes first")
            seconds.append((waits.until - world.ledger.now()).total_seconds())
            await world.runs.set_row(row, until=world.ledger.now())
        assert seconds == [min(15 * (number + 1), 120), min(2 * (number + 1), 10)]


def message(row: RunRow) -> ClaimRequest:
    """Return the claim of a worker for a message."""
    return ClaimRequest(
        *(row.occurrence, row.kind, "manual", row.due, "here:1", row.parameters),
        flow_run_id=row.id,
        worker="here",
    )


async def three_messages(world: World) -> tuple[Granted, RunRow, RunRow]:
    """Return three messages of a session, of which the first is being answered."""
    first = await ask(world, "One?", "1")
    others = []
    for number in (2, 3):
        world.clock.move(timedelta(seconds=1))
        others.append(await ask(world, f"{number}?", str(number), str(first.session_id)))
    held = await world.runs.running(message(first))
    for row in others:
        assert isinstance(await claims.claim(world.ledger, message(row)), Waiting)
    return held, others[0], others[1]


async def reasons(world: World, *rows: RunRow) -> list[str]:
    return [(await world.runs.row(each.id)).waits_for for each in rows]


async def test_the_end_of_an_answer_lets_only_the_next_message_claim_at_once(world: World) -> None:
    held, second, third = await three_messages(world)
    assert await reasons(world, second, third) == ["session", "session"]

    await world.runs.finish(held, Status.FAILED, error="no")

    assert await reasons(world, second, third) == ["slot", "session"]
    assert (await world.runs.row(second.id)).until == world.ledger.now()
    assert isinstance(await claims.claim(world.ledger, message(third)), Waiting)
    assert isinstance(await claims.claim(world.ledger, message(second)), Granted)


async def test_a_message_that_waits_for_its_second_attempt_lets_the_next_one_go(
    world: World,
) -> None:
    held, second, third = await three_messages(world)
    outcome = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, held.run_id, held.fence, outcome, world.at(minutes=5))

    assert await reasons(world, second, third) == ["slot", "session"]
    assert isinstance(await claims.claim(world.ledger, message(second)), Granted)


async def test_a_message_that_is_cancelled_in_its_turn_lets_the_next_one_go(world: World) -> None:
    held, second, third = await three_messages(world)
    await world.runs.finish(held, Status.FAILED, error="no")
    await claims.cancel(world.ledger, second.id)

    assert await reasons(world, third) == ["slot"]


async def test_a_message_that_is_cancelled_while_another_is_answered_lets_none_go(
    world: World,
) -> None:
    _, second, third = await three_messages(world)
    await claims.cancel(world.ledger, second.id)

    assert await reasons(world, third) == ["session"]


async def test_only_a_message_that_waits_for_its_session_is_let_go(world: World) -> None:
    held, second, third = await three_messages(world)
    until = world.at(minutes=30)
    await world.runs.set_row(second, waits_for="", until=until, reason="no budget is left")
    await world.runs.finish(held, Status.FAILED, error="no")

    assert await reasons(world, second, third) == ["", "slot"]
    assert (await world.runs.row(second.id)).until == until


def sent(world: World, session_id: str, name: str) -> ClaimRequest:
    """Return the claim of a process that sends a message, such as `daybook session send`."""
    key, due = claim_requests.flow_key(name), world.ledger.now()
    return ClaimRequest(key, "agent-prompt", "session", due, "there:1", session_id=session_id)


async def test_a_message_that_waits_in_a_process_of_its_own_claims_often(world: World) -> None:
    held, *_ = await three_messages(world)
    session_id = str((await world.runs.row(held.run_id)).session_id)
    earlier = replace(sent(world, session_id, "own"), due=world.at(minutes=-1))
    answer = await claims.claim(world.ledger, earlier)
    assert isinstance(answer, Waiting)
    assert answer.until == world.ledger.now() + sessions.RETRY_INTERVAL
    await world.runs.finish(held, Status.FAILED, error="no")

    assert await reasons(world, await world.runs.row(str(answer.run_id))) == ["session"]


async def test_a_message_whose_own_process_died_delays_the_others_only_for_seconds(
    world: World,
) -> None:
    held, second, _ = await three_messages(world)
    session_id = str((await world.runs.row(held.run_id)).session_id)
    earlier = replace(sent(world, session_id, "killed"), due=world.at(minutes=-1))
    assert isinstance(await claims.claim(world.ledger, earlier), Waiting)
    await world.runs.finish(held, Status.FAILED, error="no")
    waits = await claims.claim(world.ledger, message(second))
    assert isinstance(waits, Waiting)
    assert waits.until - world.ledger.now() == 2 * sessions.RETRY_INTERVAL

    world.clock.move(sessions.RETRY_INTERVAL + sessions.WAITER_GRACE + timedelta(seconds=1))
    assert isinstance(await claims.claim(world.ledger, message(second)), Granted)


async def test_the_end_of_a_run_lets_no_message_of_another_session_go(world: World) -> None:
    held, second, _ = await three_messages(world)
    other = await world.runs.running(message(await ask(world, "Else?", "else")))
    await world.runs.finish(other, Status.FAILED, error="no")
    assert await reasons(world, second) == ["session"]

    await world.runs.finish(held, Status.FAILED, error="no")
    assert await reasons(world, second) == ["slot"]


async def test_a_lost_holder_lets_the_next_message_go(world: World) -> None:
    held, second, third = await three_messages(world)
    died = "its process was killed"
    assert await claims.holder_died(world.ledger, held.run_id, held.fence, died) is Status.UNKNOWN

    assert await reasons(world, second, third) == ["slot", "session"]


async def test_the_end_of_a_job_in_the_session_lets_the_next_message_go(world: World) -> None:
    first = await ask(world, "One?", "1")
    held = await world.runs.running(message(first))
    job = await world.jobs.add(every="1h", session_key="shared")
    await world.runs.set_row(first, session_id="default:shared")
    second = await ask(world, "Two?", "2", "default:shared")
    assert isinstance(await claims.claim(world.ledger, message(second)), Waiting)
    await world.runs.finish(held, Status.FAILED, error="no")
    await world.runs.set_row(second, waits_for="session", until=world.at(minutes=1))

    await world.runs.finish(await world.runs.running(job), Status.FAILED, error="no")

    assert await reasons(world, second) == ["slot"]


async def test_a_message_behind_a_job_claims_often_because_a_job_may_give_up_its_turn(
    world: World,
) -> None:
    held, second, _ = await three_messages(world)
    session_id = str((await world.runs.row(held.run_id)).session_id)
    await world.runs.set_row(await world.runs.row(held.run_id), trigger="schedule")
    await world.runs.finish(held, Status.FAILED, error="no")
    job = await world.jobs.add(every="1h", session_key="ops")
    ahead = await world.runs.request(job, world.ledger.now(), session_id=session_id)
    await world.runs.set_row(ahead, due=world.at(minutes=-5), waits_for="session")

    waits = await claims.claim(world.ledger, message(second))

    assert isinstance(waits, Waiting)
    assert waits.why.endswith(f"run {ahead.id[:8]} goes first")
    assert waits.until - world.ledger.now() == 2 * sessions.RETRY_INTERVAL


async def test_a_message_without_an_answer_does_not_stop_the_next_for_ever(world: World) -> None:
    first = await ask(world, "One?", "a")
    second = await ask(world, "Two?", "b", str(first.session_id))
    world.clock.move(sessions.MESSAGE_GRACE + timedelta(seconds=1))
    later = ClaimRequest(
        second.occurrence, second.kind, "manual", second.due, "here:1", second.parameters
    )
    assert isinstance(await claims.claim(world.ledger, later), Granted)


async def test_a_prompt_without_an_answer_is_shown_until_a_later_message(world: World) -> None:
    row = await ask(world, "One?", "a")
    await claims.cancel(world.ledger, row.id)
    world.clock.move(timedelta(seconds=1))
    live = await ask(world, "Two?", "b", str(row.session_id))

    async with world.ledger.read() as session:
        found = await sessions.without_answer(session, str(row.session_id), None, 10)
        later = await sessions.without_answer(session, str(row.session_id), live.queued_at, 10)
        newest = await sessions.without_answer(session, str(row.session_id), None, 1)
    assert [each.id for each in found] == [row.id, live.id]
    assert [each.id for each in later] == [live.id]
    assert [each.id for each in newest] == [live.id]


async def test_a_message_that_failed_after_a_later_answer_of_another_is_shown(world: World) -> None:
    first = await ask(world, "One?", "a")
    second = await ask(world, "Two?", "b", str(first.session_id))
    skipped = await ask(world, "Three?", "c", str(first.session_id))
    world.clock.move(timedelta(seconds=1))
    answered_at = world.ledger.now()
    world.clock.move(timedelta(seconds=1))
    await claims.cancel(world.ledger, second.id)
    async with world.ledger.write() as session:
        row = await session.get_one(RunRow, skipped.id)
        await outcomes.record(
            session, row, Outcome(Status.SKIPPED, "no budget"), world.ledger.now()
        )
        row = await session.get_one(RunRow, first.id)
        row.status, row.finished_at = Status.SUCCEEDED, answered_at
    async with world.ledger.read() as session:
        found = await sessions.without_answer(session, str(first.session_id), answered_at, 10)
    assert {each.id for each in found} == {second.id, skipped.id}


async def test_a_retry_in_prefect_answers_in_the_same_session(world: World) -> None:
    row = await ask(world, "One?", "a", "helper:team")
    await claims.link_prefect_run(world.ledger, row, "f1")

    def request(starts: int, retries: tuple[int, ...] = ()) -> ClaimRequest:
        return ClaimRequest(
            *(row.occurrence, row.kind, "manual", row.due, "here:1", row.parameters),
            flow_run_id="f1",
            flow_starts=starts,
            retries=retries,
        )

    granted = await claims.claim(world.ledger, request(1))
    assert isinstance(granted, Granted)
    await claims.begin(world.ledger, granted.run_id, granted.fence)
    failed = Outcome(Status.FAILED, error="away")
    await claims.finish(world.ledger, granted.run_id, granted.fence, failed)
    again = await claims.claim(world.ledger, request(2, (1,)))
    assert isinstance(again, Granted)
    assert (again.run_id != row.id, again.session_id) == (True, "helper:team")
