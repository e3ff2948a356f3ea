"""Exit codes of commands, and ends by interrupts, closed pipes and unexpected errors."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daybook import __version__
from daybook.api import jobs, runs
from daybook.delivery.views import RunDetails
from daybook.jobs.views import JobDetails
from daybook.operations import up, web
from tests import sentences
from tests.servers import NOWHERE
from tests.unit.cli.conftest import fill
from tests.unit.operations.test_versions import installed

DAYBOOK = [sys.executable, "-m", "daybook"]


def process(*tokens: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a separate process."""
    return subprocess.run(
        [*DAYBOOK, *tokens],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


async def _details(job: str, **changes: object) -> RunDetails:
    """Return the only run of a job, with changed fields."""
    (found,) = await runs.history(job)
    return (await runs.show(found.id)).model_copy(update=changes)


@pytest.mark.floor("B", 'RemoveJob of an unknown job: job "x" not found')
@pytest.mark.floor("B", "TriggerJob of an unknown job: not found")
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
    result = daybook(*typed)
    assert (result.code, result.out, result.err) == (3, "", 'daybook: job "x" not found\n')
    error = daybook(*typed, "--json").json["error"]
    assert error == {"code": "not_found", "message": 'job "x" not found'}


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    "typed", ["show {}", "runs {}", "next {}", "run {} --dry-run", "inbox --job {}"]
)
def test_a_misspelled_job_is_compared_with_the_jobs(daybook: Any, typed: str) -> None:
    result = daybook(*typed.format("wekly").split())
    message = 'daybook: job "wekly" not found (did you mean "weekly"?)\n'
    assert (result.code, result.out, result.err) == (3, "", message)


def test_a_hint_spells_a_variable_of_a_prompt_as_the_prompt_does(
    daybook: Any, stored: Path
) -> None:
    refused = daybook("add", "x {{workdir}}", "--every", "1h")
    assert refused.code == 2
    assert "did you mean {{work_dir}}?" in refused.err
    assert "{{--" not in refused.err


def test_a_message_that_does_not_exist_is_not_found(daybook: Any, stored: Path) -> None:
    result = daybook("inbox", "nope")
    assert (result.code, result.err) == (3, 'daybook: message "nope" not found\n')


def test_a_run_that_does_not_exist_is_not_found(daybook: Any, stored: Path) -> None:
    assert daybook("logs", "x").code == 3
    result = daybook("cancel", "x")
    assert (result.code, result.out, result.err) == (3, "", 'daybook: run "x" not found\n')
    assert daybook("cancel", "often").err == 'daybook: job "often" has no active run\n'


@pytest.mark.usefixtures("stored")
def test_run_wait_says_that_it_waits_and_why_the_run_is_delayed(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    promise = "Waiting for the outcome. Ctrl-C stops waiting; the run continues.\n"
    asked = True

    async def run(ref: str, *, talk: runs.WaitObserver | None, **_: Any) -> RunDetails:
        if asked and talk is not None:
            talk.asked()
            talk.held_up("no worker is online")
        return await _details(ref)

    assert daybook("edit", "weekly", "--channel", "inbox").code == 0  # else a hint names it
    monkeypatch.setattr(runs, "run", run)
    assert daybook("run", "weekly", "--wait").err.startswith(f"{promise}! no worker is online\n")
    assert daybook("run", "weekly", "--wait", "--json").err == "! no worker is online\n"
    asked = False  # the request failed, so no run continues when this command ends
    assert "Ctrl-C" not in daybook("run", "weekly", "--wait").err


@pytest.mark.slow
def test_run_wait_promises_nothing_if_prefect_is_unreachable(stored: Path) -> None:
    result = process("run", "often", "--wait")
    assert (result.returncode, result.stdout) == (4, "")
    assert "Ctrl-C" not in result.stderr


@pytest.mark.parametrize(("status", "code"), [("cancelled", 0), ("succeeded", 1), ("running", 1)])
@pytest.mark.usefixtures("stored")
def test_the_exit_code_of_cancel_says_whether_the_run_was_cancelled(
    daybook: Any, monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    async def cancel(ref: str) -> RunDetails:
        return await _details(ref, status=status)

    monkeypatch.setattr(runs, "cancel", cancel)
    result = daybook("cancel", "weekly")
    assert (result.code, result.err) == (code, "")
    assert result.out.startswith(f"weekly: {status}")
    result = daybook("cancel", "weekly", "--json")
    assert (result.code, result.json["status"]) == (code, status)


def test_a_run_that_has_ended_cannot_be_cancelled(
    daybook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    asyncio.run(fill(tmp_path / "ledger.db", removed=("weekly",)))
    (run,) = daybook("runs", "--json").json
    result = daybook("cancel", run["id"])
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"daybook: RUN: {run['id'][:8]} has already ended: skipped")


def test_worker_refuses_an_invalid_limit_and_passes_its_options_on(
    daybook: Any, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _, words, given: started.append(words))
    for limit in ("0", "-1", "many"):
        result = daybook("worker", f"--limit={limit}")
        assert (result.code, result.out) == (2, "")
        assert "--limit" in result.err
    assert started == []
    queues = ("--queue", "light", "--queue", "gpu")
    assert daybook("worker", *queues, "--limit", "2", "--name", "mine", "--once").code == 0
    ((_, *words),) = started
    assert words == [
        *(
            "-P",
            "-m",
            "daybook.worker",
            "--pool",
            "daybook",
            "--name",
            "mine",
            "--queue=light",
            "--queue=gpu",
            "--limit",
            "2",
            "--once",
        )
    ]


@pytest.mark.parametrize("verb", ["up", "worker"])
def test_up_and_worker_start_nothing_with_an_unsupported_version(
    daybook: Any, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    async def unexpected(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(up, "up", unexpected)
    monkeypatch.setattr(os, "execve", unexpected)
    installed(tmp_path, "prefect", "3.4.0")
    monkeypatch.syspath_prepend(tmp_path)
    result = daybook(verb)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("daybook: versions: prefect 3.4.0 is outside of <3.10,>=3.8.8 (")
    assert "install" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.slow
def test_a_change_is_stored_if_prefect_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    pending = "the change is stored, but not in Prefect yet"
    result = process("add", "Say hello.", "--every", "5m", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    job = json.loads(result.stdout)
    assert job["sync"] == "pending"
    assert any(pending in note for note in job["notes"])
    result = process("pause", job["id"])
    assert (result.returncode, "is off (paused)" in result.stdout) == (0, True)
    assert pending in result.stderr
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (1,)


@pytest.mark.usefixtures("stored")
def test_status_is_not_ready_if_prefect_is_unreachable(daybook: Any) -> None:
    result = daybook("status", "--json")
    status = result.json
    assert (result.code, result.err) == (1, "")
    assert status.keys() >= {"ready", "prefect", "worker", "keeper", "ledger", "due_soon"}
    assert status["ready"] is False
    assert any(NOWHERE in each for each in sentences.of(status["problems"]))


def test_a_ledger_that_cannot_be_opened_gives_exit_code_4(
    daybook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", f"sqlite+aiosqlite:///{tmp_path}")
    result = daybook("list")
    assert (result.code, result.out) == (4, "")
    assert "DAYBOOK_LEDGER_URL" in result.err


def test_a_home_that_is_no_folder_gives_exit_code_4(
    daybook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path / "home"))
    result = daybook("add", "every day at 9:00", "hello")
    assert result.code == 4
    assert "it is not a file" in result.err


@pytest.mark.parametrize(
    "home", ["~nobody-of-this-name/x", "/tmp/what?/home", "/tmp/two\nlines", "/tmp/\udcff"]
)
def test_a_home_that_can_be_no_folder_is_refused_by_its_variable(
    daybook: Any, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", home)
    result = daybook("status")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("daybook: DAYBOOK_HOME: ")
    assert len(result.err.splitlines()) == 1


def test_an_address_of_prefect_that_is_no_url_is_refused_by_its_variable() -> None:
    result = process("status", PREFECT_API_URL="http://[")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("daybook: PREFECT_API_URL: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_port_that_no_ledger_can_have_gives_exit_code_4(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", "postgresql://u:pw@127.0.0.1:99999/x")
    result = daybook("list")
    assert result.code == 4
    assert "unexpected error" not in result.err


@pytest.mark.parametrize(
    "typed",
    [
        ["runs", "--since", "0001-01-01T00:00:00+14:00"],
        ["runs", "--until", "9999-12-31T23:59:59-14:00"],
        ["runs", "--limit", "9" * 30],
        ["inbox", "--limit", "9" * 30],
        ["spend", "--since", "9999-12-31", "--by", "day"],
        ["next", "--cron", "0 9 * * *", "--after", "9999-12-31T23:59:59Z"],
        ["next", "--cron", "0 9 * * *", "--after", "0001-01-01T00:00:00+14:00"],
        ["web", "--host", "a..b"],
        ["import", "anna", "~nobody-has-this-name/x"],
        ["import", "anna", "/" + "x" * 300],
        ["hooks", "test", "x", "--url", "http://[::1"],
        ["hooks", "test", "x", "--url", "http://127.0.0.1:99999"],
    ],
)
def test_a_value_that_is_impossible_is_invalid_input(
    daybook: Any, stored: Path, typed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execv", lambda program, command: web.listen("a..b", 0))
    result = daybook(*typed)
    assert (result.code, "unexpected error" in result.err) == (2, False), result.err


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
def test_the_exit_code_of_run_wait_depends_on_the_outcome(
    daybook: Any,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    waited: bool,
    code: int,
) -> None:
    async def ended(
        ref: str,
        *,
        wait: bool,
        request_id: str | None,
        prompt: str | None,
        talk: runs.WaitObserver | None,
    ) -> RunDetails:
        given = (wait, request_id, prompt, talk is not None)
        assert given == (waited, "seven", None, waited)
        return await _details(ref, status=status, output="an answer\nof two lines")

    monkeypatch.setattr(runs, "run", ended)
    typed = ["run", "weekly", "--request-id", "seven", *(["--wait"] if waited else [])]
    result = daybook(*typed, "--json")
    assert (result.code, result.json["status"], result.err) == (code, status, "")
    result = daybook(*typed)
    assert result.code == code
    assert f"weekly: {status}" in result.out
    assert "\n  an answer\n  of two lines\n" in result.out


def test_an_interrupt_gives_exit_code_130_and_no_output(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "list_jobs", interrupted)
    result = daybook("list")
    assert (result.code, result.out, result.err) == (130, "", "")


def test_an_unexpected_error_is_printed_as_one_line(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(jobs, "list_jobs", broken)
    result = daybook("list", "--json")
    assert result.code == 1
    assert result.json["error"]["code"] == "error"
    assert result.err.count("\n") == 1
    assert "RuntimeError: first line second line" in result.err


@pytest.mark.parametrize(
    ("closed", "tokens", "code"),
    [("<&-", "secrets add x --host a.b", 2), (">&-", "list", 0)],
)
def test_a_command_can_be_started_with_closed_streams(
    stored: Path, closed: str, tokens: str, code: int
) -> None:
    command = f"{shlex.join(DAYBOOK)} {tokens} {closed}"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "unexpected error" not in done.stderr


def test_a_closed_output_pipe_gives_exit_code_141_and_no_message(stored: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [*DAYBOOK, "list", "--json"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, b"")


def test_remove_asks_for_confirmation_on_a_terminal_and_requires_it_without_one(
    daybook: Any, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []

    async def remove(ref: str) -> JobDetails:
        job = await jobs.show(ref)
        removed.append(job.name)
        return job

    class Terminal:
        answer = "n\n"

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return self.answer

    monkeypatch.setattr(jobs, "remove", remove)
    monkeypatch.setattr(sys, "stdin", Terminal())
    result = daybook("remove", "weekly")
    assert (result.code, result.out, removed) == (1, "", [])
    assert "Remove weekly (at 09:00 on Mondays, Europe/Berlin)? [y/N]" in result.err
    monkeypatch.setattr(Terminal, "answer", "")  # the end of the input
    assert (daybook("remove", "weekly").code, removed) == (1, [])
    monkeypatch.setattr(Terminal, "answer", "y\n")
    assert (daybook("remove", "weekly").code, removed) == (0, ["weekly"])
    monkeypatch.setattr(Terminal, "answer", "n\n")
    assert (daybook("remove", "weekly", "--yes").code, removed) == (0, ["weekly"] * 2)
    monkeypatch.setattr(Terminal, "isatty", lambda _: False)
    result = daybook("remove", "weekly", "often")
    assert (result.code, removed) == (2, ["weekly"] * 2)
    assert result.err == (
        "daybook: --yes: is missing: Remove weekly (at 09:00 on Mondays, Europe/Berlin), often "
        "(every 1 hour 30 minutes) (add --yes to do it without a terminal)\n"
    )
    assert daybook("remove", "weekly", "often", "--yes").code == 0
    assert removed == ["weekly"] * 3 + ["often"]


def test_version_and_help_are_printed(daybook: Any) -> None:
    assert daybook("--version").out == f"{__version__}\n"
    for typed in ([], ["--help"], ["-h"]):
        result = daybook(*typed)
        assert (result.code, result.err) == (0, "")
        for verb in ("up", "add", "runs", "agents"):
            assert f" {verb} " in result.out
    assert "Add a job" in daybook("--help").out


def test_the_help_of_worker_has_an_example_and_its_options(daybook: Any) -> None:
    result = daybook("worker", "--help")
    assert result.code == 0
    assert "Example: daybook worker" in result.out
    for option in ("--pool", "--queue", "--limit", "--name", "--once"):
        assert option in result.out


@pytest.mark.slow
def test_up_detach_starts_this_daybook_in_any_working_directory(
    tmp_path: Path,
) -> None:
    (tmp_path / "daybook").mkdir()
    (tmp_path / "daybook" / "__init__.py").write_text("raise SystemExit('another one')")
    done = subprocess.run(
        [sys.executable, "-P", *DAYBOOK[1:], "up", "--detach", "--no-browser"],
        env={**os.environ, "DAYBOOK_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"Prefect at {NOWHERE} does not answer" in done.stderr
    assert "another one" not in done.stderr


@pytest.mark.usefixtures("stored")
def test_a_full_disk_is_reported_once() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*DAYBOOK, "list", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("daybook: OSError: [Errno 28]")
    assert len(done.stderr.splitlines()) == 1
