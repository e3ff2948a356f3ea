"""The argument `options` of the job tools: further fields of a job, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daybook.api import jobs
from daybook.home import Home
from daybook.owners import Actor, acting_as
from daybook.toolbox import call

ADDED: dict[str, Any] = {"prompt": "Hello?", "schedule": "in 1h", "name": "brief"}


@pytest.fixture(autouse=True)
def _as_a_model_without_prefect(daybook_home: Home) -> Iterator[None]:
    with acting_as(Actor(via="mcp")):
        yield


async def test_a_job_is_added_and_changed_with_options() -> None:
    options = {
        "description": "the brief",
        "timeout": "10m",
        "retries": 1,
        "catch_up": "none",
        "delete_after_run": True,
    }
    answer = await call("cron_add", {**ADDED, "options": options})
    assert not answer.refused, answer.text
    job = await jobs.show("brief")
    policy = job.policy.model_dump(mode="json")
    assert job.description == "the brief"
    assert {name: policy[name] for name in options if name != "description"} == {
        name: value for name, value in options.items() if name != "description"
    }
    answer = await call("cron_update", {"job_id": "brief", "options": '{"timeout": "5m"}'})
    assert not answer.refused, answer.text
    changed = (await jobs.show("brief")).policy
    assert changed == job.policy.model_copy(update={"timeout": changed.timeout})
    assert changed.model_dump(mode="json")["timeout"] == "5m"


async def test_fallback_agents_are_set_with_options() -> None:
    added = {**ADDED, "options": {"fallback_agents": ["fast", "local"]}}
    answer = await call("cron_add", added)
    assert not answer.refused, answer.text
    assert "agent: default\nfallback agents: fast, local\n" in answer.text
    answer = await call(
        "cron_update", {"job_id": "brief", "options": {"fallback_agents": ["default"]}}
    )
    assert answer.refused
    assert answer.text.startswith('fallback_agents: "default" is the job\'s own agent')


@pytest.mark.parametrize(
    "field", ["check", "check_command", "policy", "owner", "max_runs", "timeouts"]
)
async def test_no_other_field_can_be_set(field: str) -> None:
    answer = await call("cron_add", {**ADDED, "options": {field: {"command": ["touch", "x"]}}})
    assert answer.refused
    assert answer.text.startswith(f"{field}: unknown field")
    assert await jobs.list_jobs() == []


@pytest.mark.parametrize("options", ["[1]", "{", "text", [1], 5])
async def test_options_have_to_be_a_json_object(options: object) -> None:
    answer = await call("cron_add", {**ADDED, "options": options})
    assert answer.refused
    assert answer.text.startswith("options: ")


async def test_only_the_operator_sets_a_work_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    added = {**ADDED, "options": {"work_dir": "~"}}
    with acting_as(Actor("agent:helper", via="mcp")):
        answer = await call("cron_add", added)
    assert answer.text == "work_dir: only the operator can set it (leave it out)"
    answer = await call("cron_add", added)
    assert not answer.refused, answer.text
    assert (await jobs.show("brief")).policy.work_dir == "~"
