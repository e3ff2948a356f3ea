"""The task tools of live agents: claims, waiting calls, tokens and owners."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import pytest

from daybook import settings
from daybook.features.tasks import claims, operations, pause, queue, sessions, tool_calls
from daybook.features.tasks.tables import TaskRunRow
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.owners import Actor, acting_as
from daybook.redaction import redact_tokens
from daybook.toolbox import ToolAnswer, call
from tests.waiting import becomes_true

WRONG = "dbt_" + "Abc-_12" * 6 + "x"


@pytest.fixture
async def ledger(daybook_home: Home) -> AsyncIterator[Ledger]:
    async with Ledger(settings.load().ledger_address) as ledger:
        yield ledger


@pytest.fixture(autouse=True)
def cleo() -> Iterator[None]:
    with acting_as(Actor("agent:cleo", via="mcp")):
        yield


async def answer_of(name: str, /, **given: object) -> str:
    answer = await call(name, given)
    assert not answer.refused, answer.text
    return answer.text


async def refused(name: str, /, **given: object) -> str:
    answer = await call(name, given)
    assert answer.refused, answer.text
    return answer.text


async def added(ledger: Ledger, title: str, **more: Any) -> TaskRunRow:
    with acting_as(Actor()):
        return (await queue.add(ledger, title, **more))[1]


async def run_of(ledger: Ledger, run: TaskRunRow) -> TaskRunRow:
    async with ledger.read() as session:
        return await session.get_one(TaskRunRow, run.id)


async def claimed(name: str = "hers", **more: object) -> dict[str, str]:
    """Claim a run, and return its id and token as arguments of further calls."""
    found = re.search(
        r"Run (\w{32}) .*\ntoken: (\S+) ", await answer_of("task_next", session=name, **more)
    )
    assert found is not None
    return {"run_id": found[1], "token": found[2]}


async def test_a_session_registers_claims_renews_its_lease_and_completes_the_run(
    ledger: Ledger,
) -> None:
    run = await added(
        ledger,
        "Fix it",
        instructions="The parser, please.",
        capabilities=["python", "review"],
        workspace="w",
        priority="high",
    )
    there = await answer_of(
        "task_session_register", name="hers", capabilities="review, python,", workspace="w"
    )
    lines = there.splitlines()
    assert (
        lines[0] == 'Registered. Session "hers" is idle; a task is waiting for it: call task_next'
    )
    assert lines[1] == "capabilities: python, review"
    got = (await answer_of("task_next", session="hers", lease="10m")).splitlines()
    assert got[0] == f'Claimed. Run {run.id} of the task "Fix it", priority high'
    assert re.fullmatch(r"token: dbt_[\w-]{43} \(shown once; .*\)", got[1])
    assert got[2].startswith("lease until: ")
    assert got[3:] == [
        "workspace: w",
        "what to do: The parser, please.",
        "End it with task_complete or task_fail, or return it with task_release.",
    ]
    held = {"run_id": run.id[:8], "token": got[1].split()[1]}
    before = await run_of(ledger, run)
    assert (before.status, before.lease_seconds) == ("claimed", 600)
    longer = await answer_of("task_heartbeat", **held, lease="1h")
    assert longer.startswith(f'The lease of run {run.id[:8]}, "Fix it", now lasts until ')
    assert (await run_of(ledger, run)).lease_seconds == 3600
    assert "it holds run" in await answer_of("task_session_report", session="hers", state="active")
    done = await answer_of("task_complete", **held, output=f"It is fixed by {held['token']}.")
    assert done == (
        f'Run {run.id[:8]}, "Fix it", is completed; its token is invalid now. '
        "task_next claims another."
    )
    after = await run_of(ledger, run)
    assert (after.output, after.done_by) == ("It is fixed by dbt_….", "hers")
    assert "token is invalid" not in await refused("task_complete", **held)


@pytest.mark.parametrize("given", ["python, review", ["review", "python"], '["python", "review"]'])
async def test_capabilities_are_given_as_text_with_commas_or_as_a_list(
    ledger: Ledger, given: object
) -> None:
    given_answer = await answer_of("task_session_register", name="hers", capabilities=given)
    assert "\ncapabilities: python, review\n" in given_answer
    for wrong in ([1], {"a": 1}, "[1]"):
        answer = await refused("task_session_register", name="hers", capabilities=wrong)
        assert answer.startswith("capabilities: ")


async def test_a_session_fails_or_releases_a_run(ledger: Ledger) -> None:
    run = await added(ledger, "Fix it")
    await answer_of("task_session_register", name="hers")
    back = await answer_of("task_release", **await claimed(), reason="another is better")
    assert back.endswith(
        "is queued again in its old place, so you may claim it again; its token is invalid now."
    )
    assert (await run_of(ledger, run)).status == "queued"
    held = await claimed()
    assert "error: is missing (say why it cannot be done)" in await refused("task_fail", **held)
    assert "is failed" in await answer_of("task_fail", **held, error="No such parser.")
    assert (await run_of(ledger, run)).error == "No such parser."


async def test_nothing_to_claim_is_a_normal_answer_and_not_logged(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    await answer_of("task_session_register", name="hers")
    with caplog.at_level(logging.WARNING, "daybook.toolbox"):
        assert (await answer_of("task_next", session="hers")).startswith(
            "Nothing to claim now: no task is queued. Call again with wait_seconds, or subscribe"
        )
        await added(ledger, "Fix it", capabilities=["rust"])
        assert "the session lacks rust" in await answer_of("task_next", session="hers")
        answer = await answer_of("task_session_report", session="hers", state="active")
        assert answer == 'Reported. Session "hers" is active; no task is waiting for it'
        assert "the session is active" in await answer_of("task_next", session="hers")
    assert caplog.records == []


async def test_task_next_waits_for_a_task_without_renewing_the_session(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, looks = asyncio.Event(), operations._waits

    async def is_claimable(*given: Any) -> bool:
        looked.set()
        return await looks(*given)

    monkeypatch.setattr(operations, "_waits", is_claimable)
    monkeypatch.setattr(operations, "POLL_INTERVAL_SECONDS", 0.05)
    await answer_of("task_session_register", name="hers")
    looked.clear()
    waiting = asyncio.create_task(claimed(wait_seconds=25))
    await looked.wait()
    looked.clear()
    async with ledger.read() as session:
        before = (await sessions.find(session, "hers")).expires_at
    await looked.wait()
    async with ledger.read() as session:
        assert (await sessions.find(session, "hers")).expires_at == before
    run = await added(ledger, "Fix it")
    assert (await waiting)["run_id"] == run.id


async def test_a_run_claimed_for_a_cancelled_call_is_released(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    claiming, go, claim = asyncio.Event(), asyncio.Event(), claims.claim

    async def slow(*given: Any, **options: Any) -> claims.Claimed:
        found = await claim(*given, **options)
        claiming.set()
        await go.wait()
        return found

    run = await added(ledger, "Fix it")
    await answer_of("task_session_register", name="hers")
    monkeypatch.setattr(claims, "claim", slow)
    asking = asyncio.create_task(answer_of("task_next", session="hers"))
    await claiming.wait()
    assert (await run_of(ledger, run)).status == "claimed"
    asking.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await run_of(ledger, run)).status == "queued"


async def test_task_next_waits_no_longer_than_wait_seconds(ledger: Ledger) -> None:
    await answer_of("task_session_register", name="hers")
    async with asyncio.timeout(20):
        assert "Nothing to claim" in await answer_of("task_next", session="hers", wait_seconds=1)
    assert "26 is out of range (use 0 to 25)" in await refused(
        "task_next", session="hers", wait_seconds=26
    )


@pytest.mark.parametrize(
    ("why", "then"),
    [
        ("the session is active", "task_session_report with state idle once you are free"),
        ("the session waits for an answer", "task_session_report with state idle once you are"),
        ("the session expired", "task_session_report with state idle, then task_next"),
        ("the session holds run", "End that run with task_complete, task_fail or task_release"),
    ],
)
async def test_task_next_does_not_wait_if_the_session_itself_cannot_claim(
    ledger: Ledger, why: str, then: str
) -> None:
    await answer_of("task_session_register", name="hers")
    if "active" in why:
        await answer_of("task_session_report", session="hers", state="active")
    elif "answer" in why:
        await answer_of("task_session_report", session="hers", state="idle", prompting="yes")
    elif "expired" in why:
        async with ledger.write() as session:
            row = await sessions.find(session, "hers")
            row.expires_at = ledger.now()
    else:
        await added(ledger, "Fix it")
        await claimed()
    async with asyncio.timeout(20):  # less than wait_seconds
        answer = await answer_of("task_next", session="hers", wait_seconds=25)
    assert answer.startswith(f"Nothing to claim now: {why}")
    assert then in answer
    assert "wait_seconds" not in answer


async def test_task_next_does_not_wait_with_the_key_of_a_run_that_has_ended(
    ledger: Ledger,
) -> None:
    await answer_of("task_session_register", name="hers")
    await added(ledger, "Fix it")
    await answer_of("task_complete", **await claimed(idempotency_key="k"))
    await added(ledger, "Fix that too")
    async with asyncio.timeout(20):  # less than wait_seconds
        answer = await answer_of("task_next", session="hers", wait_seconds=25, idempotency_key="k")
    assert "use a new key for another run. Waiting does not help" in answer
    assert "wait_seconds" not in answer


async def test_each_owner_has_a_limit_of_waiting_calls(ledger: Ledger) -> None:
    nora = Actor("agent:nora", via="mcp")
    await answer_of("task_session_register", name="hers")
    with acting_as(nora):
        await answer_of("task_session_register", name="noras")

    def begin(name: str) -> asyncio.Task[str]:
        return asyncio.create_task(answer_of("task_next", session=name, wait_seconds=25))

    async def wait(owner: str, count: int) -> bool:
        async def there() -> bool:
            return tool_calls.waiting_calls(owner) == count

        return await becomes_true(there, 20)

    waiting = [begin("hers") for _ in range(tool_calls.MAX_WAITING_CALLS)]
    try:
        assert await wait("agent:cleo", tool_calls.MAX_WAITING_CALLS)
        async with asyncio.timeout(20):
            answer = await answer_of("task_next", session="hers", wait_seconds=25)
        assert "no task is queued. This call did not wait" in answer
        with acting_as(nora):
            waiting.append(begin("noras"))
        assert await wait("agent:nora", 1)
        assert not any(each.done() for each in waiting)
    finally:
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
    assert (tool_calls.waiting_calls("agent:cleo"), tool_calls.waiting_calls("agent:nora")) == (
        0,
        0,
    )


async def test_sessions_and_runs_of_another_owner_are_not_found(ledger: Ledger) -> None:
    run = await added(ledger, "Fix it")
    await answer_of("task_session_register", name="hers")
    held = await claimed()
    nora = Actor("agent:nora", via="mcp")
    with acting_as(nora):
        assert await refused("task_session_register", name="hers") == (
            'name: "hers" is taken (use another name)'
        )
        for name, given in (("task_next", {}), ("task_session_report", {"state": "idle"})):
            assert await refused(name, session="hers", **given) == (
                'task session "hers" not found; register one with task_session_register'
            )
        for name, given in (("task_complete", {}), ("task_heartbeat", {}), ("task_release", {})):
            assert await refused(name, **held, **given) == (
                f'task run "{run.id}" not found; claim one with task_next'
            )
        assert 'agent: "cleo" is another agent' in await refused(
            "task_session_register", name="mine", agent="cleo"
        )
    assert (await run_of(ledger, run)).status == "claimed"


async def test_a_wrong_token_changes_nothing_and_appears_in_no_answer_or_log(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    run = await added(ledger, "Fix it")
    await answer_of("task_session_register", name="hers")
    held = await claimed()
    with caplog.at_level(logging.DEBUG, "daybook"):
        for token in (WRONG, [held["token"]], held["token"] * 5):
            answers: list[Awaitable[ToolAnswer]] = [
                call("task_complete", {"run_id": run.id, "token": token}),
                call("task_heartbeat", {"run_id": run.id, "token": token}),
                call("task_fail", {"run_id": run.id, "token": held["token"], held["token"]: "x"}),
                call(held["token"], {}),
            ]
            for answer in answers:
                given_answer = await answer
                assert given_answer.refused
                assert WRONG not in given_answer.text
                assert held["token"] not in given_answer.text
    assert len(caplog.records) == 12
    for record in caplog.records:
        assert WRONG not in str(record.__dict__)
        assert held["token"] not in str(record.__dict__)
    assert (await run_of(ledger, run)).status == "claimed"
    refusal = await refused("task_complete", run_id=run.id, token=WRONG)
    assert refusal.endswith(
        "the token is wrong; the run is not yours: stop working on it, and claim another with "
        "task_next"
    )


async def test_an_invalid_registration_or_report_is_refused(ledger: Ledger) -> None:
    assert "name: is missing (use a unique name)" in await refused("task_session_register")
    assert 'capabilities: "a b" is not a capability' in await refused(
        "task_session_register", name="hers", capabilities="a b"
    )
    await answer_of("task_session_register", name="hers")
    for given, words in (
        ({"session": "hers", "state": "asleep"}, "use one of: idle, active"),
        ({"session": "hers"}, "state: is missing"),
        ({"session": "hers", "state": "idle", "prompting": "maybe"}, "use one of: no, yes"),
    ):
        assert words in await refused("task_session_report", **given)
    assert "lease: " in await refused("task_next", session="hers", lease="25h")
    answer = await answer_of("task_session_report", session="hers", state="idle", prompting="yes")
    assert answer == (
        'Reported. Session "hers" is idle, waiting for an answer; no task is waiting for it'
    )


async def test_nothing_is_claimed_while_the_scheduler_is_paused(ledger: Ledger) -> None:
    await added(ledger, "Fix it")
    await answer_of("task_session_register", name="hers")
    with acting_as(Actor()):
        await pause.pause(ledger, "a release")
    answer = await answer_of("task_next", session="hers")
    assert "the task scheduler is paused: a release" in answer


async def test_redact_tokens_masks_the_token_of_a_claim(ledger: Ledger) -> None:
    await added(ledger, "Fix it")
    await answer_of("task_session_register", name="hers")
    assert redact_tokens((await claimed())["token"]) == "dbt_…"
