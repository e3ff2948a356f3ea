"""What Prefect's UI shows of a run: one Markdown artifact with the prompt and the answer."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from markdown_it import MarkdownIt
from markdown_it.token import Token
from prefect.artifacts import acreate_markdown_artifact
from slugify import slugify

from daybook.delivery.outbox import CALLBACK
from daybook.ledger.states import Delivery, Outcome, Status
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.runs.claim_requests import Granted

log = logging.getLogger(__name__)

_MARK = "\ue000"
_RISKY = re.compile(rf"(?<!!)!+\[|<(?=[A-Za-z/!?])|{_MARK}")
_MARKED = re.compile(rf"{_MARK}(\d+);")
_INSTEAD = {"!": "[image: ", "<": "&lt;", _MARK: _MARK}
_FENCE = re.compile(r"`{3,}")
_CODE = re.compile(r"`|~~~")

LONGEST_READ = 40_000
"""Characters up to which an answer is read for its code; a longer one is escaped throughout."""

# The reader's time grows with the square of a text for links, images and emphasis. None of them is
# needed to find code.
_SLOW_RULES = ["link", "image", "emphasis"]


def harmless(markdown: str) -> str:
    """Model-written Markdown without images and raw HTML: neither may call out of the UI.

    Fenced blocks and code spans stay as they are, since an escape would be shown in them.
    """
    escaped = _RISKY.sub(lambda found: _INSTEAD[found[0][0]], markdown)
    if escaped == markdown or len(markdown) > LONGEST_READ or not _CODE.search(markdown):
        return escaped
    found: list[str] = []

    def mark(risky: re.Match[str]) -> str:
        found.append(risky[0])
        return f"{_MARK}{len(found) - 1};"

    def put_back(marked: re.Match[str]) -> str:
        risky = found[int(marked[1])]
        return risky if marked[0] in code else _INSTEAD[risky[0]]

    # Read with marks in the place of what is risky, so that the reading meets no HTML itself.
    marked = _RISKY.sub(mark, markdown)
    code = {each[0] for text in _code(marked) for each in _MARKED.finditer(text)}
    restored = _MARKED.sub(put_back, marked)
    # What was put back can change how the whole is read: a tag that begins a line, for example.
    return escaped if any(map(_calls_out, _tokens(restored))) else restored


def _calls_out(token: Token) -> bool:
    """Whether ``token`` is raw HTML, or text that another reader takes for an image."""
    return token.type.startswith("html_") or (token.type == "text" and "![" in token.content)


def _tokens(markdown: str) -> Iterator[Token]:
    reader = MarkdownIt("commonmark").enable("table").disable(_SLOW_RULES)
    reader.inline.ruler2.enableOnly([])  # what pairs the signs of emphasis
    for token in reader.parse(markdown):
        yield token
        yield from token.children or ()


def _code(markdown: str) -> Iterator[str]:
    """What is code to every reader of Markdown, whatever its view of the finer points."""
    links = False
    for token in _tokens(markdown):
        text = token.content
        if token.type == "inline":
            links = "](" in text  # in a link's address a backtick is no code
        # Some readers end a fence at a line that only begins as its end does.
        if token.type == "fence" and not any(
            line.lstrip().startswith(token.markup) for line in text.splitlines()
        ):
            yield text
        # One that goes over several lines is not found again: its line breaks are blanks by now.
        if token.type == "code_inline" and not links and text in markdown:
            yield text


def quoted(text: str) -> str:
    """``text`` as a fenced block that it cannot leave."""
    longest = max((len(found) for found in _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def took(outcome: Outcome, attempts: int = 0) -> str:
    """What it took, in one line; what nobody knows is left out, and empty is nothing known.

    A price that nobody knows is said to be unknown: it is not nothing.
    """
    usage = outcome.usage or {}
    told = [f"{attempts} attempts"] if attempts > 1 else []
    if usage and outcome.model:
        told.append(f"model {harmless(outcome.model)}")
    if usage.get("input_tokens") is not None:
        out = usage.get("output_tokens") or 0
        told.append(f"{usage['input_tokens']:,} tokens in, {out:,} out")
    if usage:
        cost = usage.get("cost_usd")
        told.append("price unknown" if cost is None else f"${cost:.6f}")
    return " · ".join(told)


def told(rows: Sequence[OutboxRow]) -> list[str]:
    """What became of each callback and message, a line of Markdown for each."""
    return [f"- {_told(row)}" for row in rows]


def _told(row: OutboxRow) -> str:
    to = f"{row.address} {row.chat_id}".strip()
    if row.purpose == CALLBACK:
        to = row.lane  # without the query, in which a token may stand
    words = f"{row.purpose} to {harmless(to)}: **{row.status}**"
    if row.attempts > 1:
        words += f", tried {row.attempts} times"
    if row.status == Delivery.PENDING and row.attempts:
        words += f", next try {row.next_at:%Y-%m-%d %H:%M:%S} UTC"
    return f"{words}; {harmless(row.error)}" if row.error else words


def of_delivery(title: str, run: RunRow, rows: Sequence[OutboxRow]) -> str:
    """The Markdown that says later what became of a run's callbacks and messages."""
    about = f"**{run.status}** · due {_utc(run.due)} · run `{run.id[:8]}`"
    heading = f"## Delivery: {run.delivery}"
    parts = [f"# {harmless(title)}", about, heading, "\n".join(told(rows))]
    return "\n\n".join(parts) + "\n"


def _utc(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%d %H:%M:%S UTC")


def render(
    granted: Granted,
    outcome: Outcome,
    attempts: int = 0,
    rows: Sequence[OutboxRow] = (),
) -> str:
    """The artifact's Markdown; ``attempts`` is how often it was tried, 0 where nobody knows.

    ``rows`` are the run's callbacks and messages.
    """
    job = granted.job
    title = job.row.name if job else "direct call"
    due = _utc(granted.due)
    whom, (heading, sent) = _whom(granted, outcome), _sent(granted, outcome)
    lines = [
        f"# {harmless(title)}",
        f"**{outcome.status}** · due {due} · {granted.trigger} · {harmless(whom)} · "
        f"run `{granted.run_id[:8]}`",
        *filter(None, [took(outcome, attempts)]),
        "## Answer" if outcome.status is Status.SUCCEEDED else "## What went wrong",
    ]
    if why := _why(outcome):
        lines.append(quoted(why))
    if outcome.output:
        by_a_model = "prompt" in granted.parameters
        lines.append(harmless(outcome.output) if by_a_model else quoted(outcome.output))
    if sent:
        lines += [f"## {heading}", quoted(sent)]
    if rows:
        lines += ["## Delivery", "\n".join(told(rows))]
    return "\n\n".join(lines) + "\n"


def _why(outcome: Outcome) -> str:
    """Reason and error, below each other, where the one does not say the other already."""
    reason, error = outcome.reason, outcome.error or ""
    return reason if reason.startswith(error) else "\n".join(filter(None, [error, reason]))


def _whom(granted: Granted, outcome: Outcome) -> str:
    asked = granted.parameters
    if "url" in asked:
        return f"{asked.get('method')} {asked['url']}"
    if "tool" in asked:
        return f"tool {asked['tool']}"
    return f"agent {outcome.agent or asked.get('agent', '')}"


def _sent(granted: Granted, outcome: Outcome) -> tuple[str, str]:
    """What went out, and its heading; an empty text where that was nothing."""
    asked = granted.parameters
    if "url" in asked:
        return "Body", str(asked.get("body", ""))
    if "tool" in asked:
        params = asked.get("params")
        return "Parameters", json.dumps(params, indent=2, ensure_ascii=False) if params else ""
    return "Prompt", outcome.prompt or str(asked.get("prompt", ""))


async def publish(
    granted: Granted,
    outcome: Outcome,
    attempts: int = 0,
    rows: Sequence[OutboxRow] = (),
) -> None:
    """Make the artifact of a run; ``attempts`` and ``rows`` as `render` has them.

    A failure is logged and changes nothing: the ledger has the outcome.
    """
    name = slugify(granted.job.row.slug) if granted.job else "direct-call"
    try:
        await acreate_markdown_artifact(
            markdown=render(granted, outcome, attempts, rows),
            key=name,
            description=f"{outcome.status}, {granted.due:%F %T} UTC",
        )
    except Exception as error:
        log.warning("no artifact: %s", error, extra={"action": "artifact_failed"})
