"""A real `daybook up`, and forty turns with it: from the brief to a job that is added.

The script is the same for each service; a mail has the word of a button in place of the button.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home
from daybook.operations.login import LOGIN_PATH
from tests import bot_api, certificates, mail_host, slack_api
from tests.e2e.first_light import Up, environment
from tests.imap_server import PASSWORD, USER
from tests.mail_host import ANNA, MailHost, SentMail
from tests.receiver import serving
from tests.servers import migrate

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

AGENT = """
import pathlib, sys
asked = sys.stdin.read().strip().splitlines()[-1]
if "fails" in asked and not pathlib.Path({flag!r}).exists():
    sys.exit("no network")
print("You said:", asked)
"""


class Service(Protocol):
    """A local service, with the messages of the account, and what Anna does there."""

    sent: Any

    def write(self, text: str = "", *, reply_to: Any = None) -> Any: ...

    def press(self, on: Any, word: str) -> None: ...

    async def until(self, what: Callable[[], Any], within: float = 60.0) -> Any: ...


class Letters:
    """Anna's mails: a press is a reply with the word of the button."""

    def __init__(self, host: MailHost) -> None:
        self._host, self.sent, self.until = host, host.sent, host.until

    def write(self, text: str = "", *, reply_to: SentMail | None = None) -> str:
        return self._host.write(text, person=f"Anna <{ANNA}>", reply_to=reply_to)

    def press(self, on: SentMail, word: str) -> None:
        self.write(word, reply_to=on)


@dataclass(frozen=True)
class Connection:
    """How an account is connected: its options, its secrets, and its name at the service.

    ``variables`` are those of the environment that Daybook needs.
    """

    name: str
    service: Service
    options: Sequence[str]
    secrets: Sequence[str]
    identity: str
    variables: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def telegram(folder: Path) -> AsyncIterator[Connection]:
    async with bot_api.serving() as bot:
        options = ("--api-url", bot.address)
        yield Connection("telegram", bot, options, [bot_api.TOKEN], "@daybook_bot")


@asynccontextmanager
async def slack(folder: Path) -> AsyncIterator[Connection]:
    async with slack_api.serving() as app:
        options = ("--api-url", app.settings["api_url"])
        tokens = [slack_api.BOT_TOKEN, slack_api.APP_TOKEN]
        yield Connection("slack", app, options, tokens, "daybook")


@asynccontextmanager
async def mail(folder: Path) -> AsyncIterator[Connection]:
    certificate = certificates.localhost(folder)
    async with mail_host.serving(certificate) as host:
        settings = {name: value for name, value in host.settings.items() if name != "password"}
        options = [
            word
            for name, value in settings.items()
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        variables = {"SSL_CERT_FILE": str(certificate)}
        yield Connection("mail", Letters(host), options, [PASSWORD], USER, variables)


CONNECTIONS: dict[str, Callable[[Path], AbstractAsyncContextManager[Connection]]] = {
    each.__name__: each for each in (telegram, slack, mail)
}


def buttons(sent: Any) -> list[str]:
    """Return the words of the buttons that a message shows."""
    if isinstance(sent, SentMail):
        named = re.search("Reply with one of these words: (.*)", sent.plain)
        return named[1].split(" · ") if named else []
    return list(sent.buttons.values())


class Talk:
    """Anna's chat; each turn counts."""

    def __init__(self, up: Up, connection: Connection) -> None:
        self.up, self.connection, self.service = up, connection, connection.service
        self.turns = 0

    @property
    def channel(self) -> str:
        return self.connection.name

    async def command(self, *words: str, given: str = "") -> str:
        """Run a command line, and return what it says."""

        def run() -> str:
            done = subprocess.run(
                [sys.executable, "-m", "daybook", *words],
                input=given,
                env=environment(self.up.home) | self.connection.variables,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        return await asyncio.to_thread(run)

    async def says(self, text: str, answer: str, reply_to: Any = None) -> Any:
        """Write ``text``; return the next message of the bot, which contains ``answer``."""
        before = len(self.service.sent)
        self.service.write(text, reply_to=reply_to)
        return await self._next(before, answer)

    async def runs(self, job: str, answer: str) -> Any:
        """Run a job; return its message, which contains ``answer``."""
        before = len(self.service.sent)
        await self.says(f"/run {job}", f"{job} runs now")
        return await self._next(before, answer)

    async def presses(self, on: Any, word: str, answer: str) -> Any:
        before = len(self.service.sent)
        self.service.press(on, word)
        return await self._next(before, answer)

    async def _next(self, before: int, answer: str) -> Any:
        self.turns += 1

        return await self.arrives(answer, before)

    async def arrives(self, text: str, before: int = 0) -> Any:
        """Wait for a message that contains ``text``, after the first ``before`` messages."""

        def found() -> Any:
            later = self.service.sent[before:]
            return next((each for each in later if text in each.plain), None)

        return await self.service.until(found, 90)


@pytest.fixture(params=CONNECTIONS)
async def talk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Talk]:
    async with CONNECTIONS[request.param](tmp_path) as connection:
        home = migrate(Home(tmp_path / "home"))
        empty = tmp_path / "empty"
        empty.mkdir()
        variables = {"DAYBOOK_ALLOWED_HOSTS": "127.0.0.1", **connection.variables}
        running = Up(home.path, empty, variables=variables)
        try:
            await asyncio.to_thread(
                running.until, lambda lines: any(LOGIN_PATH in line for line in lines), 240
            )
            yield Talk(running, connection)
        finally:
            await asyncio.to_thread(running.end)


async def test_forty_turns_from_the_brief_to_a_new_job(talk: Talk, tmp_path: Path) -> None:
    network = tmp_path / "network"
    program = tmp_path / "agent.py"
    program.write_text(AGENT.format(flag=str(network)))
    await connects(talk, str(program))
    await talks(talk)
    await adds_a_job(talk)
    await repairs_a_job(talk, network.touch)
    await approves_a_request(talk)
    await keeps_quiet(talk)

    await talk.says("/today", "In the last 24 hours")
    await talk.says("/run nothing", "not found")
    await talk.says("/new sometimes: x", "That did not work")
    await talk.says("stop", "Nothing is being answered")
    await talk.command("channels", "unpair", "Anna")
    talk.service.write("are you there?")
    heard = await talk.command("channels", "heard", talk.channel, "--limit", "100")
    assert "paired as operator" in heard
    assert talk.turns >= 40
    files = [path for path in (talk.up.home / "logs").rglob("*") if path.is_file()]
    logs = "".join(path.read_text(errors="replace") for path in files)
    assert not [each for each in talk.connection.secrets if each in logs + "\n".join(talk.up.lines)]


async def connects(talk: Talk, program: str) -> None:
    await talk.command("agents", "add", "echo", "--", sys.executable, program)
    connected = await talk.command(
        *("channels", "connect", talk.channel, "--no-wait", "--agent", "echo"),
        *talk.connection.options,
        given="\n".join(talk.connection.secrets),
    )
    assert talk.connection.identity in connected
    assert not [each for each in talk.connection.secrets if each in connected]
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
    assert buttons(described) == ["add"]
    await talk.presses(described, "add", "Added brief-me")
    if talk.channel != "mail":  # a mail stays as it is
        await talk.service.until(lambda: not buttons(described))
    await talk.command("edit", "brief-me", "--agent", "echo")
    await talk.says("/jobs", "brief-me")
    await talk.says("/next", "brief-me")
    brief = await talk.runs("brief-me", "You said: Brief me")
    assert buttons(brief) == ["snooze"]
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
        *("--channel", talk.channel, "--retries", "0"),
    )
    alert = await talk.runs("broken", "no network")
    assert buttons(alert) == ["retry", "log", "snooze", "pause"]
    await talk.presses(alert, "log", "no network")
    repair()
    await talk.presses(alert, "retry", "broken runs again")
    await talk.arrives("You said: This fails")
    await talk.says("retry", "broken runs again", alert)
    await talk.presses(alert, "snooze", "does not run for an hour")
    await talk.presses(alert, "pause", "broken is paused")


async def approves_a_request(talk: Talk) -> None:
    async with serving() as receiver:
        await talk.command(
            *("add", "--webhook", f"{receiver.address}/order", "--on-demand", "--name", "order"),
            *("--channel", talk.channel, "--approve", "webhook"),
        )
        question = await talk.runs("order", "wants to call")
        await talk.says("perhaps", "To decide, reply with", question)
        assert receiver.requests == []
        await talk.says("approve", "Approved", question)
        await talk.service.until(lambda: receiver.requests, 90)
        await talk.says("approve", "This is no longer possible", question)
        assert [each.path for each in receiver.requests] == ["/order"]


async def keeps_quiet(talk: Talk) -> None:
    now, hour = SYSTEM_CLOCK.now(), timedelta(hours=1)
    await talk.says(f"/quiet {now - hour:%H:%M}-{now + 2 * hour:%H:%M} UTC", "Quiet hours:")
    before = len(talk.service.sent)
    await talk.command("run", "brief-me", "--wait")
    await talk.says("/jobs", "brief-me")
    waiting = await talk.command("callbacks", "list", "--status", "pending")
    assert "quiet hours of Anna" in waiting
    assert not [each for each in talk.service.sent[before:] if "You said" in each.plain]
    await talk.says("/quiet off", "There are no quiet hours")
    await talk.arrives("You said: Brief me", before)
