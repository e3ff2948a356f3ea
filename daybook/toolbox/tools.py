"""The definitions of the tools for jobs and conversations. Features define the others.

Every conversation of an agent contains the definitions, so each word costs tokens. The job tools
have less than 12 KB together.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from daybook import feature, names, owners, zone_names
from daybook.agents.base import Tool
from daybook.errors import DaybookError
from daybook.jobs.model import FIELDS
from daybook.owners import Actor
from daybook.redaction import redact_tokens
from daybook.schedules import cron
from daybook.schedules.schedule import SYNTAX_HINT
from daybook.toolbox import calls, invocation
from daybook.toolbox.arguments import Argument
from daybook.toolbox.invocation import ToolAnswer
from daybook.toolbox.invocation import define_tool as _tool

_LINE = 200
"""Maximum length of a reference to a job, in characters; a name may have half as many."""

_JOB = Argument(
    "job_id",
    "Job name, id or unique id prefix.",
    None,
    write="see cron_list",
    longest=_LINE,
)
_SCHEDULE = Argument(
    "schedule",
    str(FIELDS["schedule"].description),
    None,
    write=SYNTAX_HINT,
    longest=cron.MAX_TEXT_LENGTH,
)
_ZONE = Argument(
    "timezone",
    "IANA time zone of the schedule, such as Europe/Berlin. Default: the operator's setting.",
    longest=zone_names.MAX_LENGTH,
)
_NAME = Argument("name", "Unique name. Default: taken from the prompt, host or tool.")
_CHANNEL = Argument(
    "channel",
    "Channel that receives the answer, such as inbox. Default: none; cron_runs shows the answer.",
)
_CHAT = Argument("chat_id", "Chat of the channel, if it has several.")
_HEADERS = (
    'JSON object of request headers, such as {"X-Team": "a"}; write a secret as {{secret:name}}.'
)
_PARAMS = 'JSON object of the tool\'s arguments, such as {"full": true}.'
_METHOD = "HTTP method. Default: POST."
_BODY = "Request body, sent unchanged."
_TOOL = "name, server.tool, or https://host/path#tool of an MCP server."
_SESSION_CHOICE = (
    "reuse: all runs continue one session; new: each run starts one; chat: all runs continue "
    "the session of channel and chat_id."
)
_OBJECT = 'write a JSON object, such as {"full": true}'
_CHANGED = "Leave out for no change."


def _unchanged(
    name: str, description: str = "", *, is_json: bool = False, longest: int = 0
) -> Argument:
    text = f"{description} {_CHANGED}".strip()
    write = _OBJECT if is_json else ""
    return Argument(name, text, write=write, is_json=is_json, longest=longest)


_OPTIONS = Argument(
    "options",
    "JSON object of further fields: "
    + ", ".join(f"{name} ({words})" if words else name for name, words in calls.OPTIONS.items())
    + ".",
    write='write a JSON object, such as {"timeout": "10m"}',
    is_json=True,
)
_IDEMPOTENCY_KEY = Argument(
    "idempotency_key", "Id of this request, such as a UUID: repeating it adds no second job."
)

JOB_TOOLS: tuple[Tool, ...] = (
    _tool(
        "cron_add",
        "Schedule a prompt: at each due time an agent answers it, and Daybook delivers the answer. "
        "Returns the job's id, next due times and recipients.",
        calls.add,
        Argument(
            "prompt",
            "Complete prompt for the agent, which may not remember this conversation. May contain "
            "{{due}} and {{last_output}}.",
            None,
            write="write the prompt for the agent",
        ),
        _SCHEDULE,
        _ZONE,
        _NAME,
        _CHANNEL,
        _CHAT,
        Argument(
            "agent",
            "Agent that answers. Default: the agent with your name, or the agent `default`.",
        ),
        Argument("model", "Model to use instead of the agent's own."),
        Argument("session", _SESSION_CHOICE, "reuse", legal=("reuse", "new", "chat")),
        _OPTIONS,
        _IDEMPOTENCY_KEY,
    ),
    _tool(
        "cron_add_webhook",
        "Schedule an HTTP request. A 2xx status is success.",
        calls.add,
        Argument("url", "Address to call.", None, write="write an https:// address"),
        _SCHEDULE,
        Argument("method", _METHOD),
        Argument("headers", _HEADERS, write=_OBJECT, is_json=True),
        Argument("body", _BODY),
        _ZONE,
        _NAME,
        _CHANNEL,
        _CHAT,
        _OPTIONS,
        _IDEMPOTENCY_KEY,
    ),
    _tool(
        "cron_add_tool",
        "Schedule a call to one tool with fixed arguments, without a model.",
        calls.add,
        Argument("tool", f"The tool: {_TOOL}", None, write=f"write {_TOOL}"),
        _SCHEDULE,
        Argument("params", _PARAMS, write=_OBJECT, is_json=True),
        _ZONE,
        _NAME,
        _CHANNEL,
        _CHAT,
        _OPTIONS,
        _IDEMPOTENCY_KEY,
    ),
    _tool(
        "cron_list",
        "List jobs: id, name, schedule, next due time, outcome of the last run.",
        calls.list_jobs,
        Argument(
            "status",
            "Which jobs to list; failed: the last run failed.",
            "all",
            legal=("all", "enabled", "disabled", "failed"),
        ),
        read_only=True,
    ),
    _tool("cron_get", "Show one job in full, with its last run.", calls.get, _JOB, read_only=True),
    _tool(
        "cron_update",
        "Change the given fields of a job. A new schedule counts from now.",
        calls.update,
        _JOB,
        _unchanged("prompt"),
        _unchanged("schedule", "As in cron_add.", longest=cron.MAX_TEXT_LENGTH),
        _unchanged("timezone", longest=zone_names.MAX_LENGTH),
        _unchanged("name"),
        _unchanged("channel", "none: no channel."),
        _unchanged("chat_id"),
        _unchanged("agent"),
        _unchanged("model", "none: the agent's own."),
        _unchanged("session", "reuse, new or chat."),
        _unchanged("url", "For a webhook."),
        _unchanged("method", "For a webhook."),
        _unchanged("headers", "For a webhook: JSON object.", is_json=True),
        _unchanged("body", "For a webhook; none: empty."),
        _unchanged("tool", "For a tool call."),
        _unchanged("params", "For a tool call: JSON object.", is_json=True),
        _unchanged("options", "As in cron_add.", is_json=True),
        destructive=True,
        idempotent=True,
    ),
    _tool(
        "cron_remove",
        "Remove a job. Its runs stay readable.",
        calls.remove,
        _JOB,
        destructive=True,
    ),
    _tool("cron_enable", "Enable a job.", calls.enable, _JOB, idempotent=True),
    _tool(
        "cron_disable",
        "Disable (pause) a job; cron_enable enables it again.",
        calls.disable,
        _JOB,
        Argument("note", "Reason, shown with the job.", longest=names.MAX_LINE_LENGTH),
        idempotent=True,
    ),
    _tool(
        "cron_trigger",
        "Run a job now, even if it is disabled. Waits up to 15 s for the outcome; cron_runs "
        "shows the outcome of a longer run.",
        calls.trigger,
        _JOB,
        open_world=True,
    ),
    _tool(
        "cron_cancel",
        "Cancel the running or waiting run of a job, with all processes that it started.",
        calls.cancel,
        Argument(
            "job_id",
            "Job, or run id.",
            None,
            write="see cron_runs",
            longest=_LINE,
        ),
        destructive=True,
    ),
    _tool(
        "cron_runs",
        "List runs of a job, newest first: outcome, reason, output.",
        calls.history,
        _JOB,
        Argument("limit", "Maximum number of runs.", 5, most=50),
        read_only=True,
    ),
    _tool(
        "cron_next",
        "Show the next due times of a job, or of a schedule before you use it.",
        calls.next_due,
        Argument("job_id", "Job; leave out if you pass schedule.", longest=_LINE),
        Argument(
            "schedule",
            "As in cron_add; leave out if you pass job_id.",
            longest=cron.MAX_TEXT_LENGTH,
        ),
        Argument(
            "timezone",
            "IANA time zone of the schedule. Default: the operator's setting.",
            longest=zone_names.MAX_LENGTH,
        ),
        Argument("count", "Number of due times.", 5, most=50),
        read_only=True,
    ),
)

_SESSION = Argument(
    "session",
    "Session id, unique id prefix or key, or a job for the session that it continues.",
    None,
    write="see session_list",
    longest=2 * _LINE,
)

_OPERATOR_TOOLS: tuple[Tool, ...] = (
    _tool(
        "session_list",
        "List conversations with agents, the last used first: id, title, number of messages.",
        calls.list_sessions,
        Argument("limit", "Maximum number of sessions.", 20, most=100),
        read_only=True,
    ),
    _tool(
        "session_get",
        "Show the last messages of a conversation, and the summary of the earlier ones.",
        calls.show_session,
        _SESSION,
        Argument("limit", "Maximum number of messages.", 6, most=50),
        read_only=True,
    ),
    _tool(
        "session_send",
        "Continue a conversation: its agent answers, and remembers it. Waits up to 15 s; "
        "session_get shows a later answer.",
        calls.send_to_session,
        _SESSION,
        Argument("prompt", "What to say.", None, write="write what to say"),
        open_world=True,
    ),
)


@cache
def agent_tools() -> tuple[Tool, ...]:
    """Return the tools for agents, which the operator has, too."""
    return _with_features("tools", JOB_TOOLS, ())


@cache
def operator_tools() -> tuple[Tool, ...]:
    """Return the tools that only the operator has: an agent can neither see nor call them."""
    return _with_features("operator_tools", _OPERATOR_TOOLS, agent_tools())


def _with_features(field: str, own: tuple[Tool, ...], others: tuple[Tool, ...]) -> tuple[Tool, ...]:
    """Return the ``own`` tools, and then those that features add and whose names are free."""
    found = list(own)
    for each in feature.features():
        if path := getattr(each, field):
            with feature.leaving_out(each, field):
                for tool in each.load(path):
                    if tool.name in {known.name for known in (*others, *found)}:
                        feature.failures[f"tool {tool.name}"] = "a tool has this name already"
                    else:
                        found.append(tool)
    return tuple(found)


@cache
def by_name() -> dict[str, Tool]:
    """Return all tools by name."""
    return {each.name: each for each in (*agent_tools(), *operator_tools())}


def tools_of(actor: Actor) -> tuple[Tool, ...]:
    """Return the tools that ``actor`` may call."""
    return agent_tools() if actor.is_agent else tuple(by_name().values())


async def call(name: str, given: Mapping[str, Any] | None = None) -> ToolAnswer:
    """Call a tool by name, for `owners.current_actor()`.

    For an invalid name or argument, return an answer that explains the error; raise no error.
    """
    tool, actor = by_name().get(name), owners.current_actor()
    if tool is None or (tool in operator_tools() and actor.is_agent):
        name, known = redact_tokens(name), [each.name for each in tools_of(actor)]
        text = f"there is no tool {invocation.loggable(name)} (known: {', '.join(known)})"
        invocation.log_refusal(name, text)
        return ToolAnswer(text, refused=True)
    try:
        return ToolAnswer(await tool.call(dict(given or {})))
    except DaybookError as error:
        return ToolAnswer(str(error), refused=True)
