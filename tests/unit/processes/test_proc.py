from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import pytest

from daybook.processes import proc

FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]


def test_a_process_is_identified_by_its_pid_and_start_time() -> None:
    me = proc.find(os.getpid())
    assert me is not None
    assert me.parent == os.getppid()
    assert proc.find(os.getpid(), me.started) == me
    assert proc.find(os.getpid(), "another life") is None
    assert proc.living_processes()[os.getpid()] == me


def test_a_process_that_has_ended_is_not_found_even_before_it_is_reaped() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.read()  # returns when it has closed its output: it is ending
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped
        assert proc.find(other.pid) is None
        assert other.pid not in proc.living_processes()


def test_a_process_that_cannot_be_looked_up_has_not_ended() -> None:
    lowest_free = os.dup(0)
    os.close(lowest_free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            proc.find(os.getpid())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_signal_is_sent_to_a_process_with_another_start_time() -> None:
    with subprocess.Popen(FOREVER) as other:
        real = proc.find(other.pid)
        assert real is not None
        proc.send_signal([proc.Process(other.pid, "another life")], signal.SIGKILL)
        assert proc.find(other.pid) == real
        proc.send_signal([real], signal.SIGTERM)
        assert other.wait() == -signal.SIGTERM


# A process of root, and one of the user that the script changes to.
TWO_USERS = """
import asyncio, logging, os, signal, sys
from daybook.processes import proc
ready, over = os.pipe()
def start():
    pid = os.fork()
    if not pid:
        os.close(over)
        while True:
            signal.pause()
    return proc.find(pid)
logging.basicConfig(format="%(action)s", stream=sys.stdout)
theirs = start()
keeper = os.fork()
if not keeper:  # still root: ends what is left
    os.close(over)
    os.read(ready, 1)
    os.kill(theirs.pid, signal.SIGKILL)
    os._exit(0)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
own = start()
try:
    proc.send_signal([theirs, own], signal.SIGCONT)
    asyncio.run(proc.kill([theirs, own], within=2.0))
    print(proc.find(theirs.pid) == theirs, proc.find(own.pid), flush=True)
finally:
    if proc.find(own.pid):
        os.kill(own.pid, signal.SIGKILL)
    os.close(over)
    os.waitpid(keeper, 0)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root begins processes of two users")
def test_a_process_of_another_user_does_not_prevent_signals_to_the_others() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TWO_USERS], capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.stderr == ""
    assert ended.stdout == "kill_refused\nTrue None\n"


def test_the_process_tree_of_an_ended_process_is_empty() -> None:
    assert proc.process_tree(proc.Process(os.getpid(), "another life")) == []


@pytest.mark.skipif(sys.platform != "linux", reason="compares ps with /proc")
def test_ps_finds_the_same_process_as_proc() -> None:
    """`ps` is used on systems without /proc; Linux has both."""
    with subprocess.Popen(FOREVER) as other:
        try:
            by_ps = proc._from_ps(other.pid)
            assert list(by_ps) == [other.pid]
            assert by_ps[other.pid].parent == os.getpid()
            assert by_ps[other.pid].group == os.getpgid(other.pid)
            assert by_ps[other.pid] == proc._from_ps()[other.pid]
            assert by_ps[other.pid].started
        finally:
            other.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_children_of_a_process_include_zombies() -> None:
    ended, living = [subprocess.Popen(["cat"], stdin=subprocess.PIPE) for _ in range(2)]
    assert ended.stdin is not None
    ended.stdin.close()
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert {ended.pid, living.pid} <= proc.child_pids(os.getpid())
    ended.wait()
    assert ended.pid not in proc.child_pids(os.getpid())
    living.communicate()
