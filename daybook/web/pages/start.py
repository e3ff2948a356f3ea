"""The page of the first steps: an agent, tools, a channel, and a job from a template.

Each step shows what there is already, so a person can leave the page and resume. Its forms are
those of the documents, which return to this page.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.api.job_pages import EXAMPLE_JOB
from daybook.web.pages.actions import load_prefect
from daybook.web.pages.agents import AGENTS
from daybook.web.pages.connections import CHANNELS, SERVERS
from daybook.web.pages.documents import START, only_operator
from daybook.web.pages.site import Page, Site


async def show(site: Site, request: Request) -> Response:
    """Show the steps."""
    only_operator(request)
    await load_prefect()
    agents, servers, channels, jobs = await asyncio.gather(
        api.agents.list_agents(),
        SERVERS.entries(),
        api.channels.list_channels(),
        api.documents.stored_jobs(),
    )
    answering = [each for each in agents if each.kind in api.agents.KINDS]
    return site.render(
        request,
        "start.html",
        start=START,
        agents=answering,
        offer=None if answering else await api.agents.offer(),
        model=AGENTS.variant("model"),
        tools="\n".join(api.agents.first_tools()),
        presets=[each for each in SERVERS.variants() if each.preset],
        servers=servers,
        channel=CHANNELS.variants()[0],
        chats=[each for each in site.kinds if each.is_chat],
        channels=[each for each in channels if each.name != each.kind],  # not those of each home
        jobs=[(each.id, each.row.name) for each in jobs if each.row.name != EXAMPLE_JOB],
    )


ROUTES = (Page(START, show),)
