"""Text and tables for tasks, their runs and task sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daybook.cli import formatting, output
from daybook.features.tasks.model import MAX_RUNS_PER_TASK

if TYPE_CHECKING:
    from daybook.features.tasks.views import (
        ClaimedTaskRun,
        TaskDetails,
        TaskRun,
        TaskSession,
        TaskWithRun,
    )


def print_tasks(found: list[TaskWithRun]) -> None:
    """Print tasks, one on each line."""
    output.table(
        ("TASK", "TITLE", "PRIORITY", "STATUS", "SINCE", "NOTE"),
        [
            (
                formatting.short_id(each.id),
                each.title,
                each.priority,
                each.status,
                formatting.local_time(
                    each.run.finished_at or each.run.claimed_at or each.run.queued_at
                ),
                note(each) or "-",
            )
            for each in found
        ],
        whole=("TASK", "PRIORITY", "STATUS", "SINCE"),
        cut=True,
    )


def note(task: TaskWithRun) -> str:
    """Return the note on a task in a list: its holder, result, problem or requirements.

    The note on a cancelled task is empty.
    """
    run = task.run
    match task.status:
        case "claimed":
            if run.lease_over:
                return _holder(run)
            time_of_day = formatting.local_time(run.lease_until).partition(" ")[2]
            return f"{run.session}, until {time_of_day}"
        case "completed":
            return ": ".join(filter(None, [run.done_by, formatting.first_line(run.output)]))
        case "failed":
            return ": ".join(filter(None, [run.done_by, formatting.first_line(run.error)]))
        case "needs_attention":
            return f"{output.ALERT_PREFIX}{run.attention}"
        case "queued":
            return _queued_note(task)
        case _:
            return ""


def _queued_note(task: TaskWithRun) -> str:
    if task.paused:
        return _with_reason("paused", task.paused_reason)
    if task.owner == "user":
        return "for the user"
    if task.run.attention:
        return f"{output.ALERT_PREFIX}{task.run.attention}"
    # The text is, for example: for python, docker; agent:eva; workspace shop
    place = [f"{name} {value}" for name, value in _place(task) if value]
    required = "; ".join(filter(None, [", ".join(task.capabilities), task.owner, *place]))
    return f"for {required}" if required else ""


def print_task(task: TaskWithRun) -> None:
    """Print a task and the run in ``task.run``: the newest run, or the run that the user named."""
    run = task.run
    state = task.status.replace("_", " ")
    output.line(f"{task.title} ({state})", style="bold")
    paused = _with_reason("yes", task.paused_reason) if task.paused else ""
    attempt = f", run {run.number} of at most {MAX_RUNS_PER_TASK}" if run.number > 1 else ""
    waited_seconds = run.queued_seconds or 0.0
    pairs = [
        ("task", task.id),
        ("run", run.run_id + attempt),
        ("priority", task.priority),
        ("for", _eligible_sessions(task.owner)),
        ("needs", ", ".join(task.capabilities)),
        ("prefers", ", ".join(task.preferred)),
        ("workspace", task.workspace),
        ("channel", task.channel),
        ("paused", paused),
        ("added", f"{formatting.local_time(task.created_at)} by {task.created_by}"),
        (
            "queued since",
            f"{formatting.local_time(run.queued_at)} ({formatting.duration(waited_seconds)})"
            if waited_seconds > 1
            else "",
        ),
        ("starved", _starvation(run)),
        ("held by", _holder(run) if run.session else ""),
        ("failed by" if task.status == "failed" else "done by", run.done_by),
        ("attention", run.attention),
        ("output", (run.output or "").strip()),
        ("error", (run.error or "").strip()),
        ("to do", task.instructions.strip()),
    ]
    output.fields([(name, value) for name, value in pairs if value])


def print_history(task: TaskDetails) -> None:
    """Print the events of a task, oldest first."""
    attempt_numbers = {each.run_id: each.number for each in task.runs}
    has_retries = len(attempt_numbers) > 1
    rows = [
        (
            formatting.local_time(each.at),
            *([str(attempt_numbers[each.run_id])] if has_retries else []),
            each.event.replace("_", " "),
            each.actor,
            each.session or "-",
            each.reason or "-",
        )
        for each in task.history
    ]
    headers = ("WHEN", *(["RUN"] if has_retries else []), "EVENT", "ACTOR", "SESSION", "REASON")
    output.line()
    output.table(headers, rows, whole=("WHEN", "EVENT"))


def print_claimed_run(found: ClaimedTaskRun) -> None:
    """Print a claimed run with its token. No other command shows the token."""
    task = found.task
    output.line(task.title, style="bold")
    pairs = [
        ("run", found.run_id),
        ("token", found.token),
        ("until", formatting.local_time(found.lease_until)),
        ("task", task.id),
        ("to do", task.instructions.strip()),
    ]
    output.fields([(name, value) for name, value in pairs if value])


def print_sessions(found: list[TaskSession]) -> None:
    """Print task sessions, one on each line."""
    output.table(
        ("SESSION", "STATE", "AGENT", "CAPABILITIES", "WHERE", "WOKEN BY", "EXPIRES"),
        [
            (
                each.name,
                session_state(each),
                each.agent or "-",
                ", ".join(each.capabilities) or "-",
                ", ".join(f"{name} {value}" for name, value in _place(each) if value) or "-",
                each.woken_by or "nothing",
                formatting.local_time(each.expires_at),
            )
            for each in found
        ],
        whole=("SESSION", "STATE"),
        cut=True,
    )


def print_session(each: TaskSession) -> None:
    """Print a task session."""
    output.line(f"{each.name} ({session_state(each)})", style="bold")
    pairs = [
        ("agent", each.agent),
        ("type", each.type),
        ("capabilities", ", ".join(each.capabilities)),
        ("workspace", each.workspace),
        ("channel", each.channel),
        ("woken by", each.woken_by or "nothing: no stream is connected and no wake_url is set"),
        ("registered by", each.owner),
        ("expires", f"{formatting.local_time(each.expires_at)} unless it is active before then"),
    ]
    output.fields([(name, value) for name, value in pairs if value])


def session_state(each: TaskSession) -> str:
    """Return the state of a task session: `idle`, `active`, `prompting`, `holds …`, `expired`."""
    if each.expired:
        return "expired"
    if each.run_id:
        return f"holds {each.run_id[:8]}"
    return "prompting" if each.prompting else each.state


def _place(of: TaskWithRun | TaskSession) -> tuple[tuple[str, str], ...]:
    return ("workspace", of.workspace), ("channel", of.channel)


def _eligible_sessions(owner: str) -> str:
    return {"": "any session", "user": "the user; no session can claim it"}.get(owner, owner)


def _holder(run: TaskRun) -> str:
    if run.lease_over:
        return f"{run.session}, lease expired"
    return f"{run.session}, until {formatting.local_time(run.lease_until)}"


def _starvation(run: TaskRun) -> str:
    if not run.starved_cycles:
        return ""
    steps = ", ".join(each.replace("_", " ") for each in run.steps) or "none"
    return f"{formatting.counted(run.starved_cycles, 'cycle')}; escalation steps: {steps}"


def _with_reason(word: str, reason: str) -> str:
    return f"{word}: {reason}" if reason else word
