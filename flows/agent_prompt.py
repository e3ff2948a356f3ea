"""The flow of `agent-prompt` jobs, which sends one prompt to one agent and records the outcome.

It runs from a deployment (also by `run_deployment("agent-prompt/<slug>")`), or in a script::

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
from daybook.execution.agent_request import success_outcome
from daybook.execution.attempt import Act
from daybook.execution.execute import carry_out
from daybook.execution.fallback import prepare_agents
from daybook.jobs.actions import AgentPrompt
from daybook.jobs.model import read_parameters
from daybook.ledger.states import Outcome
from daybook.prefect.parameter_schema import FLOW_DESCRIPTION, takes_parameters_of
from daybook.runs.claim_requests import Granted

repository.load_entry_point("deployments/steps.py").make_pool_when_deploying()


# Results are not persisted, because Prefect's Retry executes no run that already has a result. The
# artifact has the full answer, and the ledger has the data for programs. Prefect's own retries are
# off, because they would bypass the claim.
@flow(name="agent-prompt", description=FLOW_DESCRIPTION, persist_result=False, retries=0)
@takes_parameters_of("agent-prompt")
async def agent_prompt(**parameters: Any) -> State[Any]:
    """Send one prompt to one agent, or to a fallback agent if the first is unavailable."""
    return await carry_out("agent-prompt", parameters, _prepare)


def _own() -> Sequence[Tool]:
    from daybook.toolbox import TOOLS

    return TOOLS


async def _prepare(granted: Granted) -> Act:
    """Prepare the request to the agent; nothing is sent yet."""
    action, _, _ = read_parameters("agent-prompt", granted.parameters)
    assert isinstance(action, AgentPrompt)
    prompt = conversation.filled_prompt(granted)
    asking = await prepare_agents(
        granted,
        (action.agent, *action.fallback_agents),
        prompt,
        model=action.model,
        own=_own,
    )

    async def ask() -> Outcome:
        answer = await asking.ask(action.output_format, action.output_schema)
        return success_outcome(answer, prompt)

    return ask
