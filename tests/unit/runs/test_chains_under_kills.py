"""A tree of chained jobs whose writers are killed: each outcome starts each follower once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any, TypeVar

import pytest
from sqlalchemy import event

from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from tests.world import World

pytestmark = pytest.mark.anyio

T = TypeVar("T")

# The table of `daybook.runs.chains`, written again.
ENDS = (Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.UNKNOWN, Status.CANCELLED)
FAILED = {"failed", "timed_out", "unknown"}
STARTED_BY = {"succeeded": {"succeeded"}, "failed": FAILED, "any": FAILED | {"succeeded"}}


class Killed(Exception):
    """The writer is killed before one of its statements; its transaction is rolled back."""


@contextmanager
def killed_before(ledger: Ledger, write: int) -> Iterator[None]:
    """Raise `Killed` before the statement ``write`` that writes, counted from 1."""
    left = write

    def count(_: Any, __: Any, statement: str, *___: Any) -> None:
        nonlocal left
        left -= statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE"))
        if left == 0:
            left = -1  # the rollback writes nothing
            raise Killed

    engine = ledger._engine.sync_engine
    event.listen(engine, "before_cursor_execute", count)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", count)


@pytest.mark.parametrize("seed", range(3))
async def test_each_outcome_starts_each_follower_once_however_often_its_writer_is_killed(
    world: World, seed: int
) -> None:
    random, kills = Random(seed), 0

    async def despite_kills(act: Callable[[], Awaitable[T]]) -> T:
        nonlocal kills
        for _ in range(random.randrange(4)):
            try:
                with killed_before(world.ledger, random.randrange(1, 8)):
                    return await act()
            except Killed:
                kills += 1
        return await act()

    rules = {name: random.choice(list(STARTED_BY)) for name in ("report", "digest", "alarm")}
    jobs: dict[str, StoredJob] = {"brief": await world.jobs.add("brief", cron="0 * * * *")}
    for name, after in (("report", "brief"), ("alarm", "brief"), ("digest", "report")):
        jobs[name] = await world.jobs.add(name, after=after, on=rules[name], overlap="allow")

    outcomes: dict[str, str] = {}
    for _ in range(4):
        which: StoredJob | RunRow | None = jobs["brief"]
        while which is not None:
            granted, status = await world.runs.running(which), random.choice(ENDS)
            await despite_kills(partial(world.runs.finish, granted, status))
            outcomes[granted.run_id] = str(status)
            waiting = [row for row in await world.runs.rows() if row.state is Status.WAITING]
            which = random.choice(waiting) if waiting else None

    rows = await world.runs.rows()
    assert {row.id: row.status for row in rows} == outcomes
    assert kills > 0
    names = {job.id: name for name, job in jobs.items()}
    found = Counter(row.occurrence for row in rows if row.trigger == "after")
    followers = {"brief": ("report", "alarm"), "report": ("digest",)}
    expected = Counter(
        f"after:{jobs[follower].id}:{row.id}"
        for row in rows
        for follower in followers.get(names[str(row.job_id)], ())
        if row.status in STARTED_BY[rules[follower]]
    )
    assert found == expected
