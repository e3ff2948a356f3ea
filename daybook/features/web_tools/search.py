"""Search of the web, by the first service that is set up.

::

    web_search_url is set              a SearXNG server
    a secret `tavily`, `exa`, `brave`  that service
    otherwise                          DuckDuckGo's page for browsers without JavaScript

The secret has to list the service's host: `daybook secrets add tavily --host api.tavily.com`. A
secret of such a name that does not list it has another purpose.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import httpx

from daybook.errors import DaybookError, InvalidInput
from daybook.execution import html_text
from daybook.features.web_tools import settings
from daybook.http import request, secrets
from daybook.http.guard import Guard, Rule
from daybook.http.httpx_transport import HttpxTransport
from daybook.http.request import Response
from daybook.http.secrets import FilledSecrets, SecretDestination, SecretStore
from daybook.jobs import secret_references
from daybook.jobs.limits import Limits
from daybook.json_text import JsonObject
from daybook.short_text import one_line
from daybook.tools.pool import PreloadedSecrets

MAX_RESULTS = 10
MAX_SNIPPET_CHARACTERS = 500
TIMEOUT_SECONDS = 20.0


class SearchFailed(DaybookError):
    """The error that a service did not answer a search."""

    code = "search_failed"


@dataclass(frozen=True)
class Result:
    """One result: a page, its title, and a part of its text."""

    title: str
    url: str
    text: str

    @classmethod
    def of(cls, title: object, url: object, text: object) -> Result:
        shown = one_line(str(text or ""), MAX_SNIPPET_CHARACTERS)
        return cls(one_line(str(title or ""), 200), str(url or "")[:2_000], shown)


@dataclass(frozen=True)
class SearchRequest:
    """A request for a search. ``headers`` may refer to the service's secret."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: JsonObject | None = None


@dataclass(frozen=True)
class Engine:
    """A search service. ``name`` is also the name of its secret.

    ``request`` returns the request for a query, and ``results`` reads the answer. ``hint`` says
    what helps if the service refuses.
    """

    name: str
    request: Callable[[str], SearchRequest]
    results: Callable[[Response], Awaitable[Iterable[Result]]]
    hint: str = "check its key"
    needs_secret: bool = True

    def destination(self) -> SecretDestination:
        """Return the service's host, as a secret lists it."""
        return SecretDestination.of_url(httpx.URL(self.request("").url))


def _rows(text: str, *path: str) -> Callable[[Response], Awaitable[list[Result]]]:
    """Return a reader of a JSON answer with a list of objects at ``path``.

    Each has a `title`, a `url`, and a part of the page's text under the name ``text``.
    """

    async def read(response: Response) -> list[Result]:
        found: Any = json.loads(response.body)
        for key in path:
            found = found.get(key, {}) if isinstance(found, dict) else {}
        rows = found if isinstance(found, list) else []
        return [
            Result.of(each.get("title"), each.get("url"), each.get(text))
            for each in rows
            if isinstance(each, dict)
        ]

    return read


async def _of_page(response: Response) -> list[Result]:
    """Return the results on DuckDuckGo's page: each is a link with the page's address in `uddg`."""
    found = await html_text.convert(response.body.decode(errors="replace"), "")
    results: dict[str, Result] = {}
    for address, shown in found["links"]:
        (url, *_) = parse_qs(urlsplit(address).query).get("uddg", [""])
        text = one_line(shown, MAX_SNIPPET_CHARACTERS)
        if not url or not text:
            continue
        if (known := results.get(url)) is None:
            results[url] = Result.of(text, url, "")
        elif len(text) > len(known.text) and text != known.title:
            results[url] = Result.of(known.title, url, text)
    return list(results.values())


def _key(service: str) -> str:
    return secret_references.reference(service)


ENGINES = (
    Engine(
        "tavily",
        lambda query: SearchRequest(
            "https://api.tavily.com/search",
            {"Authorization": f"Bearer {_key('tavily')}"},
            {"query": query, "max_results": MAX_RESULTS},
        ),
        _rows("content", "results"),
    ),
    Engine(
        "exa",
        lambda query: SearchRequest(
            "https://api.exa.ai/search",
            {"X-Api-Key": _key("exa")},
            {
                "query": query,
                "numResults": MAX_RESULTS,
                "contents": {"text": {"maxCharacters": MAX_SNIPPET_CHARACTERS}},
            },
        ),
        _rows("text", "results"),
    ),
    Engine(
        "brave",
        lambda query: SearchRequest(
            f"https://api.search.brave.com/res/v1/web/search?count={MAX_RESULTS}&q={quote(query)}",
            {"Accept": "application/json", "X-Subscription-Token": _key("brave")},
        ),
        _rows("description", "web", "results"),
    ),
    Engine(
        "duckduckgo",
        lambda query: SearchRequest(f"https://html.duckduckgo.com/html/?q={quote(query)}"),
        _of_page,
        hint="it limits programs; save a key of Tavily, Exa or Brave",
        needs_secret=False,
    ),
)
"""The services, in the order in which they are tried."""


def _searxng(url: str) -> Engine:
    mark = "&" if urlsplit(url).query else "?"
    return Engine(
        "SearXNG",
        lambda query: SearchRequest(f"{url}{mark}{urlencode({'q': query, 'format': 'json'})}"),
        _rows("content", "results"),
        hint="its setting search.formats has to contain json",
        needs_secret=False,
    )


@dataclass(frozen=True)
class PreparedEngine:
    """A service with its secret, and the limits on the hosts that the job may reach."""

    engine: Engine
    secrets: SecretStore = field(repr=False)
    limits: Limits | None = None

    @property
    def name(self) -> str:
        return self.engine.name

    @classmethod
    async def choose(cls, store: SecretStore, limits: Limits | None = None) -> PreparedEngine:
        """Return the first service that is set up. Raise the errors of an unreachable ``store``."""
        if url := settings.load().web_search_url:
            return cls(_searxng(url), store, limits)
        for each in ENGINES:
            if not each.needs_secret:
                break
            try:
                secret = await store.read(each.name)
            except InvalidInput:  # there is none, or it cannot be used
                continue
            if each.destination().known_as & set(map(str.lower, secret.hosts)):
                return cls(each, PreloadedSecrets({each.name: secret}), limits)
        return cls(each, store, limits)

    async def search(self, query: str) -> list[Result]:
        """Return at most `MAX_RESULTS` results.

        Raise `SearchFailed`, `OutgoingRefused` if the limits do not list the service's host, and
        the errors of `daybook.http.request.request`.
        """
        asked = self.engine.request(query)
        # The operator, not a model, has chosen the service.
        guard = Guard.from_settings(Rule.OPERATOR, self.limits)
        destination = SecretDestination.of_url(guard.check(asked.url))
        filled, headers = FilledSecrets(), dict[str, str]()
        for name, value in asked.headers.items():
            headers[name] = await secrets.fill("headers", value, destination, self.secrets, filled)
        body = b""
        if asked.body is not None:
            body, headers["Content-Type"] = json.dumps(asked.body).encode(), "application/json"
        response = await request.request(
            HttpxTransport(guard, one_origin=True),
            "POST" if body else "GET",
            asked.url,
            headers=headers,
            body=body,
            secret=[name for name in asked.headers if filled.values],
            timeout=TIMEOUT_SECONDS,
        )
        if response.status != 200:
            status = request.status_text(response.status)
            raise SearchFailed(f"{self.name} answered {status}; {self.engine.hint}")
        try:
            found = [each for each in await self.engine.results(response) if each.url]
        except (ValueError, RecursionError):
            raise SearchFailed(f"the answer of {self.name} cannot be read") from None
        hide = filled.hide  # a service may repeat its key
        return [
            Result(hide(each.title), hide(each.url), hide(each.text))
            for each in found[:MAX_RESULTS]
        ]
