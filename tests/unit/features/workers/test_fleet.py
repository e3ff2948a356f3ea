"""`daybook workers`, its operations, tools and findings."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest

import daybook
from daybook.errors import InvalidInput, NotFound
from daybook.features.workers import operations, status
from daybook.features.workers.operations import WorkerState
from daybook.owners import Actor, acting_as
from daybook.runs import workers
from daybook.testing import ManualClock
from daybook.timing import TIMING
from daybook.toolbox import call
from daybook.worker import membership
from tests.unit.runs.fleet import record_of
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger", "daybook_home")]


async def findings() -> list[tuple[str, str]]:
    return [(str(each.severity), each.message) for each in await status.check()]


async def test_a_worker_has_its_active_runs_and_drains_until_it_is_resumed(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    await workers.record(world.ledger, record_of(world, "a-host", limit=3))
    await world.runs.set_row(await world.runs.row(granted.run_id), holder="here:1:a-host")
    client = daybook.Client()

    with acting_as(Actor(user_id="maria", via="mcp")):
        drained = await operations.drain("a-host")

    assert (drained.state, drained.running, drained.limit) == (WorkerState.DRAINING, 1, 3)
    assert drained.drained_by == "maria (mcp)"
    assert drained.drained_at == world.clock.now()
    assert await client.workers.list() == [drained]
    resumed = await client.workers.resume("a-host")
    assert (resumed.state, resumed.drained_at, resumed.drained_by) == ("online", None, "")
    world.clock.move(timedelta(minutes=1))
    assert (await client.workers.list())[0].state == "lost"


async def test_an_unknown_worker_is_refused_with_a_similar_name(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "a-host-2"))
    with pytest.raises(NotFound, match=r'worker "a-host-3" not found .*"a-host-2"'):
        await operations.drain("a-host-3")
    assert (await operations.list_workers())[0].state == "online"


async def test_agents_neither_see_nor_drain_workers(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "a"))
    with acting_as(Actor("agent:ann", via="mcp")):
        for act in (operations.list_workers(), operations.drain("a"), operations.resume("a")):
            with pytest.raises(InvalidInput, match="an agent cannot call this operation"):
                await act


async def test_doctor_names_draining_lost_different_and_skewed_workers(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "gone"))
    world.clock.move(timedelta(minutes=5))
    await workers.record(world.ledger, record_of(world, "a"))
    assert [each for each in await findings() if "gone" in each[1]] == [
        ("warning", "gone has not been seen for 5 minutes")
    ]
    skewed = record_of(world, "b", host="there", version="1.1", clock_ahead_seconds=-2.5)
    await workers.record(world.ledger, skewed)
    await workers.set_draining(world.ledger, "b", by="")
    found = await findings()
    assert ("warning", "b is draining and will start no run") in found
    assert (*("warning", "the workers have different versions: a has 1.0 with Prefect 3.9"),) == (
        found[2][0],
        found[2][1].partition("; ")[0],
    )
    assert ("warning", "the clock of there is 2.5 s behind the ledger's: worker b") in found
    await workers.set_draining(world.ledger, "a", by="")
    assert ("problem", "every worker is draining, so no run starts: a, b") in await findings()


async def test_doctor_names_a_setting_that_differs_between_workers(world: World) -> None:
    zone = {"timezone": "UTC"}
    await workers.record(
        world.ledger, record_of(world, "lost", settings={"timezone": "Asia/Tokyo"})
    )
    world.clock.move(TIMING.run_lease)
    own = {"limits": {"a": 1, "b": 2}, "execution_off": "webhook", **zone}
    await workers.record(world.ledger, record_of(world, "a", settings=own))
    await workers.record(world.ledger, record_of(world, "b", settings=own | {"max_concurrent": 8}))
    same = {"limits": {"b": 2, "a": 1}, "max_concurrent": 4, **zone}
    await workers.record(world.ledger, record_of(world, "c", settings=same))
    await workers.record(world.ledger, record_of(world, "older"))
    title = "the workers have different values of the setting"
    assert [each for each in await findings() if "lost" not in each[1]] == [
        ("problem", f"{title} max_concurrent: 4 on a, c; 8 on b"),
        ("problem", f'{title} execution_off: "webhook" on a, b; "" on c'),
    ]


async def test_a_drained_machine_that_is_switched_off_is_no_finding(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "old"))
    await workers.set_draining(world.ledger, "old", by="")
    world.clock.move(timedelta(minutes=5))
    assert [severity for severity, _ in await findings()] == ["ok"]
    listed = await operations.list_workers()
    assert [(each.name, each.state, each.drained_at is None) for each in listed] == [
        ("old", "lost", False)
    ]


async def test_doctor_reports_a_name_that_two_workers_have(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "x", holder="b:1:1", host="b"))
    began = world.clock.now() - timedelta(seconds=1)
    own = record_of(world, "x", holder="a:1:1", host="a", started_at=began)
    await workers.record(world.ledger, own)
    assert await findings() == [("problem", "two workers have the name x: on a and on b")]


async def test_doctor_names_a_label_that_no_worker_has(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "a", labels=["big"]))
    await world.jobs.add("train", on_demand=True, worker_label="gpu")
    await world.jobs.add("index", on_demand=True, worker_label="big")
    assert await findings() == [
        ("problem", "no worker with the label gpu is online: needed by train")
    ]
    await workers.record(world.ledger, record_of(world, "b", labels=["gpu"]))
    assert [severity for severity, _ in await findings()] == ["ok"]
    await workers.set_draining(world.ledger, "b", by="")
    assert ("problem", "no worker with the label gpu is online: needed by train") in (
        await findings()
    )


async def test_clients_of_the_operator_drain_by_tool(world: World) -> None:
    await workers.record(world.ledger, record_of(world, "a", labels=["gpu"]))
    text = (await call("worker_drain", {"worker": "a"})).text
    assert text == "- a: draining on here, 0 runs active, 100 MB, version 1.0, labels gpu"


async def test_the_record_of_a_worker_has_the_shared_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DAYBOOK_MAX_CONCURRENT", "8")
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "UTC")
    monkeypatch.setenv("DAYBOOK_PING_URL", "https://ping.example/secret")
    own = partial(
        membership.record_of,
        *("a", "here:1:a"),
        limit=None,
        queues=(),
        labels=(),
        clock_ahead=timedelta(0),
        started_at=ManualClock().now(),
        now=ManualClock().now(),
    )
    assert own().settings == {"timezone": "UTC", "max_concurrent": 8}
    monkeypatch.setenv("DAYBOOK_MAX_CONCURRENT", "no number")
    assert own().settings is None
