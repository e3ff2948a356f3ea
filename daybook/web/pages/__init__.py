"""Daybook's pages. Each noun has a module, which reads through `daybook.api` and renders.

::

    request ──► web.login (session, origin, CSRF) ──► Site.handle ──► a handler of a noun's module
                                                        │                 │ await api.….…
                                                        │ shares a ledger ▼
                                                        └──────────── site.render("….html", …)

A feature adds a module with `ROUTES`, `ACTIONS` and `MESSAGES`, its links, and templates
(`daybook.feature`).

A kind of settings documents has the pages of a `documents.DocumentPages` in `DOCUMENTS` of its
module. `settings` lists these kinds, and the `SETTINGS` of all modules.

To add a page: write ``async def name(site: Site, request: Request) -> Response`` in the module of
its noun, add it to that module's `ROUTES`, and write its template. To add a noun, add its module to
`MODULES`, and its link to `site.NAVIGATION`.

`today` also reads `diagnosis.attention` and the health report.

Each form that changes something is a `PageAction` in the `ACTIONS` of its module, except the form
to log out, whose request `web.login` answers. `daybook.web.pages.actions` checks the CSRF token and
shows errors of actions. `Site.handle` turns other errors of `daybook.api` into pages.

A ``live`` page updates itself (`daybook.web.live`). `api.changes`, or the ``changes`` of a feature,
has to read all data that a live page shows. The rows and groups of the page have an ``id``, by
which htmx finds them again. A part that must not change while a user reads it has
``hx-morph-skip``.

No template has a script, a style or an event handler of its own, because the policy
(`login.POLICY`) does not permit them. Positions are classes (`assets.POSITIONS`), and charts are
SVG (`daybook.web.charts`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from daybook import feature
from daybook.diagnosis.health import HealthReport
from daybook.ledger.engine import Ledger
from daybook.web import live
from daybook.web.login import LOGOUT_PATH
from daybook.web.pages import (
    agents,
    assets,
    callbacks,
    connections,
    inbox,
    job_form,
    jobs,
    machine,
    python_functions,
    runs,
    search,
    sessions,
    settings,
    start,
    today,
)
from daybook.web.pages.actions import perform
from daybook.web.pages.site import Site

MODULES = (
    today,
    job_form,
    jobs,
    runs,
    inbox,
    callbacks,
    sessions,
    agents,
    search,
    settings,
    start,
    connections,
    python_functions,
    machine,
)


def application(
    health: Callable[[], Awaitable[HealthReport]], ledger: Ledger | None = None
) -> Starlette:
    """Return the application of all pages. The caller has to close its ``state.site``.

    ``health`` returns the report that the page Today shows. The application opens the ledger of the
    settings at the first request, unless it gets a ``ledger``.
    """
    site = Site(health, ledger)
    modules = (*MODULES, *feature.loaded("pages"))
    site.kinds = [kind for module in modules for kind in getattr(module, "DOCUMENTS", ())]
    site.settings = [link for module in modules for link in getattr(module, "SETTINGS", ())]
    pages = [each for module in modules for each in module.ROUTES]
    pages += [each for kind in site.kinds for each in kind.routes]
    actions = [each for module in modules for each in getattr(module, "ACTIONS", ())]
    actions += [each for kind in site.kinds for each in kind.actions]
    routes = [
        Route(each.path, site.handle(each.handler, live=each.live), methods=["GET"])
        for each in pages
    ]
    routes += [Route(each.path, perform(site, each), methods=["POST"]) for each in actions]
    routes += [
        Route(live.PATH, site.live, methods=["GET"]),
        Route(LOGOUT_PATH, site.handle(_log_out), methods=["GET"]),
    ]
    app = Starlette(routes=[*assets.ROUTES, *routes], exception_handlers={404: site.not_found})
    app.state.site = site
    return app


async def _log_out(site: Site, request: Request) -> Response:
    """Show the form to log out. When it is submitted, `web.login` ends the session."""
    return site.render(request, "logout.html")
