"""The flow of `tool-call` jobs, which calls one tool and records the outcome.

It runs from a deployment (also by `run_deployment("tool-call/<slug>")`), or in a script::

    import asyncio
    from flows.tool_call import tool_call

    asyncio.run(tool_call(tool="search.reindex", params={"full": True}))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daybook import home

home.configure_prefect()  # before Prefect is imported: Prefect reads its environment once

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

from daybook import repository
from daybook.execution.agent_lookup import guard_of
from daybook.execution.attempt import Act, AttemptResult
from daybook.execution.execute import carry_out
from daybook.execution.retry_delay import RequestedDelay
from daybook.jobs.actions import ToolCall
from daybook.jobs.model import read_parameters
from daybook.jobs.payloads import PAYLOAD
from daybook.policies.policy import Policy
from daybook.prefect.parameter_schema import FLOW_DESCRIPTION, takes_parameters_of
from daybook.resources.secrets import PrefectSecretStore
from daybook.runs.claim_requests import Granted
from daybook.tools import calls
from daybook.tools.server_blocks import PrefectServers

repository.load_entry_point("deployments/steps.py").make_pool_when_deploying()


@flow(
    name="tool-call", description=FLOW_DESCRIPTION, persist_result=False, retries=0
)  # see flows/agent_prompt.py
@takes_parameters_of("tool-call")
async def tool_call(**parameters: Any) -> State[Any]:
    """Call one tool."""
    return await carry_out("tool-call", parameters, _prepare)


@dataclass(frozen=True)
class _Call:
    """Act that makes a prepared call once; `close` it if the call is not made."""

    prepared: calls.PreparedCall
    policy: Policy

    async def __call__(self) -> AttemptResult:
        called = await calls.call(
            self.prepared,
            timeout=self.policy.timeout.total_seconds(),
            idempotent=self.policy.idempotent,
        )
        asked = RequestedDelay.of("the tool server", called.retry_after)
        return AttemptResult(called.outcome, called.temporary, asked)

    async def close(self) -> None:
        await self.prepared.close()


async def _prepare(granted: Granted) -> Act:
    """Prepare the call: connect to the tool's server, without calling the tool yet."""
    action, policy, _ = read_parameters("tool-call", granted.parameters)
    assert isinstance(action, ToolCall)
    guard = guard_of(granted)
    async with get_client() as client:
        prepared = await calls.prepare(
            action.tool,
            action.params,
            granted.occurrence,
            PrefectServers(client),
            PrefectSecretStore(client),
            guard,
            payload=granted.found.get(PAYLOAD),
        )
    return _Call(prepared, policy)
