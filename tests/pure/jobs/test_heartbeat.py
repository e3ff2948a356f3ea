"""Heartbeat jobs: defaults, refusals, edits, and the round trip (requirement 42)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.jobs.actions import Heartbeat
from daybook.jobs.model import Job, edit, new_job, read_parameters

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


def made(**fields: Any) -> Job:
    return new_job(now=NOW, kind="heartbeat", every="10m", **fields)


@pytest.mark.floor("A", "A heartbeat is a job of its own kind")
@pytest.mark.floor("A", "The heartbeat reads the file HEARTBEAT.md")
def test_a_heartbeat_without_fields_has_the_defaults() -> None:
    job = made()
    assert (job.name, job.kind, job.action) == ("heartbeat", "heartbeat", Heartbeat())
    assert job.action.model_dump() == {
        "file": "HEARTBEAT.md",
        "agent": "default",
        "fallback_agents": (),
        "gate_agent": "",
        "model": "",
        "session": "reuse",
        "session_key": "",
    }
    # A due time that passed while nothing ran is not caught up: the next one comes soon.
    policy = job.policy
    assert (policy.retries, policy.catch_up, policy.overlap) == (0, "none", "skip")
    assert policy.timeout == timedelta(minutes=30)


def test_a_heartbeat_survives_the_round_trip_through_parameters_and_json() -> None:
    job = made(file="~/orders.md", agent="main", gate_agent="fast", session_key="home", retries=1)
    assert read_parameters("heartbeat", job.parameters()) == (job.action, job.policy, job.notify)
    assert Job.model_validate_json(job.model_dump_json()) == job
    assert job.agents() == ["main", "fast"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"prompt": "x"}, "prompt: applies only to agent prompts, but this job is a heartbeat"),
        (
            {"url": "https://x.example"},
            "url: applies only to webhooks, but this job is a heartbeat",
        ),
        ({"file": " "}, "file: '' is not a file name (use one such as HEARTBEAT.md)"),
        ({"file": "a\nb"}, "file: 'a\\nb' is not a file name"),
        ({"agent": " "}, "agent: is blank"),
        ({"gate_agent": "x" * 101}, "gate_agent: is too long"),
        ({"session": "chat"}, "session: chat needs a channel"),
        (
            {"session": "new", "session_key": "a"},
            "session_key: cannot be combined with session new",
        ),
        ({"session_key": "job:1"}, 'session_key: "job:1" is reserved'),
    ],
)
def test_an_invalid_heartbeat_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        made(**fields)
    assert str(refused.value).startswith(text)


def test_the_field_file_is_refused_for_an_agent_prompt() -> None:
    with pytest.raises(
        InvalidInput, match=r"^file: applies only to heartbeats, but this job is an agent prompt"
    ):
        new_job(now=NOW, prompt="x", every="1h", file="x.md")


def test_an_edit_changes_only_what_is_given() -> None:
    job = edit(made(agent="main"), {"file": "x.md"}, now=NOW)
    assert job.action == Heartbeat(file="x.md", agent="main")
