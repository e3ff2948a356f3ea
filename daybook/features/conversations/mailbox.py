"""E-mail: a mailbox that hears by IMAP and answers by SMTP, both over TLS.

==============================  ===============================================================
mail                            here
==============================  ===============================================================
UIDVALIDITY and UID             `Update.position`; the first connection reads no older mail
IDLE, or a search each 20 s     `receive`
Message-ID                      of a received mail: `Update.id`, so a copy of it does nothing; of a
                                sent one: from the outbox row and the part, so the mails of a
                                repeated attempt are recognized as one
In-Reply-To, References         `Update.reply_to`, and the thread of an answer
From                            the person, if it is verified (`senders`)
the text without its quotes     `Update.text` (`reply_text`); HTML as Markdown
attached pictures               `Update.pictures`: the place of the mail, which is read again
\\Seen                           `confirm`
==============================  ===============================================================

Mail has no buttons: a reply begins with the word of one. A mail that was sent is sent again if the
process dies before it has stored that; both have the same Message-ID. Mailing lists, automatic
answers and reports are ignored. `imaplib` and `smtplib` of the standard library block, so they run
in a thread.
"""

from __future__ import annotations

import asyncio
import imaplib
import logging
import smtplib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from email.message import EmailMessage
from typing import TypeVar

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import DaybookError, InvalidInput, OutgoingRefused
from daybook.execution import mail_text
from daybook.features.conversations import senders
from daybook.features.conversations.letters import Letters
from daybook.features.conversations.platform import (
    AccessRevoked,
    PlatformError,
    Post,
    ReceivedPicture,
    Update,
)
from daybook.features.conversations.settings import MailboxSettings
from daybook.http import imap
from daybook.http.guard import Guard, Rule, Target
from daybook.http.imap import MailConnection, Stop
from daybook.http.transport import default_ssl_context
from daybook.redaction import HIDDEN
from daybook.short_text import one_line

T = TypeVar("T")
log = logging.getLogger(__name__)

IDLE_SECONDS = 25.0
POLL_SECONDS = 20.0
"""Interval between two searches at a server without IDLE."""
CALL_SECONDS = 30.0
"""Timeout of a call of the IMAP server, without the time in IDLE."""
SEND_SECONDS = 20.0
MAX_MAILS = 20
"""Maximum number of mails that one call of `receive` reads."""
MAX_MAIL_BYTES = 2**20
"""Number of bytes of a mail that are read; its text is before its attachments."""
MAX_PICTURE_MAIL_BYTES = 15 * 2**20
"""Maximum length of a mail whose pictures are read; it is less than `imap.MAX_RECEIVED_BYTES`."""
MAX_CHARACTERS = 500_000
IMPLICIT_TLS_PORT = 465
RENUMBERED_AGE = timedelta(days=2)
"""Maximum age of an unread mail that is read if the server has given all mails new numbers."""
_UIDS = 2**32


@dataclass(frozen=True)
class MailboxAccount:
    """The stored settings of a mailbox."""

    name: str
    settings: MailboxSettings

    @property
    def agent(self) -> str:
        return self.settings.agent

    @property
    def account_id(self) -> str:
        return self.settings.address.lower()

    @property
    def place(self) -> str:
        given = self.settings
        user = given.user or given.address
        return f"{user}@{given.imap_host}".lower() + f"/{given.folder}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[MailboxPlatform]:
        """Open a mailbox. It connects to a server when it needs it."""
        platform = MailboxPlatform(self.name, self.settings)
        try:
            yield platform
        finally:
            await platform.close()


class MailboxPlatform:
    """An open mailbox: a `Platform`."""

    max_characters = MAX_CHARACTERS
    is_letter = True
    position_lifetime: timedelta | None = None

    def __init__(self, name: str, settings: MailboxSettings) -> None:
        self.position: int | None = None
        self._settings = settings
        self._letters = Letters(name, settings)
        self._user = settings.user or settings.address
        self._password = settings.password.get_secret_value()
        self._hidden = imap.spellings(self._user, self._password)
        self._connection: MailConnection | None = None
        self._stop, self._has_idle = Stop(), False
        self._validity = self._newest = 0

    async def identity(self) -> str:
        """Log in to both servers. Return the address."""
        await self._open()
        await self._smtp(lambda _: None)
        return self._settings.address

    # --- receive

    async def receive(self, after: int | None) -> Sequence[Update]:
        await self._open()
        if after is None:
            return ()  # `position` is that of the newest mail
        self.position = after
        found = await self._read(after)
        if found is None:
            if self._has_idle:
                await self._imap(
                    lambda each: each.wait_for_news(IDLE_SECONDS), IDLE_SECONDS + CALL_SECONDS
                )
            else:
                await asyncio.sleep(POLL_SECONDS)
            found = await self._read(after)
        return found or ()

    async def confirm(self, updates: Sequence[Update]) -> None:
        """Mark the mails as read."""
        uids = [str(each.position % _UIDS) for each in updates]
        if uids:
            await self._imap(lambda each: each.uid("STORE", ",".join(uids), "+FLAGS", r"(\Seen)"))

    async def _open(self) -> None:
        if self._connection is not None:
            return
        target = await self._imap_target()
        self._stop = stop = Stop()
        connection = await self._call(lambda: self._connected(target, stop), CALL_SECONDS)
        self._connection = connection
        self._validity = _number(connection, "UIDVALIDITY")
        self._newest = max(0, _number(connection, "UIDNEXT") - 1)
        self.position = self._position(self._newest)

    def _connected(self, target: Target, stop: Stop, *, readonly: bool = False) -> MailConnection:
        """Return a connection with the opened folder."""
        connection = MailConnection(target, stop)
        try:
            self._log_in(connection)
            self._has_idle = b"IDLE" in (connection.capability()[1][0] or b"").upper().split()
            connection.examine(self._settings.folder, readonly=readonly)
            return connection
        except BaseException:
            with suppress(OSError):
                connection.shutdown()
            raise

    def _log_in(self, connection: MailConnection) -> None:
        try:
            connection.log_in(self._user, self._password)
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as error:
            problem = self._clean(imap.problem_of(error))
            raise AccessRevoked(f"the IMAP server refuses the login: {problem}") from None

    async def _read(self, after: int) -> list[Update] | None:
        """Return the updates of the mails after a position; None if there are no mails."""

        is_here = after // _UIDS == self._position(0) // _UIDS
        first = after % _UIDS + 1
        day = SYSTEM_CLOCK.now() - RENUMBERED_AGE

        def search(connection: MailConnection) -> list[int]:
            connection.noop()
            if is_here:
                return [each for each in connection.find([(f"UID {first}:*", "")]) if each >= first]
            # The mails have new numbers: those that were read are known by their Message-ID.
            since = imaplib.Time2Internaldate(day)[1:12]
            return connection.find([(f"UNSEEN SINCE {since}", "")])

        uids = sorted(await self._imap(search))[:MAX_MAILS]
        if not uids:
            if not is_here:
                self.position = self._position(self._newest)
            return None
        updates = list[Update]()
        for uid in uids:
            found = await self._fetch(uid)
            if found is not None:
                updates.append(found)
        self.position = self._position(uids[-1] if is_here else max(self._newest, uids[-1]))
        return updates

    async def _fetch(self, uid: int) -> Update | None:
        parts = await self._imap(
            lambda each: each.fetch_parts([uid], f"(BODY.PEEK[]<0.{MAX_MAIL_BYTES}>)")
        )
        if not parts:
            return None  # it was deleted
        place = f"{self._validity}:{uid}"
        try:
            mail = await mail_text.read(parts[0][1])
            is_cut = len(parts[0][1]) >= MAX_MAIL_BYTES
            return self._letters.update(mail, place, self._position(uid), is_cut=is_cut)
        except DaybookError as error:
            log.warning("mail %s: %s", place, error, extra={"action": "mail_unreadable"})
            return None

    async def read_pictures(self, ids: Sequence[str]) -> Sequence[ReceivedPicture]:
        """Read the mail again, as a whole: a place of it is the id of all its pictures.

        Raise `InvalidInput` if that is not possible.
        """
        [place] = ids
        validity, _, uid = place.partition(":")
        target, stop = await self._imap_target(), Stop()

        def work() -> bytes:  # on a connection of its own, because the other one may be in IDLE
            connection = self._connected(target, stop, readonly=True)
            with closing(connection.sock):
                if str(_number(connection, "UIDVALIDITY")) != validity:
                    return b""  # the server has given all mails new numbers
                parts = f"(BODY.PEEK[]<0.{MAX_PICTURE_MAIL_BYTES}>)"
                found = connection.fetch_parts([int(uid)], parts)
                return found[0][1] if found else b""

        content = await self._call(work, CALL_SECONDS, stop)
        if not content:
            raise InvalidInput("picture", "the mail is no longer there", "send it again")
        if len(content) >= MAX_PICTURE_MAIL_BYTES:
            problem = f"the mail has more than {MAX_PICTURE_MAIL_BYTES / 2**20:g} MiB"
            raise InvalidInput("picture", problem, "send a smaller one")
        try:
            return [ReceivedPicture(*each) for each in await mail_text.read_pictures(content)]
        except mail_text.UnreadableMail as error:
            raise InvalidInput("picture", str(error)) from None

    # --- send

    async def show_typing(self, chat_id: str, message_id: str) -> None:
        """Do nothing: a mailbox shows no typing."""

    async def acknowledge(self, press_id: str, text: str) -> None:
        """Do nothing: there are no presses."""

    async def send(self, post: Post) -> str:
        if not senders.is_address(post.chat_id):
            problem = f'"{one_line(post.chat_id, 100)}" is no address, such as anna@example.org'
            raise PlatformError(problem, is_temporary=False)
        mail = self._letters.mail(post)
        await self._smtp(lambda each: each.deliver(mail, self._settings.address, post.chat_id))
        return self._letters.message_id(post)

    async def edit(self, message_id: str, post: Post) -> None:
        raise PlatformError("a mail that was sent cannot be changed", is_temporary=False)

    async def delete(self, chat_id: str, message_id: str) -> None:
        """Do nothing: a mail that was sent stays."""

    async def remove_buttons(self, chat_id: str, message_id: str) -> None:
        """Do nothing: a word that is no longer valid gets an answer that says so."""

    async def _smtp(self, work: Callable[[MailSender], T]) -> T:
        target = await self._target(self._settings.smtp_host, self._settings.smtp_port)
        stop = Stop()

        def do() -> T:
            with MailSender(target, stop) as sender:
                sender.login(self._user, self._password)
                return work(sender)

        try:
            return await imap.in_thread(do, stop, SEND_SECONDS)
        except TimeoutError:
            raise PlatformError("the SMTP server did not answer in time") from None
        except smtplib.SMTPAuthenticationError as error:
            problem = self._clean(_text(error.smtp_error))
            raise AccessRevoked(f"the SMTP server refuses the login: {problem}") from None
        except smtplib.SMTPRecipientsRefused as error:
            code, text = next(iter(error.recipients.values()))
            raise self._refused(code, text) from None
        except smtplib.SMTPResponseException as error:
            raise self._refused(error.smtp_code, error.smtp_error) from None
        except (OSError, ValueError) as error:  # smtplib.SMTPException is an OSError
            raise PlatformError(f"the SMTP server: {self._clean(str(error))}") from None

    def _refused(self, code: int, text: bytes | str) -> PlatformError:
        problem = f"the SMTP server refuses the mail: {code} {self._clean(_text(text))}"
        return PlatformError(problem, is_temporary=code < 500)

    # --- connections

    async def close(self) -> None:
        """Log out, and close the connection to the IMAP server."""
        connection, self._connection = self._connection, None
        if connection is None:
            return

        def end() -> None:
            with suppress(*imap.ERRORS):
                connection.logout()
            with suppress(OSError):
                connection.shutdown()

        with suppress(TimeoutError):
            await imap.in_thread(end, self._stop, 1.0)

    def _position(self, uid: int) -> int:
        """Return the position of a mail: a number of 63 bits."""
        return self._validity % (_UIDS // 2) * _UIDS + uid

    async def _imap_target(self) -> Target:
        return await self._target(self._settings.imap_host, self._settings.imap_port)

    async def _target(self, host: str, port: int) -> Target:
        """Return the checked addresses of a server. Raise `PlatformError`."""
        guard = Guard.from_settings(Rule.OPERATOR, None)  # the operator has chosen the server
        try:
            return await guard.target(f"https://{host}:{port}")
        except (OSError, OutgoingRefused, InvalidInput) as error:
            raise PlatformError(f"cannot reach {host}: {error}") from None

    async def _imap(self, work: Callable[[MailConnection], T], seconds: float = CALL_SECONDS) -> T:
        connection = self._connection
        assert connection is not None
        connection.received = 0
        return await self._call(lambda: work(connection), seconds)

    async def _call(self, work: Callable[[], T], seconds: float, stop: Stop | None = None) -> T:
        """Call ``work`` in a thread. After an error, the next call opens a new connection."""
        try:
            return await imap.in_thread(work, stop or self._stop, seconds)
        except TimeoutError:
            self._drop()
            raise PlatformError("the IMAP server did not answer in time") from None
        except (InvalidInput, PlatformError):
            raise
        except imap.ERRORS as error:
            self._drop()
            problem = self._clean(imap.problem_of(error)) or type(error).__name__
            raise PlatformError(f"the IMAP server: {problem}") from None

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):
                connection.shutdown()

    def _clean(self, text: str) -> str:
        for each in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(each, HIDDEN)
        return one_line(text, 300)


def _number(connection: MailConnection, code: str) -> int:
    """Return the number in a response code of SELECT; 0 if the server has sent none."""
    found = connection.response(code)[1]
    text = found[-1] if found and found[-1] else b"0"
    return int(text)


def _text(given: bytes | str) -> str:
    return given.decode(errors="replace") if isinstance(given, bytes) else given


class MailSender(smtplib.SMTP):
    """A connection to the checked addresses of ``target``, over TLS, which ``stop`` ends.

    At `IMPLICIT_TLS_PORT` it begins with TLS; at any other port it needs STARTTLS.
    """

    def __init__(self, target: Target, stop: Stop) -> None:
        self._target, self._ending = target, stop
        super().__init__(target.name, target.port, timeout=SEND_SECONDS)
        if target.port != IMPLICIT_TLS_PORT:
            self.starttls(context=default_ssl_context())
            assert self.sock is not None
            stop.add(self.sock)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        found = imap.connect(self._target)
        found.settimeout(timeout)
        self._ending.add(found)
        if port == IMPLICIT_TLS_PORT:
            found = default_ssl_context().wrap_socket(found, server_hostname=self._target.name)
            self._ending.add(found)
        return found

    def deliver(self, mail: EmailMessage, sender: str, recipient: str) -> None:
        """Send a mail. Raise the errors of `sendmail`."""
        self.sendmail(sender, [recipient], mail.as_bytes())
