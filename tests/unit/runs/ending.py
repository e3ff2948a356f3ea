"""Short ways to an end that was made in Prefect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from daybook.ledger.states import Status
from daybook.runs import prefect_ends
from daybook.runs.claim_requests import ClaimRequest
from daybook.runs.prefect_ends import EndInPrefect
from tests.world import World

Type = Literal["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
TYPES: tuple[Type, ...] = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
SAID = "it broke"
BY_HAND = "set to Completed by hand in Prefect"


def end(offer: ClaimRequest, state: prefect_ends.EndKind, **changes: Any) -> EndInPrefect:
    """The end of the offer's own Prefect run, as a pass over Prefect sees it."""
    made = EndInPrefect(str(offer.flow_run_id), state, state.title(), SAID, offer)
    return replace(made, **changes)


async def take(world: World, offer: ClaimRequest, state: Type) -> Status | None:
    """Bring that end to the ledger."""
    return await prefect_ends.apply_end(world.ledger, end(offer, state))
