"""Escalation: the steps for a run that no session claims, each of which runs once."""

from __future__ import annotations

import json
import signal
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from prefect.events.schemas.events import Event

from daybook.errors import InvalidInput
from daybook.execution.agent_request import actor_of
from daybook.features.tasks import claims, queue, sessions, statistics, worker_requests
from daybook.features.tasks.cycle import cycle
from daybook.features.tasks.notifier import EventRejected, StarvingRun, event_body
from daybook.features.tasks.policy import ESCALATION_STEPS, SchedulerPolicy
from daybook.features.tasks.settings import load_policy
from daybook.features.tasks.tables import TaskRunRow
from daybook.ledger.engine import Ledger
from daybook.owners import acting_as
from daybook.runs import claim_requests
from daybook.runs import claims as claims_of_runs
from daybook.runs.sessions import session_id_of
from daybook.testing import ManualClock
from tests.unit.features.tasks import killed
from tests.unit.features.tasks.cycling import CYCLE, STARVED, Cycling
from tests.world import World

pytestmark = pytest.mark.anyio

PYTHON = {"default": frozenset({"python"})}
TICK = timedelta(microseconds=1)


async def starving(world: World, **fields: Any) -> tuple[Cycling, str]:
    """Add a run that starves from the next cycle on, and a job that may serve as its worker."""
    cycling = Cycling(world, capable=PYTHON)
    await cycling.worker()
    run = await world.tasks.add("review it", capabilities=["python"], **fields)
    world.clock.move(STARVED - CYCLE)
    return cycling, run.id


async def cycles(cycling: Cycling, count: int) -> None:
    for _ in range(count):
        await cycling.cycle(CYCLE)


@pytest.mark.floor("D", "The scheduler never claims")
@pytest.mark.floor("D", "Each step is taken once")
@pytest.mark.floor("D", "StarvationStore: the budget is durable and survives a restart")
async def test_each_escalation_step_runs_once_at_its_cycle_despite_restarts(world: World) -> None:
    cycling, run_id = await starving(world)
    await cycling.there("one", capabilities=["python"])
    await cycling.there("two", capabilities=["python"])
    taken: dict[int, list[str]] = {}
    before: list[str] = []
    for number in range(1, 15):
        world.clock.move(CYCLE)
        # A new scheduler each time, as after a restart: it knows only what the ledger contains.
        async with Ledger(world.ledger.address, world.clock) as ledger:
            await cycling.scheduler(ledger).cycle()
        await cycling.end()
        run = await world.tasks.run(run_id)
        assert run.starved_cycles == number
        if run.tiers != before:
            taken[number], before = run.tiers[len(before) :], run.tiers

    defaults = SchedulerPolicy()
    assert taken == {getattr(defaults, step): [step] for step in ESCALATION_STEPS}
    counted = Counter(each.event for each in await world.tasks.events(run_id))
    once = ("fan_out", "worker_requested", "starved", "needs_attention")
    assert [counted[name] for name in once] == [1, 1, 1, 1]
    assert [(each.run_id, each.cycles) for each in cycling.notified] == [(run_id, 6)]
    (asked,) = await cycling.requests()
    assert (await world.tasks.run(run_id)).spawned_run_id == asked.id
    (alert,) = await cycling.alerts()
    assert (alert.event, alert.status) == ("needs_attention", "delivered")
    assert "review it" in str(alert.subject)
    # A session that registers later may still claim the run.
    run = await world.tasks.run(run_id)
    assert run.status == "queued"
    assert run.attention
    assert (await world.tasks.claim("one")).run.id == run_id


@pytest.mark.floor("D", "MarkRunNeedsAttention: the run says why")
async def test_the_alert_says_since_when_no_session_has_claimed_the_run(world: World) -> None:
    cycling = Cycling(world)
    run = await world.tasks.add()
    expected = f"o session has claimed it since {world.ledger.now():%Y-%m-%dT%H:%M:%S}+00:00"
    world.clock.move(STARVED)
    await cycles(cycling, 12)
    assert (await world.tasks.run(run.id)).attention == f"n{expected}"
    assert (await world.tasks.events(run.id))[-1].reason == f"n{expected}"
    (alert,) = await cycling.alerts()
    assert str(alert.body).splitlines()[0] == f"N{expected}"


@pytest.mark.floor("D", "A run starves exactly at that age")
async def test_a_run_starves_exactly_after_starve_after(world: World) -> None:
    cycling = Cycling(world)
    run = await world.tasks.add()
    await cycling.cycle(STARVED - TICK)
    assert (await world.tasks.run(run.id)).starved_cycles == 0
    await cycling.cycle(TICK)
    assert (await world.tasks.run(run.id)).starved_cycles == 1


@pytest.mark.floor("D", "A starvation age of 0 switches the escalation off")
async def test_a_starve_after_of_zero_disables_escalation(world: World) -> None:
    cycling, run_id = await starving(world)
    cycling.policy = SchedulerPolicy(starve_after=timedelta(0))
    await cycles(cycling, 15)
    run = await world.tasks.run(run_id)
    assert (run.starved_cycles, run.tiers, cycling.notified, cycling.asked) == (0, [], [], 0)


async def test_a_claim_restarts_the_escalation_of_a_run(world: World) -> None:
    cycling, run_id = await starving(world)
    await cycles(cycling, 6)
    await world.tasks.register("late", capabilities=["python"])
    claimed = await world.tasks.claim("late")
    run = await world.tasks.run(run_id)
    assert (run.starved_cycles, run.tiers, run.spawned_run_id) == (0, [], None)

    await claims.release(world.ledger, run_id, claimed.token)
    await world.tasks.register("late")  # without the capability that the task requires
    await cycles(cycling, 6)
    assert (await world.tasks.run(run_id)).tiers == ["request_worker", "starved"]
    first, second = await cycling.requests()
    assert first.occurrence != second.occurrence
    assert cycling.notified[0].event_id != cycling.notified[1].event_id


# --- the worker request


@pytest.mark.floor("D", "RequestWorkerSpawn: a worker with the capabilities is requested")
async def test_a_requested_worker_is_a_job_run_whose_prompt_names_its_session(world: World) -> None:
    cycling, run_id = await starving(world, workspace="w", channel="c", preferred=["sql", "perl"])
    cycling.capable = {"default": frozenset({"python", "sql", "mail"})}
    await cycles(cycling, 4)
    (asked,) = await cycling.requests()
    assert asked.occurrence == claim_requests.request_key(str(asked.job_id), f"task-{run_id}-0")
    assert (asked.status, asked.trigger) == ("waiting", "api")
    prompt = str(asked.parameters["prompt"])
    assert prompt.startswith("Work.\n\n")
    words = prompt.split("task_session_register with ")[1].splitlines()[0]
    assert json.loads(words) == {
        "name": f"worker-{run_id[:8]}-0",
        "type": "worker",
        "workspace": "w",
        "channel": "c",
        "capabilities": ["python", "sql"],
    }


@pytest.mark.parametrize(
    "job", [{}, {"session_key": "shared"}, {"session": "chat", "notify": {"channel": "ops"}}]
)
async def test_each_requested_worker_gets_its_own_session(
    world: World, job: dict[str, Any]
) -> None:
    cycling = Cycling(world, capable=PYTHON)
    stored = await cycling.worker(**job)
    for title in ("one", "two"):
        await world.tasks.add(title, capabilities=["python"])
    world.clock.move(STARVED)
    await cycles(cycling, 4)
    rows = await cycling.requests()
    assert len(rows) == 2
    for row in rows:
        # The flow accepts the parameters.
        asks = stored.job.with_parameters(row.parameters).parameters()
        named = session_id_of(asks, job_id=row.job_id, run_id=row.id, stored=stored)
        assert named == f"default:run:{row.id}"


async def test_at_most_four_requested_workers_run_at_a_time(world: World) -> None:
    cycling = Cycling(world, capable=PYTHON)
    stored = await cycling.worker()
    request = await claims_of_runs.request(world.ledger, stored, "task", "manual")  # no worker
    for number in range(6):
        await world.tasks.add(f"task {number}", capabilities=["python"])
    world.clock.move(STARVED)
    await cycles(cycling, 6)
    rows = [row for row in await cycling.requests() if row.id != request.id]
    assert len(rows) == worker_requests.MAX_CONCURRENT_WORKERS == 4
    # The next worker is requested in the cycle after one of the four has ended.
    await claims_of_runs.cancel(world.ledger, rows[0].id)
    await cycles(cycling, 2)
    again = [row for row in await cycling.requests() if row.id != request.id]
    assert len(again) == 5
    assert sum(row.status == "waiting" for row in again) == 4


async def test_a_run_that_workers_keep_releasing_gets_at_most_three_workers(world: World) -> None:
    cycling, run_id = await starving(world)
    for given_back in range(1, 6):
        await cycles(cycling, 6)
        assert (await world.tasks.run(run_id)).tiers == ["request_worker", "starved"]
        assert len(await cycling.requests()) == min(given_back, worker_requests.MAX_WORKERS_PER_RUN)
        await world.tasks.register("worker", capabilities=["python"])
        claimed = await world.tasks.claim("worker")
        await claims.release(world.ledger, run_id, claimed.token)
        await sessions.remove(world.ledger, "worker")
    prompts = [str(row.parameters["prompt"]) for row in await cycling.requests()]
    names = {each.split('"name": "')[1].split('"')[0] for each in prompts}
    assert names == {f"worker-{run_id[:8]}-{fence}" for fence in range(3)}
    # The other steps still run, and the capabilities are not looked up again and again.
    asked = cycling.asked
    await cycles(cycling, 10)
    assert "needs_attention" in (await world.tasks.run(run_id)).tiers
    assert cycling.asked <= asked + 1


async def test_capabilities_of_agents_are_not_looked_up_for_a_paused_task(world: World) -> None:
    cycling, run_id = await starving(world, paused=True)
    async with world.ledger.write() as session:
        row = await session.get_one(TaskRunRow, run_id)
        row.starved_cycles = 5
    await cycles(cycling, 2)
    assert cycling.asked == 0
    await queue.resume(world.ledger, run_id)
    await cycles(cycling, 1)
    assert cycling.asked == 1


@pytest.mark.floor("D", "ErrSpawnUnresolvable: only that step is skipped")
async def test_without_a_capable_agent_only_the_worker_request_is_skipped(world: World) -> None:
    cycling, run_id = await starving(world)
    cycling.capable = {"default": frozenset({"mail"})}
    await cycling.there("one", capabilities=["python"])
    for _ in range(10):
        report = await cycling.cycle(CYCLE)
        await cycling.end()
        assert report.errors == []
    assert (await world.tasks.run(run_id)).tiers == ["fan_out", "starved", "needs_attention"]
    assert await cycling.requests() == []


@pytest.mark.floor("D", "CycleResult.SpawnRequested and .SpawnRequestedRunIDs")
@pytest.mark.parametrize("before", [7, 13])
async def test_a_capable_agent_added_after_later_steps_still_gets_a_worker_request(
    world: World, before: int
) -> None:
    cycling, run_id = await starving(world)
    cycling.capable = {}
    await cycles(cycling, before)
    assert ("needs_attention" in (await world.tasks.run(run_id)).tiers) == (before == 13)
    cycling.capable = PYTHON
    report = await cycling.cycle(CYCLE)
    assert report.runs["spawn_requested"] == [run_id]
    await cycles(cycling, 3)
    assert len(await cycling.requests()) == 1


async def test_capabilities_are_looked_up_only_if_a_job_can_serve_as_worker(world: World) -> None:
    cycling = Cycling(world, capable=PYTHON)
    run = await world.tasks.add(capabilities=["python"])
    await cycling.worker("other", tags=[])
    await cycling.worker("off", enabled=False)
    world.clock.move(STARVED)
    await cycles(cycling, 12)
    assert (cycling.asked, (await world.tasks.run(run.id)).tiers) == (
        0,
        ["starved", "needs_attention"],
    )
    await cycling.worker()
    assert (await cycling.cycle(CYCLE)).runs["spawn_requested"] == [run.id]
    assert cycling.asked == 1


async def test_an_unreachable_prefect_delays_the_worker_request_but_not_the_wakes(
    world: World,
) -> None:
    cycling, run_id = await starving(world)
    await cycles(cycling, 3)
    cycling.is_unreachable = True
    await cycling.there("one", capabilities=["python"])
    report = await cycling.cycle(CYCLE)
    assert report.runs["woken"] == [run_id]
    assert "no answer" in report.errors[0]
    assert "request_worker" not in (await world.tasks.run(run_id)).tiers
    cycling.is_unreachable = False
    assert (await cycling.cycle(CYCLE)).runs["spawn_requested"] == [run_id]


@pytest.mark.parametrize(
    "job",
    [
        {"tags": ["other"]},
        {"enabled": False},
        {"agent": "other"},
        {"prompt": None, "url": "https://example.org", "kind": "webhook"},
    ],
)
async def test_only_an_enabled_tagged_prompt_job_of_a_capable_agent_serves_as_worker(
    world: World, job: dict[str, Any]
) -> None:
    cycling = Cycling(world, capable=PYTHON)
    await cycling.worker(**job)
    run = await world.tasks.add(capabilities=["python"])
    world.clock.move(STARVED)
    await cycles(cycling, 6)
    assert await cycling.requests() == []
    assert (await world.tasks.run(run.id)).tiers == ["starved"]


async def test_the_worker_job_whose_agent_has_the_fewest_spare_capabilities_is_chosen(
    world: World,
) -> None:
    cycling = Cycling(
        world, capable={"wide": frozenset({"python", "sql"}), "fit": frozenset({"python"})}
    )
    await cycling.worker("a", agent="wide")
    fit = await cycling.worker("b", agent="fit")
    await world.tasks.add(capabilities=["python"])
    world.clock.move(STARVED)
    await cycles(cycling, 4)
    assert [row.job_id for row in await cycling.requests()] == [fit.id]


async def test_a_job_without_an_existing_agent_does_not_serve_as_worker(world: World) -> None:
    cycling = Cycling(world, capable=PYTHON)
    await cycling.worker(agent="deleted")
    run = await world.tasks.add()  # requires no capability
    world.clock.move(STARVED)
    await cycles(cycling, 6)
    assert await cycling.requests() == []
    assert (await world.tasks.run(run.id)).tiers == ["starved"]


async def test_no_worker_is_requested_for_a_task_that_one_session_owns(world: World) -> None:
    cycling = Cycling(world, capable=PYTHON)
    await cycling.worker()
    run = await world.tasks.add(owner="session:mine")
    world.clock.move(STARVED)
    await cycles(cycling, 10)
    assert (await world.tasks.run(run.id)).tiers == ["starved", "needs_attention"]


@pytest.mark.parametrize(
    ("job_owner", "agent"),
    [("user", "maria"), ("user", "command/maria"), ("agent:maria", "default")],
)
async def test_a_worker_for_the_task_of_an_agent_can_claim_it(
    world: World, job_owner: str, agent: str
) -> None:
    cycling = Cycling(world, capable={name: frozenset() for name in ("default", agent)})
    given: dict[str, Any] = {"prompt": "Work.", "on_demand": True, "tags": ["task-worker"]}
    # Runs of the first two jobs act as other agents.
    await world.jobs.add("a", agent="default", **given)
    await world.jobs.add("b", "agent:otto", agent=agent, **given)
    fit = await world.jobs.add("c", job_owner, agent=agent, **given)
    run = await world.tasks.add(owner="agent:maria")
    world.clock.move(STARVED)
    await cycles(cycling, 4)
    (asked,) = await cycling.requests()
    assert asked.job_id == fit.id
    granted = await world.runs.claimed(asked)
    words = str(asked.parameters["prompt"]).split("task_session_register with ")[1].splitlines()[0]
    with acting_as(actor_of(granted, agent.rpartition("/")[2])):
        await world.tasks.register(**json.loads(words))
        assert (await world.tasks.claim(json.loads(words)["name"])).run.id == run.id


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_worker_is_requested_once_even_if_the_cycle_is_killed(
    world: World, when: killed.When
) -> None:
    cycling, run_id = await starving(world)
    cycling.policy = SchedulerPolicy(fan_out=1, request_worker=2, starved=3)
    await cycles(cycling, 1)
    if when == "after":  # both steps in one cycle, killed after the event was sent
        cycling.policy = SchedulerPolicy(fan_out=3, request_worker=4, starved=5)
        await cycles(cycling, 2)
        cycling.policy = SchedulerPolicy(fan_out=1, request_worker=3, starved=4)
    world.clock.move(CYCLE)
    code = killed.killed(world.ledger.address, world.clock, cycling.policy, when)
    assert code == -signal.SIGKILL
    assert len(await cycling.requests()) == (when == "after")

    await cycles(cycling, 4)
    assert len(await cycling.requests()) == 1
    counted = Counter(each.event for each in await world.tasks.events(run_id))
    assert (counted["worker_requested"], counted["starved"]) == (1, 1)
    # If the event is sent twice, both have the same id, so Prefect sees one event.
    assert len({each.event_id for each in cycling.notified}) == 1


# --- the event


@pytest.mark.floor("D", "CycleResult.StarvedRuns and .StarvedRunIDs")
@pytest.mark.floor("D", "Stats.StarvedRuns")
async def test_a_failed_starved_event_is_sent_again_and_the_cycle_counts_are_kept(
    world: World,
) -> None:
    cycling, run_id = await starving(world)
    await cycles(cycling, 5)
    cycling.is_unreachable = True
    for cycles_then in (6, 7):
        report = await cycling.cycle(CYCLE)
        assert report.count("starved") == 0
        assert "no answer" in report.errors[-1]
        run = await world.tasks.run(run_id)
        assert run.starved_cycles == cycles_then
        assert "starved" not in run.tiers
    async with world.ledger.read() as session:
        stored = await statistics.read(session)
    assert "no answer" in stored.errors[-1].error
    cycling.is_unreachable = False
    report = await cycling.cycle(CYCLE)
    assert report.runs["starved"] == [run_id]
    await cycles(cycling, 3)
    assert [each.cycles for each in cycling.notified] == [8]
    async with world.ledger.read() as session:
        assert (await statistics.read(session)).totals["starved"] == 1


async def test_an_event_that_prefect_rejects_does_not_block_other_events(world: World) -> None:
    bad, good = [await world.tasks.add(name, priority=name) for name in ("high", "low")]
    notified, rejected = list[str](), list[str]()

    async def particular(each: StarvingRun) -> None:
        if each.title == "high":
            rejected.append(each.title)
            raise EventRejected("HTTP 422")
        notified.append(each.title)

    async def capable() -> dict[str, frozenset[str]]:
        return {}

    steps = SchedulerPolicy(fan_out=1, request_worker=2, starved=3)
    world.clock.move(STARVED)
    errors = []
    for _ in range(5):
        report = await cycle(
            world.ledger, policy=steps, notifier=particular, capabilities_of=capable
        )
        errors += report.errors
        world.clock.move(CYCLE)
    assert (rejected, notified) == (["high"], ["low"])  # neither event is sent again
    reasons = []
    for run in (bad, good):
        events = await world.tasks.events(run.id)
        reasons.append([each.reason for each in events if each.event == "starved"])
    assert reasons == [
        ["after 3 cycles; Prefect rejected the event: HTTP 422"],
        ["after 3 cycles"],
    ]
    (error,) = errors
    assert "HTTP 422" in error
    async with world.ledger.read() as session:
        assert (await statistics.read(session)).totals["starved"] == 1


async def test_a_run_claimed_while_its_event_is_sent_restarts_its_escalation(world: World) -> None:
    cycling, run_id = await starving(world)
    await cycles(cycling, 5)
    await world.tasks.register("late", capabilities=["python"])
    notified: list[StarvingRun] = []

    async def slow(each: StarvingRun) -> None:
        notified.append(each)
        await world.tasks.claim("late")

    async def capable() -> dict[str, frozenset[str]]:
        return {}

    world.clock.move(CYCLE)
    await cycle(world.ledger, policy=SchedulerPolicy(), notifier=slow, capabilities_of=capable)
    assert [each.run_id for each in notified] == [run_id]
    assert (await world.tasks.run(run_id)).tiers == []


def test_the_starved_event_is_a_valid_prefect_event() -> None:
    now = ManualClock().now()
    found = StarvingRun("ledger", "run", 2, "task", "Tidy up", 0, ("python",), now, 6, now)
    made = Event.model_validate(event_body(found))
    assert (made.event, made.id) == ("task.starved", found.event_id)
    assert made.resource.id == "daybook.task-run.run"
    assert made.payload["priority"] == "urgent"


# --- runs that do not escalate


async def test_a_paused_task_and_a_task_of_the_user_do_not_escalate(world: World) -> None:
    cycling = Cycling(world)
    task = await world.tasks.add("mine", owner="user")
    paused = await world.tasks.add("paused", paused=True)
    world.clock.move(STARVED)
    await cycles(cycling, 12)
    for run in (task, paused):
        row = await world.tasks.run(run.id)
        assert (row.starved_cycles, row.tiers, row.attention) == (0, [], "")
    await queue.resume(world.ledger, "paused")
    await cycling.cycle(CYCLE)
    assert (await world.tasks.run(paused.id)).starved_cycles == 1


# --- the settings


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"request_worker": 2}, "request_worker"),
        ({"starved": 10}, "needs_attention"),
        ({"fan_out": 0}, "fan_out"),
        ({"needs_attention": -1}, "needs_attention"),
        ({"starve_after": "soon"}, "starve_after"),
        ({"fanout": 2}, "fanout"),
    ],
)
def test_an_invalid_policy_is_refused_with_the_name_of_its_field(
    table: dict[str, Any], field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_TASKS", json.dumps(table))
    with pytest.raises(InvalidInput) as caught:
        load_policy()
    assert caught.value.field == "DAYBOOK_TASKS"
    assert caught.value.problem.startswith(f"{field}: ")


def test_the_policy_is_read_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_TASKS", '{"starve_after": "30s", "wake_url": "https://a.example"}')
    found = load_policy()
    assert found.starve_after == timedelta(seconds=30)
    assert (found.wake_url, found.fan_out) == ("https://a.example", 2)


async def test_a_run_released_while_its_event_is_sent_restarts_its_escalation(world: World) -> None:
    cycling, run_id = await starving(world)
    await cycles(cycling, 5)
    await world.tasks.register("late", capabilities=["python"])

    async def slow(_: StarvingRun) -> None:
        claimed = await world.tasks.claim("late")
        await claims.release(world.ledger, claimed.run.id, claimed.token)

    world.clock.move(CYCLE)
    await cycle(
        world.ledger, policy=SchedulerPolicy(), notifier=slow, capabilities_of=cycling.capabilities
    )

    run = await world.tasks.run(run_id)
    assert (run.status, run.tiers) == ("queued", [])
