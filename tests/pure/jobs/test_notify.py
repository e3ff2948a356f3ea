"""Notifications of a job: fields, refusals and edits (requirements 29, 30, 33)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from daybook.errors import InvalidInput
from daybook.jobs.model import Job, edit, new_job
from daybook.jobs.notify import Notify, is_silent
from tests.notifications import DEFAULT

NOW = datetime(2026, 11, 20, 8, tzinfo=UTC)
HOOK = "https://ops.example.org/hook"


def make(**fields: object) -> Job:
    given: dict[str, object] = {"prompt": "Say hello", "cron": "0 9 * * *", **fields}
    return new_job(now=NOW, **given)  # type: ignore[arg-type]


def test_a_job_has_the_default_notifications() -> None:
    assert make().notify == Notify()
    assert Notify().model_dump(mode="json") == DEFAULT


def test_answers_that_are_not_sent() -> None:
    silent = [
        *("", " \n", "[SILENT]", " [silent]\n", "NO_REPLY", "HEARTBEAT_OK", "no_reply"),
        *("**[SILENT]**", "`NO_REPLY`", "_HEARTBEAT_OK_", "HEARTBEAT_OK.", "```\n[SILENT]\n```"),
        *("Nothing is new.\n\n[SILENT]", "All well:\r\n**NO_REPLY**\r\n", '"NO_REPLY"'),
    ]
    sent = [
        *(
            "I was asked to say [SILENT].",
            "SILENT",
            "NO_REPLY was the answer",
            "NO REPLY",
            "…",
            ".",
        ),
        "The log ends with:\n```\nHEARTBEAT_OK\n```",
        *("[SILENT]\nThe disk is full.", "HEARTBEAT_OK, but the disk is full", "[SILENT] x", "***"),
    ]
    assert [answer for answer in silent if not is_silent(answer)] == []
    assert [answer for answer in sent if is_silent(answer)] == []


def test_each_notification_field_is_accepted_as_a_flat_field_and_stored() -> None:
    fields: dict[str, object] = {
        "events": ["completed", "failed", "missed"],
        "channel": " team ",
        "chat_id": "42",
        "on_complete": f" {HOOK}?a=1 ",
        "on_fail": HOOK,
        "template": "{{job}}: {{output}}",
        "only_changed": True,
        "attach_files": True,
        "silent": True,
        "progress": "10m",
    }
    notify = make(**fields).notify
    assert notify == Notify(
        events=("completed", "failed", "missed"),
        channel="team",
        chat_id="42",
        on_complete=f"{HOOK}?a=1",
        on_fail=HOOK,
        template="{{job}}: {{output}}",
        only_changed=True,
        attach_files=True,
        silent=True,
        progress=timedelta(minutes=10),
    )
    assert Notify.model_validate(notify.model_dump(mode="json")) == notify
    assert make(notify=notify.model_dump(mode="json")).notify == notify
    assert set(fields) == set(Notify.model_fields)


def test_a_flat_field_overrides_the_notify_object() -> None:
    assert make(notify={"channel": "team", "silent": True}, channel="ops").notify == Notify(
        channel="ops", silent=True
    )


REFUSALS: list[tuple[dict[str, object], str]] = [
    ({"events": ["done"]}, "events: 'done' is not valid"),
    ({"events": ["failed", "failed"]}, "events: contains a duplicate (name each event once"),
    ({"chat_id": "42"}, "chat_id: needs a channel (set the channel too)"),
    (
        {"attach_files": True},
        "attach_files: needs a channel (set the channel too: one that sends mail)",
    ),
    ({"on_complete": "ops.example.org"}, "on_complete: is not a valid URL (use one such as"),
    ({"on_fail": "ftp://ops.example.org/x"}, "on_fail: is not a valid URL"),
    ({"on_complete": "http://[/"}, "on_complete: is not a valid URL (use one such as"),
    ({"on_fail": "http://[x]/"}, "on_fail: is not a valid URL"),
    ({"on_fail": f"{HOOK}/{{{{secret:x}}}}"}, "on_fail: is not a valid callback URL"),
    ({"on_fail": HOOK + "x" * 10_000}, "on_fail: is not a valid callback URL (use at most"),
    (
        {"on_complete": HOOK, "events": ["failed"]},
        "on_complete: none of the events calls it (add completed to the events)",
    ),
    (
        {"on_fail": HOOK, "events": ["completed"]},
        "on_fail: none of the events calls it (add failed or cancelled or missed to the events)",
    ),
    ({"template": "Dear {{nobody}}"}, "template: unknown variable {{nobody}}"),
    ({"template": "{{prompt}}"}, "template: unknown variable {{prompt}}"),
    ({"channel": "x" * 201}, "channel: "),
    ({"progress": "soon"}, "progress: "),
    ({"notify": {"chan": "team"}}, "chan: unknown field (did you mean channel?)"),
    ({"notify": "team"}, "notify: 'team' is not an object"),
]


@pytest.mark.floor("C", "An unknown event in notify_on is refused")
@pytest.mark.parametrize(("fields", "text"), REFUSALS)
def test_an_invalid_notification_field_is_refused_also_in_an_edit(
    fields: dict[str, object], text: str
) -> None:
    job = make()
    with pytest.raises(InvalidInput) as caught:
        make(**fields)
    assert str(caught.value).startswith(text)
    with pytest.raises(InvalidInput) as caught:
        edit(job, fields, now=NOW)
    assert str(caught.value).startswith(text)


def test_an_edit_changes_only_what_is_given() -> None:
    job = make(channel="team", chat_id="42", on_fail=HOOK)
    assert edit(job, {"prompt": "Other"}, now=NOW).notify == job.notify
    assert edit(job, {"silent": True}, now=NOW).notify == Notify(
        channel="team", chat_id="42", on_fail=HOOK, silent=True
    )
    # A chat id belongs to its channel, so a change of the channel removes it.
    assert edit(job, {"channel": "ops"}, now=NOW).notify == Notify(channel="ops", on_fail=HOOK)
    assert edit(job, {"channel": ""}, now=NOW).notify == Notify(on_fail=HOOK)


def test_a_chat_session_needs_a_channel() -> None:
    assert make(session="chat", channel="team").notify.channel == "team"
    job, words = make(session="chat", channel="team"), "^session: chat needs a channel"
    with pytest.raises(InvalidInput, match=words):
        make(session="chat")
    with pytest.raises(InvalidInput, match=words):
        edit(job, {"channel": ""}, now=NOW)
    with pytest.raises(InvalidInput, match=words):
        job.with_parameters({"prompt": "x", "session": "chat"})
