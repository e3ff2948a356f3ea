"""What a client is told of the tools: flat, described, and small."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from daybook.agents.base import Tool
from daybook.mcp.server import _listed
from daybook.toolbox import TOOLS

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
)
READ_ONLY = {"cron_list", "cron_get", "cron_runs", "cron_next"}

each_tool = pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)


def test_there_are_these_tools() -> None:
    assert [tool.name for tool in TOOLS] == [
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


def test_only_what_changes_nothing_is_marked_so() -> None:
    assert {tool.name for tool in TOOLS if tool.read_only} == READ_ONLY


def test_cron_add_takes_a_prompt_and_a_schedule_and_may_take_seven_more() -> None:
    (tool,) = [each for each in TOOLS if each.name == "cron_add"]
    assert tuple(tool.schema["properties"]) == CRON_ADD
    assert tool.schema["required"] == ["prompt", "schedule"]


@each_tool
def test_a_schema_is_flat(tool: Tool) -> None:
    assert tool.schema["type"] == "object"
    assert set(tool.schema) <= {"type", "properties", "required", "additionalProperties"}
    words = json.dumps(tool.schema)
    assert not any(f'"{word}"' in words for word in ("$ref", "oneOf", "anyOf", "allOf", "$defs"))
    for argument in tool.schema["properties"].values():
        assert argument["type"] in ("string", "integer")
        assert "" not in argument.get("enum", ())  # Google's API refuses the whole tool then


@each_tool
def test_every_argument_is_described_and_what_is_optional_has_a_default(tool: Tool) -> None:
    required = tool.schema.get("required", [])
    for name, argument in tool.schema["properties"].items():
        assert argument["description"].strip(), name
        assert ("default" in argument) != (name in required), name
        assert isinstance(argument.get("default", ""), str | int)


@each_tool
def test_a_tool_is_described(tool: Tool) -> None:
    assert tool.description.endswith(".")


@pytest.mark.parametrize(("of", "most"), [("cron_", 12_000), ("task_", 5_000)])
def test_all_definitions_are_less_than_12_kb_and_5(of: str, most: int) -> None:
    definitions: list[dict[str, Any]] = [
        {"name": each.name, "description": each.description, "inputSchema": each.schema}
        for each in TOOLS
        if each.name.startswith(of)
    ]
    assert len(json.dumps(definitions).encode()) < most


def test_the_definitions_need_neither_prefect_nor_a_database() -> None:
    tell = (
        "import sys; from daybook.toolbox import TOOLS; assert TOOLS; "
        "print(*{'prefect', 'sqlalchemy', 'fastmcp', 'mcp'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_tools_are_those_of_the_snapshot(snapshot: Callable[[str, str], None]) -> None:
    tools = [_listed(each).model_dump(mode="json", exclude_none=True) for each in TOOLS]
    snapshot("mcp-tools.json", json.dumps(tools, indent=1))
