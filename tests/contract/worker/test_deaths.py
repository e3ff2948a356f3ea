"""The worker, or the process that begins the runs, dies, is stopped, or falls silent."""

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

from daybook.worker import parent_connection
from daybook.worker.launcher import Launcher
from tests.contract.worker.conftest import Launching, actions, becomes, living
from tests.contract.worker.programs import NAME


@contextmanager
def worker(adapter: str, folder: Path, *kinds: str) -> Iterator[tuple[int, list[int]]]:
    """A worker in a process of its own: its pid, and those of all that it began."""
    command = [sys.executable, "-m", NAME, adapter, str(folder), *kinds]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.pid, json.loads(process.stdout.readline())
        finally:
            process.kill()


async def test_what_a_killed_worker_left_ends(adapter: str, tmp_path: Path) -> None:
    with worker(adapter, tmp_path, "waits", "ignores", "begins") as (pid, pids):
        assert living(pids) == pids
        assert len(pids) == 1 + 3 + 3
        os.kill(pid, signal.SIGKILL)
        await becomes(lambda: living(pids) == [], within=15.0)


async def test_runs_end_by_themselves_when_all_that_watch_them_are_killed(
    adapter: str, tmp_path: Path
) -> None:
    with worker(adapter, tmp_path, "waits", "ignores", "begins") as (pid, pids):
        os.kill(pid, signal.SIGSTOP)  # so that it begins no other parent
        os.kill(pids[0], signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        await becomes(lambda: living(pids) == [], within=15.0)


@pytest.mark.slow
async def test_a_killed_parent_leaves_its_children_to_the_worker(
    launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    first, parent = await launching.start("waits"), launching.launcher.pid
    await launching.until(first, "ready")
    assert parent is not None
    os.kill(parent, signal.SIGKILL)
    await becomes(lambda: launching.launcher.pid is None)

    second = await launching.start("ends")
    assert await second.ended() == 0
    assert launching.launcher.pid not in {None, parent}
    assert living([first.pid]) == [first.pid]

    os.kill(first.pid, signal.SIGKILL)
    assert await first.ended() is None
    assert actions(caplog) == ["child_orphaned", "parent_again"]


async def test_one_that_lost_its_parent_can_be_ended(launching: Launching) -> None:
    began = await launching.start("begins")
    pids = await launching.until(began, "begun")
    assert launching.launcher.pid is not None
    os.kill(launching.launcher.pid, signal.SIGKILL)
    await becomes(lambda: launching.launcher.pid is None)
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
    starting = asyncio.create_task(launching.start("ends"))
    await becomes(lambda: launching.launcher.pid is None)
    monkeypatch.setattr(
        parent_connection, "ANSWER_TIMEOUT_SECONDS", 30.0
    )  # of the next one, on a busy machine
    began = await starting
    assert await began.ended() == 0
    assert launching.launcher.pid not in {None, stopped}
    assert actions(caplog) == ["parent_hung", "parent_again"]


@pytest.mark.parametrize("ticks", [False, True])
@pytest.mark.slow
async def test_a_parent_that_takes_nothing_is_replaced(
    make: Callable[..., Launcher],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    ticks: bool,
) -> None:
    """A task that fills the socket of one that is stopped; or ticks have filled it before."""
    async with make(tick=3600.0) as launcher:
        launching, stopped = Launching(launcher, tmp_path / "output"), launcher.pid
        assert stopped is not None
        assert launcher._connection is not None
        os.kill(stopped, signal.SIGSTOP)
        monkeypatch.setattr(parent_connection, "ANSWER_TIMEOUT_SECONDS", 0.3)
        ticking = None
        if ticks:
            ticking = asyncio.create_task(launcher._connection._send({"tick": "x" * 5_000_000}))
            await becomes(launcher._connection._sending.locked)

        task = launching.start("describes", flow_run={"payload": "x" * 5_000_000})
        starting = asyncio.create_task(task)
        await becomes(lambda: launcher.pid is None)
        monkeypatch.setattr(
            parent_connection, "ANSWER_TIMEOUT_SECONDS", 30.0
        )  # of the next one, on a busy machine
        began = await starting

        assert await launching.until(began, "given") == 5_000_000
        assert await began.ended() == 0
        assert launcher.pid not in {None, stopped}
        assert actions(caplog) == ["parent_hung", "parent_again"]
        if ticking is not None:
            with pytest.raises(OSError):
                await ticking


@pytest.mark.slow
async def test_no_signal_but_the_last_ends_the_parent(launching: Launching) -> None:
    """It has to outlive whatever is sent to all, to end the children in their order."""
    parent = launching.launcher.pid
    assert parent is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(parent, number)
    assert await (await launching.start("ends")).ended() == 0
    assert launching.launcher.pid == parent
    assert os.getsid(parent) == parent


async def test_the_runs_of_a_silent_worker_end_and_it_is_told(
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
        assert await (await launching.start("ends")).ended() == 0


@pytest.mark.slow
async def test_the_runs_of_a_worker_that_ticks_go_on(
    make: Callable[..., Launcher], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(tick=0.2, silence=5.0) as launcher:
        launching = Launching(launcher, tmp_path / "output")
        began = await launching.start("waits")
        with pytest.raises(TimeoutError):
            await becomes(began._code.done, within=7.0)
        assert caplog.records == []
        await began.end(0.0)


@pytest.mark.slow
async def test_a_stopped_worker_finds_its_runs_ended(adapter: str, tmp_path: Path) -> None:
    with worker(adapter, tmp_path, "ignores") as (pid, pids):
        os.kill(pid, signal.SIGSTOP)
        parent, child = pids
        try:
            await becomes(lambda: living([child]) == [])
            assert living([parent]) == [parent]
        finally:
            os.kill(pid, signal.SIGCONT)
