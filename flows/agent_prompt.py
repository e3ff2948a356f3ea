"""The flow of `agent-prompt` jobs: sends one prompt to one agent, and records the outcome.

It runs from a deployment, by `run_deployment("agent-prompt/<slug>")`, or is called in a script::

    import asyncio
    from flows.agent_prompt import agent_prompt

    asyncio.run(agent_prompt(prompt="What is on today?"))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from daybook import home

home.configure_prefect()  # before Prefect is imported: Prefect reads its environment once

from prefect import flow
from prefect.client.schemas.objects import State

from daybook import repository
from daybook.agents.base import Tool
from daybook.execution import conversation
from daybook.execution.agent_request import prepare_request, success_outcome
from daybook.execution.attempt import Act
from daybook.execution.execute import carry_out
from daybook.jobs.actions import AgentPrompt, OutputFormat, Session
from daybook.jobs.model import read_parameters
from daybook.jobs.notify import Notify
from daybook.jobs.policy import Policy
from daybook.ledger.states import Outcome
from daybook.prefect.reconcile import PrefectReconciler
from daybook.runs.claim_requests import Granted

repository.load_entry_point("deployments/steps.py").make_pool_when_deploying()


# Results are not persisted: Prefect's Retry does not execute a run again whose result it keeps. The
# artifact has the full answer, and the ledger has the data for programs. Prefect's own retries are
# off: they know no claim.
@flow(name="agent-prompt", persist_result=False, retries=0)
async def agent_prompt(
    prompt: str,
    agent: str = "default",
    model: str = "",
    session: Session = "reuse",
    session_key: str = "",
    output_format: OutputFormat = "text",
    output_schema: dict[str, Any] = {},  # noqa: B006 - never changed
    policy: Policy = Policy(),  # noqa: B008 - immutable
    notify: Notify = Notify(),  # noqa: B008 - immutable
) -> State[Any]:
    """One prompt to one agent.

    Args:
        prompt: What the agent is asked. It may name {{due}}, {{job}} and {{last_output}}.
        agent: The agent's name, as `daybook agents list` shows it.
        model: The model that a model agent is to use instead of its own; empty is its own.
        session: Whether the job's runs continue one conversation, each begins a new one, or they
            continue that of their channel and chat id (chat).
        session_key: The name of a conversation that several jobs of one agent share; empty is the
            job's own.
        output_format: What the answer has to be: text, any JSON, or JSON that fits the schema.
        output_schema: The JSON schema of a structured answer.
        policy: How long an attempt may take, retries, and what happens when runs overlap.
        notify: Recipients of the outcome: callback addresses and a channel.
    """
    parameters: dict[str, Any] = {
        "prompt": prompt,
        "agent": agent,
        "model": model,
        "session": session,
        "session_key": session_key,
        "output_format": output_format,
        "output_schema": output_schema,
        "policy": policy.model_dump(mode="json"),
        "notify": notify.model_dump(mode="json"),
    }
    return await carry_out("agent-prompt", parameters, _prepare, PrefectReconciler())


def _own() -> Sequence[Tool]:
    from daybook.toolbox import TOOLS

    return TOOLS


async def _prepare(granted: Granted) -> Act:
    """Whom to ask and what; nothing of it has an effect."""
    action, _, _ = read_parameters("agent-prompt", granted.parameters)
    assert isinstance(action, AgentPrompt)
    turn = conversation.turn(granted)
    asking = await prepare_request(
        granted,
        action.agent,
        turn.prompt,
        history=turn.history,
        model=action.model,
        own=_own,
    )

    async def ask() -> Outcome:
        answer = await asking.ask(action.output_format, action.output_schema)
        return success_outcome(answer, turn.prompt)

    return ask
