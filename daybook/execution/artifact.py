"""Markdown artifact of a run in Prefect's UI, with the prompt and the answer."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from markdown_it import MarkdownIt
from markdown_it.token import Token
from prefect.artifacts import acreate_markdown_artifact
from slugify import slugify

from daybook import names
from daybook.delivery.outbox import CALLBACK
from daybook.errors import InvalidInput, one_line
from daybook.jobs.actions import Action
from daybook.jobs.model import read_parameters
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Delivery, Outcome, Status
from daybook.ledger.tables import OutboxRow, RunRow, StepRow
from daybook.prefect.address import ui_address
from daybook.runs.claim_requests import BY_SCHEDULE, Granted
from daybook.runs.slots import BACKFILL
from daybook.schedules.descriptions import duration_in_words

log = logging.getLogger(__name__)

_MARK = "\ue000"
_RISKY = re.compile(rf"(?<!!)!+\[|<(?=[A-Za-z/!?])|{_MARK}")
_MARKED = re.compile(rf"{_MARK}(\d+);")
_REPLACEMENTS = {"!": "[image: ", "<": "&lt;", _MARK: _MARK}
_FENCE = re.compile(r"`{3,}")
_CODE = re.compile(r"`|~~~")

MAX_PARSED_CHARACTERS = 40_000
"""Maximum length of an answer that is parsed for code; in a longer one, code is escaped too."""

MAX_STEPS = 100
"""Maximum number of steps in an artifact."""

MAX_LOGGED_LINES = 10
MAX_LOGGED_CHARACTERS = 1_000
"""Maximum length of the beginning of an answer in the log of a run."""

# The parser takes quadratic time for links, images and emphasis, which are not needed to find code.
_SLOW_RULES = ["link", "image", "emphasis"]


def sanitize_markdown(markdown: str) -> str:
    """Escape images and raw HTML in Markdown that a model wrote, so that the UI renders neither.

    Fenced blocks and code spans stay as they are, because they would show the escapes.
    """
    escaped = _RISKY.sub(lambda found: _REPLACEMENTS[found[0][0]], markdown)
    if escaped == markdown or len(markdown) > MAX_PARSED_CHARACTERS or not _CODE.search(markdown):
        return escaped
    found: list[str] = []

    def mark(risky: re.Match[str]) -> str:
        found.append(risky[0])
        return f"{_MARK}{len(found) - 1};"

    def put_back(marked: re.Match[str]) -> str:
        risky = found[int(marked[1])]
        return risky if marked[0] in code else _REPLACEMENTS[risky[0]]

    # Parse with marks in place of the risky parts, so that the parser meets no HTML.
    marked = _RISKY.sub(mark, markdown)
    code = {each[0] for text in _code(marked) for each in _MARKED.finditer(text)}
    restored = _MARKED.sub(put_back, marked)
    # The restored parts, such as a tag at the start of a line, can change how the rest is parsed.
    return escaped if any(map(_calls_out, _tokens(restored))) else restored


def shift_headings(markdown: str) -> str:
    """Return Markdown that a model wrote with its headings two levels down, at most the sixth.

    So they are below the artifact's own. Headings in lists and quotes stay as they are, and so does
    a text of more than `MAX_PARSED_CHARACTERS`.
    """
    if len(markdown) > MAX_PARSED_CHARACTERS:
        return markdown
    lines = markdown.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    headings = [
        each for each in _tokens("\n".join(lines)) if each.type == "heading_open" and not each.level
    ]
    for heading in headings:
        assert heading.map is not None
        first, end = heading.map
        marks = "#" * min(int(heading.tag[1]) + 2, 6)
        if heading.markup.startswith("#"):
            lines[first] = marks + lines[first].lstrip(" ").removeprefix(heading.markup)
        else:  # a text that is underlined with = or -
            text = " ".join(map(str.strip, lines[first : end - 1]))
            lines[first:end] = [f"{marks} {text}", *[""] * (end - first - 1)]
    return "\n".join(lines) if headings else markdown


def _calls_out(token: Token) -> bool:
    """Return whether ``token`` is raw HTML, or text that another parser may take for an image."""
    return token.type.startswith("html_") or (token.type == "text" and "![" in token.content)


def _tokens(markdown: str) -> Iterator[Token]:
    reader = MarkdownIt("commonmark").enable("table").disable(_SLOW_RULES)
    reader.inline.ruler2.enableOnly([])  # the rules that pair emphasis marks
    for token in reader.parse(markdown):
        yield token
        yield from token.children or ()


def _code(markdown: str) -> Iterator[str]:
    """Yield the texts that parsers of every Markdown dialect take for code."""
    links = False
    for token in _tokens(markdown):
        text = token.content
        if token.type == "inline":
            links = "](" in text  # a backtick in a link's address is not code
        # Some parsers end a fence at any line that starts like its end.
        if token.type == "fence" and not any(
            line.lstrip().startswith(token.markup) for line in text.splitlines()
        ):
            yield text
        # A span over several lines cannot be found again, because its line breaks are spaces here.
        if token.type == "code_inline" and not links and text in markdown:
            yield text


def fenced_block(text: str) -> str:
    """Return ``text`` as a fenced block that it cannot break out of."""
    longest = max((len(found) for found in _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def usage_line(outcome: Outcome, attempts: int = 0) -> str:
    """Return the usage in one line, without unknown parts; an unknown price is named as such."""
    usage = outcome.usage or {}
    parts = [f"{attempts} attempts"] if attempts > 1 else []
    if usage and outcome.model:
        parts.append(f"model {sanitize_markdown(outcome.model)}")
    if usage.get("input_tokens") is not None:
        out = usage.get("output_tokens") or 0
        parts.append(f"{usage['input_tokens']:,} tokens in, {out:,} out")
    if usage:
        cost = usage.get("cost_usd")
        parts.append("price unknown" if cost is None else f"${cost:.6f}")
    return " · ".join(parts)


def delivery_lines(rows: Sequence[OutboxRow]) -> list[str]:
    """Return one line of Markdown for each row, with its recipient and delivery status."""
    return [f"- {_delivery_line(row)}" for row in rows]


def _delivery_line(row: OutboxRow) -> str:
    to = f"{row.address} {row.chat_id}".strip()
    if row.purpose == CALLBACK:
        to = row.lane  # without the query, which may contain a token
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
    """Return one line of Markdown for each step, without its input and output."""
    shown = [f"- {_step_line(step)}" for step in steps[:MAX_STEPS]]
    left_out = len(steps) - MAX_STEPS
    return [*shown, f"- … {left_out:,} more"] if left_out > 0 else shown


def _step_line(step: StepRow) -> str:
    verb = "asked" if step.kind == "request" else "called"
    parts = [f"{step.position} {verb} {sanitize_markdown(step.name)}: **{step.status}**"]
    if step.finished_at is not None:
        parts.append(_duration(max((step.finished_at - step.started_at).total_seconds(), 0.0)))
    if step.usage and step.usage.get("input_tokens") is not None:
        out = step.usage.get("output_tokens") or 0
        parts.append(f"{step.usage['input_tokens']:,} tokens in, {out:,} out")
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

    ``attempts`` is the number of attempts, 0 if unknown; ``rows`` are the run's outbox rows to
    list; ``seconds`` is the run's duration, None if unknown; ``steps`` are those of its agent.
    """
    job = granted.job
    title = job.row.name if job else "direct call"
    is_timed = granted.trigger in (*BY_SCHEDULE, BACKFILL)
    trigger = "by hand" if granted.trigger == "manual" else granted.trigger.replace("_", " ")
    facts = [
        f"**{outcome.status}**",
        f"{'due' if is_timed else 'requested'} {_utc_text(granted.due)}",
        trigger,
        sanitize_markdown(_target(granted, outcome)),
        "" if seconds is None else f"took {_duration(seconds)}",
        f"run `{granted.run_id[:8]}`",
        _job_link(job),
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


def _duration(seconds: float) -> str:
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    return duration_in_words(timedelta(seconds=round(seconds)))


def _job_link(job: StoredJob | None) -> str:
    """Return a link to the job's deployment in Prefect's UI; empty without one."""
    address = ui_address()
    if job is None or job.row.deployment_id is None or address is None:
        return ""
    return f"[the job's deployment]({address}/deployments/deployment/{job.row.deployment_id})"


def log_lines(
    granted: Granted, outcome: Outcome, attempts: int = 0, seconds: float | None = None
) -> str:
    """Return the outcome for the log of a run: a line of facts, the error, the first lines.

    Without an error, a reason takes its place. ``attempts`` and ``seconds`` are as in `render`.
    """
    took = "" if seconds is None else _duration(seconds)
    facts = [str(outcome.status), _target(granted, outcome), took, usage_line(outcome, attempts)]
    lines = (outcome.output or "").strip().splitlines()
    shown = names.truncate("\n".join(lines[:MAX_LOGGED_LINES]), MAX_LOGGED_CHARACTERS)
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
    """Return what the run does; None if its parameters are invalid, so that it never began."""
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

    A failure is only logged, because the ledger has the outcome.
    """
    try:
        await acreate_markdown_artifact(
            markdown=render(granted, outcome, attempts, rows, seconds, steps=steps),
            key=key(granted),
            description=description(granted, outcome),
        )
    except Exception as error:
        log.warning("cannot create the artifact: %s", error, extra={"action": "artifact_failed"})


def duration_seconds(row: RunRow) -> float | None:
    """Return the duration of an ended run in seconds; None if its effect did not start."""
    if row.started_at is None or row.finished_at is None:
        return None
    return (row.finished_at - row.started_at).total_seconds()


def key(granted: Granted) -> str:
    """Return the key of a run's artifact: all runs of a job share one."""
    return slugify(granted.job.row.slug) if granted.job else "direct-call"


def description(granted: Granted, outcome: Outcome) -> str:
    """Return the description of a run's artifact, which Prefect's UI shows in lists."""
    return f"{outcome.status}, {granted.due:%F %T} UTC"
