"""The transcript of a run: its prompt, each step of its agent, and its answer.

`read` derives the transcript from the rows of the run, its steps and its session. The transcript is
only as complete as these rows: the ledger shortens long texts of steps, and retention may delete
these texts before it deletes the run (`keep_transcript_days`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from daybook.api import authorization
from daybook.errors import InvalidInput
from daybook.execution.markdown import fenced_block, sanitize_markdown
from daybook.instants import utc_text
from daybook.ledger.engine import reading
from daybook.ledger.states import LIVE
from daybook.ledger.views import Run, Step
from daybook.runs import sessions, steps, summaries
from daybook.short_text import one_line
from daybook.usage import cost_in_words, tokens_in_words

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from daybook.ledger.tables import RunRow, StepRow, SummaryRow


class Transcript(BaseModel, frozen=True):
    """The prompt, the steps and the answer of an agent's run.

    The variables of ``prompt`` are filled in, unless a note says otherwise. ``answer`` is None if
    there is no answer. ``notes`` name the parts that are incomplete, and the reasons.
    """

    run: Run
    notes: list[str]
    prompt: str = Field(repr=False)
    steps: list[Step]
    answer: str | None = Field(repr=False)


async def read(ref: str) -> Transcript:
    """Return the transcript of a run, or of the last run of a job. Works without Prefect.

    Raise `NotFound`, `Ambiguous`, and `InvalidInput` for a run without an agent.
    """
    async with reading() as session:
        row, job = await authorization.find_last_run(session, ref)
        if not row.asks_agent:
            problem = f"{row.id[:8]} is a {row.kind}, which has no transcript"
            raise InvalidInput("run", problem, "show it without --transcript")
        made = await steps.of_run(session, row.id)
        prompt, notes = await _prompt(session, row, made)
        notes += [_summarized(each) for each in await summaries.made_after(session, row)]
    if row.state in LIVE:
        notes.append(f"The run has not ended: it is {row.status}.")
    return Transcript(
        run=Run.of(row, job),
        notes=[*notes, *_removed(made)],
        prompt=prompt,
        steps=[Step.of(each) for each in made],
        answer=row.output,
    )


async def _prompt(
    session: AsyncSession, row: RunRow, made: Sequence[StepRow]
) -> tuple[str, list[str]]:
    """Return the prompt, and notes if the prompt is not complete."""
    stored = await sessions.prompt_of(session, row)
    if stored is not None:
        return stored, []
    first = next((each.input for each in made if each.kind == "request"), None)
    if first:
        return first, []  # if the ledger has shortened the prompt, the end of the text says so
    note = "The prompt is that of the job: its variables are not filled in."
    return str(row.parameters.get("prompt", "")), [note]


def _summarized(row: SummaryRow) -> str:
    used = ", ".join(
        filter(None, [tokens_in_words(row.usage or {}), cost_in_words(row.usage or {})])
    )
    what = f"Afterwards, agent {row.agent} summarized the session up to its message {row.through}"
    return f"{what} ({used})." if used else f"{what}."


def _removed(made: Iterable[StepRow]) -> Iterator[str]:
    count = sum(each.input is None for each in made)
    if count:
        texts = "The texts of one step were" if count == 1 else f"The texts of {count} steps were"
        yield f"{texts} removed, because they were older than the setting keep_transcript_days."


def to_markdown(transcript: Transcript) -> str:
    """Return the transcript as Markdown, in which all texts are quoted. Times are in UTC."""
    run = transcript.run
    facts = [
        f"run `{run.id}`",
        f"**{run.status}**",
        f"due {utc_text(run.scheduled_for)}",
        f"agent {_shown(run.agent)}" if run.agent else "",
        f"model {_shown(run.model)}" if run.model else "",
        f"{run.attempts} attempts" if run.attempts > 1 else "",
        tokens_in_words(run.usage),
        cost_in_words(run.usage),
    ]
    parts = [f"# Transcript of {run.job or 'a direct call'}", " · ".join(filter(None, facts))]
    parts += [f"Session {_shown(run.session_id)}"] if run.session_id else []
    parts += [f"*{note}*" for note in transcript.notes]
    parts += ["## Prompt", fenced_block(transcript.prompt)]
    for step in transcript.steps:
        parts += _step_parts(step)
    if reasons := run.reasons():
        parts += ["## Reason", fenced_block("\n".join(reasons))]
    if transcript.answer is not None:
        parts += ["## Answer", fenced_block(transcript.answer)]
    return "\n\n".join(parts) + "\n"


def _step_parts(step: Step) -> Iterator[str]:
    yield f"## {step.position} {step.verb} {_shown(step.name)}: {step.status}"
    took = "" if step.duration_seconds is None else f"took {step.duration_seconds:.1f} s"
    facts = [
        f"attempt {step.attempt}",
        utc_text(step.started_at),
        took,
        tokens_in_words(step.usage),
        cost_in_words(step.usage),
        "replaced" if step.replaced else "",
        _shown(step.diverged),
    ]
    yield " · ".join(filter(None, facts))
    for name, text in (("Input", step.input), ("Output", step.output), ("Error", step.error)):
        if text:
            yield f"{name}:"
            yield fenced_block(text)


def _shown(text: str) -> str:
    """Return a name or a reason as one line without images and HTML."""
    return sanitize_markdown(one_line(text))
