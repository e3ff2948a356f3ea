"""Command agents whose programs belong to a test.

They report their progress through one named pipe and wait at another until the test releases them,
so no test guesses durations.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from prefect.client.orchestration import PrefectClient

from daybook.agents import documents
from daybook.errors import NotFound

# tell(word): writes a line into the pipe. had(): adds a line to the file of effects. heed(): waits
# until the test releases one process.
PRELUDE = """
import os, signal, sys
def tell(word):
    with open(sys.argv[1] + ".pipe", "a") as pipe:
        pipe.write(f"{os.getpid()} {word}\\n")
def had():
    with open(sys.argv[1] + ".effects", "a") as effects:
        effects.write("had\\n")
def heed():
    with open(sys.argv[1] + ".go", "rb", buffering=0) as go:
        go.read(1)
def forever():
    while True:
        signal.pause()
"""

# Typical programs of an agent: report, have an effect once, answer when released.
WORKS = 'had(); tell("running"); heed(); print("done")\n'
FOR_EVER = 'had(); tell("running"); forever()\n'
DEAF = 'signal.signal(signal.SIGTERM, signal.SIG_IGN); had(); tell("running"); forever()\n'


class Agent:
    """A command agent whose program belongs to a test."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.base = folder / name
        self.effects = self.base.with_suffix(".effects")
        self._pipe, self._go = (self._fifo(suffix) for suffix in (".pipe", ".go"))
        self._text = b""

    def _fifo(self, suffix: str) -> int:
        path = self.base.with_suffix(suffix)
        os.mkfifo(path)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK)

    @property
    def effect_count(self) -> int:
        """Return how often its effect happened."""
        return len(self.effects.read_text().splitlines()) if self.effects.exists() else 0

    async def _line(self) -> str:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._pipe, ready.set)
        try:
            while b"\n" not in self._text:
                await ready.wait()
                ready.clear()
                with suppress(BlockingIOError):
                    self._text += os.read(self._pipe, 4096)
        finally:
            loop.remove_reader(self._pipe)
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    async def word(self, within: float = 60.0) -> tuple[int, str]:
        """Wait for its next word; return the reporting process and the word."""
        try:
            async with asyncio.timeout(within):
                pid, word = (await self._line()).split(" ", 1)
        except TimeoutError:
            raise AssertionError(f"agent {self.name} said nothing for {within} s") from None
        return int(pid), word

    async def says(self, word: str, within: float = 60.0) -> int:
        """Wait for ``word``, which must be the next; return the process that reported it."""
        pid, last_word = await self.word(within)
        assert last_word == word
        return pid

    def release(self, count: int = 1) -> None:
        """Release that many processes that wait in `heed`, now or later."""
        os.write(self._go, b"." * count)

    def close(self) -> None:
        os.close(self._go)
        os.close(self._pipe)


class Agents:
    """The agents of a test; ``models`` are names of further agents, deleted with it."""

    def __init__(self, client: PrefectClient, folder: Path) -> None:
        self._client, self.folder = client, folder
        self.all = list[Agent]()
        self.models = list[str]()

    async def add(self, program: str) -> Agent:
        """Add a command agent whose program is Python."""
        agent = Agent(f"a-{uuid4().hex[:8]}", self.folder)
        self.all.append(agent)
        script = agent.base.with_suffix(".py")
        script.write_text(PRELUDE + program)
        command = [sys.executable, str(script), str(agent.base)]
        await documents.add(self._client, agent.name, "command", {"command": command})
        return agent

    async def close(self) -> None:
        for agent in self.all:
            agent.close()
        for name in [*(agent.name for agent in self.all), *self.models]:
            with suppress(NotFound):
                await documents.remove(self._client, name)
