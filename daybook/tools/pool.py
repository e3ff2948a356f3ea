"""A saved server that is held open while an agent answers, and called as often as it asks.

A connection that broke is opened anew: for the next call, or for the same where that never left.
What a server says, whether an answer or
an error, is read by a model: it is without the secrets that the server was given, and bounded.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from daybook.errors import DaybookError
from daybook.http import secrets as references
from daybook.http.guard import Guard, Rule
from daybook.http.secrets import FilledSecrets, Secret, SecretStore
from daybook.processes import environment
from daybook.tools import answers, connection
from daybook.tools.base import Server
from daybook.tools.catalog import Place
from daybook.tools.connection import Connection, Described, Failed, Unanswered

if TYPE_CHECKING:
    from mcp_types import CallToolResult

LONGEST = 40_000
"""Characters of an answer that a model is told; some ten thousand tokens."""


def told(text: str) -> str:
    """``text``, as long as a model is told it."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}\n[cut here: the answer has {len(text):,} characters]"


@dataclass(frozen=True)
class Read:
    """`SecretStore` that were read before, for who has no Prefect at hand any more."""

    known: dict[str, Secret] = field(default_factory=dict, repr=False)

    async def read(self, name: str) -> Secret:
        return self.known[name]

    @classmethod
    async def of(cls, server: Server, secrets: SecretStore) -> Read:
        """Those that its headers refer to. Raises what `SecretStore.read` raises."""
        names = sorted(references.referenced_names(list(server.settings.headers.values())))
        return cls({name: await secrets.read(name) for name in names})


class Held:
    """``tools`` are those of the server, by its own names for them, once it was opened."""

    def __init__(self, server: Server, secrets: SecretStore) -> None:
        self.tools: dict[str, Described] = {}
        self.name = server.name
        guard = Guard.here(Rule.OPERATOR)
        self._place = Place(server.name, "", server.name, server.settings, guard)
        self._secrets = secrets
        self._filled = FilledSecrets()
        self._variables = environment.allowed(server.settings.environment)
        self._open: Connection | None = None

    async def open(self) -> None:
        """Raises as `Connection.open`."""
        self._open = await connection.connected(self._place, self._secrets, filled=self._filled)
        self.tools = self._open.tools

    async def call(self, tool: str, params: dict[str, Any], key: str, timeout: float) -> str:
        """Call once, within ``timeout`` seconds; ``key`` is what the call is known by.

        Raises `DaybookError`, in words for a model.
        """
        try:
            answer = await self._called(tool, params, key, timeout)
        except Unanswered as error:
            await self.close()
            unknown = "; it was sent, and whether it was done is not known" if error.sent else ""
            raise Failed(told(self._hidden(f"{error}{unknown}"))) from None
        except DaybookError as error:
            raise Failed(told(self._hidden(str(error)))) from None
        text, _ = answers.of_mcp(answer, self._hidden)
        said = told(text.kept)
        if answer.is_error:
            raise Failed(said or "the tool says that it failed, and no more")
        return said

    async def _called(
        self, tool: str, params: dict[str, Any], key: str, timeout: float
    ) -> CallToolResult:
        """Once more over a new connection where the call never left: the server had died."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        if self._open is not None:
            try:
                return await self._open.call(tool, params, key, timeout=timeout)
            except Unanswered as error:
                await self.close()
                later = error.timed_out or error.retry_after is not None
                if error.sent or later or loop.time() >= end:
                    raise
        await self.open()
        assert self._open is not None
        return await self._open.call(tool, params, key, timeout=max(end - loop.time(), 0.0))

    async def close(self) -> None:
        """Nothing of it is left when this returns."""
        there, self._open = self._open, None
        if there is not None:
            await there.close()

    def _hidden(self, text: str) -> str:
        return environment.redact_secrets(self._filled.hide(text), self._variables)


async def opened(servers: list[Held]) -> None:
    """Open all of them at once; raises what the first of them raises, when all have been tried."""
    done = await asyncio.gather(*(each.open() for each in servers), return_exceptions=True)
    for error in done:
        if error is not None:
            raise error


async def closed(servers: list[Held]) -> None:
    """Close all of them at once: each may take seconds. Raises what the first of them raises."""
    done = await asyncio.gather(*(each.close() for each in servers), return_exceptions=True)
    for error in done:
        if error is not None:
            raise error
