"""Reports of `up` to the service manager that started it (systemd's protocol `sd_notify`).

::

    ready ──► READY=1      every part runs
    alive ──► WATCHDOG=1   several times per `WatchdogSec`, while the leader's services run, and
                           during a restart on another version, in which the process stays
    stop  ──► STOPPING=1

systemd restarts `up` if `up` sends no WATCHDOG=1 for `WatchdogSec`. This happens if the event loop
of `up` hangs, or if no service of the leading keeper has run for `MAX_SILENCE_SECONDS`. `up`
measures this time with the monotonic clock of this machine, from the last change of the leader's
record. After `up` itself was suspended, the time starts again (`liveness.Silence`). So neither a
wrong clock nor a suspended machine causes a restart.

`up` also reports that it is alive if a restart would not help: while the ledger cannot be read or
written, because then the leader's state is unknown, and while a process on another machine leads.
There is one exception: if another process locks the ledger, a restart may help, because that
process may be a hanging child of `up`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from daybook.errors import LedgerUnreachable
from daybook.keeper import leader_lease
from daybook.ledger.engine import Ledger
from daybook.operations import liveness, service_units

MAX_SILENCE_SECONDS = 120.0
"""Maximum time without a change in the leader's record.

The leader's services run every few seconds.
"""
MAX_BUSY_SECONDS = float(service_units.START_TIMEOUT_SECONDS)
"""Maximum time of a start, or of the stop before a restart on another version."""
MAX_REPORT_INTERVAL_SECONDS = 10.0
REPORTS_PER_TIMEOUT = 4
"""Minimum number of reports in the time after which systemd restarts a silent service."""
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables that systemd sets only for the process that it started, not for its children."""


@dataclass(frozen=True)
class ServiceManager:
    """The service manager that started this process.

    ``address`` is the address of the manager's socket; empty without a manager.
    ``watchdog_seconds`` is the time without a report after which the manager restarts the service;
    0 if it never does.
    """

    address: str = ""
    watchdog_seconds: float = 0.0

    @classmethod
    def take_from_environment(cls) -> Self:
        """Return the manager that the environment names; remove `VARIABLES` from there."""
        address, microseconds, pid = (os.environ.pop(name, "") for name in VARIABLES)
        is_watched = microseconds.isdigit() and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if is_watched else 0.0)

    def notify(self, state: str) -> None:
        """Send a state, such as `READY=1`, to the manager.

        Do nothing if there is no manager, or if the manager has ended.
        """
        if not self.address:
            return
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(OSError):
            sender.setblocking(False)
            sender.sendto(state.encode(), name)

    async def report_alive(self, ledger: Ledger) -> None:
        """Send WATCHDOG=1 regularly until cancelled; return at once if the manager has no watchdog.

        Send nothing while the leader's services do not run, unless a restart would not help (see
        the module).
        """
        if not (self.address and self.watchdog_seconds):
            return
        seen: dict[str, Any] | None = None
        silence = liveness.Silence(2 * self._interval_seconds + MAX_REPORT_INTERVAL_SECONDS)
        began = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(self._interval_seconds):
                    leader = await leader_lease.read(ledger, leader_lease.LEADERSHIP_NAME)
                    note = leader.note if leader is not None else {}
                    is_alive = note != seen or _leads_elsewhere(leader, ledger.now())
                    seen = note
                silent_seconds = silence.seconds + time.monotonic() - began
                if not is_alive and silent_seconds >= MAX_SILENCE_SECONDS:
                    async with asyncio.timeout(MAX_REPORT_INTERVAL_SECONDS):
                        why = await ledger.why_unwritable()
                        # If another process locks the database, that process may be a hanging child
                        # of this `up`. A restart ends the child.
                        is_alive = bool(why) and "locked" not in why
            except (LedgerUnreachable, TimeoutError):
                is_alive = True
            seconds, began = time.monotonic() - began, time.monotonic()
            if silence.add(answered=is_alive, seconds=seconds) < MAX_SILENCE_SECONDS:
                self.notify("WATCHDOG=1")
            await asyncio.sleep(self._interval_seconds)

    async def report_busy(self, is_busy: Callable[[], bool]) -> None:
        """Send WATCHDOG=1 during a start, or a restart on another version, while ``is_busy``.

        If ``is_busy`` returns True for `MAX_BUSY_SECONDS`, send nothing more.
        """
        if not (self.address and self.watchdog_seconds):
            return
        began = time.monotonic()
        while True:
            if not is_busy():
                began = time.monotonic()
            elif time.monotonic() - began < MAX_BUSY_SECONDS:
                self.notify("WATCHDOG=1")
            await asyncio.sleep(self._interval_seconds)

    @property
    def _interval_seconds(self) -> float:
        return min(self.watchdog_seconds / REPORTS_PER_TIMEOUT, MAX_REPORT_INTERVAL_SECONDS)


def _leads_elsewhere(leader: leader_lease.Leader | None, now: datetime) -> bool:
    return leader is not None and leader.leads(now) and not leader.is_of_this_machine
