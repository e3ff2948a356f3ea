"""The pages of notebooks: the list, and one notebook with its text, versions and a form."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daybook.errors import InvalidInput
from daybook.features.memory import operations
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.forms import Form, typed
from daybook.web.pages.site import Page, Site

MAX_FORM_TEXT = 500_000
"""Maximum length in bytes of a text that the form can send (`web.login.MAX_FORM_BYTES`)."""


async def index(site: Site, request: Request) -> Response:
    """Show the list of notebooks."""
    return site.render(request, "notebooks.html", notebooks=await operations.list_notebooks())


async def show(site: Site, request: Request) -> Response:
    """Show the text of a notebook, or of the version in the query, and the versions."""
    ref, given = request.path_params["ref"], request.query_params.get("version", "")
    version = int(given) if given.isdecimal() and len(given) < 9 else None
    notebook = await operations.show(ref, version)
    form = typed(request)
    return site.render(
        request,
        "notebook.html",
        notebook=notebook,
        versions=[each for each in await operations.history(ref) if each.is_kept],
        text=form.get("text") if form.has("text") else notebook.text,
        is_editable=notebook.size <= MAX_FORM_TEXT,
        base=form.get("base") or str(notebook.version),
    )


async def edit(ref: str, form: Form) -> Done:
    """Replace the text that the page has shown."""
    base = form.get("base")
    if not base.isdecimal() or len(base) > 9:
        raise InvalidInput("base", "is no number of a version", "reload the page")
    notebook = await operations.write(ref, form.get("text"), int(base))
    return Done(f"/memory/{notebook.id}", "notebook-edited")


async def remove(ref: str, form: Form) -> Done:
    """Remove a notebook."""
    await operations.remove(ref)
    return Done("/memory", "notebook-removed")


MESSAGES = {
    "notebook-edited": "The notebook is saved. Its earlier versions are kept.",
    "notebook-removed": "The notebook was removed.",
}

ROUTES = (Page("/memory", index), Page("/memory/{ref}", show))

ACTIONS = (
    PageAction("/memory/{ref}/edit", edit, show, fields=("text",)),
    PageAction("/memory/{ref}/remove", remove, show),
)
