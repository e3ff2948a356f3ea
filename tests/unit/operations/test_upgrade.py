"""When `up` restarts on another version that was installed while it runs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from daybook import __version__
from daybook.ledger import schema
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import Fact, RunRow
from daybook.operations import upgrade
from daybook.runs import history
from tests.world import World

pytestmark = pytest.mark.anyio


class Installed:
    """The installed version as `upgrade.installed` sees it, and what a trial of it says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *seen: str) -> None:
        self._seen = list(seen)
        self.why = ""
        self.trials = list[str]()
        self.said = list[str]()
        monkeypatch.setattr(upgrade, "CHECK_INTERVAL_SECONDS", 0.0)
        monkeypatch.setattr(upgrade, "QUIET_POLL_INTERVAL_SECONDS", 0.001)
        monkeypatch.setattr(upgrade, "installed", self._next)
        monkeypatch.setattr(upgrade, "_try_new_version", self._try)

    def _next(self) -> str:
        self.now = self._seen.pop(0) if len(self._seen) > 1 else self._seen[0]
        return self.now

    async def _try(self) -> tuple[str, str]:
        self.trials.append(self.now)
        return self.now, self.why if self.now == "broken" else ""

    async def until_restart(
        self, ledger: Ledger, has_worker: Callable[[], bool] = lambda: True
    ) -> None:
        async with asyncio.timeout(30):
            await upgrade.until_installed(ledger, "old", self.said.append, has_worker)


async def test_up_restarts_once_an_installation_is_complete(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = Installed(monkeypatch, "old", "", "half", "old", "", "new", "new")

    await installed.until_restart(world.ledger)

    assert installed.trials == ["new"]
    assert installed.said == [
        "Daybook new was installed: restarting when no run is active, at the latest in 5 minutes"
    ]


async def test_a_version_that_does_not_start_is_reported_once_and_not_used(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = Installed(monkeypatch, *["broken"] * 4, "fixed", "fixed")
    installed.why = "it is broken"

    await installed.until_restart(world.ledger)

    assert installed.trials == ["broken", "fixed"]
    assert installed.said[0].endswith("does not start, so this one continues: it is broken")


async def test_a_restart_waits_for_the_end_of_active_runs_but_not_for_waiting_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = Installed(monkeypatch, "new")
    job = await world.jobs.add("brief")
    await world.runs.request(job)
    running = await world.runs.running(await world.jobs.add("long"))
    restarting = asyncio.create_task(installed.until_restart(world.ledger))
    looked, live = asyncio.Queue[None](), history.live

    async def live_and_note(session: AsyncSession) -> Sequence[RunRow]:
        looked.put_nowait(None)
        return await live(session)

    monkeypatch.setattr(history, "live", live_and_note)
    for _ in range(2):  # so the first look has ended
        await looked.get()
    assert not restarting.done()

    await world.runs.finish(running, Status.SUCCEEDED)
    await restarting


async def test_after_an_incompatible_migration_a_restart_waits_for_the_end_of_the_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daybook.ledger.engine.VERIFY_INTERVAL_SECONDS", 0.0)
    await world.runs.running(await world.jobs.add("long"))
    async with world.ledger.write() as session:
        await session.merge(Fact(key=schema.OLDEST_FACT, value="29991231_0001"))
    looks = [True, True, False]

    await Installed(monkeypatch, "new").until_restart(world.ledger, lambda: looks.pop(0))

    assert looks == []


async def test_a_restart_waits_no_longer_than_its_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade, "QUIET_TIMEOUT_SECONDS", 0.01)
    await world.runs.running(await world.jobs.add("long"))

    await Installed(monkeypatch, "new").until_restart(world.ledger)


async def test_a_trial_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "TRIAL_TIMEOUT_SECONDS", 0.0)
    started, create = list[asyncio.subprocess.Process](), asyncio.create_subprocess_exec

    async def create_and_keep(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        started.append(await create(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", create_and_keep)
    assert await upgrade._try_new_version() == ("", "it takes more than 0 s")
    (trial,) = started
    assert trial.returncode == -signal.SIGKILL


@pytest.mark.slow
async def test_this_version_starts_with_its_own_schema_and_not_with_an_unknown_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert await upgrade._try_new_version() == (__version__, "")

    monkeypatch.setattr(schema, "head", lambda: "29991231_0001")
    version, why = await upgrade._try_new_version()
    assert version == ""
    assert "29991231_0001" in why


def test_the_new_version_gets_the_command_and_the_variables_of_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = list[object]()

    def execve(*given: object) -> None:
        started.extend(given)
        raise SystemExit  # as an `exec`, it does not return

    monkeypatch.setattr(sys, "orig_argv", ["python", "-P", "/opt/bin/daybook", "up"])
    monkeypatch.setattr(os, "execve", execve)

    with pytest.raises(SystemExit):
        upgrade.restart({"NOTIFY_SOCKET": "/run/notify"})

    command = [sys.executable, "-P", "/opt/bin/daybook", "up"]
    assert started == [sys.executable, command, {"NOTIFY_SOCKET": "/run/notify"}]
