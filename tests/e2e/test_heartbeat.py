"""`daybook heartbeat` and checks on the command line, with a real Prefect and without a worker."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from daybook.agents import documents
from daybook.diagnosis.checks import ledger
from daybook.home import Home
from daybook.operations import setup
from daybook.policies.checks import Check
from tests import rows
from tests.at_prefect import with_client
from tests.commands import DaybookJson

pytestmark = pytest.mark.e2e

ADD = ("add", "Do it", "--every", "1h")


@pytest.fixture
def prepared(prefect_server: Any, daybook_home: Home) -> Iterator[Home]:
    """Yield a home at a Prefect that has an agent `fast` beside the default one."""
    with_client(setup.prepare)

    async def add(client: Any) -> None:
        await documents.add(client, "fast", "offline", {}, replace=True)

    async def forget(client: Any) -> None:
        await documents.remove(client, "fast")

    with_client(add)
    yield daybook_home
    with_client(forget)


def jobs_stored(home: Home) -> int:
    with sqlite3.connect(home.path / "ledger.db") as connection:
        return int(connection.execute("SELECT count(*) FROM jobs").fetchone()[0])


@pytest.mark.floor("A", "The heartbeat is off by default")
def test_there_is_no_heartbeat_job_until_heartbeat_on(
    daybook_json: DaybookJson, daybook_home: Home
) -> None:
    found = daybook_json("heartbeat", "status")
    file = str(daybook_home.path / "HEARTBEAT.md")
    assert found == {"on": False, "job": None, "file": file, "orders": "missing"}
    assert daybook_json("heartbeat", "off")["on"] is False
    assert daybook_json("list") == []


@pytest.mark.floor("A", "The heartbeat is due every 10 minutes by default")
@pytest.mark.floor("A", "The heartbeat's interval can be set")
def test_heartbeat_on_creates_the_job_and_again_changes_only_given_fields(
    daybook_json: DaybookJson, daybook_home: Home
) -> None:
    (daybook_home.path / "HEARTBEAT.md").write_text(" \n")
    found = daybook_json("heartbeat", "on", "--channel", "inbox", "--tz", "Europe/Berlin")
    job = found["job"]
    assert (found["on"], found["orders"]) == (True, "blank")
    assert (job["kind"], job["name"], job["schedule"]["every"]) == ("heartbeat", "heartbeat", "10m")
    assert job["deployment"] == "heartbeat/heartbeat"
    assert (job["policy"]["catch_up"], job["policy"]["retries"]) == ("none", 0)

    (daybook_home.path / "HEARTBEAT.md").write_text("Water the plants.")
    hours = (
        "--active-hours",
        "08:00-22:00",
        "--quiet-hours",
        "12:00-13:00",
        "--quiet-hours",
        "18:00-19:00",
    )
    found = daybook_json("heartbeat", "on", "--gate-agent", "fast", "--every", "30m", *hours)
    again = found["job"]
    assert (again["id"], found["orders"]) == (job["id"], "there")
    assert (again["schedule"]["every"], again["gate_agent"]) == ("30m", "fast")
    assert (again["notify"]["channel"], again["schedule"]["timezone"]) == ("inbox", "Europe/Berlin")
    assert again["policy"]["active_hours"] == "08:00-22:00"
    assert again["policy"]["quiet_hours"] == ["12:00-13:00", "18:00-19:00"]

    deployed = with_client(lambda client: client.read_deployment_by_name("heartbeat/heartbeat"))
    assert deployed.parameters["gate_agent"] == "fast"
    assert deployed.entrypoint == "flows/heartbeat.py:heartbeat"


@pytest.mark.slow
def test_heartbeat_off_and_on_are_idempotent_and_keep_its_settings(
    daybook_json: DaybookJson,
) -> None:
    daybook_json("heartbeat", "on", "--gate-agent", "fast")
    for _ in range(2):
        found = daybook_json("heartbeat", "off")
        assert (found["on"], found["job"]["next_due"]) == (False, [])
    for _ in range(2):
        found = daybook_json("heartbeat", "on")
        assert found["on"] is True
        assert found["job"]["gate_agent"] == "fast"
    assert len(daybook_json("list")) == 1


@pytest.mark.slow
def test_an_invalid_heartbeat_option_is_refused_and_stores_nothing(
    daybook_json: DaybookJson, daybook_home: Home
) -> None:
    for (typed, words), checked in rows.each(
        [
            (("--gate-agent", "nobody"), "unknown"),
            (("--agent", "nobody"), "unknown"),
            (("--channel", "nowhere"), "unknown"),
            (("--quiet-hours", "noon"), "not a range of hours"),
            (("--session", "chat"), "set the channel too"),
        ]
    ):
        with checked:
            answer = daybook_json("heartbeat", "on", *typed, code=2)
            assert words in answer["error"]["message"]
            assert answer["error"]["message"].startswith(typed[0])
    assert jobs_stored(daybook_home) == 0


@pytest.mark.slow
def test_heartbeat_on_refuses_the_name_of_a_job_of_another_kind(daybook_json: DaybookJson) -> None:
    daybook_json(*ADD, "--name", "brief")
    answer = daybook_json("heartbeat", "on", "--name", "brief", code=2)
    assert "is a job of the kind agent-prompt" in answer["error"]["message"]


@pytest.mark.slow
def test_a_check_is_deployed_to_prefect_and_can_be_changed(daybook_json: DaybookJson) -> None:
    typed = ("--check-prompt", "Any mail?", "--check-agent", "fast", "--tokens-per-day", "5000")
    job = daybook_json(*ADD, *typed)
    asked = Check(prompt="Any mail?", agent="fast").model_dump(mode="json")
    assert (job["policy"]["check"], job["policy"]["tokens_per_day"]) == (asked, 5_000)
    deployed = with_client(lambda client: client.read_deployment_by_name(job["deployment"]))
    assert deployed.parameters["policy"]["check"] == asked

    job = daybook_json("edit", job["id"], "--check-command", "test -e '/tmp/a flag'")
    assert job["policy"]["check"]["command"] == ["test", "-e", "/tmp/a flag"]
    assert job["policy"]["check"]["prompt"] == ""
    job = daybook_json("edit", job["id"], "--check-command", "")
    assert job["policy"]["check"]["command"] == []


@pytest.mark.slow
def test_an_invalid_check_is_refused_and_stores_nothing(
    daybook_json: DaybookJson, daybook_home: Home
) -> None:
    for (typed, words), checked in rows.each(
        [
            (("--check-prompt", "Any mail?", "--check-agent", "nobody"), 'unknown "nobody"'),
            (("--check-tool", "nobody"), 'unknown "nobody"'),
            (("--check-tool", "a", "--check-prompt", "b"), "has tool and prompt"),
            (("--check-prompt", "{{nobody}}"), "unknown variable"),
        ]
    ):
        with checked:
            answer = daybook_json(*ADD, *typed, code=2)
            assert answer["error"]["field"] == "check"
            assert words in answer["error"]["message"]
    assert jobs_stored(daybook_home) == 0


@pytest.mark.slow
def test_an_agent_that_a_check_or_heartbeat_uses_cannot_be_removed(
    daybook_json: DaybookJson,
) -> None:
    daybook_json(*ADD, "--name", "brief", "--check-prompt", "Any mail?", "--check-agent", "fast")
    answer = daybook_json("agents", "remove", "fast", code=2)
    assert "brief" in json.dumps(answer)
    daybook_json("remove", "brief", "--yes")
    daybook_json("heartbeat", "on", "--gate-agent", "fast")
    answer = daybook_json("agents", "remove", "fast", code=2)
    assert "heartbeat" in json.dumps(answer)


@pytest.mark.slow
def test_doctor_names_a_missing_gate_agent(daybook_json: DaybookJson) -> None:
    daybook_json("heartbeat", "on", "--gate-agent", "fast")

    async def without(client: Any) -> Any:
        await documents.remove(client, "fast")
        return await ledger.agents(client)

    (problem,) = with_client(without)
    with_client(lambda client: documents.add(client, "fast", "offline", {}))
    assert "heartbeat uses the agent fast, which does not exist" in problem.message
