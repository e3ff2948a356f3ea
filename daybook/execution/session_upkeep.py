"""Upkeep of a session after an answer: titles for new sessions, and summaries of long sessions.

::

    the run has its outcome, and Prefect has the run's artifact
      ├─ the first answer of a session, and a `title_agent` ───────► ask for a title
      └─ more messages or tokens than the job or its agent allows ─► ask for a summary, in parts

The run's outcome does not depend on the upkeep: errors are only logged, and if the process dies,
nothing is half stored. Without a new summary, the next run gets the messages themselves, and
requests the summary again after its answer. The requests use the run's tokens, and no tools. Each
request takes at most the timeout of an attempt. Because the run has no claim any more, a request to
a model is recorded as a step of the run only when the request has ended.
"""

from __future__ import annotations

import logging
import textwrap
from dataclasses import asdict
from datetime import datetime

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from daybook import settings
from daybook.agents.base import AgentReply, AgentRequest
from daybook.agents.journal import digest_of
from daybook.errors import AgentError, AgentFailed
from daybook.execution import agent_lookup, answers, conversation, handover
from daybook.execution.step_texts import stored_text
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status, Usage
from daybook.ledger.tables import MessageRow, StepRow, SummaryRow
from daybook.policies.compression import (
    KEPT_MESSAGES,
    MIN_LIMIT_TOKENS,
    Compression,
    estimate_tokens,
)
from daybook.runs import outcomes, sessions, steps, summaries, usage
from daybook.runs.claim_requests import Granted, agent_name
from daybook.runs.summaries import MAX_MESSAGE_CHARACTERS, Part
from daybook.runs.usage import Amount
from daybook.short_text import shorten

log = logging.getLogger(__name__)

MAX_SUMMARY_CHARACTERS = 8_000
"""Maximum length of a summary, in characters; the rest is left out."""

_SUMMARIZE = (
    "Summarize the conversation below, so that you can continue it without reading it again. Keep "
    "names, numbers, decisions, preferences, open questions and what was promised, newest last. "
    "Include what is still true of the summary so far, if there is one. Write at most 500 words, "
    "and nothing else."
)
_TITLE = (
    "Write a title of at most eight words for the conversation below, in its language, and nothing "
    "else."
)


async def tend(ledger: Ledger, granted: Granted, answered: Outcome) -> None:
    """Title or compress, if necessary, the session of a run that has an answer; log any error."""
    prompt = answered.prompt
    if answered.status is not Status.SUCCEEDED or prompt is None or not granted.session_id:
        return
    tending = _Upkeep(ledger, granted, usage.tokens(answered.usage))
    try:
        if not granted.history and (name := settings.load().title_agent):
            await tending.title(name, prompt, answered.output or "")
        if _may_be_long(granted, answered) and (limits := await tending.limits()):
            await tending.compress(limits)
    except Exception as error:
        logger = get_run_logger() if FlowRunContext.get() else log
        why = str(error) or type(error).__name__
        logger.warning(
            "the session %s is not titled or summarized: %s",
            granted.session_id,
            why,
            extra={"action": "session_upkeep_failed"},
        )


def _may_be_long(granted: Granted, answered: Outcome) -> bool:
    """Return whether the session may exceed the lowest limit that a job or an agent can have."""
    history = granted.history
    texts = (*(each.content for each in history), answered.prompt or "", answered.output or "")
    is_long = estimate_tokens(map(len, texts)) > MIN_LIMIT_TOKENS
    return bool(history) and (len(history) == KEPT_MESSAGES or is_long)


class _Upkeep:
    """The requests after one run; the run has already used ``used`` of its tokens."""

    def __init__(self, ledger: Ledger, granted: Granted, used: int) -> None:
        self._ledger, self._granted, self._used = ledger, granted, used
        self._policy = granted.policy
        self._agent = str(granted.parameters.get("agent") or agent_name(granted.parameters))

    async def limits(self) -> Compression:
        """Return the limits above which the session is compressed: the job's, or its agent's."""
        own = self._policy.compression
        if own and own.history:
            return own
        async with get_client() as client:
            return own.over((await agent_lookup.find_agent(client, self._agent)).compression)

    async def title(self, agent: str, prompt: str, answer: str) -> None:
        messages = _transcript([("User", prompt), ("Assistant", answer)])
        reply = await self._ask(agent, "", f"{_TITLE}\n\n{self._data(messages)}", "title")
        if title := sessions.title_of(reply.text):
            async with self._ledger.write() as session:
                await sessions.set_title(session, self._granted.session_id, title)

    async def compress(self, compression: Compression) -> None:
        """Summarize in parts until the messages without a summary are within the limits."""
        session_id = self._granted.session_id
        while True:
            async with self._ledger.read() as session:
                part = await summaries.next_part(session, session_id, compression)
            if part is None or not await self._summarize(part):
                return

    async def _summarize(self, part: Part) -> bool:
        own = str(self._granted.parameters.get("model") or "")
        agent = settings.load().summary_agent
        model = "" if agent else own
        reply = await self._ask(
            agent or self._agent, model, self._summary_prompt(part), f"summary.{part.through}"
        )
        text = reply.text.strip()
        if not text or reply.cut:
            why = f"is incomplete: {reply.cut}" if reply.cut else "is empty"
            raise AgentFailed(f"the summary of agent {reply.agent} {why}")
        async with self._ledger.write() as session:
            row = SummaryRow(
                session_id=part.session_id,
                through=part.through,
                content=text[:MAX_SUMMARY_CHARACTERS],
                agent=reply.agent,
                model=reply.model,
                usage=reply.usage,
                run_id=self._granted.run_id,
                at=self._ledger.now(),
            )
            return await summaries.store(session, part, row)

    def _summary_prompt(self, part: Part) -> str:
        texts = [_SUMMARIZE]
        if part.summary is not None:
            so_far, run_id = part.summary.content, self._granted.run_id
            texts.append(conversation.as_data("the summary so far", so_far, run_id))
        texts.append(self._data(_transcript([_shortened(each) for each in part.messages])))
        return "\n\n".join(texts)

    def _data(self, transcript: str) -> str:
        return conversation.as_data("the conversation", transcript, self._granted.run_id)

    async def _ask(self, name: str, model: str, prompt: str, purpose: str) -> AgentReply:
        """Ask once, and record the usage for the run. Raise `AgentError`, and Prefect's errors."""
        granted = self._granted
        left = None if granted.tokens is None else granted.tokens - self._used
        if left is not None and left <= 0:
            raise AgentFailed("no tokens of the run are left")
        handover.report(summarizing=True)
        async with get_client() as client:
            agent = await agent_lookup.find_agent(client, name)
        request = AgentRequest(
            prompt=prompt,
            timeout=self._policy.timeout.total_seconds(),
            occurrence=f"{granted.occurrence}#{purpose}",
            job=granted.job.row.name if granted.job else None,
            due=granted.due,
            model=model,
            tokens=left,
            once=True,
        )
        began, is_program = self._ledger.now(), getattr(agent, "is_program", False)
        try:
            reply = await agent.answer(request)
        except AgentError as error:
            used = answers.usage_of(agent, error.usage, error)
            made = self._step(purpose, name, prompt, began, used, error=str(error))
            await self._record(used, None if is_program else made)
            raise
        asked, used = reply.model or name, answers.usage_of(agent, reply.usage)
        made = self._step(purpose, asked, prompt, began, used, output=reply.text)
        await self._record(used, None if is_program else made)
        return reply

    def _step(
        self,
        purpose: str,
        name: str,
        prompt: str,
        began: datetime,
        used: Usage | None,
        *,
        output: str = "",
        error: str = "",
    ) -> StepRow:
        """Return the request as a step, with ``purpose`` as its position."""
        return StepRow(
            run_id=self._granted.run_id,
            number=0,
            position=purpose,
            attempt=0,
            kind="request",
            name=name,
            digest=digest_of({"prompt": prompt}),
            repeatable=True,
            status=(Status.FAILED if error else Status.SUCCEEDED).value,
            started_at=began,
            finished_at=self._ledger.now(),
            usage=used,
            error=stored_text(error) or None,
            input=stored_text(prompt),
            output=stored_text(output),
            **asdict(Amount.of(used)),
        )

    async def _record(self, used: Usage | None, made: StepRow | None) -> None:
        """Add the usage of a request to the run's usage, and the step ``made`` to its steps."""
        self._used += usage.tokens(used)
        async with self._ledger.write() as session:
            await outcomes.add_usage(session, self._granted.run_id, used)
            if made is not None:
                await steps.append(session, made)


def _shortened(message: MessageRow) -> tuple[str, str]:
    """Return the role and the text of a message, as a request for a summary contains them."""
    who = "Assistant" if message.role == "assistant" else "User"
    return who, shorten(message.content, MAX_MESSAGE_CHARACTERS)


def _transcript(messages: list[tuple[str, str]]) -> str:
    """Return the messages as text; each message is indented, so that its end is clear."""
    return "\n\n".join(f"{who}:\n{textwrap.indent(text, '    ')}" for who, text in messages)
