"""What newcomers type by the habits of other programs: it works, or the answer says what does."""

from __future__ import annotations

import asyncio
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from daybook.cli import main
from daybook.errors import DaybookError
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.runs import claims
from tests import rows
from tests.conftest import REPOSITORY

REAL = {f"jobs.{each}" for each in ("add", "show", "edit", "pause", "resume", "remove")} | {
    "job_list.list",
    "runs.runs",
    "due.next",
    "skips.skip",
    "inbox.inbox",
    "today.today",
}
"""Commands that need no Prefect: they are carried out, and the others are only parsed."""


class Line(NamedTuple):
    """A line of `tests/newcomer_lines.txt`."""

    tool: str
    meaning: str
    typed: str
    answer: str


def lines() -> list[Line]:
    text = (REPOSITORY / "tests" / "newcomer_lines.txt").read_text()
    found = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [Line(*line.split("\t")) for line in found]


@pytest.fixture(scope="module")
def ledger_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ledger with the jobs that the lines name."""
    file = tmp_path_factory.mktemp("newcomer") / "ledger.db"
    asyncio.run(fill(file))
    return file


async def fill(file: Path) -> None:
    async with Ledger(f"sqlite+aiosqlite:///{file}") as ledger:
        jobs: list[dict[str, Any]] = [
            {"name": "brief", "cron": "0 9 * * *", "tags": ["news"]},
            {"name": "digest", "every": "1d", "enabled": False},
            {"name": "watch", "every": "2h"},
        ]
        for fields in jobs:
            async with ledger.write() as session:
                job = new_job(now=ledger.now(), default_timezone="UTC", prompt="Hello.", **fields)
                stored = await store.add(session, job, job.name, ledger.now())
            row = await claims.request(ledger, stored, "1", "manual")
            await claims.cancel(ledger, row.id, "enough")


def test_each_line_is_understood_or_the_answer_names_what_to_type(
    daybook: Any, ledger_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_home(ledger_file, tmp_path, monkeypatch)
    for line, row in rows.each(lines()):
        with row:
            tokens = shlex.split(line.typed)
            if line.answer.startswith("= "):
                assert f"= {command_of(tokens)}" == line.answer
            else:
                result = daybook(*tokens)
                assert (result.code in (2, 3), result.out) == (True, "")
                assert line.answer in result.err


@pytest.mark.slow
def test_each_line_that_is_understood_does_what_was_meant(
    daybook: Any, ledger_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    understood = [line for line in lines() if line.answer.removeprefix("= ") in REAL]
    for number, (line, row) in enumerate(rows.each(understood)):
        with row:
            tokens = shlex.split(line.typed)
            copy_home(ledger_file, tmp_path / str(number), monkeypatch)
            assert "-" in tokens or daybook(*tokens).code == 0  # `-` reads standard input


def test_a_message_for_a_session_is_read_from_standard_input() -> None:
    tokens = ["session", "send", "brief", "-"]
    assert main._with_stdin_as_file(tokens) == ["session", "send", "brief", "@-"]


def copy_home(ledger_file: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next commands use a copy of the ledger, and a Prefect that does not answer."""
    home.mkdir(exist_ok=True)
    shutil.copy(ledger_file, home / "ledger.db")
    (home / "prompt.md").write_text("Write my brief")
    monkeypatch.chdir(home)
    monkeypatch.setenv("DAYBOOK_HOME", str(home))
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "UTC")


def command_of(tokens: list[str]) -> str:
    """Return `module.command` of the function that the line calls; empty if it is refused."""
    if tokens[:1] == ["help"]:
        tokens = [*tokens[1:], "--help"]
    tokens = main._choose_help(main._with_stdin_as_file(tokens))
    main._load_for_help(tokens)
    try:
        with main._usage_errors_as_invalid_input():
            command, _, _ = main.app.parse_args(tokens)
    except DaybookError:
        return ""
    module = command.__module__.removeprefix("daybook.cli.").partition(".")[0]
    return f"{module}.{command.__name__.rstrip('_')}"
