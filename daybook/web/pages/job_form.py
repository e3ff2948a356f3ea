"""The form of a job, derived from the models of a job. It adds a job or edits one.

::

    GET  …/edit          the form, filled from the job; a digest of each field, and `updated_at`
    POST …/edit/preview  the next due times of the typed schedule; nothing is stored
    POST …/edit          the fields whose text has another digest ──► api.jobs.edit_job
                           the job was changed meanwhile ──► the form again: untouched fields have
                           the new values, and the changes are shown; nothing is stored

A field that the form cannot show, such as headers, is not part of the form. So an edit does not
change the field. Only such fields contain secrets.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from daybook import api, owners
from daybook.errors import InvalidInput
from daybook.jobs import actions
from daybook.jobs.model import FIELDS, Job, default_fields
from daybook.jobs.notify import Notify
from daybook.jobs.views import ChangedJob, FieldChange, ListedJob
from daybook.policies import policy as policies
from daybook.schedules import bounds
from daybook.schedules.due_times import DueTimes
from daybook.schedules.fields import ScheduleFields
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.edits import SHOWN, SubmittedEdit, digests, incomplete
from daybook.web.pages.fields import Field, fields_of
from daybook.web.pages.forms import Form, typed
from daybook.web.pages.site import Page, Site

PREVIEWED = 5
EXAMPLE = "every weekday at 9:00"
KINDS = {kind: kind.replace("-", " ").capitalize() for kind in actions.ACTIONS}
_WHEN = ("schedule", "timezone")
_BOUNDS = (*bounds.FIELDS, "stagger", "max_runs")
_FIRST = ("agent", "method", "body")
"""Optional fields of an action that the form shows first, with the required fields."""
_ALIASES = dict.fromkeys(ScheduleFields.model_fields, "schedule") | {"timezone": "timezone"}
"""Fields of the form, by names of fields in errors about the schedule.

The form has the schedule as one text.
"""


@dataclass(frozen=True)
class FieldGroup:
    """Fields of the form that are shown together, below a title. The first group has no title."""

    title: str
    fields: list[Field]

    def count_set(self, values: dict[str, str], defaults: dict[str, str]) -> int:
        """Return the number of fields that differ from their defaults."""
        return sum(values[each.name] != defaults[each.name] for each in self.fields)


def groups_of(kind: str) -> list[FieldGroup]:
    """Return the fields of the form for a job of ``kind``, in groups."""
    action = actions.ACTIONS[kind].model_fields
    first = [name for name, field in action.items() if field.is_required() or name in _FIRST]
    execution = [name for name in policies.FIELDS if name not in _BOUNDS]
    described = [name for name in Job.model_fields if name not in ("name", "kind", "enabled")]
    found = (
        FieldGroup("", fields_of(FIELDS, ("name", *_WHEN, *first))),
        FieldGroup(
            "More settings", fields_of(action, [name for name in action if name not in first])
        ),
        FieldGroup("Bounds of the schedule", fields_of(policies.FIELDS, _BOUNDS)),
        FieldGroup("Limits, retries and overlap", fields_of(policies.FIELDS, execution)),
        FieldGroup("Notifications", fields_of(Notify.model_fields)),
        FieldGroup("Description and tags", fields_of(Job.model_fields, described)),
    )
    return [each for each in found if each.fields]


def _fields(kind: str) -> list[Field]:
    return [each for group in groups_of(kind) for each in group.fields]


ALL_FIELDS = tuple({each.name: None for kind in actions.ACTIONS for each in _fields(kind)})


def defaults_of(kind: str) -> dict[str, str]:
    """Return the texts of a form for a new job."""
    given = default_fields(kind)
    return {each.name: each.show(given.get(each.name)) for each in _fields(kind)}


def texts_of(job: ListedJob) -> dict[str, str]:
    """Return the texts of the form that shows a job."""
    values = _values(job)
    return {each.name: each.show(values[each.name]) for each in _fields(job.kind)}


def hidden_of(job: ListedJob) -> list[str]:
    """Return the names of the fields of a job that have a value, but that the form cannot show."""
    defaults, shown = default_fields(job.kind), texts_of(job).keys()
    values = _values(job) | {"metadata": job.metadata}
    return [
        name
        for name, value in values.items()
        if name not in shown and value and value != defaults.get(name)
    ]


def _values(job: ListedJob) -> dict[str, Any]:
    return {
        "name": job.name,
        "schedule": job.schedule.to_text(),
        "timezone": job.schedule.timezone,
        "description": job.description,
        "tags": job.tags,
        **job.action.model_dump(mode="json"),
        **job.policy.model_dump(mode="json"),
        **job.notify.model_dump(mode="json"),
    }


class Submitted(SubmittedEdit):
    """A submitted form of a job.

    ``updated_at`` is the time of the last change that the form has shown. ``is_stale`` is true if
    the job was changed since then. The constructor raises `InvalidInput` for a form without its
    hidden fields.
    """

    def __init__(self, job: ListedJob, form: Form) -> None:
        super().__init__(_fields(job.kind), texts_of(job), form)
        self.updated_at = _instant(form.get("updated_at"))
        self.is_stale = self.updated_at != job.updated_at

    def changes(self) -> dict[str, object]:
        changed = super().changes()
        if "channel" in changed:  # a channel alone would clear the chat id
            changed.setdefault("chat_id", self.texts()["chat_id"])
        return changed


def _instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise incomplete() from None


async def new(site: Site, request: Request) -> Response:
    """Show the form of a new job. After a preview, the form shows the next due times."""
    form = typed(request)
    kind = _kind(form.get("kind") or request.query_params.get("kind", ""))
    defaults = defaults_of(kind)
    values = {
        each.name: each.read(form) if form.has(each.name) else defaults[each.name]
        for each in _fields(kind)
    }
    due = None
    if values["schedule"]:
        with suppress(InvalidInput):  # the form shows the mistake
            due = await _preview_of_new(form)
    return site.render(
        request,
        "job_form.html",
        **await _shared(request, kind, "/jobs/new"),
        job=None,
        values=values,
        due=due,
        placeholders={"name": "morning-brief", "schedule": EXAMPLE, "timezone": site.tz.key},
    )


async def _shared(request: Request, kind: str, here: str) -> dict[str, Any]:
    """Return the values that both forms need for a ``kind``. ``here`` is the form's own path."""
    return {
        "kind": kind,
        "kinds": KINDS,
        "groups": groups_of(kind),
        "defaults": defaults_of(kind),
        "here": here,
        "is_preview": "hx-request" in request.headers,
        "agents": await api.agents.stored_names(),
    }


def _kind(name: str) -> str:
    return name if name in actions.ACTIONS else next(iter(actions.ACTIONS))


def _changes_of_new(form: Form) -> dict[str, Any]:
    """Return the kind and the fields of a new job that differ from their defaults."""
    kind = _kind(form.get("kind"))
    defaults = defaults_of(kind)
    given = dict[str, Any](kind=kind)
    for each in _fields(kind):
        text = each.read(form) if form.has(each.name) else defaults[each.name]
        if text.strip() != defaults[each.name].strip():
            given[each.name] = each.value(text)
    return given


async def _preview_of_new(form: Form) -> DueTimes:
    given = {"schedule": "", **_changes_of_new(form)}
    return await api.due.of_changes(given, count=PREVIEWED)


async def preview_new(ref: str, form: Form) -> None:
    """Check the schedule of a new job. Store nothing."""
    await _preview_of_new(form)


async def add(ref: str, form: Form) -> Done:
    """Add a job. If the same form (`request_id`) is sent twice, it adds only one job."""
    given = _changes_of_new(form)
    if request_id := form.get("request_id"):
        given["idempotency_key"] = request_id
    added = await api.jobs.add(given)
    return Done(f"/jobs/{added.id}", "added", notes=_notes(added))


def _notes(changed: ChangedJob) -> list[str]:
    """Return the hints for the user, without the hint that the page of the job always shows."""
    return [each for each in changed.notes if each != api.jobs.PENDING_NOTE]


async def show_edit(site: Site, request: Request) -> Response:
    """Show the form that edits a job.

    After a mistake, a preview or another user's edit, show it again.
    """
    job = await _editable(request.path_params["ref"])
    form, values, due = typed(request), texts_of(job), None
    meanwhile = list[tuple[FieldChange, bool]]()
    shown, updated_at = digests(values), job.updated_at.isoformat()
    if form.has(SHOWN):
        submitted = Submitted(job, form)
        values = submitted.texts()
        if submitted.is_stale:
            meanwhile = submitted.changed_meanwhile()
        else:
            shown, updated_at = form.get(SHOWN), form.get("updated_at")
        with suppress(InvalidInput):  # the form shows the mistake
            due = await _preview(job, form)
    return site.render(
        request,
        "job_form.html",
        **await _shared(request, job.kind, f"/jobs/{job.id}/edit"),
        job=job,
        values=values,
        due=due or await api.due.of_job(job.id, count=PREVIEWED),
        placeholders={"schedule": EXAMPLE},
        shown=shown,
        updated_at=updated_at,
        hidden=hidden_of(job),
        meanwhile=meanwhile,
        is_stale=form.has(SHOWN) and submitted.is_stale,
        of_file=job.owner.removeprefix(owners.FILE_PREFIX) if owners.is_file(job.owner) else "",
        of_other="" if job.owner == owners.USER else job.owner,
    )


async def _editable(ref: str) -> ListedJob:
    job = await api.jobs.show(ref)
    if job.removed_at is not None:
        raise InvalidInput("job", f'"{job.name}" was removed', "add it again")
    return job


async def _preview(job: ListedJob, form: Form) -> DueTimes:
    return await api.due.of_changes(Submitted(job, form).changes(), job.id, count=PREVIEWED)


async def preview(ref: str, form: Form) -> None:
    """Check the schedule that was typed. Store nothing."""
    await _preview(await _editable(ref), form)


async def edit(ref: str, form: Form) -> Done:
    """Store the fields that the user changed.

    Raise `ChangedMeanwhile` if another user has changed the job since the form was shown. Raise
    `InvalidInput` for a removed job, for a form without its hidden fields, and for invalid fields.
    """
    job = await _editable(ref)
    submitted = Submitted(job, form)
    if not (changes := submitted.changes()):
        return Done(f"/jobs/{job.id}", "unchanged")
    edited = await api.jobs.edit_job(job.id, changes, base=submitted.updated_at)
    return Done(f"/jobs/{job.id}", "edited", edited.changes, _notes(edited))


ROUTES = (Page("/jobs/new", new), Page("/jobs/{ref}/edit", show_edit))
ACTIONS = (
    PageAction("/jobs/new", add, new, ALL_FIELDS, _ALIASES, uses_prefect=True),
    PageAction("/jobs/new/preview", preview_new, new, ALL_FIELDS, _ALIASES),
    PageAction("/jobs/{ref}/edit", edit, show_edit, ALL_FIELDS, _ALIASES, uses_prefect=True),
    PageAction("/jobs/{ref}/edit/preview", preview, show_edit, ALL_FIELDS, _ALIASES),
)
