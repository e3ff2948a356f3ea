"""Runs whose worker has ended with all its processes: they do not wait for the end of a lease."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

import pytest

from daybook.ledger.states import Status
from daybook.runs import holders, leases
from daybook.runs.claim_requests import Granted, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio

HERE = f"{socket.gethostname()}:1:one"


async def all_of_them(held: Collection[str]) -> Collection[str]:
    return held


async def test_a_claimed_run_of_an_ended_worker_may_start_at_once(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    old = await world.runs.claimed(claim_request)

    (changed,) = await leases.release_ended(world.ledger, all_of_them)

    row = await world.runs.row(old.run_id)
    assert changed.id == row.id
    assert (row.status, row.until, row.holder) == ("waiting", world.clock.now(), "")
    assert isinstance(await world.runs.claim(claim_request), Granted)


async def test_a_begun_run_of_an_ended_worker_is_unknown_and_a_late_outcome_counts(
    world: World,
) -> None:
    granted = await world.runs.running(await world.jobs.add())
    await leases.release_ended(world.ledger, all_of_them)
    row = await world.runs.row(granted.run_id)
    assert (row.status, row.reason) == ("unknown", "here:1 has ended")
    # It was in the spool of a run's process.
    assert await world.runs.finish(granted, Status.SUCCEEDED) is Status.SUCCEEDED


async def test_a_run_with_a_rerun_left_keeps_its_lease(world: World) -> None:
    stored = await world.jobs.add(every="1h", on_lost="rerun")
    granted = await world.runs.running(stored)
    assert await leases.release_ended(world.ledger, all_of_them) == []
    assert (await world.runs.row(granted.run_id)).status == "running"


async def test_the_slots_of_an_ended_worker_are_free(world: World) -> None:
    first = await world.runs.running(await world.jobs.add())
    stored = await world.jobs.add(name="other", every="1h")
    second = world.runs.claim_request(stored, most=1)
    world.clock.set(max(second.due, world.clock.now()))
    refused = await world.runs.claim(second)
    assert isinstance(refused, Waiting)
    assert refused.why.startswith("1 of 1 runs are active")
    await leases.release_ended(world.ledger, all_of_them)
    assert (await world.runs.row(first.run_id)).status == "unknown"
    world.clock.move(timedelta(seconds=31))
    assert isinstance(await world.runs.claim(second), Granted)


async def test_runs_of_other_holders_are_not_touched(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    asked = list[Collection[str]]()

    async def none_of_them(held: Collection[str]) -> Collection[str]:
        asked.append(held)
        return ()

    assert await leases.release_ended(world.ledger, none_of_them) == []
    assert asked == [{"here:1"}]
    assert (await world.runs.row(granted.run_id)).status == "running"


# --- the locks


def test_a_holder_has_ended_when_the_last_process_with_its_lock_has(tmp_path: Path) -> None:
    descriptor = holders.lock(tmp_path / "holders", HERE)
    assert descriptor is not None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[descriptor]) as run:
        assert holders.find_ended(tmp_path / "holders", [HERE]) == set()
        os.close(descriptor)  # as at the end of the worker
        assert holders.find_ended(tmp_path / "holders", [HERE]) == set()
        run.kill()
    assert holders.find_ended(tmp_path / "holders", [HERE]) == {HERE}


def test_a_holder_without_a_file_or_of_another_machine_is_not_known_to_have_ended(
    tmp_path: Path,
) -> None:
    there = "elsewhere:1:one"
    assert holders.find_ended(tmp_path, [HERE, there]) == set()
    for name in (HERE, there):
        descriptor = holders.lock(tmp_path, name)
        assert descriptor is not None
        os.close(descriptor)
    assert holders.find_ended(tmp_path, [HERE, there]) == {HERE}


def test_the_copy_of_a_home_does_not_say_that_a_holder_has_ended(tmp_path: Path) -> None:
    descriptor = holders.lock(tmp_path / "home", HERE)
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    assert holders.find_ended(tmp_path / "copy", [HERE]) == set()
    assert descriptor is not None
    os.close(descriptor)


def test_the_files_of_ended_holders_without_runs_are_deleted(tmp_path: Path) -> None:
    ended, living = (holders.lock(tmp_path, f"{HERE}{number}") for number in range(2))
    assert ended is not None and living is not None
    os.close(ended)
    assert holders.find_ended(tmp_path, []) == set()
    assert [each.name for each in tmp_path.iterdir()] == [f"{HERE}1"]
    os.close(living)


def test_a_worker_that_cannot_write_its_file_keeps_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write)
        assert holders.lock(tmp_path, HERE) is None
    assert len(os.listdir("/proc/self/fd")) == before
    assert holders.find_ended(tmp_path, [HERE]) == set()


def test_without_a_place_for_the_file_a_worker_runs_without_a_lock(tmp_path: Path) -> None:
    (tmp_path / "holders").write_text("")
    assert holders.lock(tmp_path / "holders", HERE) is None
