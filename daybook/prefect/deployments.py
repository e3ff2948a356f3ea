"""All deployments of our flows, as Prefect's API says them, and a mark by which they compare.

A pass over a thousand unchanged jobs may cost a second: so nothing is read into models here, and
what has the mark of the last look needs no other look (`daybook.prefect.reconcile.everything`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from daybook.jobs.model import TAG_OF_OURS
from daybook.prefect import parameter_schema
from daybook.prefect.projection import ledger_tag

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

PAGE = 200
"""As many as Prefect gives at once."""

_DECIDED = (
    "name",
    "paused",
    "tags",
    "description",
    "parameters",
    "schedules",
    "entrypoint",
    "pull_steps",
    "work_pool_name",
    "parameter_openapi_schema",
)
"""What a job decides, and what carries it. Schedules have their times: one that was saved as it was
has lost its queued runs."""


@dataclass(frozen=True)
class Listed:
    """One deployment as the API gave it."""

    raw: dict[str, Any]
    mark: bytes

    @property
    def id(self) -> str:
        return str(self.raw["id"])

    @property
    def name(self) -> str:
        return str(self.raw["name"])

    def ledgers(self) -> set[str]:
        """The tags of the ledgers that say it is theirs."""
        return {tag for tag in self.raw["tags"] or [] if tag.startswith(TAG_OF_OURS)}

    def read(self) -> DeploymentResponse:
        """The same as Prefect's own model."""
        from prefect.client.schemas.responses import DeploymentResponse

        return DeploymentResponse.model_validate(self.raw)


@dataclass
class Listing:
    """Deployments by their id; those of other ledgers are only counted."""

    found: dict[str, Listed] = field(default_factory=dict)
    has_ours: bool = False
    has_others: bool = False

    @property
    def is_anothers(self) -> bool:
        """Whether this Prefect has jobs of other ledgers and none of this one."""
        return self.has_others and not self.has_ours

    def has_name(self, name: str) -> bool:
        """Whether a deployment of one of our flows has this name."""
        return any(each.name == name for each in self.found.values())


async def read(client: PrefectClient, ledger_id: str) -> Listing:
    """This ledger's and the untagged ones; one that moves between two pages may be missing."""
    listing, ours, offset = Listing(), ledger_tag(ledger_id), 0
    while True:
        answer = await client.request(
            "POST",
            "/deployments/filter",
            json={
                "flows": {"name": {"any_": list(parameter_schema.PROTOTYPES)}},
                "sort": "NAME_ASC",
                "limit": PAGE,
                "offset": offset,
            },
        )
        page: list[dict[str, Any]] = answer.json()
        for raw in page:
            each = Listed(raw, _mark(raw))
            tags = each.ledgers()
            listing.has_ours |= ours in tags
            if tags and ours not in tags:
                listing.has_others = True
            else:
                listing.found[each.id] = each
        offset += len(page)
        if len(page) < PAGE:
            return listing


def _mark(raw: dict[str, Any]) -> bytes:
    told = json.dumps([raw.get(name) for name in _DECIDED])
    return hashlib.blake2b(told.encode(), digest_size=16).digest()
