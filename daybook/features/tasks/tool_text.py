"""Answers of the task tools: short texts with the ids and tool names that the next call needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daybook.errors import NotFound, TokenRefused
from daybook.features.tasks.model import SESSION_STATES
from daybook.toolbox.text import due, hint

if TYPE_CHECKING:
    from daybook.features.tasks.views import ClaimedTaskRun, TaskSession, TitledTaskRun

IDLE = SESSION_STATES[0]


def claimed(found: ClaimedTaskRun) -> str:
    """Describe a claimed run. No other answer contains its token."""
    task = found.task
    lines = [
        f'Claimed. Run {found.run_id} of the task "{task.title}", priority {task.priority}',
        f"token: {found.token} (shown once; each call for this run needs it)",
        f"lease until: {due(found.lease_until)}; task_heartbeat extends it",
    ]
    places = (("workspace", task.workspace), ("channel", task.channel))
    lines += [f"{name}: {value}" for name, value in places if value]
    lines.append(f"what to do: {task.instructions or 'see the title'}")
    lines.append("End it with task_complete or task_fail, or return it with task_release.")
    return "\n".join(lines)


FINAL_HINT = "Waiting does not help"
WAIT_HINT = "Call again with wait_seconds, or subscribe to your session's resource to be notified"
TOO_MANY_WAITING_HINT = (
    "This call did not wait, because too many of your calls are waiting: call again in a minute, "
    "or subscribe to your session's resource"
)


def nothing_claimable(why: str, then: str = "") -> str:
    """Return why there is nothing to claim, and the next step, by default to wait."""
    return f"Nothing to claim now: {why}. {then or WAIT_HINT}."


def required_first(session: TaskSession) -> str:
    """Return the steps that the session must take before it can claim a run; "" if there are none.

    If there are such steps, waiting would not help.
    """
    if session.expired:
        return "Call task_session_report with state idle, then task_next again"
    if session.run_id:
        return (
            "End that run with task_complete, task_fail or task_release, then call again; if you "
            "lost its token, wait until its lease expires"
        )
    if session.prompting or session.state != IDLE:
        return "Call task_session_report with state idle once you are free, then task_next again"
    return ""


def step_after(error: NotFound | TokenRefused) -> str | None:
    """Return the step after such an error, as the end of its text; None for another error.

    It is empty if the tool of the next step is not offered.
    """
    match error:
        case NotFound(noun="task session"):
            return hint("task_session_register", "; register one with {}")
        case NotFound(noun="task run"):
            return hint("task_next", "; claim one with {}")
        case TokenRefused():
            another = hint("task_next", ", and claim another with {}")
            return f"; the run is not yours: stop working on it{another}"
    return None


def renewed(found: TitledTaskRun) -> str:
    """Return the answer that the run's lease was renewed, and until when it lasts."""
    assert found.lease_until is not None  # a claimed run has a lease
    until = due(found.lease_until)
    return f'The lease of run {found.run_id[:8]}, "{found.title}", now lasts until {until}'


def ended(found: TitledTaskRun) -> str:
    """Return the answer that the session no longer holds the run, and the next step."""
    head = f'Run {found.run_id[:8]}, "{found.title}", '
    if found.status == "queued":
        return (
            f"{head}is queued again in its old place, so you may claim it again; its token is "
            "invalid now."
        )
    return f"{head}is {found.status}; its token is invalid now. task_next claims another."


def registered(found: TaskSession, waits: bool) -> str:
    """Describe a registered task session, and the time at which it expires."""
    has = ", ".join(found.capabilities) or "none"
    return (
        f"{session(found, 'Registered. ', waits)}\ncapabilities: {has}\n"
        f"It expires at {due(found.expires_at)} unless you call a task tool for it before then."
    )


def session(found: TaskSession, begin: str, waits: bool) -> str:
    """Describe a task session's state, and the next step."""
    is_ = found.state + (", waiting for an answer" if found.prompting else "")
    text = f'{begin}Session "{found.name}" is {is_}'
    if found.run_id:
        return f"{text}; it holds run {found.run_id[:8]}"
    return f"{text}; " + (
        "a task is waiting for it: call task_next" if waits else "no task is waiting for it"
    )
