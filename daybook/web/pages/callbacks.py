"""The pages of callbacks, messages and alerts, with their attempts."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.ledger.states import Delivery
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.forms import Form
from daybook.web.pages.site import Page, Site

PER_PAGE = 50


async def index(site: Site, request: Request) -> Response:
    """List the deliveries, filtered by status and job."""
    given = {name: request.query_params.get(name, "").strip() for name in ("status", "job")}
    rows = await api.callbacks.list_callbacks(
        given["status"] or None, given["job"] or None, limit=PER_PAGE
    )
    states = list(api.callbacks.STATES)
    return site.render(request, "callbacks.html", rows=rows, given=given, states=states)


async def show(site: Site, request: Request) -> Response:
    """Show one delivery with its content and its attempts."""
    found = await api.callbacks.show(request.path_params["ref"])
    can_retry = found.status in (Delivery.PENDING, Delivery.FAILED)
    return site.render(request, "callback.html", found=found, can_retry=can_retry)


async def retry(ref: str, form: Form) -> Done:
    """Retry one delivery now."""
    await api.callbacks.retry([ref])
    return Done(f"/callbacks/{(await api.callbacks.show(ref)).id}", "retried")


async def retry_failed(ref: str, form: Form) -> Done:
    """Retry all failed deliveries now."""
    await api.callbacks.retry(failed=True)
    return Done("/callbacks", "retried")


ROUTES = (Page("/callbacks", index, live=True), Page("/callbacks/{ref}", show, live=True))

ACTIONS = (
    PageAction("/callbacks/{ref}/retry", retry, show),
    PageAction("/callbacks/retry", retry_failed, index),
)
