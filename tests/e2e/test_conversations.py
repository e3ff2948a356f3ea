"""A real `daybook up`, and forty turns with it in a chat: from the brief to a job that is added."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from daybook.home import Home
from daybook.operations.login import LOGIN_PATH
from tests import bot_api
from tests.bot_api import TOKEN, BotApi, Sent
from tests.e2e.first_light import Up, environment
from tests.receiver import serving
from tests.servers import migrate

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

AGENT = """
import pathlib, sys
asked = sys.stdin.read().strip().splitlines()[-1]
if "fails" in asked and not pathlib.Path({flag!r}).exists():
    sys.exit("no network")
print("You said:", asked)
"""


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    home = migrate(Home(tmp_path / "home"))
    variables = {"DAYBOOK_ALLOWED_HOSTS": "127.0.0.1"}
    empty = tmp_path / "empty"
    empty.mkdir()
    running = Up(home.path, empty, variables=variables)
    try:
        running.until(lambda lines: any(LOGIN_PATH in line for line in lines), 240)
        yield running
    finally:
        running.end()


class Talk:
    """Anna's chat; each turn counts."""

    def __init__(self, up: Up, bot: BotApi) -> None:
        self.up, self.bot, self.turns = up, bot, 0

    async def command(self, *words: str, given: str = "") -> str:
        """Run a command line, and return what it says."""

        def run() -> str:
            done = subprocess.run(
                [sys.executable, "-m", "daybook", *words],
                input=given,
                env=environment(self.up.home),
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        return await asyncio.to_thread(run)

    async def says(self, text: str, answer: str, reply_to: Sent | None = None) -> Sent:
        """Write ``text``; return the next message of the bot, which contains ``answer``."""
        before = len(self.bot.sent)
        self.bot.write(text, reply_to=reply_to)
        return await self._next(before, answer)

    async def runs(self, job: str, answer: str) -> Sent:
        """Run a job; return its message, which contains ``answer``."""
        before = len(self.bot.sent)
        await self.says(f"/run {job}", f"{job} runs now")
        return await self._next(before, answer)

    async def presses(self, on: Sent, word: str, answer: str) -> Sent:
        before = len(self.bot.sent)
        self.bot.press(on, word)
        return await self._next(before, answer)

    async def _next(self, before: int, answer: str) -> Sent:
        self.turns += 1

        def found() -> Sent | None:
            return next((each for each in self.bot.sent[before:] if answer in each.plain), None)

        sent: Sent = await self.bot.until(found, 90)
        return sent


@pytest.fixture
async def talk(up: Up) -> AsyncIterator[Talk]:
    async with bot_api.serving() as bot:
        yield Talk(up, bot)


async def test_forty_turns_from_the_brief_to_a_new_job(talk: Talk, tmp_path: Path) -> None:
    network = tmp_path / "network"
    program = tmp_path / "agent.py"
    program.write_text(AGENT.format(flag=str(network)))
    await connects(talk, str(program))
    await talks(talk)
    await adds_a_job(talk)
    await repairs_a_job(talk, network.touch)
    await approves_a_request(talk)

    await talk.says("/today", "In the last 24 hours")
    await talk.says("/run nothing", "not found")
    await talk.says("/new sometimes: x", "That did not work")
    await talk.says("stop", "Nothing is being answered")
    await talk.command("channels", "unpair", "Anna")
    talk.bot.write("are you there?")
    heard = await talk.command("channels", "heard", "telegram", "--limit", "100")
    assert "paired as operator" in heard
    assert talk.turns >= 40
    files = [path for path in (talk.up.home / "logs").rglob("*") if path.is_file()]
    logs = "".join(path.read_text(errors="replace") for path in files)
    assert TOKEN not in logs + "\n".join(talk.up.lines)


async def connects(talk: Talk, program: str) -> None:
    await talk.command("agents", "add", "echo", "--", sys.executable, program)
    connected = await talk.command(
        *("channels", "connect", "telegram", "--no-wait", "--agent", "echo"),
        *("--api-url", talk.bot.address),
        given=TOKEN,
    )
    assert "@daybook_bot" in connected
    assert TOKEN not in connected
    await talk.says("hello", "talks only with people")
    await talk.says(connected.partition("code")[2].split()[0], "You are paired as operator")
    await talk.says("/help", "/new")


async def talks(talk: Talk) -> None:
    await talk.says("hello", "You said: hello")
    answer = await talk.says("and again", "You said: and again")
    for number in range(6):
        answer = await talk.says(f"turn {number}", f"You said: turn {number}", answer)
    await talk.says("/ask a new question", "You said: a new question")


async def adds_a_job(talk: Talk) -> None:
    described = await talk.says("/new every weekday at 9: Brief me", "at 09:00 on weekdays")
    assert described.buttons == {"Add": "add"}
    await talk.presses(described, "add", "Added brief-me")
    await talk.bot.until(lambda: not described.buttons)
    await talk.command("edit", "brief-me", "--agent", "echo")
    await talk.says("/jobs", "brief-me")
    await talk.says("/next", "brief-me")
    brief = await talk.runs("brief-me", "You said: Brief me")
    assert brief.buttons == {"Again in 1 h": "snooze"}
    await talk.presses(brief, "snooze", "I send it again in an hour")
    reply = await talk.says("which is urgent?", "You said: which is urgent?", brief)
    for number in range(4):
        reply = await talk.says(f"why {number}", f"You said: why {number}", reply)
    await talk.says("/pause brief-me", "brief-me is paused")
    await talk.says("/jobs", "(paused)")
    await talk.says("/resume brief-me", "due next")


async def repairs_a_job(talk: Talk, repair: Callable[[], None]) -> None:
    await talk.command(
        *("add", "on demand", "This fails", "--name", "broken", "--agent", "echo"),
        *("--channel", "telegram", "--retries", "0"),
    )
    alert = await talk.runs("broken", "no network")
    assert list(alert.buttons) == ["Retry", "Show log", "Snooze 1 h", "Pause"]
    await talk.presses(alert, "log", "no network")
    repair()
    await talk.presses(alert, "retry", "broken runs again")
    await talk.bot.message("You said: This fails", 90)
    await talk.says("retry", "broken runs again", alert)
    await talk.presses(alert, "snooze", "does not run for an hour")
    await talk.presses(alert, "pause", "broken is paused")


async def approves_a_request(talk: Talk) -> None:
    async with serving() as receiver:
        await talk.command(
            *("add", "--webhook", f"{receiver.address}/order", "--on-demand", "--name", "order"),
            *("--channel", "telegram", "--approve", "webhook"),
        )
        question = await talk.runs("order", "wants to call")
        await talk.says("perhaps", "To decide, reply with", question)
        assert receiver.requests == []
        await talk.says("approve", "Approved", question)
        await talk.bot.message("order\n", 90)
        await talk.says("approve", "This is no longer possible", question)
        assert [each.path for each in receiver.requests] == ["/order"]
