"""The parent process that starts runs, next to processes that it may not signal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# A process of root is orphaned to a parent that is not root, and a worker starts two runs.
SCENE = """
import os, select, signal, socket, sys
from daybook.worker.messages import FrameDecoder, LaunchRequest, frame
from daybook.worker.parent import ParentConfig, Parent
from tests.contract.worker import programs

worker, there = socket.socketpair()
told, tell = os.pipe()
worker_is = os.fork()
if worker_is == 0:
    there.close()
    os.close(tell)
    frames, heard, theirs = FrameDecoder(), [], int(os.read(told, 20))
    def until(key):
        while not any(key in each for each in heard):
            assert select.select([worker], [], [], 15)[0], heard
            data = worker.recv(1 << 16)
            assert data, "the parent is gone"
            heard.extend(frames.feed(data))
    try:
        until("ready")
        for number in (1, 2):
            output, status = os.open(os.devnull, os.O_WRONLY), os.pipe()[1]
            task = LaunchRequest({"id": "x", "code": number}, "ours", "end_normally").as_json()
            socket.send_fds(worker, [frame({"number": number, "task": task})], [output, status])
            until("exited")
            print([each["code"] for each in heard if "exited" in each], flush=True)
            heard[:] = [each for each in heard if "exited" not in each]
        print(sum("untouchable" in each for each in heard), flush=True)
    finally:
        os.kill(theirs, signal.SIGKILL)
        worker.close()
    os._exit(0)
worker.close()
server = Parent(there, ParentConfig(programs.NAME, preload=True, silence=60.0, grace=10.0))
between = os.fork()
if between == 0:
    theirs = os.fork()
    if theirs == 0:
        os.setsid()
        while True:
            signal.pause()
    os.write(tell, str(theirs).encode())
    os._exit(0)
os.waitpid(between, 0)
os.close(tell)
# The worker is no child that a run left behind.
import daybook.worker.parent as module
found = module._children
module._children = lambda: found() - {worker_is}
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
server.serve()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root begins processes of two users")
def test_a_process_that_the_parent_may_not_kill_does_not_block_exit_reports() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCENE], capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.stderr == ""
    assert ended.stdout == "[1]\n[2]\n1\n"
