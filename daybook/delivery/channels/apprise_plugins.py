"""Message formats for apprise's plugins, with the limits of the plugins' services.

============  =====================================================================
format        the plugin is given
============  =====================================================================
Markdown      the text unchanged
text          the text unchanged
HTML          the escaped text, so that a model cannot write tags
several       text, which apprise itself escapes for HTML plugins
============  =====================================================================

This module disables some features of apprise: splitting and truncation (`text` truncates, with a
mark), retries (the outbox retries), and `optional`, which reports a failure as a success.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from email.header import Header
from typing import Any

from daybook.delivery.attachments import Attachment
from daybook.delivery.channels import text
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
    the body. ``lines`` is the maximum number of lines; 0 means no limit. ``carries_files`` is as in
    `base.Channel`.
    """

    format: str = "text"
    limit: int = DEFAULT_MAX_LENGTH
    title: int = 0
    shared: bool = True
    lines: int = 0
    carries_files: bool = False

    def render(self, message: Message) -> tuple[str, str]:
        """Return the subject and the body in this format, truncated to its limits."""
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
        body = text.truncate(message, limit, self.lines)
        if not body.strip():
            subject, body = "", subject or message.event
        if self.format == "html":
            subject = subject if self.title else html.escape(subject, quote=False)
            body = text.as_html(body)
        return subject, body


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
        )
    except (AttributeError, TypeError, ValueError) as error:
        log.warning(
            "Using default limits for a channel whose own are unknown: %s", type(error).__name__
        )
        return MessageFormat()


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
