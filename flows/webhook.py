"""The flow of `webhook` jobs, which sends one HTTP request and records the outcome.

It runs from a deployment (also by `run_deployment("webhook/<slug>")`), or in a script::

    import asyncio
    from flows.webhook import webhook

    asyncio.run(webhook(url="https://api.example.org/export"))
"""

from __future__ import annotations

from typing import Any

from daybook import home

home.configure_prefect()  # before Prefect is imported: Prefect reads its environment once

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

from daybook import repository
from daybook.execution import webhook as request
from daybook.execution.agent_lookup import guard_of
from daybook.execution.attempt import Act, AttemptResult
from daybook.execution.execute import carry_out
from daybook.execution.retry_delay import RequestedDelay
from daybook.http.httpx_transport import HttpxTransport
from daybook.jobs.actions import Webhook
from daybook.jobs.model import read_parameters
from daybook.jobs.payloads import PAYLOAD
from daybook.prefect.parameter_schema import FLOW_DESCRIPTION, takes_parameters_of
from daybook.resources.secrets import PrefectSecretStore
from daybook.runs.claim_requests import Granted

repository.load_entry_point("deployments/steps.py").make_pool_when_deploying()


@flow(
    name="webhook", description=FLOW_DESCRIPTION, persist_result=False, retries=0
)  # see flows/agent_prompt.py
@takes_parameters_of("webhook")
async def webhook(**parameters: Any) -> State[Any]:
    """Send one HTTP request."""
    return await carry_out("webhook", parameters, _prepare)


async def _prepare(granted: Granted) -> Act:
    """Prepare the request with its secrets; nothing is sent yet."""
    action, policy, _ = read_parameters("webhook", granted.parameters)
    assert isinstance(action, Webhook)
    guard = guard_of(granted)
    async with get_client() as client:
        prepared = await request.prepare(
            action,
            granted.occurrence,
            guard,
            PrefectSecretStore(client),
            granted.found.get(PAYLOAD),
        )

    async def send() -> AttemptResult:
        sent = await request.send(
            prepared,
            HttpxTransport(guard),
            timeout=policy.timeout.total_seconds(),
            idempotent=policy.idempotent,
        )
        asked = RequestedDelay.of("the receiver", sent.retry_after)
        return AttemptResult(sent.outcome, sent.temporary, asked)

    return send
