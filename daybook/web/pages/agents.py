"""The pages of agents: the list, with runs and cost of 30 days, and the forms of agents.

The list has the agents that are stored, that a job names, or that a run of 30 days has used. The
list comes from the ledger. The form of a stored agent shows the settings that Prefect stores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.api.agents import AgentDetails
from daybook.errors import InvalidInput
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.ledger.states import FAILURES, Status
from daybook.short_text import clip
from daybook.web.pages.actions import Done, PageAction, load_prefect
from daybook.web.pages.documents import (
    START,
    DocumentPages,
    FormDocument,
    Listed,
    Saved,
    Variant,
    only_operator,
)
from daybook.web.pages.fields import Field
from daybook.web.pages.forms import Form
from daybook.web.pages.site import Page, Site

MAX_ANSWER_CHARACTERS = 2_000
PROMPT_HELP = (
    "It gets this prompt outside of any job: a model without its tools, a program with its own. "
    "Wait for its answer."
)
KEY_NOTE = "A local model at a base URL needs no key. A stored key goes to no other address."


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


async def found(site: Site, request: Request) -> Response:
    """Show a form with the agents that this machine has. Nothing is asked of them."""
    only_operator(request)
    await load_prefect()
    return site.render(
        request,
        "agent_found.html",
        kind=AGENTS,
        variants=AGENTS.variants(),
        offer=await api.agents.offer(),
        name=Field("name", "Name", "", "line"),
    )


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
    there = START if form.get("from") == START else AGENTS.address(_ref(added))
    return Done(there, "document-added", notes=list(filter(None, notes)))


def _ref(agent: AgentDetails) -> str:
    """Return the reference of an agent. Its type distinguishes agents of the same name."""
    return f"{agent.type}/{agent.name}"


_OFFERED = (
    ("model", "model", "A model", ""),
    ("command", "command", "A program", ""),
    *((each, "command", each.replace("-", " ").title(), each) for each in api.agents.PRESETS),
)
"""Word, kind, label and preset of the forms of a new agent."""


class AgentPages(DocumentPages):
    """The list and the forms of agents."""

    path = "/agents"
    title = "Agents"
    noun = "agent"
    about = "What answers the prompts of jobs: models, and programs of this machine."
    removal = (
        "Its settings and its key, if it has one, are deleted. The runs that it answered stay."
    )
    test_label = "Ask it something"
    test_fields = (Field("prompt", "Prompt", PROMPT_HELP, "text"),)
    can_replace = True
    tabs = (("/agents/found", "On this machine"),)

    async def index(self, site: Site, request: Request) -> Response:
        """List the agents."""
        found = {
            name: AgentSummary(name, is_stored=True) for name in await api.agents.stored_names()
        }
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

    def variants(self) -> Sequence[Variant]:
        return [self._of_kind(kind, word, label, preset) for word, kind, label, preset in _OFFERED]

    @staticmethod
    def _of_kind(kind: str, word: str, label: str = "", preset: str = "") -> Variant:
        start = api.agents.preset_settings(preset) if preset else {}
        first = ("base_url",) if kind == "model" else ("command",)
        note = KEY_NOTE if kind == "model" else ""
        settings = api.agents.settings_of(kind)
        return Variant(word, label, settings, first, start, note, preset, kind)

    async def entries(self) -> Sequence[Listed]:
        return [
            Listed(each.name, users=each.jobs, problem=each.problem, ref=_ref(each))
            for each in await api.agents.list_agents()
        ]

    async def read(self, ref: str) -> FormDocument:
        agent = await api.agents.show(ref)
        return FormDocument(
            agent.name,
            _ref(agent),
            self._of_kind(agent.kind, agent.kind),
            agent.settings,
            [each for each in ("api_key",) if agent.settings.get(each)],
            agent.problem,
            agent.jobs,
        )

    async def add(self, name: str, variant: Variant, given: dict[str, Any], form: Form) -> Saved:
        replace = "true" in form.all("replace")
        if name == DEFAULT_AGENT and not replace:
            replace = await api.agents.is_default_free()
        added = await api.agents.add(name, variant.kind, given, replace=replace)
        return Saved(_ref(added), added.notes)

    async def edit(self, document: FormDocument, changes: dict[str, Any]) -> Saved:
        edited = await api.agents.edit(document.ref, changes)
        return Saved(document.ref, edited.notes)

    async def remove(self, ref: str) -> None:
        await api.agents.remove(ref)

    async def test(self, document: FormDocument, form: Form) -> list[str]:
        """Ask the agent once, outside of any job; a model gets no tools."""
        if document.variant.kind == "model":  # this imports its SDK, which takes seconds
            await asyncio.to_thread(import_module, "daybook.agents.model_steps")
        prompt = form.get("prompt").strip() or api.agents.TEST_PROMPT
        answer = await api.agents.test(document.ref, prompt)
        return list(filter(str.strip, clip(answer.output, MAX_ANSWER_CHARACTERS).splitlines()))


AGENTS = AgentPages()
DOCUMENTS = (AGENTS,)
ROUTES = (Page("/agents/found", found),)
ACTIONS = (
    PageAction("/agents/found", add_found, found, ("agent", "name"), uses_prefect=True, once=True),
)
