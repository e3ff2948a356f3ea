"""Agents of one run: the job's agent, and the fallback agents that answer if it is unavailable.

::

    prepare_agents ──► PreparedAgents      between claim and begin, without an effect
                         └─ ask ──► the job's agent ──┬─► an answer
                                                      ├─► unavailable: the next agent
                                                      └─► any other error: no further agent is asked

If an agent's calls in an earlier attempt may have had effects (`execution.journal`), the next
attempt asks only this agent, because another agent could repeat the effects.

All agents answer within one attempt: they share its timeout and its token limit, and their usage is
added up. An agent counts as unavailable if the error has `AgentError.allows_fallback`: nothing that
the agent did can have had an effect, so the next agent repeats no effect (promise 4).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from daybook.errors import (
    AgentError,
    AgentFailed,
    AgentMisconfigured,
    AgentTimeout,
    InvalidInput,
)
from daybook.execution import answers, journal
from daybook.execution.agent_request import PreparedRequest, prepare_request
from daybook.execution.agent_tools import OwnTools
from daybook.execution.answers import QUESTIONS, AgentAnswer
from daybook.execution.workspaces import WorkQuestion, Workspace
from daybook.jobs.actions import OutputFormat
from daybook.ledger.states import Usage
from daybook.runs import usage
from daybook.runs.claim_requests import Granted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedAgents:
    """Agents of one run, in order: each name with its request, or the error that prevents it."""

    agents: Mapping[str, PreparedRequest | AgentMisconfigured]

    async def ask(self, form: OutputFormat = "text", schema: Mapping[str, Any] = {}) -> AgentAnswer:
        """Ask the agents in order until one answers.

        If an agent is unavailable and no time or no tokens are left, ask no further agent. If no
        agent answers, raise the last agent's error. If all agents were unavailable, prefer an error
        that allows a retry. The answer or the error has the usage of all agents. The answer's
        remark or the error's message contains the error of each agent that failed.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        failures: dict[str, AgentError] = {}
        steps = journal.current()
        acting = None if steps is None else await steps.acting_agent()
        for position, (name, agent) in enumerate(self.agents.items()):
            if acting is not None and position != acting:
                continue
            try:
                if isinstance(agent, AgentMisconfigured):
                    raise agent
                if not position:
                    return await agent.ask(form, schema)
                spent = usage.total(each.usage for each in failures.values())
                rest = _with_rest(agent, loop.time() - start, spent)
                if rest is None:
                    break
                answer = await rest.ask(form, schema)
            except AgentError as error:
                failures[name] = error
                if not error.allows_fallback:
                    break
                _warn(name, error)
            else:
                reply = replace(answer.reply, usage=usage.total((spent, answer.reply.usage)))
                remarks = (
                    _describe(failures),
                    f"answered by the fallback agent {name}",
                    answer.remark,
                )
                return AgentAnswer(reply, "; ".join(filter(None, remarks)))
        raise _final_error(failures)

    def for_question(self, question: WorkQuestion) -> PreparedAgents:
        """Return the agents with the question of a workspace.

        Raise `AgentFailed` if no tokens are left for it, and `AgentTimeout` if no time is left.
        """
        agents: dict[str, PreparedRequest | AgentMisconfigured] = {}
        for name, agent in self.agents.items():
            if isinstance(agent, AgentMisconfigured):
                agents[name] = agent
                continue
            timeout = agent.request.timeout
            rest = _with_rest(agent, timeout - question.seconds, question.spent)
            if rest is None and question.seconds <= 0:
                raise AgentTimeout(timeout)
            if rest is None:
                raise AgentFailed("stopped: the token limit is reached")
            request = rest.request
            prompt = "\n\n".join(filter(None, (request.prompt, question.addition)))
            number = request.question + QUESTIONS * question.number
            agents[name] = replace(rest, request=replace(request, prompt=prompt, question=number))
        return PreparedAgents(agents)


async def prepare_agents(
    granted: Granted,
    names: tuple[str, ...],
    prompt: str,
    *,
    model: str = "",
    own: OwnTools,
    workspace: Workspace | None = None,
) -> PreparedAgents:
    """Prepare a request to each agent; ``model`` is for the first agent, which is the job's own.

    The agents work in ``workspace``, or in the job's work directory if it is None.

    An agent that does not exist, or has invalid settings or tools, counts as unavailable. Raise
    `AgentMisconfigured` if all agents are unavailable, and the errors of Prefect's client.
    """
    agents: dict[str, PreparedRequest | AgentMisconfigured] = {}
    for position, name in enumerate(names):
        try:
            agents[name] = await prepare_request(
                granted,
                name,
                prompt,
                model="" if position else model,
                own=own,
                fallback=position,
                workspace=workspace,
            )
        except (AgentMisconfigured, InvalidInput) as error:
            agents[name] = AgentMisconfigured(str(error))
    failures = {k: each for k, each in agents.items() if isinstance(each, AgentMisconfigured)}
    if len(failures) == len(agents):
        raise _final_error(failures)
    return PreparedAgents(agents)


def _with_rest(
    agent: PreparedRequest, seconds: float, spent: Usage | None
) -> PreparedRequest | None:
    """Return the request with the rest of the attempt's time and tokens; None if either is used up.

    The agents before it took ``seconds`` and used ``spent``.
    """
    request = agent.request
    timeout = request.timeout - seconds
    tokens = None if request.tokens is None else request.tokens - usage.tokens(spent)
    if timeout <= 0 or (tokens is not None and tokens <= 0):
        return None
    if spent is not None and request.took is not None:
        request.took(spent)  # in case this process is killed while the agent answers
    took = answers.usage_adder(spent, request.took)
    return replace(agent, request=replace(request, timeout=timeout, tokens=tokens, took=took))


def _warn(name: str, error: AgentError) -> None:
    """Log that an agent is unavailable; inside a flow, use the run's log."""
    logger = get_run_logger() if FlowRunContext.get() else log
    logger.warning(
        "the agent %s is unavailable: %s", name, error, extra={"action": "agent_unavailable"}
    )


def _final_error(failures: Mapping[str, AgentError]) -> AgentError:
    """Return the error of an attempt without an answer; its message names each agent that failed.

    It is the last agent's error. But if all agents were unavailable, it is the error that allows
    the earliest retry (if any), because the next attempt asks all agents again.
    """
    *_, last = errors = list(failures.values())
    final, retryable = last, [each for each in errors if each.allows_retry]
    if last.allows_fallback and retryable:
        final = min(retryable, key=lambda each: getattr(each, "retry_after", None) or 0.0)
    message = _describe(failures) if len(errors) > 1 else str(last)
    final.usage, final.args = usage.total(each.usage for each in errors), (message,)
    return final


def _describe(failures: Mapping[str, AgentError]) -> str:
    return "; ".join(f"agent {name}: {error}" for name, error in failures.items())
