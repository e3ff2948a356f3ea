"""Message formats for apprise's plugins, with the limits of the plugins' services.

============  =====================================================================
format        the plugin is given
============  =====================================================================
Markdown      the text unchanged
text          the text unchanged
HTML          the escaped text, so that a model cannot write tags
several       text, which apprise itself escapes for HTML plugins
============  =====================================================================

An answer in Markdown is rendered for mail, Telegram and Slack (`markup`). A mail also has the text
unchanged, as its plain part.

This module disables some features of apprise: splitting and truncation (`text` truncates, with a
mark), retries (the outbox retries), and `optional`, which reports a failure as a success.
"""

from __future__ import annotations

import html
import importlib
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from email.header import Header
from typing import Any

from daybook import markdown
from daybook.delivery.attachments import Attachment
from daybook.delivery.channels import markup, text
from daybook.delivery.channels.base import Message

log = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 1000
"""Maximum length of a message in characters if the service's limit is unknown."""

_MAIL = "mailto"
"""Protocol of apprise's mail plugin, which sends the text and all files in one request."""

_MAX_TITLE_LENGTH = 200
_SEPARATOR_LENGTH = 4
"""Number of characters that apprise inserts between title and body when it joins them."""


@dataclass(frozen=True)
class MessageFormat:
    """The format and the limits of a message. `text.length` counts the characters.

    ``limit`` is the maximum length of the body or, if ``shared`` is true, of subject and body
    together. ``title`` is the maximum length of the subject; 0 means that the subject is a part of
    the body. ``lines`` is the maximum number of lines; 0 means no limit. ``service`` is the name of
    a service with a markup of its own (`_MARKUPS`), if all plugins belong to it. ``carries_files``
    is as in `base.Channel`.
    """

    format: str = "text"
    service: str = ""
    limit: int = DEFAULT_MAX_LENGTH
    title: int = 0
    shared: bool = True
    lines: int = 0
    carries_files: bool = False

    def render(self, message: Message) -> Rendered:
        """Return the subject and the body in this format, truncated to its limits."""
        is_rich = message.is_markdown and self.service in _MARKUPS
        if self.service == _MAIL:
            message = replace(message, subject=mail_subject(message))
        if self.format != "html":
            subject, body = text.mute_mentions(message.subject), text.mute_mentions(message.body)
            note = text.mute_mentions(message.note)
            message = replace(message, subject=subject, body=body, note=note)
        subject = text.shorten_line(
            message.subject, min(self.title or _MAX_TITLE_LENGTH, self.limit // 3)
        )
        limit = self.limit
        if self.shared or not self.title:
            limit -= text.length(subject) + _SEPARATOR_LENGTH
        if is_rich:
            limit -= message.body.count("\n\n")  # `markup.telegram` writes a space in these lines
        plain = text.truncate(message, limit, self.lines)
        if not plain.strip():
            subject, plain, is_rich = "", subject or message.event, False
        form, body = self.format, plain
        note = message.note if message.note and plain.endswith(message.note) else ""
        head = plain[: len(plain) - len(note)].rstrip()
        if self.service == _MAIL:
            body = markup.mail(head, note, is_rich=is_rich)
        elif is_rich:
            form, body = "html", _MARKUPS[self.service](head)
            body += f"<br/><br/>{text.as_html(note)}" if note else ""
        elif form == "html":
            body = text.as_html(plain)
        if form == "html":
            subject = subject if self.title else html.escape(subject, quote=False)
        return Rendered(subject, body, form, plain)


@dataclass(frozen=True)
class Rendered:
    """A message for apprise: the format of its ``body``, and the same text without markup."""

    subject: str
    body: str
    format: str
    plain: str


_MARKUPS = {"mailto": markup.slack, "tgram": markup.telegram, "slack": markup.slack}
"""Renderers of Markdown, by the protocol of apprise's plugin. `markup.mail` writes a mail."""


def mail_subject(message: Message) -> str:
    """Return the subject of a mail: for an answer, its headline or date in place of its status."""
    job, is_answer, rest = message.subject.rpartition(": succeeded")
    if message.event != "completed" or not is_answer:
        return message.subject
    headline = markdown.headline(message.body) if message.is_markdown else ""
    return f"{job}: {headline or f'{message.at:%Y-%m-%d}'}{rest}"


def prepare(client: Any) -> MessageFormat:
    """Configure an `Apprise` to send one message and report failures. Return the format."""
    plugins = list(client.find())
    form = _common_format(plugins)
    for plugin in plugins:
        plugin.asset.async_mode = False  # send in this thread, because only its log is captured
        plugin.overflow_mode = type(plugin.overflow_mode)("upstream")
        plugin.retry, plugin.wait, plugin.optional = 0, 0.0, False
    client.asset.body_format = form.format
    return form


def _common_format(found: Sequence[Any]) -> MessageFormat:
    try:
        formats = {str(getattr(each.notify_format, "value", each.notify_format)) for each in found}
        return MessageFormat(
            format=formats.pop() if len(formats) == 1 else "text",
            limit=min(int(each.body_maxlen) for each in found),
            title=max(0, min(int(each.title_maxlen) for each in found)),
            shared=any(bool(each.overflow_amalgamate_title) for each in found),
            lines=min((n for each in found if (n := int(each.body_max_line_count)) > 0), default=0),
            carries_files=all(each.protocol == _MAIL for each in found),
            service=_service_of(found),
        )
    except (AttributeError, TypeError, ValueError) as error:
        log.warning(
            "Using default limits for a channel whose own are unknown: %s", type(error).__name__
        )
        return MessageFormat()


def _service_of(found: Sequence[Any]) -> str:
    """Return the name of the service in `_MARKUPS` to which all plugins belong; "" if none."""
    names = {str(each.protocol or each.secure_protocol) for each in found}
    return names.pop() if len(names) == 1 and names <= _MARKUPS.keys() else ""


_sending = threading.local()


@contextmanager
def plain_part(sent: Rendered) -> Iterator[None]:
    """Let apprise's mail plugin use the text without markup as the plain part of mails of a thread.

    Otherwise it derives the part from the HTML, and loses links, tables and indentation.
    """
    _sending.rendered = sent
    with suppress(ImportError):
        base: Any = importlib.import_module("apprise.plugins.email.base")
        if hasattr(base, "convert_between"):
            base.convert_between = _convert_for_mail
    try:
        yield
    finally:
        del _sending.rendered


def _convert_for_mail(source: Any, target: Any, content: str, *given: Any, **named: Any) -> Any:
    sent = getattr(_sending, "rendered", None)
    if sent is not None and content.startswith(sent.body):  # apprise may append images
        return sent.plain
    conversion: Any = importlib.import_module("apprise.conversion")
    return conversion.convert_between(source, target, content, *given, **named)


def attach(attachments: Sequence[Attachment]) -> Any | None:
    """Return an `AppriseAttachment` with these files in memory; None if there are none."""
    if not attachments:
        return None
    from apprise import AppriseAttachment
    from apprise.attachment.memory import AttachMemory

    found = AppriseAttachment()
    for each in attachments:
        name, mimetype = _encoded_name(each.name), each.content_type
        found.add(AttachMemory(each.content, name, mimetype))  # type: ignore[no-untyped-call]
    return found


def _encoded_name(name: str) -> str:
    """Return the name in ASCII, as encoded words if necessary.

    Apprise's mail plugin would encode the whole header that contains another name, and mail
    programs find no file name in such a header.
    """
    return name if name.isascii() else Header(name, "utf-8").encode().replace("\n", "")
