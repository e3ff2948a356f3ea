"""A chat with a running Daybook: the time to the first sign and to the answer, and the idle cost.

The bot's API is a local server in this process. A person writes, and waits for each answer. The CPU
of all processes of `daybook up` is measured without an account and with one that listens, in the
same run.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import usage
from benchmarks.report import header, progress, row
from daybook.home import Home

if TYPE_CHECKING:
    from tests.bot_api import BotApi

MESSAGES = 20
MAX_SIGN_SECONDS = 1.0
MAX_IDLE_PERCENT = 0.3
SETTLE_SECONDS = 20.0


@dataclass
class Chatted:
    """Seconds from a message to the first sign of typing, and to the answer; CPU in percent."""

    signs: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    without: float = 0.0
    listening: float = 0.0


async def measure(seconds: float) -> Chatted:
    """Measure `MESSAGES` messages, and ``seconds`` without any, before and after connecting."""
    from tests import bot_api

    found = Chatted()
    async with bot_api.serving() as bot:
        with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
            environment = {
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("PREFECT_", "DAYBOOK_"))
            } | {"DAYBOOK_HOME": folder}
            async with _up(environment):
                head = int((Home(Path(folder)).running() or {})["pid"])
                await asyncio.sleep(SETTLE_SECONDS)
                found.without = await _cpu_percent(head, seconds)
                await _connect(environment, bot)
                # Before the messages, whose runs would make the rest of `up` do more.
                await asyncio.sleep(SETTLE_SECONDS)
                found.listening = await _cpu_percent(head, seconds)
                for number in range(MESSAGES):
                    await _exchange(bot, f"message {number}", found)
                    progress(f"chats: {found.signs[-1]:.2f} s, {found.answers[-1]:.2f} s")
    return found


@asynccontextmanager
async def _up(environment: Mapping[str, str]) -> AsyncIterator[None]:
    await _daybook(environment, "up", "--detach", "--no-browser")
    try:
        yield
    finally:
        await _daybook(environment, "down")


async def _daybook(environment: Mapping[str, str], *words: str, given: str = "") -> str:
    def run() -> str:
        command = [sys.executable, "-m", "daybook", *words]
        return subprocess.run(
            command, env=environment, input=given, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    return await asyncio.to_thread(run)


async def _connect(environment: Mapping[str, str], bot: BotApi) -> None:
    from tests.bot_api import TOKEN

    agent = "print('You said:', __import__('sys').stdin.read().split()[-1])"
    await _daybook(environment, "agents", "add", "echo", "--", sys.executable, "-c", agent)
    words = ("channels", "connect", "telegram", "--no-wait", "--agent", "echo")
    printed = await _daybook(environment, *words, "--api-url", bot.address, given=TOKEN)
    bot.write(printed.partition("code")[2].split()[0])
    await bot.message("You are paired")


async def _exchange(bot: BotApi, text: str, found: Chatted) -> None:
    signs, sent = len(bot.typing), len(bot.sent)
    started = time.perf_counter()
    bot.write(text)
    await _until(bot, lambda: len(bot.typing) > signs)
    found.signs.append(time.perf_counter() - started)
    await _until(bot, lambda: len(bot.sent) > sent)
    found.answers.append(time.perf_counter() - started)


async def _until(bot: BotApi, what: Callable[[], bool]) -> None:
    await bot.until(what, within=60.0)


async def _cpu_percent(head: int, seconds: float) -> float:
    before = sum(usage.each_cpu(head).values())
    await asyncio.sleep(seconds)
    return 100 * (sum(usage.each_cpu(head).values()) - before) / seconds


def table(found: Chatted) -> str:
    """Return the measurements as Markdown."""
    return "\n".join(
        [
            header("a chat", "median", "longest"),
            row("message to first sign (s)", *_times(found.signs)),
            row("message to answer (s)", *_times(found.answers)),
            row("idle, without an account (% of a core)", f"{found.without:.2f}", ""),
            row("idle, with one that listens (% of a core)", f"{found.listening:.2f}", ""),
        ]
    )


def _times(seconds: list[float]) -> tuple[str, str]:
    return f"{median(seconds):.2f}", f"{max(seconds):.2f}"


def missed(found: Chatted) -> list[str]:
    """Return the targets that were missed."""
    more = found.listening - found.without
    return [
        *([f"the first sign after {max(found.signs):.2f} s"] if _is_late(found) else []),
        *([f"an idle account needs {more:.2f} % of a core"] if more > MAX_IDLE_PERCENT else []),
    ]


def _is_late(found: Chatted) -> bool:
    return max(found.signs) > MAX_SIGN_SECONDS
