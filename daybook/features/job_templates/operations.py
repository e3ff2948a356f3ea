"""Operations on templates: list them, show the job that answers give, and add it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from daybook import api, owners, settings
from daybook.agents import kinds
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.views import RunDetails
from daybook.errors import InvalidInput
from daybook.features.job_templates import library
from daybook.features.job_templates.library import Template, TemplateQuestion
from daybook.files.documents import to_yaml
from daybook.jobs import store
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.jobs.model import new_job
from daybook.jobs.views import ChangedJob
from daybook.ledger.engine import reading
from daybook.names import free_name
from daybook.policies.policy import matches


class TemplateInfo(BaseModel, frozen=True):
    """A template. ``questions`` maps the name of each question to the question.

    If its file is no template, ``problem`` is the reason, and the other fields are empty.
    """

    name: str
    title: str = ""
    does: str = ""
    tools: tuple[str, ...] = ()
    questions: dict[str, TemplateQuestion] = {}
    problem: str = ""


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
    """A job that was added from a template. ``added_tools`` are those that its agent has got.

    ``run`` is its first run; None if it was not run. ``notes`` are hints for the user.
    """

    job: ChangedJob
    added_tools: tuple[str, ...]
    notes: tuple[str, ...]
    run: RunDetails | None = None


async def list_templates() -> list[TemplateInfo]:
    """Return all templates, sorted by name."""
    return [_info(name, each) for name, each in library.templates().items()]


async def prepare(
    name: str, answers: Mapping[str, str], *, agent: str = DEFAULT_AGENT, job: str = ""
) -> TemplateJob:
    """Return the job that the template ``name`` gives. Store nothing.

    ``agent`` answers it, and ``job`` is its name, by default that of the template. Raise
    `UnknownName` for an unknown template, question or agent, `InvalidInput` for an answer, also if
    the job cannot have it, and the errors of an unreachable Prefect.
    """
    template = library.template(name)
    fields = template.fill(answers) | {"agent": agent}
    if job:
        fields["name"] = job
    try:
        new_job(now=SYSTEM_CLOCK.now(), default_timezone=settings.load().timezone, **fields)
    except InvalidInput as error:
        if not (question := template.question_of(error.field)):
            raise
        raise InvalidInput(question, error.problem, error.hint) from None
    known = await api.agents.show(agent)
    tools = known.settings.get("tools", [])
    missing = tuple(
        each
        for each in template.tools
        if not any(matches(each, entry) or entry.startswith(f"{each}.") for entry in tools)
    )
    is_model = known.kind == kinds.MODEL.word
    return TemplateJob(
        job=fields,
        file=to_yaml({"jobs": [fields]}),
        agent=agent,
        missing_tools=missing if is_model else (),
        note="" if is_model else _note(known.kind, agent, missing),
    )


async def add(
    name: str,
    answers: Mapping[str, str],
    *,
    agent: str = DEFAULT_AGENT,
    job: str = "",
    idempotency_key: str | None = None,
) -> AddedJob:
    """Add the job of `prepare`, and give its agent the tools that it lacks.

    A second call with the same ``idempotency_key`` adds no second job (`daybook.api.jobs.add`).
    Raise the errors of `prepare` and of `daybook.api.jobs.add`. The agent gets the tools first, so
    that no run lacks them. A name that is taken is refused before that; if the job is refused for
    another reason, the agent keeps the tools.
    """
    prepared = await prepare(name, answers, agent=agent, job=job)
    if prepared.missing_tools:  # a repeated call lacks none, and `api.jobs.add` recognises it
        await _check_name(prepared.job["name"])
    await _add_skills(name)
    if prepared.missing_tools:
        known = await api.agents.show(agent)
        tools = [*known.settings.get("tools", []), *prepared.missing_tools]
        await api.agents.edit(agent, {"tools": tools})
    added = await api.jobs.add(prepared.job | {"idempotency_key": idempotency_key})
    notes = tuple(filter(None, (prepared.note, *added.notes)))
    return AddedJob(job=added, added_tools=prepared.missing_tools, notes=notes)


async def _check_name(name: str) -> None:
    owner = owners.current_actor().owner
    async with reading() as session:
        taken = await store.taken_names(session, owner)
    if name in taken:
        raise InvalidInput("name", f'"{name}" is taken', f'"{free_name(name, taken)}" is free')


async def _add_skills(name: str) -> None:
    """Add the skills that a template contains; a newer version replaces that of the same folder."""
    if contained := library.skills(name):
        from daybook.api.client import Client

        client = Client()
        sources = {each.name: each.source for each in await client.skills.list()}
        for skill, folder in contained.items():
            is_own = sources.get(skill) == str(folder)
            await client.skills.add(str(folder), replace=is_own)


def _note(kind: str, agent: str, tools: tuple[str, ...]) -> str:
    if kind == kinds.OFFLINE.word:
        return f"the agent {agent} is offline and reads nothing; choose a model: daybook agents add"
    if not tools:
        return ""
    return f"the agent {agent} is a program, which needs tools of its own for: {', '.join(tools)}"


def _info(name: str, found: Template | InvalidInput) -> TemplateInfo:
    if isinstance(found, InvalidInput):
        return TemplateInfo(name=name, problem=str(found))
    return TemplateInfo(**found.model_dump(exclude={"job"}))
