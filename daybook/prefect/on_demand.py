"""The deployments of runs without a job: `agent-prompt/on-demand`, as in `prefect.yaml`.

They have no schedule, and no tag of a ledger, so all homes at a Prefect server share them. Each run
has the tag of its ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daybook.prefect import deployment, parameter_schema

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

NAME = "on-demand"
DESCRIPTION = "One prompt to one agent, whenever it is run."


async def ensure_deployment(client: PrefectClient, kind: str) -> str:
    """Return the id of the deployment, which is created if it is missing.

    Two processes that create it at the same time get the same one. An existing deployment stays as
    a person has edited it.
    """
    found = await deployment.read_by_name(client, kind, NAME)
    if found is not None:
        return str(found.id)
    fields = parameter_schema.execution_fields(kind)
    flow_id = await client.create_flow_from_name(kind)
    return str(await client.create_deployment(flow_id, NAME, description=DESCRIPTION, **fields))
