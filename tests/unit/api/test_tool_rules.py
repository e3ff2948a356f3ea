"""The rules for tools that a job inherits from the run that adds or changes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from daybook.api import authorization
from daybook.errors import InvalidInput
from daybook.jobs.model import Job, edit, new_job
from daybook.owners import Actor, acting_as

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
RUN = Actor("agent:brief", via="run", only_tools=("web", "mail.get_?", "daybook"))


def job(**fields: Any) -> Job:
    given = {"prompt": "Look"} if "tool" not in fields else {}
    return new_job(now=NOW, name="a", cron="0 9 * * *", **{**given, **fields})


def added(given: Job, actor: Actor = RUN) -> Job:
    with acting_as(actor):
        return authorization.inherit_tool_rules(given, NOW)


def test_a_job_without_entries_inherits_those_of_the_run() -> None:
    assert added(job()).policy.only_tools == RUN.only_tools
    assert added(job(), Actor("agent:brief", via="run")).policy.only_tools == ()
    tool = added(job(tool="mail.get_1"))
    assert tool.policy.only_tools == ()  # it asks no agent


@pytest.mark.parametrize("entries", [["web"], ["web.fetch", "mail.get_1"], ["mail.get_?"]])
def test_a_job_may_have_fewer_tools_than_the_run(entries: list[str]) -> None:
    assert added(job(only_tools=entries)).policy.only_tools == tuple(entries)


@pytest.mark.parametrize(
    "entries", [["shell"], ["*"], ["mail"], ["mail.*"], ["mail.get_*"], ["mail.get_12"], ["w*"]]
)
def test_a_job_must_not_have_more_tools_than_the_run(entries: list[str]) -> None:
    with pytest.raises(InvalidInput, match="this run may not call"):
        added(job(only_tools=entries))


@pytest.mark.parametrize(
    "fields",
    [
        {"tool": "mail.send"},
        {"check": {"tool": "mail.send"}},
        {"check": {"prompt": "Send a mail", "agent": "claude"}},
    ],
)
def test_neither_a_tool_job_nor_a_check_makes_a_call_that_the_run_must_not_make(
    fields: dict[str, Any],
) -> None:
    with pytest.raises(InvalidInput, match="may not call"):
        added(job(**fields))
    assert added(job(**fields), Actor("agent:brief", via="run")).name == "a"


def test_an_agent_may_not_change_the_entries_of_its_job() -> None:
    before = job(only_tools=["web"])
    for entries in (["web", "shell"], ["web.fetch"], [""]):
        after = edit(before, {"only_tools": entries}, now=NOW)
        with acting_as(Actor("agent:brief")), pytest.raises(InvalidInput, match="only_tools"):
            authorization.check_tool_rules(before, after)
    with acting_as(Actor()):  # a person
        authorization.check_tool_rules(before, edit(before, {"only_tools": [""]}, now=NOW))
    with acting_as(RUN):
        authorization.check_tool_rules(job(), added(job()))


@pytest.mark.usefixtures("daybook_home")
def test_a_job_of_an_agent_has_at_least_the_sandbox_of_the_run_that_adds_it() -> None:
    run = Actor("agent:brief", via="run", sandbox="workspace")
    levels = {each: added(job(sandbox=each), run).policy.sandbox for each in ("", "off", "strict")}
    assert levels == {"": "workspace", "off": "workspace", "strict": "strict"}
    assert added(job(tool="mail.get_1"), run).policy.sandbox == ""  # it starts no program


@pytest.mark.usefixtures("daybook_home")
def test_an_agent_may_not_weaken_the_sandbox_of_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_SANDBOX", "workspace")
    before = job(sandbox="strict")
    with acting_as(Actor("agent:brief")):
        for level in ("off", "workspace", ""):
            after = edit(before, {"sandbox": level}, now=NOW)
            with pytest.raises(InvalidInput, match="only the operator can weaken it"):
                authorization.check_tool_rules(before, after)
        authorization.check_tool_rules(job(), before)
    authorization.check_tool_rules(before, edit(before, {"sandbox": "off"}, now=NOW))
