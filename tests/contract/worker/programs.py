"""Actions of the child processes in these tests (`daybook.worker.child_setup.Program`), by kind.

``python -m tests.contract.worker.programs ADAPTER FOLDER KIND…`` runs a worker: it starts a process
of each kind, prints their pids as a line of JSON, and waits until it is killed.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from daybook.runs import holders
from daybook.worker import orphan_guard
from daybook.worker.launcher import Launcher
from daybook.worker.messages import LaunchRequest

NAME = "tests.contract.worker.programs"
HOLDER = f"{socket.gethostname()}:1:of-tests"
"""Holder whose lock the worker has, in `FOLDER/holders`."""
ADAPTERS: dict[str, Callable[..., Launcher]] = {
    "preloaded": partial(Launcher, preload=True),
    "fresh": partial(Launcher, preload=False),
}
_STUBBORN = "import signal as s; s.signal(15, s.SIG_IGN); print(1, flush=True); s.pause()"
STUBBORN = [sys.executable, "-c", _STUBBORN]


def prepare() -> None:
    """Do nothing: the imports above are the preparation."""


def run(task: LaunchRequest, status: int, fresh: bool) -> int:
    if task.folder:
        os.chdir(task.folder)
    if "orphan" in task.flow_run:
        orphan_guard.watch(status, task.parent_pid, grace=1.0)
    return ACTIONS[task.kind](task, Status(status)) or 0


class Status:
    """Pipe on which a child reports facts."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, **facts: object) -> None:
        self.write(json.dumps(facts) + "\n")

    def write(self, text: str) -> None:
        left = text.encode()
        while left:
            left = left[os.write(self._descriptor, left) :]


def end_normally(task: LaunchRequest, tell: Status) -> int:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    return int(task.flow_run.get("code", 0))


def exits_with_text(task: LaunchRequest, tell: Status) -> None:
    sys.exit("no such agent")


def exits(task: LaunchRequest, tell: Status) -> None:
    threading.Thread(target=lambda: print("a thread was waited for")).start()
    atexit.register(lambda: print("exit functions were called"))
    sys.exit(4)


def exits_at_once(task: LaunchRequest, tell: Status) -> None:
    print("printed before")
    os._exit(9)


def raises(task: LaunchRequest, tell: Status) -> None:
    raise LookupError("what was it?")


def is_interrupted(task: LaunchRequest, tell: Status) -> None:
    raise KeyboardInterrupt


def is_killed(task: LaunchRequest, tell: Status) -> None:
    print("printed before")
    os.kill(os.getpid(), signal.SIGKILL)


def is_terminated(task: LaunchRequest, tell: Status) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def tells(task: LaunchRequest, tell: Status) -> None:
    """Report more than a pipe buffer holds, and lines that are not facts."""
    tell(first=1)
    if "short" not in task.flow_run:
        tell.write("not a fact\n[1]\n")
        tell(long="x" * 200_000)
    tell(last=True)


def describes(task: LaunchRequest, tell: Status) -> None:
    """Report the surroundings of the process: ids, folder, descriptors, input, signals."""
    open_now = dict(_descriptors())
    tell(
        pid=os.getpid(),
        knows_parent=task.parent_pid == os.getppid(),
        session=os.getsid(0),
        group=os.getpgid(0),
        folder=os.getcwd(),
        open=list(open_now.values()),
        inheritable=[number for number in open_now if os.get_inheritable(number)],
        stdin=sys.stdin.read(),
        given=len(task.flow_run["payload"]) if "payload" in task.flow_run else 0,
        defaults=[str(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGCHLD)],
        blocked=len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    )


def _descriptors() -> Iterator[tuple[int, str]]:
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        with suppress(FileNotFoundError):  # the descriptor that listed the folder
            yield int(name), os.readlink(f"/proc/self/fd/{name}").split(":")[0]


def secrets(task: LaunchRequest, tell: Status) -> None:
    """Report the environment as this process knows it, and as other processes can read it."""
    known = ("PREFECT_API_AUTH_STRING", "OPENAI_API_KEY", "PLAIN")
    tell(
        secrets={name: os.environ.get(name) for name in known},
        environ=Path("/proc/self/environ").read_text().replace("\0", "\n"),
        parent="".join(
            Path(f"/proc/{os.getppid()}/{file}").read_text() for file in ("environ", "cmdline")
        ),
        dumpable=ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),  # PR_GET_DUMPABLE
    )


def learns(task: LaunchRequest, tell: Status) -> None:
    """Report whether a module was imported already, and that this run needs it."""
    tell(known="colorsys" in sys.modules)
    tell(imported=task.flow_run.get("names", ["colorsys", "no_such_module"]))


def waits(task: LaunchRequest, tell: Status) -> None:
    tell(ready=True)
    while True:
        signal.pause()


def ignores(task: LaunchRequest, tell: Status) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    waits(task, tell)


def computes(task: LaunchRequest, tell: Status) -> None:
    """Block the interpreter in one C call for hours, so no Python signal handler runs."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    tell(ready=True)
    pow(3, 1 << 40)


def begins(task: LaunchRequest, tell: Status) -> None:
    """Start child processes: in its group, in another session, and one whose parent has ended."""
    tell(children=_start_children())
    waits(task, tell)


def begins_and_dies(task: LaunchRequest, tell: Status) -> None:
    tell(children=_start_children())
    os.kill(os.getpid(), signal.SIGKILL)


def begins_and_ends(task: LaunchRequest, tell: Status) -> int:
    tell(children=_start_children())
    return 5


def _start_children() -> list[int]:
    pids = []
    for apart in (False, True):
        child = subprocess.Popen(STUBBORN, stdout=subprocess.PIPE, start_new_session=apart)
        assert child.stdout is not None
        child.stdout.readline()
        child.returncode = 0  # left behind on purpose
        pids.append(child.pid)
    orphan = (
        f"import subprocess as s; print(s.Popen({STUBBORN}, start_new_session=True, stdout=-3).pid)"
    )
    answer = subprocess.run([sys.executable, "-c", orphan], stdout=subprocess.PIPE, check=True)
    return [*pids, int(answer.stdout)]


ACTIONS: dict[str, Callable[[LaunchRequest, Status], int | None]] = {
    name: action
    for name, action in list(globals().items())
    if inspect.isfunction(action) and action.__module__ == __name__ and name[0] != "_"
}


async def worker(adapter: str, folder: str, kinds: list[str]) -> None:
    make, lock = ADAPTERS[adapter], holders.lock(Path(folder) / "holders", HOLDER)
    times = {"tick": 0.5, "silence": 3.0, "grace": 1.0}
    async with make(Path(folder), program=NAME, lock=lock, **times) as launcher:
        pids: list[int] = [launcher.pid or 0]
        for kind in kinds:
            running = await launcher.start(
                LaunchRequest({"id": kind, "orphan": True}, "ours", kind)
            )
            async for fact in running.facts():
                pids += fact.get("children", [])
                if "ready" in fact:
                    pids.append(running.pid)
                    break
        print(json.dumps(pids), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(worker(sys.argv[1], sys.argv[2], sys.argv[3:]))
