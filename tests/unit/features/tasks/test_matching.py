"""Which session fits which run: one table, checked by the scheduler's rule and a real claim."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daybook.errors import NothingClaimable
from daybook.features.tasks import matching, model, queue, sessions
from daybook.features.tasks.matching import Candidate, RunRequirements
from daybook.features.tasks.tables import TaskRow, TaskRunRow
from tests import rows
from tests.world import World, copies

pytestmark = pytest.mark.anyio

QUARTER = sessions.SESSION_TIMEOUT
INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class Pair:
    """A task, a session named `one`, and a word of the reason if they do not fit."""

    task: dict[str, Any] = field(default_factory=dict)
    session: dict[str, Any] = field(default_factory=dict)
    no: str = ""
    # What the session reports, the time since it was last active, and whether it holds a run.
    report: dict[str, Any] = field(default_factory=dict)
    silent: timedelta = timedelta(0)
    holds: bool = False
    # A word of the claim's reason, which names the session's state before the queue's.
    at_claim: str = ""
    # Whether only the session's current state prevents a fit: if it were free, it would fit.
    later: bool = False


PAIRS: dict[str, Pair] = {
    "nothing asked, nothing had": Pair(),
    # --- the state of the session
    "active": Pair(report={"state": "active"}, no="is active", later=True),
    "prompting": Pair(report={"prompting": True}, no="prompt", later=True),
    "active and prompting": Pair(
        report={"state": "active", "prompting": True}, no="is active", later=True
    ),
    "idle, not prompting": Pair(report={"state": "idle", "prompting": False}),
    "holds a run": Pair(holds=True, no="holds", later=True),
    "holds a run, and is active": Pair(
        holds=True, report={"state": "active"}, no="active", at_claim="holds", later=True
    ),
    "heard of just in time": Pair(silent=QUARTER - INSTANT),
    "expired exactly now": Pair(silent=QUARTER, no="expired", later=True),
    "expired long ago": Pair(silent=timedelta(days=2), no="expired", later=True),
    "expired, and cannot at all": Pair(
        {"capabilities": ["dig"]}, silent=timedelta(days=2), no="expired"
    ),
    # --- the owner of the task
    "anyone's": Pair({"owner": ""}, {"agent": "maria"}),
    "a person's": Pair({"owner": "user"}, no="for the user"),
    "a person's, and an agent called user": Pair(
        {"owner": "user"}, {"agent": "user"}, no="for the user"
    ),
    "the agent's own": Pair({"owner": "agent:maria"}, {"agent": "maria"}),
    "another agent's": Pair({"owner": "agent:maria"}, {"agent": "otto"}, no='"agent:maria"'),
    "an agent's, a session without owner": Pair({"owner": "agent:maria"}, no='"agent:maria"'),
    "an agent's, another case": Pair(
        {"owner": "agent:maria"}, {"agent": "Maria"}, no='"agent:maria"'
    ),
    "an agent's, called as the session": Pair(
        {"owner": "agent:one"}, {"agent": "maria"}, no='"agent:one"'
    ),
    "this session's": Pair({"owner": "session:one"}),
    "this session's, of any agent": Pair({"owner": "session:one"}, {"agent": "otto"}),
    "another session's": Pair({"owner": "session:two"}, no='"session:two"'),
    "another session's, called as its agent": Pair(
        {"owner": "session:maria"}, {"agent": "maria"}, no='"session:maria"'
    ),
    "this session's, which is active": Pair(
        {"owner": "session:one"}, report={"state": "active"}, no="active", later=True
    ),
    # --- workspace
    "of a workspace, both": Pair({"workspace": "garden"}, {"workspace": "garden"}),
    "of a workspace, session of another": Pair(
        {"workspace": "garden"}, {"workspace": "house"}, no='"garden"'
    ),
    "of a workspace, session of none": Pair({"workspace": "garden"}, no='"garden"'),
    "of no workspace, session of one": Pair({}, {"workspace": "house"}),
    "of a workspace, another case": Pair(
        {"workspace": "garden"}, {"workspace": "Garden"}, no='"garden"'
    ),
    # --- channel
    "of a channel, both": Pair({"channel": "mail"}, {"channel": "mail"}),
    "of a channel, session of another": Pair(
        {"channel": "mail"}, {"channel": "telegram"}, no='"mail"'
    ),
    "of a channel, session of none": Pair({"channel": "mail"}, no='"mail"'),
    "of no channel, session of one": Pair({}, {"channel": "telegram"}),
    "workspace fits, channel not": Pair(
        {"workspace": "garden", "channel": "mail"}, {"workspace": "garden"}, no='"mail"'
    ),
    "channel fits, workspace not": Pair(
        {"workspace": "garden", "channel": "mail"}, {"channel": "mail"}, no='"garden"'
    ),
    "workspace and channel": Pair(
        {"workspace": "garden", "channel": "mail"}, {"workspace": "garden", "channel": "mail"}
    ),
    # --- capabilities
    "all of them": Pair({"capabilities": ["dig", "sow"]}, {"capabilities": ["sow", "dig"]}),
    "more than asked": Pair({"capabilities": ["dig"]}, {"capabilities": ["sow", "dig"]}),
    "none asked": Pair({}, {"capabilities": ["dig"]}),
    "one of two": Pair({"capabilities": ["dig", "sow"]}, {"capabilities": ["dig"]}, no="lacks sow"),
    "none of two": Pair({"capabilities": ["sow", "dig"]}, no="lacks dig, sow"),
    "the beginning of it": Pair(
        {"capabilities": ["digging"]}, {"capabilities": ["dig"]}, no="lacks digging"
    ),
    "another case of it": Pair(
        {"capabilities": ["Dig"]}, {"capabilities": ["dig"]}, no="lacks Dig"
    ),
    "what is preferred is not required": Pair({"preferred": ["sing"]}),
    "preferred there, required not": Pair(
        {"capabilities": ["dig"], "preferred": ["sing"]}, {"capabilities": ["sing"]}, no="lacks dig"
    ),
    # --- the task is paused
    "paused": Pair({"paused": True}, no="task is paused"),
    "paused, this session's": Pair({"paused": True, "owner": "session:one"}, no="paused"),
    "paused, and the session active": Pair(
        {"paused": True}, report={"state": "active"}, no="task is paused", at_claim="is active"
    ),
    # --- all conditions together
    "all fits": Pair(
        {
            "owner": "agent:maria",
            "workspace": "garden",
            "channel": "mail",
            "capabilities": ["dig"],
            "preferred": ["sing"],
            "priority": "low",
        },
        {
            "agent": "maria",
            "workspace": "garden",
            "channel": "mail",
            "capabilities": ["dig", "sing"],
        },
    ),
    "all fits, and it holds a run": Pair(
        {"workspace": "garden"}, {"workspace": "garden"}, holds=True, no="holds", later=True
    ),
}


def test_the_table_has_at_least_40_pairs_of_which_12_fit() -> None:
    assert len(PAIRS) >= 40
    assert sum(not pair.no for pair in PAIRS.values()) >= 12


async def _seen(world: World, run_id: str) -> tuple[RunRequirements, Candidate]:
    """Return the run and the session `one` as the scheduler sees them."""
    async with world.ledger.read() as session:
        task, run = await queue.find(session, run_id)
        row = await sessions.find(session, "one")
        return RunRequirements.of(task, run), Candidate.of(
            row, row.id in await sessions.busy_session_ids(session, world.ledger.now())
        )


@pytest.mark.floor("D", "A session whose state is not idle is not eligible")
@pytest.mark.floor("D", "A session that is prompting is not eligible")
@pytest.mark.floor("D", "A session that owns an active lease is not eligible")
@pytest.mark.floor("D", "A session of another workspace is not eligible")
@pytest.mark.floor("D", "A session of another channel, or of none, is not eligible")
@pytest.mark.floor("D", "A task of another owner is not offered")
@pytest.mark.floor("D", "A session needs all required capabilities")
async def test_a_wake_and_a_claim_agree_on_whether_a_session_fits_a_run(world: World) -> None:
    empty = await copies.copy(world)
    for (_, pair), row in rows.each(PAIRS.items()):
        with row:
            await empty.restore()
            await _check_wake_and_claim(world, pair)


async def _check_wake_and_claim(world: World, pair: Pair) -> None:
    await world.tasks.register("one", **pair.session)
    if pair.holds:
        await world.tasks.add("held", owner="session:one")
        await world.tasks.claim("one", "1h")
    if pair.report:
        await sessions.report(world.ledger, "one", **pair.report)
    run = await world.tasks.add("the task", **pair.task)
    world.clock.move(pair.silent)
    requirements, candidate = await _seen(world, run.id)

    at_wake = matching.refusal_reason(requirements, candidate, world.ledger.now())

    assert (pair.no in at_wake) if pair.no else (at_wake == "")
    assert bool(at_wake) == bool(pair.no)
    assert (not matching.mismatch_reason(requirements, candidate)) == (not pair.no or pair.later)
    if pair.no:
        with pytest.raises(NothingClaimable, match=pair.at_claim or pair.no):
            await world.tasks.claim("one")
        assert (await world.tasks.run(run.id)).status == "queued"
    else:
        assert (await world.tasks.claim("one")).run.id == run.id


async def test_an_expired_lease_no_longer_blocks_its_session_at_wake_or_claim(world: World) -> None:
    await world.tasks.register("one")
    await world.tasks.add("held")
    await world.tasks.claim("one", "60s")
    run = await world.tasks.add("the task", priority="urgent")
    world.clock.move(timedelta(seconds=60) - INSTANT)
    assert "holds" in matching.refusal_reason(*await _seen(world, run.id), world.ledger.now())
    with pytest.raises(NothingClaimable, match="holds"):
        await world.tasks.claim("one")
    world.clock.move(INSTANT)

    assert matching.refusal_reason(*await _seen(world, run.id), world.ledger.now()) == ""
    assert (await world.tasks.claim("one")).run.id == run.id


# --- order


NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


def _wanted(run_id: str, priority: str, seconds: int) -> RunRequirements:
    task = TaskRow(
        title="x", priority=model.priority_index(priority), created_by="user", created_at=NOON
    )
    run = TaskRunRow(
        id=run_id,
        task_id=task.id,
        status="queued",
        created_at=NOON,
        queued_at=NOON + timedelta(seconds=seconds),
    )
    return RunRequirements.of(task, run)


@pytest.mark.floor("D", "Runs go by priority, then time in the queue, then id")
def test_runs_are_ordered_by_priority_then_time_in_the_queue_then_id() -> None:
    in_order = [
        _wanted("9", "urgent", 50),
        _wanted("8", "high", 40),
        _wanted("3", "medium", 10),
        _wanted("4", "medium", 20),
        _wanted("5", "medium", 20),
        _wanted("1", "low", 0),
    ]
    mixed = [in_order[index] for index in (5, 2, 4, 0, 3, 1)]

    assert sorted(mixed, key=lambda each: each.order) == in_order


@pytest.mark.floor("D", "Preferred capabilities only order the sessions")
def test_sessions_are_ordered_by_preferred_capabilities_then_idle_time_then_name() -> None:
    requirements = RunRequirements("run", 2, NOON, preferred=["sing", "dance"])

    def candidate(name: str, idle: int, *has: str) -> Candidate:
        since = NOON - timedelta(seconds=idle)
        return Candidate(name, NOON, since, capabilities=["dig", *has])

    in_order = [
        candidate("both", 1, "dance", "sing"),
        candidate("one, longer", 9, "sing"),
        candidate("one, less long", 5, "dance"),
        candidate("a", 7),
        candidate("b", 7),
        candidate("none, the least", 0),
    ]
    mixed = [in_order[index] for index in (4, 5, 1, 3, 0, 2)]

    assert sorted(mixed, key=lambda each: matching.preference(requirements, each)) == in_order
