"""Sessions with saved servers. A session stays open for all calls of an agent's answer.

If the connection of a session is broken, the session opens a new one for the next call. The same
call is repeated on a new connection only if it was never sent, or if the server refused it with a
status such as 404 for an unknown session. A model reads the server's answers and errors, so the
session limits their length, and replaces the secrets that were sent to the server.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from daybook.errors import DaybookError
from daybook.http import secrets as references
from daybook.http.guard import Guard, Rule
from daybook.http.secrets import FilledSecrets, Secret, SecretStore
from daybook.json_text import JsonObject
from daybook.processes import environment
from daybook.tools import answers, connection
from daybook.tools.connection import (
    CallFailed,
    CallUnanswered,
    Connection,
    ToolDescription,
    ToolLocation,
)
from daybook.tools.server_blocks import ToolServer

if TYPE_CHECKING:
    from mcp_types import CallToolResult

MAX_ANSWER_CHARACTERS = 40_000
"""Maximum length of an answer for a model in characters: about ten thousand tokens."""


def truncate(text: str) -> str:
    """Return ``text``, shortened to the maximum length of an answer for a model."""
    if len(text) <= MAX_ANSWER_CHARACTERS:
        return text
    return f"{text[:MAX_ANSWER_CHARACTERS]}\n[cut here: the answer has {len(text):,} characters]"


@dataclass(frozen=True)
class PreloadedSecrets:
    """`SecretStore` with secrets that were read in advance, for code that cannot access Prefect."""

    known: dict[str, Secret] = field(default_factory=dict, repr=False)

    async def read(self, name: str) -> Secret:
        return self.known[name]

    @classmethod
    async def of(cls, server: ToolServer, secrets: SecretStore) -> PreloadedSecrets:
        """Read the secrets to which the server's headers refer.

        Raise the errors of `SecretStore.read`.
        """
        names = sorted(references.referenced_names(list(server.settings.headers.values())))
        return cls({name: await secrets.read(name) for name in names})


class PooledSession:
    """Session with one server.

    Once the session is open, ``tools`` maps the server's own names to its tools.
    """

    def __init__(self, server: ToolServer, secrets: SecretStore) -> None:
        self.tools: dict[str, ToolDescription] = {}
        self.name = server.name
        guard = Guard.from_settings(Rule.OPERATOR)
        self._place = ToolLocation(server.name, "", server.name, server.settings, guard)
        self._secrets = secrets
        self._filled = FilledSecrets()
        self._variables = environment.select(server.settings.environment)
        self._open: Connection | None = None

    async def open(self) -> None:
        """Open the connection. Raise the errors of `connection.connect`."""
        self._open = await connection.connect(self._place, self._secrets, filled=self._filled)
        self.tools = self._open.tools

    async def call(self, tool: str, params: JsonObject, key: str, timeout: float) -> str:
        """Call the tool once, within ``timeout`` seconds.

        ``key`` is the idempotency key of the call. The timeout includes the time to open a
        connection, if none is open. Raise `CallFailed`, with a message for the model.
        """
        try:
            answer = await self._call_or_reopen(tool, params, key, timeout)
        except CallUnanswered as error:
            await self.close()
            unknown = "; the call was sent, so its effect is unknown" if error.sent else ""
            raise CallFailed(truncate(self._hide(f"{error}{unknown}"))) from None
        except DaybookError as error:
            raise CallFailed(truncate(self._hide(str(error)))) from None
        text, _ = answers.from_mcp(answer, self._hide)
        text_for_model = truncate(text.kept)
        if answer.is_error:
            raise CallFailed(text_for_model or "the tool failed without a message")
        return text_for_model

    async def _call_or_reopen(
        self, tool: str, params: JsonObject, key: str, timeout: float
    ) -> CallToolResult:
        """Call the tool, over a new connection if none is open.

        If the call could not be sent because the server had died, or if the server refused it,
        repeat the call over a new connection. ``timeout``, in seconds, includes both calls and the
        time to open the connection. Raise `CallUnanswered`, and the errors of `open`.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        if self._open is not None:
            try:
                return await self._open.call(tool, params, key, timeout=timeout)
            except CallUnanswered as error:
                await self.close()
                # After a 5xx the call may have had its effect, and after a 429 a repetition would
                # be too early.
                has_failed = error.status == HTTPStatus.TOO_MANY_REQUESTS or (
                    error.status is not None and error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
                )
                is_final = error.timed_out or error.retry_after is not None or has_failed
                if error.sent or is_final or loop.time() >= end:
                    raise
        try:
            async with asyncio.timeout_at(end):
                await self.open()
        except TimeoutError:
            message = f'the tool server "{self.name}" was not ready within {timeout:g} s'
            raise CallUnanswered(message, sent=False, timed_out=True) from None
        assert self._open is not None
        return await self._open.call(tool, params, key, timeout=max(end - loop.time(), 0.0))

    async def close(self) -> None:
        """Close the connection if it is open, even if the caller is cancelled."""
        open_connection, self._open = self._open, None
        if open_connection is not None:
            await open_connection.close()

    def _hide(self, text: str) -> str:
        return environment.redact_secrets(self._filled.hide(text), self._variables)


async def open_all(servers: list[PooledSession]) -> None:
    """Open all sessions in parallel. When all of them are open or failed, raise the first error."""
    results = await asyncio.gather(*(each.open() for each in servers), return_exceptions=True)
    for error in results:
        if error is not None:
            raise error


async def close_all(servers: list[PooledSession]) -> None:
    """Close all sessions in parallel, because each may take seconds. Raise the first error."""
    results = await asyncio.gather(*(each.close() for each in servers), return_exceptions=True)
    for error in results:
        if error is not None:
            raise error
