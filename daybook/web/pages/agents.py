"""Agents with the runs and the cost of 30 days, and the form that adds one.

The list has those that are stored, that jobs name, or that have answered.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.ledger.states import FAILURES, Status
from daybook.web.pages.actions import Action, Done
from daybook.web.pages.fields import Field, fields_of, text_of
from daybook.web.pages.forms import Form, typed
from daybook.web.pages.site import Page, Site

REPLACE_HELP = "Its settings are not kept, and its key, if it has one, is deleted."


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
    found = {name: Agent(name) for name in await api.agents.stored_names()}
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


async def new(site: Site, request: Request) -> Response:
    """Show the form of a new agent."""
    form = typed(request)
    kind = _kind(form.get("kind") or request.query_params.get("kind", ""))
    fields, defaults = _fields(kind), _defaults(kind)
    return site.render(
        request,
        "agent_form.html",
        kind=kind,
        kinds=api.agents.KINDS,
        first=[each for each in fields if each.name in _first(kind)],
        more=[each for each in fields if each.name not in _first(kind)],
        name=Field("name", "Name", "", "line"),
        replace=Field("replace", "Replace the agent with this name", REPLACE_HELP, "switch"),
        values={
            each.name: each.read(form) if form.has(each.name) else defaults[each.name]
            for each in fields
        },
        defaults=defaults,
        placeholders={
            name: text_of(field.examples[0]).split("\n")[0]
            for name, field in api.agents.settings_of(kind).items()
            if field.examples
        },
    )


def _kind(name: str) -> str:
    return name if name in api.agents.KINDS else api.agents.KINDS[0]


def _fields(kind: str) -> list[Field]:
    return fields_of(api.agents.settings_of(kind))


def _first(kind: str) -> list[str]:
    settings = api.agents.settings_of(kind)
    return [name for name, field in settings.items() if field.is_required()] + ["base_url"]


def _defaults(kind: str) -> dict[str, str]:
    settings = api.agents.settings_of(kind)
    return {
        each.name: ""
        if settings[each.name].is_required()
        else each.show(settings[each.name].get_default(call_default_factory=True))
        for each in _fields(kind)
    }


async def add(ref: str, form: Form) -> Done:
    """Add an agent; its key, if it needs one, is not part of the form."""
    kind = _kind(form.get("kind"))
    defaults, given = _defaults(kind), dict[str, object]()
    for each in _fields(kind):
        text = each.read(form) if form.has(each.name) else defaults[each.name]
        if text.strip() != defaults[each.name].strip():
            given[each.name] = each.value(text)
    replace = "true" in form.all("replace")
    added = await api.agents.add(form.get("name").strip(), kind, given, replace=replace)
    return Done("/agents", "agent-added", notes=added.notes)


_ALL = ("name", *{each.name: None for kind in api.agents.KINDS for each in _fields(kind)})

ROUTES = (Page("/agents", index), Page("/agents/new", new))
ACTIONS = (Action("/agents/new", add, new, _ALL, uses_prefect=True),)
