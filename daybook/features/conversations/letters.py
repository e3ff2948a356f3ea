"""Letters: a received mail as an update, and a post as a mail."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import localtime

from daybook.delivery.channels import markup
from daybook.execution import parse_mail
from daybook.execution.mail_text import MailText
from daybook.features.conversations import reply_text, senders
from daybook.features.conversations.platform import Post, Update, UpdateKind
from daybook.features.conversations.settings import MailboxSettings
from daybook.short_text import clip, one_line

MAX_SUBJECT = 200
MAX_QUOTED = 2_000
SENDER_NAME = "Daybook"
_POLICY = SMTP.clone(max_line_length=998)
"""`email` would encode a longer id, such as one in `In-Reply-To`; programs would not know it."""

_REPLY = re.compile(r"(?:re|aw|sv|antw|odp|ref|vs|rif)(?:\[\d{1,3}\])? ?: ?", re.IGNORECASE)
_FORWARD = re.compile(r"(?:fwd?|wg|tr|rv|enc|doorst|vb|i|pd) ?:", re.IGNORECASE)
_BULK = ("bulk", "junk", "list", "auto_reply")
_LIST_HEADERS = ("List-Id", "List-Post", "List-Unsubscribe")


@dataclass(frozen=True)
class Letters:
    """The letters of one mailbox, which is the channel ``channel``."""

    channel: str
    settings: MailboxSettings

    # --- received

    def update(
        self, mail: MailText, place: str, position: int, *, is_cut: bool = False
    ) -> Update | None:
        """Return a mail as an update; None for one that gets no answer: see `is_automatic`.

        ``place`` is where the mailbox has it. A mail that arrives twice has the same id. One of
        which only the beginning was read (``is_cut``) may have pictures behind it.
        """
        sender = senders.sender_of(mail)
        if sender is None or self.is_own(sender.address) or is_automatic(mail):
            return None
        known = [*senders.message_ids(mail.first("In-Reply-To"))[:1]]
        known += reversed(senders.message_ids(mail.first("References")))
        is_verified = senders.is_authentic(
            mail, sender.address, self.settings.authserv_id
        ) or senders.has_code(self.channel, sender.address, self._codes(mail, known))
        message_id = next(iter(senders.message_ids(mail.first("Message-ID"))), "")
        key = f"{sender.address}\n{is_verified}\n{message_id or place}"
        subject = parse_mail.decoded(mail.first("Subject"))
        base = _without_prefix(subject)
        is_forwarded = _FORWARD.match(subject) is not None or mail.has_mail
        is_reply = bool(known) or base != subject
        text, quoted = mail.text.strip(), f"Subject: {base}" if base else ""
        if is_reply and not is_forwarded:
            found = reply_text.written(text)
            text, quoted = found.text, found.rest
        elif not is_forwarded:
            text = reply_text.without_signature(text) or base
        may_have_more = is_cut and text and mail.kind.startswith("multipart/")
        pictures = (place,) if mail.has_pictures or may_have_more else ()
        ours = (each for each in known if self._is_code(sender.address, each))
        return Update(
            id=hashlib.sha256(key.encode(errors="replace")).hexdigest()[:32],
            position=position,
            kind=UpdateKind.MESSAGE,
            chat_id=sender.address,
            person_id=sender.address,
            person_name=sender.name,
            message_id=message_id or place,
            text=text,
            reply_to=next(ours, known[0] if known else ""),
            quoted=clip(quoted, MAX_QUOTED),
            unreadable="an attachment" if mail.attachments and not (text or pictures) else "",
            pictures=pictures,
            is_forwarded=is_forwarded,
            is_letter=True,
            subject=clip(base, MAX_SUBJECT),
            is_verified=is_verified,
        )

    def is_own(self, address: str) -> bool:
        """Return whether letters to this address arrive in the mailbox, also with a code."""
        name, _, domain = address.lower().partition("@")
        own = self.settings.address.lower()
        return own in (address.lower(), f"{name.partition('+')[0]}@{domain}")

    def _codes(self, mail: MailText, known: list[str]) -> list[str]:
        codes = [senders.code_in_id(each) for each in known]
        if self.settings.plus_addressing:
            to = " ".join(mail.all("Delivered-To") + mail.all("To") + mail.all("Cc")).lower()
            name, _, domain = self.settings.address.lower().partition("@")
            codes += re.findall(rf"{re.escape(name)}\+(\w+)@{re.escape(domain)}", to)
        return codes

    def _is_code(self, address: str, message_id: str) -> bool:
        return senders.has_code(self.channel, address, [senders.code_in_id(message_id)])

    # --- sent

    def message_id(self, post: Post) -> str:
        """Return the Message-ID of a post, without its angle brackets: the same in each attempt."""
        code = senders.code_of(self.channel, post.chat_id)
        domain = self.settings.address.partition("@")[2]
        return f"{re.sub('[^A-Za-z0-9.-]', '-', post.key)}.{code}@{domain}"

    def mail(self, post: Post) -> EmailMessage:
        """Return a post as a mail."""
        mail = EmailMessage(policy=_POLICY)
        name, _, domain = self.settings.address.partition("@")
        mail["From"] = Address(SENDER_NAME, name, domain)
        mail["To"] = post.chat_id
        mail["Subject"] = one_line(post.subject, MAX_SUBJECT) or SENDER_NAME
        mail["Date"] = localtime()
        mail["Message-ID"] = f"<{self.message_id(post)}>"
        if senders.message_ids(f"<{post.reply_to}>") == [post.reply_to]:
            mail["In-Reply-To"] = mail["References"] = f"<{post.reply_to}>"
        if self.settings.plus_addressing:
            code = senders.code_of(self.channel, post.chat_id)
            mail["Reply-To"] = f"{name}+{code}@{domain}"
        mail["Auto-Submitted"] = "auto-generated"
        mail["X-Auto-Response-Suppress"] = "All"
        words = " · ".join(word for word, _ in post.buttons)
        reply = f"Reply with one of these words: {words}" if words else ""
        note = "\n".join(filter(None, (post.note, reply)))
        mail.set_content("\n\n".join(filter(None, (post.text, note))) or "(empty)")
        page = markup.mail(post.text, note, is_rich=post.is_markdown)
        mail.add_alternative(page, subtype="html")
        for each in post.files:
            main, _, kind = each.content_type.partition("/")
            mail.add_attachment(each.content, maintype=main, subtype=kind, filename=each.name)
        return mail


def is_automatic(mail: MailText) -> bool:
    """Return whether a program has sent a mail: a list, an automatic answer, or a report.

    An answer to it could be answered in turn, without end (RFC 3834).
    """
    sent_by = mail.first("Auto-Submitted").partition(";")[0].strip().lower()
    return (
        sent_by not in ("", "no")
        or mail.first("Precedence").strip().lower() in _BULK
        or any(mail.all(each) for each in _LIST_HEADERS)
        or mail.first("Return-Path").strip() == "<>"
        or mail.kind == "multipart/report"
        or mail.first("From").lower().find("mailer-daemon@") >= 0
    )


def _without_prefix(subject: str) -> str:
    while found := _REPLY.match(subject):
        subject = subject[found.end() :]
    return subject
