"""A connection to the server of a tool: opened, listed, called, closed.

A job's call has one of its own; an agent's calls, one after the other, share one (`held`).

The protocol's library keeps its tasks together with whoever opened them, and ends that one when a
connection breaks. Here it is a task of our own: a server that dies between claim and call must not
cancel what writes to the ledger meanwhile.
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
from daybook.http.request import IDEMPOTENCY_KEY, idempotency_key
from daybook.http.secrets import FilledSecrets, SecretDestination, SecretStore
from daybook.http.transport import SECRET_BODY
from daybook.processes.ending import wait_shielded
from daybook.tools.answers import Hide
from daybook.tools.wire import Wire

if TYPE_CHECKING:
    from mcp.client.client import Client
    from mcp.client.session import ClientSession
    from mcp_types import CallToolResult

    from daybook.tools.catalog import Place

OPENS = 30.0
"""Seconds to start or reach a server and to hear of its tools; less than a lease lasts."""

CLOSES = 3.0
"""Seconds for the farewell to a server at an address. A program has its own (`stdio`)."""

META = "daybook/idempotency-key"
"""Under this name every call carries its occurrence."""

MOST_TOOLS = 1_000
MOST_PAGES = 50
LONGEST_NAME = 128
LONGEST_DESCRIPTION = 1_000

_QUIET = ("mcp.client", "mcp.shared", "client", "httpx2")
"""Loggers that would write down what is sent, addresses with their query, or tracebacks."""


@dataclass(frozen=True)
class Described:
    """A tool as its server describes it, made harmless to show.

    ``read_only``: the server says that it changes nothing.
    """

    description: str
    schema: dict[str, Any] = field(hash=False)
    read_only: bool = False


class Unanswered(DaybookError):
    """No answer to a call, or none that says whether it was done.

    ``sent`` says that the call may have had its effect; ``timed_out`` that the time was up;
    ``refused`` that trying again cannot help; ``retry_after`` is in seconds, None where the other
    side named none.
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


class Failed(DaybookError):
    """The server answered the call with an error."""

    code = "tool_failed"


class Connection:
    """``tools`` are those of the server, by its own names for them. ``hide`` takes the secrets out
    of what a server says when it is opened: it may repeat a header.
    """

    def __init__(self, shown: str, wire: Wire, hide: Hide = str) -> None:
        self.tools: dict[str, Described] = {}
        self._shown = shown
        self._wire = wire
        self._hide = hide
        self._over = asyncio.Event()
        self._session: ClientSession | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def open(self, within: float = OPENS) -> None:
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
            told = self._explained(f"{self._shown} did not answer within {within:g} s")
            raise ToolUnreachable(told)
        raise self._why_not(keeper.exception())

    async def call(
        self, tool: str, params: dict[str, Any], occurrence: str, *, timeout: float
    ) -> CallToolResult:
        """Call once; ``timeout`` in seconds. Raises `Failed`, `Unanswered` and `OutgoingRefused`.

        A server that asks for something in place of an answer has failed: nobody is here to answer.
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
        meta: Any = {META: occurrence}
        request = CallToolRequest(
            params=CallToolRequestParams(name=tool, arguments=params, meta=meta)
        )
        kinds = TypeAdapter[Any](CallToolResult | InputRequiredResult)
        try:
            async with asyncio.timeout(timeout):
                # Not `call_tool`: it would send again, or look for a schema of the answer.
                answer = await self._session.send_request(request, kinds)
        except TimeoutError:
            await self.close()  # so that all is known of how it ended
            fault = self._wire.fault()
            if fault is not None and fault.undone:  # only the words to it are missing
                raise self._unanswered() from None
            told = self._explained(f"{self._shown} did not answer within {timeout:g} s")
            raise Unanswered(told, sent=self._wire.sent, timed_out=True) from None
        except ValidationError:
            raise Unanswered(f"{self._shown} gave an answer that is none", sent=True) from None
        except MCPError as error:
            if self._wire.came(error.code):
                raise Failed(error.message) from None
            await self.close()
            raise self._unanswered() from None
        if isinstance(answer, InputRequiredResult):
            raise Failed("it asks for input before it answers, and a job has none to give")
        self._wire.gently()
        return answer  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Nothing of it is left when this returns, also where it is cancelled."""
        if self._keeper is not None:
            await wait_shielded(asyncio.create_task(self._closed(self._keeper)))

    def done(self) -> None:
        """There is nothing more to ask: the server may end by itself."""
        self._wire.gently()

    async def _closed(self, keeper: asyncio.Task[None]) -> None:
        self._over.set()
        if self._session is None:  # it is still being opened
            keeper.cancel()
        await asyncio.wait({keeper}, timeout=CLOSES)
        if not keeper.done():
            keeper.cancel()
            await asyncio.wait({keeper})
        if not keeper.cancelled():
            keeper.exception()  # seen

    async def _keep(self, ready: asyncio.Event) -> None:
        from mcp.client.client import Client
        from mcp_types import Implementation

        for name in _QUIET:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        who = Implementation(name="daybook", version=daybook.__version__)
        async with Client(self._wire, client_info=who, cache=None) as client:
            await self._list(client)
            self._session = client.session
            ready.set()
            await self._over.wait()

    async def _list(self, client: Client) -> None:
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                if _is_name(tool.name) and len(self.tools) < MOST_TOOLS:
                    description = _harmless(tool.description or tool.title or "")
                    hints = tool.annotations
                    only_reads = hints is not None and hints.read_only_hint is True
                    described = Described(description, tool.input_schema, only_reads)
                    self.tools[tool.name] = described
            cursor = page.next_cursor
            if cursor is None:
                return

    def _why_not(self, error: BaseException | None) -> DaybookError:
        """Of what ended the opening."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, (InvalidInput, ToolUnreachable)):
            return error
        fault = self._wire.fault()
        if fault is None:
            from mcp.shared.exceptions import MCPError

            said = error.message if isinstance(error, MCPError) else type(error).__name__
            told = f"{self._shown} does not speak MCP as it should: {_harmless(self._hide(said))}"
            return InvalidInput("tool", self._explained(told))
        if fault.raised is not None:
            return fault.raised
        if fault.refused:
            return InvalidInput("tool", fault.told)
        return ToolUnreachable(fault.told, fault.retry_after)

    def _unanswered(self) -> DaybookError:
        fault = self._wire.fault()
        sent = self._wire.sent
        if fault is None:
            told = f"{self._shown}: the connection ended before the whole answer"
            return Unanswered(told, sent=sent)
        if fault.raised is not None:
            return fault.raised
        return Unanswered(
            fault.told,
            sent=sent and not fault.undone,
            refused=fault.refused,
            retry_after=fault.retry_after,
        )

    def _explained(self, told: str) -> str:
        return self._wire.explained(told)


async def connected(
    place: Place,
    secrets: SecretStore,
    *,
    occurrence: str = "",
    filled: FilledSecrets | None = None,
    secret_params: bool = False,
) -> Connection:
    """A connection to the server of ``place``; the secrets of its headers are added to ``filled``.

    ``secret_params`` says that a call will hold secrets. Raises as `Connection.open`.
    """
    from daybook.tools.http import HttpWire
    from daybook.tools.stdio import ProgramWire

    settings, filled = place.settings, filled if filled is not None else FilledSecrets()
    wire: Wire
    if settings.command:
        wire = ProgramWire(place.source, settings, filled.hide)
        made = Connection(f'the tool server "{place.source}"', wire, filled.hide)
    else:
        url = place.guard.check(settings.url)
        where = SecretDestination.of_url(url)
        headers = {
            name: await references.fill("headers", value, where, secrets, filled)
            for name, value in settings.headers.items()
        }
        secret = {
            n.lower() for n, value in settings.headers.items() if references.referenced_names(value)
        }
        http.check("POST", headers)  # a secret may hold what no header can
        if occurrence:
            headers[IDEMPOTENCY_KEY] = idempotency_key(occurrence)
        if secret_params:
            secret.add(SECRET_BODY)
        wire = HttpWire(place.guard, str(url), headers, frozenset(secret))
        made = Connection(wire.shown, wire, filled.hide)
    await made.open()
    return made


@asynccontextmanager
async def opened(place: Place, secrets: SecretStore) -> AsyncIterator[Connection]:
    """To look at the tools of ``place``."""
    there = await connected(place, secrets)
    try:
        there.done()
        yield there
    finally:
        await there.close()


def _is_name(name: str) -> bool:
    return 0 < len(name) <= LONGEST_NAME and name.isprintable() and " " not in name


def _harmless(text: str) -> str:
    """Without what a terminal would act upon."""
    kept = "".join(each if each.isprintable() or each == "\n" else " " for each in text)
    return kept if len(kept) <= LONGEST_DESCRIPTION else f"{kept[:LONGEST_DESCRIPTION]} …"
