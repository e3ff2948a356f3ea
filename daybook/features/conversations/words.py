"""The words that people write to an account, and what they mean.

`decide` is pure: it gets an update, the role of its person and the message that it answers, and
returns an intent. `handling` acts on it. A forwarded message is never a command, a code or a
decision: another person wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from daybook.delivery.buttons import MessageButton
from daybook.features.conversations import people
from daybook.features.conversations.people import Role
from daybook.features.conversations.platform import Update, UpdateKind

MAX_PROMPT = 50_000
"""Maximum length of a message that is a prompt, in characters."""


class Action(StrEnum):
    """What is to be done about an update."""

    IGNORE = "ignored"
    PAIR = "paired"
    STRANGER = "stranger"
    REFUSE = "refused"
    PRESS = "button"
    COMMAND = "command"
    STOP = "stopped"
    ASK = "asked"


@dataclass(frozen=True)
class Intent:
    """An action with its ``text``: the refusal, the argument of a command, a reason, or a prompt.

    ``word`` is the word of a button or of a command. ``continues`` says whether a prompt continues
    the session of the message that it answers.
    """

    action: Action
    text: str = ""
    word: str = ""
    continues: bool = False


@dataclass(frozen=True)
class Answered:
    """The message that an update answers, or whose button it presses.

    ``buttons`` are those that it has now, and ``shown`` are the words of those that it had.
    ``has_session`` says whether its run has a session that a prompt can continue.
    """

    buttons: Sequence[MessageButton] = ()
    has_session: bool = False
    shown: Collection[str] = ()

    def button(self, word: str) -> MessageButton | None:
        return next((each for each in self.buttons if each.word == word), None)


COMMANDS = {
    "today": "what happened, and what needs you",
    "next": "what is due next",
    "jobs": "all jobs",
    "run": "NAME: run a job now",
    "pause": "NAME: pause a job",
    "resume": "NAME: resume a job",
    "ask": "QUESTION: ask in a new conversation",
    "new": "SCHEDULE: PROMPT: add a job, such as /new every weekday at 9: Summarize my inbox",
    "quiet": "22:00-07:00, or off: when only answers, and questions that cannot wait, arrive here",
    "stop": "stop what is being answered here",
    "help": "this list",
}
LONG_COMMANDS = frozenset({"ask", "new"})
"""Commands whose argument may have several paragraphs."""
READER_COMMANDS = frozenset({"help", "start", "stop", "quiet"})

_CLOSING = re.compile(
    r"(?:(?:many |with )?(?:best|kind|warm)?\s*(?:regards|wishes)|best|cheers|thanks|thank you|"
    r"(?:mit )?(?:freundlichen|besten|vielen?|liebe|viele|beste) gr(?:ü|ue)(?:ß|ss)en?|gru(?:ß|ss)|"
    r"mfg|vg|lg|danke|cordialement|merci|saludos|gracias|sent from my [\w ]{1,30})[,.!]?",
    re.IGNORECASE,
)
"""First lines of the end of a letter."""

STRANGER_TEXT = (
    "This is the account of a Daybook. It talks only with people who were paired by its operator."
)
ONLY_OPERATOR = "Only an operator may do this."
READER_HINT = "Reply to a message from here to ask about it."


def decide(update: Update, role: Role, answered: Answered | None) -> Intent:
    """Return what is to be done about ``update``, by a person with ``role``.

    ``answered`` is the message of this account that it answers, None if it answers none that is
    known.
    """
    if role is Role.STRANGER:
        return _of_stranger(update)
    if update.kind is UpdateKind.PRESS:
        return _if_operator(role, Intent(Action.PRESS, word=update.button))
    text = update.text.strip()
    is_addressed = update.is_addressed or answered is not None
    if not is_addressed or not (text or update.unreadable or update.pictures):
        return Intent(Action.IGNORE)
    if problem := _problem(update, text):
        return Intent(Action.REFUSE, problem)
    if update.is_forwarded:
        return _prompt(role, f"Forwarded from another person:\n\n{text}", update, None)
    beginning = text.partition("\n\n")[0] if update.is_letter else text
    if people.is_code(beginning) and not update.is_group:
        return Intent(Action.PAIR)
    if command := read_command(beginning):
        if command[0] in LONG_COMMANDS:
            command = read_command(text) or command
        return _of_command(role, *command)
    rest = text[len(beginning) :]
    words = beginning if _is_closing(rest, update.person_name) else text
    # A picture may say more than the word; in a letter it is probably that of a signature.
    is_word = update.is_letter or not update.pictures
    if answered is not None and is_word and (pressed := _pressed(words, answered)):
        return _if_operator(role, pressed)
    if answered is not None and any(each.takes_reason for each in answered.buttons):
        return Intent(Action.REFUSE, _how_to_decide(answered))
    return _prompt(role, text, update, answered)


def _is_closing(text: str, name: str) -> bool:
    """Return whether what follows the first paragraph of a letter only ends the letter.

    Then its first line is a usual closing, or the name of the person. Anything else, such as `but
    change the address`, may restrict what the first paragraph says.
    """
    line = next(filter(None, map(str.strip, text.splitlines())), "").strip(" -–—,.")
    first, *others = line.casefold().split() or [""]
    is_name = first in name.casefold().replace("@", " ").split() and len(others) <= 2
    return not line or bool(_CLOSING.fullmatch(line)) or (is_name and line == line.title())


def _problem(update: Update, text: str) -> str:
    """Return why a message cannot be read; "" if it can."""
    if update.unreadable:
        return f"I cannot read {update.unreadable}. Write it as text."
    return f"This has more than {MAX_PROMPT:,} characters." if len(text) > MAX_PROMPT else ""


def _if_operator(role: Role, decision: Intent) -> Intent:
    return decision if role is Role.OPERATOR else Intent(Action.REFUSE, ONLY_OPERATOR)


def _of_command(role: Role, word: str, argument: str) -> Intent:
    if word not in READER_COMMANDS and role is not Role.OPERATOR:
        return Intent(Action.REFUSE, ONLY_OPERATOR)
    if word == "stop":
        return Intent(Action.STOP)
    if word == "ask" and argument:
        return Intent(Action.ASK, argument, word=word)
    return Intent(Action.COMMAND, argument, word=word)


def _of_stranger(update: Update) -> Intent:
    if update.is_group or update.kind is UpdateKind.PRESS or update.is_forwarded:
        return Intent(Action.IGNORE)
    return Intent(Action.PAIR if people.code_in(update.text) else Action.STRANGER)


def read_command(text: str) -> tuple[str, str] | None:
    """Return the word and the argument of a command; None if the text is none, or blank.

    The word `stop` is a command without a slash too.
    """
    if text.lower().rstrip(".!") == "stop":
        return "stop", ""
    if text[:1] not in ("/", "!") or not text[1:2].isalpha():
        return None
    word, _, argument = text[1:].partition(" ")
    first, newline, rest = word.partition("\n")
    return first.lower(), f"{rest} {argument}".strip() if newline else argument.strip()


def _pressed(text: str, answered: Answered) -> Intent | None:
    """Return the decision to press the button that a reply names; None if it names none.

    The reply is one of the button's words, and nothing else. A reason may follow the word of a
    button that takes one: a refusal, but never an approval, because `ok, but …` is none.
    """
    first, *others = text.split(maxsplit=1)
    first, rest = first.rstrip(".,:;!").lower(), "".join(others)
    for each in answered.buttons:
        if first in each.all_words and (not rest or each.takes_reason):
            return Intent(Action.PRESS, " ".join(rest.split()), word=each.word)
    # A decision that comes too late is no prompt.
    return Intent(Action.PRESS, word=first) if not rest and first in answered.shown else None


def _how_to_decide(answered: Answered) -> str:
    words = [
        f"`{each.word}`, with a reason if you like" if each.takes_reason else f"`{each.word}`"
        for each in answered.buttons
    ]
    return f"To decide, reply with {' or '.join(words)}."


def _prompt(role: Role, text: str, update: Update, answered: Answered | None) -> Intent:
    """Return the decision to ask an agent, with the text that the message quotes."""
    if answered is not None and answered.has_session:
        return Intent(Action.ASK, text, continues=True)
    if role is not Role.OPERATOR:
        return Intent(Action.REFUSE, READER_HINT)
    if update.quoted:
        quoted = "\n".join(f"> {line}" for line in update.quoted.splitlines())
        text = f"{quoted}\n\n{text}"
    return Intent(Action.ASK, text)
