"""The end of a command agent: none of the program's processes survives `answer`.

Each process reports its pid through a named pipe as soon as it is ready, so no test has to guess
how long a start takes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import pytest

from daybook.agents import process
from daybook.agents.base import AgentRequest
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.errors import AgentFailed, AgentTimeout
from daybook.processes import group as process_group
from tests.timings import expire_timeout

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not Path("/proc").exists(), reason="only /proc distinguishes zombies from the living"
    ),
]

LONG = 300.0

# tell(word): write a line to the named pipe. forever(): wait until a signal ends the process.
# child(f): start a process that runs f, without waiting for it.
PRELUDE = """
import os, signal, sys
def tell(word=""):
    with open(sys.argv[1], "a") as pipe:
        pipe.write(f"{os.getpid()} {word}\\n")
def forever():
    while True:
        signal.pause()
def child(work):
    if os.fork() == 0:
        work()
        os._exit(0)
def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell("deaf")
    forever()
def plain():
    tell("plain")
    forever()
def close_pipes():
    for number in (0, 1, 2):
        os.close(number)
"""

GRANDCHILDREN = {
    "alone": ("plain()", 1),
    "alone and deaf": ("deaf()", 1),
    "a plain grandchild": ("child(plain); plain()", 2),
    "a deaf grandchild": ("child(deaf); plain()", 2),
    "a deaf grandchild of one that left": ("child(lambda: child(deaf)); plain()", 2),
    "a deaf one without pipes": ("child(lambda: (close_pipes(), deaf())); plain()", 2),
    "a stopped one": ("child(lambda: (tell(), os.kill(os.getpid(), 19))); plain()", 2),
    "ten": ("[child(deaf if n % 2 else plain) for n in range(9)]; plain()", 10),
}

LEFT_BEHIND = {
    "a plain one": ("child(plain)", 1),
    "a deaf one that holds the pipes": ("child(deaf)", 1),
    "a deaf one without pipes": ("child(lambda: (close_pipes(), deaf()))", 1),
}


class Programs:
    """Commands made of a few lines, and the pids that their processes reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pids: list[int] = []
        self._pipe = folder / "report"
        os.mkfifo(self._pipe)
        self._fd = os.open(self._pipe, os.O_RDWR | os.O_NONBLOCK)  # never at end of file
        self._rest = b""

    def agent(self, lines: str) -> CommandAgent:
        path = self.folder / "program.py"
        path.write_text(PRELUDE + textwrap.dedent(lines) + "\n")
        command = [sys.executable, "-I", "-S", str(path), str(self._pipe)]
        return CommandAgent("robot", CommandSettings(command=command))

    async def wait_until_ready(self, count: int) -> None:
        """Wait until ``count`` processes have reported that they are ready."""
        while len(self.pids) < count:
            await anyio.wait_readable(self._fd)
            *lines, self._rest = (self._rest + os.read(self._fd, 65536)).split(b"\n")
            self.pids += [int(line.split()[0]) for line in lines]

    def alive(self) -> list[int]:
        return [pid for pid in self.pids if _runs(pid)]

    def close(self) -> None:
        os.close(self._fd)
        for pid in self.alive():  # only if a test has failed
            os.kill(pid, 9)


def _runs(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Programs]:
    monkeypatch.setattr(process_group, "TERM_GRACE_SECONDS", 0.3)
    made = Programs(tmp_path)
    yield made
    made.close()


@pytest.fixture
def patience(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extend the grace period for programs that end by themselves, as a machine may be busy."""
    monkeypatch.setattr(process_group, "TERM_GRACE_SECONDS", 10.0)


def request(seconds: float) -> AgentRequest:
    return AgentRequest(prompt="Hello", timeout=seconds, occurrence="flow:1")


async def in_time(work: Awaitable[object], seconds: float = 20) -> None:
    """Wait for ``work``, but fail after ``seconds`` instead of hanging."""
    async with asyncio.timeout(seconds):
        await work


async def timeout_of(agent: CommandAgent, programs: Programs, count: int) -> AgentTimeout:
    """Let the timeout expire when ``count`` processes are ready; return the error."""
    answer = asyncio.create_task(agent.answer(request(LONG)))
    await in_time(programs.wait_until_ready(count))
    assert not answer.done()
    await expire_timeout(LONG)
    with pytest.raises(AgentTimeout) as caught:
        await in_time(answer)
    return caught.value


def test_programs_have_three_seconds_to_end_after_sigterm() -> None:
    assert process_group.TERM_GRACE_SECONDS == 3.0


@pytest.mark.floor("C", "A timeout ends the processes that the agent started")
@pytest.mark.parametrize(("lines", "count"), GRANDCHILDREN.values(), ids=GRANDCHILDREN)
async def test_a_timeout_ends_all_processes(programs: Programs, lines: str, count: int) -> None:
    agent = programs.agent(f"print('so far', flush=True); {lines}")
    error = await timeout_of(agent, programs, count)
    assert programs.alive() == []
    assert error.seconds == LONG
    assert error.output == "so far"


@pytest.mark.parametrize(("lines", "count"), GRANDCHILDREN.values(), ids=GRANDCHILDREN)
async def test_a_cancellation_ends_all_processes_and_is_raised(
    programs: Programs, lines: str, count: int
) -> None:
    answer = asyncio.create_task(programs.agent(lines).answer(request(LONG)))
    await in_time(programs.wait_until_ready(count))
    assert len(programs.alive()) == count
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await in_time(answer)
    assert programs.alive() == []


@pytest.mark.parametrize(("lines", "count"), LEFT_BEHIND.values(), ids=LEFT_BEHIND)
@pytest.mark.parametrize("code", [0, 1])
async def test_child_processes_that_outlive_the_program_are_ended(
    programs: Programs, lines: str, count: int, code: int
) -> None:
    """The program exits when its child has reported through a pipe that it is ready."""
    agent = programs.agent(
        f"""
        ready, done = os.pipe()
        report = tell
        def tell(word=""):
            report(word)
            os.write(done, b".")
        {lines}
        os.read(ready, 1)
        print("finished", flush=True)
        os._exit({code})
        """
    )
    if code:
        with pytest.raises(AgentFailed, match="exited with code 1"):
            await in_time(agent.answer(request(LONG)))
    else:
        async with asyncio.timeout(20):
            assert (await agent.answer(request(LONG))).text == "finished"
    await in_time(programs.wait_until_ready(count))
    assert programs.alive() == []


async def test_output_printed_after_sigterm_is_kept(programs: Programs, patience: None) -> None:
    agent = programs.agent(
        """
        def bye(*_):
            print("and goodbye", flush=True)
            os._exit(0)
        signal.signal(signal.SIGTERM, bye)
        print("started", flush=True)
        plain()
        """
    )
    error = await timeout_of(agent, programs, 1)
    assert error.output == "started\nand goodbye"


async def test_a_stopped_program_is_continued_and_its_last_output_is_kept(
    programs: Programs, patience: None
) -> None:
    agent = programs.agent(
        """
        def bye(*_):
            print("goodbye", flush=True)
            os._exit(0)
        signal.signal(signal.SIGTERM, bye)
        tell()
        os.kill(os.getpid(), signal.SIGSTOP)
        """
    )
    error = await timeout_of(agent, programs, 1)
    assert error.output == "goodbye"


async def test_a_child_has_its_grace_period_even_after_the_program_has_ended(
    programs: Programs, patience: None
) -> None:
    agent = programs.agent(
        """
        leader = os.getpid()
        def bye(*_):
            while os.getppid() == leader:
                pass
            print("goodbye", flush=True)
            os._exit(0)
        def polite():
            signal.signal(signal.SIGTERM, bye)
            plain()
        child(polite)
        plain()
        """
    )
    error = await timeout_of(agent, programs, 2)
    assert error.output == "goodbye"
    assert programs.alive() == []


async def test_repeated_cancellations_do_not_interrupt_the_cleanup(
    programs: Programs,
) -> None:
    answer = asyncio.create_task(programs.agent("child(deaf); deaf()").answer(request(LONG)))
    await in_time(programs.wait_until_ready(2))
    loop = asyncio.get_running_loop()
    for n in range(20):
        loop.call_later(n / 100, answer.cancel)
    with pytest.raises(asyncio.CancelledError):
        await in_time(answer)
    assert programs.alive() == []


async def test_a_cancel_scope_waits_for_the_cleanup(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile it does not use up a core by cancelling in every iteration of the loop."""
    monkeypatch.setattr(process_group, "TERM_GRACE_SECONDS", 0.6)
    used = 0.0
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def cancel_when_ready() -> None:
                nonlocal used
                await programs.wait_until_ready(2)
                used = time.thread_time()
                scope.cancel()

            group.start_soon(cancel_when_ready)
            await programs.agent("child(deaf); deaf()").answer(request(LONG))
    assert scope.cancelled_caught
    assert time.thread_time() - used < 0.25
    assert programs.alive() == []


async def test_a_cancellation_at_the_start_leaves_no_process(programs: Programs) -> None:
    before = _children()
    answer = asyncio.create_task(programs.agent("plain()").answer(request(LONG)))
    asyncio.get_running_loop().call_soon(
        answer.cancel
    )  # after its first step, which starts the program
    with pytest.raises(asyncio.CancelledError):
        await in_time(answer)
    assert _children() <= before


async def test_a_loop_that_is_torn_down_leaves_no_process(programs: Programs) -> None:
    """All tasks are cancelled at once, also the one that cleans up."""
    agent = programs.agent("child(deaf); deaf()")

    async def abandon() -> None:
        asyncio.create_task(agent.answer(request(LONG)))  # noqa: RUF006
        await programs.wait_until_ready(2)

    await asyncio.to_thread(asyncio.run, abandon())
    await _until(lambda: not programs.alive())


async def test_a_process_that_left_the_group_does_not_delay_the_answer(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_DRAIN_TIMEOUT_SECONDS", 0.2)
    agent = programs.agent(
        """
        ready, done = os.pipe()
        def away():
            os.setsid()
            tell()
            os.write(done, b".")
            forever()
        child(away)
        os.read(ready, 1)
        print("finished", flush=True)
        """
    )
    async with asyncio.timeout(20):
        assert (await agent.answer(request(LONG))).text == "finished"
        await programs.wait_until_ready(1)  # so that the fixture ends it


def _children() -> set[int]:
    """Return the pids of the child processes of this one, including zombies."""
    own = str(os.getpid())
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            if stat.rpartition(")")[2].split()[1] == own:
                found.add(int(entry))
    return found


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await anyio.lowlevel.checkpoint()
