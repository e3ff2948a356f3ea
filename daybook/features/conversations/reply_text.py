"""The text that a person has written in a letter, without what it quotes and without a signature.

::

    approve                                    the text: one line
                                               ───────────────────
    On Mon, 28 Nov 2026, Daybook wrote:        removed: an attribution before quoted lines
    > brief wants to call mail_send            removed: quoted lines, also between others
    -----Original Message-----  ·  From: …     removed, with all that follows
    --␠  ·  Sent from my phone                 removed, with all that follows

Each line is looked at once, and no pattern can need long for a hostile letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_LINE = 1_000
"""Number of characters of a line in which marks are looked for."""
MAX_ATTRIBUTION_LINES = 3

_VERBS = (
    *("wrote", "schrieb", "geschrieben", "a écrit", "escribió", "ha scritto", "schreef"),
    *("escreveu", "skrev", "napisał", "kirjoitti", "yazdı", "написал", "написав", "написала"),
)
_SENDER_FIELDS = (
    "from",
    "von",
    "de",
    "da",
    "van",
    "från",
    "fra",
    "od",
    "от",
    "lähettäjä",
    "gönderen",
)
_OTHER_FIELDS = (
    *("sent", "date", "to", "cc", "subject", "gesendet", "datum", "an", "betreff", "envoyé", "à"),
    *(
        "objet",
        "enviado",
        "para",
        "asunto",
        "fecha",
        "inviato",
        "a",
        "oggetto",
        "data",
        "verzonden",
    ),
    *("aan", "onderwerp", "skickat", "till", "ämne", "sendt", "til", "emne", "wysłano", "do"),
    *("temat", "кому", "тема", "дата"),
)
_ORIGINAL = (
    *("original message", "ursprüngliche nachricht", "originalnachricht", "message d'origine"),
    *("mensaje original", "messaggio originale", "oorspronkelijk bericht", "mensagem original"),
    *("ursprungligt meddelande", "oprindelig meddelelse", "wiadomość oryginalna"),
    *("forwarded message", "weitergeleitete nachricht", "исходное сообщение"),
)
_MOBILE = (
    *("sent from my ", "get outlook for ", "von meinem ", "gesendet von ", "envoyé de mon "),
    *("enviado desde mi ", "inviato da ", "verstuurd vanaf ", "skickat från min "),
)


@dataclass(frozen=True)
class WrittenText:
    """What a person has written, and the text after it: mostly a quoted letter."""

    text: str
    rest: str


def written(text: str) -> WrittenText:
    """Return what a person has written in a reply."""
    lines, kept, at = text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), list[str](), 0
    removed = list[str]()
    while at < len(lines):
        if ends_here(lines, at):
            while kept and not _bare(kept[-1]).strip("-"):  # a line between the two letters
                removed.insert(0, kept.pop())
            removed += lines[at:]
            break
        if count := _attribution(lines, at):
            following = next(filter(None, map(_bare, lines[at + count : at + count + 3])), "")
            if not following.startswith(">"):
                removed += lines[at:]
                break
            removed += lines[at : at + count]
            at += count
            continue
        (removed if lines[at].lstrip().startswith(">") else kept).append(lines[at])
        at += 1
    return WrittenText("\n".join(kept).strip(), "\n".join(removed).strip())


def without_signature(text: str) -> str:
    """Return a text up to the line that begins a signature."""
    lines = text.replace("\r\n", "\n").split("\n")
    end = next((at for at in range(len(lines)) if _is_signature(lines[at])), len(lines))
    return "\n".join(lines[:end]).strip()


def ends_here(lines: Sequence[str], at: int) -> bool:
    """Return whether an original letter or a signature begins at this line."""
    if _is_signature(lines[at]):
        return True
    line = _bare(lines[at])
    if line.startswith("--") and line.strip("- ").lower() in _ORIGINAL:
        return True
    if _field(line) not in _SENDER_FIELDS:
        return False
    following = filter(None, map(_bare, lines[at + 1 : at + 6]))
    return any(_field(each) in _OTHER_FIELDS for each in list(following)[:2])


def _is_signature(line: str) -> bool:
    return line.rstrip() == "--" or _bare(line).lower().startswith(_MOBILE)


def _attribution(lines: Sequence[str], at: int) -> int:
    """Return how many lines from here say who wrote the following; 0 if they do not."""
    joined = ""
    for count in range(1, MAX_ATTRIBUTION_LINES + 1):
        line = _bare(lines[at + count - 1]) if at + count <= len(lines) else ""
        if not line or line.startswith(">"):
            return 0
        joined = f"{joined} {line.lower()}"
        if line.endswith(":"):
            says = any(each in joined for each in _VERBS)
            return count if says and any(each in "@0123456789" for each in joined) else 0
    return 0


def _field(line: str) -> str:
    name, colon, _ = line.partition(":")
    return name.strip().lower() if colon and len(name) < 20 else ""


def _bare(line: str) -> str:
    """Return the beginning of a line without the marks of Markdown."""
    return line[:MAX_LINE].replace("*", "").replace("\\", "").strip(" \t\u00a0_#|")
