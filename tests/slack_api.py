"""A local Slack: its Web API over HTTP, Socket Mode over a WebSocket, and the people who write.

Written from https://docs.slack.dev: `apps.connections.open` returns an address with a ticket for
one connection, on which Slack sends `hello`, envelopes and `disconnect`. An envelope that is not
acknowledged is delivered again, on the newest connection. Messages have `mrkdwn`, blocks, threads
and reactions; a file is uploaded in three steps, and read with the bot's token.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from daybook.features.conversations.slack import SCOPES
from tests.chat_service import ChatService, SentMessage

BOT_TOKEN = "xoxb-1-2-s3cr3tOfTheBot"
APP_TOKEN = "xapp-1-A1-2-s3cr3tOfTheApp"
ME, NOW = "UBOT", 1_800_000_000
NAMES = {"U1": "Anna", "U2": "Ben"}


class Sent(SentMessage):
    """A message of the app: ``reply_to`` is its thread. ``blocks`` are those that it shows."""

    blocks: list[dict[str, Any]]

    @property
    def plain(self) -> str:
        shown = "\n".join(each["text"]["text"] for each in self.blocks if each["type"] == "section")
        text = re.sub("[*`]", "", shown or self.text)
        return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


class SlackApi(ChatService[Sent]):
    """The server."""

    service, chat, identifies = "slack", "D1", "auth.test"

    def __init__(self) -> None:
        super().__init__()
        self.scopes = ",".join(SCOPES)
        self.reactions = set[tuple[str, str]]()
        self.unacknowledged: dict[str, dict[str, Any]] = {}
        self.sockets: list[WebSocket] = []
        self.acknowledges = True
        """Whether an acknowledgement has an effect; without it, each connection delivers again."""
        self.files: dict[str, dict[str, Any]] = {}
        """The file object of each file that people have sent, by its id."""
        self.contents: dict[str, bytes] = {}
        self._tickets, self._used = set[str](), set[str]()
        self._count = 0
        self._uploads: dict[str, tuple[str, bytes]] = {}

    @property
    def settings(self) -> dict[str, str]:
        return {"token": BOT_TOKEN, "app_token": APP_TOKEN, "api_url": f"{self.address}/api"}

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _ts(self) -> str:
        return f"{NOW}.{self._next():06}"

    # --- people

    def write(
        self,
        text: str = "",
        *,
        person: str = "U1",
        chat: str = "",
        reply_to: Sent | None = None,
        thread_ts: str = "",
        types: tuple[str, ...] = ("message",),
        **content: Any,
    ) -> str:
        """Write to the app, in private or in a ``chat``. Return the message's `ts`."""
        chat = chat or f"D{person[1:]}"
        event = {"user": person, "text": text, "ts": self._ts(), "channel": chat}
        if reply_to is not None:
            thread_ts = reply_to.reply_to or reply_to.id
            event["parent_user_id"] = "U1" if reply_to.reply_to else ME
        if thread_ts:
            event["thread_ts"] = thread_ts
        for each in types:
            self.deliver_event({"type": each, **event, **content})
        return event["ts"]

    def sends(self, content: bytes, text: str = "", **given: Any) -> str:
        """Send a picture, with a text or none. Return the message's `ts`."""
        id_ = f"F{self._next()}"
        self.contents[id_] = content
        file = {"id": id_, "name": "photo.jpg", "mimetype": "image/jpeg", "size": len(content)}
        self.files[id_] = {**file, "url_private": f"{self.address}/files-pri/{id_}"}
        return self.write(text, files=[file], subtype="file_share", **given)

    def deliver_event(self, event: dict[str, Any]) -> None:
        payload = {"type": "event_callback", "event_id": f"Ev{self._next()}", "event": event}
        self._deliver("events_api", payload)

    def press(self, on: Sent, word: str, *, person: str = "U1") -> None:
        """Press the button with this word, whether the message has it or not."""
        place = {"message_ts": on.id, "channel_id": on.chat_id}
        payload = {
            "type": "block_actions",
            "user": {"id": person, "username": NAMES.get(person, "")},
            "trigger_id": f"{self._next()}.trigger",
            "container": {"type": "message", **place, "is_ephemeral": False},
            "channel": {"id": on.chat_id},
            "message": {"ts": on.id, **({"thread_ts": on.reply_to} if on.reply_to else {})},
            "actions": [{"type": "button", "action_id": word, "action_ts": self._ts()}],
        }
        self._deliver("interactive", payload)

    # --- Socket Mode

    def _deliver(self, kind: str, payload: dict[str, Any]) -> None:
        envelope_id = f"envelope-{self._next()}"
        envelope = {"envelope_id": envelope_id, "type": kind, "payload": payload}
        self.unacknowledged[envelope_id] = envelope | {"accepts_response_payload": False}
        self._change()

    async def disconnect(self, reason: str) -> None:
        """Announce the end of the newest connection."""
        await self.sockets[-1].send_json({"type": "disconnect", "reason": reason})

    async def link(self, socket: WebSocket) -> None:
        await socket.accept()
        if (ticket := socket.query_params["ticket"]) not in self._tickets - self._used:
            return await socket.close()
        self._used.add(ticket)
        self.sockets.append(socket)
        await socket.send_json({"type": "hello", "num_connections": len(self.sockets)})
        delivering = asyncio.create_task(self._deliver_to(socket))
        self._change()
        try:
            while True:
                response = json.loads(await socket.receive_text())
                if self.acknowledges:
                    self.unacknowledged.pop(response["envelope_id"], None)
                self._change()
        except WebSocketDisconnect:
            return None
        finally:
            delivering.cancel()
            self.sockets.remove(socket)
            self._change()

    async def _deliver_to(self, socket: WebSocket) -> None:
        delivered = set[str]()
        while True:
            changed = self._changed
            if socket is self.sockets[-1]:
                for id_, envelope in list(self.unacknowledged.items()):
                    if id_ not in delivered:
                        delivered.add(id_)
                        await socket.send_json(envelope)
            await changed.wait()

    # --- the Web API

    async def handle(self, request: Request) -> Response:
        method = request.path_params["method"]
        self.calls.append(method)
        self._change()
        needed = APP_TOKEN if method == "apps.connections.open" else BOT_TOKEN
        if request.headers.get("authorization") != f"Bearer {needed}":
            return error("invalid_auth")
        if faults := self.faults.get(method):
            return faults.popleft()()
        given = await _arguments(request)
        handler: Callable[[dict[str, Any]], Response] | None
        handler = getattr(self, "_" + method.replace(".", "_"), None)
        response = handler(given) if handler else error("unknown_method")
        self._change()
        return response

    async def upload(self, request: Request) -> Response:
        id_ = request.path_params["id"]
        self._uploads[id_] = self._uploads[id_][0], await request.body()
        return PlainTextResponse("OK")

    def _auth_test(self, given: dict[str, Any]) -> Response:
        headers = {"X-OAuth-Scopes": self.scopes}
        return JSONResponse({"ok": True, "user_id": ME, "user": "daybook"}, headers=headers)

    def _apps_connections_open(self, given: dict[str, Any]) -> Response:
        ticket = f"s3cr3t-{self._next()}"
        self._tickets.add(ticket)
        return _ok(url=f"ws://127.0.0.1:{self.port}/link?ticket={ticket}")

    def _users_info(self, given: dict[str, Any]) -> Response:
        name = NAMES.get(given["user"])
        if name is None:
            return error("user_not_found")
        return _ok(user={"name": name.lower(), "profile": {"display_name": name}})

    def _files_info(self, given: dict[str, Any]) -> Response:
        file = self.files.get(given["file"])
        return _ok(file=file) if file else error("file_not_found")

    async def download(self, request: Request) -> Response:
        self.calls.append("file")
        if request.headers.get("authorization") != f"Bearer {BOT_TOKEN}":
            return RedirectResponse("/login")
        if faults := self.faults.get("file"):
            return faults.popleft()()
        return Response(self.contents[request.path_params["id"]])

    def _chat_postMessage(self, given: dict[str, Any]) -> Response:
        if problem := _problem(given, 40_000):
            return problem
        sent = self._add(given, given["text"])
        return _ok(ts=sent.id, channel=sent.chat_id)

    def _add(
        self, given: dict[str, Any], text: str, document: tuple[str, bytes] | None = None
    ) -> Sent:
        channel = given.get("channel") or given["channel_id"]
        blocks = given.get("blocks") or []
        sent = Sent(
            self._ts(), channel, text, _buttons(blocks), given.get("thread_ts") or None, document
        )
        sent.blocks = blocks
        self.sent.append(sent)
        return sent

    def _find(self, given: dict[str, Any], ts: str) -> Sent | None:
        found = (each for each in self.sent if (each.chat_id, each.id) == (given["channel"], ts))
        return next(found, None)

    def _chat_update(self, given: dict[str, Any]) -> Response:
        sent = self._find(given, given["ts"])
        if sent is None or sent.is_deleted:
            return error("message_not_found")
        if problem := _problem(given, 4_000):
            return problem
        sent.text, sent.blocks = given["text"], given["blocks"]
        sent.buttons = _buttons(sent.blocks)
        sent.edits.append(sent.plain)
        return _ok(ts=sent.id)

    def _chat_delete(self, given: dict[str, Any]) -> Response:
        sent = self._find(given, given["ts"])
        if sent is None or sent.is_deleted:
            return error("message_not_found")
        sent.is_deleted = True
        return _ok(ts=sent.id)

    def _conversations_history(self, given: dict[str, Any]) -> Response:
        sent = self._find(given, given["latest"])
        shown = sent is not None and sent.reply_to is None  # the channel does not show threads
        return _ok(messages=[_as_message(sent)] if sent and shown else [])

    def _conversations_replies(self, given: dict[str, Any]) -> Response:
        sent = self._find(given, given["latest"])
        first = {"ts": given["ts"], "text": "", "thread_ts": given["ts"]}
        return _ok(messages=[first, *([_as_message(sent)] if sent else [])])

    def _chat_postEphemeral(self, given: dict[str, Any]) -> Response:
        self.acknowledged.append((given["user"], given["text"]))
        return _ok()

    def _reactions_add(self, given: dict[str, Any]) -> Response:
        reaction = (given["channel"], given["timestamp"])
        if reaction in self.reactions:
            return error("already_reacted")
        self.reactions.add(reaction)
        self.typing.append(given["channel"])
        return _ok()

    def _reactions_remove(self, given: dict[str, Any]) -> Response:
        reaction = (given["channel"], given["timestamp"])
        if reaction not in self.reactions:
            return error("no_reaction")
        self.reactions.remove(reaction)
        return _ok()

    def _files_getUploadURLExternal(self, given: dict[str, Any]) -> Response:
        id_ = f"F{self._next()}"
        self._uploads[id_] = given["filename"], b""
        return _ok(file_id=id_, upload_url=f"{self.address}/upload/{id_}")

    def _files_completeUploadExternal(self, given: dict[str, Any]) -> Response:
        files = json.loads(given["files"])
        for each in files:
            self._add(given, given.get("initial_comment") or "", self._uploads[each["id"]])
        return _ok(files=[{"id": each["id"]} for each in files])


async def _arguments(request: Request) -> dict[str, Any]:
    if "json" in request.headers.get("content-type", ""):
        return dict(json.loads(await request.body()))
    given = {**request.query_params, **dict(await request.form())}
    blocks = given.get("blocks")
    return {**given, "blocks": json.loads(blocks)} if isinstance(blocks, str) else given


def _problem(given: dict[str, Any], limit: int) -> Response | None:
    """Return the refusal of a message that Slack would not show."""
    if len(given["text"]) > limit:
        return error("msg_too_long")
    blocks = given.get("blocks") or []
    texts = [each["text"]["text"] for each in blocks if each["type"] == "section"]
    ids = [each["action_id"] for block in blocks for each in block.get("elements", ())]
    if any(not 0 < len(each) <= 3_000 for each in texts) or len(ids) != len(set(ids)):
        return error("invalid_blocks")
    return error("no_text") if not given["text"].strip() and not blocks else None


def _buttons(blocks: list[dict[str, Any]]) -> dict[str, str]:
    rows = [each["elements"] for each in blocks if each["type"] == "actions"]
    return {each["text"]["text"]: each["action_id"] for row in rows for each in row}


def _as_message(sent: Sent) -> dict[str, Any]:
    return {"ts": sent.id, "text": sent.text, "blocks": sent.blocks, "bot_id": "B1"}


def _ok(**content: Any) -> Response:
    return JSONResponse({"ok": True, **content})


def error(problem: str, **content: Any) -> Response:
    return JSONResponse({"ok": False, "error": problem, **content})


def refused(problem: str, **content: Any) -> Callable[[], Response]:
    return lambda: error(problem, **content)


def too_many(seconds: float) -> Callable[[], Response]:
    """Return the response to an app that sends too much."""
    body = {"ok": False, "error": "ratelimited"}
    return lambda: JSONResponse(body, 429, {"Retry-After": str(seconds)})


def bad_gateway() -> Response:
    return Response("<html>502 Bad Gateway</html>", 502)


@asynccontextmanager
async def serving() -> AsyncIterator[SlackApi]:
    """Yield a Slack on localhost that serves until the context ends."""
    api = SlackApi()
    routes = [
        Route("/api/{method}", api.handle, methods=["GET", "POST"]),
        Route("/upload/{id}", api.upload, methods=["POST"]),
        Route("/files-pri/{id}", api.download),
        WebSocketRoute("/link", api.link),
    ]
    async with api.listening(Starlette(routes=routes)):
        yield api
