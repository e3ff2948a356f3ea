"""What live agents are told that claim tasks by tools, and whose sessions and runs they reach."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import pytest

from daybook import settings
from daybook.api import tasks
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.ledger.task_tables import TaskRunRow
from daybook.owners import Actor, acting_as
from daybook.tasks import claims, pause, queue, sessions
from daybook.tasks.model import redact_tokens
from daybook.toolbox import ToolAnswer, call, task_calls
from tests.world import so

WRONG = "dbt_" + "Abc-_12" * 6 + "x"


@pytest.fixture
async def ledger(daybook_home: Home) -> AsyncIterator[Ledger]:
    async with Ledger(settings.load().ledger_address) as ledger:
        yield ledger


@pytest.fixture(autouse=True)
def cleo() -> Iterator[None]:
    with acting_as(Actor("agent:cleo", via="mcp")):
        yield


async def told(name: str, /, **given: object) -> str:
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
    """What the next calls about the run need."""
    found = re.search(
        r"Run (\w{32}) .*\ntoken: (\S+) ", await told("task_next", session=name, **more)
    )
    assert found is not None
    return {"run_id": found[1], "token": found[2]}


async def test_a_session_registers_claims_holds_and_completes(ledger: Ledger) -> None:
    run = await added(
        ledger,
        "Fix it",
        instructions="The parser, please.",
        capabilities=["python", "review"],
        workspace="w",
        priority="high",
    )
    there = await told(
        "task_session_register", name="hers", capabilities="review, python,", workspace="w"
    )
    lines = there.splitlines()
    assert lines[0] == 'Registered. Session "hers" is idle; a task waits for it: call task_next'
    assert lines[1] == "capabilities: python, review"
    got = (await told("task_next", session="hers", lease="10m")).splitlines()
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
    longer = await told("task_heartbeat", **held, lease="1h")
    assert longer.startswith(f'Run {run.id[:8]}, "Fix it", has its lease until ')
    assert (await run_of(ledger, run)).lease_seconds == 3600
    assert "it holds run" in await told("task_session_report", session="hers", state="active")
    done = await told("task_complete", **held, output=f"It is fixed by {held['token']}.")
    assert done == (
        f'Run {run.id[:8]}, "Fix it", is completed; its token is invalid now. '
        "task_next claims another."
    )
    after = await run_of(ledger, run)
    assert (after.output, after.done_by) == ("It is fixed by dbt_….", "hers")
    assert "token is invalid" not in await refused("task_complete", **held)


@pytest.mark.parametrize("given", ["python, review", ["review", "python"], '["python", "review"]'])
async def test_capabilities_are_words_with_commas_or_a_list(ledger: Ledger, given: object) -> None:
    said = await told("task_session_register", name="hers", capabilities=given)
    assert "\ncapabilities: python, review\n" in said
    for wrong in ([1], {"a": 1}, "[1]"):
        answer = await refused("task_session_register", name="hers", capabilities=wrong)
        assert answer.startswith("capabilities: ")


async def test_a_run_fails_or_is_given_back(ledger: Ledger) -> None:
    run = await added(ledger, "Fix it")
    await told("task_session_register", name="hers")
    back = await told("task_release", **await claimed(), reason="another is better")
    assert back.endswith(
        "is queued again at its old place, so you may claim it again; its token is invalid now."
    )
    assert (await run_of(ledger, run)).status == "queued"
    held = await claimed()
    assert "error: is missing (say why it cannot be done)" in await refused("task_fail", **held)
    assert "is failed" in await told("task_fail", **held, error="No such parser.")
    assert (await run_of(ledger, run)).error == "No such parser."


async def test_that_there_is_nothing_is_an_answer_and_no_refusal(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    await told("task_session_register", name="hers")
    with caplog.at_level(logging.WARNING, "daybook.toolbox"):
        assert (await told("task_next", session="hers")).startswith(
            "Nothing to claim now: no task is queued. Call again with wait_seconds, or subscribe"
        )
        await added(ledger, "Fix it", capabilities=["rust"])
        assert "the session lacks rust" in await told("task_next", session="hers")
        said = await told("task_session_report", session="hers", state="active")
        assert said == 'Reported. Session "hers" is active; no task waits for it'
        assert "the session is active" in await told("task_next", session="hers")
    assert caplog.records == []


async def test_it_waits_for_what_comes_and_writes_nothing_meanwhile(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, looks = asyncio.Event(), tasks._waits

    async def look(*given: Any) -> bool:
        looked.set()
        return await looks(*given)

    monkeypatch.setattr(tasks, "_waits", look)
    monkeypatch.setattr(tasks, "POLL_INTERVAL_SECONDS", 0.05)
    await told("task_session_register", name="hers")
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


async def test_what_is_claimed_for_who_has_gone_is_given_back(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    claiming, go, claim = asyncio.Event(), asyncio.Event(), claims.claim

    async def slow(*given: Any) -> claims.Claimed:
        found = await claim(*given)
        claiming.set()
        await go.wait()
        return found

    run = await added(ledger, "Fix it")
    await told("task_session_register", name="hers")
    monkeypatch.setattr(claims, "claim", slow)
    asking = asyncio.create_task(told("task_next", session="hers"))
    await claiming.wait()
    assert (await run_of(ledger, run)).status == "claimed"
    asking.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await run_of(ledger, run)).status == "queued"


async def test_a_wait_has_an_end(ledger: Ledger) -> None:
    await told("task_session_register", name="hers")
    async with asyncio.timeout(20):
        assert "Nothing to claim" in await told("task_next", session="hers", wait_seconds=1)
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
async def test_nobody_waits_for_what_no_waiting_brings(ledger: Ledger, why: str, then: str) -> None:
    await told("task_session_register", name="hers")
    if "active" in why:
        await told("task_session_report", session="hers", state="active")
    elif "answer" in why:
        await told("task_session_report", session="hers", state="idle", prompting="yes")
    elif "expired" in why:
        async with ledger.write() as session:
            row = await sessions.find(session, "hers")
            row.expires_at = ledger.now()
    else:
        await added(ledger, "Fix it")
        await claimed()
    async with asyncio.timeout(20):  # less than it would wait
        said = await told("task_next", session="hers", wait_seconds=25)
    assert said.startswith(f"Nothing to claim now: {why}")
    assert then in said
    assert "wait_seconds" not in said


async def test_one_owner_cannot_have_all_that_wait(ledger: Ledger) -> None:
    nora = Actor("agent:nora", via="mcp")
    await told("task_session_register", name="hers")
    with acting_as(nora):
        await told("task_session_register", name="noras")

    def begin(name: str) -> asyncio.Task[str]:
        return asyncio.create_task(told("task_next", session=name, wait_seconds=25))

    async def wait(owner: str, count: int) -> bool:
        async def there() -> bool:
            return task_calls.waiting_calls(owner) == count

        return await so(there, 20)

    waiting = [begin("hers") for _ in range(task_calls.MAX_WAITING_CALLS)]
    try:
        assert await wait("agent:cleo", task_calls.MAX_WAITING_CALLS)
        async with asyncio.timeout(20):
            said = await told("task_next", session="hers", wait_seconds=25)
        assert "no task is queued. This call did not wait" in said
        with acting_as(nora):
            waiting.append(begin("noras"))
        assert await wait("agent:nora", 1)
        assert not any(each.done() for each in waiting)
    finally:
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
    assert (task_calls.waiting_calls("agent:cleo"), task_calls.waiting_calls("agent:nora")) == (
        0,
        0,
    )


async def test_what_is_anothers_is_not_there(ledger: Ledger) -> None:
    run = await added(ledger, "Fix it")
    await told("task_session_register", name="hers")
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


async def test_a_wrong_token_changes_nothing_and_stands_in_no_log(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    run = await added(ledger, "Fix it")
    await told("task_session_register", name="hers")
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
                said = await answer
                assert said.refused
                assert WRONG not in said.text
                assert held["token"] not in said.text
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


async def test_what_a_session_may_not_say(ledger: Ledger) -> None:
    assert "name: is missing (use a unique name)" in await refused("task_session_register")
    assert 'capabilities: "a b" is not a capability' in await refused(
        "task_session_register", name="hers", capabilities="a b"
    )
    await told("task_session_register", name="hers")
    for given, words in (
        ({"session": "hers", "state": "asleep"}, "use one of: idle, active"),
        ({"session": "hers"}, "state: is missing"),
        ({"session": "hers", "state": "idle", "prompting": "maybe"}, "use one of: no, yes"),
    ):
        assert words in await refused("task_session_report", **given)
    assert "lease: " in await refused("task_next", session="hers", lease="25h")
    said = await told("task_session_report", session="hers", state="idle", prompting="yes")
    assert said == ('Reported. Session "hers" is idle, waiting for an answer; no task waits for it')


async def test_nothing_is_claimed_while_the_scheduler_is_paused(ledger: Ledger) -> None:
    await added(ledger, "Fix it")
    await told("task_session_register", name="hers")
    with acting_as(Actor()):
        await pause.pause(ledger, "a release")
    said = await told("task_next", session="hers")
    assert "the task scheduler is paused: a release" in said


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (f"by {WRONG}, it", "by dbt_…, it"),
        (f"{WRONG}{WRONG}x", "dbt_…dbt_…x"),
        ("dbt_project_evaluator_of_marts_and_their_sources", None),
        ("dbt_run", None),
    ],
)
def test_only_tokens_are_left_out(said: str, kept: str | None) -> None:
    assert redact_tokens(said) == (said if kept is None else kept)


async def test_the_token_of_a_claim_is_one_that_is_left_out(ledger: Ledger) -> None:
    await added(ledger, "Fix it")
    await told("task_session_register", name="hers")
    assert redact_tokens((await claimed())["token"]) == "dbt_…"
