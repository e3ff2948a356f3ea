"""The definitions of the tools for MCP clients: flat, described and small."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from daybook.agents.base import Tool
from daybook.mcp.server import _listed
from daybook.owners import Actor
from daybook.toolbox import agent_tools, operator_tools, tools_of

CRON_ADD = (
    "prompt",
    "schedule",
    "timezone",
    "name",
    "channel",
    "chat_id",
    "agent",
    "model",
    "session",
    "options",
    "idempotency_key",
)
READ_ONLY = {"cron_list", "cron_get", "cron_runs", "cron_next"}

ALL_TOOLS = (*agent_tools(), *operator_tools())

each_tool = pytest.mark.parametrize("tool", ALL_TOOLS, ids=lambda tool: tool.name)


@pytest.mark.floor("E", "The six tools cron_add, cron_list, cron_remove and so on")
def test_the_toolbox_has_exactly_these_tools() -> None:
    assert [tool.name for tool in agent_tools()] == [
        "cron_add",
        "cron_add_webhook",
        "cron_add_tool",
        "cron_list",
        "cron_get",
        "cron_update",
        "cron_remove",
        "cron_enable",
        "cron_disable",
        "cron_trigger",
        "cron_cancel",
        "cron_runs",
        "cron_next",
        "task_next",
        "task_heartbeat",
        "task_complete",
        "task_fail",
        "task_release",
        "task_session_register",
        "task_session_report",
    ]


def test_only_the_operator_has_the_tools_for_sessions_and_approvals() -> None:
    names = [tool.name for tool in tools_of(Actor(via="mcp"))]
    assert names[len(agent_tools()) :] == [
        "session_list",
        "session_get",
        "session_send",
        "approval_list",
        "approval_decide",
        "change_list",
        "change_show",
        "change_decide",
        "spend",
        "run_files",
        "worker_list",
        "worker_drain",
        "worker_resume",
    ]
    assert (
        tools_of(Actor("agent:eva", via="mcp"))
        == tools_of(Actor("agent:eva", via="run"))
        == agent_tools()
    )


def test_only_tools_that_change_nothing_are_marked_read_only() -> None:
    assert {tool.name for tool in agent_tools() if tool.read_only} == READ_ONLY
    read_only = {tool.name for tool in operator_tools() if tool.read_only}
    assert read_only == {
        *("session_list", "session_get", "approval_list", "spend", "run_files"),
        *("change_list", "change_show", "worker_list"),
    }


@pytest.mark.floor("E", "The arguments are flat: one schedule text and a timezone")
def test_cron_add_requires_prompt_and_schedule_and_has_nine_optional_fields() -> None:
    (tool,) = [each for each in agent_tools() if each.name == "cron_add"]
    assert tuple(tool.schema["properties"]) == CRON_ADD
    assert tool.schema["required"] == ["prompt", "schedule"]


@pytest.mark.floor("E", "The schemas have no unions")
@each_tool
def test_each_schema_is_flat(tool: Tool) -> None:
    assert tool.schema["type"] == "object"
    assert set(tool.schema) <= {"type", "properties", "required", "additionalProperties"}
    words = json.dumps(tool.schema)
    assert not any(f'"{word}"' in words for word in ("$ref", "oneOf", "anyOf", "allOf", "$defs"))
    for argument in tool.schema["properties"].values():
        assert argument["type"] in ("string", "integer")
        assert "" not in argument.get("enum", ())  # otherwise Google's API refuses the whole tool


@each_tool
def test_every_argument_is_described_and_optional_ones_have_a_default(tool: Tool) -> None:
    required = tool.schema.get("required", [])
    for name, argument in tool.schema["properties"].items():
        assert argument["description"].strip(), name
        assert ("default" in argument) != (name in required), name
        assert isinstance(argument.get("default", ""), str | int)


@each_tool
def test_each_tool_has_a_description_that_ends_with_a_period(tool: Tool) -> None:
    assert tool.description.endswith(".")


@pytest.mark.parametrize(("of", "most"), [("cron_", 12_000), ("task_", 5_000), ("session_", 1_600)])
def test_the_definitions_of_each_group_of_tools_stay_small(of: str, most: int) -> None:
    definitions: list[dict[str, Any]] = [
        {"name": each.name, "description": each.description, "inputSchema": each.schema}
        for each in ALL_TOOLS
        if each.name.startswith(of)
    ]
    assert len(json.dumps(definitions).encode()) < most


def test_the_definitions_import_neither_prefect_nor_a_database() -> None:
    tell = (
        "import sys; from daybook.toolbox import agent_tools; assert agent_tools(); "
        "print(*{'prefect', 'sqlalchemy', 'fastmcp', 'mcp'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_tool_definitions_match_the_snapshot(snapshot: Callable[[str, str], None]) -> None:
    tools = [_listed(each).model_dump(mode="json", exclude_none=True) for each in ALL_TOOLS]
    snapshot("mcp-tools.json", json.dumps(tools, indent=1))
