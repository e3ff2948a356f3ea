"""Tool-call jobs: names of tools, params, refusals and edits (requirement 37)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.jobs.action_fields import MAX_BODY_LENGTH, MAX_DEPTH, MAX_TOOL_NAME_LENGTH
from daybook.jobs.actions import ToolCall
from daybook.jobs.model import Job, edit, new_job, normal_parameters

NOW = datetime(2026, 11, 20, 8, tzinfo=UTC)
SAID = " (use name, server.tool, or https://host/path#tool)"


def make(**fields: Any) -> Job:
    return new_job(now=NOW, **{"tool": "search.reindex", "every": "1h", **fields})


def nested(levels: int) -> dict[str, Any]:
    """Return an object with that many nested objects below it."""
    inside: dict[str, Any] = {}
    for _ in range(levels):
        inside = {"a": inside}
    return inside


@pytest.mark.floor("B", "A tool call is not retried by default")
@pytest.mark.floor("B", "A tool's params may be empty")
def test_a_tool_call_without_other_fields_has_the_defaults() -> None:
    job = make()
    assert (job.name, job.kind) == ("search.reindex", "tool-call")
    assert job.action == ToolCall(tool="search.reindex", params={})
    assert (job.policy.retries, job.policy.timeout) == (0, timedelta(minutes=30))


@pytest.mark.floor("B", "call_tool is a kind of job")
@pytest.mark.parametrize("kind", ["tool-call", "call_tool"])
def test_the_kind_of_a_tool_call_may_be_given(kind: str) -> None:
    assert make(kind=kind) == make()


def test_params_are_stored_as_written() -> None:
    params = {"full": True, "n": [1, None, 2.5, {"ä": " x\n{{due}} {{secret:ops}}"}], "e": {}}
    job = make(params=params)
    parameters = job.parameters()
    assert parameters["params"] == params
    assert json.loads(json.dumps(parameters)) == parameters
    assert job.with_parameters(parameters) == job
    assert normal_parameters("tool-call", {"tool": "search.reindex", "params": params}) == (
        parameters
    )


@pytest.mark.parametrize(
    ("tool", "name"),
    [
        ("https://x.example/mcp#re index", "re-index"),
        ("HTTPS://x.example/mcp#a#b", "b"),
        (" reindex ", "reindex"),
    ],
)
def test_the_default_name_comes_from_the_tool(tool: str, name: str) -> None:
    assert make(tool=tool).name == name


TOO_LONG = f"tool: is too long (use at most {MAX_TOOL_NAME_LENGTH} characters)"
NO_JSON = " (use strings, numbers, booleans and null)"


@pytest.mark.floor("B", "A job has exactly one action")
@pytest.mark.floor("B", "A tool call without a tool's name is refused")
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"tool": " "}, f"tool: is blank{SAID}"),
        ({"tool": "a\nb"}, f"tool: has invalid characters{SAID}"),
        ({"tool": "a\u202eb"}, f"tool: has invalid characters{SAID}"),
        ({"tool": "https://x.example/mcp"}, f"tool: is a URL without a tool{SAID}"),
        ({"tool": "http://x.example/mcp#"}, f"tool: is a URL without a tool{SAID}"),
        ({"tool": "http://[/#tool"}, f"tool: is not a valid URL{SAID}"),
        ({"tool": "https://\u2100.com/mcp#tool"}, f"tool: is not a valid URL{SAID}"),
        ({"tool": "t" * (MAX_TOOL_NAME_LENGTH + 1)}, TOO_LONG),
        ({"tool": 5}, "tool: input should be a valid string"),
        ({"params": []}, "params: input should be a valid dictionary"),
        (
            {"params": {"a": float("nan")}},
            "params: nan is not valid JSON (use a finite number, or null)",
        ),
        (
            {"params": {"a": [-float("inf")]}},
            "params: -inf is not valid JSON (use a finite number, or null)",
        ),
        (
            {"params": {"a": 2**63}},
            "params: 9223372036854775808 has more than 64 bits (use a string instead)",
        ),
        ({"params": {"a": {1: 2}}}, "params: the key 1 is not a string (use strings as keys)"),
        ({"params": {"a": (1,)}}, f"params: (1,) is not valid JSON{NO_JSON}"),
        (
            {"params": {"a": "x\0"}},
            "params: contains characters that a database cannot store "
            "(remove NUL characters and surrogates)",
        ),
        (
            {"params": {"a": [{"__prefect_kind": "json"}]}},
            'params: the key "__prefect_kind" is reserved for Prefect (remove it)',
        ),
        (
            {"params": nested(MAX_DEPTH + 1)},
            f"params: is nested too deeply (use at most {MAX_DEPTH} levels)",
        ),
        (
            {"params": {"a": "x" * MAX_BODY_LENGTH}},
            f"params: is too long (use at most {MAX_BODY_LENGTH:,} characters)",
        ),
        (
            {"prompt": "x"},
            "prompt and tool: cannot be combined (use only one of them)",
        ),
        (
            {"url": "https://x.example"},
            "url and tool: cannot be combined (use only one of them)",
        ),
        (
            {"body": "x"},
            "body: applies only to webhooks, but this job is a tool call (leave it out)",
        ),
        ({"tool": None, "kind": "call_tool"}, "tool: is missing (name the tool to call)"),
        (
            {"tool": None, "prompt": "x", "params": {}},
            "params: applies only to tool calls, but this job is an agent prompt (leave it out)",
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:40],
)
def test_an_invalid_tool_call_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make(**fields)
    assert str(caught.value) == text


def test_values_at_the_limits_are_accepted() -> None:
    for params in (
        nested(MAX_DEPTH),
        {"a": 2**63 - 1, "b": -(2**63)},
        {"a": "x" * (MAX_BODY_LENGTH - 10)},
    ):
        assert make(params=params).parameters()["params"] == params
    assert make(tool="t" * MAX_TOOL_NAME_LENGTH).action == ToolCall(tool="t" * MAX_TOOL_NAME_LENGTH)


def test_an_edit_changes_only_what_is_given() -> None:
    job = make(params={"full": True})
    other = edit(job, {"tool": "other"}, now=NOW)
    assert other.action == ToolCall(tool="other", params={"full": True})
    assert edit(job, {"params": {}}, now=NOW).action == ToolCall(tool="search.reindex")
    with pytest.raises(InvalidInput, match="kind: cannot be changed"):
        edit(job, {"kind": "webhook"}, now=NOW)


def test_the_schema_of_a_tool_call_makes_a_form() -> None:
    schema = ToolCall.model_json_schema()
    assert schema["required"] == ["tool"]
    assert all(field["title"] and field["description"] for field in schema["properties"].values())


def test_what_a_run_sends_is_shown_without_the_query_of_the_tools_url() -> None:
    action = make(tool="https://tools.example.org/mcp?token=s3cr3t#reindex").action
    assert action.sentence()[1] == "https://tools.example.org/mcp#reindex"
    assert action.sent()[0] == ("Tool", "https://tools.example.org/mcp#reindex")
