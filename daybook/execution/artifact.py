"""Markdown artifact of a run in Prefect's UI, with the prompt and the answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import cast

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.context import FlowRunContext
from slugify import slugify

from daybook import home as homes
from daybook.delivery import links
from daybook.delivery.outbox import CALLBACK
from daybook.duration_text import measured_in_words
from daybook.errors import InvalidInput
from daybook.execution.markdown import fenced_block, sanitize_markdown, shift_headings
from daybook.jobs.actions import Action
from daybook.jobs.model import read_parameters
from daybook.jobs.store import StoredJob
from daybook.ledger import triggers
from daybook.ledger.states import Delivery, Outcome, Status
from daybook.ledger.tables import OutboxRow, RunRow, StepRow
from daybook.ledger.views import step_verb
from daybook.prefect.address import ui_address
from daybook.runs.claim_requests import Granted
from daybook.short_text import one_line, prefix
from daybook.usage import cost_in_words, tokens_in_words

log = logging.getLogger(__name__)

MAX_STEPS = 100
"""Maximum number of steps in an artifact."""

MAX_LOGGED_LINES = 10
MAX_LOGGED_CHARACTERS = 1_000
"""Maximum length of the beginning of an answer in the log of a run, in characters."""


def usage_line(outcome: Outcome, attempts: int = 0) -> str:
    """Return the usage in one line, without unknown parts, but with a note on an unknown price."""
    usage = outcome.usage or {}
    parts = [f"{attempts} attempts"] if attempts > 1 else []
    if usage and outcome.model:
        parts.append(f"model {sanitize_markdown(outcome.model)}")
    parts += [tokens_in_words(usage), cost_in_words(usage)]
    return " · ".join(filter(None, parts))


def delivery_lines(rows: Sequence[OutboxRow]) -> list[str]:
    """Return one line of Markdown for each row, with its recipient and delivery status."""
    return [f"- {_delivery_line(row)}" for row in rows]


def _delivery_line(row: OutboxRow) -> str:
    to = f"{row.address} {row.chat_id}".strip()
    if row.purpose == CALLBACK:
        to = row.queue  # without the query, which may contain a token
    line = f"{row.purpose} to {sanitize_markdown(to)}: **{row.status}**"
    if row.attempts > 1:
        line += f", tried {row.attempts} times"
    if row.status == Delivery.PENDING and row.attempts:
        line += f", next try {row.next_at:%Y-%m-%d %H:%M:%S} UTC"
    return f"{line}; {sanitize_markdown(row.error)}" if row.error else line


def render_delivery(title: str, run: RunRow, rows: Sequence[OutboxRow]) -> str:
    """Return the Markdown of the artifact about the delivery of a run's callbacks and messages."""
    about = f"**{run.status}** · due {_utc_text(run.due)} · run `{run.id[:8]}`"
    heading = f"## Delivery: {run.delivery}"
    parts = [f"# {sanitize_markdown(title)}", about, heading, "\n".join(delivery_lines(rows))]
    return "\n\n".join(parts) + "\n"


def step_lines(steps: Sequence[StepRow]) -> list[str]:
    """Return a line of Markdown for each of the first `MAX_STEPS` steps, and one for the others."""
    shown = [f"- {_step_line(step)}" for step in steps[:MAX_STEPS]]
    left_out = len(steps) - MAX_STEPS
    return [*shown, f"- … {left_out:,} more"] if left_out > 0 else shown


def _step_line(step: StepRow) -> str:
    name = sanitize_markdown(step.name)
    parts = [f"{step.position} {step_verb(step.kind)} {name}: **{step.status}**"]
    if step.finished_at is not None:
        parts.append(
            measured_in_words(max((step.finished_at - step.started_at).total_seconds(), 0.0))
        )
    parts += filter(None, [tokens_in_words(step.usage or {})])
    if step.replaced:
        parts.append("replaced")
    texts = [sanitize_markdown(one_line(each)) for each in (step.diverged, step.error) if each]
    return "; ".join([", ".join(parts), *texts])


def _utc_text(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%d %H:%M:%S UTC")


def render(
    granted: Granted,
    outcome: Outcome,
    attempts: int = 0,
    rows: Sequence[OutboxRow] = (),
    seconds: float | None = None,
    *,
    steps: Sequence[StepRow] = (),
) -> str:
    """Return the Markdown of a run's artifact.

    ``attempts`` is the number of attempts, 0 if unknown. ``rows`` are the run's outbox rows to
    list, and ``steps`` its agent's steps. ``seconds`` is the run's duration, None if unknown.
    """
    job = granted.job
    title = job.row.name if job else "direct call"
    trigger = triggers.of(granted.trigger)
    facts = [
        f"**{outcome.status}**",
        f"{'due' if trigger.has_due_time else 'requested'} {_utc_text(granted.due)}",
        str(trigger),
        sanitize_markdown(_target(granted, outcome)),
        "" if seconds is None else f"took {measured_in_words(seconds)}",
        f"run `{granted.run_id[:8]}`",
        _job_link(job),
        _page_link(granted.run_id),
    ]
    action = _action(granted)
    heading, sent = action.sent()[-1] if action else ("", "")
    sent = outcome.prompt or sent  # with its variables replaced
    lines = [
        f"# {sanitize_markdown(title)}",
        " · ".join(filter(None, facts)),
        *filter(None, [usage_line(outcome, attempts)]),
        "## Answer" if outcome.status is Status.SUCCEEDED else "## What went wrong",
    ]
    reason, error = outcome.reason, outcome.error or ""
    # A reason that starts with the error repeats it.
    why = reason if reason.startswith(error) else "\n".join(filter(None, [error, reason]))
    if why:
        lines.append(fenced_block(why))
    if outcome.output:
        by_a_model = action is not None and bool(action.agents())
        lines.append(
            sanitize_markdown(shift_headings(outcome.output))
            if by_a_model
            else fenced_block(outcome.output)
        )
    if sent:
        lines += [f"## {heading}", fenced_block(sent)]
    if steps:
        lines += ["## Steps", "\n".join(step_lines(steps))]
    if rows:
        lines += ["## Delivery", "\n".join(delivery_lines(rows))]
    return "\n\n".join(lines) + "\n"


def _job_link(job: StoredJob | None) -> str:
    """Return a link to the job's deployment in Prefect's UI; empty if no deployment is known."""
    address = ui_address()
    if job is None or job.row.deployment_id is None or address is None:
        return ""
    return f"[the job's deployment]({address}/deployments/deployment/{job.row.deployment_id})"


def _page_link(run_id: str) -> str:
    """Return a link to the run's page in Daybook; empty if no web server is known."""
    running = homes.current_home().running() or {}
    url = links.public_url() or str(running.get("web_url") or "")
    return f"[the run in Daybook]({url}/runs/{run_id})" if url else ""


def log_lines(
    granted: Granted, outcome: Outcome, attempts: int = 0, seconds: float | None = None
) -> str:
    """Return the outcome for the log of a run: a line of facts, the error, and the output's start.

    Without an error, the log has the reason. ``attempts`` and ``seconds`` are as in `render`.
    """
    took = "" if seconds is None else measured_in_words(seconds)
    facts = [str(outcome.status), _target(granted, outcome), took, usage_line(outcome, attempts)]
    lines = (outcome.output or "").strip().splitlines()
    shown = prefix("\n".join(lines[:MAX_LOGGED_LINES]), MAX_LOGGED_CHARACTERS)
    if len(shown) < len("\n".join(lines)):
        shown += "\n… (continues in the run's output)"
    why = outcome.error or outcome.reason
    return "\n".join(filter(None, [" · ".join(filter(None, facts)), why, shown]))


def _target(granted: Granted, outcome: Outcome) -> str:
    if outcome.agent:
        return f"agent {outcome.agent}"
    action = _action(granted)
    return "" if action is None else action.target()


def _action(granted: Granted) -> Action | None:
    """Return the run's action; None if the run never began because its parameters are invalid."""
    try:
        return read_parameters(granted.kind, granted.parameters)[0]
    except InvalidInput:
        return None


async def publish(
    granted: Granted,
    outcome: Outcome,
    attempts: int = 0,
    rows: Sequence[OutboxRow] = (),
    seconds: float | None = None,
    *,
    steps: Sequence[StepRow] = (),
) -> None:
    """Create the artifact of this process's run; the optional arguments are as in `render`.

    Log an error instead of raising it, because the ledger has the outcome.
    """
    try:
        context = FlowRunContext.get()
        assert context is not None and context.flow_run is not None
        made = ArtifactCreate(
            key=key(granted),
            type="markdown",
            description=description(granted, outcome),
            data=render(granted, outcome, attempts, rows, seconds, steps=steps),
            flow_run_id=context.flow_run.id,
        )
        await _create(cast(PrefectClient, context.client), made)
    except Exception as error:
        log.warning("cannot create the artifact: %s", error, extra={"action": "artifact_failed"})


async def _create(client: PrefectClient, made: ArtifactCreate) -> None:
    """Create an artifact; raise `httpx.HTTPError`.

    The client's own method also emits an event, for which the process of a run would open a
    websocket and read four records.
    """
    body = made.model_dump(mode="json", exclude_unset=True)
    await client.request("POST", "/artifacts/", json=body)


def duration_seconds(row: RunRow) -> float | None:
    """Return the duration of an ended run in seconds; None if its effect did not start."""
    if row.started_at is None or row.finished_at is None:
        return None
    return (row.finished_at - row.started_at).total_seconds()


def key(granted: Granted) -> str:
    """Return the key of a run's artifact: one for all runs of a job, and one for direct calls."""
    return slugify(granted.job.row.slug) if granted.job else "direct-call"


def description(granted: Granted, outcome: Outcome) -> str:
    """Return the description of a run's artifact, which Prefect's UI shows in lists."""
    return f"{outcome.status}, {granted.due:%F %T} UTC"
