"""Telegram: a bot that hears by long polling, so it needs no public address.

============================  =================================================================
Bot API                       here
============================  =================================================================
`getUpdates` with an offset   `receive`; the offset deletes the updates that the ledger has
`message`, `callback_query`   the two kinds of `Update`; edits and reactions are not requested
`callback_data`               only the word of a button: the message, the chat and the person come
                              from Telegram, so a forged word presses no other message's button
409                           another program polls with this token
`photo`, a picture as a file  `pictures`: the `file_id`; `getFile` says where it is
429 with `retry_after`        waits, or is reported with the time to wait
`can't parse entities`        the text is sent again without markup: it was not delivered
============================  =================================================================

Telegram has no key for a message, so a message that was sent is sent again if the process dies
before it has stored the message's id. The package `python-telegram-bot` is imported when an account
is opened.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from daybook.agents.pictures import CONTENT_TYPES, MAX_PICTURE_BYTES
from daybook.delivery.channels import markup
from daybook.delivery.channels.text import as_html
from daybook.errors import InvalidInput
from daybook.features.conversations import pictures
from daybook.features.conversations.platform import (
    AccessRevoked,
    PlatformError,
    Post,
    ReceivedPicture,
    Update,
    UpdateKind,
    UsedElsewhere,
)
from daybook.features.conversations.settings import TelegramSettings
from daybook.redaction import HIDDEN
from daybook.short_text import clip

if TYPE_CHECKING:
    import telegram

API_URL = "https://api.telegram.org"
POSITION_LIFETIME = timedelta(days=6)
"""After a week without updates, Telegram chooses the id of the next one at random."""
POLL_SECONDS = 25
"""Time for which Telegram keeps an empty `getUpdates` open."""
REQUEST_TIMEOUT_SECONDS = 10.0
MAX_CHARACTERS = 4_000
"""Maximum length of a message; Telegram's limit is 4,096 UTF-16 code units without its markup."""
MAX_CAPTION = 1_000
MAX_WAIT_SECONDS = 15.0
"""Maximum time that a request waits after a 429, before the message is left to a later attempt."""
BUTTONS_PER_ROW = 2
MAX_QUOTED = 2_000

_UNREADABLE = {
    "voice": "a voice message",
    "audio": "audio",
    "video": "a video",
    "video_note": "a video",
    "document": "a file",
    "sticker": "a sticker",
    "animation": "an animation",
    "location": "a location",
    "contact": "a contact",
    "poll": "a poll",
}


@dataclass(frozen=True)
class TelegramAccount:
    """The stored settings of a bot."""

    name: str
    settings: TelegramSettings

    @property
    def account_id(self) -> str:
        return self.settings.token.get_secret_value().partition(":")[0]

    @property
    def place(self) -> str:
        return ""

    @property
    def agent(self) -> str:
        return self.settings.agent

    @asynccontextmanager
    async def open(self) -> AsyncIterator[TelegramBot]:
        """Open a connection. Raise `InvalidInput` if the package is missing."""
        # Without it, the package warns about the type of `RetryAfter.retry_after`.
        os.environ.setdefault("PTB_TIMEDELTA", "true")
        try:
            import telegram
            from telegram.request import HTTPXRequest
        except ImportError:
            raise InvalidInput(
                "channel",
                f'"{self.name}" needs a package that is not installed',
                "install it: pip install 'prefect-daybook[telegram]'",
            ) from None
        token = self.settings.token.get_secret_value()
        _HideToken.install(token)
        base = self.settings.api_url or API_URL
        requests = [
            HTTPXRequest(
                connection_pool_size=each,
                read_timeout=REQUEST_TIMEOUT_SECONDS,
                connect_timeout=REQUEST_TIMEOUT_SECONDS,
                pool_timeout=REQUEST_TIMEOUT_SECONDS,
            )
            for each in (8, 1)
        ]
        bot = telegram.Bot(
            token,
            base_url=f"{base}/bot",
            base_file_url=f"{base}/file/bot",
            request=requests[0],
            get_updates_request=requests[1],
        )
        try:
            yield TelegramBot(bot, self)
        finally:
            for each in requests:
                with suppress(Exception):
                    await each.shutdown()


class _HideToken(logging.Filter):
    """Drops the log lines that contain a token, which is in each URL."""

    _tokens: frozenset[str] = frozenset()

    @classmethod
    def install(cls, token: str) -> None:
        """Hide ``token`` in the logs of the HTTP libraries and of `python-telegram-bot`."""
        cls._tokens |= {token}
        for name in ("httpx", "httpcore.connection", "httpcore.http11", "telegram.Bot"):
            logger = logging.getLogger(name)
            if not any(isinstance(each, cls) for each in logger.filters):
                logger.addFilter(cls())

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not any(each in text for each in self._tokens)


class TelegramBot:
    """An open connection to a bot: a `Platform`."""

    max_characters = MAX_CHARACTERS
    is_letter = False
    position: int | None = None
    position_lifetime: timedelta | None = POSITION_LIFETIME

    def __init__(self, bot: telegram.Bot, account: TelegramAccount) -> None:
        self._bot, self._account_id = bot, account.account_id
        self._token = account.settings.token.get_secret_value()
        self._name = ""

    async def identity(self) -> str:
        me = await self._call(self._bot.get_me)
        self._name = me.username or ""
        return f"@{self._name}"

    async def receive(self, after: int | None) -> Sequence[Update]:
        if not self._name:
            await self.identity()
        found = await self._call(
            self._bot.get_updates,
            offset=None if after is None else after + 1,
            timeout=timedelta(seconds=POLL_SECONDS),
            allowed_updates=["message", "callback_query"],
            waits=False,
        )
        if found:  # also of an update that no person has caused, which would be delivered again
            self.position = max(each.update_id for each in found)
        known = (self._update(each) for each in found)
        return [each for each in known if each is not None]

    async def confirm(self, updates: Sequence[Update]) -> None:
        """Do nothing: the offset of the next `getUpdates` confirms them."""

    async def read_pictures(self, ids: Sequence[str]) -> Sequence[ReceivedPicture]:
        return [await self._picture(each) for each in ids]

    async def _picture(self, file_id: str) -> ReceivedPicture:
        file = await self._call(self._bot.get_file, file_id=file_id)
        # Another place, such as a path of this machine, is no address of the server's.
        place = file.file_path or ""
        if not place.startswith(f"{self._bot.base_file_url}/"):
            raise PlatformError("Telegram does not say where the picture is", is_temporary=False)
        return ReceivedPicture(
            place.rpartition("/")[2], await pictures.download(place, self._bot.base_file_url)
        )

    async def show_typing(self, chat_id: str, message_id: str) -> None:
        await self._call(self._bot.send_chat_action, chat_id=chat_id, action="typing", waits=False)

    async def acknowledge(self, press_id: str, text: str) -> None:
        short = clip(text, 190) if text else None
        await self._call(
            self._bot.answer_callback_query, callback_query_id=press_id, text=short, waits=False
        )

    async def send(self, post: Post) -> str:
        from telegram import InputFile

        more: dict[str, Any] = {"chat_id": post.chat_id}
        if post.reply_to:
            more["reply_to_message_id"] = int(post.reply_to)
            more["allow_sending_without_reply"] = True
        if post.buttons:
            more["reply_markup"] = _keyboard(post)
        for file in post.files:
            document = InputFile(file.content, filename=file.name)
            caption = clip(post.text, MAX_CAPTION)
            sent = await self._call(
                self._bot.send_document, document=document, caption=caption, **more
            )
        if not post.files:
            sent = await self._text(self._bot.send_message, post, more)
        return str(sent.message_id)

    async def edit(self, message_id: str, post: Post) -> None:
        more = {"chat_id": post.chat_id, "message_id": int(message_id)}
        if post.buttons:
            more["reply_markup"] = _keyboard(post)
        await self._text(self._bot.edit_message_text, post, more)

    async def delete(self, chat_id: str, message_id: str) -> None:
        with suppress(_NotFound):
            await self._call(
                self._bot.delete_message, chat_id=chat_id, message_id=int(message_id), waits=False
            )

    async def remove_buttons(self, chat_id: str, message_id: str) -> None:
        with suppress(_NotFound):
            await self._call(
                self._bot.edit_message_reply_markup,
                chat_id=chat_id,
                message_id=int(message_id),
                reply_markup=None,
            )

    async def _text(self, method: Any, post: Post, more: dict[str, Any]) -> Any:
        """Send or edit a text as HTML; if Telegram cannot read the markup, as plain text."""
        from telegram import LinkPreviewOptions

        waits = not post.is_draft
        more["link_preview_options"] = LinkPreviewOptions(is_disabled=True)
        note = as_html(post.note).replace("<br/>", "\n").replace("&nbsp;", " ")
        html = "\n\n".join(filter(None, (markup.telegram_html(post.text), note)))
        try:
            return await self._call(method, text=html, parse_mode="HTML", waits=waits, **more)
        except _Unparsable:
            plain = "\n\n".join(filter(None, (post.text, post.note)))
            return await self._call(method, text=plain, waits=waits, **more)

    async def _call(self, method: Any, *, waits: bool = True, **arguments: Any) -> Any:
        """Call a method of the Bot API; with ``waits``, wait for a short `retry_after` once."""
        from telegram import error

        for may_wait in (waits, False):
            try:
                return await method(**arguments)
            except error.RetryAfter as refused:
                given = refused.retry_after
                seconds = given.total_seconds() if isinstance(given, timedelta) else float(given)
                if not may_wait or seconds > MAX_WAIT_SECONDS:
                    problem = f"Telegram accepts no message for {seconds:g} s"
                    raise PlatformError(problem, retry_after=seconds) from None
                await asyncio.sleep(seconds)
            except error.InvalidToken:
                raise AccessRevoked("Telegram refuses the token; @BotFather shows it") from None
            except error.Conflict:
                problem = "another program, perhaps another Daybook, receives with this token"
                raise UsedElsewhere(problem) from None
            except error.Forbidden as refused:
                raise PlatformError(self._clean(refused), is_temporary=False) from None
            except error.ChatMigrated as moved:
                problem = f"the group has a new chat id: {moved.new_chat_id}"
                raise PlatformError(problem, is_temporary=False) from None
            except error.BadRequest as refused:
                problem = self._clean(refused)
                if "parse entities" in problem:
                    raise _Unparsable(problem) from None
                kind = _NotFound if _is_gone(problem) else PlatformError
                raise kind(problem, is_temporary=False) from None
            except error.TimedOut:
                raise PlatformError("Telegram did not answer in time") from None
            except error.TelegramError as failed:  # a message may contain a URL with the token
                raise PlatformError(f"Telegram: {type(failed).__name__}") from None
        raise AssertionError("the second call waits no more")

    def _clean(self, error: Exception) -> str:
        return f"Telegram: {str(error).replace(self._token, HIDDEN)}"

    # --- updates

    def _update(self, update: telegram.Update) -> Update | None:
        """Return the update; None for one that has no person, such as a post of a channel."""
        if (query := update.callback_query) is not None:
            message, person = query.message, query.from_user
            if message is None or not query.data:
                return None
            return Update(
                id=f"{self._account_id}-{update.update_id}",
                position=update.update_id,
                kind=UpdateKind.PRESS,
                chat_id=str(message.chat.id),
                person_id=str(person.id),
                person_name=_name(person),
                message_id=str(message.message_id),
                button=query.data,
                press_id=query.id,
                is_group=message.chat.type != "private",
            )
        message = update.message
        if message is None or message.from_user is None or message.from_user.is_bot:
            return None
        replied = message.reply_to_message
        text = message.text or message.caption or ""
        is_group = message.chat.type != "private"
        mention = f"@{self._name}"
        found = _picture_of(message)
        others = (word for name, word in _UNREADABLE.items() if message[name])
        return Update(
            id=f"{self._account_id}-{update.update_id}",
            position=update.update_id,
            kind=UpdateKind.MESSAGE,
            chat_id=str(message.chat.id),
            person_id=str(message.from_user.id),
            person_name=_name(message.from_user),
            message_id=str(message.message_id),
            text=_without(text, mention),
            reply_to=str(replied.message_id) if replied else "",
            quoted=clip((replied.text or replied.caption or "") if replied else "", MAX_QUOTED),
            unreadable="" if found else next(others, ""),
            pictures=(found,) if found else (),
            is_group=is_group,
            is_addressed=not is_group or self._is_addressed(text, replied),
            is_forwarded=message.forward_origin is not None,
        )

    def _is_addressed(self, text: str, replied: telegram.Message | None) -> bool:
        is_mine = replied is not None and replied.from_user is not None
        if is_mine and replied.from_user.username == self._name:  # type: ignore[union-attr]
            return True
        return bool(self._name) and f"@{self._name}".lower() in text.lower()


def _picture_of(message: telegram.Message) -> str:
    """Return the file id of the message's picture, in the largest size that fits; "" if none."""
    document = message.document
    if document is not None and document.mime_type in CONTENT_TYPES:
        return document.file_id
    sizes = sorted(message.photo, key=lambda each: each.width * each.height)
    fits = [each for each in sizes if (each.file_size or 0) <= MAX_PICTURE_BYTES]
    return (fits or sizes)[-1].file_id if sizes else ""


class _Unparsable(PlatformError):
    """Telegram cannot read the markup of a text, and has sent nothing."""


class _NotFound(PlatformError):
    """The message is gone, or it is already as requested."""


def _is_gone(problem: str) -> bool:
    return any(each in problem for each in _GONE)


_GONE = (
    *("is not modified", "to edit not found", "can't be edited"),
    *("to delete not found", "can't be deleted"),
)


def _keyboard(post: Post) -> Any:
    from telegram import InlineKeyboardButton, InlineKeyboardMarkup

    buttons = [InlineKeyboardButton(label, callback_data=word) for word, label in post.buttons]
    rows = range(0, len(buttons), BUTTONS_PER_ROW)
    return InlineKeyboardMarkup([buttons[start : start + BUTTONS_PER_ROW] for start in rows])


def _name(person: telegram.User) -> str:
    return clip(" ".join(person.full_name.split()), 80) or str(person.id)


def _without(text: str, mention: str) -> str:
    """Return ``text`` without the ``mention`` of the bot, as in `/today@morning_bot`."""
    at = text.lower().find(mention.lower()) if len(mention) > 1 else -1
    return text if at < 0 else f"{text[:at]}{text[at + len(mention) :]}"
