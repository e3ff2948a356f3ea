"""The pages of this Daybook: maintenance windows, tokens, health, configuration, jobs files."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, SecretStr
from starlette.requests import Request
from starlette.responses import Response

from daybook import api, markers, owners, settings
from daybook.api.files import ApplyReport
from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis import doctor
from daybook.diagnosis.incidents import Incident
from daybook.errors import NotFound
from daybook.files.jobs_file import FileText
from daybook.finding import Finding, Severity
from daybook.web.pages import today
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.documents import (
    MACHINE,
    DocumentPages,
    FormDocument,
    Listed,
    Saved,
    Variant,
    only_operator,
)
from daybook.web.pages.forms import Form, typed
from daybook.web.pages.site import Page, SettingsLink, Site

_WORD = re.compile(r"[^\s\"]+")
_LOGIN = re.compile(r"://[^:/@]*:")
_PASSWORD_PARAMETER = re.compile(r"([?&]password=)[^&]+")
MAX_PLANNED = 200
"""Maximum number of changes of a jobs file that the preview lists."""


class WindowForm(BaseModel):
    """A new maintenance window."""

    begin: str = Field(default="", title="From", description="22:00, in 2h; empty: now.")
    until: str = Field(default="", title="Until", description="23:30, tomorrow at 6:00.")
    duration: str = Field(default="", title="Or for", description="Instead of the end: 90m, 2h.")
    note: str = Field(default="", title="Note", description="What is done.")


class WindowPages(DocumentPages):
    """The pages of maintenance windows."""

    path = "/settings/maintenance"
    title = "Maintenance windows"
    noun = "maintenance window"
    about = "Times in which no job starts by itself. You can still run jobs by hand."
    columns = ("From", "Until", "Note")
    removal = "Jobs start by themselves from now on. What was due in the window may run now."
    group = MACHINE
    has_users = False
    has_name = False

    def variants(self) -> Sequence[Variant]:
        return [Variant("", "", WindowForm.model_fields, tuple(WindowForm.model_fields))]

    async def entries(self) -> Sequence[Listed]:
        return [
            Listed(
                "in progress" if each.active else "planned",
                (each.begin, each.end, each.note),
                ref=each.id,
            )
            for each in await api.maintenance.list_windows()
        ]

    async def read(self, ref: str) -> FormDocument:
        for each in await self.entries():
            if each.ref == ref:
                facts = list(zip(self.columns, each.cells, strict=True))
                return FormDocument(
                    f"Window, {each.name}", ref, self.variants()[0], {}, facts=facts, editable=False
                )
        raise NotFound(self.noun, ref)

    async def add(self, name: str, variant: Variant, given: dict[str, Any], form: Form) -> Saved:
        window = await api.maintenance.plan(
            given.get("until"),
            begin=given.get("begin"),
            duration=given.get("duration"),
            note=given.get("note", ""),
        )
        return Saved(window.id)

    async def remove(self, ref: str) -> None:
        await api.maintenance.remove(ref)


class TokenForm(BaseModel):
    """A new token."""

    purpose: Literal["link", "agent"] = Field(
        default="link",
        title="For",
        description="A link shows these pages to others, and changes nothing. An agent is an MCP "
        "client over HTTP.",
    )
    owner: str = Field(
        default="", title="Owner", description="Only for an agent: the owner of its jobs."
    )


class TokenPages(DocumentPages):
    """The pages of the tokens of shared links and of MCP clients."""

    path = "/settings/tokens"
    title = "Shared links and tokens"
    noun = "token"
    about = "Links that show these pages to others, and tokens of MCP clients over HTTP."
    columns = ("For", "Created", "Last used")
    removal = "It stops working at once."
    group = MACHINE
    has_users = False

    def variants(self) -> Sequence[Variant]:
        return [Variant("", "", TokenForm.model_fields, tuple(TokenForm.model_fields))]

    async def entries(self) -> Sequence[Listed]:
        return [
            Listed(
                each.name,
                (
                    "a link" if each.owner == owners.VIEWER else each.owner,
                    each.created_at,
                    each.used_at or "never",
                ),
                ref=each.id,
            )
            for each in await api.tokens.list_tokens()
        ]

    async def read(self, ref: str) -> FormDocument:
        for each in await self.entries():
            if each.ref == ref:
                facts = list(zip(self.columns, each.cells, strict=True))
                return FormDocument(
                    each.name, ref, self.variants()[0], {}, facts=facts, editable=False
                )
        raise NotFound(self.noun, ref)

    async def add(self, name: str, variant: Variant, given: dict[str, Any], form: Form) -> Saved:
        if given.get("purpose", "link") == "link":
            link = await api.tokens.share(name)
            return Saved(link.id, secret=link.url)
        token = await api.tokens.add(given.get("owner", ""), name or None)
        return Saved(token.id, secret=token.token)

    async def remove(self, ref: str) -> None:
        await api.tokens.remove(ref)


# --- health


class _Health:
    """The findings of the last check of this server, and when it was; None before the first one."""

    def __init__(self) -> None:
        self.found: tuple[datetime, list[Finding]] | None = None
        self._lock = asyncio.Lock()

    async def check(self) -> None:
        started = SYSTEM_CLOCK.now()
        async with self._lock:
            if (
                self.found is None or self.found[0] < started
            ):  # no other request has checked meanwhile
                self.found = SYSTEM_CLOCK.now(), await doctor.doctor()


_health = _Health()
_ORDER = (Severity.PROBLEM, Severity.WARNING, Severity.OK, Severity.SKIPPED)


async def health(site: Site, request: Request) -> Response:
    """Show the findings of the last check, those that need a person first."""
    only_operator(request)
    at, found = _health.found or (None, [])
    found = sorted(found, key=lambda each: _ORDER.index(each.severity))
    wrong = [each for each in found if each.severity in _ORDER[:2]]
    return site.render(
        request,
        "health.html",
        checked_at=at,
        needs=[today.need_of(Incident(each), site.pages_of_features) for each in wrong],
        others=[each for each in found if each not in wrong],
    )


async def check(ref: str, form: Form) -> Done:
    """Run the checks of `daybook doctor`."""
    await _health.check()
    return Done("/settings/health", "checked")


async def _state() -> str:
    """Return the number of findings of the last check that need a person, in words."""
    if _health.found is None:
        return "not checked"
    wrong = sum(each.severity in _ORDER[:2] for each in _health.found[1])
    return f"{wrong} to look at" if wrong else "fine"


# --- configuration


@dataclass(frozen=True)
class SettingRow:
    """A setting: its value as text, and its line in `config.toml`.

    ``source`` is the variable or file with the value; "" for the default. If ``at_start``, a
    change needs a restart.
    """

    name: str
    value: str
    source: str
    description: str
    line: str
    at_start: bool


async def configuration(site: Site, request: Request) -> Response:
    """Show the settings, and the line of `config.toml` for each."""
    only_operator(request)
    loaded = settings.load()
    rows = []
    for name, known in settings.all_settings().model_fields.items():
        if name == "home":
            continue
        value, default = getattr(loaded, name), known.get_default(call_default_factory=True)
        if isinstance(value, SecretStr):
            shown, example = "set" if value.get_secret_value() else "", '"…"'
        else:
            plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            example = json.dumps(plain, default=str, ensure_ascii=False)
            is_text = isinstance(plain, str | Path)
            shown = "" if plain in ("", None, {}, []) else str(plain) if is_text else example
        line = f"[{name}]" if isinstance(value, dict) else f"{name} = {example}"
        variable = f"DAYBOOK_{name.upper()}"
        source = variable if variable in os.environ else "" if value == default else "config.toml"
        at_start = markers.of(known).at_start or variable in os.environ
        rows.append(
            SettingRow(name, _hide(shown), source, known.description or "", _hide(line), at_start)
        )
    return site.render(request, "configuration.html", rows=rows, file=str(settings.config_file()))


def _hide(text: str) -> str:
    """Return a setting without the password of a URL."""
    return _WORD.sub(_hide_login, text)


def _hide_login(word: re.Match[str]) -> str:
    shown = _PASSWORD_PARAMETER.sub(r"\1…", word[0])
    end = max(shown.rfind("@"), 0)
    login = _LOGIN.search(shown, 0, end)
    return f"{shown[: login.end()]}…{shown[end:]}" if login else shown


# --- jobs files


async def show_apply(site: Site, request: Request) -> Response:
    """Show the form of a jobs file and, after the preview, the changes that it would make."""
    only_operator(request)
    form = typed(request)
    text, report = _text_of(form), None
    if text and not getattr(request.state, "mistake", None):
        report = await _apply(form, dry_run=True)
    return site.render(
        request,
        "apply.html",
        text=text,
        report=report,
        planned=report.changes[:MAX_PLANNED] if report else [],
        file=_file_of(form),
    )


def _text_of(form: Form) -> str:
    """Return the text of a file that was chosen now; without one, the text of the form."""
    return form.get("file") if form.get("file-name") else form.get("text")


def _file_of(form: Form) -> str:
    return form.get("file-name") or form.get("name") or "jobs.yaml"


async def _apply(form: Form, *, dry_run: bool) -> ApplyReport:
    file = _file_of(form)
    return await api.files.apply(
        [FileText(file, _text_of(form))],
        default_set=file.rpartition("/")[2].partition(".")[0],
        dry_run=dry_run,
        prune="true" in form.all("prune"),
        adopt="true" in form.all("adopt"),
    )


async def preview(ref: str, form: Form) -> None:
    """Check a jobs file. Store nothing."""
    await _apply(form, dry_run=True)


async def apply(ref: str, form: Form) -> Done:
    """Add, change and perhaps remove jobs, and add and change settings, as the file says."""
    report = await _apply(form, dry_run=False)
    lines = [f"{each.action} {each.kind} {each.name}" for each in report.documents]
    lines += [f"{each.action} {each.job}" for each in report.changes[:MAX_PLANNED]]
    return Done("/jobs", "applied", notes=[*lines, *report.notes])


DOCUMENTS = (WindowPages(), TokenPages())
SETTINGS = (
    SettingsLink(
        "/settings/health", "Health", "All checks of this Daybook, as `daybook doctor`.", _state
    ),
    SettingsLink(
        "/settings/apply",
        "Jobs files",
        "Add and change jobs and settings as a file says, after a preview.",
    ),
    SettingsLink(
        "/settings/configuration",
        "Configuration",
        "Limits, budgets and all other settings, with the line of config.toml for each.",
    ),
)
ROUTES = (
    Page("/settings/health", health),
    Page("/settings/configuration", configuration),
    Page("/settings/apply", show_apply),
)
_AT_TEXT = {"file": "text", "set": "text"}
ACTIONS = (
    PageAction("/settings/health/check", check, health, uses_prefect=True),
    PageAction(
        "/settings/apply/preview", preview, show_apply, ("text",), _AT_TEXT, uses_prefect=True
    ),
    PageAction(
        "/settings/apply", apply, show_apply, ("text",), _AT_TEXT, uses_prefect=True, once=True
    ),
)
