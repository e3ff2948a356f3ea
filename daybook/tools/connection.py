"""The MCP client's connection to a tool server: open, list, call, close.

Each call of a job has a connection of its own. The calls that an agent makes for one answer share
one connection to each server (`pool`).

The `mcp` library ties a connection to the asyncio task that opened it, and cancels that task if the
connection breaks. So this module opens the connection in a separate task. Otherwise, a server that
dies between claim and call could cancel the task that writes to the ledger at that time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import daybook
from daybook.errors import DaybookError, InvalidInput, ToolUnreachable
from daybook.http import request as http
from daybook.http import secrets as references
from daybook.http.guard import Guard
from daybook.http.request import IDEMPOTENCY_KEY, idempotency_key
from daybook.http.secrets import FilledSecrets, SecretDestination, SecretStore
from daybook.http.transport import SECRET_BODY
from daybook.json_text import JsonObject
from daybook.names import hidden_character
from daybook.processes import environment
from daybook.processes.ending import wait_shielded
from daybook.redaction import hide_in, remember
from daybook.short_text import clip
from daybook.tools.answers import HideSecrets
from daybook.tools.server_settings import ToolServerSettings
from daybook.tools.wire import Wire

if TYPE_CHECKING:
    from mcp.client.client import Client
    from mcp.client.session import ClientSession
    from mcp_types import CallToolResult


OPEN_TIMEOUT_SECONDS = 30.0
"""Timeout for reaching or starting a server and listing its tools; below `Timing.run_lease`."""

CLOSE_TIMEOUT_SECONDS = 3.0
"""Timeout for closing a connection over HTTP. A program has its own timeout (`stdio`)."""

OCCURRENCE_META_KEY = "daybook/idempotency-key"
"""The key in a call's ``_meta`` that contains the occurrence."""

MAX_TOOLS = 1_000
MAX_PAGES = 50
MAX_NAME_LENGTH = 128
MAX_DESCRIPTION_LENGTH = 1_000

_QUIET = ("mcp.client", "mcp.shared", "client", "httpx2")
"""Loggers that would log contents of messages, URLs with their query, or tracebacks."""


@dataclass(frozen=True)
class ToolLocation:
    """A server, and one of its tools.

    ``name`` and ``source`` are the same as in the tool's `ToolInfo`. ``tool`` is the name by which
    the server itself knows the tool.
    """

    name: str
    tool: str
    source: str
    settings: ToolServerSettings
    guard: Guard


@dataclass(frozen=True)
class ToolDescription:
    """A tool as its server describes it, without characters that a terminal would interpret.

    ``read_only`` is True if, according to the server or its settings, the tool changes nothing.
    ``idempotent`` is True if, according to the server, a second equal call has no further effect.
    """

    description: str
    schema: JsonObject = field(hash=False)
    read_only: bool = False
    idempotent: bool = False


class CallUnanswered(DaybookError):
    """A call got no answer, or an answer from which it is unclear whether the call had its effect.

    ``sent`` is true if the call may have had its effect. ``timed_out`` is true if the timeout has
    passed. ``refused`` is true if a retry cannot help. ``status`` is the HTTP status of the
    server's error (400 or more), or None. ``retry_after`` is in seconds; None if the server gave no
    delay.
    """

    code = "no_answer"

    def __init__(
        self,
        message: str,
        *,
        sent: bool,
        timed_out: bool = False,
        refused: bool = False,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.sent = sent
        self.timed_out = timed_out
        self.refused = refused
        self.status = status
        self.retry_after = retry_after
        super().__init__(message)


class CallFailed(DaybookError):
    """The server answered the call with an error, or with a request for input."""

    code = "tool_failed"


class Connection:
    """Connection to one server. ``tools`` maps the server's own names to its tools.

    ``hide`` replaces secrets in the errors of `open` and in the descriptions of the tools, because
    a server may repeat a header or variable. A tool whose name contains a secret is left out.
    ``read_only`` are patterns of tools that only read, besides those that the server marks.
    """

    def __init__(
        self, shown: str, wire: Wire, hide: HideSecrets = str, read_only: Sequence[str] = ()
    ) -> None:
        self.tools: dict[str, ToolDescription] = {}
        self._shown = shown
        self._wire = wire
        self._hide = hide
        self._read_only = read_only
        self._over = asyncio.Event()
        self._session: ClientSession | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def open(self, within: float = OPEN_TIMEOUT_SECONDS) -> None:
        """Connect and list the tools, in at most ``within`` seconds.

        Raise `InvalidInput`, `OutgoingRefused` or `ToolUnreachable`.
        """
        ready = asyncio.Event()
        keeper = self._keeper = asyncio.create_task(self._keep(ready))
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait(
                {keeper, waiting}, timeout=within, return_when=asyncio.FIRST_COMPLETED
            )
            if ready.is_set():
                return
            was_over = keeper.done()
        except BaseException:
            await self.close()
            raise
        finally:
            waiting.cancel()
        await self.close()
        if not was_over:
            message = self._explain(f"{self._shown} did not answer within {within:g} s")
            raise ToolUnreachable(message)
        raise self._opening_error(keeper.exception())

    async def call(
        self, tool: str, params: JsonObject, occurrence: str, *, timeout: float
    ) -> CallToolResult:
        """Call the tool once, within ``timeout`` seconds.

        Raise `CallFailed`, `CallUnanswered` and `InvalidInput`, in particular `OutgoingRefused`. If
        the server requests input and does not answer, raise `CallFailed`, because a job cannot give
        input.
        """
        from mcp.shared.exceptions import MCPError
        from mcp_types import (
            CallToolRequest,
            CallToolRequestParams,
            CallToolResult,
            InputRequiredResult,
        )
        from pydantic import TypeAdapter, ValidationError

        assert self._session is not None
        self._wire.begin()
        meta: Any = {OCCURRENCE_META_KEY: occurrence}
        request = CallToolRequest(
            params=CallToolRequestParams(name=tool, arguments=params, meta=meta)
        )
        kinds = TypeAdapter[Any](CallToolResult | InputRequiredResult)
        try:
            async with asyncio.timeout(timeout):
                # Do not use `call_tool`, which would send the call again or request the answer's
                # schema.
                answer = await self._session.send_request(request, kinds)
        except TimeoutError:
            # Close the connection first, so that `fault` has the way in which it was closed.
            await self.close()
            fault = self._wire.fault()
            if fault is not None and fault.status is not None:
                # An error response arrived without its body.
                raise self._unanswered_error() from None
            message = self._explain(f"{self._shown} did not answer within {timeout:g} s")
            raise CallUnanswered(message, sent=self._wire.sent, timed_out=True) from None
        except ValidationError:
            raise CallUnanswered(f"{self._shown} gave an invalid answer", sent=True) from None
        except MCPError as error:
            if self._wire.came(error.code):
                raise CallFailed(error.message) from None
            await self.close()
            raise self._unanswered_error() from None
        if isinstance(answer, InputRequiredResult):
            raise CallFailed("the tool asks for input, which a job cannot give")
        self._wire.allow_exit()
        return answer  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Close the connection if it is open, even if the caller is cancelled."""
        if self._keeper is not None:
            await wait_shielded(asyncio.create_task(self._closed(self._keeper)))

    def done(self) -> None:
        """Mark the work as done, so that the server may exit by itself."""
        self._wire.allow_exit()

    async def _closed(self, keeper: asyncio.Task[None]) -> None:
        self._over.set()
        if self._session is None:  # the connection is still being opened
            keeper.cancel()
        await asyncio.wait({keeper}, timeout=CLOSE_TIMEOUT_SECONDS)
        if not keeper.done():
            keeper.cancel()
            await asyncio.wait({keeper})
        if not keeper.cancelled():
            keeper.exception()  # this call marks the exception as retrieved

    async def _keep(self, ready: asyncio.Event) -> None:
        from mcp.client.client import Client
        from mcp_types import Implementation

        for name in _QUIET:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        client_info = Implementation(name="daybook", version=daybook.__version__)
        async with Client(self._wire, client_info=client_info, cache=None) as client:
            await self._list_tools(client)
            self._session = client.session
            ready.set()
            await self._over.wait()

    async def _list_tools(self, client: Client) -> None:
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                is_usable = _is_valid_name(tool.name) and self._hide(tool.name) == tool.name
                if is_usable and len(self.tools) < MAX_TOOLS:
                    description = _printable(self._hide(tool.description or tool.title or ""))
                    hints = tool.annotations
                    is_marked = hints is not None and hints.read_only_hint is True
                    read_only = is_marked or any(
                        fnmatchcase(tool.name, pattern) for pattern in self._read_only
                    )
                    idempotent = hints is not None and hints.idempotent_hint is True
                    schema = hide_in(tool.input_schema, self._hide)
                    described = ToolDescription(description, schema, read_only, idempotent)
                    self.tools[tool.name] = described
            cursor = page.next_cursor
            if cursor is None:
                return

    def _opening_error(self, error: BaseException | None) -> DaybookError:
        """Return the error to raise if ``error`` made the opening fail."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, (InvalidInput, ToolUnreachable)):
            return error
        fault = self._wire.fault()
        if fault is None:
            from mcp.shared.exceptions import MCPError

            detail = error.message if isinstance(error, MCPError) else type(error).__name__
            message = f"{self._shown} violates the MCP protocol: {_printable(self._hide(detail))}"
            return InvalidInput("tool", self._explain(message))
        if fault.raised is not None:
            return fault.raised
        if fault.refused:
            return InvalidInput("tool", fault.message)
        return ToolUnreachable(fault.message, fault.retry_after)

    def _unanswered_error(self) -> DaybookError:
        fault = self._wire.fault()
        sent = self._wire.sent
        if fault is None:
            message = f"{self._shown}: the connection ended before the answer was complete"
            return CallUnanswered(message, sent=sent)
        if fault.raised is not None:
            return fault.raised
        return CallUnanswered(
            fault.message,
            sent=sent and fault.status is None,
            refused=fault.refused,
            status=fault.status,
            retry_after=fault.retry_after,
        )

    def _explain(self, message: str) -> str:
        return self._wire.explained(message)


async def connect(
    place: ToolLocation,
    secrets: SecretStore,
    *,
    occurrence: str = "",
    filled: FilledSecrets | None = None,
    secret_params: bool = False,
) -> Connection:
    """Open a connection to the server of ``place``. Add the secrets of its headers to ``filled``.

    ``secret_params`` is True if the params of the call contain secrets. Raise the errors of
    `Connection.open`, and `InvalidInput` for a header or its secret.
    """
    from daybook.tools.http import HttpWire
    from daybook.tools.stdio import ProgramWire

    settings, filled = place.settings, filled if filled is not None else FilledSecrets()
    wire: Wire
    if settings.command:
        variables = environment.select(settings.environment)
        remember(environment.secret_replacements(variables))

        def hide(text: str) -> str:
            return environment.redact_secrets(filled.hide(text), variables)

        wire = ProgramWire(place.source, settings, filled.hide)
        opened = Connection(f'the tool server "{place.source}"', wire, hide, settings.read_only)
    else:
        url = place.guard.check(settings.url)
        where = SecretDestination.of_url(url)
        headers = {
            name: await references.fill("headers", value, where, secrets, filled)
            for name, value in settings.headers.items()
        }
        secret_headers = {
            n.lower() for n, value in settings.headers.items() if references.referenced_names(value)
        }
        http.check("POST", headers)  # a secret may contain characters that are invalid in a header
        if occurrence:
            headers[IDEMPOTENCY_KEY] = idempotency_key(occurrence)
        if secret_params:
            secret_headers.add(SECRET_BODY)
        wire = HttpWire(place.guard, str(url), headers, frozenset(secret_headers))
        opened = Connection(wire.shown, wire, filled.hide, settings.read_only)
    await opened.open()
    return opened


@asynccontextmanager
async def open_to_list(place: ToolLocation, secrets: SecretStore) -> AsyncIterator[Connection]:
    """Open a connection only to list the tools of ``place``. Raise the errors of `connect`."""
    connection = await connect(place, secrets)
    try:
        connection.done()
        yield connection
    finally:
        await connection.close()


def _is_valid_name(name: str) -> bool:
    is_word = name.isprintable() and " " not in name and not hidden_character(name)
    return is_word and 0 < len(name) <= MAX_NAME_LENGTH


def _printable(text: str) -> str:
    """Return ``text`` without characters that a terminal would interpret.

    Shorten it to `MAX_DESCRIPTION_LENGTH` characters.
    """
    cleaned = "".join(each if each.isprintable() or each == "\n" else " " for each in text)
    return clip(cleaned, MAX_DESCRIPTION_LENGTH)
