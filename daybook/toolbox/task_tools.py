"""Definitions of the tools that a task session uses to claim and finish tasks."""

from __future__ import annotations

from daybook.agents.base import Tool
from daybook.names import MAX_LINE_LENGTH, MAX_NAME_LENGTH
from daybook.tasks import model
from daybook.toolbox import task_calls as calls
from daybook.toolbox.arguments import Argument
from daybook.toolbox.invocation import define_tool

_SESSION = Argument(
    "session",
    "Name of your session.",
    None,
    write="the name given to task_session_register",
    longest=MAX_NAME_LENGTH,
)
_RUN = Argument("run_id", "Run id from task_next.", None, write="see task_next", longest=100)
_TOKEN = Argument(
    "token", "Token of the run, from task_next.", None, write="see task_next", longest=100
)
_LEASE = Argument(
    "lease",
    "Duration of the lease without a heartbeat, up to 24h. Default: 5m, or as before.",
    longest=50,
)

TASK_TOOLS: tuple[Tool, ...] = (
    define_tool(
        "task_next",
        "Claim the next queued task that fits your session. You hold it until its lease expires or "
        "you finish it; a session holds one task at a time.",
        calls.claim,
        _SESSION,
        _LEASE,
        Argument(
            "wait_seconds",
            "Maximum seconds to wait for a claimable task.",
            0,
            least=0,
            most=calls.MAX_WAIT_SECONDS,
        ),
        open_world=True,
        may_wait=True,
    ),
    define_tool(
        "task_heartbeat",
        "Renew the lease of a claimed run. Call it well before the lease expires.",
        calls.heartbeat,
        _RUN,
        _TOKEN,
        _LEASE,
        idempotent=True,
    ),
    define_tool(
        "task_complete",
        "Finish a task as done.",
        calls.complete,
        _RUN,
        _TOKEN,
        Argument("output", "Result, stored with the run."),
    ),
    define_tool(
        "task_fail",
        "Finish a task as failed. If another session may be able to do it, use task_release.",
        calls.fail,
        _RUN,
        _TOKEN,
        Argument("error", "Why it failed.", None, write="write why it failed"),
    ),
    define_tool(
        "task_release",
        "Return a claimed run to the queue.",
        calls.release,
        _RUN,
        _TOKEN,
        Argument("reason", "Why you return it.", longest=MAX_LINE_LENGTH),
    ),
    define_tool(
        "task_session_register",
        "Register a session for queued tasks, with its capabilities. The same name again replaces "
        "the registration.",
        calls.register,
        Argument(
            "name",
            "Unique name of your session.",
            None,
            write="write a unique name",
            longest=MAX_NAME_LENGTH,
        ),
        Argument(
            "capabilities",
            "Your capabilities, separated by commas, such as python,review. You get only tasks "
            "that require nothing else.",
            many=True,
        ),
        Argument(
            "agent", "Agent that you are. Default: the agent you work for.", longest=MAX_NAME_LENGTH
        ),
        Argument("type", "Kind of session, such as ide.", longest=model.MAX_WORD_LENGTH),
        Argument("workspace", "Workspace of your session.", longest=model.MAX_WORD_LENGTH),
        Argument("channel", "Channel of your conversation.", longest=model.MAX_WORD_LENGTH),
        idempotent=True,
    ),
    define_tool(
        "task_session_report",
        "Report whether you are free for a task.",
        calls.report,
        _SESSION,
        Argument(
            "state",
            "idle: free; active: busy with something else.",
            None,
            legal=model.SESSION_STATES,
            write=f"use {' or '.join(model.SESSION_STATES)}",
        ),
        Argument(
            "prompting",
            "yes: waiting for a person's answer, so not free.",
            "no",
            legal=("no", calls.YES),
        ),
        idempotent=True,
    ),
)
"""The seven tools for task sessions."""
