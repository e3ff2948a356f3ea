"""Lines that Claude Code and Codex print, in their formats, for tests of their readers.

The sources of the formats are named in `daybook.agents.step_lines`.
"""

from __future__ import annotations

import json
from typing import Any

SESSION = "0ce8853f-aabe-488c-bbc2-a05f10b1cdc3"
THREAD = "0199a213-81c0-7800-8aa1-bbab2a035a53"
MODEL = "claude-sonnet-4-20250514"


def claude_init() -> dict[str, Any]:
    return {
        "type": "system",
        "subtype": "init",
        "cwd": "/tmp",
        "session_id": SESSION,
        "tools": ["Bash", "Read"],
        "mcp_servers": [{"name": "jira", "status": "connected"}],
        "model": MODEL,
        "permissionMode": "default",
    }


def claude_says(
    message: str, *blocks: dict[str, Any], parent: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return a line of a response; a response may have several lines."""
    return {
        "type": "assistant",
        "message": {
            "id": message,
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": list(blocks),
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": 4,
                "cache_creation_input_tokens": 200,
                "cache_read_input_tokens": 1000,
                "output_tokens": 86,
                "service_tier": "standard",
            },
        },
        "parent_tool_use_id": parent,
        "session_id": SESSION,
        **more,
    }


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def calls(call: str, tool: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call, "name": tool, "input": arguments}


def claude_got(
    call: str, content: Any, *, is_error: bool = False, parent: str | None = None
) -> dict[str, Any]:
    """Return the line with the result of a call."""
    block = {"tool_use_id": call, "type": "tool_result", "content": content}
    if is_error:
        block["is_error"] = True
    message = {"role": "user", "content": [block]}
    return {
        "type": "user",
        "message": message,
        "parent_tool_use_id": parent,
        "session_id": SESSION,
    }


def claude_result(result: str = "All done.", **more: Any) -> dict[str, Any]:
    return {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "duration_ms": 5000,
        "duration_api_ms": 4000,
        "num_turns": 2,
        "result": result,
        "session_id": SESSION,
        "total_cost_usd": 0.0123,
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 400,
            "cache_read_input_tokens": 2000,
            "output_tokens": 300,
        },
        "permission_denials": [],
        **more,
    }


def item(kind: str, number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"item_{number}", "type": kind, **more}


def codex(event: str, **more: Any) -> dict[str, Any]:
    return {"type": event, **more}


def codex_command(number: int, command: str, output: str, code: int) -> list[dict[str, Any]]:
    """Return the lines of a command that Codex ran."""
    begun = {"command": command, "aggregated_output": "", "exit_code": None}
    ended = {"command": command, "aggregated_output": output, "exit_code": code}
    status = "completed" if code == 0 else "failed"
    kind = "command_execution"
    return [
        codex("item.started", item=item(kind, number, **begun, status="in_progress")),
        codex("item.completed", item=item(kind, number, **ended, status=status)),
    ]


def codex_end(input_tokens: int, cached: int, output: int) -> dict[str, Any]:
    """Return the line after a turn, with the tokens of the whole thread."""
    return codex(
        "turn.completed",
        usage={
            "input_tokens": input_tokens,
            "cached_input_tokens": cached,
            "output_tokens": output,
        },
    )


CODEX_END = codex_end(24763, 24448, 122)
CODEX_FULL = (
    "Codex ran out of room in the model's context window. Start a new thread or clear earlier "
    "history before retrying."
)


def lines(*events: dict[str, Any]) -> bytes:
    """Return the events as a program prints them."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in events)
