"""Lease renewal in a thread of its own: it outlives a blocked flow and ends it if refused."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest
from anyio.lowlevel import checkpoint

from daybook.errors import LedgerUnreachable
from daybook.execution import lease
from daybook.ledger.engine import Ledger
from daybook.processes.ending import wait_shielded
from daybook.runs import leases
from daybook.runs.claim_requests import Granted
from daybook.timing import TIMING
from tests.timings import change
from tests.unit.execution.conftest import ActiveRun

pytestmark = pytest.mark.anyio

SOON = 0.02
SHORT_LEASE = {
    "run_lease": 0.4,
    "run_lease_renewal": 0.1,
    "run_lease_renewal_delay": 0.1,
    "stop_grace": 0.1,
    "worker_record": 0.1,
    "worker_signal": 0.1,
    "lease_check": 0.01,
}
LONG_LEASE = {**SHORT_LEASE, "run_lease": 3600.0, "stop_grace": 2399.8}
"""Timing with a `rerun_stop` of 0.3 s, long before the lease ends."""
NEVER = 3600.0


def _renewer() -> threading.Thread:
    (found,) = [each for each in threading.enumerate() if each.name.startswith("lease-")]
    return found


async def test_a_flow_that_blocks_its_loop_keeps_its_lease(active: ActiveRun) -> None:
    before = active.query("SELECT lease_until FROM runs")

    async with lease.keep_lease(active.ledger.address, active.granted, SOON):
        # This loop is blocked: it runs neither tasks nor callbacks.
        while active.query("SELECT lease_until FROM runs") == before:
            pass

    assert active.query("SELECT lease_until FROM runs") > before


async def test_a_refused_renewal_ends_the_block(active: ActiveRun) -> None:
    with pytest.raises(lease.LeaseLost, match=active.granted.run_id):
        async with lease.keep_lease(active.ledger.address, active.granted, SOON):
            active.take_over()
            await asyncio.Event().wait()

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await checkpoint()


async def test_a_run_declared_lost_ends_its_block(active: ActiveRun) -> None:
    with pytest.raises(lease.LeaseLost):
        async with lease.keep_lease(active.ledger.address, active.granted, SOON):
            active.query("UPDATE runs SET status = 'unknown'")
            await asyncio.Event().wait()


class _LogHandler(logging.Handler):
    """Log handler that signals when ``count`` records have arrived."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left, self.enough = count, threading.Event()
        self.actions: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.actions.add(str(getattr(record, "action", "")))
        self.left -= 1
        if self.left == 0:
            self.enough.set()


async def test_an_unreachable_ledger_does_not_end_the_block(
    active: ActiveRun, tmp_path: Path
) -> None:
    log_handler = _LogHandler(3)
    lease.log.addHandler(log_handler)
    try:
        async with lease.keep_lease(f"sqlite+aiosqlite:///{tmp_path}", active.granted, SOON):
            assert await asyncio.to_thread(log_handler.enough.wait, 30)
    finally:
        lease.log.removeHandler(log_handler)

    assert log_handler.actions == {"renew_unreachable"}


def _with_on_lost(granted: Granted, on_lost: str) -> Granted:
    return replace(granted, parameters={"policy": {"on_lost": on_lost}})


@pytest.mark.parametrize("is_hanging", [False, True])
async def test_a_run_with_on_lost_rerun_ends_before_an_unrenewed_lease_does(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch, is_hanging: bool
) -> None:
    change(monkeypatch, lease, **LONG_LEASE)
    ended = threading.Event()

    async def renew(*_: object) -> bool:
        if is_hanging:
            await asyncio.to_thread(ended.wait)
        raise LedgerUnreachable("here", "locked")

    monkeypatch.setattr(leases, "renew", renew)
    granted = _with_on_lost(active.granted, "rerun")
    with pytest.raises(lease.LeaseNotRenewed, match=granted.run_id):
        async with asyncio.timeout(60), lease.keep_lease(active.ledger.address, granted, SOON):
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()


async def test_a_block_that_cannot_be_cancelled_is_renewed_after_an_outage(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, lease, **LONG_LEASE)
    before = active.query("SELECT lease_until FROM runs")
    reachable, renewed = threading.Event(), threading.Event()
    renew_in_ledger = leases.renew

    async def renew(ledger: Ledger, run_id: str, fence: int) -> bool:
        if not reachable.is_set():
            raise LedgerUnreachable("here", "locked")
        is_renewed = await renew_in_ledger(ledger, run_id, fence)
        renewed.set()
        return is_renewed

    monkeypatch.setattr(leases, "renew", renew)
    granted = _with_on_lost(active.granted, "rerun")
    with pytest.raises(lease.LeaseNotRenewed):
        async with lease.keep_lease(active.ledger.address, granted, SOON):
            # The thread runs until a renewal succeeds; the ledger fails until the cancellation.
            work = asyncio.create_task(asyncio.to_thread(renewed.wait, 60))
            await wait_shielded(work, cancelled=reachable.set)
    assert work.result(), "no renewal while the block was running"
    assert active.query("SELECT lease_until FROM runs") > before


async def test_only_a_run_with_on_lost_rerun_ends_with_an_unrenewed_lease(
    active: ActiveRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, lease, **SHORT_LEASE)
    granted = _with_on_lost(active.granted, "unknown")
    log_handler = _LogHandler(round(2 * SHORT_LEASE["run_lease"] / SOON))
    lease.log.addHandler(log_handler)
    try:
        async with lease.keep_lease(f"sqlite+aiosqlite:///{tmp_path}", granted, SOON):
            assert await asyncio.to_thread(log_handler.enough.wait, 30)
    finally:
        lease.log.removeHandler(log_handler)


@pytest.mark.parametrize("is_repeated", [False, True])
async def test_a_run_with_on_lost_rerun_is_renewed_after_a_suspension_only_if_it_is_not_repeated(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch, is_repeated: bool
) -> None:
    if is_repeated:
        active.take_over()
    before = active.query("SELECT lease_until FROM runs")
    granted = _with_on_lost(active.granted, "rerun")
    # As if the process had been suspended during its first wait.
    times = chain([0.0, 0.0], repeat(TIMING.run_lease.total_seconds()))
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=times.__next__))
    with pytest.raises(lease.LeaseNotRenewed):
        async with lease.keep_lease(active.ledger.address, granted, SOON):
            await asyncio.Event().wait()
    assert (active.query("SELECT lease_until FROM runs") == before) is is_repeated


async def test_renewals_continue_after_an_outage(active: ActiveRun, tmp_path: Path) -> None:
    log_handler = _LogHandler(1)
    lease.log.addHandler(log_handler)
    hidden = active.path.with_suffix(".away")
    try:
        active.path.rename(hidden)
        active.path.symlink_to(tmp_path)  # cannot be opened, and is replaced atomically
        async with lease.keep_lease(active.ledger.address, active.granted, SOON):
            assert await asyncio.to_thread(log_handler.enough.wait, 30)
            hidden.replace(active.path)
            before = active.query("SELECT lease_until FROM runs")
            while active.query("SELECT lease_until FROM runs") == before:
                await checkpoint()
    finally:
        lease.log.removeHandler(log_handler)


async def test_a_block_that_has_ended_is_not_cancelled_by_a_refused_renewal(
    active: ActiveRun,
) -> None:
    # Renewal and finish may coincide: a finished run is not renewed, and that is no error.
    async with lease.keep_lease(active.ledger.address, active.granted, SOON):
        renewer = _renewer()
        active.query("UPDATE runs SET status = 'succeeded'")
        renewer.join(30)  # the refusal is in this loop's queue now
        assert not renewer.is_alive()

    for _ in range(3):
        await checkpoint()


async def test_the_renewal_thread_ends_with_its_block(active: ActiveRun) -> None:
    async with lease.keep_lease(active.ledger.address, active.granted, NEVER):
        renewer = _renewer()
    assert not renewer.is_alive()


async def test_an_error_of_the_block_is_raised(active: ActiveRun) -> None:
    with pytest.raises(ZeroDivisionError):
        async with lease.keep_lease(active.ledger.address, active.granted, NEVER):
            raise ZeroDivisionError


@pytest.mark.parametrize("lost", [False, True])
async def test_a_block_cancelled_from_outside_stays_cancelled(
    active: ActiveRun, lost: bool
) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with lease.keep_lease(active.ledger.address, active.granted, SOON):
            inside.set()
            try:
                await asyncio.Event().wait()
            finally:
                if lost:  # the renewal is refused as well
                    active.take_over()
                    renewer = _renewer()
                    while renewer.is_alive():
                        await checkpoint()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
