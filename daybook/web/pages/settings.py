"""The page Settings: the kinds of documents with their numbers and problems, and other pages."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from daybook.errors import DaybookError
from daybook.web.pages.actions import load_prefect
from daybook.web.pages.documents import JOBS, MACHINE, DocumentPages, only_operator
from daybook.web.pages.site import Page, SettingsLink, Site


@dataclass(frozen=True)
class SettingsEntry:
    """A line of the page. ``wrong`` says what is wrong; "" if nothing is."""

    path: str
    title: str
    about: str
    state: str = ""
    wrong: str = ""


async def index(site: Site, request: Request) -> Response:
    """List the kinds of documents, and the other pages."""
    only_operator(request)
    await load_prefect()
    documents = await asyncio.gather(*map(_of_kind, site.kinds))
    others = await asyncio.gather(*map(_of_link, site.settings))
    groups: dict[str, list[SettingsEntry]] = {JOBS: [], MACHINE: []}
    for kind, entry in zip(site.kinds, documents, strict=True):
        groups[kind.group].append(entry)
    groups[MACHINE] += others
    return site.render(request, "settings.html", groups=groups)


async def _of_kind(kind: DocumentPages) -> SettingsEntry:
    try:
        found = await kind.entries()
    except DaybookError as error:
        return SettingsEntry(kind.path, kind.title, kind.about, wrong=str(error))
    broken = [each.name for each in found if each.problem]
    wrong = f"{', '.join(broken[:3])}{' and others' if len(broken) > 3 else ''}" if broken else ""
    return SettingsEntry(
        kind.path,
        kind.title,
        kind.about,
        str(len(found)) if found else "none",
        f"does not work: {wrong}" if wrong else "",
    )


async def _of_link(link: SettingsLink) -> SettingsEntry:
    try:
        state = await link.state() if link.state else ""
    except DaybookError as error:
        return SettingsEntry(link.path, link.title, link.about, wrong=str(error))
    return SettingsEntry(link.path, link.title, link.about, state)


ROUTES = (Page("/settings", index),)
