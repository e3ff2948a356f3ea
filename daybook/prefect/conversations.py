"""The deployment of the runs that answer messages of sessions, which have no job.

It has no schedule and no tag of a ledger, so all homes at a Prefect server share it. Each run has
the tag of its ledger. No job can have its name, because slugs have no capital letters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daybook.prefect import deployment, parameter_schema

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

NAME = "Conversations"
DESCRIPTION = "Answers to messages that people write to agents."


async def ensure_deployment(client: PrefectClient, kind: str) -> str:
    """Return the id of the deployment. Create it if it is missing, or if its pool was deleted.

    Two processes that create it at the same time get the same one. Otherwise, an existing
    deployment stays as a person has edited it.
    """
    found = await deployment.read_by_name(client, kind, NAME)
    if found is not None and found.work_pool_name is not None:
        return str(found.id)
    fields = parameter_schema.execution_fields(kind)
    flow_id = await client.create_flow_from_name(kind)
    made = await client.create_deployment(flow_id, NAME, description=DESCRIPTION, **fields)
    return str(made)
