"""List of this ledger's deployments and of untagged deployments of Daybook's flows.

A pass over a thousand unchanged jobs should take about a second. So the list has the deployments in
the form in which Prefect's API returns them, with fingerprints. A deployment is parsed
(`ListedDeployment.read`) only if the deployment or its job has changed since the last pass
(`daybook.prefect.reconcile.reconcile_all`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from daybook.jobs.actions import ACTIONS
from daybook.jobs.labels import RESERVED_TAG_PREFIX
from daybook.json_text import JsonObject
from daybook.prefect.projection import ledger_tag

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

PAGE_SIZE = 200
"""Prefect's default for the maximum page size."""

_COMPARED_FIELDS = (
    "name",
    "paused",
    "tags",
    "description",
    "parameters",
    "schedules",
    "entrypoint",
    "pull_steps",
    "work_pool_name",
    "work_queue_name",
    "job_variables",
    "parameter_openapi_schema",
)
"""Fields that a job determines, and fields that determine how the job is run.

Schedules include their update times, because a save without a change also deletes the queued runs.
"""


@dataclass(frozen=True)
class ListedDeployment:
    """One deployment as the API returned it; ``mark`` is its fingerprint."""

    raw: JsonObject
    mark: bytes

    @property
    def id(self) -> str:
        return str(self.raw["id"])

    @property
    def name(self) -> str:
        return str(self.raw["name"])

    def ledgers(self) -> set[str]:
        """Return the tags of the ledgers that own this deployment."""
        return {tag for tag in self.raw["tags"] or [] if tag.startswith(RESERVED_TAG_PREFIX)}

    def read(self) -> DeploymentResponse:
        """Return the deployment as Prefect's own model."""
        from prefect.client.schemas.responses import DeploymentResponse

        return DeploymentResponse.model_validate(self.raw)


@dataclass
class DeploymentList:
    """Deployments by id, without those of other ledgers.

    ``has_ours`` is True if this ledger has deployments, and ``has_others`` if other ledgers have
    some.
    """

    found: dict[str, ListedDeployment] = field(default_factory=dict)
    has_ours: bool = False
    has_others: bool = False

    @property
    def belongs_to_other_ledger(self) -> bool:
        """Return whether other ledgers have jobs in this Prefect and this ledger has none."""
        return self.has_others and not self.has_ours

    def has_name(self, name: str) -> bool:
        """Return whether a deployment in ``found`` has this name, under any flow."""
        return any(each.name == name for each in self.found.values())


async def read(client: PrefectClient, ledger_id: str) -> DeploymentList:
    """Return the deployments of Daybook's flows that belong to this ledger or have no ledger's tag.

    A deployment that moves to another page during the reading may be missing.
    """
    listing, ours, offset = DeploymentList(), ledger_tag(ledger_id), 0
    while True:
        response = await client.request(
            "POST",
            "/deployments/filter",
            json={
                "flows": {"name": {"any_": list(ACTIONS)}},
                "sort": "NAME_ASC",
                "limit": PAGE_SIZE,
                "offset": offset,
            },
        )
        page: list[JsonObject] = response.json()
        for raw in page:
            compared = json.dumps([raw.get(name) for name in _COMPARED_FIELDS]).encode()
            each = ListedDeployment(raw, hashlib.blake2b(compared, digest_size=16).digest())
            tags = each.ledgers()
            listing.has_ours |= ours in tags
            if tags and ours not in tags:
                listing.has_others = True
            else:
                listing.found[each.id] = each
        offset += len(page)
        if len(page) < PAGE_SIZE:
            return listing
