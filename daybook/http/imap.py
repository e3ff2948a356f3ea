"""A connection to an IMAP server, with the blocking `imaplib` of the standard library in a thread.

::

    Guard.target: checked IP addresses ─► `in_thread`: MailConnection: TLS ─► LOGIN ─► work
                                          └ after a time, or a cancellation, `Stop` shuts the
                                            socket down, so the thread ends
"""

from __future__ import annotations

import asyncio
import imaplib
import re
import select
import socket
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from daybook.errors import InvalidInput
from daybook.http.guard import Target
from daybook.http.transport import default_ssl_context
from daybook.short_text import first_names, one_line

T = TypeVar("T")

CONNECT_SECONDS = 15.0
TOTAL_SECONDS = 60.0
MAX_RECEIVED_BYTES = 16 * 2**20
"""Maximum number of bytes that Daybook reads from the server for one call."""
MAX_LISTED_FOLDERS = 30
MAX_FOLDER_CHARACTERS = 200
ERRORS = (imaplib.IMAP4.error, OSError, EOFError, ValueError, TypeError)
"""Errors of a connection; `imaplib` raises the last two for a response that is not IMAP."""

_FOLDER = re.compile(rb'\([^)]*\) (?:"(?:[^"\\]|\\.)*"|NIL) (.*)', re.DOTALL)
_ENCODED_RUN = re.compile(r"&([^&-]*)-")


async def in_thread(work: Callable[[], T], stop: Stop, seconds: float) -> T:
    """Return the result of ``work``, which a thread calls; ``stop`` ends its connection.

    Raise TimeoutError after ``seconds``, and the errors of ``work``. In each case, the thread has
    ended.
    """
    working = asyncio.create_task(asyncio.to_thread(work))
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(working)
    finally:
        if not working.done():
            stop.set()
            await asyncio.wait({working})
            working.exception()  # it is of no interest


def connect(target: Target) -> socket.socket:
    """Return a connection to one of the addresses of ``target``. Raise OSError."""
    end, left = time.monotonic() + CONNECT_SECONDS, len(target.addresses)
    for address in target.addresses:
        seconds, left = max(0.1, end - time.monotonic()) / left, left - 1
        try:
            return socket.create_connection((address, target.port), seconds)
        except OSError:
            if not left:
                raise
    raise OSError("the server has no address")


def spellings(user: str, password: str) -> set[str]:
    """Return how a command contains the password, because a server may send the command back."""
    return {password, _escaped(password), b64encode(_plain(user, password)).decode()}


def problem_of(error: BaseException) -> str:
    """Return the text of an error of `ERRORS`, which may repeat what was sent."""
    given = error.args[0] if error.args else ""
    return given.decode(errors="replace") if isinstance(given, bytes) else str(error)


class Stop:
    """A switch with which another thread ends a connection, also one that is not yet open."""

    def __init__(self) -> None:
        self._is_set = False
        self._socket: socket.socket | None = None

    def set(self) -> None:
        self._is_set = True
        self._shut_down()

    def add(self, opened: socket.socket) -> None:
        self._socket = opened
        if self._is_set:
            self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # it may be closed already
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class MailConnection(imaplib.IMAP4):
    """A connection to the checked addresses of ``target``, over TLS, which ``stop`` ends.

    ``received`` is the number of bytes that were read; a caller that keeps it open sets it to 0.
    """

    def __init__(self, target: Target, stop: Stop) -> None:
        self._target, self._stop, self.received = target, stop, 0
        super().__init__(target.name, target.port, timeout=CONNECT_SECONDS)

    def _create_socket(self, timeout: float | None) -> ssl.SSLSocket:
        plain = connect(self._target)
        plain.settimeout(TOTAL_SECONDS)
        encrypted = default_ssl_context().wrap_socket(
            plain, server_hostname=self._target.name, do_handshake_on_connect=False
        )
        self._stop.add(encrypted)
        try:
            encrypted.do_handshake()
        except BaseException:
            encrypted.close()
            raise
        return encrypted

    def read(self, size: int) -> bytes:
        self._count(size)
        return super().read(size)

    def readline(self) -> bytes:
        line = super().readline()
        self._count(len(line))
        return line

    def _count(self, size: int) -> None:
        self.received += size
        if self.received > MAX_RECEIVED_BYTES:
            raise self.abort(f"its answer has more than {MAX_RECEIVED_BYTES:,} bytes")

    def log_in(self, user: str, password: str) -> None:
        """Log in. `LOGIN` has no characters but those of ASCII."""
        if f"{user}{password}".isascii() and password.isprintable():
            self.login(_quoted("user", user), password)
        else:
            self.authenticate("PLAIN", lambda _: _plain(user, password))

    def examine(self, folder: str, *, readonly: bool = True) -> None:
        """Open a folder, for reading only. Raise `InvalidInput` that lists the known folders."""
        name = _quoted("folder", encoded_name(_printable("folder", folder)))
        status, _ = self.select(name, readonly=readonly)
        if status != "OK":
            names = [one_line(each, MAX_FOLDER_CHARACTERS) for each in self._folders()]
            known = first_names(names, MAX_LISTED_FOLDERS)
            raise InvalidInput("folder", f"there is no {folder[:100]!r}", f"use one of: {known}")

    def _folders(self) -> list[str]:
        _, lines = self.list()
        names = []
        for each in lines:
            line = each[0] + each[1] if isinstance(each, tuple) else each
            if line and (found := _FOLDER.match(line)):
                name = found[1].decode(errors="replace")
                if name.startswith('"'):
                    name = re.sub(r"\\(.)", r"\1", name[1:-1])
                names.append(decoded_name(re.sub(r"^\{\d+\}", "", name)))
        return sorted(names)

    def wait_for_news(self, seconds: float) -> None:
        """Wait until the server reports a change of the folder (IDLE, RFC 2177)."""
        tag = b"IDLE"
        self.send(tag + b" IDLE\r\n")
        while not (line := self._line()).startswith(b"+"):
            if line.startswith(tag):
                raise self.error(line)
        if not self.sock.pending():  # type: ignore[attr-defined]
            poll = select.poll()
            poll.register(self.sock, select.POLLIN)
            poll.poll(seconds * 1_000)
        self.send(b"DONE\r\n")
        while not self._line().startswith(tag):
            pass

    def _line(self) -> bytes:
        if not (line := self.readline()):
            raise self.abort("the server has closed the connection")
        return line

    def find(self, criteria: Sequence[tuple[str, str]]) -> list[int]:
        """Return the ids of the messages that match all criteria, the newest one first.

        Each is a key of IMAP's SEARCH with its value; a value that is not ASCII is sent as UTF-8,
        and only one of them may be. Raise `InvalidInput`.
        """
        words = [each for each in criteria if each[1].isascii()]
        given = [f"{key} {_quoted(key.lower(), value)}" if value else key for key, value in words]
        others = [each for each in criteria if each not in words]
        if len(others) > 1:
            raise InvalidInput("text", "and from are both not ASCII", "leave out one of them")
        for key, value in others:
            given = ["CHARSET", "UTF-8", *given, key]
            self.literal = value.encode(errors="replace")  # type: ignore[assignment]
        status, found = self.uid("SEARCH", *given)
        if status != "OK":
            raise self.error(found[-1] or b"it refused the search")
        return sorted((int(each) for each in b" ".join(filter(None, found)).split()), reverse=True)

    def fetch_parts(self, uids: Sequence[int], parts: str) -> list[tuple[str, bytes]]:
        """Return for each message what the server says about it, and the part that was asked for.

        Messages that do not exist any more are left out.
        """
        status, found = self.uid("FETCH", ",".join(map(str, uids)), parts)
        if status != "OK":
            raise self.error(found[-1] or b"it refused to send a message")
        messages: list[tuple[str, bytes]] = []
        for each in found:
            if isinstance(each, tuple):
                messages.append((each[0].decode(errors="replace"), each[1]))
            elif each and messages:  # the rest of what it says about the message before
                about, content = messages[-1]
                messages[-1] = f"{about} {each.decode(errors='replace')}", content
        return messages


def _quoted(field: str, text: str) -> str:
    """Return a quoted string of IMAP. Raise `InvalidInput` for a character that it cannot have."""
    return f'"{_escaped(_printable(field, text))}"'


def _escaped(text: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", text)


def _plain(user: str, password: str) -> bytes:
    """Return the response of the mechanism PLAIN (RFC 4616)."""
    return f"\0{user}\0{password}".encode()


def _printable(field: str, text: str) -> str:
    if not text.isprintable():
        raise InvalidInput(field, "contains a control character", "leave it out")
    return text


def encoded_name(name: str) -> str:
    """Return a folder's name in modified UTF-7 (RFC 3501)."""
    text, run = "", ""
    for each in f"{name}\0":
        if " " <= each <= "~" or each == "\0":
            if run:
                coded = b64encode(run.encode("utf-16-be", "replace")).decode().rstrip("=")
                text, run = f"{text}&{coded.replace('/', ',')}-", ""
            text += "&-" if each == "&" else each
        else:
            run += each
    return text[:-1]


def decoded_name(name: str) -> str:
    """Return a folder's name from modified UTF-7; a name that is not valid stays as it is."""

    def decoded(found: re.Match[str]) -> str:
        coded = found[1].replace(",", "/")
        return b64decode(coded + "=" * (-len(coded) % 4)).decode("utf-16-be") if coded else "&"

    try:
        return _ENCODED_RUN.sub(decoded, name)
    except ValueError:
        return name
