"""Requests to answer a message in a session: stored once, with the session, before any process."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.errors import InvalidInput
from daybook.jobs.model import normal_parameters
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow, SessionRow
from daybook.runs import claims, outcomes, sessions
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


async def test_many_messages_claim_seldom_and_in_their_order(world: World) -> None:
    first = await ask(world, "Zero?", "0")
    others = list[RunRow]()
    for number in range(1, 61):
        world.clock.move(timedelta(milliseconds=1))
        others.append(await ask(world, f"{number}?", str(number), str(first.session_id)))
    for row in [*others[:2], others[-1]]:
        request = ClaimRequest(
            row.occurrence, row.kind, "manual", row.due, "here:1", row.parameters
        )
        waits = await claims.claim(world.ledger, request)
        assert isinstance(waits, Waiting)
        assert waits.why.endswith(f"run {first.id[:8]} goes first")
        number = int(row.parameters["prompt"].rstrip("?"))
        seconds = (waits.until - world.ledger.now()).total_seconds()
        assert seconds == min(2 * (number + 1), 60)


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
