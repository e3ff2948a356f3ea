"""Definitions of the tools that a task session uses to claim and finish tasks.

Every conversation of an agent contains them, so each word costs tokens: they have less than 5 KB
together.
"""

from __future__ import annotations

from daybook.agents.base import Tool
from daybook.features.tasks import model
from daybook.features.tasks import tool_calls as calls
from daybook.names import MAX_LINE_LENGTH, MAX_NAME_LENGTH
from daybook.toolbox.arguments import Argument
from daybook.toolbox.invocation import ToolFunction, define_tool

_SESSION = Argument(
    "session",
    "Name of your session.",
    None,
    write="use the name given to task_session_register",
    longest=MAX_NAME_LENGTH,
)
_RUN = Argument(
    "run_id", "Id of the run, from task_next.", None, write="see task_next", longest=100
)
_TOKEN = Argument(
    "token",
    "Token of the run, from task_next.",
    None,
    write="see task_next",
    longest=100,
)
_LEASE = Argument(
    "lease",
    "Duration of the lease, up to 24h. Default: 5m, or the current one.",
    longest=50,
)


def _tool(name: str, description: str, does: ToolFunction, *takes: Argument, **flags: bool) -> Tool:
    return define_tool(name, description, calls.with_next_step(does), *takes, **flags)


TOOLS: tuple[Tool, ...] = (
    _tool(
        "task_next",
        "Claim the next queued task that fits your session. You hold it until you end it or its "
        "lease expires; a session holds one at a time.",
        calls.claim,
        _SESSION,
        _LEASE,
        Argument(
            "wait_seconds",
            "Maximum wait for a task, in seconds.",
            0,
            least=0,
            most=calls.MAX_WAIT_SECONDS,
        ),
        Argument("priority_min", "Lowest priority to claim.", model.LOWEST, legal=model.PRIORITIES),
        Argument(
            "idempotency_key",
            "Key of this claim. If its answer was lost, repeat it with the same key.",
            longest=model.MAX_WORD_LENGTH,
        ),
        open_world=True,
        may_wait=True,
    ),
    _tool(
        "task_heartbeat",
        "Extend the lease of a claimed run; its duration counts from now. Call it well before the "
        "lease expires.",
        calls.heartbeat,
        _RUN,
        _TOKEN,
        _LEASE,
        idempotent=True,
    ),
    _tool(
        "task_complete",
        "Report that the task is done.",
        calls.complete,
        _RUN,
        _TOKEN,
        Argument("output", "Result, stored with the run."),
    ),
    _tool(
        "task_fail",
        "Report that the task cannot be done. If another session could do it, use task_release.",
        calls.fail,
        _RUN,
        _TOKEN,
        Argument("error", "Reason.", None, write="say why it cannot be done"),
    ),
    _tool(
        "task_release",
        "Return a claimed run to the queue.",
        calls.release,
        _RUN,
        _TOKEN,
        Argument("reason", "Reason.", longest=MAX_LINE_LENGTH),
    ),
    _tool(
        "task_session_register",
        "Register yourself for queued tasks, with your capabilities. Registering the same name "
        "again updates it.",
        calls.register,
        Argument(
            "name",
            "Unique name of your session.",
            None,
            write="use a unique name",
            longest=MAX_NAME_LENGTH,
        ),
        Argument(
            "capabilities",
            "Your capabilities, separated by commas, such as python,review. You can claim only "
            "tasks that need no other capability.",
            many=True,
        ),
        Argument(
            "agent",
            "Agent that you run as. Default: that of your token.",
            longest=MAX_NAME_LENGTH,
        ),
        Argument(
            "type",
            "Kind of program, such as ide; informational only.",
            longest=model.MAX_WORD_LENGTH,
        ),
        Argument("workspace", "Your workspace.", longest=model.MAX_WORD_LENGTH),
        Argument("channel", "Your channel.", longest=model.MAX_WORD_LENGTH),
        idempotent=True,
    ),
    _tool(
        "task_session_report",
        "Report whether you are free to do a task.",
        calls.report,
        _SESSION,
        Argument(
            "state",
            "idle: free; active: busy.",
            None,
            legal=model.SESSION_STATES,
            write=f"use {' or '.join(model.SESSION_STATES)}",
        ),
        Argument(
            "prompting",
            "yes: you are waiting for the user's answer, so you are not free.",
            "no",
            legal=("no", calls.YES),
        ),
        idempotent=True,
    ),
)
"""The tools for task sessions."""
