"""`pause`, `resume` and `cancel` with `--all`, its filters and its confirmation."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from daybook.api import jobs, runs
from daybook.errors import InvalidInput, PrefectUnreachable
from daybook.jobs.views import ChangedJob
from tests.unit.cli.conftest import fill

Calls = list[tuple[str, ...]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    asyncio.run(fill(tmp_path / "ledger.db"))
    return tmp_path


@pytest.fixture
def calls(home: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Record the names of the jobs to pause or resume, which needs Prefect; `often` is refused."""
    recorded: Calls = []

    async def change(verb: str, ref: str, *more: str) -> ChangedJob:
        job = await jobs.show(ref)
        recorded.append((verb, job.name, *more))
        if job.name == "often":
            raise InvalidInput("every", "is too short")
        return ChangedJob.model_construct(**dict(job), changes=[], notes=[])

    monkeypatch.setattr(jobs, "pause", lambda ref, note: change("pause", ref, note))
    monkeypatch.setattr(jobs, "resume", lambda ref: change("resume", ref))
    return recorded


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_pause_all_pauses_each_enabled_job_and_reports_refusals(daybook: Any, calls: Calls) -> None:
    result = daybook("pause", "--all", "--yes", "--note", "on holiday")
    assert calls == [("pause", "often", "on holiday"), ("pause", "weekly", "on holiday")]
    assert (result.code, result.out) == (1, "weekly is on\n")
    assert result.err == "! often: every: is too short\n"
    calls.clear()
    result = daybook("pause", "--all", "--yes", "--tag", "team", "--json")
    assert (result.code, [each["name"] for each in result.json]) == (0, ["weekly"])
    assert calls == [("pause", "weekly", "")]


def test_resume_all_resumes_only_jobs_that_were_paused(
    daybook: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = daybook("resume", "--all")
    assert (result.code, result.out, result.err, calls) == (0, "", "No job matches.\n", [])
    listed = asyncio.run(jobs.list_jobs())
    reasons = {"by hand": "paused: on holiday", "weekly": "paused after 10 failures in a row"}

    async def list_jobs(_: object) -> list[Any]:
        return [
            each.model_copy(update={"disabled_reason": reasons.get(each.name, "")})
            for each in listed
        ]

    monkeypatch.setattr(jobs, "list_jobs", list_jobs)
    assert daybook("resume", "--all", "--yes").code == 0
    assert calls == [("resume", "by hand")]


def test_cancel_all_cancels_the_live_runs_that_match(daybook: Any, home: Path) -> None:
    result = daybook("cancel", "--all", "--kind", "webhook")
    assert (result.code, result.out) == (0, "")
    assert result.err == "No run is waiting or running.\n"
    assert daybook("runs", "--json").json[0]["status"] == "waiting"
    result = daybook("cancel", "--all", "--yes", "--tag", "team", "--json")
    assert (result.code, [each["status"] for each in result.json]) == (0, ["cancelled"])
    assert daybook("runs", "--json").json[0]["status"] == "cancelled"
    assert daybook("cancel", "--all", "--json").json == []


def test_cancel_all_reports_each_error_and_prints_the_other_results(
    daybook: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (waiting,) = asyncio.run(runs.history())
    other = waiting.model_copy(update={"id": "f" * 32, "status": "running"})
    cancel = runs.cancel

    async def history(*_: object) -> list[Any]:
        return [other, waiting]

    async def cancel_one(run_id: str) -> Any:
        if run_id == other.id:
            raise PrefectUnreachable("http://there/api")
        return await cancel(run_id)

    monkeypatch.setattr(runs, "history", history)
    monkeypatch.setattr(runs, "cancel", cancel_one)
    result = daybook("cancel", "--all", "--yes", "--json")
    assert (result.code, [each["id"] for each in result.json]) == (1, [waiting.id])
    assert "! Prefect at http://there/api does not answer" in result.err


@pytest.mark.parametrize(
    ("command", "question"),
    [
        ("pause", "Pause 2 jobs: often, weekly? [y/N]"),
        ("cancel", "Cancel 1 run of weekly? [y/N]"),
    ],
)
def test_all_asks_for_confirmation_on_a_terminal(
    daybook: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch, command: str, question: str
) -> None:
    for answer in ("n\n", ""):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        result = daybook(command, "--all")
        assert (result.code, result.out, calls) == (1, "", [])
        assert question in result.err
    assert daybook("runs", "--json").json[0]["status"] == "waiting"
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert daybook(command, "--all").out
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert "[y/N]" not in daybook(command, "--all", "--yes").err


def test_all_requires_yes_without_a_terminal(daybook: Any, calls: Calls) -> None:
    for command in ("pause", "cancel"):
        result = daybook(command, "--all")
        assert (result.code, result.out, calls) == (2, "", [])
        assert result.err.startswith("daybook: --yes: is missing: ")


def test_several_jobs_may_be_named_and_an_error_of_one_does_not_stop_the_others(
    daybook: Any, calls: Calls
) -> None:
    result = daybook("pause", "weekly", "nothing", "often", "--json")
    assert (result.code, calls) == (3, [("pause", "weekly", ""), ("pause", "often", "")])
    assert [each["name"] for each in result.json] == ["weekly"]
    assert result.err == '! nothing: job "nothing" not found\n! often: every: is too short\n'
    assert [each["name"] for each in daybook("show", "often", "weekly", "--json").json] == [
        "often",
        "weekly",
    ]
    assert daybook("show", "often", "--json").json["name"] == "often"
    shown = daybook("show", "often", "weekly").out
    assert shown.index("often (") < shown.index("\n\nweekly (")
    for command in ("show", "run", "remove"):
        assert "JOB: is missing (name at least one)" in daybook(command).err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("pause", "JOB: is missing (name one, or use --all)"),
        ("cancel", "RUN: is missing (name one, or use --all)"),
        ("resume weekly --all", "JOB and --all: cannot be combined"),
        ("pause --tag team", "--tag: needs --all"),
        ("cancel weekly --owner ann", "--owner: needs --all"),
        ("pause --all --kind nope", '--kind: "nope" is not a kind'),
    ],
)
def test_an_invalid_choice_of_jobs_changes_nothing(
    daybook: Any, calls: Calls, typed: str, message: str
) -> None:
    result = daybook(*typed.split())
    assert (result.code, result.out, calls) == (2, "", [])
    assert message in result.err
