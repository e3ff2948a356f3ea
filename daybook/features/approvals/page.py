"""The decisions on the page of a run, and on the page of a signed link (`links`)."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.api.run_life import RunLife
from daybook.errors import InvalidInput, NotFound
from daybook.features.approvals import links, operations, settings
from daybook.features.approvals.settings import ApprovalLinks
from daybook.ledger.states import Status
from daybook.ledger.views import Approval
from daybook.names import Id
from daybook.policies.policy import ANSWER
from daybook.web.pages import runs
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.forms import Form
from daybook.web.pages.site import Page, Site

MESSAGES = {
    "approved": "The call is approved. The run goes on within seconds.",
    "rejected": "The call is rejected. The run goes on without it.",
    "decided": "The decision is recorded. The run goes on within seconds.",
}
SHOWN_STEPS = 8
"""Number of steps before a question that its page shows."""


async def decide(ref: str, form: Form, *, approve: bool) -> Done:
    """Approve or reject the call or answer that the page has shown."""
    approval = Id(f"{ref}.{form.get('number')}")
    run = await operations.decide(approval, approve=approve, reason=form.get("reason"))
    return Done(f"/runs/{run.id}", "approved" if approve else "rejected")


async def question(site: Site, request: Request) -> Response:
    """Show the question of a signed link. This decides nothing."""
    signed = links.read(request.path_params["ref"])
    life, asked = await _find(signed)
    needs_login = settings.load().approval_links is ApprovalLinks.LOGIN
    is_open = asked.status == "open" and life.run.status == Status.WAITING
    steps = [each for each in life.steps if each.started_at <= asked.asked_at]
    return site.render(
        request,
        "decide.html",
        life=life,
        asked=asked,
        needs_login=needs_login,
        is_answer=asked.position == ANSWER,
        is_open=is_open and site.now() < asked.deadline,
        is_late=asked.status == "open" and site.now() >= asked.deadline,
        sent=runs.sent(life),
        steps=steps[-SHOWN_STEPS:],
    )


async def decide_by_link(ref: str, form: Form) -> Done:
    """Answer the question of a signed link."""
    signed = links.read(ref)
    await _find(signed)
    decision = form.get("decision")
    if decision not in ("approve", "reject"):
        raise InvalidInput("decision", "is missing", "press one of the buttons")
    await operations.decide_by_link(
        signed.run_id, signed.number, approve=decision == "approve", reason=form.get("reason")
    )
    return Done(f"{links.PATH}{ref}", "decided")


async def _find(signed: links.SignedQuestion) -> tuple[RunLife, Approval]:
    """Return the run and the approval of a signed link. Raise `InvalidInput` if it is gone."""
    try:
        life = await api.run_life.show(Id(signed.run_id))
    except NotFound:
        life = None
    for each in life.approvals if life else ():
        if (each.number, int(each.deadline.timestamp())) == (signed.number, signed.deadline):
            assert life is not None
            return life, each
    raise InvalidInput("link", "its question is no longer stored", "it cannot be answered")


ROUTES = (Page(links.PATH + "{ref}", question),)
ACTIONS = (
    *(
        PageAction(
            f"/runs/{{ref}}/{verb}", partial(decide, approve=approve), runs.show, ("reason",)
        )
        for verb, approve in (("approve", True), ("reject", False))
    ),
    PageAction(links.PATH + "{ref}", decide_by_link, question, ("reason",)),
)
