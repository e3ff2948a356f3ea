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
    "The name of your session.",
    None,
    write="the name given to task_session_register",
    longest=MAX_NAME_LENGTH,
)
_RUN = Argument(
    "run_id", "The run, as task_next told it.", None, write="see task_next", longest=100
)
_TOKEN = Argument(
    "token", "The run's token, as task_next told it.", None, write="see task_next", longest=100
)
_LEASE = Argument(
    "lease",
    "How long it is yours without a heartbeat, up to 24h. Default: 5m, or as before.",
    longest=50,
)

TASK_TOOLS: tuple[Tool, ...] = (
    define_tool(
        "task_next",
        "Claim the next queued task that fits your session. It is yours until its lease ends, or "
        "you end it; a session holds one at a time.",
        calls.claim,
        _SESSION,
        _LEASE,
        Argument(
            "wait_seconds",
            "So long it waits until something is claimable.",
            0,
            least=0,
            most=calls.MAX_WAIT_SECONDS,
        ),
        open_world=True,
        may_wait=True,
    ),
    define_tool(
        "task_heartbeat",
        "Hold a claimed run longer: its lease begins anew now. Call it well before that ends.",
        calls.heartbeat,
        _RUN,
        _TOKEN,
        _LEASE,
        idempotent=True,
    ),
    define_tool(
        "task_complete",
        "The task is done.",
        calls.complete,
        _RUN,
        _TOKEN,
        Argument("output", "What came of it; it is kept with the run."),
    ),
    define_tool(
        "task_fail",
        "The task cannot be done. If another session may be able to, use task_release.",
        calls.fail,
        _RUN,
        _TOKEN,
        Argument("error", "Why not.", None, write="write why it cannot be done"),
    ),
    define_tool(
        "task_release",
        "Give a claimed run back to the queue.",
        calls.release,
        _RUN,
        _TOKEN,
        Argument("reason", "Why.", longest=MAX_LINE_LENGTH),
    ),
    define_tool(
        "task_session_register",
        "Say that you are there for queued tasks, and what you can do. The same name again "
        "replaces what was said.",
        calls.register,
        Argument(
            "name",
            "A name that is yours alone.",
            None,
            write="write a unique name",
            longest=MAX_NAME_LENGTH,
        ),
        Argument(
            "capabilities",
            "What you can do, with commas between, such as python,review. A task that needs "
            "another one is not for you.",
            many=True,
        ),
        Argument(
            "agent", "The agent that you are. Default: whom you work for.", longest=MAX_NAME_LENGTH
        ),
        Argument("type", "What kind of session, such as ide.", longest=model.MAX_WORD_LENGTH),
        Argument("workspace", "Where you work.", longest=model.MAX_WORD_LENGTH),
        Argument("channel", "The conversation that you are in.", longest=model.MAX_WORD_LENGTH),
        idempotent=True,
    ),
    define_tool(
        "task_session_report",
        "Say whether you are free for a task.",
        calls.report,
        _SESSION,
        Argument(
            "state",
            "idle: free; active: at work on something else.",
            None,
            legal=model.SESSION_STATES,
            write=f"legal: {', '.join(model.SESSION_STATES)}",
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
