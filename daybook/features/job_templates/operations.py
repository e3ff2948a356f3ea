"""Operations on templates: list them, show the job that answers give, and add it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from daybook import api
from daybook.agents import kinds
from daybook.features.job_templates import library
from daybook.features.job_templates.library import Question, Template
from daybook.files.documents import to_yaml
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.jobs.views import ChangedJob
from daybook.policies.policy import matches


class TemplateInfo(BaseModel, frozen=True):
    """A template. ``questions`` maps the name of each question to the question."""

    name: str
    title: str
    does: str
    tools: tuple[str, ...]
    questions: dict[str, Question]


class TemplateJob(BaseModel, frozen=True):
    """The job that answers give, before it is added.

    ``job`` has its fields, and ``file`` is the jobs file with it. ``missing_tools`` are the tools
    that the job needs and its agent, a model, does not have. ``note`` is a hint about an agent of
    another kind, or "".
    """

    job: dict[str, Any]
    file: str
    agent: str
    missing_tools: tuple[str, ...]
    note: str = ""


class AddedJob(BaseModel, frozen=True):
    """A job that was added from a template. ``added_tools`` are those that its agent has got."""

    job: ChangedJob
    added_tools: tuple[str, ...]


async def list_templates() -> list[TemplateInfo]:
    """Return all templates, sorted by name. Raise `InvalidInput` for one that cannot be read."""
    return [_info(each) for each in library.templates().values()]


async def prepare(
    name: str, answers: Mapping[str, str], *, agent: str = DEFAULT_AGENT, job: str = ""
) -> TemplateJob:
    """Return the job that the template ``name`` gives. Store nothing.

    ``agent`` answers it, and ``job`` is its name, by default that of the template. Raise
    `UnknownName` for an unknown template, question or agent, `InvalidInput` for an answer, and the
    errors of an unreachable Prefect.
    """
    template = library.template(name)
    fields = template.fill(answers) | {"agent": agent}
    if job:
        fields["name"] = job
    known = await api.agents.show(agent)
    tools = known.settings.get("tools", [])
    missing = tuple(
        each
        for each in template.tools
        if f"{each}.*" not in tools and not any(matches(each, entry) for entry in tools)
    )
    is_model = known.kind == kinds.MODEL.word
    return TemplateJob(
        job=fields,
        file=to_yaml({"jobs": [fields]}),
        agent=agent,
        missing_tools=missing if is_model else (),
        note=_note(known.kind, agent, missing) if missing and not is_model else "",
    )


async def add(
    name: str, answers: Mapping[str, str], *, agent: str = DEFAULT_AGENT, job: str = ""
) -> AddedJob:
    """Add the job of `prepare`, and give its agent the tools that it lacks.

    Raise the errors of `prepare` and of `daybook.api.jobs.add`. After an error of the latter, the
    agent has the tools.
    """
    prepared = await prepare(name, answers, agent=agent, job=job)
    if prepared.missing_tools:
        known = await api.agents.show(agent)
        tools = [*known.settings.get("tools", []), *prepared.missing_tools]
        await api.agents.edit(agent, {"tools": tools})
    added = await api.jobs.add(prepared.job)
    return AddedJob(job=added, added_tools=prepared.missing_tools)


def _note(kind: str, agent: str, tools: tuple[str, ...]) -> str:
    if kind == kinds.OFFLINE.word:
        return f"the agent {agent} is offline and reads nothing; choose a model: daybook agents add"
    return f"the agent {agent} is a program, which needs tools of its own for: {', '.join(tools)}"


def _info(template: Template) -> TemplateInfo:
    return TemplateInfo(**template.model_dump(exclude={"job"}))
