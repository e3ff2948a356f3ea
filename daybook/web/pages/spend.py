"""What the runs of the last 30 days cost: by day, job, agent and model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.runs import daily
from daybook.runs.daily import Total
from daybook.web import formatting
from daybook.web.pages.site import Page, Site

GROUPS = ("job", "agent", "model")
MAX_ROWS = 50


@dataclass
class Spent:
    """The runs of one job, agent or model, and what they used; ``job_id`` is of a job only."""

    name: str
    job_id: str | None = None
    runs: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0
    tokens: int = 0


async def show(site: Site, request: Request) -> Response:
    """Show the spending."""
    by = request.query_params.get("by", "job")
    by = by if by in GROUPS else "job"
    totals = [
        each
        for each in await site.totals()
        if each.cost_usd or each.unpriced or each.input_tokens or each.output_tokens
    ]
    names = await api.job_pages.names() if by == "job" else {}
    rows = _grouped(totals, _key(by), names)
    per_day = dict.fromkeys(daily.days(site.now(), site.tz), 0.0)
    for each in totals:
        if each.day in per_day:
            per_day[each.day] += each.cost_usd
    days = [(f"{day:%a} {day.day} {day:%b}", cost) for day, cost in per_day.items()]
    return site.render(
        request,
        "spend.html",
        by=by,
        groups=GROUPS,
        rows=rows[:MAX_ROWS],
        left=len(rows) - MAX_ROWS,
        total=daily.cost(totals),
        today=days[-1][1],
        unpriced=sum(each.unpriced for each in totals),
        tokens=sum(each.input_tokens + each.output_tokens for each in totals),
        days=days,
        money=formatting.money,
    )


def _key(by: str) -> Callable[[Total], str | None]:
    return {
        "job": lambda each: each.job_id,
        "agent": lambda each: each.agent,
        "model": lambda each: each.model,
    }[by]


def _grouped(
    totals: Iterable[Total], key: Callable[[Total], str | None], names: dict[str, str]
) -> list[Spent]:
    found: dict[str | None, Spent] = {}
    for each in totals:
        which = key(each)
        if (spent := found.get(which)) is None:
            name = names.get(which or "", which or "")
            spent = found[which] = Spent(name, which if which in names else None)
        spent.runs += each.runs
        spent.cost_usd += each.cost_usd
        spent.unpriced += each.unpriced
        spent.tokens += each.input_tokens + each.output_tokens
    return sorted(found.values(), key=lambda each: (-each.cost_usd, -each.tokens, each.name))


ROUTES = (Page("/spend", show),)
