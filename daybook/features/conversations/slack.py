"""Slack: an app that hears by Socket Mode, so it needs no public address.

==============================  ===============================================================
Slack                           here
==============================  ===============================================================
`message`, `app_mention`        one `Update`: the id is that of the message, so both are the same
`block_actions`                 a press: `action_id` is the word; message, chat and person come
                                from Slack
an envelope                     acknowledged by `confirm`, so Slack delivers it again until then
`disconnect`                    opens the next connection before this one ends
pictures in `files`             `pictures`: their ids; `files.info` says where they are
a thread                        `thread_id`; a message in it has the id `THREAD/TS`
no sign of typing for a bot     the reaction 👀 on the person's message, until it is answered
429 with `Retry-After`          waits, or is reported with the time to wait
edits, reactions, other bots    ignored
==============================  ===============================================================

An answer in a channel is in a thread; in a direct message only if the person has written in one.
A message that was sent is sent again if the process dies before it has stored the message's id.

The package `slack_sdk` is imported when an account is opened. Its asynchronous clients need
aiohttp, and its other client of Socket Mode hides lost connections. So its Web API runs in threads,
and the socket is that of `websockets`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from daybook.agents.pictures import CONTENT_TYPES, MAX_PICTURE_BYTES
from daybook.delivery.channels import markup
from daybook.errors import InvalidInput
from daybook.features.conversations import pictures, splitting
from daybook.features.conversations.platform import (
    AccessRevoked,
    PlatformError,
    Post,
    ReceivedPicture,
    Update,
    UpdateKind,
)
from daybook.features.conversations.settings import SlackSettings
from daybook.short_text import clip

if TYPE_CHECKING:
    from slack_sdk import WebClient
    from websockets.asyncio.client import ClientConnection

log = logging.getLogger(__name__)

API_URL = "https://slack.com/api"
FILES_URL = "https://files.slack.com"
POLL_SECONDS = 25.0
"""Maximum time for which `receive` waits for a message."""
REQUEST_TIMEOUT_SECONDS = 10
MAX_CHARACTERS = 3_500
"""Maximum length of a message; Slack's limit is 4,000 characters with its markup."""
MAX_SECTION = 3_000
"""Maximum length of a section of a message with buttons."""
MAX_LABEL = 75
MAX_CAPTION = 1_000
MAX_WAIT_SECONDS = 15.0
"""Maximum time that a request waits after a 429, before the message is left to a later attempt."""
WORKING = "eyes"
"""The reaction to a message that is being answered."""

FILES_SCOPE = "files:read"
"""The scope for pictures; an app without it hears all the rest."""
SCOPES = (
    *("app_mentions:read", "channels:history", "chat:write", FILES_SCOPE, "files:write"),
    *("groups:history", "im:history", "reactions:write", "users:read"),
)
EVENTS = ("app_mention", "message.channels", "message.groups", "message.im")
MANIFEST = json.dumps(
    {
        "display_information": {"name": "Daybook"},
        "features": {
            "app_home": {
                "messages_tab_enabled": True,
                "messages_tab_read_only_enabled": False,
            },
            "bot_user": {"display_name": "Daybook", "always_online": False},
        },
        "oauth_config": {"scopes": {"bot": SCOPES}},
        "settings": {
            "event_subscriptions": {"bot_events": EVENTS},
            "interactivity": {"is_enabled": True},
            "socket_mode_enabled": True,
        },
    },
    indent=2,
)

_SUBTYPES = (None, "file_share", "me_message", "thread_broadcast")
"""The subtypes of events that are messages of people; the others are edits, joins and so on."""
_REVOKED = frozenset(
    {
        *("account_inactive", "invalid_auth", "not_allowed_token_type", "not_authed"),
        *("token_expired", "token_revoked"),
    }
)
_TEMPORARY = frozenset(
    {"fatal_error", "internal_error", "request_timeout", "service_unavailable", "team_added_to_org"}
)
_REFERENCE = re.compile(r"<([^<>|]+)(?:\|([^<>]*))?>")

_SILENT = logging.getLogger(f"{__name__}.libraries")
"""The logger of the libraries, whose lines have tokens and addresses with a ticket."""
_SILENT.setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class SlackAccount:
    """The stored settings of an app."""

    name: str
    settings: SlackSettings

    @property
    def account_id(self) -> str:
        """Return the id of the app, which is in its token; else a digest of the token."""
        token = self.settings.app_token.get_secret_value()
        parts = token.split("-")
        return parts[2] if len(parts) > 4 else hashlib.sha256(token.encode()).hexdigest()[:16]

    @property
    def place(self) -> str:
        return ""

    @property
    def agent(self) -> str:
        return self.settings.agent

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SlackApp]:
        """Open a connection. Raise `InvalidInput` if a package is missing."""
        try:
            import websockets.asyncio.client  # noqa: F401
            from slack_sdk import WebClient
        except ImportError:
            raise InvalidInput(
                "channel",
                f'"{self.name}" needs a package that is not installed',
                "install it: pip install 'prefect-daybook[slack]'",
            ) from None
        client = WebClient(
            self.settings.token.get_secret_value(),
            base_url=self.settings.api_url or API_URL,
            timeout=REQUEST_TIMEOUT_SECONDS,
            retry_handlers=[],  # the library would send a message twice
            logger=_SILENT,
        )
        client.proxy = None  # so `urllib` takes the proxy of the environment, with its exceptions
        app = SlackApp(client, self.settings.app_token.get_secret_value())
        try:
            yield app
        finally:
            await app.close()


class SlackApp:
    """An open connection to an app: a `Platform`."""

    max_characters = MAX_CHARACTERS
    is_letter = False
    position: int | None = None
    position_lifetime: timedelta | None = None

    def __init__(self, client: WebClient, app_token: str) -> None:
        self._client, self._app_token = client, app_token
        self._me = self._socket_url = ""
        self._socket: ClientConnection | None = None
        self._envelopes: dict[str, list[tuple[ClientConnection, str]]] = {}
        self._working: set[tuple[str, str]] = set()
        self._names: dict[str, str] = {}

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()

    async def identity(self) -> str:
        """Return the name of the bot, after a check of both tokens and of the scopes."""
        me = await self._call(self._client.auth_test)
        headers = {name.lower(): value for name, value in me.headers.items()}
        granted = headers.get("x-oauth-scopes", ",".join(SCOPES)).split(",")
        if missing := sorted(set(SCOPES) - {FILES_SCOPE, *(each.strip() for each in granted)}):
            problem = f"the app lacks {', '.join(missing)}: add these scopes, and reinstall it"
            raise PlatformError(problem, is_temporary=False)
        await self._open_socket_url()
        self._me = str(me["user_id"])
        return f"@{me['user']}"

    # --- updates

    async def receive(self, after: int | None) -> Sequence[Update]:
        if not self._me:
            await self.identity()
        until = asyncio.get_running_loop().time() + POLL_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(until):
                    message = await self._next()
            except TimeoutError:
                return ()
            # No timeout: Slack delivers a message that was received, but not confirmed, much later.
            if update := await self._heard(message):
                return [update]

    async def confirm(self, updates: Sequence[Update]) -> None:
        for update in updates:
            for socket, envelope_id in self._envelopes.pop(update.id, ()):
                await _acknowledge(socket, envelope_id)

    async def _open_socket_url(self) -> None:
        opened = await self._call(self._client.apps_connections_open, app_token=self._app_token)
        self._socket_url = str(opened["url"])

    async def _connect(self) -> ClientConnection:
        """Connect, and then end the connection that there was."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        if not self._socket_url:
            await self._open_socket_url()
        url, self._socket_url = self._socket_url, ""
        try:
            socket = await connect(url, open_timeout=REQUEST_TIMEOUT_SECONDS, logger=_SILENT)
        except (OSError, TimeoutError, WebSocketException) as error:  # it may contain the URL
            raise PlatformError(f"Slack: {type(error).__name__} at the socket") from None
        old, self._socket = self._socket, socket
        if old is not None:
            await old.close()
        return socket

    async def _next(self) -> dict[str, Any]:
        from websockets.exceptions import ConnectionClosed

        socket = self._socket or await self._connect()
        try:
            message: dict[str, Any] = json.loads(await socket.recv())
        except ConnectionClosed:
            self._socket = None
            raise PlatformError("the connection to Slack was lost") from None
        return message

    async def _heard(self, message: dict[str, Any]) -> Update | None:
        """Return the update in a message of the socket; None for one that is none."""
        if message.get("type") == "disconnect":
            if message.get("reason") == "link_disabled":
                problem = "Socket Mode is off; switch it on under https://api.slack.com/apps"
                raise PlatformError(problem, is_temporary=False)
            await self._connect()
        if message.get("type") == "hello" and (count := message.get("num_connections", 1)) > 1:
            log.warning(
                "%s connections receive for this Slack app, and each gets a part of the messages",
                count,
                extra={"action": "account_shared"},
            )
        from slack_sdk.socket_mode.request import SocketModeRequest

        request = SocketModeRequest.from_dict(message)
        if request is None or self._socket is None:
            return None
        update = None
        if request.type == "events_api":
            update = await self._message(request.payload.get("event") or {})
        elif request.type == "interactive" and request.payload.get("type") == "block_actions":
            update = await self._press(request.payload)
        if update is None:
            await _acknowledge(self._socket, request.envelope_id)
        else:
            envelope = (self._socket, request.envelope_id)
            self._envelopes.setdefault(update.id, []).append(envelope)
        return update

    async def _message(self, event: dict[str, Any]) -> Update | None:
        """Return the update of an event; None if it is nothing that a person says to the app."""
        person_id, chat_id, ts = (event.get(each) or "" for each in ("user", "channel", "ts"))
        is_message = event.get("type") in ("message", "app_mention")
        if not is_message or event.get("subtype") not in _SUBTYPES or not ts or not chat_id:
            return None
        if event.get("bot_id") or person_id in ("", self._me):
            return None
        id_, thread_id = _message_id(event), event.get("thread_ts") or ""
        text, mention = event.get("text") or "", f"<@{self._me}>"
        is_group = not chat_id.startswith("D")
        is_mine = event.get("parent_user_id") == self._me
        is_addressed = not is_group or mention in text or is_mine
        if not is_addressed and "/" not in id_:
            return None  # a person who talks to others, at the beginning of a thread
        found = _pictures_of(event)
        return Update(
            id=f"{chat_id}:{ts}",
            position=_microseconds(ts),
            kind=UpdateKind.MESSAGE,
            chat_id=chat_id,
            person_id=person_id,
            person_name=await self._name(person_id),
            message_id=id_,
            text=_plain(text.replace(mention, "")),
            thread_id=thread_id if "/" in id_ else "",
            unreadable="" if found else _unreadable(event),
            pictures=found,
            is_group=is_group,
            is_addressed=is_addressed,
        )

    async def _press(self, payload: dict[str, Any]) -> Update | None:
        container, person_id = payload.get("container") or {}, payload["user"]["id"]
        chat_id, ts = container.get("channel_id"), container.get("message_ts")
        actions = payload.get("actions") or [{}]
        word, action_ts = actions[0].get("action_id"), actions[0].get("action_ts")
        if not (chat_id and ts and word and action_ts):
            return None
        thread_ts = container.get("thread_ts") or (payload.get("message") or {}).get("thread_ts")
        id_ = _message_id({"ts": ts, "thread_ts": thread_ts})
        return Update(
            id=f"{chat_id}:{ts}:{person_id}:{action_ts}",
            position=_microseconds(action_ts),
            kind=UpdateKind.PRESS,
            chat_id=chat_id,
            person_id=person_id,
            person_name=await self._name(person_id),
            message_id=id_,
            button=word,
            press_id=f"{chat_id} {person_id} {_thread_of(id_)}",
            is_group=not chat_id.startswith("D"),
        )

    async def _name(self, person_id: str) -> str:
        if person_id not in self._names:
            with suppress(PlatformError):
                found = await self._call(self._client.users_info, user=person_id, waits=False)
                user = found["user"]
                names = (user.get("profile") or {}).get("display_name"), user.get("real_name")
                name = next((each for each in (*names, user.get("name")) if each), "")
                self._names[person_id] = clip(" ".join(name.split()), 80)
        return self._names.get(person_id) or person_id

    async def read_pictures(self, ids: Sequence[str]) -> Sequence[ReceivedPicture]:
        return [await self._picture(each) for each in ids]

    async def _picture(self, id_: str) -> ReceivedPicture:
        """Read the picture, or a smaller one that Slack has made of it, where only Slack can be.

        The token is sent there.
        """
        file = (await self._call(self._client.files_info, file=id_))["file"]
        is_large = int(file.get("size") or 0) > MAX_PICTURE_BYTES
        url = str((is_large and file.get("thumb_1024")) or file.get("url_private") or "")
        is_public = self._client.base_url.startswith("https://slack.com/")
        origin = FILES_URL if is_public else self._client.base_url
        headers = {"Authorization": f"Bearer {self._client.token}"}
        name = str(file.get("name") or "")
        return ReceivedPicture(name, await pictures.download(url, origin, headers))

    # --- messages

    async def show_typing(self, chat_id: str, message_id: str) -> None:
        if (chat_id, message_id) not in self._working:
            self._working.add((chat_id, message_id))
            await self._react(self._client.reactions_add, chat_id, message_id)

    async def _react(self, method: Callable[..., Any], chat_id: str, message_id: str) -> None:
        with suppress(PlatformError):  # such as `already_reacted`, or `no_reaction`
            ts = _ts_of(message_id)
            await self._call(method, channel=chat_id, timestamp=ts, name=WORKING, waits=False)

    async def acknowledge(self, press_id: str, text: str) -> None:
        chat_id, person_id, thread_ts = press_id.split(" ")
        if text:
            await self._call(
                self._client.chat_postEphemeral,
                channel=chat_id,
                user=person_id,
                text=markup.slack_escape(text),
                thread_ts=thread_ts or None,
                waits=False,
            )

    async def send(self, post: Post) -> str:
        thread_ts = _thread_of(post.reply_to)
        if not thread_ts and not post.chat_id.startswith("D"):
            thread_ts = post.reply_to
        place: dict[str, Any] = {"channel": post.chat_id, "thread_ts": thread_ts or None}
        if post.reply_to and not post.is_draft:
            await self._react(self._client.reactions_remove, post.chat_id, post.reply_to)
        if post.files:
            sent = await self._call(
                self._client.files_upload_v2,
                file_uploads=[{"file": each.content, "filename": each.name} for each in post.files],
                initial_comment=markup.slack_escape(clip(post.text, MAX_CAPTION)) or None,
                **place,
            )
            ts = str(sent["files"][0]["id"])  # Slack posts the message later
        else:
            sent = await self._call(
                self._client.chat_postMessage,
                **_content(post),
                unfurl_links=False,
                unfurl_media=False,
                waits=not post.is_draft,
                **place,
            )
            ts = str(sent["ts"])
        return _message_id({"ts": ts, "thread_ts": thread_ts})

    async def edit(self, message_id: str, post: Post) -> None:
        content = {"blocks": [], **_content(post)}
        ts = _ts_of(message_id)
        waits = not post.is_draft
        await self._call(
            self._client.chat_update, channel=post.chat_id, ts=ts, waits=waits, **content
        )

    async def delete(self, chat_id: str, message_id: str) -> None:
        with suppress(_MessageGone):
            await self._call(
                self._client.chat_delete, channel=chat_id, ts=_ts_of(message_id), waits=False
            )

    async def remove_buttons(self, chat_id: str, message_id: str) -> None:
        """Update the message without its buttons: Slack knows its text, and Daybook no more."""
        ts = _ts_of(message_id)
        one: dict[str, Any] = {"channel": chat_id, "oldest": ts, "latest": ts, "inclusive": True}
        with suppress(_MessageGone):
            if thread_ts := _thread_of(message_id):
                found = await self._call(self._client.conversations_replies, ts=thread_ts, **one)
            else:
                found = await self._call(self._client.conversations_history, limit=1, **one)
            messages: list[dict[str, Any]] = found["messages"]
            message = next((each for each in messages if each.get("ts") == ts), {})
            blocks = message.get("blocks") or []
            kept = [each for each in blocks if each.get("type") != "actions"]
            if len(kept) < len(blocks):
                text = message.get("text") or ""
                await self._call(
                    self._client.chat_update, channel=chat_id, ts=ts, text=text, blocks=kept
                )

    async def _call(
        self, method: Callable[..., Any], *, waits: bool = True, **arguments: Any
    ) -> Any:
        """Call a method of the Web API; with ``waits``, wait for a short `Retry-After` once."""
        from slack_sdk.errors import SlackApiError, SlackClientError

        for may_wait in (waits, False):
            try:
                return await asyncio.to_thread(method, **arguments)
            except SlackApiError as refused:
                error = _error(refused)
                if not may_wait or not 0 < error.retry_after <= MAX_WAIT_SECONDS:
                    raise error from None
                await asyncio.sleep(error.retry_after)
            except TimeoutError:
                raise PlatformError("Slack did not answer in time") from None
            except (OSError, HTTPException, SlackClientError, ValueError) as failed:
                raise PlatformError(f"Slack: {type(failed).__name__}") from None
        raise AssertionError("the second call waits no more")


class _MessageGone(PlatformError):
    """The message is gone, or it can no longer be changed."""


def _error(refused: Any) -> PlatformError:
    """Return the error of a response of Slack's that is not `ok`."""
    response = refused.response
    problem, status = str(response.get("error") or "unknown"), response.status_code
    if status == 429 or problem in ("ratelimited", "rate_limited"):
        seconds = 1.0
        with suppress(ValueError):
            seconds = float(response.headers.get("Retry-After", ""))
        return PlatformError(f"Slack accepts no request for {seconds:g} s", retry_after=seconds)
    if status >= 500:
        return PlatformError(f"Slack answered with HTTP {status}")
    if problem in _REVOKED:
        return AccessRevoked(f"Slack refuses the token ({problem}); https://api.slack.com/apps")
    if problem == "missing_scope":
        scope = clip(str(response.get("needed")), 100)
        problem = f"Slack: the app lacks {scope}: add this scope, and reinstall it"
        return PlatformError(problem, is_temporary=False)
    if problem in (
        "message_not_found",
        "thread_not_found",
        "cant_update_message",
        "cant_delete_message",
    ):
        return _MessageGone(f"Slack: {problem}", is_temporary=False)
    is_code = problem.isascii() and problem.replace("_", "").isalnum()
    shown = problem if is_code else "an answer that is no JSON"
    return PlatformError(f"Slack: {shown}", is_temporary=problem in _TEMPORARY or not is_code)


async def _acknowledge(socket: ClientConnection, envelope_id: str) -> None:
    """Acknowledge an envelope, unless its connection has ended: Slack then delivers it again."""
    from slack_sdk.socket_mode.response import SocketModeResponse
    from websockets.exceptions import ConnectionClosed

    with suppress(ConnectionClosed):
        await socket.send(json.dumps(SocketModeResponse(envelope_id).to_dict()))


# --- ids: `TS`, or `THREAD/TS` for a message in a thread that is not its first


def _message_id(message: dict[str, Any]) -> str:
    ts, thread_ts = message["ts"], message.get("thread_ts")
    return ts if thread_ts in (None, "", ts) else f"{thread_ts}/{ts}"


def _thread_of(message_id: str) -> str:
    return message_id.rpartition("/")[0]


def _ts_of(message_id: str) -> str:
    return message_id.rpartition("/")[2]


def _microseconds(ts: str) -> int:
    seconds, _, fraction = ts.partition(".")
    return int(seconds) * 1_000_000 + int(f"{fraction:0<6}"[:6])


# --- texts


def _plain(text: str) -> str:
    """Return a person's text without Slack's markup of links, people and characters."""
    text = _REFERENCE.sub(lambda found: _shown(found[1], found[2] or ""), text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").strip()


def _shown(target: str, label: str) -> str:
    if target[0] in "@#!":
        name = label or target[1:]
        return name if target[0] == "!" and label else f"{'#' if target[0] == '#' else '@'}{name}"
    is_same = not label or target.removeprefix("mailto:").endswith(label)
    return target.removeprefix("mailto:") if is_same else f"{label} ({target})"


def _unreadable(event: dict[str, Any]) -> str:
    files = event.get("files") or []
    if not files:
        return "a forwarded message" if event.get("attachments") and not event.get("text") else ""
    kind = files[0].get("subtype") or str(files[0].get("mimetype")).partition("/")[0]
    known = {"slack_audio": "a voice message", "audio": "audio"}
    known |= {"slack_video": "a video", "video": "a video"}
    return known.get(kind, "a file")


def _pictures_of(event: dict[str, Any]) -> tuple[str, ...]:
    """Return the ids of the files of an event; () if one of them is no picture."""
    files = event.get("files") or []
    ids = [str(each.get("id") or "") for each in files if each.get("mimetype") in CONTENT_TYPES]
    return tuple(ids) if all(ids) and len(ids) == len(files) else ()


def _content(post: Post) -> dict[str, Any]:
    """Return the text of a post in Slack's markup; with buttons, as blocks too."""
    parts = markup.slack_mrkdwn(post.text), markup.slack_escape(post.note)
    text = "\n\n".join(filter(None, parts))
    if not post.buttons:
        return {"text": text}
    sections = [
        {"type": "section", "expand": True, "text": {"type": "mrkdwn", "text": each}}
        for each in splitting.split(text, MAX_SECTION)
    ]
    elements = [
        {
            "type": "button",
            "action_id": word,
            "value": word,
            "text": {"type": "plain_text", "text": clip(label, MAX_LABEL)},
        }
        for word, label in post.buttons
    ]
    return {
        "text": clip(text, MAX_SECTION),
        "blocks": [*sections, {"type": "actions", "elements": elements}],
    }
