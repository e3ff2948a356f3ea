"""How a message is put to apprise's plugins, which know what their service takes.

===========  =====================================================================
a plugin     is given
===========  =====================================================================
of Markdown  the text as it is
of text      the text as it is
of HTML      the text escaped: nothing that a model wrote is a tag
several      text, which apprise itself escapes for those of HTML
===========  =====================================================================

What apprise would do to a message is switched off: splitting and cutting (it is cut here, and says
so), trying again (the outbox does), and `optional`, which tells a failure as a success.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from daybook.delivery.channels import text
from daybook.delivery.channels.base import Message

log = logging.getLogger(__name__)

LIMIT = 1000
"""What is sent at most to a service of which nobody knows what it takes."""

_TITLE = 200
_BETWEEN = 4
"""What apprise puts between title and body where they are one."""


@dataclass(frozen=True)
class Form:
    """What a message has to look like. ``title`` is 0 where the subject stands in the body."""

    format: str = "text"
    limit: int = LIMIT
    title: int = 0
    shared: bool = True
    lines: int = 0

    def filled(self, message: Message) -> tuple[str, str]:
        """Subject and body."""
        if self.format != "html":
            subject, body = text.quiet(message.subject), text.quiet(message.body)
            message = replace(message, subject=subject, body=body)
        subject = text.shortened(message.subject, min(self.title or _TITLE, self.limit // 3))
        limit = self.limit
        if self.shared or not self.title:
            limit -= text.size(subject) + _BETWEEN
        body = text.cut(message, limit, self.lines)
        if not body.strip():
            subject, body = "", subject or message.event
        if self.format == "html":
            subject = subject if self.title else html.escape(subject, quote=False)
            body = text.as_html(body)
        return subject, body


def prepared(client: Any) -> Form:
    """Have an `Apprise` send one message, and fail when it fails; what it is to be given."""
    found = list(client.find())
    form = _form(found)
    for plugin in found:
        plugin.asset.async_mode = False  # in this thread, where its log is kept
        plugin.overflow_mode = type(plugin.overflow_mode)("upstream")
        plugin.retry, plugin.wait, plugin.optional = 0, 0.0, False
    client.asset.body_format = form.format
    return form


def _form(found: Sequence[Any]) -> Form:
    try:
        formats = {str(getattr(each.notify_format, "value", each.notify_format)) for each in found}
        return Form(
            format=formats.pop() if len(formats) == 1 else "text",
            limit=min(int(each.body_maxlen) for each in found),
            title=max(0, min(int(each.title_maxlen) for each in found)),
            shared=any(bool(each.overflow_amalgamate_title) for each in found),
            lines=min((n for each in found if (n := int(each.body_max_line_count)) > 0), default=0),
        )
    except (AttributeError, TypeError, ValueError) as error:
        log.warning("what a channel takes is not known: %s", type(error).__name__)
        return Form()
