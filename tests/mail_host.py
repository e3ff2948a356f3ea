"""A mail host on localhost: IMAP of `tests.imap_server`, SMTP with STARTTLS, and its writers."""

from __future__ import annotations

import asyncio
import email
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from tests import imap_server
from tests.imap_server import PASSWORD, USER, MailServer

SERVER = "mx.example.org"
ANNA = "anna@example.com"


@dataclass
class SentMail:
    """A mail that the account has sent."""

    to: str
    mail: EmailMessage

    @property
    def id(self) -> str:
        return str(self.mail["Message-ID"])

    @property
    def subject(self) -> str:
        return str(self.mail["Subject"])

    @property
    def plain(self) -> str:
        return self._text("plain").replace("\r\n", "\n").strip()

    @property
    def html(self) -> str:
        return self._text("html")

    @property
    def files(self) -> dict[str, bytes]:
        return {
            str(each.get_filename()): bytes(each.get_payload(decode=True))
            for each in self.mail.iter_attachments()
        }

    def _text(self, kind: str) -> str:
        part = self.mail.get_body((kind,))
        return str(part.get_content()) if part is not None else ""


@dataclass
class MailHost:
    """The mailbox `USER`; ``answer`` is the reply of SMTP to the next mail."""

    imap: MailServer
    smtp_port: int = 0
    sent: list[SentMail] = field(default_factory=list)
    answer: str = "250 OK"
    password: str = PASSWORD
    _count: int = 0

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "address": USER,
            "password": PASSWORD,
            "imap_host": "127.0.0.1",
            "imap_port": self.imap.port,
            "smtp_host": "127.0.0.1",
            "smtp_port": self.smtp_port,
            "authserv_id": SERVER,
        }

    def write(
        self,
        text: str = "",
        *,
        person: str = ANNA,
        subject: str = "",
        reply_to: SentMail | None = None,
        quotes: bool = True,
        verified: bool = True,
        headers: dict[str, str] | None = None,
        html: str = "",
        attachment: str = "",
        content: bytes = b"x",
        shown: bool = False,
    ) -> str:
        """Write a mail to the account, as a client does. Return its Message-ID."""
        self._count += 1
        mail = EmailMessage()
        if verified:
            domain = person.rpartition("@")[2].rstrip(">")
            mail["Authentication-Results"] = f"{SERVER}; dmarc=pass (p=NONE) header.from={domain}"
        mail["From"], mail["To"] = person, USER
        mail["Message-ID"] = f"<{self._count}@client.example.com>"
        if reply_to is not None:
            mail["In-Reply-To"] = mail["References"] = reply_to.id
            subject = subject or f"Re: {reply_to.subject.removeprefix('Re: ')}"
            if quotes:
                quoted = "\n".join(f"> {line}" for line in reply_to.plain.splitlines())
                text = f"{text}\n\nOn Sun, 29 Nov 2026 at 09:00, Daybook <{USER}> wrote:\n{quoted}"
        mail["Subject"] = subject
        for name, value in (headers or {}).items():
            del mail[name]
            mail[name] = value
        if html:
            mail.set_content(html, subtype="html")
        else:
            mail.set_content(text)
        if attachment:
            given: dict[str, Any] = {"disposition": "inline", "cid": "<logo>"} if shown else {}
            mail.add_attachment(
                content, maintype="image", subtype="png", filename=attachment, **given
            )
        self.imap.deliver("", content=mail.as_bytes(policy=policy.SMTP))
        return str(mail["Message-ID"])

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        given, self.answer = self.answer, "250 OK"
        if given.startswith("250"):
            mail = email.message_from_bytes(envelope.content, policy=policy.default)
            self.sent.append(SentMail(envelope.rcpt_tos[0], mail))
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
        return given

    def log_in(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
        right = isinstance(data, LoginPassword) and (
            (data.login.decode(), data.password.decode()) == (USER, self.password)
        )
        return AuthResult(success=right, handled=False)

    async def until(self, what: Callable[[], Any], within: float = 60.0) -> Any:
        """Wait until ``what`` returns a true value after a mail, and return it."""
        async with asyncio.timeout(within):
            while True:
                changed = self._changed
                if found := what():
                    return found
                await changed.wait()

    async def message(self, text: str) -> SentMail:
        """Return the first mail of the account that contains the text."""
        found: SentMail = await self.until(
            lambda: next((each for each in self.sent if text in each.plain), None)
        )
        return found


@asynccontextmanager
async def serving(certificate: Path) -> AsyncIterator[MailHost]:
    """Yield a mail host whose servers have the ``certificate``, a PEM file with its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with imap_server.serving(certificate) as imap:
        host = MailHost(imap)
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(
            lambda: SMTP(
                host,
                hostname="localhost",
                tls_context=context,
                require_starttls=True,
                auth_required=True,
                authenticator=host.log_in,
            ),
            "127.0.0.1",
            0,
        )
        host.smtp_port = listening.sockets[0].getsockname()[1]
        try:
            yield host
        finally:
            listening.close()
