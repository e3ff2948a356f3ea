"""The pages of agents: the list, with runs and cost of 30 days, and forms to change agents.

The list has the agents that are stored, that a job names, or that a run of 30 days has used. The
list comes from the ledger. The form of a stored agent shows the settings that Prefect stores.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.api.agents import AgentDetails
from daybook.errors import ChangedMeanwhile, InvalidInput, NotFound, UnknownName
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.jobs.views import FieldChange
from daybook.ledger.states import FAILURES, Status
from daybook.short_text import clip
from daybook.web.login import admitted
from daybook.web.pages.actions import Done, PageAction, load_prefect
from daybook.web.pages.edits import SHOWN, SubmittedEdit, digests
from daybook.web.pages.fields import Field, fields_of, text_of
from daybook.web.pages.forms import Form, typed
from daybook.web.pages.site import OnlyShown, Page, Site

MAX_ANSWER_CHARACTERS = 2_000
PROMPT_HELP = (
    "It gets this prompt outside of any job: a model without its tools, a program with its own. "
    "Wait for its answer."
)
REPLACE_HELP = "Its settings are not kept, and its key, if it has one, is deleted."


@dataclass
class AgentSummary:
    """An agent with the number of jobs that name it, and its runs of the last 30 days.

    ``cost_usd`` is None if no cost is known.
    """

    name: str
    is_stored: bool = False
    jobs: int = 0
    runs: int = 0
    succeeded: int = 0
    failed: int = 0
    cost_usd: float | None = None
    tokens: int = 0
    models: set[str] = field(default_factory=set)


async def index(site: Site, request: Request) -> Response:
    """List the agents."""
    found = {name: AgentSummary(name, is_stored=True) for name in await api.agents.stored_names()}
    for name, count in (await api.job_pages.jobs_by_agent()).items():
        found.setdefault(name, AgentSummary(name)).jobs = count
    for total in await site.totals():
        if total.agent:
            agent = found.setdefault(total.agent, AgentSummary(total.agent))
            agent.runs += total.runs
            agent.succeeded += total.runs if total.status == Status.SUCCEEDED else 0
            agent.failed += total.runs if total.status in FAILURES else 0
            if total.priced:
                agent.cost_usd = (agent.cost_usd or 0.0) + total.cost_usd
            agent.tokens += total.input_tokens + total.output_tokens
            agent.models |= {total.model} - {""}
    agents = sorted(found.values(), key=lambda each: (-each.jobs, -each.runs, each.name))
    return site.render(request, "agents.html", agents=agents)


async def new(site: Site, request: Request) -> Response:
    """Show the form of a new agent."""
    form = typed(request)
    kind = _kind(form.get("kind") or request.query_params.get("kind", ""))
    defaults = _defaults(kind)
    values = {
        each.name: each.read(form) if form.has(each.name) else defaults[each.name]
        for each in _fields(kind)
    }
    return site.render(
        request,
        "agent_form.html",
        **_shared(kind, "/agents/new"),
        agent=None,
        name=Field("name", "Name", "", "line"),
        replace=Field("replace", "Replace the agent with this name", REPLACE_HELP, "switch"),
        values=values,
    )


async def found(site: Site, request: Request) -> Response:
    """Show a form with the agents that this machine has. Nothing is asked of them."""
    if admitted(request).session.viewer:
        raise OnlyShown
    await load_prefect()
    return site.render(
        request,
        "agent_found.html",
        offer=await api.agents.offer(),
        name=Field("name", "Name", "", "line"),
    )


def _shared(kind: str, here: str) -> dict[str, Any]:
    """Return the values that both forms need for a ``kind``. ``here`` is the form's own path."""
    settings, fields = api.agents.settings_of(kind), _fields(kind)
    first = [name for name, field in settings.items() if field.is_required()] + ["base_url"]
    return {
        "kind": kind,
        "here": here,
        "first": [each for each in fields if each.name in first],
        "more": [each for each in fields if each.name not in first],
        "defaults": _defaults(kind),
        "placeholders": {
            name: text_of(field.examples[0]).split("\n")[0]
            for name, field in settings.items()
            if field.examples
        },
    }


async def show_edit(site: Site, request: Request) -> Response:
    """Show the form that edits an agent. After a mistake or another user's edit, show it again."""
    agent = await _stored(request.path_params["ref"])
    form, values = typed(request), _texts(agent)
    shown, meanwhile = digests(values), list[tuple[FieldChange, bool]]()
    if form.has(SHOWN):
        edit = SubmittedEdit(_fields(agent.kind), values, form)
        values, meanwhile = edit.texts(), edit.changed_meanwhile()
        shown = shown if meanwhile else form.get(SHOWN)
    fields = [each.name for each in _fields(agent.kind)]
    return site.render(
        request,
        "agent_form.html",
        **_shared(agent.kind, _address(agent)),
        agent=agent,
        values=values,
        shown=shown,
        meanwhile=meanwhile,
        prompt=Field("prompt", "Prompt", PROMPT_HELP, "text"),
        hidden=[name for name, value in agent.settings.items() if value and name not in fields],
    )


async def _stored(ref: str) -> AgentDetails:
    await load_prefect()
    try:
        return await api.agents.show(ref)
    except UnknownName as error:
        raise NotFound("agent", ref, known=error.known) from None


def _texts(agent: AgentDetails) -> dict[str, str]:
    """Return the texts of the form that shows an agent."""
    settings = _defaults(agent.kind) | agent.settings
    return {each.name: each.show(settings[each.name]) for each in _fields(agent.kind)}


def _address(agent: AgentDetails) -> str:
    """Return the path of the agent's form. The type in it distinguishes agents of the same name."""
    return f"/agents/{agent.type}/{agent.name}/edit"


def _kind(name: str) -> str:
    return name if name in api.agents.KINDS else api.agents.KINDS[0]


def _fields(kind: str) -> list[Field]:
    return fields_of(api.agents.settings_of(kind))


def _defaults(kind: str) -> dict[str, str]:
    settings = api.agents.settings_of(kind)
    return {
        each.name: ""
        if settings[each.name].is_required()
        else each.show(settings[each.name].get_default(call_default_factory=True))
        for each in _fields(kind)
    }


async def add(ref: str, form: Form) -> Done:
    """Add an agent. The form does not contain the agent's key."""
    kind = _kind(form.get("kind"))
    defaults, given = _defaults(kind), dict[str, object]()
    for each in _fields(kind):
        text = each.read(form) if form.has(each.name) else defaults[each.name]
        if text.strip() != defaults[each.name].strip():
            given[each.name] = each.value(text)
    replace = "true" in form.all("replace")
    added = await api.agents.add(form.get("name").strip(), kind, given, replace=replace)
    return Done("/agents", "agent-added", notes=added.notes)


async def add_found(ref: str, form: Form) -> Done:
    """Add an agent that this machine has. It may replace an offline agent `default`."""
    offer = await api.agents.offer()
    chosen = [each for each in offer.found.candidates if str(each) == form.get("agent")]
    if not chosen:
        raise InvalidInput("agent", "is not on this machine any more", "choose another one")
    (agent, *_), name = chosen, form.get("name").strip()
    replace = name == DEFAULT_AGENT and offer.is_default_free
    added = await api.agents.add(name, agent.kind, agent.settings, replace=replace)
    notes = [agent.hint, *added.notes]
    return Done(_address(added), "agent-added", notes=list(filter(None, notes)))


async def ask(ref: str, form: Form) -> Done:
    """Ask an agent once, outside of any job; a model gets no tools."""
    agent = await _stored(ref)
    if agent.kind == "model":  # this imports its SDK, which takes seconds
        await asyncio.to_thread(import_module, "daybook.agents.model_steps")
    prompt = form.get("prompt").strip() or api.agents.TEST_PROMPT
    answer = await api.agents.test(f"{agent.type}/{agent.name}", prompt)
    lines = clip(answer.output, MAX_ANSWER_CHARACTERS).splitlines()
    return Done(_address(agent), "agent-answered", notes=list(filter(str.strip, lines)))


async def edit(ref: str, form: Form) -> Done:
    """Store the settings that the user changed.

    Raise `ChangedMeanwhile` if another user has changed the agent since the form was shown, and
    `InvalidInput` for a form without its hidden fields.
    """
    agent = await _stored(ref)
    edit = SubmittedEdit(_fields(agent.kind), _texts(agent), form)
    if edit.changed_meanwhile():
        raise ChangedMeanwhile("agent", agent.name)
    if not (changes := edit.changes()):
        return Done("/agents", "unchanged")
    edited = await api.agents.edit(f"{agent.type}/{agent.name}", changes)
    return Done("/agents", "agent-edited", notes=edited.notes)


async def remove(ref: str, form: Form) -> Done:
    """Remove an agent that no job uses."""
    await api.agents.remove(ref)
    return Done("/agents", "agent-removed")


_ALL = ("name", *{each.name: None for kind in api.agents.KINDS for each in _fields(kind)})

ROUTES = (
    Page("/agents", index),
    Page("/agents/new", new),
    Page("/agents/found", found),
    Page("/agents/{ref:path}/edit", show_edit),
)
ACTIONS = (
    PageAction("/agents/new", add, new, _ALL, uses_prefect=True),
    PageAction("/agents/found", add_found, found, ("agent", "name"), uses_prefect=True),
    PageAction("/agents/{ref:path}/ask", ask, show_edit, ("prompt",), uses_prefect=True),
    PageAction("/agents/{ref:path}/edit", edit, show_edit, _ALL, uses_prefect=True),
    PageAction("/agents/{ref:path}/remove", remove, show_edit, uses_prefect=True),
)
