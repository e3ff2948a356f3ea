"""A mail server on localhost that speaks as much of IMAP as a reader needs, over TLS.

It answers like Dovecot, and marks a message as read if it is fetched without `PEEK` from a folder
that was opened with `SELECT`.
"""

from __future__ import annotations

import base64
import re
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from daybook.clock import SYSTEM_CLOCK

USER, PASSWORD = "me@example.org", "correct horse 1"
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_WORD = re.compile(
    rb'"((?:[^"\\]|\\.)*)"|\{(\d+)\}\r\n|\(([^)]*)\)|([^\s()"]+(?:\([^)]*\)[^\s]*)?)'
)


@dataclass
class StoredMail:
    """A mail of a folder."""

    content: bytes
    received: date
    seen: bool = False


@dataclass
class MailServer:
    """The mailbox, and what was done: ``commands`` are all lines but those with a password."""

    port: int = 0
    password: str = PASSWORD
    folders: dict[str, list[StoredMail]] = field(default_factory=lambda: {"INBOX": []})
    commands: list[str] = field(default_factory=list)
    raw: dict[str, bytes] = field(default_factory=dict)
    """Lines that a command, such as `UID SEARCH`, gets in place of its own."""
    echoes: bool = False
    """Whether a refused login is answered with the line that the client has sent."""
    capabilities: str = "IMAP4rev1 IDLE AUTH=PLAIN"
    validity: int = 1_700_000_000
    hangs: threading.Event | None = None
    """If it is set by a test, a search is not answered until the client has gone."""

    def __post_init__(self) -> None:
        self._idle: list[socket.socket] = []
        self.watched = threading.Event()
        """Set while a client waits for mail with IDLE."""

    @property
    def url(self) -> str:
        return f"imaps://{USER.replace('@', '%40')}@127.0.0.1:{self.port}"

    def deliver(
        self,
        subject: str,
        text: str = "",
        *,
        html: str = "",
        sender: str = "Anna <anna@example.org>",
        attachment: str = "",
        folder: str = "INBOX",
        received: date | None = None,
        content: bytes = b"",
    ) -> StoredMail:
        """Add an unread mail to a folder."""
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = sender, USER, subject
        if text:
            mail.set_content(text)
        if html and text:
            mail.add_alternative(html, subtype="html")
        elif html:
            mail.set_content(html, subtype="html")
        if attachment:
            mail.add_attachment(
                b"PDF of 11 b", maintype="application", subtype="pdf", filename=attachment
            )
        day = received or SYSTEM_CLOCK.now().date()
        stored = StoredMail(content or mail.as_bytes(policy=policy.SMTP), day)
        self.folders.setdefault(folder, []).append(stored)
        for each in list(self._idle):
            with suppress(OSError):  # it has just ended
                each.send(b"x")
        return stored


class _Session(socketserver.StreamRequestHandler):
    """A connection of a client."""

    server: Any
    mail: MailServer
    messages: list[StoredMail]
    writable: bool

    def handle(self) -> None:
        self.mail, self.messages, self.writable = self.server.mail, [], False
        self.say("* OK ready")
        while line := self.rfile.readline():
            tag, _, rest = line.partition(b" ")
            while found := re.search(rb"\{(\d+)\}\r\n\Z", rest):
                self.say("+ go on")
                rest += self.rfile.read(int(found[1])) + self.rfile.readline()
            words = [_value(each, rest) for each in _words(rest)]
            name = words[0].upper()
            if name == "UID":
                name = f"UID {words.pop(1).upper()}"
            if name not in ("LOGIN", "AUTHENTICATE"):
                self.mail.commands.append(rest.decode(errors="replace").strip())
            if name in self.mail.raw:
                self.wfile.write(self.mail.raw[name])
                answer = "OK done"
            else:
                answer = getattr(self, f"do_{name.replace(' ', '_').lower()}")(words[1:])
            if self.mail.echoes and name == "LOGIN" and answer.startswith("NO"):
                answer = f"BAD {rest.decode().strip()}"
            self.say(f"{tag.decode()} {answer}")
            if name == "LOGOUT":
                return

    def say(self, text: str, literal: bytes = b"", after: str = "") -> None:
        self.wfile.write(text.encode() + (b"\r\n" if not literal else literal + after.encode()))
        if literal:
            self.wfile.write(b"\r\n")

    def do_capability(self, _: list[str]) -> str:
        self.say(f"* CAPABILITY {self.mail.capabilities}")
        return "OK done"

    def do_login(self, words: list[str]) -> str:
        right = words == [USER, self.mail.password]
        return "OK logged in" if right else f"NO wrong password {words[1]}"

    def do_authenticate(self, words: list[str]) -> str:
        self.say("+ ")
        line = self.rfile.readline()
        if base64.b64decode(line).decode() == f"\0{USER}\0{self.mail.password}":
            return "OK logged in"
        return f"BAD {line.decode().strip()}" if self.mail.echoes else "NO wrong password"

    def do_examine(self, words: list[str], *, writable: bool = False) -> str:
        if words[0] not in self.mail.folders:
            return "NO [NONEXISTENT] there is no such folder"
        self.messages, self.writable = self.mail.folders[words[0]], writable
        self.report()
        self.say(f"* OK [UIDVALIDITY {self.mail.validity}] valid")
        self.say(f"* OK [UIDNEXT {len(self.messages) + 1}] next")
        return "OK [READ-WRITE] done" if writable else "OK [READ-ONLY] done"

    def do_select(self, words: list[str]) -> str:
        return self.do_examine(words, writable=True)

    def report(self) -> None:
        self.say(f"* {len(self.messages)} EXISTS")

    def do_noop(self, _: list[str]) -> str:
        self.report()
        return "OK done"

    def do_idle(self, _: list[str]) -> str:
        self.say("+ idling")
        news, deliver = socket.socketpair()
        waiting: list[Any] = [self.connection, news]
        with news, deliver:
            self.mail._idle.append(deliver)
            self.mail.watched.set()
            while True:
                ready = select.select(waiting, [], [])[0]
                if news in ready:
                    news.recv(100)
                    self.report()
                if self.connection in ready:
                    self.mail._idle.remove(deliver)
                    self.mail.watched.clear()
                    self.rfile.readline()  # DONE
                    return "OK done"

    def do_uid_store(self, words: list[str]) -> str:
        assert words[1:] == ["+FLAGS", "\\Seen"]
        for uid in map(int, words[0].split(",")):
            self.messages[uid - 1].seen = True
        return "OK done"

    def do_list(self, _: list[str]) -> str:
        for each in self.mail.folders:
            shown = each if each.isalnum() else f'"{each}"'
            self.say(f'* LIST (\\HasNoChildren) "/" {shown}')
        return "OK done"

    def do_uid_search(self, words: list[str]) -> str:
        if self.mail.hangs is not None:
            self.mail.hangs.set()
            self.rfile.read(1)
        found = [
            uid for uid, each in enumerate(self.messages, 1) if _matches(uid, each, list(words))
        ]
        self.say(f"* SEARCH {' '.join(map(str, found))}".rstrip())
        return "OK done"

    def do_uid_fetch(self, words: list[str]) -> str:
        for uid in map(int, words[0].split(",")):
            if uid > len(self.messages):
                continue
            each = self.messages[uid - 1]
            flags = "\\Seen" if each.seen else ""
            about = f"UID {uid} FLAGS ({flags}) RFC822.SIZE {len(each.content)}"
            if "HEADER.FIELDS" in words[1]:
                part = each.content.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                item = "BODY[HEADER.FIELDS (FROM)]<0>"
            else:
                part, item = each.content, "BODY[]<0>"
            (most,) = re.findall(r"<0\.(\d+)>", " ".join(words[1:]))
            part = part[: int(most)]
            if self.writable and ".PEEK" not in words[1]:
                each.seen = True
            self.say(f"* {uid} FETCH ({about} {item} {{{len(part)}}}\r\n", part, ")")
        return "OK done"

    def do_logout(self, _: list[str]) -> str:
        self.say("* BYE")
        return "OK done"


def _words(line: bytes) -> Iterator[re.Match[bytes]]:
    at = 0
    while found := _WORD.search(line, at):
        yield found
        at = found.end() + int(found[2] or 0)


def _value(found: re.Match[bytes], line: bytes) -> str:
    if found[1] is not None:
        return re.sub(r"\\(.)", r"\1", found[1].decode())
    if found[2] is not None:
        return line[found.end() : found.end() + int(found[2])].decode()
    return (found[3] if found[3] is not None else found[4]).decode()


def _matches(uid: int, mail: StoredMail, words: list[str]) -> bool:
    while words:
        key, given = words.pop(0).upper(), ""
        if key in ("SINCE", "FROM", "TEXT", "UID", "CHARSET"):
            given = words.pop(0)
        match key:
            case "SINCE":
                day, month, year = given.split("-")
                fits = mail.received >= date(int(year), MONTHS.index(month) + 1, int(day))
            case "FROM" | "TEXT":
                message = message_from_bytes(mail.content, policy=policy.default)
                texts = [str(message["from"])]
                if key == "TEXT":
                    texts += [str(message["subject"]), *_texts(message)]
                fits = any(given.lower() in each.lower() for each in texts)
            case "UNSEEN":
                fits = not mail.seen
            case "UID":
                low, _, high = given.partition(":")
                fits = int(low) <= uid and (high == "*" or uid <= int(high))
            case _:
                fits = key == "CHARSET"
        if not fits:
            return False
    return True


def _texts(message: Any) -> list[str]:
    parts = [each for each in message.walk() if each.get_content_maintype() == "text"]
    return [each.get_content() for each in parts]


@contextmanager
def serving(certificate: Path) -> Iterator[MailServer]:
    """Yield a mail server on 127.0.0.1 with the ``certificate``, a PEM file with its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True
        mail = MailServer()

        def get_request(self) -> Any:
            plain, address = super().get_request()
            plain.settimeout(60.0)
            return context.wrap_socket(
                plain, server_side=True, do_handshake_on_connect=False
            ), address

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # the client has gone, or does not trust the certificate

    with Server(("127.0.0.1", 0), _Session) as server:
        server.mail.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.mail
        finally:
            server.shutdown()
            thread.join()
