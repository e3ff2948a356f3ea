"""The page of spending: the cost of the last 30 days by day, job, agent and model."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.features.spend import operations
from daybook.runs import daily
from daybook.web import formatting
from daybook.web.pages.site import Page, Site

GROUPS = ("job", "agent", "model")
MAX_ROWS = 50


async def show(site: Site, request: Request) -> Response:
    """Show the spending of the last 30 days."""
    by = request.query_params.get("by", "job")
    by = by if by in GROUPS else "job"
    totals = await site.totals()
    groups = operations.groups(totals, by)
    names = await api.job_pages.names() if by == "job" else {}
    per_day = {each.name: each.cost_usd for each in operations.grouped(totals, "day")}
    days = [
        (f"{day:%a} {day.day} {day:%b}", per_day.get(str(day)))
        for day in daily.days(site.now(), site.tz)
    ]
    return site.render(
        request,
        "spend.html",
        by=by,
        groups=GROUPS,
        rows=operations.add_up_first(groups, by, names, MAX_ROWS),
        left=len(groups) - MAX_ROWS,
        total=daily.spending(totals),
        budgets=await operations.budgets_today(),
        today=days[-1][1],
        days=days,
        money=formatting.money,
    )


ROUTES = (Page("/spend", show),)
