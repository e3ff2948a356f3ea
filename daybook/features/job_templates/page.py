"""The pages of templates: the list, and the form of one template, which shows the job and adds it.

::

    GET  …/NAME           the form with the template's questions
    POST …/NAME/preview   the job's file, its due times, and what its agent gets; nothing is stored
    POST …/NAME           adds the job that was shown, runs it, and shows the run
"""

from __future__ import annotations

from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.errors import DaybookError, NotFound, UnknownName
from daybook.features.job_templates import library, operations
from daybook.features.job_templates.library import Template
from daybook.features.job_templates.operations import TemplateJob
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.schedules.due_times import DueTimes
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.fields import Field
from daybook.web.pages.forms import Form, typed
from daybook.web.pages.site import Page, Site

PREVIEWED = 3
AGENT_HELP = "It answers the job, and gets the tools that the job needs."


async def index(site: Site, request: Request) -> Response:
    """List the templates."""
    return site.render(request, "templates.html", templates=await operations.list_templates())


async def show(site: Site, request: Request) -> Response:
    """Show the form of a template. After a preview, or an error of `add`, also show the job."""
    template = _template(request.path_params["ref"])
    form = typed(request)
    prepared: TemplateJob | None = None
    due: DueTimes | None = None
    if form.has("agent"):
        with suppress(DaybookError):  # the form shows the mistake
            prepared = await _prepared(template.name, form)
            due = await api.due.of_changes(prepared.job, count=PREVIEWED)
    defaults = {name: each.default for name, each in template.questions.items()}
    defaults |= {"agent": DEFAULT_AGENT, "name": str(template.job.get("name", template.name))}
    return site.render(
        request,
        "template.html",
        chosen=template,
        questions=[Field(name, each.ask, "", "line") for name, each in template.questions.items()],
        others=[Field("agent", "Agent", AGENT_HELP, "line"), Field("name", "Name", "", "line")],
        values={name: form.get(name, default) for name, default in defaults.items()},
        prepared=prepared,
        due=due,
        agents=await api.agents.stored_names(),
    )


def _template(name: str) -> Template:
    try:
        return library.template(name)
    except UnknownName as error:
        raise NotFound("template", name, known=error.known) from None


async def _prepared(name: str, form: Form) -> TemplateJob:
    answers, agent, job = _read(name, form)
    return await operations.prepare(name, answers, agent=agent, job=job)


def _read(name: str, form: Form) -> tuple[dict[str, str], str, str]:
    """Return the answers, the agent and the name of the job."""
    answers = {each: form.get(each) for each in _template(name).questions}
    return answers, form.get("agent").strip() or DEFAULT_AGENT, form.get("name").strip()


async def preview(ref: str, form: Form) -> None:
    """Check the answers. Store nothing."""
    await _prepared(ref, form)


async def add(ref: str, form: Form) -> Done:
    """Add the job and run it. A form that is sent twice (`request_id`) adds and runs one job."""
    answers, agent, job = _read(ref, form)
    key = form.get("request_id") or None
    added = await operations.add(ref, answers, agent=agent, job=job, idempotency_key=key)
    run = await api.runs.run(added.job.id, request_id=key)
    notes = [each for each in added.notes if each != api.jobs.PENDING_NOTE]
    if added.added_tools:
        notes.insert(0, f"The agent {agent} has the tools {', '.join(added.added_tools)} now.")
    return Done(f"/runs/{run.id}", "template-added", notes=notes)


MESSAGES = {"template-added": "The job was added. This is its first run."}

ROUTES = (Page("/jobs/new/templates", index), Page("/jobs/new/templates/{ref}", show))

ACTIONS = (
    PageAction("/jobs/new/templates/{ref}/preview", preview, show, fields=None, uses_prefect=True),
    PageAction("/jobs/new/templates/{ref}", add, show, fields=None, uses_prefect=True),
)
