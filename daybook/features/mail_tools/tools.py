"""The tools `mailbox.search` and `mailbox.read`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from daybook.agents.base import Tool
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput
from daybook.execution import conversation, mail_text, parse_mail
from daybook.execution.builtin_tools import ToolContext
from daybook.features.mail_tools.mailbox import Mailbox
from daybook.http.imap import MailConnection
from daybook.json_text import JsonObject
from daybook.ledger.texts import sanitize

MAX_MESSAGE_BYTES = 4 * 2**20
MAX_FOUND = 30
LISTED_HEADERS = ("Date", "From", "Subject")
MAX_HEAD_BYTES = 10_000
"""Maximum length of the headers of a mail in a list, so that no mail fills the list."""
MAX_PART_CHARACTERS = 20_000
MAX_TEXT_CHARACTERS = 200
DEFAULT_DAYS = 7
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""The months as IMAP writes them, in every language of this machine."""

_FOLDER = {"type": "string", "default": "INBOX", "description": "Folder of the mailbox."}
_SEARCH: JsonObject = {
    "type": "object",
    "properties": {
        "folder": _FOLDER,
        "since": {
            "type": "string",
            "description": f"Day such as 2026-11-28; by default the last {DEFAULT_DAYS} days.",
        },
        "from": {"type": "string", "description": "Part of the sender's name or address."},
        "text": {"type": "string", "description": "Words that the mail contains."},
        "unread": {"type": "boolean", "default": False, "description": "Only unread mail."},
        "before": {
            "type": "integer",
            "minimum": 2,
            "description": "Only mail with a smaller id, for the next part of a long list.",
        },
    },
    "additionalProperties": False,
}
_READ: JsonObject = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 1, "description": "Id that mailbox_search shows."},
        "folder": _FOLDER,
        "start": {
            "type": "integer",
            "minimum": 0,
            "default": 0,
            "description": "Character of the text at which to begin, for the next part.",
        },
    },
    "required": ["id"],
    "additionalProperties": False,
}
_UID, _FLAGS = re.compile(r"\bUID (\d{1,10})\b"), re.compile(r"\bFLAGS \(([^()]*)\)")
_SIZE = re.compile(r"\bRFC822\.SIZE (\d{1,20})\b")


async def mail_tools(context: ToolContext) -> Sequence[Tool]:
    """Return the tools; read the password. Raise the errors of an unreachable store of secrets.

    Without a usable mailbox, each call raises the error of `Mailbox.load`, because the other jobs
    of the agent need no mailbox.
    """
    try:
        mailbox: Mailbox | InvalidInput = await Mailbox.load(context.secrets, context.limits())
    except InvalidInput as error:
        mailbox = error
    reader = MailReader(mailbox, context.granted.run_id)
    return (
        Tool(
            "search",
            f"List the newest mail, {MAX_FOUND} at most. Returns ids, dates, senders and subjects; "
            "read one with mailbox_read.",
            _SEARCH,
            reader.search,
            read_only=True,
            open_world=True,
            is_untrusted=True,
            is_private=True,
        ),
        Tool(
            "read",
            "Read a mail as text. Its attachments are only named. It stays unread.",
            _READ,
            reader.read,
            read_only=True,
            open_world=True,
            is_untrusted=True,
            is_private=True,
        ),
    )


class MailReader:
    """Reader of a mailbox for one answer of the run ``run_id``.

    In place of a mailbox, ``mailbox`` may be the reason why there is none, which each call raises.
    """

    def __init__(self, mailbox: Mailbox | InvalidInput, run_id: str) -> None:
        self._found, self._run_id = mailbox, run_id

    @property
    def _mailbox(self) -> Mailbox:
        if isinstance(self._found, InvalidInput):
            raise self._found
        return self._found

    async def search(self, arguments: JsonObject) -> str:
        """Return a list of mail. Raise `InvalidInput`, and the errors of `Mailbox.do`."""
        folder, criteria = _folder(arguments), [("SINCE " + _since(arguments), "")]
        criteria += [
            (key, text)
            for key, name in (("FROM", "from"), ("TEXT", "text"))
            if (text := _text(arguments, name))
        ]
        if arguments.get("unread") is True:
            criteria.append(("UNSEEN", ""))
        if before := _number(arguments, "before", 0):
            criteria.append((f"UID 1:{max(1, before - 1)}", ""))

        def find(connection: MailConnection) -> tuple[int, list[tuple[str, bytes]]]:
            connection.examine(folder)
            uids = [each for each in connection.find(criteria) if not before or each < before]
            if not uids:
                return 0, []
            names = " ".join(LISTED_HEADERS).upper()
            head = f"BODY.PEEK[HEADER.FIELDS ({names})]<0.{MAX_HEAD_BYTES}>"
            parts = f"(FLAGS RFC822.SIZE {head})"
            return len(uids), connection.fetch_parts(uids[:MAX_FOUND], parts)

        total, found = await self._mailbox.do(find)
        rows = sorted(((_uid(about), about, head) for about, head in found), reverse=True)
        rows = rows[:MAX_FOUND]  # a server can send more than it was asked for
        if not rows:
            return "There is no such mail."
        lines = [_listed(*each) for each in rows]
        more = (
            f"{total - len(rows):,} more; next: before={rows[-1][0]}\n" if total > len(rows) else ""
        )
        text = sanitize("\n\n".join(lines))
        return more + conversation.as_data(f"{len(rows)} mails", text, self._run_id)

    async def read(self, arguments: JsonObject) -> str:
        """Return a part of a mail. Raise `InvalidInput`, and the errors of `Mailbox.do`."""
        uid, folder = _number(arguments, "id", 0), _folder(arguments)
        start = _number(arguments, "start", 0)

        def fetch(connection: MailConnection) -> list[tuple[str, bytes]]:
            connection.examine(folder)
            parts = f"(RFC822.SIZE BODY.PEEK[]<0.{MAX_MESSAGE_BYTES}>)"
            return connection.fetch_parts([uid], parts)

        found = await self._mailbox.do(fetch) if uid else []
        if not found:
            raise InvalidInput("id", f"the folder has no mail {uid}", "use an id of mailbox_search")
        ((about, content), *_) = found
        mail = await mail_text.read(content)
        part = mail.text[start : start + MAX_PART_CHARACTERS]
        end, size = start + len(part), len(mail.text)
        total = _first(_SIZE, about)
        about_part = {
            "Part": f"characters {start:,} to {end:,} of {size:,}" if start or end < size else "",
            "Next part": f"start={end}" if end < size else "",
            "Incomplete": f"only {MAX_MESSAGE_BYTES:,} of {int(total):,} bytes were read"
            if total.isdecimal() and int(total) > MAX_MESSAGE_BYTES
            else "",
        }
        attached = {"Attachments": ", ".join(mail.attachments)}
        # All that strangers have written is between the marks.
        text = sanitize(f"{_lines(mail.headers | attached)}\n{part or '(no text)'}")
        return _lines(about_part) + conversation.as_data("a mail", text, self._run_id)


def _listed(uid: int, about: str, head: bytes) -> str:
    size, unread = _first(_SIZE, about), "\\Seen" not in _first(_FLAGS, about)
    size = f"{int(size):,} bytes" if size.isdecimal() else ""
    facts = ", ".join(filter(None, (f"Id: {uid}", size, "unread" if unread else "")))
    shown = parse_mail.headers(head[:MAX_HEAD_BYTES], LISTED_HEADERS)
    return f"{facts}\n{_lines(shown)}".rstrip()


def _uid(about: str) -> int:
    return int(_first(_UID, about) or 0)


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _lines(facts: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in facts.items() if value)


def _since(arguments: JsonObject) -> str:
    """Return the day as IMAP writes it."""
    given: Any = arguments.get("since")
    if given in (None, ""):
        day = SYSTEM_CLOCK.now().date() - timedelta(days=DEFAULT_DAYS)
    else:
        try:
            day = date.fromisoformat(given)
        except (TypeError, ValueError):
            raise InvalidInput("since", "is no day", "write it as 2026-11-28") from None
    return f"{day.day}-{MONTHS[day.month - 1]}-{day.year:04}"


def _folder(arguments: JsonObject) -> str:
    return _text(arguments, "folder") or "INBOX"


def _text(arguments: JsonObject, name: str) -> str:
    value = arguments.get(name, "")
    if not isinstance(value, str):
        raise InvalidInput(name, "is no text", "give it as a text, or leave it out")
    if len(value) > MAX_TEXT_CHARACTERS:
        raise InvalidInput(name, "is too long", f"use {MAX_TEXT_CHARACTERS} characters")
    return value.strip()


def _number(arguments: JsonObject, name: str, default: int) -> int:
    value = arguments.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise InvalidInput(name, "is no such number", "use a whole number")
    return value
