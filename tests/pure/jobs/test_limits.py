"""Operator's limits for agents' jobs, and errors in the configured limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.jobs import limits
from daybook.jobs.actions import ACTIONS
from daybook.jobs.limits import AgentLimits, Limits
from daybook.jobs.model import Job, new_job
from tests.rows import each

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)  # four weeks before the clocks of Europe change
ME = "agent:scout"


def job(**fields: Any) -> Job:
    given: dict[str, Any] = {"every": "1h", **fields}
    if not {"url", "tool"} & given.keys():
        given.setdefault("prompt", "x")
    if {"cron", "at", "on_demand"} & given.keys():
        del given["every"]
    return new_job(now=NOW, **given)


def refusal(made: Job, **given: Any) -> str:
    """Return the text of the refusal; empty if the job is allowed."""
    try:
        limits.check(made, ME, Limits(**given), NOW)
    except InvalidInput as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("fields", "given"),
    [
        ({}, {}),
        ({"agent": "scout"}, {"agents": ()}),
        ({"agent": "fast"}, {"agents": ("f*",)}),
        ({"agent": "scout", "fallback_agents": ["fast"]}, {"agents": ("fast",)}),
        ({"agent": "scout", "model": "small"}, {"models": ("small",)}),
        ({"every": "1m"}, {}),
        ({"cron": "* * * * *"}, {}),
        ({"at": "2026-03-01T12:00:01+00:00"}, {"min_interval": "1d"}),
        ({"on_demand": True}, {"min_interval": "1d"}),
        ({"tool": "search.find"}, {"tools": ("search.*",)}),
        ({"tool": "https://mcp.example.org/x#find"}, {"tools": ("https://mcp.example.org/*",)}),
        ({"url": "https://api.example.org/x"}, {}),
        ({"url": "https://API.example.org/x"}, {"hosts": ("api.example.org",)}),
        ({"channel": "team", "chat_id": "1"}, {}),
        ({"channel": "team", "chat_id": "-100"}, {"chats": ("-1*",)}),
        ({"on_complete": "https://a.example.org"}, {"hosts": ("*.example.org",)}),
        ({"check": {"prompt": "new?"}}, {}),
        ({"check": {"prompt": "new?", "agent": "fast"}}, {"agents": ("default", "fast")}),
        ({"check": {"tool": "look"}}, {"tools": ("look",)}),
        ({"session_key": "scout"}, {}),
        ({"session_key": "scout:news"}, {}),
        ({"session": "chat", "channel": "team"}, {"channels": ("*", "team")}),
        (
            {"url": "https://x.example.org", "headers": {"Authorization": "{{secret:news}}"}},
            {"secrets": ("news",)},
        ),
    ],
)
def test_a_job_within_the_limits_is_allowed(fields: dict[str, Any], given: dict[str, Any]) -> None:
    assert refusal(job(**fields), **given) == ""


@pytest.mark.parametrize(
    ("fields", "given", "expected"),
    [
        ({"agent": "writer"}, {}, 'agent: "writer" is not allowed for this agent (allowed: defau'),
        ({"agent": "Default"}, {}, 'agent: "Default"'),
        ({"agent": "block/default"}, {}, 'agent: "block/default"'),
        ({"fallback_agents": ["scout", "dear"]}, {}, 'fallback_agents: "dear" is not allowed'),
        ({"model": "dear"}, {}, 'model: "dear" is not allowed for this agent (allowed: none)'),
        (
            {"every": "59s"},
            {},
            "schedule: is due every 59s, which is too often for an agent's job (",
        ),
        ({"cron": "*/5 * * * * *"}, {}, "schedule: is due every 5s"),
        # Due twice within one minute of the year, or only within one active minute of the day.
        ({"cron": "0,1 0 3 24 12 *"}, {}, "schedule: is due every 1s"),
        ({"cron": "* * * * * *", "active_hours": "03:00-03:01"}, {}, "schedule: is due every 1"),
        ({"cron": "59,0 * * * *"}, {"min_interval": "2m"}, "schedule: is due every 1m"),
        ({"tool": "search.find"}, {}, 'tool: "search.find"'),
        (
            {"tool": "https://m.example/x#t"},
            {"tools": ("*",), "hosts": ("a",)},
            'tool: "m.example"',
        ),
        ({"url": "https://b.example.org/"}, {"hosts": ("a.example.org",)}, 'url: "b.example.org"'),
        ({"url": "https://a.example.org@b.org/"}, {"hosts": ("a.*",)}, 'url: "b.org"'),
        ({"channel": "team"}, {"channels": ("inbox",)}, 'channel: "team"'),
        ({"channel": "t", "chat_id": "42"}, {"chats": ("7", "-1*")}, 'chat_id: "42" is not all'),
        ({"channel": "file"}, {}, 'channel: "file" is reserved for the operator'),
        ({"channel": "console"}, {"channels": ("console",)}, 'channel: "console" is reserved'),
        ({"on_complete": "https://b.org"}, {"hosts": ("a",)}, 'on_complete: "b.org"'),
        ({"on_fail": "https://a.org"}, {"approve": ("webhook",)}, "on_fail: needs an approval"),
        ({"on_complete": "https://a.org"}, {"approve": ("*",)}, "on_complete: needs an approval"),
        ({"on_fail": "https://b.org"}, {"hosts": ("a",)}, 'on_fail: "b.org"'),
        ({"check": {"command": ("true",)}}, {}, "check: only the operator can set a command"),
        ({"work_dir": "/tmp"}, {}, "work_dir: only the operator can set it (leave it out)"),
        ({"check": {"tool": "look"}}, {}, 'check: "look"'),
        ({"check": {"prompt": "?", "agent": "dear"}}, {}, 'check: "dear"'),
        ({"tool": "t", "check": {"prompt": "?"}}, {"tools": ("t",), "agents": ()}, 'check: "def'),
        ({"session_key": "ops"}, {}, 'session_key: "ops" belongs to another owner'),
        ({"session_key": "scouts"}, {}, 'session_key: "scouts" belongs to another'),
        (
            {"session": "chat", "channel": "team"},
            {},
            'session: "chat" would read the messages of others in',
        ),
        ({"session": "chat", "channel": "team"}, {"channels": ("tea*",)}, 'session: "chat"'),
        (
            {"url": "https://x.example.org", "headers": {"Authorization": "{{secret:ops}}"}},
            {},
            'secret: "ops"',
        ),
        (
            {"tool": "t", "params": {"a": [{"b": "{{ secret:ops }}"}]}},
            {"tools": ("t",)},
            'secret: "',
        ),
        ({"check": {"tool": "t", "params": {"a": "{{secret:s}}"}}}, {"tools": ("t",)}, "secret"),
        ({"kind": "heartbeat"}, {}, "kind: only the operator can add a job of the kind heartbeat"),
    ],
)
def test_a_job_beyond_the_limits_is_refused(
    fields: dict[str, Any], given: dict[str, Any], expected: str
) -> None:
    if "kind" in fields:
        fields = {"kind": "heartbeat", "every": "1h", "name": "beat"}
        made = new_job(now=NOW, **fields)
    else:
        made = job(**fields)
    assert refusal(made, **given).startswith(expected)


def test_a_daily_job_stays_daily_when_the_clocks_change() -> None:
    """When Berlin's clocks skip an hour, two due times at nine are only 23 hours apart."""
    daily = job(cron="0 9 * * *", timezone="Europe/Berlin")
    assert limits.smallest_interval(daily, NOW) == timedelta(days=1)
    hourly = job(cron="0 * * * *", timezone="Europe/Berlin")
    autumn = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert limits.smallest_interval(hourly, autumn) == timedelta(hours=1)


def test_the_smallest_interval_includes_the_turn_of_the_day_and_of_the_month() -> None:
    """The only gap of one minute is from 23:59 to 00:00, because 23 is the only odd hour."""
    minutes = ",".join(str(each) for each in (*range(0, 60, 6), 59))
    hours = ",".join(str(each) for each in (*range(0, 23, 2), 23))
    # After minute 59 of an even hour the next due time is an hour away; within an hour the gaps are
    # 6 and 5 (54 to 59).
    made = job(cron=f"{minutes} {hours} * * *")
    assert limits.smallest_interval(made, NOW) == timedelta(minutes=1)
    expected = "schedule: is due every 1m, which is too often for an agent's job"
    assert refusal(made, min_interval="2m").startswith(expected)
    monthly = job(cron="0,30 0,23 1,31 * *")  # half an hour everywhere
    assert limits.smallest_interval(monthly, NOW) == timedelta(minutes=30)
    # With ``enough`` the search stops at the first shorter interval: 5 minutes, at 00:54.
    found = limits.smallest_interval(made, NOW, timedelta(minutes=6))
    assert found == timedelta(minutes=5)


def test_limits_apply_only_to_agents_jobs() -> None:
    rules = AgentLimits.of({"jobs": 0, "tools": []})
    assert rules.for_owner("user") is None
    assert rules.for_owner("plugin") is None
    assert rules.for_owner("prefect") is None
    limits.check(job(tool="anything", every="1s"), "user", rules.for_owner("user"), NOW)


def test_an_agents_own_table_overrides_the_common_limits() -> None:
    rules = AgentLimits.of({"jobs": 5, "tools": ["a"], "for": {"scout": {"jobs": 9}}})
    its, others = rules.for_owner("agent:scout"), rules.for_owner("agent:x")
    assert its is not None and others is not None
    assert (its.jobs, its.tools) == (9, ("a",))
    assert (others.jobs, others.tools) == (5, ("a",))


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"jobs": -1}, "limits.jobs"),
        ({"budget": 1}, "limits.budget"),
        ({"min_interval": "soon"}, "limits.min_interval"),
        ({"tools": "search"}, "limits.tools"),
        ({"for": {"scout": {"jobs": "many"}}}, "limits.for.scout.jobs"),
        ({"for": {"scout": 3}}, "limits.for"),
        ({"for": []}, "limits.for"),
    ],
)
def test_an_invalid_limits_table_is_refused_with_the_field(
    table: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        AgentLimits.of(table)
    assert refused.value.field == field


def test_execution_is_switched_off_for_the_kinds_of_the_setting(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limits.load_rules().execution_off == ()
    rows = [("webhook, tool-call", ("webhook", "tool-call")), ("webhook,all", tuple(ACTIONS))]
    for (given, kinds), trying in each(rows):
        with trying:
            monkeypatch.setenv("DAYBOOK_EXECUTION_OFF", given)
            assert limits.load_rules().execution_off == kinds
    monkeypatch.setenv("DAYBOOK_EXECUTION_OFF", "webhooks")
    legal = "agent-prompt, webhook, tool-call, heartbeat, all"
    text = f'DAYBOOK_EXECUTION_OFF: "webhooks" is not a kind (use {legal})'
    with pytest.raises(InvalidInput) as refused:
        limits.load_rules()
    assert str(refused.value) == text
