"""The flow of `heartbeat` jobs, which reads standing orders and has an agent carry them out.

::

    the file is missing or blank ──────► skipped, without a request to an agent
    the job's own check decides skip ──► skipped
    check: is there anything to do? ─┬─► no: skipped · an invalid answer: failed
                                     └─► yes: the agent carries out the orders, in its own session

It runs from a deployment (also by `run_deployment("heartbeat/<slug>")`), or in a script::

    import asyncio
    from flows.heartbeat import heartbeat

    asyncio.run(heartbeat(file="~/orders.md"))
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
from daybook.execution import heartbeat as beat
from daybook.execution.agent_act import prepare_act
from daybook.execution.attempt import Act
from daybook.execution.execute import carry_out
from daybook.prefect.parameter_schema import FLOW_DESCRIPTION, takes_parameters_of
from daybook.runs.claim_requests import Granted

repository.load_entry_point("deployments/steps.py").make_pool_when_deploying()


@flow(
    name="heartbeat", description=FLOW_DESCRIPTION, persist_result=False, retries=0
)  # see flows/agent_prompt.py
@takes_parameters_of("heartbeat")
async def heartbeat(**parameters: Any) -> State[Any]:
    """Ask an agent whether standing orders require anything now; if so, have the agent do it."""
    return await carry_out("heartbeat", parameters, _prepare, check=beat.check)


def _own_tools() -> Sequence[Tool]:
    from daybook.toolbox import TOOLS

    return TOOLS


async def _prepare(granted: Granted) -> Act:
    """Prepare the request, whose prompt contains the orders; nothing is sent yet."""
    return await prepare_act(beat.as_agent_prompt(granted), _own_tools)
