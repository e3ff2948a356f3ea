"""The tools `web.fetch` and `web.search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from daybook.agents.base import Tool
from daybook.errors import DaybookError, InvalidInput
from daybook.execution import conversation, tool_arguments
from daybook.execution.builtin_tools import ToolContext
from daybook.features.web_tools import page_text
from daybook.features.web_tools.page_text import PageText
from daybook.features.web_tools.search import PreparedEngine
from daybook.features.web_tools.sources import MAX_ADDRESS_CHARACTERS, PAGE
from daybook.http import request
from daybook.http.guard import Guard, Rule
from daybook.http.httpx_transport import HttpxTransport
from daybook.json_text import JsonObject
from daybook.ledger.texts import sanitize
from daybook.short_text import one_line

MAX_PAGE_BYTES = 2 * 2**20
MAX_PART_CHARACTERS = 20_000
"""Maximum length of one answer: about five thousand tokens."""
MAX_QUERY_CHARACTERS = 400
MAX_KEPT_PAGES = 4
"""Number of pages that are kept, so that the next part of a page is not requested again."""
TIMEOUT_SECONDS = 30.0
ACCEPT = "text/markdown, text/html;q=0.9, text/*;q=0.8, application/json;q=0.8, */*;q=0.5"

_URL = {"type": "string", "description": "Address of the page: http://… or https://…"}
_START = {
    "type": "integer",
    "minimum": 0,
    "default": 0,
    "description": "Character of the text at which to begin, for the next part of a long page.",
}
_QUERY = {"type": "string", "description": "What to look for, in a few words."}


class PageFailed(DaybookError):
    """The error that a server answered with a status that is no success."""

    code = "page_failed"


async def web_tools(context: ToolContext) -> Sequence[Tool]:
    """Return the tools; read the key of the search service. Raise the errors of the secrets."""
    limits = context.limits()
    engine = await PreparedEngine.choose(context.secrets, limits)
    # A model chooses the addresses, so the rule for agents applies to every job.
    pages = Pages(Guard.from_settings(Rule.AGENT, limits), context.granted.run_id)

    async def search(arguments: JsonObject) -> str:
        query = _text(arguments, "query")
        if len(query) > MAX_QUERY_CHARACTERS:
            raise InvalidInput("query", "is too long", f"use {MAX_QUERY_CHARACTERS} characters")
        found = await engine.search(query)
        lines = [f"{each.title}\n{each.url}\n{each.text}".rstrip() for each in found]
        if not lines:
            return "There are no results."
        text = sanitize("\n\n".join(lines))
        return conversation.as_data(f"results of {engine.name}", text, context.granted.run_id)

    return (
        Tool(
            "fetch",
            "Read a page of the web as Markdown. Returns its title, date, text and links.",
            {
                "type": "object",
                "properties": {"url": _URL, "start": _START},
                "required": ["url"],
                "additionalProperties": False,
            },
            pages.fetch,
            read_only=True,
            open_world=True,
            is_untrusted=True,
            can_leak=True,
        ),
        Tool(
            "search",
            "Search the web. Returns titles, addresses and parts of the texts; read a page with "
            "web_fetch.",
            {
                "type": "object",
                "properties": {"query": _QUERY},
                "required": ["query"],
                "additionalProperties": False,
            },
            search,
            read_only=True,
            open_world=True,
            is_untrusted=True,
            can_leak=True,
        ),
    )


class Pages:
    """Reader of pages for one answer of the run ``run_id``."""

    def __init__(self, guard: Guard, run_id: str) -> None:
        self._guard, self._run_id = guard, run_id
        self._kept: dict[str, PageText] = {}

    async def fetch(self, arguments: JsonObject) -> str:
        """Return a part of a page, with what is known about the page.

        Raise `InvalidInput`, `OutgoingRefused`, `NoResponse`, `PageFailed` and `UnreadablePage`.
        """
        url, start = _text(arguments, "url"), tool_arguments.start(arguments)
        kept = self._kept.pop(url, None) if start else None
        page = self._kept[url] = kept or await self._read(url)
        while len(self._kept) > MAX_KEPT_PAGES:
            del self._kept[next(iter(self._kept))]
        part = page.text[start : start + MAX_PART_CHARACTERS]
        end, size = start + len(part), len(page.text)
        about_part = {
            "Part": f"characters {start:,} to {end:,} of {size:,}" if start or end < size else "",
            "Next part": f"start={end}" if end < size else "",
            "Incomplete": page.cut if end >= size else "",
        }
        about_page = {"Title": page.title, "Address": page.address, "Date": page.date}
        # All that strangers have written is between the marks.
        text = sanitize(f"{_lines(about_page)}\n{part or '(no text)'}")
        marked = conversation.as_data(PAGE, text, self._run_id)
        return f"{_lines(about_part)}{marked}"

    async def _read(self, url: str) -> PageText:
        response = await request.request(
            HttpxTransport(self._guard),
            "GET",
            url,
            headers={"Accept": ACCEPT},
            timeout=TIMEOUT_SECONDS,
            limit=MAX_PAGE_BYTES,
        )
        if not 200 <= response.status < 300:
            raise PageFailed(f"the server answered {request.status_text(response.status)}")
        address = one_line(response.moved_to or url, MAX_ADDRESS_CHARACTERS)
        return await page_text.read(response, address)


def _lines(facts: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in facts.items() if value)


def _text(arguments: JsonObject, name: str) -> str:
    value = tool_arguments.text(arguments, name).strip()
    if not value:
        raise InvalidInput(name, "is blank", "give it as a text")
    return value
