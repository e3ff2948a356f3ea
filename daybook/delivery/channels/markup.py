"""An answer's Markdown in the own form of a service: a mail's HTML, Telegram's few tags, Slack.

============  =====================================================================
mail          a page with the HTML of `daybook.markdown`, as on Daybook's pages
telegram      the tags that Telegram knows; lists and tables as lines of text
slack         Slack's `mrkdwn`; apprise gets the same HTML as a mail, and turns it into that
============  =====================================================================

Discord, Teams, Mattermost and others read Markdown themselves, so they get the text unchanged.
"""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from typing import ClassVar

from daybook import markdown
from daybook.delivery.channels.text import as_html

_INDENT = re.compile(r"^ +", re.MULTILINE)
_URL = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,:;!?)]")

_MAIL = """\
<!doctype html>
<html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><style>
body{{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;max-width:44em}}
pre{{overflow:auto;padding:8px 12px;background:#8882;border-radius:6px}}
code{{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:14px}}
table{{border-collapse:collapse}} th,td{{border:1px solid #8886;padding:4px 10px;text-align:left}}
blockquote{{margin-left:0;padding-left:12px;border-left:3px solid #8886}}
.note{{color:#777;font-size:14px;border-top:1px solid #8884;padding-top:12px}}
</style></head><body>
{body}
{note}</body></html>
"""


def is_markdown(body: str) -> bool:
    """Return whether the body of an answer is Markdown, and not JSON."""
    if body.lstrip()[:1] not in ("{", "["):
        return True
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return True
    return False


def mail(body: str, note: str, *, is_rich: bool) -> str:
    """Return the HTML of a mail: ``body`` as Markdown or text, and the ``note`` with its links."""
    shown = markdown.render(body) if is_rich else f"<p>{as_html(body)}</p>"
    lines = _URL.sub(lambda found: f'<a href="{found[0]}">{found[0]}</a>', as_html(note))
    return _MAIL.format(body=shown, note=f'<p class="note">{lines}</p>\n' if note else "").strip()


def telegram(body: str) -> str:
    """Return the Markdown ``body`` as `telegram_html`, in the form that apprise leaves unchanged.

    Apprise removes blank lines, and spaces at the beginning of a line.
    """
    before, *blocks = telegram_html(body).split("<pre>")
    found = before
    for block in blocks:
        code, end, after = block.partition("</pre>")
        found += "<pre>" + code.replace(" ", "&nbsp;") + end + after
    found = _INDENT.sub(lambda indent: "&nbsp;" * len(indent[0]), found)
    return found.replace("\n\n", "\n&nbsp;\n").replace("\n", "<br/>")


def telegram_html(body: str) -> str:
    """Return the Markdown ``body`` with only the tags that Telegram knows."""
    parser = _Telegram()
    parser.feed(str(markdown.render(body)))
    return parser.text()


def slack(body: str) -> str:
    """Return the HTML that apprise turns into Slack's own markup."""
    return str(markdown.render(body))


def slack_mrkdwn(body: str) -> str:
    """Return the Markdown ``body`` in Slack's own markup. It mentions no person and no channel."""
    parser = _Slack()
    parser.feed(str(markdown.render(body)))
    return parser.text()


def slack_escape(text: str) -> str:
    """Return the markup that shows a text as it is, also one such as `<!channel>`."""
    return html.escape(text, quote=False)


class _Telegram(HTMLParser):
    """Reads the HTML of `daybook.markdown`, and writes text with Telegram's tags."""

    _HEADINGS = tuple(f"h{level}" for level in range(1, 7))
    _TAGS: ClassVar[dict[str, str]] = {
        **dict.fromkeys(_HEADINGS, "b"),
        **{"strong": "b", "em": "i", "code": "code", "pre": "pre", "blockquote": "blockquote"},
        **{"th": "b", "a": "a"},
    }

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._lists: list[int | None] = []
        self._in_pre, self._quotes = False, 0
        self._was_inline = False

    def text(self) -> str:
        return re.sub(r"\n{3,}", "\n\n", "".join(self._parts)).strip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("ul", "ol"):
            self._lists.append(1 if tag == "ol" else None)
        elif tag == "li":
            number = self._lists[-1]
            mark = "• " if number is None else f"{number}. "
            if number is not None:
                self._lists[-1] = number + 1
            start = "" if self._is_at_line_start() else "\n"
            self._parts.append(start + "   " * (len(self._lists) - 1) + mark)
        elif tag == "hr":
            self._parts.append("\n—\n")
        elif tag == "br":
            self._parts.append("\n")
        elif tag in ("td", "th"):
            self._parts.append("" if self._parts[-1:] == ["\n"] else " · ")
        elif tag == "tr":
            self._parts.append("\n")
        elif tag == "pre":
            self._in_pre = True
        if tag == "blockquote":
            self._quotes += 1
        if self._is_written(tag):
            self._parts.append(self._opening(tag, dict(attrs).get("href") or ""))

    def _is_at_line_start(self) -> bool:
        return not self._parts or self._parts[-1].endswith("\n")

    def handle_endtag(self, tag: str) -> None:
        self._was_inline = tag in ("strong", "em", "code", "a")
        if tag in ("blockquote", "pre"):
            while self._parts and not self._parts[-1].strip("\n"):
                self._parts.pop()
        if self._is_written(tag):
            self._parts.append(self._closing(tag))
        if tag == "pre":
            self._in_pre = False
        elif tag == "blockquote":
            self._quotes -= 1
        if tag in ("ul", "ol"):
            self._lists.pop()
        if tag in ("p", "pre", "table", "blockquote", "ul", "ol") or tag in self._HEADINGS:
            self._parts.append("\n" if self._lists else "\n\n")

    def _opening(self, tag: str, link: str) -> str:
        return f'<a href="{html.escape(link)}">' if tag == "a" else f"<{self._TAGS[tag]}>"

    def _closing(self, tag: str) -> str:
        return f"</{self._TAGS[tag]}>"

    def _is_written(self, tag: str) -> bool:
        """Return whether Telegram accepts the tag here: no code in pre, no quote in a quote."""
        if (tag == "code" and self._in_pre) or (tag == "blockquote" and self._quotes > 1):
            return False
        return tag in self._TAGS

    def handle_data(self, data: str) -> None:
        if self._in_pre:
            self._parts.append(html.escape(data, quote=False))
        elif data.strip() or self._was_inline:
            text = data.lstrip("\n") if self._is_at_line_start() else data
            self._parts.append(html.escape(text, quote=False))
        self._was_inline = False


class _Slack(_Telegram):
    """Writes text with Slack's marks: no mark inside another of its kind, quotes line by line."""

    _TAGS: ClassVar[dict[str, str]] = {
        **dict.fromkeys((*_Telegram._HEADINGS, "strong", "th"), "*"),
        **{"em": "_", "code": "`", "pre": "```", "blockquote": "", "a": ""},
    }

    def __init__(self) -> None:
        super().__init__()
        self._bold, self._quote_starts = 0, list[int]()

    def _opening(self, tag: str, link: str) -> str:
        mark = self._TAGS[tag]
        if tag == "blockquote":
            self._quote_starts.append(len(self._parts))
        elif tag == "a":
            return f"<{html.escape(link).replace('|', '%7C')}|"
        elif tag == "pre":
            return "```\n"
        elif mark == "*":
            self._bold += 1
            return "*" if self._bold == 1 else ""
        return mark

    def _closing(self, tag: str) -> str:
        if tag == "blockquote":
            start = self._quote_starts.pop()
            lines = "".join(self._parts[start:]).strip("\n").split("\n")
            del self._parts[start:]
            return "\n".join(f"> {line}".rstrip() for line in lines)
        if tag == "a":
            return ">"
        if self._TAGS[tag] == "*":
            self._bold -= 1
            return "" if self._bold else "*"
        return self._TAGS[tag]

    def _is_written(self, tag: str) -> bool:
        return tag in self._TAGS and not (tag == "code" and self._in_pre)

    def handle_data(self, data: str) -> None:
        if self._in_pre:
            data = data.replace("```", "``\N{ZERO WIDTH SPACE}`")
        super().handle_data(data)
