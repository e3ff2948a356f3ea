"""The lock and the record of a home, with real processes that compete for them."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.operations import home_lock
from daybook.processes import children, proc

pytestmark = pytest.mark.anyio

UP = """
import signal, sys
from daybook.home import current_home
from daybook.operations.home_lock import hold

def stop(*_):
    sys.exit(0)

if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, stop)
with hold(current_home(), command="restore" if sys.argv[1] == "restore" else "up"):
    print("held", flush=True)
    while True:
        signal.pause()
"""
FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]


@contextmanager
def another_up(kind: str = "polite") -> Iterator[subprocess.Popen[str]]:
    """Start a process that holds the home of `DAYBOOK_HOME`, and kill it at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", UP, kind], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            yield other
        finally:
            other.kill()


async def begin(home: Home, name: str) -> children.Child:
    return await children.start(
        name, FOREVER, environment=os.environ, log=home.logs / f"{name}.log", folder=home.path
    )


def test_a_second_up_of_the_same_home_is_refused(daybook_home: Home) -> None:
    with (
        another_up() as other,
        pytest.raises(InvalidInput) as caught,
        home_lock.hold(daybook_home, patience=0),
    ):
        pass
    assert caught.value.field == "home"
    assert str(daybook_home.path) in str(caught.value)
    assert other.wait() == -signal.SIGKILL
    with home_lock.hold(daybook_home, patience=0):  # the lock ended with its holder
        pass


def test_reading_the_lock_does_not_block_an_up(daybook_home: Home) -> None:
    with home_lock.hold(daybook_home):
        assert daybook_home.running() is not None
    assert daybook_home.running() is None
    with home_lock.hold(daybook_home) as lock:
        assert lock.pid == os.getpid()


async def test_the_up_file_has_the_running_processes_and_is_private(
    daybook_home: Home,
) -> None:
    with home_lock.hold(daybook_home) as lock:
        assert daybook_home.running() == json.loads(daybook_home.up_file.read_text())
        child = await begin(daybook_home, "worker")
        try:
            lock.add_child(child)
            lock.set_server("http://127.0.0.1:1/api", "http://127.0.0.1:1", own=True)
            lock.set_ready(datetime(2026, 11, 20, 9, tzinfo=UTC))
            running = daybook_home.running()
            assert running is not None
            assert running["pid"] == os.getpid()
            assert running["api_url"] == "http://127.0.0.1:1/api"
            assert running["ui_url"] == "http://127.0.0.1:1"
            assert running["own_server"] is True
            assert running["ready_at"] == "2026-11-20T09:00:00+00:00"
            assert [(c["name"], c["pid"]) for c in running["children"]] == [("worker", child.pid)]
            assert daybook_home.up_file.stat().st_mode & 0o777 == 0o600
            assert daybook_home.up_lock.stat().st_mode & 0o777 == 0o600
        finally:
            await child.terminate()
            lock.remove_child(child)
    assert not daybook_home.up_file.exists()


async def test_the_next_up_ends_the_children_of_a_killed_one(daybook_home: Home) -> None:
    child = await begin(daybook_home, "worker")
    with home_lock.hold(daybook_home) as killed:
        killed.add_child(child)
    # As after `kill -9`: the child still runs, so the file was not removed.
    with home_lock.hold(daybook_home) as following:
        assert [entry.name for entry in following.leftovers] == ["worker"]
        assert [e["name"] for e in json.loads(daybook_home.up_file.read_text())["leftovers"]] == [
            "worker"
        ]
        assert await following.end_leftovers() == ["worker"]
        assert following.leftovers == []
    assert await child.wait() == -signal.SIGTERM
    assert not daybook_home.up_file.exists()


async def test_leftovers_stay_recorded_if_the_next_up_is_killed_too(
    daybook_home: Home,
) -> None:
    child = await begin(daybook_home, "server")
    with home_lock.hold(daybook_home) as first:
        first.add_child(child)
    with home_lock.hold(daybook_home):
        pass
    with home_lock.hold(daybook_home) as third:
        assert await third.end_leftovers() == ["server"]
    assert await child.wait() == -signal.SIGTERM


async def test_a_process_with_a_reused_pid_is_not_ended(daybook_home: Home) -> None:
    stranger = await begin(daybook_home, "stranger")
    try:
        daybook_home.up_file.write_text(
            json.dumps(
                {
                    "pid": os.getpid(),
                    "started": "another life",
                    "children": [
                        {"name": "worker", "pid": stranger.pid, "started": "another life"}
                    ],
                }
            )
        )
        assert await home_lock.stop_running(daybook_home) is False
        assert proc.find(stranger.pid) == stranger.process
        assert stranger.exit_code is None
    finally:
        await stranger.terminate()


async def test_down_ends_the_running_up(daybook_home: Home) -> None:
    with another_up() as other:
        assert await home_lock.stop_running(daybook_home) is True
        assert other.wait() == 0
    assert not daybook_home.up_file.exists()


async def test_down_does_not_end_a_restore(daybook_home: Home) -> None:
    with another_up("restore") as other:
        with pytest.raises(InvalidInput, match="`daybook restore` is already running") as caught:
            await home_lock.stop_running(daybook_home)
        assert caught.value.hint == "wait until it has ended"
        assert other.poll() is None
        with (
            pytest.raises(InvalidInput, match="`daybook restore`"),
            home_lock.hold(daybook_home, patience=0),
        ):
            pass


async def test_down_reports_nothing_if_a_command_only_held_the_lock_for_a_moment(
    daybook_home: Home,
) -> None:
    daybook_home.make()
    reader = os.open(daybook_home.up_lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(reader, fcntl.LOCK_SH)  # as `Home.running` does
    stopping = asyncio.create_task(home_lock.stop_running(daybook_home))
    asyncio.get_running_loop().call_soon(os.close, reader)  # after the first try
    assert await stopping is False


async def test_down_kills_an_up_that_ignores_sigterm(daybook_home: Home) -> None:
    with another_up("deaf") as other:
        assert await home_lock.stop_running(daybook_home, within=0.2) is True
        assert other.wait() == -signal.SIGKILL


async def test_down_without_a_running_up_returns_false_and_creates_nothing(
    daybook_home: Home,
) -> None:
    assert await home_lock.stop_running(daybook_home) is False
    nowhere = Home(daybook_home.path / "nowhere")
    assert await home_lock.stop_running(nowhere) is False
    assert not nowhere.path.exists()


async def test_up_file_entries_of_an_unknown_shape_are_ignored(daybook_home: Home) -> None:
    daybook_home.up_file.write_text('{"children": [{"pid": 1}, "what"], "leftovers": []}')
    with home_lock.hold(daybook_home) as lock:
        assert lock.leftovers == []
