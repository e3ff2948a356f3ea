"""Texts of callbacks and messages, and the queues of their destinations (requirements 29-33)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from daybook import repository
from daybook.delivery import messages, outbox
from daybook.jobs.model import new_job
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow, RevisionRow, RunRow
from daybook.runs import sessions
from tests import rows

DUE = datetime(2026, 1, 15, 13, tzinfo=UTC)


def job(owner: str = "user", **fields: Any) -> StoredJob:
    """Return a job as the ledger stores it."""
    made = new_job(
        now=DUE, name="brief", **{"prompt": "What is new?", "cron": "0 * * * *", **fields}
    )
    row = JobRow(
        name="brief",
        slug="brief",
        kind=made.kind,
        owner=owner,
        created_at=DUE,
        updated_at=DUE,
        audited_until=DUE,
    )
    revision = RevisionRow(
        job_id=row.id, number=1, effective_from=DUE, enabled=True, schedule={}, action={}, policy={}
    )
    return StoredJob(row, revision, made)


def run(status: Status = Status.SUCCEEDED, **fields: Any) -> RunRow:
    return RunRow(
        **{
            "occurrence": "due:brief",
            "kind": "agent-prompt",
            "trigger": "schedule",
            "due": DUE,
            "status": status,
            "queued_at": DUE,
            **fields,
        }
    )


def callback(row: RunRow, stored: StoredJob) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(messages.callback_body(row, stored.row, "completed", None))
    return body


def message(row: RunRow, stored: StoredJob, output: str | None = None, template: str = "") -> str:
    event = outbox.OUTCOME_EVENTS[row.state]
    return messages.message(row, stored, event, output, template)


def test_the_body_of_a_callback_describes_the_run() -> None:
    row = run(output="Grüße \u2713", result={"n": 1})
    body = callback(row, job())
    assert (body["version"], body["event"], body["corrects"]) == (1, "completed", None)
    assert (body["id"], body["job"], body["trigger"]) == (row.id, "brief", "schedule")
    assert (body["output"], body["result"]) == ("Grüße \u2713", {"n": 1})
    assert body["scheduled_for"] == "2026-01-15T13:00:00Z"
    assert "delivery" not in body


def test_each_field_of_a_callback_is_explained_in_the_docs() -> None:
    page = (repository.root() / "docs" / "guides" / "callbacks.md").read_text(encoding="utf-8")
    table = page.partition("| field | is |")[2].partition("\n## ")[0]
    columns = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for column in columns for name in column.replace("`", " ").split()}
    assert {name.rstrip(",") for name in named} - {""} == set(callback(run(), job()))


@pytest.mark.parametrize(
    ("status", "fields", "warnings"),
    [
        (Status.SUCCEEDED, {"output": "secret", "result": {"s": "secret"}}, []),
        (Status.FAILED, {"error": 'the answer fits no schema: "secret" is no number'}, []),
        (
            Status.SUCCEEDED,
            {"reason": "warning: tool mail failed: secret", "warnings": ["mail failed: secret"]},
            ["mail failed"],
        ),
    ],
)
def test_a_callback_of_an_agents_job_contains_no_answer(
    status: Status, fields: dict[str, Any], warnings: list[str]
) -> None:
    body = callback(run(status, **fields), job(owner="agent:default"))
    assert "secret" not in json.dumps(body)
    assert (body["output"], body["result"], body["error"]) == (None, None, None)
    assert body["warnings"] == warnings


def test_a_failure_message_contains_error_due_time_and_show_command() -> None:
    stored, row = job(timezone="Europe/Berlin"), run(Status.TIMED_OUT, error="no answer in 30 s")
    assert messages.subject(row, stored.row, None) == "brief: timed out"
    assert message(row, stored).splitlines() == [
        "brief timed out: no answer in 30 s",
        "due 2026-01-15T14:00:00+01:00",
        f"daybook show {row.id[:12]}",
    ]


def test_a_message_uses_the_template_of_its_job() -> None:
    template = "{{job}} was {{status}} at {{due}}: {{output}}"
    # A variable within an answer is not replaced.
    text = message(run(), job(), "{{job}}", template)
    assert text == "brief was succeeded at 2026-01-15T13:00:00+00:00: {{job}}"
    text = message(run(Status.FAILED), job(), None, template)
    assert text == "brief was failed at 2026-01-15T13:00:00+00:00: "


def test_a_template_that_is_blank_for_a_failure_is_not_used() -> None:
    text = message(run(Status.FAILED, error="no network"), job(), None, "{{output}}")
    assert text.startswith("brief failed: no network\n")


def test_a_long_answer_is_truncated_to_100_000_characters() -> None:
    text = message(run(), job(), "x" * 100_007)
    assert text == "x" * 100_000 + "\n… (7 more characters)"


def test_a_result_without_output_is_sent_as_json() -> None:
    assert json.loads(message(run(result={"n": 1}), job())) == {"n": 1}


def test_the_outbox_and_the_session_id_use_the_same_channel_of_a_run() -> None:
    stored = job(channel="jobs", progress="1m")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"notify": {"channel": "own"}}, "own"),
        ({"notify": {}}, ""),
        ({}, "jobs"),
        ({"notify": None}, "jobs"),
        ({"notify": {"of": "a later version"}}, "jobs"),
    ]
    for (parameters, channel), row in rows.each(cases):
        with row:
            assert outbox.notify_of(parameters, stored).channel == channel
            chat = {**parameters, "session": "chat"}
            session_id = sessions.session_id_of(chat, job_id=stored.id, run_id="r", stored=stored)
            assert session_id == f"default:chat:{channel}:"


def test_the_queue_of_a_url_has_no_secrets_and_each_chat_has_its_own_queue() -> None:
    url = "HTTPS://me:pw@Ops.example.org:8443/a/B?token=1#x"
    assert outbox.queue_of_url(url) == "https://ops.example.org:8443/a/B"
    assert outbox.queue_of_channel("team", "42") == "channel:team/42"
