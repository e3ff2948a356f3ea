"""What the local messaging services of the tests have in common: a server, and what it has got.

`tests.bot_api` is Telegram, and `tests.slack_api` is Slack.
"""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass
class SentMessage(ABC):
    """A message of the account. ``buttons`` are words by label."""

    id: Any
    chat_id: str
    text: str
    buttons: dict[str, str]
    reply_to: Any
    document: tuple[str, bytes] | None = None
    edits: list[str] = field(default_factory=list)
    is_deleted: bool = False

    @property
    @abstractmethod
    def plain(self) -> str:
        """Return the text without its markup."""


class Hanging(Response):
    """A response that never comes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


class Cut(Response):
    """A response whose connection the server closes in the middle."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": False})


M = TypeVar("M", bound=SentMessage)


class ChatService(Generic[M]):
    """The server. ``faults`` are the next responses of a method, in place of its own.

    ``service`` is the word of the service, and ``chat`` the id of Anna's private chat.
    """

    service: ClassVar[str]
    chat: ClassVar[str]
    identifies: ClassVar[str]
    """The method that `Platform.identity` calls."""

    def __init__(self) -> None:
        self.host, self.port = "127.0.0.1", 0
        self.sent: list[M] = []
        self.typing: list[str] = []
        self.acknowledged: list[tuple[str, str]] = []
        self.calls: list[str] = []
        self.faults: dict[str, deque[Callable[[], Response]]] = {}
        self._changed = asyncio.Event()

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    @abstractmethod
    def settings(self) -> dict[str, str]:
        """Return the settings of an account at this server."""

    @abstractmethod
    def write(self, text: str = "", *, reply_to: M | None = None) -> Any:
        """Write to the account as Anna, in private. Return the message's id."""

    @abstractmethod
    def sends(self, content: bytes, text: str = "") -> Any:
        """Send a picture to the account as Anna, in private. Return the message's id."""

    @abstractmethod
    def press(self, on: M, word: str) -> None:
        """Press the button with this word as Anna, whether the message has it or not."""

    def fail(self, method: str, *responses: Callable[[], Response]) -> None:
        self.faults.setdefault(method, deque()).extend(responses)

    def _change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def until(self, what: Callable[[], Any], within: float = 60.0) -> Any:
        """Wait until ``what`` returns a true value, and return it."""
        try:
            async with asyncio.timeout(within):
                while True:
                    changed = self._changed
                    if found := what():
                        return found
                    await changed.wait()
        except TimeoutError:
            raise AssertionError("not in time:\n" + "\n".join(map(str, self.sent))) from None

    async def message(self, text: str, within: float = 60.0) -> M:
        """Wait for a message of the account that contains ``text``. Return the newest one."""
        found: M = await self.until(
            lambda: next((each for each in reversed(self.sent) if text in each.plain), None), within
        )
        return found

    @asynccontextmanager
    async def listening(self, app: ASGIApp) -> AsyncIterator[None]:
        """Serve ``app`` at ``host`` until the context ends."""
        config = uvicorn.Config(
            app,
            host=self.host,
            port=0,
            log_level="critical",
            lifespan="off",
            ws="websockets-sansio",
        )
        server = uvicorn.Server(config)
        listening = socket.create_server((self.host, 0))
        self.port = listening.getsockname()[1]  # connections wait until it serves
        serves = asyncio.create_task(server._serve([listening]))
        try:
            yield
        finally:
            server.should_exit = server.force_exit = True
            self._change()
            await serves
            listening.close()
