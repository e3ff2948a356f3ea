"""Runs of two jobs in one folder: one waits; and the remark that a folder may be half changed."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from daybook import home
from daybook.agents import kinds
from daybook.execution import folders as lookup
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Status
from daybook.processes import locations
from daybook.resources import copies
from daybook.runs import folders
from daybook.runs.claim_requests import Granted, Waiting
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]

PROJECT = "/srv/project"
OFF: dict[str, Any] = {"exclusive_dir": False}


async def job(world: World, name: str, work_dir: str, **fields: Any) -> StoredJob:
    return await world.jobs.add(name, prompt="x", cron="0 * * * *", work_dir=work_dir, **fields)


async def test_a_run_waits_for_the_run_of_another_job_in_its_folder(world: World) -> None:
    one, two = await job(world, "one", PROJECT), await job(world, "two", PROJECT)
    first = await world.runs.running(one)
    request = world.runs.claim_request(two, due=first.due)
    waits = await world.runs.claim(request)
    assert isinstance(waits, Waiting)
    assert waits.why == f"run {first.run_id[:8]} of one works in {PROJECT}"
    assert (await world.runs.row(waits.run_id)).status == Status.WAITING  # not skipped
    await world.runs.finish(first, Status.SUCCEEDED)
    world.clock.move(folders.RETRY_INTERVAL)
    assert isinstance(await world.runs.claim(request), Granted)


@pytest.mark.parametrize(
    ("other", "held", "waiting", "waits"),
    [
        (f"{PROJECT}/docs", {}, {}, True),
        ("/srv", {}, {}, True),
        ("/", {}, {}, True),
        (f"{PROJECT}/../project/", {}, {}, True),
        (f"{PROJECT}-two", {}, {}, False),
        ("", {}, {}, False),
        (PROJECT, OFF, {}, False),
        (PROJECT, {}, OFF, False),
    ],
)
async def test_folders_inside_each_other_are_one_and_exclusive_dir_has_to_be_on(
    world: World, other: str, held: dict[str, Any], waiting: dict[str, Any], *, waits: bool
) -> None:
    one = await job(world, "one", PROJECT, **held)
    two = await job(world, "two", other, **waiting)
    first = await world.runs.running(one)
    answer = await world.runs.claim(world.runs.claim_request(two, due=first.due))
    assert isinstance(answer, Waiting if waits else Granted)


async def test_the_overlap_policy_decides_about_the_runs_of_one_job(world: World) -> None:
    one = await job(world, "one", PROJECT, overlap="allow", session="new")
    first = await world.runs.running(one)
    later = world.runs.claim_request(one, due=first.due + timedelta(hours=1))
    world.clock.move(timedelta(hours=1))
    assert isinstance(await world.runs.claim(later), Granted)


async def test_the_run_that_was_due_first_gets_the_folder(world: World) -> None:
    one, two, three = [await job(world, name, PROJECT) for name in ("one", "two", "three")]
    first = await world.runs.running(one)
    earlier = world.runs.claim_request(two, due=first.due)
    world.clock.move(timedelta(seconds=1))
    later = world.runs.claim_request(await world.runs.request(three))
    assert isinstance(await world.runs.claim(later), Waiting)
    assert isinstance(await world.runs.claim(earlier), Waiting)
    await world.runs.finish(first, Status.SUCCEEDED)
    world.clock.move(folders.RETRY_INTERVAL)
    waits = await world.runs.claim(later)
    assert isinstance(waits, Waiting) and "of two goes first in" in waits.why
    assert isinstance(await world.runs.claim(earlier), Granted)


async def test_a_run_that_waits_for_its_agent_keeps_no_folder_from_others(world: World) -> None:
    one, two, three = [await job(world, name, PROJECT) for name in ("one", "two", "three")]
    await world.runs.running(await job(world, "elsewhere", "/tmp"))
    first = await world.runs.running(one)
    request = world.runs.claim_request(two, due=first.due, max_per_agent={"default": 1})
    assert isinstance(await world.runs.claim(request), Waiting)
    await world.runs.finish(first, Status.SUCCEEDED)
    world.clock.move(folders.RETRY_INTERVAL)
    waits = await world.runs.claim(request)
    assert isinstance(waits, Waiting) and "runs of the agent default are active" in waits.why
    later = world.runs.claim_request(await world.runs.request(three))
    assert isinstance(await world.runs.claim(later), Granted)


async def test_a_run_that_waits_for_its_session_keeps_no_folder_from_others(world: World) -> None:
    one, three = [await job(world, name, PROJECT) for name in ("one", "three")]
    two = await job(world, "two", PROJECT, session_key="shared")
    other = await job(world, "other", "/tmp", session_key="shared")
    first = await world.runs.running(one)
    request = world.runs.claim_request(two, due=first.due)
    assert isinstance(await world.runs.claim(request), Waiting)  # for its folder
    world.clock.move(folders.RETRY_INTERVAL + folders.WAITER_GRACE + timedelta(seconds=1))
    await world.runs.running(other)  # no other run claims the session now
    await world.runs.finish(first, Status.SUCCEEDED)
    waits = await world.runs.claim(request)
    assert isinstance(waits, Waiting) and "session default:shared is busy" in waits.why
    later = world.runs.claim_request(await world.runs.request(three))
    assert isinstance(await world.runs.claim(later), Granted)


async def test_the_folder_of_an_agent_counts_like_the_folder_of_a_job(world: World) -> None:
    one = await job(world, "one", PROJECT)
    two = await world.jobs.add("two", prompt="x", cron="0 * * * *", agent="cc")
    first = await world.runs.running(one)
    own = {folders.agent_key("cc"): f"{PROJECT}/docs", folders.agent_key("other"): "/tmp"}
    request = world.runs.claim_request(two, due=first.due, folders=own)
    assert isinstance(await world.runs.claim(request), Waiting)
    assert (await world.runs.row(two)).work_dir == f"{PROJECT}/docs"


async def test_an_agent_does_not_learn_the_names_of_other_owners_jobs(world: World) -> None:
    private = await job(world, "private", PROJECT)
    of_agent = await job(world, "other", "", owner="agent:coder", agent="coder")
    of_user = await job(world, "third", "", agent="coder")
    own = {folders.agent_key("coder"): PROJECT}
    first = await world.runs.running(private)
    for waiting, why in (
        (of_agent, "another run works in its folder"),
        (of_user, f"run {first.run_id[:8]} of private works in {PROJECT}"),
    ):
        request = world.runs.claim_request(waiting, due=first.due, folders=own)
        waits = await world.runs.claim(request)
        assert isinstance(waits, Waiting) and waits.why == why


@pytest.mark.parametrize(
    ("status", "fields", "remark"),
    [
        (Status.TIMED_OUT, {"error": "too slow"}, "error"),
        (Status.CANCELLED, {}, "reason"),
        (Status.UNKNOWN, {"reason": "the process vanished"}, "reason"),
        (Status.SUCCEEDED, {"output": "Done."}, ""),
    ],
)
async def test_a_run_that_was_cut_short_says_that_its_folder_may_be_half_changed(
    world: World, status: Status, fields: dict[str, Any], remark: str
) -> None:
    granted = await world.runs.running(await job(world, "one", PROJECT))
    await world.runs.finish(granted, status, **fields)
    row = await world.runs.row(granted.run_id)
    text = f"its folder {PROJECT} may be half changed"
    said = {name for name in ("error", "reason") if text in (getattr(row, name) or "")}
    assert said == ({remark} if remark else set())


async def test_a_cut_short_run_without_a_folder_says_nothing_about_one(world: World) -> None:
    granted = await world.runs.running(await job(world, "one", ""))
    await world.runs.finish(granted, Status.CANCELLED)
    assert "folder" not in (await world.runs.row(granted.run_id)).reason


async def test_runs_far_back_in_the_queue_of_a_folder_claim_less_often(world: World) -> None:
    jobs = [await job(world, f"job-{number}", PROJECT) for number in range(15)]
    first = await world.runs.running(jobs[0])
    delays = []
    for waiting in jobs[1:]:
        waits = await world.runs.claim(world.runs.claim_request(waiting, due=first.due))
        assert isinstance(waits, Waiting)
        delays.append((waits.until - world.ledger.now()).total_seconds())
    # Runs with the same due time are in the order of their ids, so their places differ.
    assert min(delays) == 5.0 and max(delays) > 5.0 and max(delays) <= 60.0
    world.clock.move(timedelta(seconds=1))
    last = await world.runs.request(await job(world, "last", PROJECT))
    waits = await world.runs.claim(world.runs.claim_request(last))
    assert isinstance(waits, Waiting)
    assert waits.until - world.ledger.now() == folders.MAX_RETRY_INTERVAL


async def test_a_hanging_folder_delays_only_its_own_runs_and_no_end_of_a_process(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, real_path = threading.Event(), locations.real_path
    asked: list[str] = []

    def slow(path: str) -> str:
        asked.append(path)
        if path == "/dead":
            hangs.wait(60)
        return real_path(path)

    monkeypatch.setattr(locations, "real_path", slow)
    monkeypatch.setattr(lookup, "MAX_LOOKUP_SECONDS", 0.01)
    monkeypatch.setattr(lookup, "_cache", WeakKeyDictionary())
    async with world.ledger.write() as session:
        key = await copies.get_or_create_key(session, home.current_home())
        for name, folder in (("cc", "/"), ("dead", "/dead")):
            ref = (kinds.COMMAND.slug, name)
            await copies.put(
                session, ref, "t", {"work_dir": folder}, key=key, now=world.ledger.now()
            )
    one = world.runs.claim_request(await job(world, "one", "", agent="cc"))
    two = world.runs.claim_request(await job(world, "two", "", agent="dead"))
    of_agents = {folders.agent_key("cc"): "/", folders.agent_key("dead"): "/dead"}
    assert await lookup.of_request(world.ledger, one) == of_agents
    assert "/dead" not in asked
    assert await lookup.of_request(world.ledger, two) == of_agents
    async with asyncio.timeout(30):  # the thread of the look-up is not the executor's
        await asyncio.get_running_loop().shutdown_default_executor()
    hangs.set()


async def test_a_claim_compares_real_paths(world: World, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    link, real = str(tmp_path / "link"), str((tmp_path / "real").resolve())
    async with world.ledger.write() as session:
        key = await copies.get_or_create_key(session, home.current_home())
        for name, data in (("cc", {"work_dir": link}), ("plain", {"command": ["x"]})):
            ref = (kinds.COMMAND.slug, name)
            await copies.put(session, ref, "t", data, key=key, now=world.ledger.now())
    of_job = world.runs.claim_request(await job(world, "one", link))
    of_agent = world.runs.claim_request(await job(world, "two", "", agent="cc"))
    assert await lookup.of_request(world.ledger, of_job) == {link: real}
    assert await lookup.of_request(world.ledger, of_agent) == {folders.agent_key("cc"): real}
