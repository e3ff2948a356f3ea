"""A mailbox on an IMAP server, which is only read.

::

    Mailbox.do(work) ─► Guard.target: checked IP addresses of the host
                     ─► a thread: TLS ─► LOGIN ─► work ─► LOGOUT
                     ─► after `TOTAL_SECONDS`, or a cancellation, `Stop` shuts the socket down,
                        so the thread ends

Each call has a connection of its own. `imaplib` of the standard library speaks IMAP; its calls
block, so they run in a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import httpx

from daybook.errors import DaybookError, InvalidInput
from daybook.features.mail_tools import settings
from daybook.http import imap, secrets
from daybook.http.guard import Guard, Rule, Target
from daybook.http.imap import MailConnection, Stop
from daybook.http.secrets import FilledSecrets, SecretDestination, SecretStore
from daybook.jobs import secret_references
from daybook.jobs.limits import Limits
from daybook.short_text import one_line

T = TypeVar("T")

SECRET = "imap"


class MailFailed(DaybookError):
    """The error that a mail server refused something, or did not answer."""

    code = "mail_failed"


@dataclass(frozen=True)
class Mailbox:
    """The mailbox of the settings. ``url`` is the server's address, as the guard checks it."""

    url: str
    user: str
    password: str = field(repr=False)
    guard: Guard
    filled: FilledSecrets = field(repr=False)

    @classmethod
    async def load(cls, store: SecretStore, limits: Limits | None) -> Mailbox:
        """Return the mailbox with its password.

        Raise `InvalidInput` if there is none, or if the secret `imap` is not bound to its server,
        and the errors of an unreachable ``store``.
        """
        given = settings.load().imap_url
        if not given:
            hint = f"set DAYBOOK_IMAP_URL, such as {settings.EXAMPLE}"
            raise InvalidInput("imap_url", "there is no mailbox", hint)
        parts = urlsplit(given)
        # A guard checks addresses of the web; only host and port matter here.
        server = parts.netloc.rpartition("@")[2]
        url = f"https://{server}" + ("" if parts.port else f":{settings.DEFAULT_PORT}")
        # The operator, not a model, has chosen the server.
        guard, filled = Guard.from_settings(Rule.OPERATOR, limits), FilledSecrets()
        destination = SecretDestination.of_url(guard.check(httpx.URL(url)))
        reference = secret_references.reference(SECRET)
        password = await secrets.fill("imap_url", reference, destination, store, filled)
        user = unquote(parts.username or "")
        filled.values |= imap.spellings(user, password)
        return cls(url, user, password, guard, filled)

    async def do(self, work: Callable[[MailConnection], T]) -> T:
        """Return the result of ``work``, which a thread calls with a connection that is logged in.

        Raise `MailFailed`, `OutgoingRefused`, and the errors of ``work``.
        """
        try:
            target = await self.guard.target(self.url)
        except OSError as error:
            raise MailFailed(f"cannot resolve the mail server: {error}") from None
        stop = Stop()
        try:
            return await imap.in_thread(
                lambda: self._work(target, stop, work), stop, imap.TOTAL_SECONDS
            )
        except TimeoutError:
            problem = f"the mail server did not answer within {imap.TOTAL_SECONDS:g} s"
            raise MailFailed(problem) from None

    def _work(self, target: Target, stop: Stop, work: Callable[[MailConnection], T]) -> T:
        connection: MailConnection | None = None
        try:
            connection = MailConnection(target, stop)
            connection.log_in(self.user, self.password)
            return work(connection)
        except imap.ERRORS as error:
            shown = one_line(self.filled.hide(imap.problem_of(error)), 300)
            raise MailFailed(f"the mail server: {shown or type(error).__name__}") from None
        finally:
            if connection is not None:
                with suppress(*imap.ERRORS):
                    connection.logout()
                with suppress(OSError):  # it is closed already, unless `logout` failed
                    connection.shutdown()
