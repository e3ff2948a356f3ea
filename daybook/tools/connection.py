"""The MCP client's connection to a tool server: open, list, call, close.

Each call of a job has a connection of its own; an agent's calls, one after the other, share one
(`pool`).

The protocol's library ties its tasks to the task that opened them, and cancels that task when a
connection breaks. Here a task of our own opens them: a server that dies between claim and call must
not cancel the task that writes to the ledger in the meantime.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import daybook
from daybook.errors import DaybookError, InvalidInput, ToolUnreachable
from daybook.http import request as http
from daybook.http import secrets as references
from daybook.http.guard import Guard
from daybook.http.request import IDEMPOTENCY_KEY, idempotency_key
from daybook.http.secrets import FilledSecrets, SecretDestination, SecretStore
from daybook.http.transport import SECRET_BODY
from daybook.processes.ending import wait_shielded
from daybook.tools.answers import HideSecrets
from daybook.tools.server_blocks import ToolServerSettings
from daybook.tools.wire import Wire

if TYPE_CHECKING:
    from mcp.client.client import Client
    from mcp.client.session import ClientSession
    from mcp_types import CallToolResult


OPEN_TIMEOUT_SECONDS = 30.0
"""Timeout to start or reach a server and to list its tools; less than a lease lasts."""

CLOSE_TIMEOUT_SECONDS = 3.0
"""Timeout to close the connection to a server at an address. A program has its own (`stdio`)."""

OCCURRENCE_META_KEY = "daybook/idempotency-key"
"""The key of a call's ``_meta`` that holds its occurrence."""

MAX_TOOLS = 1_000
MAX_PAGES = 50
MAX_NAME_LENGTH = 128
MAX_DESCRIPTION_LENGTH = 1_000

_QUIET = ("mcp.client", "mcp.shared", "client", "httpx2")
"""Loggers that would log messages, addresses with their query, or tracebacks."""


@dataclass(frozen=True)
class ToolLocation:
    """A tool of a server. ``name`` is what a job writes; ``source`` is that of its `ToolInfo`."""

    name: str
    tool: str
    source: str
    settings: ToolServerSettings
    guard: Guard


@dataclass(frozen=True)
class ToolDescription:
    """A tool as its server describes it, made safe to display.

    ``read_only``: the server says that the tool changes nothing.
    """

    description: str
    schema: dict[str, Any] = field(hash=False)
    read_only: bool = False


class CallUnanswered(DaybookError):
    """A call has no answer, or none that says whether it was done.

    ``sent``: the call may have had its effect; ``timed_out``: the timeout passed; ``refused``:
    trying again cannot help; ``retry_after`` is in seconds, None if the server gave no delay.
    """

    code = "no_answer"

    def __init__(
        self,
        message: str,
        *,
        sent: bool,
        timed_out: bool = False,
        refused: bool = False,
        retry_after: float | None = None,
    ) -> None:
        self.sent = sent
        self.timed_out = timed_out
        self.refused = refused
        self.retry_after = retry_after
        super().__init__(message)


class CallFailed(DaybookError):
    """The server answered the call with an error."""

    code = "tool_failed"


class Connection:
    """A connection to one server. ``tools`` are the server's tools, by its own names for them.

    ``hide`` replaces the secrets in the server's messages while it is opened: it may repeat a
    header.
    """

    def __init__(self, shown: str, wire: Wire, hide: HideSecrets = str) -> None:
        self.tools: dict[str, ToolDescription] = {}
        self._shown = shown
        self._wire = wire
        self._hide = hide
        self._over = asyncio.Event()
        self._session: ClientSession | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def open(self, within: float = OPEN_TIMEOUT_SECONDS) -> None:
        """Connect. Raises `InvalidInput`, `OutgoingRefused` or `ToolUnreachable`."""
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
        self, tool: str, params: dict[str, Any], occurrence: str, *, timeout: float
    ) -> CallToolResult:
        """Call once, with a ``timeout`` in seconds.

        Raises `CallFailed`, `CallUnanswered` and `OutgoingRefused`.

        If the server asks for input instead of answering, the call fails: a job cannot answer.
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
                # Not `call_tool`: it would send again, or look up a schema of the answer.
                answer = await self._session.send_request(request, kinds)
        except TimeoutError:
            await self.close()  # so that `fault` knows how it ended
            fault = self._wire.fault()
            if fault is not None and fault.undone:  # only the body of the answer is missing
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
        self._wire.gently()
        return answer  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Close; everything is closed when this returns, even if it is cancelled."""
        if self._keeper is not None:
            await wait_shielded(asyncio.create_task(self._closed(self._keeper)))

    def done(self) -> None:
        """Mark the work as done: the server may now exit by itself."""
        self._wire.gently()

    async def _closed(self, keeper: asyncio.Task[None]) -> None:
        self._over.set()
        if self._session is None:  # it is still being opened
            keeper.cancel()
        await asyncio.wait({keeper}, timeout=CLOSE_TIMEOUT_SECONDS)
        if not keeper.done():
            keeper.cancel()
            await asyncio.wait({keeper})
        if not keeper.cancelled():
            keeper.exception()  # marks the exception as retrieved

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
                if _is_valid_name(tool.name) and len(self.tools) < MAX_TOOLS:
                    description = _printable(tool.description or tool.title or "")
                    hints = tool.annotations
                    read_only = hints is not None and hints.read_only_hint is True
                    described = ToolDescription(description, tool.input_schema, read_only)
                    self.tools[tool.name] = described
            cursor = page.next_cursor
            if cursor is None:
                return

    def _opening_error(self, error: BaseException | None) -> DaybookError:
        """Return the error to raise for the exception that ended the opening."""
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
            sent=sent and not fault.undone,
            refused=fault.refused,
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
    """Open a connection to the server of ``place``; adds the secrets of its headers to ``filled``.

    ``secret_params``: a call will hold secrets. Raises the same errors as `Connection.open`.
    """
    from daybook.tools.http import HttpWire
    from daybook.tools.stdio import ProgramWire

    settings, filled = place.settings, filled if filled is not None else FilledSecrets()
    wire: Wire
    if settings.command:
        wire = ProgramWire(place.source, settings, filled.hide)
        opened = Connection(f'the tool server "{place.source}"', wire, filled.hide)
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
        http.check("POST", headers)  # a secret may hold characters that are invalid in a header
        if occurrence:
            headers[IDEMPOTENCY_KEY] = idempotency_key(occurrence)
        if secret_params:
            secret_headers.add(SECRET_BODY)
        wire = HttpWire(place.guard, str(url), headers, frozenset(secret_headers))
        opened = Connection(wire.shown, wire, filled.hide)
    await opened.open()
    return opened


@asynccontextmanager
async def open_to_list(place: ToolLocation, secrets: SecretStore) -> AsyncIterator[Connection]:
    """Open a connection to list the tools of ``place``."""
    connection = await connect(place, secrets)
    try:
        connection.done()
        yield connection
    finally:
        await connection.close()


def _is_valid_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable() and " " not in name


def _printable(text: str) -> str:
    """Replace the characters that a terminal would interpret, and cut the text."""
    cleaned = "".join(each if each.isprintable() or each == "\n" else " " for each in text)
    return (
        cleaned
        if len(cleaned) <= MAX_DESCRIPTION_LENGTH
        else f"{cleaned[:MAX_DESCRIPTION_LENGTH]} …"
    )
