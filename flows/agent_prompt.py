"""The flow of `agent-prompt` jobs, which sends one prompt to one agent and records the outcome.

It runs from a deployment (also by `run_deployment("agent-prompt/<slug>")`), or in a script::

    import asyncio
    from flows.agent_prompt import agent_prompt

    asyncio.run(agent_prompt(prompt="What is on today?"))
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from daybook import home

home.configure_prefect()  # before Prefect is imported: Prefect reads its environment once

from prefect import flow
from prefect.client.schemas.objects import State

from daybook import repository
from daybook.agents.base import Tool
from daybook.execution.agent_act import prepare_act
from daybook.execution.execute import carry_out
from daybook.prefect.parameter_schema import FLOW_DESCRIPTION, takes_parameters_of

repository.load_entry_point("deployments/steps.py").make_pool_when_deploying()


# Results are not persisted, because Prefect's Retry executes no run that already has a result. The
# artifact has the full answer, and the ledger has the data for programs. Prefect's own retries are
# off, because they would bypass the claim.
@flow(name="agent-prompt", description=FLOW_DESCRIPTION, persist_result=False, retries=0)
@takes_parameters_of("agent-prompt")
async def agent_prompt(**parameters: Any) -> State[Any]:
    """Send one prompt to one agent, or to a fallback agent if the first is unavailable."""
    return await carry_out("agent-prompt", parameters, partial(prepare_act, own=_own_tools))


def _own_tools() -> Sequence[Tool]:
    from daybook.toolbox import TOOLS

    return TOOLS
