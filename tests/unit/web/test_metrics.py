"""`/metrics`, read with the parsers of Prometheus."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from sqlmodel import delete, select

from daybook.delivery import outbox
from daybook.features.tasks import claims, pause, queue, sessions
from daybook.features.tasks import states as tasks_states
from daybook.features.tasks.tables import TaskRunRow
from daybook.home import Home
from daybook.keeper import leader_lease
from daybook.keeper.leader_lease import LEADERSHIP_NAME
from daybook.ledger.states import Status
from daybook.ledger.tables import AttemptRow, QueueRow, RunRow
from daybook.runs import audit, leases
from tests.unit.web.conftest import Served, served
from tests.world import World

pytestmark = pytest.mark.anyio

Labels = tuple[tuple[str, str], ...]


async def metrics(page: httpx.AsyncClient) -> dict[tuple[str, Labels], float]:
    """Return the value of each sample by its name, without the prefix, and its labels."""
    answer = await page.get("/metrics")
    assert answer.status_code == 200
    return {
        (each.name.removeprefix("daybook_"), tuple(sorted(each.labels.items()))): each.value
        for family in text_string_to_metric_families(answer.text)
        for each in family.samples
    }


def by(**labels: str) -> Labels:
    return tuple(sorted(labels.items()))


async def full(world: World) -> None:
    """Fill a ledger so that most metrics differ from zero."""
    await leader_lease.acquire(world.ledger, LEADERSHIP_NAME, "here:1:a")
    hourly = {"cron": "0 * * * *", "catch_up": "none"}
    first = await world.jobs.add("first", **hourly)
    await world.jobs.add("off", **hourly, enabled=False)
    awkward = await world.jobs.add('say "hi"\\n', **hourly)
    slow = await world.jobs.add("slow", **hourly)
    for _ in range(2):
        await world.runs.finished(awkward, Status.FAILED, error="no")
    used = {"input_tokens": 900, "output_tokens": 40, "cache_read_tokens": 600, "cost_usd": 0.25}
    warned = ("tool mail failed: no",)
    await world.runs.finished(first, Status.SUCCEEDED, warnings=warned, usage=used)
    await world.runs.running(slow)
    await leader_lease.renew(world.ledger, LEADERSHIP_NAME, 1)
    async with world.ledger.write() as session:
        now = world.clock.now()
        for channel, event in (("ops", "one"), ("inbox", "overdue")):
            await outbox.enqueue_message(
                session,
                key=event,
                purpose=outbox.ALERT,
                event=event,
                channel=channel,
                subject="",
                body="",
                now=now,
            )
        queue = QueueRow(queue="channel:ops", failures=5, since=now, paused_until=now, error="no")
        session.add(queue)
    world.clock.move(timedelta(seconds=12))


async def test_every_metric_has_the_value_of_the_ledger(
    world: World, pages: Callable[[], Served]
) -> None:
    async with pages() as page:
        await metrics(page)  # counters start at the first request
        await full(world)
        found = await metrics(page)
        world.clock.move(timedelta(minutes=55))
        later = await metrics(page)

    assert found["ledger_up", ()] == 1
    assert found["info", by(version="0.1.0", ledger=world.ledger.id)] == 1
    assert found["jobs", by(enabled="true")] == 3
    assert found["jobs", by(enabled="false")] == 1
    assert found["consecutive_failures", by(job='say "hi"\\n')] == 2
    assert [name for name, _ in found].count("consecutive_failures") == 1
    assert found["live_runs", by(status="running")] == 1
    assert found["live_runs", by(status="waiting")] == 0
    for figure in ("ended_runs_total", "ended_runs_last_day"):
        ended = {labels: value for (name, labels), value in found.items() if name == figure}
        assert ended == {
            by(status=status): {"failed": 2, "succeeded": 1}.get(status, 0)
            for status in set(Status) - {"waiting", "claimed", "running"}
        }
    assert found["runs_with_warnings_total", ()] == 1
    tokens = {kind: found["tokens_total", by(kind=kind)] for kind in ("input", "output")}
    assert tokens == {"input": 900, "output": 40}
    assert found["tokens_total", by(kind="cache_read")] == 600
    assert found["tokens_total", by(kind="cache_write")] == 0
    assert (found["cost_usd_total", ()], later["cost_usd_total", ()]) == (0.25, 0.25)
    # Three jobs have due times that passed while the other jobs ran.
    assert found["late", ()] == found["overdue", ()] == 3
    assert found["keeper_leads", ()] == 1
    assert found["keeper_lease_age_seconds", ()] == 12
    assert ("keeper_observed_age_seconds", ()) not in found
    assert found["outbox_pending", ()] == 1
    assert found["outbox_oldest_seconds", ()] == 12
    assert found["outbox_failed", ()] == 0
    assert found["outbox_queues_paused", ()] == 1
    # Two alerts about failures an hour apart, and the one that `full` adds.
    assert found["inbox_unread_alerts", ()] == 3
    assert (found["due_soon", ()], later["due_soon", ()]) == (0, 3)
    assert later["keeper_leads", ()] == 0


async def test_jobs_of_several_owners_with_one_name_show_the_highest_failure_count(
    world: World, pages: Callable[[], Served]
) -> None:
    hourly = {"cron": "0 * * * *", "catch_up": "none"}
    for owner, failures in (("user", 1), ("agent:writer", 3), ("agent:reader", 2)):
        stored = await world.jobs.add("brief", owner, **hourly)
        for _ in range(failures):
            await world.runs.finished(stored, Status.FAILED, error="no")
    async with pages() as page:
        found = await metrics(page)
    failing = {labels: value for (name, labels), value in found.items() if "consecutive" in name}
    assert failing == {by(job="brief"): 3}


async def test_tasks_and_task_sessions_are_counted(
    world: World, pages: Callable[[], Served]
) -> None:
    for _ in range(3):
        await queue.add(world.ledger, "sweep", capabilities=["broom"])
    await queue.add(world.ledger, "call", owner="user")
    for name in ("alpha", "beta", "gamma"):
        await sessions.register(world.ledger, name, capabilities=["broom"])
    done = await claims.claim(world.ledger, "alpha")
    await claims.complete(world.ledger, done.run.id, done.token)
    await claims.claim(world.ledger, "beta")
    await sessions.report(world.ledger, "gamma", prompting=True)
    await pause.pause(world.ledger, "later")
    async with world.ledger.write() as session:
        last = (await session.execute(select(TaskRunRow).order_by(TaskRunRow.id))).scalars()
        queued = [each for each in last if each.status == "queued"]
        queued[0].starved_cycles, queued[0].attention = 10, "no agent came"
    world.clock.move(timedelta(seconds=30))
    async with pages() as page:
        found = await metrics(page)
        world.clock.move(timedelta(days=1))
        later = await metrics(page)

    live = {status: found["tasks_live", by(status=status)] for status in tasks_states.LIVE}
    assert live == {"queued": 2, "claimed": 1, "needs_attention": 0}
    assert found["tasks_oldest_queued_seconds", ()] == 30
    assert (found["tasks_starving", ()], found["tasks_attention", ()]) == (1, 1)
    assert found["tasks_sessions", by(state="free")] == 1
    assert found["tasks_sessions", by(state="busy")] == 2
    assert found["tasks_paused", ()] == 1
    assert found["tasks_ended_last_day", by(status="completed")] == 1
    assert found["tasks_ended_last_day", by(status="failed")] == 0
    assert later["tasks_ended_last_day", by(status="completed")] == 0
    assert later["tasks_sessions", by(state="free")] == 0


async def test_both_formats_are_valid_and_names_follow_the_conventions(
    world: World, pages: Callable[[], Served]
) -> None:
    await full(world)
    async with pages() as page:
        plain = await page.get("/metrics")
        kind = "application/openmetrics-text; version=1.0.0"
        open_metrics = await page.get("/metrics", headers={"accept": kind})
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert open_metrics.headers["content-type"].startswith(kind)

    strict: list[Any] = list(openmetrics_families(open_metrics.text))  # type: ignore[no-untyped-call]
    families = list(text_string_to_metric_families(plain.text))
    assert len(families) == len(strict) > 15
    for family in families:
        assert re.fullmatch(r"daybook(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("gauge", "counter")
        # Names that promtool rejects: wrong units, and suffixes of other types.
        assert not re.search(r"_(total|count|sum|bucket|minutes|ms|gauge|counter)$", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") is (family.type == "counter")
            assert not {"le", "quantile", "instance"} & sample.labels.keys()
    names = [line.split()[2] for line in plain.text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


async def test_an_unreachable_ledger_is_a_metric_and_no_failed_scrape(daybook_home: Home) -> None:
    (daybook_home.path / "books").write_text("")
    async with served(f"sqlite+aiosqlite:///{daybook_home.path}/books/ledger.db") as page:
        found = await metrics(page)
    assert found.pop(("ledger_up", ())) == 0.0
    assert ("hook_requests_total", (("result", "unavailable"),)) in found
    assert {name for name, _ in found} == {"hook_requests_total"}  # counted by this process


async def test_a_counter_does_not_decrease_if_runs_are_pruned(
    world: World, pages: Callable[[], Served]
) -> None:
    stored = await world.jobs.add(cron="*/10 * * * *", catch_up="none")
    key = "ended_runs_total", by(status="succeeded")
    async with pages() as page:
        before = await metrics(page)
        for _ in range(3):
            await world.runs.finished(stored, Status.SUCCEEDED)
            assert await metrics(page)
        three = await metrics(page)
        async with world.ledger.write() as session:
            await session.execute(delete(AttemptRow))
            await session.execute(delete(RunRow))
        pruned = await metrics(page)
        await world.runs.finished(stored, Status.SUCCEEDED)
        four = await metrics(page)
    assert [each[key] for each in (before, three, pruned, four)] == [0, 3, 3, 4]
    assert pruned["ended_runs_last_day", by(status="succeeded")] == 0


async def test_each_missed_due_time_counts_and_a_late_outcome_is_counted_too(
    world: World, pages: Callable[[], Served]
) -> None:
    stored = await world.jobs.add(cron="*/10 * * * *", catch_up="none")
    missed = by(status="missed")
    async with pages() as page:
        await metrics(page)
        counts = []
        for _ in range(3):  # the range of missed due times grows
            await metrics(page)  # long after the earlier growth was recorded
            world.clock.move(timedelta(minutes=31))
            await metrics(page)
            await audit.advance(world.ledger, stored.id, world.clock.now() - timedelta(minutes=1))
            counts.append((await metrics(page))["ended_runs_total", missed])
        async with world.ledger.read() as session:
            (row,) = (await session.execute(select(RunRow))).scalars()
        assert counts == [3, 6, row.count] == [3, 6, 9]

        granted = await world.runs.running(stored)
        await world.runs.lose()
        await leases.expire_all(world.ledger)
        lost = await metrics(page)
        await world.runs.finish(granted, Status.SUCCEEDED)
        corrected = await metrics(page)
    keys = [("ended_runs_total", by(status=each)) for each in ("unknown", "succeeded")]
    assert [[each[key] for key in keys] for each in (lost, corrected)] == [[1, 0], [1, 1]]


async def test_only_the_growth_of_a_range_that_is_older_than_the_page_counts(
    world: World, pages: Callable[[], Served]
) -> None:
    stored = await world.jobs.add(cron="*/10 * * * *", catch_up="none")
    counts = []
    async with pages() as page:
        for _ in range(2):
            world.clock.move(timedelta(minutes=31))
            await audit.advance(world.ledger, stored.id, world.clock.now() - timedelta(minutes=1))
            counts.append((await metrics(page)).get(("ended_runs_total", by(status="missed"))))
    assert counts == [0, 3]


async def test_only_the_growth_of_a_range_that_last_grew_weeks_before_the_page_started_counts(
    world: World, pages: Callable[[], Served]
) -> None:
    stored = await world.jobs.add(cron="0 9 * * 1", catch_up="none")

    async def miss(weeks: int) -> None:
        world.clock.move(timedelta(weeks=weeks))
        await audit.advance(world.ledger, stored.id, world.clock.now() - timedelta(minutes=1))

    await miss(5)
    world.clock.move(timedelta(weeks=2))
    counts = []
    async with pages() as page:
        for weeks in (0, 0, 2):
            counts.append((await metrics(page))["ended_runs_total", by(status="missed")])
            await miss(weeks)
        counts.append((await metrics(page))["ended_runs_total", by(status="missed")])
    async with world.ledger.read() as session:
        (row,) = (await session.execute(select(RunRow))).scalars()
    assert (counts, row.count) == ([0, 2, 2, 4], 9)


async def test_the_names_and_labels_of_metrics_match_the_snapshot(
    world: World, pages: Callable[[], Served], snapshot: Callable[[str, str], None]
) -> None:
    await full(world)
    async with pages() as page:
        text = (await page.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("#")]
    for family in text_string_to_metric_families(text):
        labels = {name for sample in family.samples for name in sample.labels}
        lines += [f"{family.name} {' '.join(sorted(labels))}".rstrip()]
    snapshot("metrics.txt", "\n".join(sorted(lines)))
