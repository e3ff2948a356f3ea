"""Jobs from flat fields, and edits of jobs (requirements 1, 3, 8, 10, 11 and 14)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from daybook.errors import InvalidInput
from daybook.jobs.actions import AgentPrompt, Webhook
from daybook.jobs.model import Job, edit, new_job, read_parameters
from daybook.jobs.notify import Notify
from daybook.policies.policy import Policy
from daybook.schedules.schedule import At, Cron, Every, OnDemand
from daybook.validation import STORED
from tests import notifications
from tests.policies import DEFAULT

NOW = datetime(2026, 11, 20, 8, tzinfo=UTC)
LATER = NOW + timedelta(hours=3)


def make(**fields: object) -> Job:
    given: dict[str, object] = {"prompt": "Say hello", "cron": "0 9 * * *", **fields}
    return new_job(now=NOW, default_timezone="Europe/Berlin", **given)  # type: ignore[arg-type]


@pytest.mark.floor("A", "Session mode reuse is the default")
def test_a_job_with_only_a_prompt_and_a_schedule_has_the_defaults() -> None:
    job = make()
    assert job == Job(
        name="say-hello",
        kind="agent-prompt",
        action=AgentPrompt(prompt="Say hello", agent="default", session="reuse"),
        schedule=Cron(expr="0 9 * * *", timezone="Europe/Berlin"),
        policy=Policy(timeout=timedelta(minutes=30)),
    )
    assert job.enabled
    assert (job.description, job.tags) == ("", ())


@pytest.mark.floor("B", "A job has metadata, free keys and values")
def test_metadata_accepts_any_json_object() -> None:
    given = {"team": "blue", "size": 3, "on": True, "none": None, "deep": [{"a": 1.5}]}
    job = make(metadata=given)
    assert job.metadata == given
    assert edit(job, {"metadata": {"size": {}}}, now=LATER).metadata == {"size": {}}


@pytest.mark.floor("A", "AddJob stores name, schedule and session mode")
@pytest.mark.floor("B", "A job has a name and can be disabled when it is made")
def test_a_job_accepts_every_field() -> None:
    job = make(
        name=" Brief ",
        kind="agent-prompt",
        description="What happened",
        tags=["a", " b ", "a"],
        enabled=False,
        agent="reader",
        session="new",
        timezone="UTC",
        policy={"timeout": "1m"},
        timeout="90s",
        overlap="skip",
    )
    assert job.name == "Brief"
    assert job.tags == ("a", "b")
    assert not job.enabled
    assert job.parameters()["agent"] == "reader"
    assert job.parameters()["session"] == "new"
    assert job.schedule == Cron(expr="0 9 * * *", timezone="UTC")
    assert job.policy.timeout == timedelta(seconds=90)


@pytest.mark.floor("B", "A webhook has a timeout of 30 s by default")
@pytest.mark.floor("B", "A webhook is not retried by default")
@pytest.mark.floor("B", "A webhook's method is POST by default")
def test_a_webhook_without_other_fields_has_the_defaults() -> None:
    job = make(prompt=None, url="https://a.example/x")
    assert (job.kind, job.action) == ("webhook", Webhook(url="https://a.example/x"))
    assert job.parameters()["method"] == "POST"
    assert (job.policy.timeout, job.policy.retries) == (timedelta(seconds=30), 0)


@pytest.mark.floor("B", "send_message is a kind of job")
@pytest.mark.floor("B", "call_webhook is a kind of job")
def test_kinds_may_have_the_names_of_another_scheduler() -> None:
    assert make(kind="send_message") == make()
    hook = {"prompt": None, "url": "https://a.example/x"}
    assert make(kind="call_webhook", **hook) == make(**hook)


def test_a_schedule_is_given_as_one_text_or_by_its_own_field() -> None:
    assert make(cron=None, schedule="every 5m").schedule == Every(
        every=timedelta(minutes=5), anchor=NOW, timezone="Europe/Berlin"
    )
    assert make(cron=None, on_demand=True).schedule == OnDemand(timezone="Europe/Berlin")
    assert isinstance(make(cron=None, at="in 5m").schedule, At)


@pytest.mark.floor("A", "AddJob stores the message as written")
def test_a_prompt_is_stored_as_written() -> None:
    assert make(prompt="  two\n lines \n").parameters()["prompt"] == "  two\n lines \n"
    assert make(prompt="  two\n lines \n").name == "two-lines"


@pytest.mark.floor("E", "A default name in use gets a number")
def test_a_default_name_avoids_taken_names_and_a_given_one_is_refused() -> None:
    taken = {"say-hello", "say-hello-2", "Brief"}
    assert make(taken=taken).name == "say-hello-3"
    with pytest.raises(InvalidInput) as caught:
        make(taken=taken, name="Brief")
    assert str(caught.value) == 'name: "Brief" is taken ("Brief-2" is free)'


KEY = "session_key: is not a valid key (use at most 100 characters, without spaces at the ends)"
REFUSALS = [
    ({"prompt": " \n"}, "prompt: is blank (write a prompt for the agent)"),
    ({"prompt": None}, "prompt: is missing (write a prompt for the agent)"),
    ({"prompt": 5}, "prompt: input should be a valid string"),
    ({"agent": " "}, "agent: is blank (name an agent, such as default)"),
    (
        {"session": "new", "session_key": "k"},
        "session_key: cannot be combined with session new (set session to reuse)",
    ),
    ({"session_key": " k"}, KEY),
    ({"session_key": "k" * 101}, KEY),
    (
        {"session_key": "job:other"},
        'session_key: "job:other" is reserved for Daybook '
        "(do not start it with one of chat:, job:, run:)",
    ),
    (
        {"session_key": "run:1"},
        'session_key: "run:1" is reserved for Daybook '
        "(do not start it with one of chat:, job:, run:)",
    ),
    ({"session": "old"}, "session: 'old' is not valid (use 'reuse', 'new' or 'chat')"),
    (
        {"kind": ["webhook"]},
        "kind: ['webhook'] is not a string",
    ),
    (
        {"kind": "shell"},
        "kind: 'shell' is not a kind (use agent-prompt, webhook, tool-call, heartbeat)",
    ),
    ({"name": ""}, "name: is blank (use 1 to 100 characters)"),
    ({"name": 5}, "name: 5 is not a string (put the value in quotes)"),
    (
        {"metadata": "a"},
        "metadata: 'a' is not an object (use an object such as {\"team\": \"blue\"})",
    ),
    ({"metadata": {" ": 1}}, "metadata: has a blank key"),
    (
        {"metadata": {"a": {"b": {1}}}},
        "metadata: {1} is not valid JSON (use strings, numbers, booleans and null)",
    ),
    (
        {"metadata": {"a": [float("inf")]}},
        "metadata: inf is not valid JSON (use a finite number, or null)",
    ),
    (
        {"metadata": {"a\0": 1}},
        "metadata: contains characters that a database cannot store "
        "(remove NUL characters and surrogates)",
    ),
    (
        {"metadata": {"a": "x" * 10_000}},
        "metadata: is too long (use at most 10,000 characters)",
    ),
    ({"tags": ["a", " "]}, "tags: a tag is blank"),
    ({"tags": "a"}, "tags: is a string (use a list of strings)"),
    ({"tags": ["daybook:1"]}, 'tags: "daybook:1" is reserved for Daybook '
        "(do not start a tag with daybook:)"),
    (
        {"agent": "fast", "fallback_agents": ["local", " fast "]},
        'fallback_agents: "fast" is the job\'s own agent (name other agents)',
    ),
    (
        {"fallback_agents": ["default"]},
        'fallback_agents: "default" is the job\'s own agent (name other agents)',
    ),
    (
        {"fallback_agents": ["a", "b", "a"]},
        'fallback_agents: "a" is listed twice (name each agent once)',
    ),
    (
        {"fallback_agents": ["a", "x" * 101]},
        "fallback_agents: is too long (use at most 100 characters)",
    ),
    ({"enabled": "maybe"}, "enabled: input should be a valid boolean, unable to interpret input"),
    (
        {"cron": None},
        "schedule: is missing (set one of schedule, cron, every, at, after or on_demand)",
    ),
    (
        {"every": "5m"},
        "cron and every: only one of these can be given "
        "(schedule, cron, every, at, after or on_demand)",
    ),
    ({"schedule": "every 5m"}, "cron and schedule: cannot be combined (use only one of them)"),
    ({"cron": 5}, "cron: 5 is not a string (put the value in quotes)"),
    ({"on_demand": "yes"}, "on_demand: 'yes' is not a boolean (use true)"),
    (
        {"timezone": "europe/berlin"},
        'timezone: unknown zone "europe/berlin" (did you mean Europe/Berlin?)',
    ),
    (
        {"overlap": "both"},
        "overlap: 'both' is not valid "
        "(use 'skip', 'queue_one', 'queue_all', 'cancel_running' or 'allow')",
    ),
    ({"policy": "short"}, "policy: 'short' is not an object (use fields such as timeout)"),
    ({"policy": {"timeuot": "1m"}}, "timeuot: unknown field (did you mean timeout?)"),
    ({"promt": "x"}, "promt: unknown field (did you mean prompt?)"),
    ({"timeout": "1.5h"}, 'timeout: "1.5h" has a fraction (write "1h30m")'),
    ({"cron": None, "every": 6}, "every: 6 has no unit (write one of 6s, 6m, 6h, 6d)"),
]  # fmt: skip


@pytest.mark.floor("A", "An unknown session mode is refused")
@pytest.mark.floor("B", "An unknown action is refused")
@pytest.mark.parametrize(("fields", "text"), REFUSALS)
def test_an_invalid_field_is_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make(**fields)
    assert str(caught.value) == text


def test_a_field_that_is_none_counts_as_not_given() -> None:
    assert make(agent=None, on_demand=False, name=None) == make()


def test_parameters_carry_action_policy_and_notify_without_loss() -> None:
    job = make(prompt=" a\n", agent="reader", timeout="90s")
    parameters = job.parameters()
    assert parameters == {
        "prompt": " a\n",
        "agent": "reader",
        "fallback_agents": [],
        "model": "",
        "session": "reuse",
        "session_key": "",
        "output_format": "text",
        "output_schema": {},
        "policy": {**DEFAULT, "timeout": "1m30s"},
        "notify": notifications.DEFAULT,
    }
    through_json = json.loads(json.dumps(parameters))
    assert read_parameters("agent-prompt", through_json) == (
        job.action,
        job.policy,
        Notify(),
    )
    assert make().with_parameters(parameters).parameters() == parameters
    assert make().with_parameters(parameters).schedule == make().schedule
    least = (AgentPrompt(prompt="x"), Policy(), Notify())
    assert read_parameters("agent-prompt", {"prompt": "x"}) == least
    assert read_parameters("agent-prompt", {"prompt": "x", "policy": Policy()})[1] == Policy()


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({}, "prompt: is missing (write a prompt for the agent)"),
        ({"prompt": "x", "agnet": "y"}, "agnet: unknown field (did you mean agent?)"),
        ({"prompt": ""}, "prompt: is blank (write a prompt for the agent)"),
    ],
)
def test_invalid_parameters_are_refused(parameters: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_parameters("agent-prompt", parameters)
    assert str(caught.value) == text


@pytest.mark.floor("B", "Jobs are stored as JSON and read from it")
def test_a_job_round_trips_as_json() -> None:
    for when in ({}, {"cron": None, "every": "90s"}, {"cron": None, "at": "in 5m"}):
        job = make(tags=["a"], **when)
        assert Job.model_validate_json(job.model_dump_json()) == job


@pytest.mark.floor("E", "An update changes only the given fields")
def test_an_edit_changes_only_what_is_given() -> None:
    job = make(name="Brief", agent="reader", timeout="5m", tags=["a"], description="d")
    assert edit(job, {}, now=LATER) == job
    assert edit(job, {"prompt": "Other"}, now=LATER) == job.model_copy(
        update={"action": AgentPrompt(prompt="Other", agent="reader")}
    )
    assert edit(job, {"description": "", "tags": [], "enabled": False}, now=LATER) == (
        job.model_copy(update={"description": "", "tags": (), "enabled": False})
    )
    assert edit(job, {"timeout": "6m"}, now=LATER).policy == Policy(timeout=timedelta(minutes=6))
    assert edit(job, {"policy": {"timeout": "7m"}}, now=LATER).policy.timeout == timedelta(
        minutes=7
    )
    assert edit(job, {"overlap": "skip"}, now=LATER) == job
    assert edit(job, {"kind": "agent-prompt"}, now=LATER) == job


def test_an_edit_of_the_schedule_keeps_what_did_not_change() -> None:
    job = make()
    moved = edit(job, {"timezone": "America/New_York"}, now=LATER)
    assert moved.schedule == Cron(expr="0 9 * * *", timezone="America/New_York")
    every = edit(job, {"every": "10m"}, now=LATER)
    assert every.schedule == Every(
        every=timedelta(minutes=10), anchor=LATER, timezone="Europe/Berlin"
    )
    again = edit(every, {"every": "600s"}, now=LATER + timedelta(hours=1))
    assert again == every
    slower = edit(every, {"every": "20m"}, now=LATER + timedelta(hours=1))
    assert slower.schedule == Every(
        every=timedelta(minutes=20), anchor=LATER + timedelta(hours=1), timezone="Europe/Berlin"
    )
    assert edit(every, {"timezone": "UTC"}, now=NOW).schedule == Every(
        every=timedelta(minutes=10), anchor=LATER, timezone="UTC"
    )
    assert edit(job, {"schedule": "on demand"}, now=LATER).schedule == OnDemand(
        timezone="Europe/Berlin"
    )


def test_an_edit_accepts_a_free_name_and_refuses_a_taken_one() -> None:
    job = make(name="Brief")
    assert edit(job, {"name": "Other"}, now=LATER, taken={"Third"}).name == "Other"
    with pytest.raises(InvalidInput, match=r'^name: "Third" is taken'):
        edit(job, {"name": "Third"}, now=LATER, taken={"Third"})


@pytest.mark.floor("E", "An invalid update leaves the job untouched")
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"prompt": " "}, "prompt: is blank (write a prompt for the agent)"),
        ({"prompt": "{{nobody}}"}, "prompt: unknown variable {{nobody}} (known: {{due}}, "),
        ({"cron": "0 0 30 2 *"}, 'cron: "0 0 30 2 *" never fires'),
        ({"cron": "@daily", "every": "5m"}, "cron and every: only one of these can be given"),
        ({"at": "2020-01-01T00:00:00Z"}, "at: 2020-01-01T01:00:00+01:00 (Europe/Berlin) is in the"),
        ({"timezone": "Mars"}, 'timezone: unknown zone "Mars"'),
        ({"description": "new", "timeout": "0s"}, 'timeout: "0s" is zero'),
        ({"name": "", "prompt": "new"}, "name: is blank"),
        ({"kind": "heartbeat"}, "kind: cannot be changed (add a new job instead)"),
        ({"kind": "tool-call"}, "kind: cannot be changed (add a new job instead)"),
        ({"kind": "webhook"}, "kind: cannot be changed (add a new job instead)"),
        (
            {"url": "https://x.example"},
            "url: applies only to webhooks, but this job is an agent prompt",
        ),
        ({"titel": "x"}, "titel: unknown field"),
    ],
)
def test_an_invalid_edit_leaves_the_job_untouched(changes: dict[str, object], text: str) -> None:
    job = make()
    before = job.model_dump_json()
    with pytest.raises(InvalidInput) as caught:
        edit(job, changes, now=LATER)
    assert str(caught.value).startswith(text)
    assert job.model_dump_json() == before


def test_an_edit_validates_the_prompt_only_if_it_changes() -> None:
    job = make()
    old = job.model_copy(update={"action": job.action.model_copy(update={"prompt": "{{nobody}}"})})
    assert type(old).model_validate_json(old.model_dump_json()) == old
    edited = edit(old, {"agent": "reader"}, now=LATER)
    assert edited.parameters()["prompt"] == "{{nobody}}"
    parameters = edited.parameters() | {"agent": "writer"}
    assert old.with_parameters(parameters).parameters()["agent"] == "writer"
    with pytest.raises(InvalidInput, match=r"^prompt: unknown variable \{\{somebody\}\}"):
        old.with_parameters(parameters | {"prompt": "{{somebody}}"})
    with pytest.raises(InvalidInput, match=r"^prompt: unknown variable \{\{nobody\}\}"):
        make(prompt="{{nobody}}")


def test_the_schema_of_an_agent_prompt_makes_a_form() -> None:
    schema = AgentPrompt.model_json_schema()
    assert schema["required"] == ["prompt"]
    assert schema["properties"]["session"]["enum"] == ["reuse", "new", "chat"]
    assert all(field["title"] and field["description"] for field in schema["properties"].values())


@pytest.mark.parametrize("kind", ["agent-prompt", "heartbeat"])
@pytest.mark.parametrize("model", ["fast\nERROR forged", "x" * 201])
def test_a_model_name_must_be_one_line_of_limited_length(kind: str, model: str) -> None:
    given: dict[str, object] = {"kind": kind, "every": "1h", "model": model}
    if kind == "agent-prompt":
        given["prompt"] = "Say hello"
    with pytest.raises(InvalidInput) as refused:
        new_job(now=NOW, **given)  # type: ignore[arg-type]
    expected = "model: is not valid (use one line of at most 200 characters)"
    assert str(refused.value) == expected


@pytest.mark.parametrize("kind", ["agent-prompt", "heartbeat"])
def test_fallback_agents_keep_their_order_and_are_agents_of_the_job(kind: str) -> None:
    given: dict[str, object] = {"kind": kind, "every": "1h", "agent": "main"}
    if kind == "agent-prompt":
        given["prompt"] = "Say hello"
    job = new_job(now=NOW, **given, fallback_agents=["fast", "local"])  # type: ignore[arg-type]
    assert job.agents() == ["main", "fast", "local"]
    assert job.parameters()["fallback_agents"] == ["fast", "local"]
    assert job.with_parameters(job.parameters()) == job
    with pytest.raises(InvalidInput, match=r'^fallback_agents: "local" is the job\'s own agent'):
        edit(job, {"agent": "local"}, now=LATER)
    assert edit(job, {"fallback_agents": [""]}, now=LATER).agents() == ["main"]


def test_the_agents_tools_and_secrets_of_a_job_include_those_of_its_check() -> None:
    hook = {"prompt": None, "url": "https://a.example", "headers": {"X": "{{secret:hook}}"}}
    asked = make(**hook, check={"prompt": "Is there mail?"})
    assert (asked.agents(), asked.tools()) == (["default"], [])
    assert make(**hook, check={"prompt": "Is there mail?", "agent": "fast"}).agents() == ["fast"]
    called = make(check={"tool": "mail.unread", "params": {"key": "{{secret:mail}}"}})
    assert (called.agents(), called.tools()) == (["default"], ["mail.unread"])
    assert {"key": "{{secret:mail}}"} in called.values_with_secrets()
    assert {"X": "{{secret:hook}}"} in asked.values_with_secrets()


def test_fields_that_prefect_would_refuse_for_their_size_are_refused_by_name() -> None:
    long = "x" * 515_000
    job = make(prompt=long)
    assert len(json.dumps(job.parameters(), separators=(",", ":"))) < 524_288  # Prefect's limit
    refused: list[tuple[dict[str, object], str]] = [
        ({"prompt": "ä" * 90_000}, "prompt: is too long: 540,002 bytes as JSON"),
        ({"prompt": long, "check": {"prompt": "y" * 9_000}}, "prompt: is too long: 515,002 bytes"),
    ]
    for fields, message in refused:
        with pytest.raises(InvalidInput, match=message) as caught:
            make(**fields)
        assert str(caught.value).endswith(
            "(all fields of a job together may have 520,000, where a character outside ASCII "
            "counts 6 or 12)"
        )
        with pytest.raises(InvalidInput, match=message):
            edit(job, fields, now=LATER)
    assert edit(job, {"prompt": "Say hello"}, now=LATER) == make(name=job.name)
    headers = {"a": "x" * 400_000, "b": "x" * 200_000}
    with pytest.raises(InvalidInput, match=r"^headers: is too long: 600,0"):
        make(prompt=None, url="https://example.org", headers=headers)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "a\0b"),
        ("description", "\ud800"),
        ("tags", ["x", "a\0b"]),
        ("metadata", {"a\0b": 1}),
        ("policy", {"check": {"command": ["a\0b"]}}),
    ],
)
def test_a_text_that_the_ledger_cannot_store_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidInput, match="remove NUL characters and surrogates") as refused:
        edit(new_job(now=NOW, prompt="x", on_demand=True), {field: value}, now=NOW)
    assert refused.value.field == field


def test_a_schema_that_the_ledger_would_change_is_refused_in_prefect_too() -> None:
    schema = {"type": "string", "pattern": "^[^\0-\x1f]*$"}
    given: dict[str, Any] = {"prompt": "x", "output_format": "structured", "output_schema": schema}
    with pytest.raises(InvalidInput, match="output_schema: contains characters"):
        new_job(now=NOW, on_demand=True, **given)
    with pytest.raises(InvalidInput, match="output_schema"):
        read_parameters("agent-prompt", given)
    stored = {"maximum": 2**64 - 1}  # by an earlier version
    with pytest.raises(ValidationError):
        AgentPrompt.model_validate(given | {"output_schema": stored})
    AgentPrompt.model_validate(given | {"output_schema": stored}, context=STORED)
