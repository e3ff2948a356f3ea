"""Fixtures: both launchers with the child programs of `programs`; a new parent for each test."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.processes import proc
from daybook.worker.launcher import Launcher
from daybook.worker.messages import LaunchRequest
from daybook.worker.run_process import RunProcess
from tests.contract.worker.programs import ADAPTERS, NAME


@dataclass
class Launching:
    """Launcher and the processes that it started."""

    launcher: Launcher
    folder: Path
    started: list[RunProcess] = field(default_factory=list)

    async def start(self, kind: str, **given: Any) -> RunProcess:
        flow_run = {"id": kind, **given.pop("flow_run", {})}
        began = await self.launcher.start(LaunchRequest(flow_run, "ours", kind, **given))
        self.started.append(began)
        return began

    async def until(self, began: RunProcess, key: str) -> Any:
        """Wait until the process reports the fact ``key``; return its value."""
        async for fact in began.facts():
            if key in fact:
                return fact[key]
        raise AssertionError(f"it ended and reported no {key}: {began.output.read_text()}")


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(adapter: str, tmp_path: Path) -> Callable[..., Launcher]:
    def launcher(**given: Any) -> Launcher:
        return ADAPTERS[adapter](tmp_path / "output", **{"program": NAME, "grace": 1.0, **given})

    return launcher


@pytest.fixture
async def launching(make: Callable[..., Launcher], tmp_path: Path) -> AsyncIterator[Launching]:
    async with make() as launcher:
        yield Launching(launcher, tmp_path / "output")


def living(pids: list[int]) -> list[int]:
    return [pid for pid in pids if proc.find(pid) is not None]


def children(pid: int | None) -> list[int]:
    """Return the pids of a process's children, including ended ones that were not reaped."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


async def wait_until(true: Callable[[], object], within: float = 15.0) -> None:
    """Wait until ``true`` returns a true value; raise TimeoutError after ``within`` seconds."""
    async with asyncio.timeout(within):
        while not true():
            await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=0.02))


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the actions that were logged as warnings or worse."""
    return [r.__dict__["action"] for r in caplog.records if r.levelno >= logging.WARNING]
