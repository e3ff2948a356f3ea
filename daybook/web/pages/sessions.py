"""The pages of sessions: the list, with a form that asks an agent, and one as a conversation."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.policies.compression import KEPT_MESSAGES
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.fields import Field
from daybook.web.pages.forms import Form
from daybook.web.pages.site import Page, Site

PER_PAGE = 50
MESSAGES = 40


async def index(site: Site, request: Request) -> Response:
    """List the sessions, the most recently used first, below a form that asks an agent."""
    names = await api.agents.stored_names()
    agents = [DEFAULT_AGENT, *sorted(name for name in names if name != DEFAULT_AGENT)]
    return site.render(
        request,
        "sessions.html",
        sessions=await api.sessions.list_sessions(PER_PAGE),
        agent=Field("agent", "Agent", "", "choice", tuple(agents)),
        default=DEFAULT_AGENT,
    )


async def show(site: Site, request: Request) -> Response:
    """Show one session with its last messages, and a form that continues it."""
    found = await api.sessions.show(request.path_params["ref"], MESSAGES)
    working = [
        await api.run_life.show(each.run_id)
        for each in found.unanswered
        if each.status == "running"
    ]
    return site.render(
        request,
        "session.html",
        found=found,
        most=MESSAGES,
        most_read=KEPT_MESSAGES,
        job_id=found.history[-1].source.job_id if found.history and found.job else None,
        steps={each.run.id: each.steps for each in working},
    )


async def reply(ref: str, form: Form) -> Done:
    """Continue a session: a worker runs its agent."""
    run = await api.sessions.reply(
        ref, form.get("prompt"), request_id=form.get("request_id") or None
    )
    return _asked(run.session_id, run.id)


def _asked(session_id: str | None, run_id: str) -> Done:
    return Done(f"/sessions/{quote(session_id or '')}", "", fragment=f"prompt-{run_id}")


async def start(ref: str, form: Form) -> Done:
    """Ask an agent in a new session: a worker runs it."""
    run = await api.sessions.start(
        form.get("prompt"),
        agent=form.get("agent") or DEFAULT_AGENT,
        request_id=form.get("request_id") or None,
    )
    return _asked(run.session_id, run.id)


ROUTES = (
    Page("/sessions", index),
    Page("/sessions/{ref:path}", show, live=True),
)
ACTIONS = (
    PageAction("/sessions", start, index, ("prompt", "agent"), uses_prefect=True),
    PageAction("/sessions/{ref:path}/reply", reply, show, ("prompt",), uses_prefect=True),
)
