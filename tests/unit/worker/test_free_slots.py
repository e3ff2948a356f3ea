"""Free slots: which waiting runs a worker wakes when a run has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import pytest
from anyio.lowlevel import checkpoint

from daybook.ledger.tables import RunRow
from daybook.prefect import scheduled_runs
from daybook.worker import free_slots
from daybook.worker.free_slots import FreeSlots
from tests.world import World

pytestmark = pytest.mark.anyio

MOST = 4


class Worker:
    """A worker with ``room`` that remembers all waiting runs but those in ``of_others``."""

    def __init__(self, world: World, room: int | None, rows: Sequence[RunRow] = ()) -> None:
        self.room, self.of_others = room, set[str | None]()
        self.handed_out, self.started = set[UUID](), list[UUID]()
        self.all_of_ledger = [str(row.flow_run_id) for row in rows]
        self.starting = self.active = self.shown = self.polls = 0
        self.held = list[str]()
        self.releases = list[bool]()
        """For each time at which parked runs may claim: whether a run may get a slot then."""
        self.slots = FreeSlots(
            world.ledger,
            cast(Any, None),
            cast(Any, SimpleNamespace(hand_out_now=self._hand_out, poll_soon=self._poll_soon)),
            cast(Any, self),
            most=MOST,
            room=lambda: None if self.room is None else self.room - len(self.handed_out),
            active=lambda: self.active,
        )

    def show_held(self) -> None:
        self.shown += 1

    def unpark(self) -> None:
        self.releases.append(self.slots.may_get_one())

    @property
    def remembered(self) -> Any:
        own = [each for each in self.all_of_ledger if each not in self.of_others]
        end = self.held.remove
        return SimpleNamespace(
            ids=own, of=self._remembered_of, all_held=self.held, end_hold=end, forget=end
        )

    def _poll_soon(self) -> None:
        self.polls += 1

    def _remembered_of(self, row: RunRow) -> Any:
        if row.flow_run_id in self.of_others:
            return None
        return SimpleNamespace(id=UUID(str(row.flow_run_id)))

    def hand_out(self, run: Any) -> None:
        self.handed_out.add(run.id)

    def _hand_out(self, run: Any) -> None:
        self.started.append(run.id)


async def three_waiting(world: World) -> list[RunRow]:
    """Return three runs that wait for a slot, of which all are free, in the order of their due
    times.
    """
    job = await world.jobs.add(on_demand=True)
    rows = []
    for number in range(3):
        due = world.at(seconds=number - 10)
        row = await world.runs.request(job, world.at(minutes=5))
        changes = {"waits_for": "slot", "due": due, "flow_run_id": str(uuid4())}
        rows.append(await world.runs.set_row(row, **changes))
    return rows


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the ids of the runs that are woken in Prefect."""
    found: list[str] = []

    class Moves:
        due = ()
        done = SimpleNamespace(moved=(), made=())

        def __init__(self, *_: object, **__: object) -> None: ...

        async def do(self, rows: list[RunRow]) -> None:
            found.extend(row.id for row in rows)

    monkeypatch.setattr(scheduled_runs, "_EnsurePass", Moves)
    return found


async def test_a_worker_wakes_only_as_many_of_its_runs_as_it_has_room_for(
    world: World, moved: list[str]
) -> None:
    first, *others = await three_waiting(world)
    worker = Worker(world, room=1)
    await worker.slots.fill()

    assert [str(each) for each in worker.started] == [first.flow_run_id]
    assert worker.handed_out == set(worker.started)
    assert moved == []
    for row in others:  # a wait that is not ended costs nothing
        assert (await world.runs.row(row.id)).until == row.until
    await worker.slots.fill()
    assert len(worker.started) == 1


async def test_a_worker_wakes_the_runs_of_others_in_prefect(world: World, moved: list[str]) -> None:
    first, second, third = await three_waiting(world)
    worker = Worker(world, room=1)
    worker.of_others = {first.flow_run_id, third.flow_run_id}
    await worker.slots.fill()

    assert [str(each) for each in worker.started] == [second.flow_run_id]
    assert moved == [first.id, third.id]


async def test_a_worker_that_drains_wakes_its_runs_in_prefect_for_others(
    world: World, moved: list[str]
) -> None:
    rows = await three_waiting(world)
    worker = Worker(world, room=None)
    await worker.slots.fill()

    assert worker.started == []
    assert moved == [row.id for row in rows]


async def test_a_run_that_is_about_to_claim_takes_the_room_only_once(
    world: World, moved: list[str]
) -> None:
    first, second, third = await three_waiting(world)
    worker = Worker(world, room=2)
    worker.handed_out.add(UUID(str(first.flow_run_id)))
    worker.of_others = {first.flow_run_id}  # its claim has begun, so it is remembered no more
    await worker.slots.fill()

    assert [str(each) for each in worker.started] == [second.flow_run_id]
    assert moved == []
    assert (await world.runs.row(third.id)).until == third.until


async def test_a_worker_that_ends_after_its_runs_still_wakes_the_next_ones(
    world: World, moved: list[str]
) -> None:
    rows = await three_waiting(world)
    worker = Worker(world, room=None)
    worker.slots.fill_soon()
    await worker.slots.wait()

    assert worker.slots.tasks == set()
    assert moved == [row.id for row in rows]


async def waiting_for_room(world: World, *labels: str) -> list[RunRow]:
    """Return runs that wait for room, one with each of these labels of workers."""
    rows = await three_waiting(world)
    for row, label in zip(rows, labels, strict=True):
        parameters = {"policy": {"worker_label": label}}
        await world.runs.set_row(row, waits_for="worker", parameters=parameters)
    return rows


async def test_a_worker_with_room_starts_its_own_runs_that_wait_for_room(
    world: World, moved: list[str]
) -> None:
    """The earlier ones are those of other workers."""
    rows = await waiting_for_room(world, "", "", "")
    worker = Worker(world, 3, rows)
    worker.of_others = {rows[0].flow_run_id, rows[1].flow_run_id}
    for most in (MOST, 1):
        worker.slots._most = most
        worker.started.clear()
        await worker.slots.fill()
        assert (worker.started, moved) == ([UUID(str(rows[2].flow_run_id))], [])
        worker.handed_out.clear()


@pytest.mark.parametrize("room", [0, None])
async def test_a_worker_without_room_wakes_no_run_that_waits_for_room(
    world: World, moved: list[str], room: int | None
) -> None:
    rows = await waiting_for_room(world, "", "", "")
    worker = Worker(world, room, rows)
    await worker.slots.fill()
    assert (worker.started, moved) == ([], [])
    found = await world.runs.rows()
    assert {row.until for row in found} == {row.until for row in rows}


async def test_a_worker_with_room_tries_again_to_start_the_runs_that_it_remembers(
    world: World, moved: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its last run ended, another worker had the slot, or the ledger was unreachable."""
    monkeypatch.setattr(free_slots, "FILL_INTERVAL_SECONDS", 0.0)
    rows = await waiting_for_room(world, "", "", "")
    worker, tries = Worker(world, 0, rows), list[int]()
    wake = scheduled_runs.wake

    async def failing_wake(*arguments: Any, **options: Any) -> list[str]:
        tries.append(len(tries))
        if len(tries) == 1:
            raise ValueError("a proxy's page")
        return await wake(*arguments, **options)

    monkeypatch.setattr(scheduled_runs, "wake", failing_wake)
    keeping = asyncio.create_task(worker.slots.keep())
    for _ in range(50):
        await checkpoint()
    assert tries == []  # it has no room
    assert worker.shown > 0  # but it may hold runs
    worker.room = 1
    async with asyncio.timeout(30):
        while not worker.started:
            await checkpoint()
    assert (worker.started, moved) == ([UUID(str(rows[0].flow_run_id))], [])
    assert not keeping.done()
    keeping.cancel()


async def test_only_the_first_pass_leaves_out_runs_that_were_just_woken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, passes = Worker(world, room=1), list[timedelta | None]()

    async def wake(*_: Any, after: timedelta | None, **__: Any) -> list[str]:
        passes.append(after)
        if len(passes) == 1:
            await worker.slots.fill()  # a run has ended
        return []

    monkeypatch.setattr(scheduled_runs, "wake", wake)
    await worker.slots.fill(after=timedelta(seconds=5))
    assert passes == [timedelta(seconds=5), None]


@pytest.mark.parametrize(
    ("room", "active", "starting", "expected"),
    [(1, 3, 0, True), (1, 2, 1, True), (1, 4, 0, False), (1, 3, 1, False), (0, 0, 0, False)],
)
async def test_a_parked_run_may_get_a_slot_if_the_worker_knows_no_other_use(
    world: World, room: int, active: int, starting: int, expected: bool
) -> None:
    worker = Worker(world, room)
    worker.active, worker.starting = active, starting
    assert worker.slots.may_get_one() is expected


async def test_a_worker_that_drains_gives_parked_runs_no_slot(world: World) -> None:
    assert not Worker(world, room=None).slots.may_get_one()


async def test_waiting_runs_get_the_room_before_parked_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await three_waiting(world)
    worker = Worker(world, room=3)
    wake, meanwhile = scheduled_runs.wake, list[bool]()

    async def watched_wake(*arguments: Any, **options: Any) -> list[str]:
        meanwhile.append(worker.slots.may_get_one())
        return await wake(*arguments, **options)

    monkeypatch.setattr(scheduled_runs, "wake", watched_wake)
    await worker.slots.fill()
    assert (len(worker.started), meanwhile, worker.releases) == (3, [False], [False])
    worker.handed_out.clear()
    assert worker.slots.may_get_one()


async def test_parked_runs_may_claim_although_waiting_ones_cannot_be_woken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wake(*_: Any, **__: Any) -> list[str]:
        raise httpx.ConnectError("away")

    monkeypatch.setattr(scheduled_runs, "wake", wake)
    worker = Worker(world, room=1)
    await worker.slots.fill()
    assert worker.releases == [True]


async def test_a_run_is_held_no_longer_if_it_was_woken_some_seconds_ago_or_waits_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No event of Prefect has reached the worker. It leaves those that it may not start alone."""
    monkeypatch.setattr(free_slots, "FILL_INTERVAL_SECONDS", 0.001)
    rows = waits, woken, just_woken = await three_waiting(world)
    await world.runs.set_row(woken, until=world.at(seconds=-6))
    await world.runs.set_row(just_woken, until=world.at(seconds=-4))
    worker = Worker(world, room=0, rows=rows)
    worker.held = [*worker.all_of_ledger, "started elsewhere"]
    keeping = asyncio.create_task(worker.slots.keep())
    while worker.polls < 2:
        await checkpoint()
    assert worker.held == [waits.flow_run_id, just_woken.flow_run_id]
    keeping.cancel()
    await asyncio.wait({keeping})

    worker.held, worker.of_others = [str(woken.flow_run_id)], {woken.flow_run_id}
    await worker.slots._check_holds(drained=False)
    assert worker.held == [woken.flow_run_id]


async def test_a_worker_that_drains_no_more_finds_the_runs_that_it_held_anew(world: World) -> None:
    rows = await three_waiting(world)
    worker = Worker(world, room=None, rows=rows)
    worker.held = list(worker.all_of_ledger)
    drained = await worker.slots._check_holds(drained=False)
    assert (drained, len(worker.held)) == (True, 3)
    worker.room = 1
    drained = await worker.slots._check_holds(drained)
    assert (drained, worker.held, worker.polls) == (False, [], 3)
