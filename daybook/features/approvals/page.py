"""The decisions on the page of a run."""

from __future__ import annotations

from functools import partial

from daybook.features.approvals import operations
from daybook.names import Id
from daybook.web.pages import runs
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.forms import Form

ROUTES = ()
MESSAGES = {
    "approved": "The call is approved. The run goes on within seconds.",
    "rejected": "The call is rejected. The run goes on without it.",
}


async def decide(ref: str, form: Form, *, approve: bool) -> Done:
    """Approve or reject the call or answer that the page has shown."""
    approval = Id(f"{ref}.{form.get('number')}")
    run = await operations.decide(approval, approve=approve, reason=form.get("reason"))
    return Done(f"/runs/{run.id}", "approved" if approve else "rejected")


ACTIONS = tuple(
    PageAction(f"/runs/{{ref}}/{verb}", partial(decide, approve=approve), runs.show, ("reason",))
    for verb, approve in (("approve", True), ("reject", False))
)
