"""The definitions of the job tools; `task_tools` has those for tasks.

They are part of every conversation of an agent, so each word has a cost: the job tools are under 12
KB together, the task tools under 5 KB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daybook import names
from daybook.agents.base import Tool
from daybook.errors import DaybookError
from daybook.schedules import cron, zones
from daybook.tasks.model import redact_tokens
from daybook.toolbox import calls, invocation, task_tools
from daybook.toolbox.arguments import Argument
from daybook.toolbox.invocation import ToolAnswer
from daybook.toolbox.invocation import define_tool as _tool

_FORMS = (
    'A cron expression ("0 9 * * 1-5": weekdays at nine; six fields: seconds first; @daily), '
    '"every 30m", "at 2027-01-15T14:30", "in 30m" (once), or "on demand".'
)
_WRITE = 'write such as "0 9 * * 1-5", "every 30m", "at 2027-01-15T14:30", "in 30m" or "on demand"'

_LINE = 200
"""Maximum characters of a reference to a job; a name may have half of that."""

_JOB = Argument(
    "job_id",
    "The job's id, unique beginning of its id, or name.",
    None,
    write="see cron_list",
    longest=_LINE,
)
_SCHEDULE = Argument("schedule", _FORMS, None, write=_WRITE, longest=cron.MAX_TEXT_LENGTH)
_ZONE = Argument(
    "timezone",
    "IANA zone of the schedule, such as Europe/Berlin. Default: the setting.",
    longest=zones.MAX_NAME_LENGTH,
)
_NAME = Argument("name", "A unique name. Default: the beginning of what it does.")
_CHANNEL = Argument(
    "channel", "Where the answer is delivered, such as inbox. Default: nowhere; cron_runs shows it."
)
_CHAT = Argument("chat_id", "Which chat of the channel, where it has several.")
_HEADERS = 'JSON object of request headers, such as {"X-Team": "a"}; a secret is {{secret:name}}.'
_PARAMS = 'JSON object of the tool\'s arguments, such as {"full": true}.'
_METHOD = "HTTP method. Default: POST."
_BODY = "The request's body, as it is sent."
_TOOL = "name, server.tool, or https://host/path#tool of an MCP server."
_SESSION = (
    "reuse: its runs continue one conversation; new: each run begins one; chat: they continue that "
    "of channel and chat_id."
)
_OBJECT = 'write a JSON object, such as {"full": true}'
_CHANGED = "Leave out for no change."


def _unchanged(
    name: str, description: str = "", *, is_json: bool = False, longest: int = 0
) -> Argument:
    text = f"{description} {_CHANGED}".strip()
    write = _OBJECT if is_json else ""
    return Argument(name, text, write=write, is_json=is_json, longest=longest)


JOB_TOOLS: tuple[Tool, ...] = (
    _tool(
        "cron_add",
        "Schedule a prompt: at each due time an agent is asked it, and its answer delivered. The "
        "answer tells the job's id, its next due times and where the answers go.",
        calls.add,
        Argument(
            "prompt",
            "What the agent is asked, complete in itself: it may not remember this conversation. "
            "May name {{due}} and {{last_output}}.",
            None,
            write="write what the agent is asked at each due time",
        ),
        _SCHEDULE,
        _ZONE,
        _NAME,
        _CHANNEL,
        _CHAT,
        Argument("agent", "The agent that is asked. Default: the one named as you, else default."),
        Argument("model", "A model in place of the agent's own."),
        Argument("session", _SESSION, "reuse", legal=("reuse", "new", "chat")),
    ),
    _tool(
        "cron_add_webhook",
        "Schedule an HTTP request. 2xx is success.",
        calls.add,
        Argument("url", "The address that is called.", None, write="write an https:// address"),
        _SCHEDULE,
        Argument("method", _METHOD),
        Argument("headers", _HEADERS, write=_OBJECT, is_json=True),
        Argument("body", _BODY),
        _ZONE,
        _NAME,
        _CHANNEL,
        _CHAT,
    ),
    _tool(
        "cron_add_tool",
        "Schedule a call of one tool with fixed arguments, without a model.",
        calls.add,
        Argument("tool", f"The tool: {_TOOL}", None, write=f"write {_TOOL}"),
        _SCHEDULE,
        Argument("params", _PARAMS, write=_OBJECT, is_json=True),
        _ZONE,
        _NAME,
        _CHANNEL,
        _CHAT,
    ),
    _tool(
        "cron_list",
        "List the jobs: id, name, schedule, next due time, how the last run ended.",
        calls.list_jobs,
        Argument(
            "status",
            "Only those; failed: whose last run failed.",
            "all",
            legal=("all", "enabled", "disabled", "failed"),
        ),
        read_only=True,
    ),
    _tool("cron_get", "Show one job whole, and its last run.", calls.get, _JOB, read_only=True),
    _tool(
        "cron_update",
        "Change a job: only what is given changes. A new schedule counts from now.",
        calls.update,
        _JOB,
        _unchanged("prompt"),
        _unchanged("schedule", "As in cron_add.", longest=cron.MAX_TEXT_LENGTH),
        _unchanged("timezone", longest=zones.MAX_NAME_LENGTH),
        _unchanged("name"),
        _unchanged("channel", "none: nowhere."),
        _unchanged("chat_id"),
        _unchanged("agent"),
        _unchanged("model", "none: the agent's own."),
        _unchanged("session", "reuse, new or chat."),
        _unchanged("url", "Of a webhook."),
        _unchanged("method", "Of a webhook."),
        _unchanged("headers", "Of a webhook: JSON object.", is_json=True),
        _unchanged("body", "Of a webhook; none: empty."),
        _unchanged("tool", "Of a tool call."),
        _unchanged("params", "Of a tool call: JSON object.", is_json=True),
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
    _tool("cron_enable", "Switch a job on.", calls.enable, _JOB, idempotent=True),
    _tool(
        "cron_disable",
        "Switch a job off (pause it); cron_enable switches it on again.",
        calls.disable,
        _JOB,
        Argument("note", "Why; it is shown with the job.", longest=names.MAX_LINE_LENGTH),
        idempotent=True,
    ),
    _tool(
        "cron_trigger",
        "Run a job now, also a disabled one. Waits a few seconds for its outcome; cron_runs shows "
        "that of a longer run later.",
        calls.trigger,
        _JOB,
        open_world=True,
    ),
    _tool(
        "cron_cancel",
        "End the run of a job that is going or waits, with all that it began.",
        calls.cancel,
        Argument(
            "job_id",
            "The job, or the id of its run.",
            None,
            write="see cron_runs",
            longest=_LINE,
        ),
        destructive=True,
    ),
    _tool(
        "cron_runs",
        "Runs of a job, newest first: outcome, reason, output.",
        calls.history,
        _JOB,
        Argument("limit", "How many.", 5, most=50),
        read_only=True,
    ),
    _tool(
        "cron_next",
        "The next due times of a job, or of a schedule before you use it.",
        calls.next_due,
        Argument("job_id", "A job; or give schedule.", longest=_LINE),
        Argument("schedule", "As in cron_add; or give job_id.", longest=cron.MAX_TEXT_LENGTH),
        Argument(
            "timezone",
            "IANA zone of the schedule. Default: the setting.",
            longest=zones.MAX_NAME_LENGTH,
        ),
        Argument("count", "How many.", 5, most=50),
        read_only=True,
    ),
)
"""The twelve tools for jobs, and `cron_cancel`."""

TOOLS: tuple[Tool, ...] = (*JOB_TOOLS, *task_tools.TASK_TOOLS)

BY_NAME = {each.name: each for each in TOOLS}


async def call(name: str, given: Mapping[str, Any] | None = None) -> ToolAnswer:
    """Call a tool by name, for `owners.current_actor()`.

    Never raises for an invalid name or argument.
    """
    tool = BY_NAME.get(name)
    if tool is None:
        name = redact_tokens(name)
        text = f"there is no tool {invocation.loggable(name)} (known: {', '.join(BY_NAME)})"
        invocation.log_refusal(name, text)
        return ToolAnswer(text, refused=True)
    try:
        return ToolAnswer(await tool.call(dict(given or {})))
    except DaybookError as error:
        return ToolAnswer(str(error), refused=True)
