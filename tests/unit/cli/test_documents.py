"""Block documents with invalid values from Prefect's UI: shown with their problem."""

from __future__ import annotations

from typing import Any

import pytest

from daybook.api import agents as api_agents
from daybook.api.agents import AgentDetails, SavedAgent
from daybook.api.destinations import DestinationDetails
from daybook.api.tools import ToolServerDetails
from daybook.cli import agents, destinations, tools
from daybook.home import Home


@pytest.mark.parametrize("command", [None, 7, {"a": 1}, ["run", 1]])
def test_an_agent_with_invalid_settings_is_shown_with_its_problem(
    command: object, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"command": command, "environment": [1]}
    agent = AgentDetails(
        name="x",
        kind="command",
        type="daybook-command-agent",
        settings=settings,
        problem="wrong",
        jobs=["brief"],
    )
    agents._print_agent(agent)
    assert "  problem      wrong\n  jobs         brief\n" in capsys.readouterr().out


def test_agents_are_listed_with_their_models_and_the_number_of_their_jobs(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def list_agents() -> list[AgentDetails]:
        return [
            AgentDetails(
                name=name, kind=kind, type="", settings=settings, problem=problem, jobs=jobs
            )
            for name, kind, settings, problem, jobs in (
                ("claude", "model", {"model": "anthropic:claude"}, None, ["brief", "digest"]),
                ("cat", "command", {"command": ["cat"]}, None, []),
                ("odd", "model", {"model": 7}, "wrong", ["brief"]),
            )
        ]

    monkeypatch.setattr(api_agents, "list_agents", list_agents)
    assert [line.split() for line in daybook("agents", "list").out.splitlines()] == [
        ["NAME", "KIND", "MODEL", "JOBS", "PROBLEM"],
        ["claude", "model", "anthropic:claude", "2", "-"],
        ["cat", "command", "-", "0", "-"],
        ["odd", "model", "7", "1", "wrong"],
    ]


def test_an_edit_of_an_agent_changes_only_what_was_given(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[Any]()

    async def edit(name: str, changes: Any) -> SavedAgent:
        given.append((name, dict(changes)))
        return SavedAgent(
            name=name, kind="model", type="", settings={}, problem=None, jobs=[], notes=["a note"]
        )

    monkeypatch.setattr(api_agents, "edit", edit)
    words = ("--tool", "", "--work-dir", "", "--temperature", "0.5")
    assert "! a note" in daybook("agents", "edit", "helper", *words).err
    daybook("agents", "edit", "coder", "--", "claude", "-p")
    daybook("agents", "edit", "helper", "--auto-stream")
    assert given == [
        ("helper", {"tools": [], "work_dir": "", "options": {"temperature": 0.5}}),
        ("coder", {"command": ["claude", "-p"]}),
        ("helper", {"stream": None}),
    ]
    nothing = daybook("agents", "edit", "helper")
    assert (nothing.code, "pass an option" in nothing.err, len(given)) == (2, True, 3)
    both = daybook("agents", "edit", "helper", "--auto-stream", "--no-stream")
    assert (both.code, "cannot be combined" in both.err, len(given)) == (2, True, 3)


@pytest.mark.parametrize("value", [None, 7, {"a": 1}, ["run", 1]])
def test_a_tool_server_with_invalid_settings_is_shown_with_its_problem(
    value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("command", "url", "headers", "work_dir", "environment")
    server = ToolServerDetails(
        name="x", settings=dict.fromkeys(names, value), problem="wrong", tools=None, jobs=[]
    )
    tools._print_server(server)
    assert "wrong\n" in capsys.readouterr().out


@pytest.mark.parametrize("value", [None, "15", {"a": 1}])
def test_a_destination_with_invalid_settings_is_listed_with_its_problem(
    value: object, capsys: pytest.CaptureFixture[str], daybook_home: Home
) -> None:
    destination = DestinationDetails(
        name="x",
        url=value,
        token=value,
        timeout=value,
        tries=value,
        rotating_until=None,
        problem="wrong",
        jobs=[],
    )
    destinations._print_destinations([destination])
    assert "wrong" in capsys.readouterr().out
