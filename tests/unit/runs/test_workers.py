"""Workers: their records, and what a worker that drains or lacks a label may start."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from daybook.errors import NotFound
from daybook.ledger.states import Status
from daybook.ledger.tables import Fact
from daybook.runs import rows, workers
from daybook.runs.claim_requests import ClaimRequest, Granted, Waiting
from daybook.runs.workers import Wanted
from daybook.timing import TIMING
from tests.unit.runs.fleet import record_of
from tests.world import World

pytestmark = pytest.mark.anyio


async def claim_of(world: World, worker: str, **job: str) -> ClaimRequest:
    row = await world.runs.request(await world.jobs.add(on_demand=True, overlap="allow", **job))
    return replace(world.runs.claim_request(row), worker=worker)


async def full_worker(world: World, label: str) -> str:
    """Return a run that waits for room in its worker."""
    claim = await claim_of(world, "full", name=f"full-{label}", worker_label=label)
    labels = (label,) if label else ()
    return str((await refused(world, replace(claim, full=True, labels=labels))).run_id)


async def refused(world: World, request: ClaimRequest) -> Waiting:
    answer = await world.runs.claim(request)
    assert isinstance(answer, Waiting)
    return answer


@pytest.mark.dialect
async def test_a_draining_worker_gets_no_run_until_it_is_resumed_even_after_a_restart(
    world: World,
) -> None:
    await workers.record(world.ledger, record_of(world, "a"))
    request = await claim_of(world, "a")
    await workers.set_draining(world.ledger, "a", by="ann")
    await workers.set_draining(world.ledger, "a", by="bob")  # no change

    # It ends, and starts again.
    await workers.forget(world.ledger, "a", "here:1:a")
    await workers.record(world.ledger, record_of(world, "a", holder="here:2:a"))
    waiting = await world.runs.claim(request)

    assert isinstance(waiting, Waiting)
    assert waiting.why == "the worker a is draining"
    assert waiting.until == world.clock.now() + workers.MIN_RETRY_INTERVAL
    row = await world.runs.row(str(waiting.run_id))
    assert (row.status, row.waits_for) == ("waiting", "no_worker")
    async with world.ledger.read() as session:
        (known,) = await workers.read_all(session, world.clock.now())
    assert known.drain is not None and known.drain.by == "ann"

    await workers.resume(world.ledger, "a")
    assert isinstance(await world.runs.claim(request), Granted)  # earlier than `until`


@pytest.mark.dialect
@pytest.mark.parametrize("event", ["start", "resume"])
@pytest.mark.parametrize("labels", [[], ["big"]])
async def test_a_worker_wakes_the_runs_whose_label_it_has_and_those_without_a_label(
    world: World, event: str, labels: list[str]
) -> None:
    await workers.record(world.ledger, record_of(world, "a", labels=["gpu"]))
    await workers.set_draining(world.ledger, "a", by="")
    runs = {"plain": "", "large": "big", "graphics": "gpu", "old": ""}
    row_ids = dict[str, str]()
    for name, label in runs.items():
        request = await claim_of(world, "a", name=name, worker_label=label)
        row_ids[name] = str((await refused(world, request)).run_id)
    row_ids["full"] = await full_worker(world, "")
    await full_worker(world, "gpu")
    async with world.ledger.write() as session:  # as an older version has written it
        (await rows.get(session, row_ids["old"])).parameters = {"prompt": "Do it"}
    other = record_of(world, "other", labels=labels)
    if event == "resume":
        async with world.ledger.write() as session:
            session.add(Fact(key="worker:other", value=other.model_dump_json()))
        await workers.resume(world.ledger, "other")
    else:
        await workers.record(world.ledger, other)

    now = world.clock.now()
    found = {each.id: each.until for each in await world.runs.rows()}
    woken = [name for name, row_id in row_ids.items() if (found[row_id] or now) <= now]
    assert woken == ["plain", *(["large"] if labels else []), "old", "full"]
    (other_label,) = (until for row_id, until in found.items() if row_id not in row_ids.values())
    assert other_label is not None and other_label > now


async def test_of_many_runs_that_wait_for_a_worker_one_claims_in_each_interval(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "INTERVAL_PER_RUN", timedelta(minutes=6))
    await workers.record(world.ledger, record_of(world, "a"))
    await workers.set_draining(world.ledger, "a", by="")
    requests = [await claim_of(world, "a", name=name) for name in ("one", "two", "three", "four")]

    now = world.clock.now()
    pauses = [(await refused(world, each)).until - now for each in requests]
    many = workers.MAX_INTERVAL_OF_MANY
    assert pauses == [workers.MIN_RETRY_INTERVAL, timedelta(minutes=6), timedelta(minutes=12), many]
    assert many < 3 * workers.INTERVAL_PER_RUN
    # The runs that are due again, such as woken ones, are no longer ahead of each other.
    world.clock.move(many)
    again = (await refused(world, requests[0])).until - world.clock.now()
    assert again == workers.MAX_RETRY_INTERVAL

    await workers.resume(world.ledger, "a")
    assert [isinstance(await world.runs.claim(each), Granted) for each in requests] == [True] * 4


async def test_another_worker_takes_what_a_draining_worker_may_not_start(world: World) -> None:
    for name in ("a", "b"):
        await workers.record(world.ledger, record_of(world, name))
    await workers.set_draining(world.ledger, "a", by="")
    request = await claim_of(world, "a")

    assert (await refused(world, request)).why == "another worker takes it"
    assert isinstance(await world.runs.claim(replace(request, worker="b")), Granted)


async def test_the_runs_that_a_draining_worker_holds_go_on(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "a"))
    request = await claim_of(world, "a")
    granted = await world.runs.running(request)
    await workers.set_draining(world.ledger, "a", by="")
    assert await world.runs.finish(granted, Status.SUCCEEDED) is Status.SUCCEEDED


async def test_only_a_worker_with_the_label_of_a_job_starts_its_runs(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "plain"))
    request = await claim_of(world, "plain", worker_label="gpu")

    assert (await refused(world, request)).why == "no worker with the label gpu is online"

    await workers.record(world.ledger, record_of(world, "gpu", labels=["gpu", "big"]))
    assert (await refused(world, request)).why == "another worker takes it"
    await workers.set_draining(world.ledger, "gpu", by="")
    assert (await refused(world, request)).why == "the worker gpu is draining"
    await workers.resume(world.ledger, "gpu")
    able = replace(request, worker="gpu", labels=("gpu", "big"))
    assert isinstance(await world.runs.claim(able), Granted)


async def test_a_flow_that_claims_for_itself_needs_no_label(world: World) -> None:
    request = await claim_of(world, "", worker_label="gpu")
    assert isinstance(await world.runs.claim(request), Granted)


async def test_a_worker_that_is_not_seen_is_lost_and_then_forgotten(world: World) -> None:
    for name in ("a", "b", "drained"):
        await workers.record(world.ledger, record_of(world, name))
    await workers.set_draining(world.ledger, "drained", by="")

    async def lost() -> dict[str, bool]:
        async with world.ledger.read() as session:
            known = await workers.read_all(session, world.clock.now())
            assert not await workers.anyone_takes(
                session, Wanted("", "medium"), world.clock.now() + TIMING.run_lease, besides=""
            )
        return {each.record.name: each.is_lost for each in known}

    world.clock.move(TIMING.run_lease - timedelta(seconds=1))
    assert await lost() == {"a": False, "b": False, "drained": False}
    world.clock.move(timedelta(seconds=1))
    await workers.record(world.ledger, record_of(world, "a"))
    assert await lost() == {"a": False, "b": True, "drained": True}
    world.clock.move(workers.RETENTION_AGE)
    await workers.record(world.ledger, record_of(world, "a"))
    # A drain is an order of a person, so it lasts much longer.
    assert await lost() == {"a": False, "drained": True}
    world.clock.move(workers.DRAINED_RETENTION_AGE)
    await workers.record(world.ledger, record_of(world, "a"))
    assert await lost() == {"a": False}
    await workers.record(world.ledger, record_of(world, "drained"))
    async with world.ledger.read() as session:
        assert await workers.drains(session) == {}


async def test_the_end_of_a_worker_removes_only_its_own_record(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "a", holder="here:2:a"))
    await workers.forget(world.ledger, "a", "here:1:a")
    async with world.ledger.read() as session:
        assert len(await workers.read_all(session, world.clock.now())) == 1
    await workers.forget(world.ledger, "a", "here:2:a")
    async with world.ledger.read() as session:
        assert await workers.read_all(session, world.clock.now()) == []
    for act in (workers.resume(world.ledger, "a"), workers.set_draining(world.ledger, "a", by="")):
        with pytest.raises(NotFound):
            await act


@pytest.mark.parametrize(
    ("queues", "wanted", "expected"),
    [
        ([], Wanted("", "special"), True),
        (["light"], Wanted("", "medium"), False),
        (["light", "medium"], Wanted("", "medium"), True),
        (["light", "label-gpu"], Wanted("gpu", "label-gpu"), True),
        (["light", "label-gpu"], Wanted("gpu", "medium"), False),  # labelled while it waited
        ([], Wanted("cpu", "label-cpu"), False),
        (["light"], Wanted("", ""), False),  # unknown, so no other worker relies on it
    ],
)
async def test_a_worker_may_take_runs_of_its_queues_with_its_labels(
    world: World, queues: list[str], wanted: Wanted, expected: bool
) -> None:
    record = record_of(world, "a", queues=queues, labels=["gpu"])
    known = workers.KnownWorker.of(record, None, world.clock.now())
    assert known.may_take(wanted) is expected


async def test_the_reason_names_the_queue_that_no_worker_serves(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "a"))
    await workers.record(world.ledger, record_of(world, "b", queues=["light", "medium"]))
    await workers.set_draining(world.ledger, "a", by="")
    request = replace(await claim_of(world, "a"), queue="special")
    assert (await refused(world, request)).why == "the worker a is draining"

    other = replace(request, worker="b", queues=("light", "medium"))
    assert (await refused(world, other)).why == "the worker a is draining"
    await workers.resume(world.ledger, "a")
    assert (await refused(world, other)).why == "another worker takes it"
    await workers.forget(world.ledger, "a", "here:1:a")
    assert (await refused(world, other)).why == "no worker serves the queue special"


async def test_a_draining_worker_cancels_no_run_for_one_that_it_may_not_start(
    world: World,
) -> None:
    stored = await world.jobs.add(every="1m", overlap="cancel_running")
    active = await world.runs.running(stored)
    request = replace(world.runs.claim_request(stored), worker="a")
    world.clock.set(request.due)
    await workers.record(world.ledger, record_of(world, "a"))
    await workers.set_draining(world.ledger, "a", by="")

    waiting = await refused(world, request)

    assert (waiting.why, waiting.cancel) == ("the worker a is draining", ())
    # It also ends no run that waits for its next attempt.
    until = world.clock.now() + timedelta(seconds=30)
    row = await world.runs.row(active.run_id)
    await world.runs.set_row(row, status="waiting", attempts=1, until=until, waits_for="")
    await refused(world, request)
    assert (await world.runs.row(active.run_id)).status == "waiting"


@pytest.mark.dialect
async def test_a_run_without_a_worker_claims_ever_later_and_when_a_worker_appears(
    world: World,
) -> None:
    gpu = record_of(world, "gpu", labels=["gpu"])
    request = await claim_of(world, "plain", worker_label="gpu")

    async def pause() -> float:
        answer = await refused(world, request)
        return (answer.until - world.clock.now()).total_seconds()

    async def is_awake() -> bool:
        (row,) = await world.runs.rows()
        return row.until is not None and row.until <= world.clock.now()

    pauses = list[float]()
    while sum(pauses) < 3600:
        pauses.append(await pause())
        world.clock.move(timedelta(seconds=pauses[-1]))
    assert (pauses[0], pauses[-1]) == (15, 300)
    assert pauses == sorted(pauses)
    assert len(pauses) < 20

    def seen() -> workers.WorkerRecord:
        return gpu.model_copy(update={"seen_at": world.clock.now()})

    await pause()
    await workers.record(world.ledger, record_of(world, "big", labels=["big"]))
    await workers.resume(world.ledger, "big")
    assert not await is_awake()  # that worker lacks the label
    await workers.record(world.ledger, seen())  # its first record
    assert await is_awake()
    await pause()
    await workers.record(world.ledger, seen())
    assert not await is_awake()
    world.clock.move(TIMING.run_lease)
    await workers.record(world.ledger, seen())  # it was lost
    assert await is_awake()
    await workers.set_draining(world.ledger, "gpu", by="")
    await pause()
    assert not await is_awake()
    await workers.resume(world.ledger, "gpu")
    assert await is_awake()


async def test_two_living_processes_with_one_name_find_each_other(world: World) -> None:
    """Each cycle, `a` and then `b` record themselves, as on two machines."""

    async def seen(holder: str, host: str, started_at: datetime) -> str:
        own = record_of(world, "x", holder=holder, host=host, started_at=started_at)
        stored = await workers.record(world.ledger, own)
        return stored.rival.host if stored.rival else ""

    async def is_alone() -> bool:
        async with world.ledger.read() as session:
            return await workers.has_name_alone(session, "x", world.clock.now())

    began = world.clock.now()
    assert await seen("a:1:1", "a", began) == ""
    assert not await is_alone()
    world.clock.move(TIMING.run_lease)
    assert await seen("a:1:1", "a", began) == ""
    assert await is_alone()

    # `b` cannot know yet whether `a` has ended, and crashes none of its runs.
    world.clock.move(timedelta(seconds=10))
    second = world.clock.now()
    assert await seen("b:1:1", "b", second) == ""
    assert not await is_alone()
    for _ in range(6):
        world.clock.move(timedelta(seconds=10))
        assert await seen("a:1:1", "a", began) == "b"
        assert not await is_alone()
        world.clock.move(timedelta(seconds=10))
        assert await seen("b:1:1", "b", second) == "a"
        assert not await is_alone()

    # `a` ends. It is no rival any more when it was not seen for a lease.
    world.clock.move(TIMING.run_lease - timedelta(seconds=11))
    assert await seen("b:1:1", "b", second) == "a"
    assert not await is_alone()
    world.clock.move(timedelta(seconds=1))
    assert await seen("b:1:1", "b", second) == ""
    assert await is_alone()
    world.clock.move(TIMING.run_lease)  # it cannot record itself, and may have missed a rival
    assert not await is_alone()
