"""Parts that all pages share: ledger, templates, totals of 30 days, and pages for errors.

The other shared parts are the health report, the live updates, and the messages that follow an
action.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from daybook import api, feature, markdown, settings
from daybook import home as homes
from daybook.api.changes import Changes
from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis.health import HealthReport
from daybook.errors import DaybookError, InvalidInput, LedgerUnreachable, NotFound, Unreachable
from daybook.feature import features
from daybook.jobs.views import FieldChange
from daybook.ledger.engine import Ledger, sharing
from daybook.names import Id
from daybook.processes.ending import cancel_all
from daybook.runs.daily import DailyTotals, Total
from daybook.schedules.zones import zone
from daybook.web import charts, formatting, step_texts
from daybook.web.live import HEADER, LiveUpdates
from daybook.web.login import CSRF_FIELD, LOGOUT_PATH, SIGNED_PATH, Devices, admitted, csrf_token
from daybook.web.pages import assets
from daybook.web.pages.forms import MESSAGES, typed

log = logging.getLogger(__name__)

MAX_KEPT = 20
"""Number of actions whose changes and notes are stored for the page that follows the action."""
NOTICE_SECONDS = 60
"""Time for which the page that follows an action shows its message. A later reload omits it."""
HEALTH_MAX_AGE_SECONDS = 5.0
HEALTH_PATIENCE_SECONDS = 0.05
"""Maximum time that a page waits for the health report. With many jobs, the report is slow."""

NAVIGATION = (
    ("/", "Today"),
    ("/jobs", "Jobs"),
    ("/runs", "Runs"),
    ("/inbox", "Inbox"),
    ("/sessions", "Sessions"),
    ("/agents", "Agents"),
    ("/callbacks", "Callbacks"),
    ("/settings", "Settings"),
)
FOR_OPERATOR = ("/settings",)
"""Pages that a shared link does not show."""

Handler = Callable[["Site", Request], Awaitable[Response]]

_CSRF, _NEW_ID = secrets.token_hex(16), secrets.token_hex(16)
"""Placeholders for a CSRF token and a new id in a page that is rendered for several viewers.

They are random, so no stored text can contain them.
"""


class OnlyShown(DaybookError):
    """A form was requested with the link of a viewer, who may not change anything."""

    def __init__(self) -> None:
        super().__init__("this link shows the pages; it cannot change anything")


@dataclass(frozen=True)
class Page:
    """A path with its handler. The handler changes nothing; only an `actions.PageAction` may do so.

    A ``live`` page updates itself when the ledger changes (`daybook.web.live`).
    """

    path: str
    handler: Handler
    live: bool = False


@dataclass(frozen=True)
class SettingsLink:
    """A page of Settings that is no list of documents.

    ``state`` is a coroutine function that returns what is set there in a few words, perhaps "".
    """

    path: str
    title: str
    about: str
    state: Callable[[], Awaitable[str]] | None = None


class Site:
    """The pages of one ledger. If ``ledger`` is None, the settings name the ledger.

    ``health`` returns the report that the page Today shows. This may take long.
    """

    def __init__(
        self, health: Callable[[], Awaitable[HealthReport]], ledger: Ledger | None = None
    ) -> None:
        self._read_health, self._given = health, ledger
        self._opened: Ledger | None = None
        self._lock = asyncio.Lock()
        self._totals: DailyTotals | None = None
        self._health: tuple[float, HealthReport] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None
        self._kept: dict[str, tuple[Sequence[FieldChange], Sequence[str]]] = {}
        self._secrets: dict[str, str] = {}
        self._once: dict[str, asyncio.Task[Any]] = {}
        self.kinds: Sequence[Any] = ()
        """The kinds of settings documents, each a `documents.DocumentPages`."""
        self.settings: Sequence[SettingsLink] = ()
        self.tz = zone(settings.load().timezone)
        self.live = LiveUpdates(self._read_changes)

    async def close(self) -> None:
        """Cancel the background tasks, and close the ledger, if this object has opened it."""
        await cancel_all(self._asking, self._warming, self.live.poller)
        opened, self._opened, self._totals = self._opened, None, None
        if opened is not None:
            await opened.close()

    async def ledger(self) -> Ledger:
        """Return the open ledger. Raise `LedgerUnreachable`, or another error of opening it."""
        if self._given is not None:
            return self._given
        async with self._lock:
            if self._opened is None:
                self._opened = await Ledger(settings.load().ledger_address).__aenter__()
                # It takes a second to add up a month, so start before the first page needs the
                # totals.
                self._warming = asyncio.create_task(self._add_up())
        return self._opened

    def now(self) -> datetime:
        """Return the ledger's time. While no ledger is open, return this machine's time."""
        ledger = self._given or self._opened
        return ledger.now() if ledger is not None else SYSTEM_CLOCK.now()

    def handle(
        self, handler: Handler, *, live: bool = False
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that calls ``handler`` with the shared ledger, and shows its errors.

        The status of an error is 400 for `InvalidInput`, 403 for `OnlyShown`, 404 for `NotFound`,
        503 for a service that does not answer, and 500 for any other `DaybookError`.
        """

        async def endpoint(request: Request) -> Response:
            request.state.live = live
            if "ref" in request.path_params:  # a page's address and its forms contain whole ids
                request.path_params["ref"] = Id(request.path_params["ref"])
            if live and HEADER in request.headers and self.live.version:
                return await self._answer_shared(handler, request)
            return await self._answer(handler, request)

        return endpoint

    async def _answer(self, handler: Handler, request: Request) -> Response:
        try:
            with sharing(await self.ledger()):
                return await handler(self, request)
        except NotFound as error:
            return self.failed(request, 404, "Not found", error)
        except InvalidInput as error:
            return self.failed(request, 400, "This cannot be shown", error)
        except OnlyShown as error:
            return self.failed(request, 403, "Nothing can be changed here", error)
        except Unreachable as error:
            # The ledger stays open, because other requests use it, and because it works again as
            # soon as its database responds. The error about a replaced ledger contains the fix.
            return self.failed(request, 503, "A service does not answer", error)
        except DaybookError as error:
            return self.failed(request, 500, "This failed", error)

    async def _answer_shared(self, handler: Handler, request: Request) -> Response:
        """Answer with a page that is rendered only once after each change, for all viewers."""
        session = admitted(request).session
        request.state.shared = True
        key = (f"{request.url.path}?{request.url.query}", bool(session.viewer))
        page = await self.live.shared.get(
            self.live.version, key, lambda: self._answer(handler, request)
        )
        text = bytes(page.body).decode().replace(_CSRF, session.csrf)
        first, *others = text.split(_NEW_ID)
        text = first + "".join(f"{secrets.token_hex(16)}{each}" for each in others)
        return HTMLResponse(text, page.status_code)

    async def _read_changes(self) -> Changes:
        with sharing(await self.ledger()):
            return await api.changes.read()

    @cached_property
    def devices(self) -> Devices | None:
        """The stored sessions of the operator's browsers; None without the feature for them."""
        module = next(feature.loaded("devices"), None)
        return _SharedDevices(self, module) if module is not None else None

    async def viewer_of(self, token: str) -> str:
        """Return the id of a shared link's token. Return "" if ``token`` is not such a token."""
        if not token.startswith(api.tokens.VIEWER_PREFIX):
            return ""  # no query is needed
        with sharing(await self.ledger()):
            return await api.tokens.viewer_of(token)

    async def is_viewer(self, token_id: str) -> bool:
        """Return whether the token of a shared link still exists."""
        with sharing(await self.ledger()):
            return await api.tokens.is_viewer(token_id)

    async def landing(self) -> str:
        """Return the path of the first page after a login: the first steps in a new home."""
        try:
            with sharing(await self.ledger()):
                return "/start" if await api.job_pages.is_new() else "/"
        except DaybookError:
            return "/"  # this page shows the error

    def keep(self, changes: Sequence[FieldChange], notes: Sequence[str], secret: str = "") -> str:
        """Store the result of an action for the next page. Return the key for its address.

        Only the next page shows ``secret``; a reload of it does not.
        """
        key = secrets.token_hex(16)
        self._kept[key] = changes, notes
        self._secrets[key] = secret
        if len(self._kept) > MAX_KEPT:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            self._secrets.pop(oldest, None)
        return key

    async def once(self, key: str, do: Callable[[], Awaitable[Any]]) -> Any:
        """Return the result of ``do``; for the same ``key``, that of the first call.

        After an error, the next call tries it again.
        """
        task = self._once.get(key)
        if task is None:
            task = self._once[key] = asyncio.ensure_future(do())
            if len(self._once) > MAX_KEPT:
                del self._once[next(iter(self._once))]
        try:
            return await asyncio.shield(task)
        except Exception:
            self._once.pop(key, None)
            raise

    def _notice(self, request: Request) -> str:
        """Return the message of the action before this page; "" if none in `NOTICE_SECONDS`."""
        given = request.query_params
        at = given.get("at", "")
        age = int(self.now().timestamp()) - int(at) if at.isdecimal() and len(at) < 12 else math.inf
        return self._messages.get(given.get("done", ""), "") if abs(age) <= NOTICE_SECONDS else ""

    @cached_property
    def _messages(self) -> dict[str, str]:
        of_features = (getattr(each, "MESSAGES", {}) for each in feature.loaded("pages"))
        return dict(MESSAGES) | {key: text for each in of_features for key, text in each.items()}

    def failed(self, request: Request, code: int, title: str, error: Exception) -> Response:
        """Return a page about an error."""
        return self.render(request, "error.html", code=code, title=title, problem=str(error))

    async def not_found(self, request: Request, error: Exception) -> Response:
        """Return the page for a path that does not exist."""
        problem = NotFound("page", request.url.path)
        return self.failed(request, 404, "Not found", problem)

    def render(
        self, request: Request, template: str, *, code: int = 200, **context: Any
    ) -> Response:
        """Return the response with the rendered template. ``context`` has further values for it."""
        text = self._templates.get_template(template).render(
            request=request,
            path=request.url.path,
            csrf_field=lambda: _csrf_field(request),
            query=lambda **changes: _query(request, changes),
            new_id=lambda: _NEW_ID if _is_shared(request) else secrets.token_hex(16),
            bare=request.url.path.startswith(SIGNED_PATH),
            read_only=bool(admitted(request).session.viewer),
            live=request.method == "GET" and getattr(request.state, "live", False),
            version=self.live.version,
            logout=LOGOUT_PATH,
            done=self._notice(request),
            mistake=getattr(request.state, "mistake", None),
            typed=typed(request),
            kept=self._kept.get(request.query_params.get("kept", ""), ((), ())),
            secret=self._secrets.pop(request.query_params.get("kept", ""), ""),
            change=formatting.change,
            **context,
        )
        return HTMLResponse(text, code)

    async def _add_up(self) -> None:
        with suppress(DaybookError):
            await self.totals()

    async def totals(self) -> list[Total]:
        """Return the totals of the last 30 days. Raise `LedgerUnreachable` if no ledger is open."""
        if self._totals is None:
            ledger = self._given or self._opened
            if ledger is None:
                raise LedgerUnreachable(settings.load().ledger_address, "it was closed")
            self._totals = DailyTotals(ledger, self.tz)
        return await self._totals.read()

    async def health(self) -> HealthReport | None:
        """Return the last health report; None if there is none yet.

        If the report is older than `HEALTH_MAX_AGE_SECONDS`, request a new one, but wait for it at
        most `HEALTH_PATIENCE_SECONDS`. If it takes longer, return the old report.
        """
        if self._asking is None and (
            self._health is None or time.monotonic() - self._health[0] > HEALTH_MAX_AGE_SECONDS
        ):
            self._asking = asyncio.create_task(self._ask_health())
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=HEALTH_PATIENCE_SECONDS)
        return self._health[1] if self._health else None

    async def _ask_health(self) -> None:
        try:
            self._health = time.monotonic(), await self._read_health()
        except Exception:
            log.warning("cannot read the health", exc_info=True)
        finally:
            self._asking = None

    @property
    def prefect_ui(self) -> str:
        """Return the address of Prefect's UI; "" if it is not known."""
        running = homes.current_home().running() or {}
        return str(running.get("pages_url") or running.get("ui_url") or "").rstrip("/")

    @cached_property
    def pages_of_features(self) -> dict[str, str]:
        """The path of the first page of each feature that has pages, by feature."""
        return {each.name: each.links[0][0] for each in features() if each.pages and each.links}

    @cached_property
    def navigation(self) -> list[tuple[str, str]]:
        """The paths and names of the pages in the menu."""
        of_features = (link for each in features() if each.pages for link in each.links)
        return [*NAVIGATION, *of_features]

    @cached_property
    def _templates(self) -> Environment:
        with_pages = [each for each in features() if each.pages]
        loaders = [PackageLoader("daybook.web")]
        for each in with_pages:
            if (each.folder / "templates").is_dir():
                loaders.append(PackageLoader(each.package))
        environment = Environment(
            loader=ChoiceLoader(loaders),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        environment.filters |= formatting.filters(self.tz, self.now) | step_texts.FILTERS
        environment.filters["markdown"] = markdown.render
        environment.filters["summary"] = api.answers.summary
        environment.globals |= {
            "navigation": self.navigation,
            "go_keys": _go_keys(self.navigation),
            "for_operator": FOR_OPERATOR,
            "new_job_links": [link for each in with_pages for link in each.new_job_links],
            "asset": assets.url,
            "charts": charts,
            "now": self.now,
            "zone_name": self.tz.key,
        }
        return environment


def _go_keys(links: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the key for each page, by path: the first letter of its name that is still free."""
    keys = dict[str, str]()
    for path, name in links:
        free = (each for each in name.lower() if each.isalpha() and each not in keys.values())
        keys[path] = next(free, "")
    return keys


class _SharedDevices:
    """`Devices` of a feature's ``module`` that use the shared ledger of a site."""

    def __init__(self, site: Site, module: Any) -> None:
        self._site, self._module = site, module

    async def add(self, device_id: str, place: str, user_agent: str) -> None:
        with sharing(await self._site.ledger()):
            await self._module.add(device_id, place, user_agent)

    async def use(self, device_id: str) -> bool:
        with sharing(await self._site.ledger()):
            is_valid: bool = await self._module.use(device_id)
            return is_valid

    async def remove(self, device_id: str) -> None:
        with sharing(await self._site.ledger()):
            await self._module.remove(device_id)


def _is_shared(request: Request) -> bool:
    return getattr(request.state, "shared", False)


def _csrf_field(request: Request) -> Markup:
    """Return the hidden field of a form that writes. Raise `OnlyShown` for a shared link."""
    if admitted(request).session.viewer:
        raise OnlyShown
    field = '<input type="hidden" name="{}" value="{}">'
    token = _CSRF if _is_shared(request) else csrf_token(request)
    return Markup(field).format(CSRF_FIELD, token)


def _query(request: Request, changes: dict[str, Any]) -> str:
    """Return this page's path with changed query parameters. Omit empty parameters."""
    merged = {**request.query_params, "done": None, "at": None, "kept": None, **changes}
    kept = {name: str(value) for name, value in merged.items() if value not in ("", None)}
    return request.url.path + (f"?{urlencode(kept)}" if kept else "")
