"""The end of a run's process without the parent that would report it."""

from __future__ import annotations

import asyncio
import errno
import sys
from pathlib import Path

import pytest

from daybook.processes import proc
from daybook.processes.proc import Process
from daybook.worker import run_process
from daybook.worker.run_process import RunProcess

pytestmark = pytest.mark.anyio

# It starts a process in a session of its own, and ends when its input does.
LEAVES_A_CHILD = """
import subprocess, sys
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print(child.pid, flush=True)
sys.stdin.read()
"""


async def _forget(imported: list[str]) -> None: ...


async def test_without_its_parent_a_process_leaves_no_descendant_behind(tmp_path: Path) -> None:
    pipe = asyncio.subprocess.PIPE
    head = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LEAVES_A_CHILD, stdin=pipe, stdout=pipe, start_new_session=True
    )
    assert head.stdin is not None
    assert head.stdout is not None
    descendant, process = proc.find(int(await head.stdout.readline())), proc.find(head.pid)
    assert descendant is not None
    assert process is not None
    run = RunProcess(process, tmp_path / "output", -1, _forget)
    watching = asyncio.create_task(run.watch())
    asyncio.get_running_loop().call_soon(head.stdin.close)  # after the first poll
    assert await run.ended() is None
    assert proc.find(descendant.pid, descendant.started) is None
    await watching
    await head.wait()


@pytest.mark.parametrize("way", ["watch", "end"])
async def test_no_process_is_left_although_the_worker_had_no_free_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Processes cannot be looked up before the process has ended, and just after that."""
    pipe = asyncio.subprocess.PIPE
    head = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LEAVES_A_CHILD, stdin=pipe, stdout=pipe, start_new_session=True
    )
    assert head.stdin is not None
    assert head.stdout is not None
    descendant, process = proc.find(int(await head.stdout.readline())), proc.find(head.pid)
    assert descendant is not None
    assert process is not None
    run = RunProcess(process, tmp_path / "output", -1, _forget)
    looks, look = list[bool](), proc.living_processes

    def living_processes() -> dict[int, Process]:
        is_alive = proc.find(process.pid, process.started) is not None
        looks.append(is_alive)
        if looks.count(is_alive) == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        if is_alive and looks.count(True) == 3:
            head.kill()
        return look()

    monkeypatch.setattr(proc, "living_processes", living_processes)
    monkeypatch.setattr(run_process, "_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(run_process, "_REPORT_TIMEOUT_SECONDS", 0.01)
    await (run.watch() if way == "watch" else run.end(0.5))
    assert await run.ended() is None
    assert {True, False} <= set(looks)
    assert proc.find(process.pid, process.started) is None
    assert proc.find(descendant.pid, descendant.started) is None
    await head.wait()
