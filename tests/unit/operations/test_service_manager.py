"""What `up` reports to the service manager that started it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from daybook.errors import LedgerUnreachable
from daybook.keeper import leader_lease, leadership
from daybook.keeper.leader_lease import LEADERSHIP_NAME, Leader
from daybook.operations import service_manager
from daybook.operations.service_manager import ServiceManager
from daybook.timing import TIMING
from tests import rows
from tests.world import World

pytestmark = pytest.mark.anyio


class Receiver:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    async def next(self) -> str:
        async with asyncio.timeout(30):
            return (await asyncio.get_running_loop().sock_recv(self.socket, 100)).decode()

    def waiting(self) -> int:
        """Return the number of reports that were not read, and read them."""
        count = 0
        while True:
            try:
                self.socket.recv(100)
            except BlockingIOError:
                return count
            count += 1


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    received = Receiver(str(tmp_path / "notify"))
    yield received
    received.socket.close()


def test_the_variables_are_for_this_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for pid, seconds in ((str(os.getpid()), 2.5), ("", 2.5), ("1", 0.0)):
        monkeypatch.setenv("NOTIFY_SOCKET", "@name")
        monkeypatch.setenv("WATCHDOG_USEC", "2500000")
        monkeypatch.setenv("WATCHDOG_PID", pid)
        assert ServiceManager.take_from_environment() == ServiceManager("@name", seconds)
        assert not os.environ.keys() & set(service_manager.VARIABLES)
    assert ServiceManager.take_from_environment() == ServiceManager()


async def test_a_state_reaches_a_socket_of_a_file_and_an_abstract_one(receiver: Receiver) -> None:
    ServiceManager(receiver.socket.getsockname()).notify("READY=1")
    assert await receiver.next() == "READY=1"
    abstract = Receiver(f"\0daybook-{os.getpid()}")
    ServiceManager(f"@daybook-{os.getpid()}").notify("READY=1")
    assert await abstract.next() == "READY=1"
    abstract.socket.close()


def test_without_a_manager_nothing_is_sent(tmp_path: Path) -> None:
    ServiceManager().notify("READY=1")
    ServiceManager(str(tmp_path / "gone")).notify("READY=1")


async def test_up_is_alive_while_the_services_of_the_leader_run(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_manager, "MAX_SILENCE_SECONDS", 0.1)
    manager = ServiceManager(receiver.socket.getsockname(), watchdog_seconds=0.08)
    fence = await leader_lease.acquire(world.ledger, LEADERSHIP_NAME, leadership.new_holder())
    assert fence is not None
    reads = list[asyncio.Event]()
    read = leader_lease.read

    async def counted(*given: object) -> leader_lease.Leader | None:
        for each in reads:
            each.set()
        return await read(world.ledger, LEADERSHIP_NAME)

    monkeypatch.setattr(leader_lease, "read", counted)
    reporting = asyncio.create_task(manager.report_alive(world.ledger))
    try:
        for cycle in range(5):  # a new record is a sign of life, whatever its time is
            receiver.waiting()
            await leader_lease.renew(world.ledger, LEADERSHIP_NAME, fence, {"passes": cycle})
            assert await receiver.next() == "WATCHDOG=1"

        silent_reads = 0  # the lease is renewed, but no service runs
        while silent_reads < 3:
            await leader_lease.renew(world.ledger, LEADERSHIP_NAME, fence, {"passes": 4})
            reads[:] = [asyncio.Event()]
            await reads[0].wait()
            silent_reads = 0 if receiver.waiting() else silent_reads + 1

        async def unreachable(*given: object) -> None:
            raise LedgerUnreachable("the ledger", "no answer")

        monkeypatch.setattr(leader_lease, "read", unreachable)  # a restart would not help
        for _ in range(3):
            assert await receiver.next() == "WATCHDOG=1"
    finally:
        reporting.cancel()


async def test_up_is_alive_while_a_restart_repairs_nothing(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart frees no disk, and does not reach a leader that hangs on another machine."""
    monkeypatch.setattr(service_manager, "MAX_SILENCE_SECONDS", 0.01)
    manager = ServiceManager(receiver.socket.getsockname(), watchdog_seconds=0.08)
    now, cycles = world.ledger.now(), asyncio.Queue[None]()
    leader, why = Leader("", now, {}), ""

    async def read(*given: object) -> Leader:  # its record never changes
        cycles.put_nowait(None)
        return leader

    async def why_unwritable() -> str:
        return why

    async def reports() -> list[int]:
        """Return the number of reports in each of three cycles."""
        async with asyncio.timeout(30):
            for _ in range(cycles.qsize() + 2):  # the cycles before the test's last change
                await cycles.get()
            receiver.waiting()
            counts = list[int]()
            for _ in range(3):
                await cycles.get()
                counts.append(receiver.waiting())
        return counts

    monkeypatch.setattr(leader_lease, "read", read)
    monkeypatch.setattr(world.ledger, "why_unwritable", why_unwritable)
    later, here = now + TIMING.leader_lease, leadership.new_holder()
    cases = (
        (Leader(here, later, {}), "", 0),
        (Leader(here, later, {}), "database or disk is full", 1),
        (Leader(here, later, {}), "database is locked", 0),
        (Leader("elsewhere:1:2a", later, {}), "", 1),
        (Leader("elsewhere:1:2a", now, {}), "", 0),  # a keeper of this machine should lead now
        (Leader("", now, {}), "", 0),
    )
    reporting = asyncio.create_task(manager.report_alive(world.ledger))
    try:
        for (holding, reason, expected), trying in rows.each(cases):
            with trying:
                leader, why = holding, reason
                assert await reports() == [expected] * 3
    finally:
        reporting.cancel()


async def test_without_a_watchdog_nothing_is_reported(world: World, receiver: Receiver) -> None:
    async with asyncio.timeout(5):
        await ServiceManager(receiver.socket.getsockname()).report_alive(world.ledger)
    assert receiver.waiting() == 0


async def test_a_start_and_a_restart_count_as_alive_but_not_for_ever(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_manager, "REPORTS_PER_TIMEOUT", 10_000)
    is_busy = True
    asked = asyncio.Event()

    def ask() -> bool:
        asked.set()
        return is_busy

    reporting = asyncio.create_task(ServiceManager(str(tmp_path / "notify"), 1.0).report_busy(ask))
    try:
        assert await receiver.next() == "WATCHDOG=1"
        monkeypatch.setattr(service_manager, "MAX_BUSY_SECONDS", 0.0)  # it takes too long
        await _asked_twice(asked)
        receiver.waiting()
        await _asked_twice(asked)
        assert receiver.waiting() == 0
        is_busy = False
        monkeypatch.setattr(service_manager, "MAX_BUSY_SECONDS", 60.0)
        await _asked_twice(asked)
        assert receiver.waiting() == 0
        is_busy = True  # the next restart
        assert await receiver.next() == "WATCHDOG=1"
    finally:
        reporting.cancel()


async def _asked_twice(asked: asyncio.Event) -> None:
    for _ in range(2):
        asked.clear()
        await asked.wait()
