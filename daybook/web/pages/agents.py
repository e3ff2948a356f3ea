"""Agents: those that jobs name or that have answered, with the runs and the cost of 30 days."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.ledger.states import FAILURES, Status
from daybook.web.pages.site import Page, Site


@dataclass
class Agent:
    """An agent with the number of jobs that name it, and its runs of the last 30 days."""

    name: str
    jobs: int = 0
    runs: int = 0
    succeeded: int = 0
    failed: int = 0
    cost_usd: float = 0.0
    tokens: int = 0
    models: set[str] = field(default_factory=set)


async def index(site: Site, request: Request) -> Response:
    """List the agents."""
    found: dict[str, Agent] = {}
    for name, count in (await api.job_pages.jobs_by_agent()).items():
        found.setdefault(name, Agent(name)).jobs = count
    for total in await site.totals():
        if total.agent:
            agent = found.setdefault(total.agent, Agent(total.agent))
            agent.runs += total.runs
            agent.succeeded += total.runs if total.status == Status.SUCCEEDED else 0
            agent.failed += total.runs if total.status in FAILURES else 0
            agent.cost_usd += total.cost_usd
            agent.tokens += total.input_tokens + total.output_tokens
            agent.models |= {total.model} - {""}
    agents = sorted(found.values(), key=lambda each: (-each.jobs, -each.runs, each.name))
    return site.render(request, "agents.html", agents=agents)


ROUTES = (Page("/agents", index),)
