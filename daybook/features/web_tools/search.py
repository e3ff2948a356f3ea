"""Search of the web, by the first service that is set up.

::

    web_search_url is set              a SearXNG server
    a secret `tavily`, `exa`, `brave`  that service
    otherwise                          DuckDuckGo's page for browsers without JavaScript

The secret has to list the service's host: `daybook secrets add tavily --host api.tavily.com`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from html_to_markdown import ConversionOptions, convert

from daybook.errors import DaybookError, UnknownName
from daybook.features.web_tools import settings
from daybook.http import request, secrets
from daybook.http.guard import Guard, Rule
from daybook.http.httpx_transport import HttpxTransport
from daybook.http.request import Response
from daybook.http.secrets import FilledSecrets, SecretDestination, SecretStore
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
class Search:
    """A request for a search. ``headers`` may refer to the service's secret."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: JsonObject | None = None


@dataclass(frozen=True)
class Engine:
    """A search service. ``name`` is also the name of its secret; ``results`` reads its answer."""

    name: str
    search: Callable[[str], Search]
    results: Callable[[Response], Iterable[Result]]
    needs_secret: bool = True


def _rows(response: Response, *path: str) -> list[Mapping[str, Any]]:
    """Return the objects of the list at ``path`` of a JSON answer."""
    found: Any = json.loads(response.body)
    for key in path:
        found = found.get(key, {}) if isinstance(found, dict) else {}
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _of_page(response: Response) -> list[Result]:
    """Return the results on DuckDuckGo's page: each is a link with the page's address in `uddg`."""
    found = convert(response.body.decode(errors="replace"), ConversionOptions(skip_images=True))
    results: dict[str, Result] = {}
    for link in getattr(found.metadata, "links", []):
        (url, *_) = parse_qs(urlsplit(link.href).query).get("uddg", [""])
        text = one_line(link.text, MAX_SNIPPET_CHARACTERS)
        if not url or not text:
            continue
        if (known := results.get(url)) is None:
            results[url] = Result.of(text, url, "")
        elif len(text) > len(known.text) and text != known.title:
            results[url] = Result.of(known.title, url, text)
    return list(results.values())


def _key(service: str) -> str:
    return f"{{{{secret:{service}}}}}"


ENGINES = (
    Engine(
        "tavily",
        lambda query: Search(
            "https://api.tavily.com/search",
            {"Authorization": f"Bearer {_key('tavily')}"},
            {"query": query, "max_results": MAX_RESULTS},
        ),
        lambda response: [
            Result.of(each.get("title"), each.get("url"), each.get("content"))
            for each in _rows(response, "results")
        ],
    ),
    Engine(
        "exa",
        lambda query: Search(
            "https://api.exa.ai/search",
            {"X-Api-Key": _key("exa")},
            {
                "query": query,
                "numResults": MAX_RESULTS,
                "contents": {"text": {"maxCharacters": MAX_SNIPPET_CHARACTERS}},
            },
        ),
        lambda response: [
            Result.of(each.get("title"), each.get("url"), each.get("text"))
            for each in _rows(response, "results")
        ],
    ),
    Engine(
        "brave",
        lambda query: Search(
            f"https://api.search.brave.com/res/v1/web/search?count={MAX_RESULTS}&q={quote(query)}",
            {"Accept": "application/json", "X-Subscription-Token": _key("brave")},
        ),
        lambda response: [
            Result.of(each.get("title"), each.get("url"), each.get("description"))
            for each in _rows(response, "web", "results")
        ],
    ),
    Engine(
        "duckduckgo",
        lambda query: Search(f"https://html.duckduckgo.com/html/?q={quote(query)}"),
        _of_page,
        needs_secret=False,
    ),
)
"""The services, in the order in which they are tried."""


def _searxng(url: str) -> Engine:
    mark = "&" if urlsplit(url).query else "?"
    return Engine(
        "SearXNG",
        lambda query: Search(f"{url}{mark}{urlencode({'q': query, 'format': 'json'})}"),
        lambda response: [
            Result.of(each.get("title"), each.get("url"), each.get("content"))
            for each in _rows(response, "results")
        ],
        needs_secret=False,
    )


@dataclass(frozen=True)
class PreparedEngine:
    """A service with its secret."""

    engine: Engine
    secrets: SecretStore = field(repr=False)

    @classmethod
    async def choose(cls, store: SecretStore) -> PreparedEngine:
        """Return the first service that is set up. Raise the errors of ``store``."""
        if url := settings.load().web_search_url:
            return cls(_searxng(url), store)
        for each in ENGINES:
            if not each.needs_secret:
                break
            try:
                secret = await store.read(each.name)
            except UnknownName:
                continue
            return cls(each, PreloadedSecrets({each.name: secret}))
        return cls(each, store)

    async def search(self, query: str) -> list[Result]:
        """Return at most `MAX_RESULTS` results.

        Raise `SearchFailed`, `InvalidInput` for a secret that does not list the service's host, and
        the errors of `daybook.http.request.request`.
        """
        asked = self.engine.search(query)
        # The operator, not a model, has chosen the service.
        transport = HttpxTransport(Guard.from_settings(Rule.OPERATOR), one_origin=True)
        destination = SecretDestination.of_url(transport.guard.check(asked.url))
        filled, headers = FilledSecrets(), dict[str, str]()
        for name, value in asked.headers.items():
            headers[name] = await secrets.fill("headers", value, destination, self.secrets, filled)
        body = b""
        if asked.body is not None:
            body, headers["Content-Type"] = json.dumps(asked.body).encode(), "application/json"
        response = await request.request(
            transport,
            "POST" if body else "GET",
            asked.url,
            headers=headers,
            body=body,
            secret=[name for name in asked.headers if filled.values],
            timeout=TIMEOUT_SECONDS,
        )
        if response.status != 200:
            hint = "" if self.engine.needs_secret else "; save a key of Tavily, Exa or Brave"
            status = request.status_text(response.status)
            raise SearchFailed(f"{self.engine.name} answered {status}{hint}")
        try:
            found = list(self.engine.results(response))
        except (ValueError, RecursionError):
            raise SearchFailed(f"the answer of {self.engine.name} cannot be read") from None
        return [each for each in found if each.url][:MAX_RESULTS]
