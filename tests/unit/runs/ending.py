"""Helpers for runs that were ended in Prefect."""

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


def end(claim_request: ClaimRequest, state: prefect_ends.EndKind, **changes: Any) -> EndInPrefect:
    """Return the end of the request's own Prefect run, as the keeper reads it from Prefect."""
    made = EndInPrefect(str(claim_request.flow_run_id), state, state.title(), SAID, claim_request)
    return replace(made, **changes)


async def take(world: World, claim_request: ClaimRequest, state: Type) -> Status | None:
    """Apply that end to the ledger; return the run's new state, None if nothing changed."""
    return await prefect_ends.apply_end(world.ledger, end(claim_request, state))
