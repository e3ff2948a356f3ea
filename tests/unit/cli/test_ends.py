"""Exit codes other than 0 and 2, and ends that no command plans."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from daybook import __version__
from daybook.api import jobs, runs
from daybook.operations import up
from tests.unit.cli.conftest import fill
from tests.unit.operations.checks.test_installation import installed

# Nobody listens on port 9 (discard) of a machine that runs tests.
NOWHERE = "http://127.0.0.1:9/api"
DAYBOOK = [sys.executable, "-m", "daybook"]


def process(*tokens: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command as a process of its own."""
    return subprocess.run(
        [*DAYBOOK, *tokens],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "typed",
    [
        ["show", "x"],
        ["next", "x"],
        ["runs", "x"],
        ["run", "x"],
        ["edit", "x", "--every", "5m"],
        ["pause", "x"],
        ["resume", "x"],
        ["remove", "x", "--yes"],
    ],
)
def test_a_job_that_does_not_exist_is_not_found(
    daybook: Any, stored: Path, typed: list[str]
) -> None:
    said = daybook(*typed)
    assert (said.code, said.out, said.err) == (3, "", 'daybook: job "x" not found\n')
    error = daybook(*typed, "--json").json["error"]
    assert error == {"code": "not_found", "message": 'job "x" not found'}


def test_a_run_that_does_not_exist_is_not_found(daybook: Any, stored: Path) -> None:
    assert daybook("logs", "x").code == 3
    said = daybook("cancel", "x")
    assert (said.code, said.out, said.err) == (3, "", 'daybook: run "x" not found\n')
    assert daybook("cancel", "often").err == 'daybook: active run of "often" not found\n'


@pytest.mark.usefixtures("stored")
def test_what_is_said_while_a_run_is_waited_for(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    promise = "Waiting for the outcome. Ctrl-C stops waiting; the run continues.\n"
    asked = True

    async def run(ref: str, *, talk: runs.WaitObserver | None, **_: Any) -> dict[str, Any]:
        if asked and talk is not None:
            talk.asked()
            talk.held_up("no worker is online")
        (found,) = await runs.history(ref)
        return found

    monkeypatch.setattr(runs, "run", run)
    assert daybook("run", "weekly", "--wait").err == f"{promise}! no worker is online\n"
    assert daybook("run", "weekly", "--wait", "--json").err == "! no worker is online\n"
    asked = False  # it failed before: nothing goes on when this command ends
    assert daybook("run", "weekly", "--wait").err == ""


@pytest.mark.slow
def test_without_prefect_no_promise_is_made_for_a_run_that_was_not_asked_for(stored: Path) -> None:
    said = process("run", "often", "--wait", PREFECT_API_URL=NOWHERE)
    assert (said.returncode, said.stdout) == (4, "")
    assert "Ctrl-C" not in said.stderr


@pytest.mark.parametrize(("status", "code"), [("cancelled", 0), ("succeeded", 1), ("running", 1)])
@pytest.mark.usefixtures("stored")
def test_cancel_ends_by_whether_the_run_is_cancelled(
    daybook: Any, monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    async def cancel(ref: str) -> dict[str, Any]:
        (found,) = await runs.history(ref)
        return {**found, "status": status}

    monkeypatch.setattr(runs, "cancel", cancel)
    said = daybook("cancel", "weekly")
    assert (said.code, said.err) == (code, "")
    assert said.out.startswith(f"weekly: {status}")
    said = daybook("cancel", "weekly", "--json")
    assert (said.code, said.json["status"]) == (code, status)


def test_a_run_that_has_ended_cannot_be_cancelled(
    daybook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    asyncio.run(fill(tmp_path / "ledger.db", removed=("weekly",)))
    (run,) = daybook("runs", "--json").json
    said = daybook("cancel", run["id"])
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"daybook: RUN: {run['id'][:8]} has already ended: skipped")


def test_the_worker_refuses_a_limit_of_none_and_begins_as_it_was_told(
    daybook: Any, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _, words, given: begun.append(words))
    for limit in ("0", "-1", "many"):
        said = daybook("worker", f"--limit={limit}")
        assert (said.code, said.out) == (2, "")
        assert "--limit" in said.err
    assert begun == []
    monkeypatch.setenv("PREFECT_API_URL", NOWHERE)
    assert daybook("worker", "--limit", "2", "--name", "mine", "--once").code == 0
    ((_, *words),) = begun
    assert words == [
        *(
            "-P",
            "-m",
            "daybook.worker",
            "--pool",
            "daybook",
            "--name",
            "mine",
            "--limit",
            "2",
            "--once",
        )
    ]


@pytest.mark.parametrize("verb", ["up", "worker"])
def test_with_a_version_out_of_bounds_nothing_is_begun(
    daybook: Any, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    async def begun(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(up, "up", begun)
    monkeypatch.setattr(os, "execve", begun)
    installed(tmp_path, "prefect", "3.4.0")
    monkeypatch.syspath_prepend(tmp_path)
    said = daybook(verb)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("daybook: versions: prefect 3.4.0 is outside of <3.9,>=3.8.8 (")
    assert "install" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.slow
def test_without_prefect_a_change_is_refused_and_nothing_is_stored(stored: Path) -> None:
    said = process("add", "Say hello.", "--every", "5m", "--json", PREFECT_API_URL=NOWHERE)
    assert said.returncode == 4
    assert json.loads(said.stdout)["error"]["code"] == "prefect_unreachable"
    (sentence,) = said.stderr.splitlines()
    assert NOWHERE in sentence
    assert "daybook up" in sentence
    with sqlite3.connect(stored / "ledger.db") as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (3,)


def test_without_prefect_status_is_not_ready_and_says_why(stored: Path) -> None:
    said = process("status", "--json", PREFECT_API_URL=NOWHERE)
    status = json.loads(said.stdout)
    assert (said.returncode, said.stderr) == (1, "")
    assert status.keys() >= {"ready", "prefect", "worker", "keeper", "ledger", "due_soon"}
    assert status["ready"] is False
    assert any(NOWHERE in problem for problem in status["problems"])


def test_a_ledger_that_cannot_be_opened_is_unreachable(
    daybook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", f"sqlite+aiosqlite:///{tmp_path}")
    said = daybook("list")
    assert (said.code, said.out) == (4, "")
    assert "DAYBOOK_LEDGER_URL" in said.err


@pytest.mark.parametrize(
    ("status", "waited", "code"),
    [
        ("succeeded", True, 0),
        ("skipped", True, 0),
        *((status, True, 1) for status in ("failed", "timed_out", "cancelled", "unknown")),
        ("waiting", True, 1),
        ("waiting", False, 0),
    ],
)
@pytest.mark.usefixtures("stored")
def test_run_ends_by_its_outcome_when_it_is_waited_for(
    daybook: Any,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    waited: bool,
    code: int,
) -> None:
    async def ended(
        ref: str, *, wait: bool, request_id: str | None, talk: runs.WaitObserver | None
    ) -> dict[str, Any]:
        (found,) = await runs.history(ref)
        assert (wait, request_id, talk is not None) == (waited, "seven", waited)
        return {**found, "status": status, "output": "an answer\nof two lines"}

    monkeypatch.setattr(runs, "run", ended)
    typed = ["run", "weekly", "--request-id", "seven", *(["--wait"] if waited else [])]
    said = daybook(*typed, "--json")
    assert (said.code, said.json["status"], said.err) == (code, status, "")
    said = daybook(*typed)
    assert said.code == code
    assert f"weekly: {status}" in said.out
    assert "\n  an answer\n  of two lines\n" in said.out


def test_an_interrupt_ends_with_130_and_without_words(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "list_jobs", interrupted)
    said = daybook("list")
    assert (said.code, said.out, said.err) == (130, "", "")


def test_an_error_that_nobody_foresaw_is_one_sentence(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(jobs, "list_jobs", broken)
    said = daybook("list", "--json")
    assert said.code == 1
    assert said.json["error"]["code"] == "error"
    assert said.err.count("\n") == 1
    assert "RuntimeError: first line second line" in said.err


def test_nobody_reading_on_is_no_error(stored: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    said = subprocess.run(
        [*DAYBOOK, "list", "--json"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (said.returncode, said.stderr) == (141, b"")


def test_the_question_before_a_removal_is_asked_on_a_terminal_only(
    daybook: Any, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []

    async def remove(ref: str) -> dict[str, Any]:
        removed.append(ref)
        return await jobs.show(ref)

    class Terminal:
        answer = "n\n"

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return self.answer

    monkeypatch.setattr(jobs, "remove", remove)
    monkeypatch.setattr(sys, "stdin", Terminal())
    said = daybook("remove", "weekly")
    assert (said.code, said.out, removed) == (1, "", [])
    assert "Remove weekly (at 09:00 on Mondays, Europe/Berlin)? [y/N]" in said.err
    monkeypatch.setattr(Terminal, "answer", "")  # the end of the input
    assert (daybook("remove", "weekly").code, removed) == (1, [])
    monkeypatch.setattr(Terminal, "answer", "y\n")
    assert (daybook("remove", "weekly").code, removed) == (0, ["weekly"])
    monkeypatch.setattr(Terminal, "answer", "n\n")
    assert (daybook("remove", "weekly", "--yes").code, removed) == (0, ["weekly"] * 2)
    monkeypatch.setattr(Terminal, "isatty", lambda _: False)
    assert (daybook("remove", "weekly").code, removed) == (0, ["weekly"] * 3)


def test_the_version_and_the_help_are_there(daybook: Any) -> None:
    assert daybook("--version").out == f"{__version__}\n"
    for typed in ([], ["--help"], ["-h"]):
        said = daybook(*typed)
        assert (said.code, said.err) == (0, "")
        for verb in ("up", "add", "runs", "agents"):
            assert f" {verb} " in said.out
    assert "Add a job" in daybook("--help").out


VERBS = [
    *("up", "down", "status", "doctor", "sync", "add", "list", "show", "edit", "pause", "resume"),
    *("remove", "next", "run", "runs", "logs", "cancel"),
    *(f"agents {verb}" for verb in ("add", "list", "show", "test", "remove")),
    "ledger prune",
    "ledger rekey",
]


@pytest.mark.parametrize("verb", VERBS)
def test_each_commands_help_has_an_example_and_json(daybook: Any, verb: str) -> None:
    said = daybook(*verb.split(), "--help")
    assert said.code == 0
    assert f"Example: daybook {verb}" in said.out
    assert "--json" in said.out


def test_the_workers_help_has_an_example(daybook: Any) -> None:
    said = daybook("worker", "--help")
    assert said.code == 0
    assert "Example: daybook worker" in said.out
    for option in ("--pool", "--limit", "--name", "--once"):
        assert option in said.out


@pytest.mark.parametrize("verb", VERBS)
def test_a_help_breaks_its_lines_at_the_terminals_edge_only(daybook: Any, verb: str) -> None:
    """A line of a paragraph has no room for the word with which the next one begins."""
    text = daybook(*verb.split(), "--help").out.partition("╭")[0]
    lines = [line.rstrip() for line in text.splitlines()]
    for line, following in pairwise(lines):
        if line and following:
            assert len(line) + 1 + len(following.split()[0]) > 80, line


@pytest.mark.slow
def test_what_is_started_in_the_background_is_this_daybook_wherever_it_is_typed(
    tmp_path: Path,
) -> None:
    (tmp_path / "daybook").mkdir()
    (tmp_path / "daybook" / "__init__.py").write_text("raise SystemExit('another one')")
    done = subprocess.run(
        [sys.executable, "-P", *DAYBOOK[1:], "up", "--detach", "--no-browser"],
        env={**os.environ, "DAYBOOK_HOME": str(tmp_path / "home"), "PREFECT_API_URL": NOWHERE},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"Prefect at {NOWHERE} does not answer" in done.stderr
    assert "another one" not in done.stderr
