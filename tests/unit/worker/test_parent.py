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
reader, writer = os.pipe()
worker_is = os.fork()
if worker_is == 0:
    there.close()
    os.close(writer)
    frames, heard, theirs = FrameDecoder(), [], int(os.read(reader, 20))
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
    os.write(writer, str(theirs).encode())
    os._exit(0)
os.waitpid(between, 0)
os.close(writer)
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


OUT_OF_FILES = """
import os, select, socket, sys
from daybook.worker import parent as module
from daybook.worker.messages import FrameDecoder, LaunchRequest
from tests.contract.worker import programs

worker, there = socket.socketpair()
server = module.Parent(
    there, module.ParentConfig(programs.NAME, preload=True, silence=60.0, grace=10.0)
)

def full(*_):
    raise OSError(24, "Too many open files")

module.socket.socketpair = full
output, status = os.pipe()
server._begin(7, LaunchRequest({"id": "x"}, "ours", "end_normally"), output, status)
print(FrameDecoder().feed(worker.recv(1 << 16)))
for each in (output, status):
    try:
        os.close(each)
    except OSError:
        print("closed")
"""


def test_a_start_without_free_descriptors_is_refused_and_does_not_end_the_parent() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", OUT_OF_FILES],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.stderr == ""
    refused = {"number": 7, "refused": "[Errno 24] Too many open files"}
    assert ended.stdout == f"[{refused}]\nclosed\nclosed\n"


FEW_FREE = """
import os, resource, select, socket, sys
from daybook.worker import parent as module
from daybook.worker.messages import FrameDecoder, LaunchRequest, frame
from tests.contract.worker import programs

worker, there = socket.socketpair()
there.setblocking(False)
server = module.Parent(
    there, module.ParentConfig(programs.NAME, preload=True, silence=60.0, grace=10.0)
)
task = LaunchRequest({"id": "x", "code": 3}, "ours", "end_normally").as_json()
frames = FrameDecoder()
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
module.child_setup.load_program(programs.NAME).prepare()

def start(number):
    output, status = os.open(os.devnull, os.O_WRONLY), os.pipe()[1]
    socket.send_fds(worker, [frame({"number": number, "task": task})], [output, status])

for number, free in enumerate((0, 1, 2, 3)):
    start(number)
    # The limit is above the highest descriptor; fill the gaps below it.
    filled = [os.dup(0) for _ in range(20)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(filled) + 1, most))
    while True:
        try:
            filled.append(os.dup(0))
        except OSError:
            break
    for _ in range(free):
        os.close(filled.pop())
    server._receive()
    server._check_children()
    server._enforce_deadlines()
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for each in filled:
        os.close(each)
    print(frames.feed(worker.recv(1 << 16)), server._descriptors)
start(4)
server._receive()
(started,) = frames.feed(worker.recv(1 << 16))
print(started["number"], started["pid"] > 0)
# The child ends while the parent has no free descriptor.
os.waitid(os.P_PID, started["pid"], os.WEXITED | os.WNOWAIT)
filled = [os.dup(0) for _ in range(20)]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(filled), most))
server._check_children()
print(select.select([worker], [], [], 0)[0], server._seconds_to_next_check() < 1)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
server._check_children()
print([each["code"] for each in frames.feed(worker.recv(1 << 16))])
"""


def test_starts_whose_descriptors_the_kernel_dropped_are_refused_and_later_ones_start() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FEW_FREE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.stderr == ""
    refused = "[Errno 24] Too many open files"
    assert ended.stdout.splitlines() == [
        *(f"{[{'number': number, 'refused': refused}]} []" for number in range(4)),
        "4 True",
        "[] True",
        "[3]",
    ]
