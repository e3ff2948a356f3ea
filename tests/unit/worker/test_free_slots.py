"""Free slots: which waiting runs a worker wakes when a run has ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from daybook.ledger.tables import RunRow
from daybook.prefect import scheduled_runs
from daybook.worker.free_slots import FreeSlots
from tests.world import World

pytestmark = pytest.mark.anyio

MOST = 4


class Worker:
    """A worker with ``room`` that remembers all waiting runs but those in ``of_others``."""

    def __init__(self, world: World, room: int | None) -> None:
        self.room, self.of_others, self.of_other_labels = room, set[str | None](), set[str | None]()
        self.handed_out, self.started = set[UUID](), list[UUID]()
        self.slots = FreeSlots(
            world.ledger,
            cast(Any, None),
            cast(Any, SimpleNamespace(hand_out_now=self._hand_out, poll_soon=lambda: None)),
            cast(Any, self),
            most=MOST,
            room=lambda: None if self.room is None else self.room - len(self.handed_out),
            may_start=lambda run: str(run.id) not in self.of_other_labels,
        )

    def waiting(self, row: RunRow) -> Any:
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
    worker.of_others, worker.of_other_labels = {first.flow_run_id}, {third.flow_run_id}
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
