"""Workers and parent processes that die, are stopped, or fall silent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daybook.runs import holders
from daybook.worker import parent_connection
from daybook.worker.launcher import Launcher
from tests.contract.worker.conftest import Launching, actions, living, wait_until
from tests.contract.worker.programs import HOLDER, NAME


@contextmanager
def worker(adapter: str, folder: Path, *kinds: str) -> Iterator[tuple[int, list[int]]]:
    """Start a worker process; yield its pid and the pids of everything that it started."""
    command = [sys.executable, "-m", NAME, adapter, str(folder), *kinds]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.pid, json.loads(process.stdout.readline())
        finally:
            process.kill()


async def test_the_processes_of_a_killed_worker_end(adapter: str, tmp_path: Path) -> None:
    folder = tmp_path / "holders"
    with worker(adapter, tmp_path, "waits", "ignores", "begins") as (pid, pids):
        assert living(pids) == pids
        assert len(pids) == 1 + 3 + 3
        os.kill(pid, signal.SIGKILL)
        # Its runs may still record their outcomes.
        assert holders.find_ended(folder, [HOLDER]) == set()
        await wait_until(lambda: living(pids) == [], within=15.0)
    assert holders.find_ended(folder, [HOLDER]) == {HOLDER}


async def test_runs_end_if_both_the_worker_and_the_parent_are_killed(
    adapter: str, tmp_path: Path
) -> None:
    with worker(adapter, tmp_path, "waits", "ignores", "begins") as (pid, pids):
        os.kill(pid, signal.SIGSTOP)  # so it starts no new parent
        os.kill(pids[0], signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: living([pid, pids[0]]) == [])
        runs = [pids[1], pids[2], pids[-1]]

        def all_have_ended() -> bool:
            ended = holders.find_ended(tmp_path / "holders", [HOLDER])
            assert not ended or living(runs) == []  # each run has the worker's lock
            return living(pids) == []

        await wait_until(all_have_ended, within=15.0)
    assert holders.find_ended(tmp_path / "holders", [HOLDER]) == {HOLDER}


@pytest.mark.slow
async def test_children_survive_a_killed_parent_and_a_new_parent_is_started(
    launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    first, parent = await launching.start("waits"), launching.launcher.pid
    await launching.until(first, "ready")
    assert parent is not None
    os.kill(parent, signal.SIGKILL)
    await wait_until(lambda: launching.launcher.pid is None)

    second = await launching.start("end_normally")
    assert await second.ended() == 0
    assert launching.launcher.pid not in {None, parent}
    assert living([first.pid]) == [first.pid]

    os.kill(first.pid, signal.SIGKILL)
    assert await first.ended() is None
    assert sorted(actions(caplog)) == ["child_orphaned", "parent_again"]  # in either order


async def test_a_child_can_be_ended_after_its_parent_was_killed(launching: Launching) -> None:
    began = await launching.start("begins")
    pids = await launching.until(began, "children")
    assert launching.launcher.pid is not None
    os.kill(launching.launcher.pid, signal.SIGKILL)
    await wait_until(lambda: launching.launcher.pid is None)
    await began.end(grace=5.0)
    assert await began.ended() is None
    assert living([began.pid, *pids]) == []


async def test_a_parent_that_does_not_answer_is_replaced(
    launching: Launching, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parent_connection, "ANSWER_TIMEOUT_SECONDS", 0.3)
    stopped = launching.launcher.pid
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    starting = asyncio.create_task(launching.start("end_normally"))
    await wait_until(lambda: launching.launcher.pid is None)
    monkeypatch.setattr(
        parent_connection, "ANSWER_TIMEOUT_SECONDS", 30.0
    )  # for the new parent, on a busy machine
    began = await starting
    assert await began.ended() == 0
    assert launching.launcher.pid not in {None, stopped}
    assert actions(caplog) == ["parent_hung", "parent_again"]


@pytest.mark.parametrize("ticks", [False, True])
@pytest.mark.slow
async def test_a_parent_that_reads_nothing_is_replaced(
    make: Callable[..., Launcher],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    ticks: bool,
) -> None:
    """A large task fills the socket of a stopped parent, or ticks have filled it before."""
    async with make(tick=3600.0) as launcher:
        launching, stopped = Launching(launcher, tmp_path / "output"), launcher.pid
        assert stopped is not None
        assert launcher._connection is not None
        os.kill(stopped, signal.SIGSTOP)
        monkeypatch.setattr(parent_connection, "ANSWER_TIMEOUT_SECONDS", 0.3)
        ticking = None
        if ticks:
            ticking = asyncio.create_task(launcher._connection._send({"tick": "x" * 5_000_000}))
            await wait_until(launcher._connection._sending.locked)

        task = launching.start("describes", flow_run={"payload": "x" * 5_000_000})
        starting = asyncio.create_task(task)
        await wait_until(lambda: launcher.pid is None)
        monkeypatch.setattr(
            parent_connection, "ANSWER_TIMEOUT_SECONDS", 30.0
        )  # for the new parent, on a busy machine
        began = await starting

        assert await launching.until(began, "given") == 5_000_000
        assert await began.ended() == 0
        assert launcher.pid not in {None, stopped}
        assert actions(caplog) == ["parent_hung", "parent_again"]
        if ticking is not None:
            with pytest.raises(OSError):
                await ticking


@pytest.mark.slow
async def test_the_parent_survives_sigterm_sigint_and_sighup(launching: Launching) -> None:
    """The parent outlives signals to all processes, so that it can end its children in order."""
    parent = launching.launcher.pid
    assert parent is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(parent, number)
    assert await (await launching.start("end_normally")).ended() == 0
    assert launching.launcher.pid == parent
    assert os.getsid(parent) == parent


async def test_the_parent_ends_the_runs_of_a_silent_worker_and_logs_it(
    make: Callable[..., Launcher], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(tick=3600.0, silence=5.0, grace=0.3) as launcher:
        launching = Launching(launcher, tmp_path / "output")
        obeys, ignores = await launching.start("waits"), await launching.start("ignores")
        for began in (obeys, ignores):
            await launching.until(began, "ready")
        assert await obeys.ended() == -signal.SIGTERM
        assert await ignores.ended() == -signal.SIGKILL
        assert actions(caplog) == ["worker_was_silent"]
        assert await (await launching.start("end_normally")).ended() == 0


@pytest.mark.slow
async def test_the_runs_of_a_worker_that_ticks_continue(
    make: Callable[..., Launcher], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(tick=0.2, silence=5.0) as launcher:
        launching = Launching(launcher, tmp_path / "output")
        began = await launching.start("waits")
        with pytest.raises(TimeoutError):
            await wait_until(began._code.done, within=7.0)
        assert caplog.records == []
        await began.end(0.0)


@pytest.mark.slow
async def test_the_runs_of_a_stopped_worker_end(adapter: str, tmp_path: Path) -> None:
    with worker(adapter, tmp_path, "ignores") as (pid, pids):
        os.kill(pid, signal.SIGSTOP)
        parent, child = pids
        try:
            await wait_until(lambda: living([child]) == [])
            assert living([parent]) == [parent]
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_a_parent_that_uses_too_much_memory_is_replaced_and_its_children_continue(
    make: Callable[..., Launcher], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with make() as launcher:
        launching, parent = Launching(launcher, tmp_path / "output"), launcher.pid
        assert parent is not None
        first = await launching.start("waits")
        await launching.until(first, "ready")
        launcher._max_memory = 1
        second = await launching.start("end_normally")
        assert await second.ended() == 0
        assert launcher.pid not in {None, parent}
        assert living([parent, first.pid]) == [parent, first.pid]
        os.kill(first.pid, signal.SIGKILL)
        assert await first.ended() == -signal.SIGKILL  # from the old parent
        await wait_until(lambda: living([parent]) == [])
        assert actions(caplog) == ["parent_again"]
