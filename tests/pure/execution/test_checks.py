"""Checks before a run: the verdict, the token usage, and who may set a command."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daybook.agents.command import CommandAgent, CommandSettings
from daybook.execution import checks
from daybook.execution.checks import CheckFailed, Verdict
from daybook.jobs.checks import Check
from daybook.jobs.store import StoredJob
from daybook.runs.claim_requests import Granted

NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)


def granted(owner: str | None = None, tokens: int | None = None, **check: Any) -> Granted:
    row = SimpleNamespace(owner=owner, created_by="cli", name="mail")
    job = cast(StoredJob, SimpleNamespace(row=row)) if owner else None
    work_dir = check.pop("work_dir", "")
    policy = {"check": Check(**check).model_dump(mode="json"), "work_dir": work_dir}
    given = {"policy": policy, "agent": "default"}
    return Granted("r", 1, given, "flow:1", NOW, "manual", job, tokens=tokens, queued_at=NOW)


@pytest.mark.anyio
async def test_without_a_check_the_run_starts() -> None:
    assert await checks.check_job(granted()) == Verdict(opens=True)


@pytest.mark.anyio
async def test_a_command_of_an_agents_job_is_not_run(tmp_path: Any) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(CheckFailed, match="only the operator may set a command"):
        await checks.check_job(granted("agent:helper", command=("touch", str(mark))))
    assert not mark.exists()

    verdict = await checks.check_job(granted("user", command=("touch", str(mark))))
    assert verdict.opens
    assert mark.exists()


@pytest.mark.anyio
async def test_the_prompt_can_use_what_a_command_printed() -> None:
    verdict = await checks.check_job(granted("user", command=("printf", "two new\nmails\n")))
    assert verdict.apply(granted()).found == {"check": "two new\nmails"}


@pytest.mark.anyio
async def test_a_watched_command_starts_the_run_when_its_output_changes(tmp_path: Any) -> None:
    watched = tmp_path / "prices"
    watched.write_text("bread 2\nmilk 1\n")
    given = granted("user", watch_command=("cat", str(watched)))

    first = await checks.check_job(given)
    assert first.found is not None
    assert (first.opens, first.found["check"]) == (False, "bread 2\nmilk 1")
    given = replace(given, seen=first.found["check"])
    same = await checks.check_job(given)
    assert (same.opens, same.reason) == (False, "check: the output of cat has not changed")
    assert same.found is None

    watched.write_text("bread 3\nmilk 1\n")
    changed = await checks.check_job(given)
    assert changed.opens
    assert changed.found is not None
    assert changed.found["change"] == "-bread 2\n+bread 3\n milk 1"

    watched.unlink()
    with pytest.raises(CheckFailed, match=r"check: cat exited with code 1: .*No such file"):
        await checks.check_job(given)


@pytest.mark.anyio
async def test_commands_and_a_checks_agent_run_in_the_work_dir_of_the_job(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "prices").write_text("bread 2")
    given: dict[str, Any] = {"owner": "user", "work_dir": "~/repo"}
    checked = await checks.check_job(granted(**given, command=("cat", "prices")))
    assert checked.reason == "check: bread 2"
    watched = await checks.check_job(granted(**given, watch_command=("cat", "prices")))
    assert watched.found is not None
    assert watched.found["check"] == "bread 2"
    program = CommandSettings(command=["cat", "answer"])
    (tmp_path / "repo" / "answer").write_text('{"action": "run", "reason": "found it"}')
    answer = await checks.ask_agent(CommandAgent("robot", program), "New?", granted(**given))
    assert (answer.opens, answer.reason) == (True, "found it")

    (tmp_path / "repo").rename(tmp_path / "gone")
    with pytest.raises(CheckFailed, match=r"check: work_dir: .*/repo does not exist"):
        await checks.check_job(granted(**given, command=("true",)))


@pytest.mark.anyio
async def test_a_watch_refuses_a_direct_call_an_agents_command_and_a_long_output() -> None:
    with pytest.raises(CheckFailed, match="only a job can watch"):
        await checks.check_job(granted(watch_command=("true",)))
    with pytest.raises(CheckFailed, match="only the operator may set a command"):
        await checks.check_job(granted("agent:helper", watch_command=("true",)))
    with pytest.raises(CheckFailed, match="has 100,001 characters, more than the 100,000"):
        await checks.check_job(granted("user", watch_command=("printf", "%0100001d", "1")))


@pytest.mark.parametrize(
    ("tokens", "usage", "left"),
    [
        (None, {"input_tokens": 5, "output_tokens": 5}, None),
        (100, None, 100),
        (100, {"input_tokens": 60, "output_tokens": 10}, 30),
        (100, {"input_tokens": None, "output_tokens": None}, 100),  # the provider reported none
    ],
)
def test_the_usage_of_a_check_reduces_the_tokens_of_the_run(
    tokens: int | None, usage: dict[str, Any] | None, left: int | None
) -> None:
    verdict = Verdict(opens=True, usage=usage)
    assert verdict.apply(granted(tokens=tokens)).tokens == left


def test_a_check_that_uses_all_tokens_fails_the_run_with_its_usage() -> None:
    usage = {"input_tokens": 90, "output_tokens": 10}
    with pytest.raises(CheckFailed, match="tokens: the check used 100 of the 100") as failed:
        Verdict(opens=True, usage=usage).apply(granted(tokens=100))
    assert failed.value.usage == usage
