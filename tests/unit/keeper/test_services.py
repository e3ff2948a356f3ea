"""The keeper's loops and budget, and which requests of Prefect's client are writes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import pytest

from daybook.errors import LedgerUnreachable
from daybook.keeper.cost import MAX_WAIT_SECONDS, CpuBudget
from daybook.keeper.keeper import Keeper
from daybook.keeper.leadership import is_write
from daybook.keeper.services import RUNS, Cycle, Loop, Service, loops
from daybook.keeper.term import Context, ImportProgress, Signal, Term
from daybook.ledger.tables import RunRow
from daybook.runs import counts
from daybook.timing import TIMING
from tests.world import World


class Time:
    """Monotonic clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_cycle_that_costs_less_than_its_share_does_not_wait() -> None:
    time = Time()
    budget = CpuBudget(0.02, 0.2, time)
    for _ in range(1000):
        time.now += 10.0
        budget.spend(0.19)
        assert budget.wait() == 0.0


def test_cycles_that_cost_more_wait_until_the_share_is_kept() -> None:
    time = Time()
    budget = CpuBudget(0.02, 2.0, time)
    began, spent = time.now, 0.0
    for _ in range(1000):
        budget.spend(1.0)
        spent += 1.0
        time.now += max(10.0, budget.wait())

    # In the long run the cost is exactly the share.
    assert spent / (time.now - began) == pytest.approx(0.02, rel=0.01)


def test_an_unused_budget_is_saved_up_to_its_limit() -> None:
    time = Time()
    budget = CpuBudget(0.02, 2.0, time)
    time.now += 1e6
    budget.spend(2.0)
    assert budget.wait() == 0.0
    budget.spend(0.1)
    assert budget.wait() == pytest.approx(5.0)


def test_the_wait_after_one_very_long_cycle_is_limited() -> None:
    budget = CpuBudget(0.02, 2.0, Time())
    budget.spend(3600.0)
    assert budget.wait() == pytest.approx(MAX_WAIT_SECONDS)


@pytest.mark.parametrize(
    ("method", "path", "writes"),
    [
        ("GET", "/api/deployments/1", False),
        ("POST", "/api/deployments/filter", False),
        ("POST", "/api/flow_runs/paginate", False),
        ("POST", "/api/flow_runs/count", False),
        ("POST", "/api/work_pools/daybook/get_scheduled_flow_runs", False),
        ("POST", "/api/deployments/1/schedule", True),
        ("POST", "/api/deployments/1/create_flow_run", True),
        ("POST", "/api/flow_runs/1/set_state", True),
        ("POST", "/api/deployments/", True),
        ("PATCH", "/api/deployments/1", True),
        ("PUT", "/api/deployments/1", True),
        ("DELETE", "/api/deployments/1", True),
        ("DELETE", "/api/deployments/filter", True),
    ],
)
def test_a_request_that_may_change_data_is_a_write(method: str, path: str, writes: bool) -> None:
    assert is_write(method, path) is writes


class Services:
    """Services that record their calls."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def one(
        self,
        name: str,
        result: object = None,
        *,
        error: Exception | None = None,
        required: bool = False,
    ) -> Service:
        async def run() -> object:
            self.ran.append(name)
            if error is not None:
                raise error
            return result

        return Service(name, "", lambda context, term: run, required)


def every(seconds: float, *services: Service) -> Loop:
    return Loop(interval=lambda: timedelta(seconds=seconds), services=services)


NOTHING = cast("Any", None)


async def cycle(keeper: Keeper, loop: Loop, context: Context = NOTHING) -> float | None:
    return await keeper.cycle(loop, loop.start(context, Term()))


@pytest.mark.anyio
@pytest.mark.parametrize("required", [True, False])
async def test_services_after_a_failed_required_one_are_not_run(
    world: World, *, required: bool
) -> None:
    keeper, made = Keeper(world.ledger, "here:1:a"), Services()
    fails = made.one("b", error=LedgerUnreachable("x", "gone"), required=required)
    loop = every(60, made.one("a"), fails, made.one("c"))
    assert await cycle(keeper, loop) is None
    assert made.ran == (["a", "b"] if required else ["a", "b", "c"])
    assert [bool(keeper.costs[name].error) for name in ("a", "b")] == [False, True]


@pytest.mark.anyio
async def test_a_required_service_that_finds_no_work_ends_the_cycle(world: World) -> None:
    keeper, made = Keeper(world.ledger, "here:1:a"), Services()
    loop = every(60, made.one("a", False), made.one("b", False, required=True), made.one("c"))
    assert await cycle(keeper, loop) is None
    assert made.ran == ["a", "b"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "unmirrored", "is_open"),
    [
        ("waiting", False, True),
        ("claimed", False, True),
        ("running", False, True),
        ("succeeded", True, True),
        ("succeeded", False, False),
    ],
)
async def test_the_services_of_runs_work_while_a_run_is_live_or_not_shown_in_prefect(
    world: World, status: str, *, unmirrored: bool, is_open: bool
) -> None:
    async with world.ledger.read() as session:
        assert not await counts.has_open_runs(session)
    now = world.ledger.now()
    row = RunRow(
        occurrence="flow:1",
        kind="webhook",
        trigger="direct",
        status=status,
        unmirrored=unmirrored,
        due=now,
        queued_at=now,
    )
    async with world.ledger.write() as session:
        session.add(row)
    async with world.ledger.read() as session:
        assert await counts.has_open_runs(session) is is_open


@pytest.mark.anyio
async def test_a_service_can_return_the_delay_of_its_next_cycle(world: World) -> None:
    keeper, made = Keeper(world.ledger, "here:1:a"), Services()
    assert await cycle(keeper, every(2, made.one("a", 0.5))) == 0.5
    assert await cycle(keeper, every(2, made.one("a", 3))) is None  # a number of rows


@pytest.mark.anyio
async def test_a_service_can_have_a_timeout_of_its_own(world: World) -> None:
    never = asyncio.Event()
    keeper = Keeper(world.ledger, "here:1:a")
    hangs = Service("a", "", lambda context, term: never.wait, timeout=0.001)
    await cycle(keeper, every(2, hangs))
    assert keeper.costs["a"].error == "timed out after 0.001 s"


@pytest.mark.anyio
async def test_a_loop_with_a_short_interval_waits_longer_after_a_failure(world: World) -> None:
    keeper, made = Keeper(world.ledger, "here:1:a"), Services()
    fails = made.one("a", error=ValueError("x"))
    longer = TIMING.runs_interval.total_seconds()
    assert await cycle(keeper, every(longer / 2, fails)) == longer
    assert await cycle(keeper, every(longer, fails)) is None


def test_the_runs_loop_drains_first_and_reads_ends_before_it_ensures_runs() -> None:
    names = [each.name for each in RUNS.services]
    assert names[0] == "drain"
    assert names.index("ends") < names.index("ensure")
    assert [each.name for each in RUNS.services if each.required] == ["open", "ends"]
    leaders = [each.name for loop in loops() if not loop.everywhere for each in loop.services]
    assert len(leaders) == len(set(leaders))  # each has its own entry in `daybook status`


def test_the_audit_goes_no_further_than_the_ends_in_prefect_were_read() -> None:
    first, read_to, last = (datetime(2026, 1, 15, hour, tzinfo=UTC) for hour in (8, 9, 10))
    observed = {"early": first, "late": last}
    assert ImportProgress(observed).known() == {}
    done = ImportProgress(observed, ends_read=read_to)
    assert done.known() == {"early": first, "late": read_to}


def test_services_share_only_the_context_and_the_state_of_the_term() -> None:
    ledger, client, supervised = [cast("Any", object()) for _ in range(3)]
    signals = dict.fromkeys(Signal, NOTHING)
    context = Context(ledger, client, "here:1", supervised, signals)
    services = [each for loop in loops() for each in loop.services]
    own, users = list[object](), dict[str, set[str]]()
    for term in (Term(1), Term(2)):
        shared = {id(state): name for name, state in vars(term).items()}
        common = {id(each) for each in (context, *vars(context).values())}
        for service in services:
            bound = service.start(context, term)
            assert isinstance(bound, partial)
            for each in (*bound.args, *bound.keywords.values()):
                if name := shared.get(id(each)):
                    users.setdefault(name, set()).add(service.name)
                elif id(each) not in common:
                    own.append(each)
    assert users == {
        "imports": {"observe", "unread", "audit", "ping"},
        "excluded": {"ends", "ensure"},
        "alerts": {"alarm", "ping"},
    }
    assert len({id(each) for each in own}) == len(own) > 2 * 9


@pytest.mark.anyio
@pytest.mark.parametrize("everywhere", [False, True])
async def test_a_new_term_starts_the_services_of_a_leader_with_new_state(
    world: World, *, everywhere: bool
) -> None:
    keeper, starts = Keeper(world.ledger, "here:1:a"), list[list[int | None]]()
    done = asyncio.Event()
    await keeper.leadership._turn()

    def start(context: Context, term: Term) -> Cycle:
        fences = list[int | None]()
        starts.append(fences)

        async def run() -> None:
            fences.append(term.fence)
            cycles = sum(len(each) for each in starts)
            if cycles == 2:
                await keeper.leadership.release()
                await keeper.leadership._turn()
            if cycles == 4:
                done.set()
                await asyncio.Event().wait()

        return run

    loop = Loop(interval=timedelta, everywhere=everywhere, services=(Service("a", "", start),))
    repeating = asyncio.create_task(keeper._repeat(loop, NOTHING))
    await asyncio.wait_for(done.wait(), 10.0)
    repeating.cancel()
    await asyncio.wait({repeating})
    assert starts == ([[None] * 4] if everywhere else [[1, 1], [2, 2]])
