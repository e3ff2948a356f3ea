"""Operations on sessions (conversations): list, show, and send a message to a session.

::

    send          the agent answers in the process of the caller, which waits for the answer
    reply, start  a worker runs the agent; the caller gets the run before it starts
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from daybook import api, markers, prefect
from daybook.api import authorization
from daybook.errors import NotFound
from daybook.instants import UtcTime
from daybook.jobs import store
from daybook.jobs.actions import DEFAULT_AGENT, AgentPrompt
from daybook.json_text import JsonObject
from daybook.ledger import triggers
from daybook.ledger.engine import reading
from daybook.ledger.states import LIVE, Usage
from daybook.ledger.tables import RunRow
from daybook.ledger.views import columns
from daybook.policies import policy
from daybook.policies.policy import EVERY_TOOL
from daybook.runs import claim_requests, sessions, steps, summaries
from daybook.runs.sessions import SessionSummary

if TYPE_CHECKING:
    from daybook.delivery.views import RunDetails

MAX_UNANSWERED = 10
"""Maximum number of runs without an answer that `show` returns."""
MAX_SESSIONS_COMPARED = 1_000
"""Maximum number of sessions among which a name similar to an unknown name is searched."""


class Session(BaseModel, frozen=True):
    """A session with the number of its ``messages``.

    ``title`` is the first line of the session's first prompt, or a title that a model wrote
    (setting `title_agent`). ``job`` is None if several jobs share the session, and if the session's
    runs have no job.
    """

    id: str
    title: str
    agent: str
    job: str | None
    messages: int
    created_at: UtcTime
    last_used_at: UtcTime

    @classmethod
    def of(cls, listed: SessionSummary) -> Self:
        return cls(
            **columns(cls, listed.row),
            job=listed.job,
            messages=listed.messages,
            last_used_at=listed.row.updated_at,
        )


class MessageSource(BaseModel, frozen=True):
    """The run that added a message: its kind, channel, session and trigger, and its job.

    ``user`` is the job's user id, or None. ``due`` is the run's due time. If an earlier version of
    Daybook did not store a value, it is empty or None.
    """

    kind: str = ""
    channel: str | None = None
    session: str | None = None
    user: str | None = None
    job: str | None = None
    job_id: str | None = None
    due: UtcTime | None = None
    trigger: str = ""


class SessionMessage(BaseModel, frozen=True):
    """A message of a session. ``role`` is `user` or `assistant`."""

    number: int
    role: str
    content: str
    source: MessageSource
    run_id: str
    at: UtcTime


class Summary(BaseModel, frozen=True):
    """A summary of the messages with numbers up to ``through``, made after the run ``run_id``."""

    through: int
    content: str
    agent: str
    model: str | None
    usage: Usage | None
    run_id: str
    at: UtcTime


class UnansweredPrompt(BaseModel, frozen=True):
    """A prompt of a run that has not answered, or not yet: ``status`` is that of the run.

    ``partial_answer`` is the text that the agent has written so far, while the run runs.
    ``problem`` says why the run has failed, or why it waits; it may be empty. ``is_message`` is
    True if a person wrote the prompt to the session, and False for a run of a job.
    """

    run_id: str
    prompt: str
    at: UtcTime
    status: str
    problem: str
    is_message: bool
    partial_answer: str

    @property
    def is_live(self) -> bool:
        """Return whether an answer may still come."""
        return self.status in LIVE

    @classmethod
    def of(cls, row: RunRow, partial_answer: str) -> Self:
        return cls(
            run_id=row.id,
            prompt=str(row.parameters.get("prompt", "")),
            at=row.queued_at,
            status=row.status,
            problem=row.error or row.reason,
            is_message=row.started_by is triggers.SESSION,
            partial_answer=partial_answer,
        )


class SessionDetails(Session, frozen=True):
    """A session with its last messages, oldest first.

    A model gets ``summary`` in place of the messages that the summary covers. ``summary`` is None
    if there is no summary. ``unanswered`` are the runs of the session that may still answer, and
    those that have ended without an answer since its last message, oldest first, at most
    `MAX_UNANSWERED`. ``program_session`` is the id of the program's own conversation that ends with
    the last message, and that the next run continues if the program still has it; None if there is
    none.
    """

    summary: Summary | None
    history: list[SessionMessage]
    unanswered: list[UnansweredPrompt]
    program_session: str | None


async def list_sessions(limit: int = 20) -> list[Session]:
    """Return up to ``limit`` sessions, most recently used first. Works without Prefect.

    Raise `InvalidInput` for an agent.
    """
    authorization.require_operator()
    async with reading() as session:
        return [Session.of(each) for each in await sessions.recent(session, limit)]


async def show(ref: str, limit: int = 20) -> SessionDetails:
    """Return one session with its last ``limit`` messages.

    ``ref`` is the session's id, a unique id prefix, its key, or its job. Works without Prefect.
    Raise `NotFound`, `Ambiguous`, and `InvalidInput` for an agent.
    """
    authorization.require_operator()
    async with reading() as session:
        listed = await _find(session, ref)
        messages = await sessions.history(session, listed.row.id, limit)
        newest = await summaries.latest(session, listed.row.id)
        last = await session.get(RunRow, messages[-1].run_id) if messages else None
        found = await sessions.without_answer(
            session, listed.row.id, messages[-1].at if messages else None, MAX_UNANSWERED
        )
        partial = await steps.partial_answers(session, found)
        return SessionDetails(
            **dict(Session.of(listed)),
            summary=Summary(**columns(Summary, newest)) if newest else None,
            history=[SessionMessage(**columns(SessionMessage, each)) for each in messages],
            unanswered=[UnansweredPrompt.of(each, partial.get(each.id, "")) for each in found],
            program_session=last.program_session if last is not None else None,
        )


async def send(ref: str, prompt: str) -> RunDetails:
    """Continue any session with ``prompt`` in this process. Return the run, even if it failed.

    ``ref`` is as for `show`. Agent, model, work directory and limits are those of the session's job
    or, if there is none or it now asks another agent, those of the session's last run. The job
    itself does not run: nothing is sent to its channel, and no other job starts after it. Raise
    `NotFound`, `Ambiguous`, `InvalidInput` (also for an agent), and the errors of `runs.ask`.
    """
    session_id, parameters = await _continued(ref)
    with prefect.occurrence.continuing(session_id):
        return await api.runs.ask_here({**parameters, "prompt": prompt})


async def reply(
    ref: str,
    prompt: str,
    *,
    request_id: str | None = None,
    channel: str = "",
    chat_id: str = "",
    approve: Sequence[str] = (),
) -> RunDetails:
    """Request a run that continues a session with ``prompt``. Return it before it starts.

    A worker runs it, and sends the answer to ``channel``, if any. Calls of the tools ``approve``
    also wait for an approval. Other arguments, parameters and what does not happen are as for
    `send`. A call with the same ``request_id`` returns the same run. Raise the errors of
    `runs.request_answer`, and `NotFound`, `Ambiguous`, and `InvalidInput` for an agent.
    """
    session_id, parameters = await _continued(ref)
    policy: JsonObject = parameters["policy"]
    parameters |= {
        "prompt": prompt,
        "policy": policy | {"approve": [*policy.get("approve", ()), *approve]},
        "notify": {"channel": channel, "chat_id": chat_id},
    }
    return await api.runs.request_answer(parameters, session_id=session_id, request_id=request_id)


async def start(
    prompt: str,
    *,
    agent: str = DEFAULT_AGENT,
    model: str = "",
    request_id: str | None = None,
    channel: str = "",
    chat_id: str = "",
    continues_chat: bool = False,
) -> RunDetails:
    """Request a run that asks an agent ``prompt`` in a new session. Return it before it starts.

    With ``continues_chat``, the session is that of the agent in the chat, which jobs with the
    session `chat` share. The run's ``session_id`` is the session. Otherwise as for `reply`.
    """
    authorization.require_operator()
    given: JsonObject = {"prompt": prompt, "agent": agent, "model": model}
    given["notify"] = {"channel": channel, "chat_id": chat_id}
    if continues_chat:
        given["session"] = "chat"
    return await api.runs.request_answer(given, request_id=request_id)


async def _continued(ref: str) -> tuple[str, JsonObject]:
    """Return the id of a session, and the parameters of a run that continues it.

    The parameters have no prompt.
    """
    authorization.require_operator()
    async with reading() as session:
        listed = await _find(session, ref)
        return listed.row.id, await _parameters(session, listed)


_CONTINUED_FIELDS = markers.marked(AgentPrompt.model_fields, "is_continued")
_CONTINUED_POLICY = markers.marked(policy.FIELDS, "is_continued")


async def _parameters(session: AsyncSession, listed: SessionSummary) -> JsonObject:
    """Return the parameters of a run that continues a session, without its prompt."""
    found: JsonObject = {}
    if listed.row.job_id and (stored := await store.get(session, listed.row.job_id)):
        found = stored.job.parameters()
    if claim_requests.agent_name(found) != listed.row.agent:
        # There is no job, or the job's agent was changed.
        newest = await sessions.history(session, listed.row.id, 1)
        last = await session.get(RunRow, newest[0].run_id) if newest else None
        if last is None:  # no run of the session has answered yet
            asked = await sessions.without_answer(session, listed.row.id, None, 1)
            last = asked[0] if asked else None
        found = last.parameters if last else {}
        found = _without_reader(found)
    if claim_requests.agent_name(found) != listed.row.agent:
        found = {"agent": listed.row.agent}
    given = found.get("policy") or {}
    return {
        **{name: found[name] for name in _CONTINUED_FIELDS if found.get(name)},
        "policy": {name: given[name] for name in _CONTINUED_POLICY if name in given},
    }


def _without_reader(parameters: JsonObject) -> JsonObject:
    """Return the parameters without the approval of all calls, which a reader's turn has added."""
    given = dict(parameters.get("policy") or {})
    given["approve"] = [each for each in given.get("approve") or () if each != EVERY_TOOL]
    return {**parameters, "policy": given}


async def _find(session: AsyncSession, ref: str) -> SessionSummary:
    try:
        return await sessions.find(session, ref)
    except NotFound as error:
        others = await sessions.recent(session, MAX_SESSIONS_COMPARED)
        known = {name for each in others for name in _names(each)}
        raise NotFound(error.noun, ref, str(error), known=known) from None


def _names(of: SessionSummary) -> list[str]:
    """Return the names by which `_find` finds a session: its id, its key and its job's name."""
    return [of.row.id, of.row.id.removeprefix(f"{of.row.agent}:"), *filter(None, [of.job])]
