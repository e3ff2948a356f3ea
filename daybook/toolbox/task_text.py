"""Answers of the task tools: short texts, with the ids and tool names that the next call needs.

The input is a dictionary of `daybook.api.task_views`.
"""

from __future__ import annotations

from typing import Any

from daybook.tasks.model import SESSION_STATES
from daybook.toolbox.text import due

IDLE = SESSION_STATES[0]


def claimed(found: dict[str, Any]) -> str:
    """Describe a claimed run. No other answer contains its token."""
    task = found["task"]
    lines = [
        f'Claimed. Run {found["run_id"]} of the task "{task["title"]}", priority '
        f"{task['priority']}",
        f"token: {found['token']} (told once; each call about this run needs it)",
        f"yours until: {due(found['lease_until'])}; task_heartbeat holds it longer",
    ]
    lines += [f"{name}: {task[name]}" for name in ("workspace", "channel") if task[name]]
    lines.append(f"what to do: {task['instructions'] or 'the title says it'}")
    lines.append("End it with task_complete or task_fail; task_release gives it back.")
    return "\n".join(lines)


WAIT_HINT = (
    "Call again with wait_seconds, or wait to be woken: subscribe to the resource of your session"
)
TOO_MANY_WAITING_HINT = (
    "This did not wait, since many calls of yours wait here already: call again in a minute, or "
    "subscribe to the resource of your session"
)


def nothing_claimable(why: str, then: str = "") -> str:
    """Say that there is nothing to claim, and what to do ``then``."""
    return f"Nothing to claim now: {why}. {then or WAIT_HINT}."


def required_first(session: dict[str, Any]) -> str:
    """Return what the session has to do before it can claim anything; empty if nothing.

    Waiting would not help in these cases.
    """
    if session["expired"]:
        return "Call task_session_report with state idle, and again task_next"
    if session["run_id"]:
        return (
            "End that run with task_complete, task_fail or task_release, and call again; a run "
            "whose token is lost is over with its lease"
        )
    if session["prompting"] or session["state"] != IDLE:
        return "Call task_session_report with state idle once you are free, and again task_next"
    return ""


def renewed(found: dict[str, Any]) -> str:
    """Say that the run's lease was renewed."""
    until = due(found["lease_until"])
    return f'Run {found["run_id"][:8]}, "{found["title"]}", is yours until {until}'


def ended(found: dict[str, Any]) -> str:
    """Say that the session no longer holds the run."""
    head = f'Run {found["run_id"][:8]}, "{found["title"]}", '
    if found["status"] == "queued":
        return (
            f"{head}is queued again, at its old place, and may be yours again; its token is over."
        )
    return f"{head}is {found['status']}; its token is over. task_next may have another."


def registered(found: dict[str, Any], waits: bool) -> str:
    """Describe a registered session, and how it stays registered."""
    has = ", ".join(found["capabilities"]) or "none"
    return (
        f"{session(found, 'Registered. ', waits)}\ncapabilities: {has}\n"
        f"It counts as gone from {due(found['expires_at'])}, unless any task tool is called for it."
    )


def session(found: dict[str, Any], begin: str, waits: bool) -> str:
    """Describe a session's state, and what to do next."""
    is_ = found["state"] + (", waiting for an answer" if found["prompting"] else "")
    text = f'{begin}Session "{found["name"]}" is {is_}'
    if found["run_id"]:
        return f"{text}; it holds run {found['run_id'][:8]}"
    return f"{text}; " + ("something waits for it: task_next" if waits else "nothing waits for it")
