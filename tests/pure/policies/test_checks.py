"""Check of a job: validation and edits (requirement 43)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.jobs.model import Job, edit, new_job, read_parameters
from daybook.policies.checks import Check
from tests.rows import each

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


def made(**check: Any) -> Job:
    return new_job(now=NOW, prompt="Do it", every="1h", check=check)


def test_a_job_has_no_check_by_default() -> None:
    assert not new_job(now=NOW, prompt="Do it", every="1h").policy.check
    assert made(tool="mail.any").policy.check == Check(tool="mail.any")


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ({"tool": "a", "prompt": "b"}, "has tool and prompt (use only one of them)"),
        ({"prompt": "b", "command": ["c"]}, "has prompt and command"),
        ({"params": {"a": 1}}, "has params but no tool"),
        ({"tool": "a", "agent": "fast"}, "has an agent but no prompt"),
        ({"prompt": " \n"}, "has a blank prompt"),
        ({"command": [" ", "-x"]}, "has a command without a program"),
        ({"prompt": "Is {{it}} late?"}, "unknown variable {{it}}"),
        ({"prompt": "Is {{check}} late?"}, "unknown variable {{check}}"),
        ({"watch_url": "https://a.org", "tool": "b"}, "has tool and watch_url"),
        ({"watch_command": [""]}, "has a command without a program"),
    ],
)
def test_an_invalid_check_is_refused(check: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        made(**check)
    assert refused.value.field == "check"
    assert words in str(refused.value)


def test_a_new_check_replaces_the_whole_old_one() -> None:
    job = made(tool="mail.any", params={"box": "in"})
    for given in (
        {"prompt": "New?"},
        {"command": ["test", "-e", "x"]},
        {"tool": "other"},
        {"watch_url": "https://example.org"},
        {"watch_command": ["ls"]},
    ):
        changed = edit(job, {"check": given}, now=NOW).policy.check
        assert changed == Check.model_validate(given)


def test_an_edit_of_only_params_or_agent_keeps_the_rest_of_the_check() -> None:
    job = edit(made(tool="mail.any"), {"check": {"params": {"box": "in"}}}, now=NOW)
    assert job.policy.check == Check(tool="mail.any", params={"box": "in"})
    job = edit(made(prompt="New?"), {"check": {"agent": "fast"}}, now=NOW)
    assert job.policy.check == Check(prompt="New?", agent="fast")


def test_an_empty_check_removes_it_and_other_edits_keep_it() -> None:
    job = made(prompt="New?", agent="fast")
    assert edit(job, {"retries": 1}, now=NOW).policy.check == job.policy.check
    nothings: list[dict[str, Any]] = [{"tool": ""}, {"prompt": ""}, {"command": []}]
    for nothing in nothings:
        assert not edit(job, {"check": nothing}, now=NOW).policy.check


def test_a_check_survives_the_round_trip_through_prefects_parameters() -> None:
    job = made(command=["test", "-e", "/tmp/x y"])
    assert read_parameters("agent-prompt", job.parameters())[1] == job.policy


@pytest.mark.parametrize(
    ("prompt", "check", "problem"),
    [
        ("Why {{check}}?", {}, "uses {{check}}, but the job has no check"),
        ("Why {{change}}?", {}, "uses {{change}}, but the job watches nothing"),
        ("Why {{change}}?", {"tool": "mail.any"}, "uses {{change}}, but the job watches nothing"),
    ],
)
def test_a_variable_that_no_check_sets_is_refused(
    prompt: str, check: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        new_job(now=NOW, prompt=prompt, every="1h", check=check)
    assert (refused.value.field, refused.value.problem) == ("prompt", problem)

    watch = {"watch_url": "https://example.org"}
    job = new_job(now=NOW, prompt=prompt, every="1h", check=watch)
    with pytest.raises(InvalidInput, match=r"uses \{\{ch"):
        edit(job, {"check": check or {"watch_url": ""}}, now=NOW)


def test_the_work_dir_of_a_prompt_must_be_set() -> None:
    rows: list[tuple[str, dict[str, Any]]] = [
        ("prompt", {"prompt": "Look into {{work_dir}}"}),
        ("check", {"prompt": "x", "check": {"prompt": "Is {{ work_dir }} empty?"}}),
    ]
    for (field, fields), trying in each(rows):
        with trying:
            with pytest.raises(InvalidInput) as refused:
                new_job(now=NOW, every="1h", **fields)
            assert refused.value.field == field
            assert refused.value.problem == "uses {{work_dir}}, but the job has none"
            job = new_job(now=NOW, every="1h", work_dir=" ~/repo ", **fields)
            assert job.policy.work_dir == "~/repo"
            with pytest.raises(InvalidInput, match=r"uses \{\{work_dir"):
                edit(job, {"work_dir": ""}, now=NOW)


def test_a_work_dir_needs_something_that_runs_in_it() -> None:
    calls: list[dict[str, Any]] = [{"url": "https://example.org"}, {"tool": "look"}]
    for fields, trying in each(calls):
        with trying:
            given = {"every": "1h", "work_dir": "/repo", **fields}
            with pytest.raises(InvalidInput, match="work_dir: applies only to agents and"):
                new_job(now=NOW, **given)
            job = new_job(now=NOW, check={"command": ["true"]}, **given)
            assert job.policy.work_dir == "/repo"
