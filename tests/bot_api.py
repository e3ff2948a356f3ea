"""A local Telegram: a server of the Bot API, and the people who write to the bot.

Written from https://core.telegram.org/bots/api: `getUpdates` with long polling and an offset that
confirms, one poller at a time (409), messages with HTML, inline keyboards, replies, documents and
photos with `getFile`,
`answerCallbackQuery`, `sendChatAction` and edits.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.chat_service import ChatService, SentMessage

TOKEN = "1234567890:AAE-s3cr3t-t0ken-of-the-bot"
_TAG = re.compile(r"</?([a-z]+)[^>]*>")
_TAGS = frozenset({"b", "i", "u", "s", "a", "code", "pre", "blockquote"})
NOW = 1_800_000_000


class Sent(SentMessage):
    """A message of the bot."""

    @property
    def plain(self) -> str:
        text = _TAG.sub("", self.text)
        return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


class BotApi(ChatService[Sent]):
    """The server."""

    service, chat, identifies = "telegram", "1", "getMe"

    def __init__(self, token: str = TOKEN) -> None:
        super().__init__()
        self.token = token
        self.redelivers = False
        """Whether confirmed updates are delivered again."""
        self.shuffle: Callable[[list[dict[str, Any]]], None] | None = None
        """Changes the order of the updates of one response."""
        self.disturb: Callable[[str], tuple[bool, Response] | None] | None = None
        """Returns a response in place of that of a method, and whether it is done nevertheless."""
        self.next_update = 500
        self.files: dict[str, tuple[str, bytes]] = {}
        """The path and the content of each file that people have sent, by its id."""
        self._updates: list[dict[str, Any]] = []
        self._next_message = 1_000
        self._poll = 0

    @property
    def settings(self) -> dict[str, str]:
        return {"token": self.token, "api_url": self.address}

    # --- people

    def write(
        self,
        text: str = "",
        *,
        person: int = 1,
        name: str = "Anna",
        chat: int | None = None,
        reply_to: Sent | int | None = None,
        **content: Any,
    ) -> int:
        """Write a message to the bot, in private or in a group ``chat``. Return its id."""
        message = self._message(person, name, chat) | content
        if text:
            message["text"] = text
        if reply_to is not None:
            id_ = reply_to if isinstance(reply_to, int) else reply_to.id
            known = next((each for each in self.sent if each.id == id_), None)
            replied = {**self._message(0, "bot", chat), "message_id": id_}
            replied["from"] = self._bot()
            replied["text"] = known.plain if known else "an older message"
            message["reply_to_message"] = replied
        self._add({"message": message})
        return int(message["message_id"])

    def sends(self, content: bytes, text: str = "", **given: Any) -> int:
        """Send a picture, with a caption or none. Return the message's id."""
        id_ = f"file-{len(self.files)}"
        self.files[id_] = f"photos/{id_}.jpg", content
        size = {"file_id": id_, "file_unique_id": id_, "width": 90, "height": 60}
        photo = [{**size, "file_id": "small", "width": 9}, {**size, "file_size": len(content)}]
        if text:
            given["caption"] = text
        return self.write(photo=photo, **given)

    def press(self, on: Sent, word: str, *, person: int = 1, name: str = "Anna") -> None:
        """Press the button with this word, whether the message has it or not."""
        message = {"message_id": on.id, "date": NOW, "chat": self._chat(person, on.chat_id)}
        query = {
            "id": f"press-{self.next_update}",
            "from": {"id": person, "is_bot": False, "first_name": name},
            "chat_instance": "1",
            "message": message | {"text": on.plain},
            "data": word,
        }
        self._add({"callback_query": query})

    def _message(self, person: int, name: str, chat: int | None) -> dict[str, Any]:
        self._next_message += 1
        return {
            "message_id": self._next_message,
            "date": NOW,
            "chat": self._chat(person, str(chat or person)),
            "from": {"id": person, "is_bot": False, "first_name": name},
        }

    def _chat(self, person: int, chat: str) -> dict[str, Any]:
        if chat.startswith("-"):
            return {"id": int(chat), "type": "group", "title": "Team"}
        return {"id": int(chat), "type": "private", "first_name": "Anna"}

    def _add(self, content: dict[str, Any]) -> None:
        self._updates.append({"update_id": self.next_update, **content})
        self.next_update += 1
        self._change()

    # --- the server

    async def handle(self, request: Request) -> Response:
        method = request.path_params["method"]
        self.calls.append(method)
        self._change()
        if request.path_params["token"] != self.token:
            return _error(401, "Unauthorized")
        if faults := self.faults.get(method):
            return faults.popleft()()
        is_done, disturbed = (self.disturb and self.disturb(method)) or (True, None)
        if not is_done and disturbed is not None:
            return disturbed
        form: dict[str, Any] = dict(await request.form())
        if method == "getUpdates":
            return disturbed or await self._get_updates(form)
        handler: Callable[[dict[str, Any]], Any] | None = getattr(self, f"_{method}", None)
        if handler is None:
            return _error(404, "Not Found")
        result = handler(form)
        if asyncio.iscoroutine(result):
            result = await result
        self._change()
        if disturbed is not None:
            return disturbed
        return result if isinstance(result, Response) else _ok(result)

    async def _get_updates(self, form: dict[str, Any]) -> Response:
        self._poll += 1
        mine = self._poll
        self._change()  # ends the poll of another program
        offset = int(form.get("offset", 0))
        if offset and not self.redelivers:
            self._updates = [each for each in self._updates if each["update_id"] >= offset]
        with suppress(TimeoutError):
            async with asyncio.timeout(float(form.get("timeout", 0))):
                while not self._unconfirmed(offset) and self._poll == mine:
                    await self._changed.wait()
        if self._poll != mine:
            return _error(409, "Conflict: terminated by other getUpdates request")
        found = self._unconfirmed(offset)
        if found and self.redelivers:
            found = [
                *reversed([each for each in self._updates if each["update_id"] < offset][-50:])
            ]
            found += self._unconfirmed(offset)
        found = found[:100]
        if self.shuffle is not None:
            self.shuffle(found)
        return _ok(found)

    def _unconfirmed(self, offset: int) -> list[dict[str, Any]]:
        return [each for each in self._updates if each["update_id"] >= offset]

    def _bot(self) -> dict[str, Any]:
        return {"id": 99, "is_bot": True, "first_name": "Daybook", "username": "daybook_bot"}

    def _getMe(self, form: dict[str, Any]) -> Any:
        return self._bot()

    def _getFile(self, form: dict[str, Any]) -> Any:
        id_ = str(form["file_id"])
        if id_ not in self.files:
            return _error(400, "Bad Request: wrong file_id or the file is temporarily unavailable")
        return {"file_id": id_, "file_unique_id": id_, "file_path": self.files[id_][0]}

    async def download(self, request: Request) -> Response:
        self.calls.append("file")
        if request.path_params["token"] != self.token:
            return _error(401, "Unauthorized")
        if faults := self.faults.get("file"):
            return faults.popleft()()
        path = request.path_params["path"]
        return Response(next(each for name, each in self.files.values() if name == path))

    def _sendMessage(self, form: dict[str, Any]) -> Any:
        return self._send(form, str(form["text"]), form.get("parse_mode") == "HTML")

    async def _sendDocument(self, form: dict[str, Any]) -> Any:
        found = next(each for each in form.values() if isinstance(each, UploadFile))
        document = (str(found.filename), await found.read())
        await found.close()
        return self._send(form, str(form.get("caption", "")), False, document)

    def _send(
        self,
        form: dict[str, Any],
        text: str,
        is_html: bool,
        document: tuple[str, bytes] | None = None,
    ) -> Any:
        if problem := _problem(text, is_html):
            return problem
        self._next_message += 1
        reply = json.loads(form.get("reply_parameters", "{}"))
        sent = Sent(
            self._next_message,
            str(form["chat_id"]),
            text,
            _buttons(form),
            reply.get("message_id"),
            document,
        )
        self.sent.append(sent)
        return self._as_message(sent)

    def _as_message(self, sent: Sent) -> dict[str, Any]:
        chat = self._chat(1, sent.chat_id)
        return {"message_id": sent.id, "date": NOW, "chat": chat, "text": sent.plain}

    def _sendChatAction(self, form: dict[str, Any]) -> Any:
        self.typing.append(str(form["chat_id"]))
        return True

    def _answerCallbackQuery(self, form: dict[str, Any]) -> Any:
        self.acknowledged.append((str(form["callback_query_id"]), str(form.get("text", ""))))
        return True

    def _editMessageReplyMarkup(self, form: dict[str, Any]) -> Any:
        sent = next(each for each in self.sent if each.id == int(form["message_id"]))
        if sent.buttons == (buttons := _buttons(form)):
            return _error(400, "Bad Request: message is not modified")
        sent.buttons = buttons
        return self._as_message(sent)

    def _deleteMessage(self, form: dict[str, Any]) -> Any:
        sent = next(each for each in self.sent if each.id == int(form["message_id"]))
        if sent.is_deleted:
            return _error(400, "Bad Request: message to delete not found")
        sent.is_deleted = True
        return True

    def _editMessageText(self, form: dict[str, Any]) -> Any:
        sent = next(each for each in self.sent if each.id == int(form["message_id"]))
        if sent.is_deleted:
            return _error(400, "Bad Request: message to edit not found")
        text = str(form["text"])
        if problem := _problem(text, form.get("parse_mode") == "HTML"):
            return problem
        sent.text, sent.buttons = text, _buttons(form)
        sent.edits.append(text)
        return self._as_message(sent)


def _problem(text: str, is_html: bool) -> Response | None:
    if is_html and (tags := {found[1] for found in _TAG.finditer(text)} - _TAGS):
        start = f'Unsupported start tag "{sorted(tags)[0]}"'
        return _error(400, f"Bad Request: can't parse entities: {start} at byte offset 0")
    if not text.strip() and is_html:
        return _error(400, "Bad Request: message text is empty")
    shown = _TAG.sub("", text) if is_html else text
    if len(shown.encode("utf-16-le")) // 2 > 4_096:
        return _error(400, "Bad Request: message is too long")
    return None


def _buttons(form: dict[str, Any]) -> dict[str, str]:
    rows = json.loads(form.get("reply_markup", "{}")).get("inline_keyboard", [])
    return {each["text"]: each["callback_data"] for row in rows for each in row}


def _ok(result: Any) -> Response:
    return JSONResponse({"ok": True, "result": result})


def _error(code: int, description: str, **parameters: Any) -> Response:
    body = {"ok": False, "error_code": code, "description": description, "parameters": parameters}
    return JSONResponse(body, code)


def too_many(seconds: float) -> Callable[[], Response]:
    """Return the response of a bot that sends too much."""
    text = f"Too Many Requests: retry after {seconds}"
    return lambda: _error(429, text, retry_after=seconds)


def error(code: int, description: str) -> Callable[[], Response]:
    return lambda: _error(code, description)


def bad_gateway() -> Response:
    return Response("<html>502 Bad Gateway</html>", 502)


@asynccontextmanager
async def serving(token: str = TOKEN, host: str = "127.0.0.1") -> AsyncIterator[BotApi]:
    """Yield a Bot API at the address ``host`` that serves until the context ends."""
    api = BotApi(token)
    api.host = host
    routes = [
        Route("/bot{token}/{method}", api.handle, methods=["GET", "POST"]),
        Route("/file/bot{token}/{path:path}", api.download),
    ]
    app = Starlette(routes=routes)
    async with api.listening(app):
        yield api
