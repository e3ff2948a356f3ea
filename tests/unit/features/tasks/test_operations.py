"""The API of tasks on both databases, with drains while runs are claimed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from daybook import owners
from daybook.errors import InvalidInput, NotFound, NothingClaimable, TokenRefused
from daybook.features.tasks import operations, scheduler_operations
from daybook.features.tasks.views import ClaimedTaskRun, HeldTaskRun, TaskWithRun
from daybook.home import Home
from tests import databases
from tests.databases import Database

pytestmark = pytest.mark.anyio

EVA = owners.Actor("agent:eva", via="mcp")
MAX = owners.Actor("agent:max", via="mcp")


@pytest.fixture(params=databases.KINDS, autouse=True)
def database(
    request: pytest.FixtureRequest, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """Yield the database of the home's ledger, once for each kind."""
    path = daybook_home.path / "ledger.db"
    there = databases.of_kind(request.param, path, databases.server_of(request), prepared=True)
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", there.address)
    yield there


async def claimed(title: str = "tidy up", name: str = "alpha") -> ClaimedTaskRun:
    await operations.register(name)
    await operations.add(title)
    return await operations.next_run(name)


def titles(found: Sequence[TaskWithRun | HeldTaskRun]) -> list[str]:
    return [each.title for each in found]


async def test_list_tasks_orders_tasks_from_needs_attention_to_ended(database: Database) -> None:
    for title, priority in (("late", "low"), ("soon", "high"), ("first", "urgent")):
        await operations.add(title, priority=priority)
    await operations.register("alpha")
    first = await operations.next_run("alpha")
    await operations.fail(first.run_id, first.token, "no")
    again = await operations.retry(first.run_id)
    second = await operations.next_run("alpha")
    assert second.run_id == again.run_id
    await operations.complete(second.run_id, second.token)
    held = await operations.next_run("alpha")
    lost = await operations.add("lost")
    database.query(f"UPDATE task_runs SET status = 'needs_attention' WHERE id = '{lost.run_id}'")
    assert titles(await operations.list_tasks()) == ["lost", "soon", "late", "first"]
    assert titles(await operations.list_tasks(limit=2)) == ["lost", "soon"]
    (ended,) = await operations.list_tasks("completed")
    assert (ended.title, ended.run.number, ended.run.done_by) == (
        "first",
        2,
        "alpha",
    )
    assert await operations.list_tasks("failed") == []
    (one,) = await operations.list_tasks("claimed")
    assert (one.run_id, one.run.session) == (held.run_id, "alpha")
    with pytest.raises(InvalidInput, match="use one of queued, claimed"):
        await operations.list_tasks("done")


async def test_show_has_all_runs_of_a_task_and_its_history_in_order() -> None:
    found = await claimed()
    await operations.release(found.run_id, found.token, "no access")
    found = await operations.next_run("alpha")
    await operations.fail(found.run_id, found.token, "no disk")
    await operations.retry("tidy up")
    shown = await operations.show("tidy up")
    assert [(each.number, each.status) for each in shown.runs] == [
        (2, "queued"),
        (1, "failed"),
    ]
    assert [(each.event, each.session) for each in shown.history] == [
        ("added", None),
        ("claimed", "alpha"),
        ("released", "alpha"),
        ("claimed", "alpha"),
        ("failed", "alpha"),
        ("retried", None),
    ]
    assert shown.history[2].reason == "no access"
    assert shown.runs[1].error == "no disk"


async def test_only_the_answer_of_a_claim_contains_the_token(database: Database) -> None:
    found = await claimed()
    token = found.token
    answers: list[Any] = [
        await operations.list_tasks(),
        await operations.show("tidy up"),
        await operations.list_sessions(),
        await operations.heartbeat(found.run_id, token),
        await scheduler_operations.status(),
        await scheduler_operations.drain("1s"),
        await operations.complete(found.run_id, token, "done"),
    ]
    with pytest.raises(TokenRefused) as refused:
        await operations.complete(found.run_id, token)
    answers.append(str(refused.value))
    assert token not in repr(answers)
    stored = [
        database.query(f"SELECT * FROM {table}")
        for table in ("tasks", "task_runs", "task_events", "task_sessions", "facts")
    ]
    assert token not in repr(stored) and token.removeprefix("dbt_") not in repr(stored)


@pytest.mark.parametrize("verb", ["complete", "fail", "release", "pause", "recover", "cancel"])
async def test_a_token_in_an_output_error_or_reason_is_masked_before_it_is_stored(
    database: Database, verb: str
) -> None:
    found = await claimed()
    run, token = found.run_id, found.token
    text = f"it says {token}, it does"
    if verb in ("complete", "fail", "release"):
        await getattr(operations, verb)(run, token, text)
    else:
        await getattr(operations, verb)(run, text)
    await scheduler_operations.pause(text)
    shown = await operations.show(run)
    texts = [shown.run.output, shown.run.error, shown.paused_reason]
    texts += [each.reason for each in shown.history]
    assert "it says dbt_…, it does" in texts
    assert (await scheduler_operations.status()).switch.reason == "it says dbt_…, it does"
    stored = [
        database.query(f"SELECT * FROM {table}")
        for table in ("tasks", "task_runs", "task_events", "task_sessions", "facts", "outbox")
    ]
    assert token.removeprefix("dbt_") not in repr(stored)


async def test_find_session_finds_a_session_by_name_unless_it_is_another_owners() -> None:
    found = await claimed()
    assert await operations.find_session("alpha") == (await operations.list_sessions())[0]
    assert (await operations.find_session("alpha")).run_id == found.run_id
    with owners.acting_as(EVA), pytest.raises(NotFound):
        await operations.find_session("alpha")


async def test_heartbeat_returns_the_new_lease_and_a_session_shows_its_run() -> None:
    found = await claimed()
    longer = await operations.heartbeat(found.run_id, found.token, "1h")
    assert longer.lease_until and longer.lease_until > found.lease_until
    assert longer.session == "alpha"
    (alpha,) = await operations.list_sessions()
    assert (alpha.run_id, alpha.expired, alpha.connected) == (
        found.run_id,
        False,
        False,
    )
    done = await operations.complete(found.run_id, found.token, "fine")
    assert (done.status, done.output, done.lease_until) == ("completed", "fine", None)


async def test_a_session_of_another_owner_is_not_found() -> None:
    await operations.add("tidy up")
    with owners.acting_as(EVA):
        made = await operations.register("evas")
        assert (made.agent, made.owner) == ("eva", "agent:eva")
    with owners.acting_as(MAX):
        assert await operations.list_sessions() == []
        for asked in (
            operations.next_run("evas"),
            operations.report("evas", state="idle"),
            operations.remove_session("evas"),
        ):
            with pytest.raises(NotFound):
                await asked
    assert [each.name for each in await operations.list_sessions()] == ["evas"]


@pytest.mark.floor("D", "Drain waits for active claims")
async def test_a_drain_reports_the_claimed_runs_and_ends_with_the_last_one() -> None:
    first, second = await claimed("a", "alpha"), await claimed("b", "beta")
    await operations.register("gamma")
    await operations.add("c")
    waits: asyncio.Queue[list[str]] = asyncio.Queue()
    drain = asyncio.create_task(
        scheduler_operations.drain(on_change=lambda left: waits.put_nowait(titles(left)))
    )
    assert await waits.get() == ["a", "b"]
    with pytest.raises(NothingClaimable, match="paused: draining"):
        await operations.next_run("gamma")
    await operations.complete(first.run_id, first.token)
    assert await waits.get() == ["b"]
    assert not drain.done()
    await operations.release(second.run_id, second.token)
    found = await drain
    assert (found.drained, found.left) == (True, [])
    assert (await scheduler_operations.resume()).paused is False
    assert (await operations.next_run("gamma")).task.title == "b"  # released, and queued before "c"


async def test_a_drain_that_times_out_returns_the_claimed_runs() -> None:
    found = await claimed()
    drained = await scheduler_operations.drain(timedelta(seconds=1))
    assert drained.drained is False
    assert [each.run_id for each in drained.left] == [found.run_id]
    assert drained.waited_seconds >= 1
    # The session that holds the run continues, and may end it.
    await operations.heartbeat(found.run_id, found.token)
    await operations.complete(found.run_id, found.token)
    assert (await scheduler_operations.drain("1s")).drained is True


async def test_status_counts_tasks_and_sessions(database: Database) -> None:
    assert (await scheduler_operations.status()).problems == []
    await claimed("a", "alpha")
    await operations.add("b")
    await operations.add("c")
    await operations.register("beta")
    await operations.register("gone")
    database.query("UPDATE task_sessions SET expires_at = registered_at WHERE name = 'gone'")
    database.query("UPDATE task_runs SET starved_cycles = 4 WHERE status = 'queued'")
    found = await scheduler_operations.status()
    assert found.runs is False  # no keeper is the leader
    counts = {name: getattr(found.tasks, name) for name in ("queued", "claimed", "needs_attention")}
    assert counts == {"queued": 2, "claimed": 1, "needs_attention": 0}
    assert (found.tasks.free, found.tasks.busy) == (1, 1)
    assert (found.tasks.starving, found.tasks.attention) == (2, 0)
    assert found.tasks.oldest_seconds
    assert len(found.problems) == 1 and "2 tasks are starving" in found.problems[0]
    assert found.statistics.cycles == 0


async def test_removing_a_session_queues_its_run_again() -> None:
    found = await claimed()
    removed = await operations.remove_session("alpha")
    assert removed.run_id == found.run_id
    assert (await operations.show("tidy up")).status == "queued"
    with pytest.raises(TokenRefused):
        await operations.complete(found.run_id, found.token)
