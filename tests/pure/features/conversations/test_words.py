"""What a person's words mean: who may do what, and what is never a decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daybook.delivery.buttons import MessageButton, Press
from daybook.features.conversations.people import Role, code_in
from daybook.features.conversations.platform import Update, UpdateKind
from daybook.features.conversations.words import (
    COMMANDS,
    ONLY_OPERATOR,
    READER_COMMANDS,
    READER_HINT,
    Action,
    Answered,
    decide,
)

OPERATOR, READER, STRANGER = Role.OPERATOR, Role.READER, Role.STRANGER


def message(text: str = "", **given: object) -> Update:
    base = Update("7", 7, UpdateKind.MESSAGE, "100", "1", "Anna", "55", text=text)
    return replace(base, **given)  # type: ignore[arg-type]


async def _press(press: Press) -> str:
    return ""


QUESTION = Answered(
    (
        MessageButton("approve", "Approve", _press, ("yes", "ok")),
        MessageButton("reject", "Reject", _press, ("no",), takes_reason=True),
    ),
    has_session=True,
)
ANSWER = Answered((MessageButton("snooze", "Again", _press),), has_session=True)


@pytest.mark.parametrize(
    ("text", "word", "reason"),
    [
        ("approve", "approve", ""),
        ("Approve.", "approve", ""),
        ("YES", "approve", ""),
        ("reject", "reject", ""),
        ("No: the address is wrong", "reject", "the address is wrong"),
        ("reject not\nnow", "reject", "not now"),
    ],
)
def test_a_reply_to_a_question_decides_it(text: str, word: str, reason: str) -> None:
    decision = decide(message(text), OPERATOR, QUESTION)
    assert (decision.action, decision.word, decision.text) == (Action.PRESS, word, reason)


@pytest.mark.parametrize(
    "text", ["ok, but change the address", "yes please wait", "approve it tomorrow", "maybe", "👍"]
)
def test_a_reply_with_more_words_approves_nothing(text: str) -> None:
    decision = decide(message(text), OPERATOR, QUESTION)
    assert decision.action is Action.REFUSE
    assert "`approve`" in decision.text
    assert "`reject`" in decision.text


def test_a_forwarded_message_decides_nothing_and_runs_no_command() -> None:
    for text in ("approve", "/run brief", "stop", "ABCD-EFGH"):
        decision = decide(message(text, is_forwarded=True), OPERATOR, QUESTION)
        assert decision.action is Action.ASK, text
        assert not decision.continues
        assert decision.text.startswith("Forwarded from another person")
        assert decide(message(text, is_forwarded=True), STRANGER, None).action is Action.IGNORE


def test_a_reader_asks_about_messages_and_does_nothing_else() -> None:
    asked = decide(message("which is urgent?"), READER, ANSWER)
    assert (asked.action, asked.continues) == (Action.ASK, True)
    assert decide(message("hello"), READER, None).text == READER_HINT
    assert decide(message("approve"), READER, QUESTION).text == ONLY_OPERATOR
    assert decide(message("snooze"), READER, ANSWER).text == ONLY_OPERATOR
    press = message(kind=UpdateKind.PRESS, button="approve", press_id="p")
    assert decide(press, READER, QUESTION).text == ONLY_OPERATOR
    for word in COMMANDS:
        decision = decide(message(f"/{word} brief"), READER, ANSWER)
        if word in READER_COMMANDS:
            assert decision.action is not Action.REFUSE, word
        else:
            assert decision.text == ONLY_OPERATOR, word


def test_a_stranger_gets_a_sentence_in_private_and_nothing_in_a_group() -> None:
    for text in ("hello", "/run brief", "approve", "stop"):
        assert decide(message(text), STRANGER, QUESTION).action is Action.STRANGER, text
        group = message(text, is_group=True)
        assert decide(group, STRANGER, QUESTION).action is Action.IGNORE, text
    press = message(kind=UpdateKind.PRESS, button="approve", press_id="p")
    assert decide(press, STRANGER, QUESTION).action is Action.IGNORE
    assert decide(message("abcd efgh"), STRANGER, None).action is Action.PAIR


def test_a_group_is_heard_only_when_it_speaks_to_the_account() -> None:
    aside = message("the build is red", is_group=True, is_addressed=False)
    assert decide(aside, OPERATOR, None).action is Action.IGNORE
    assert decide(aside, OPERATOR, ANSWER).action is Action.ASK
    assert decide(message("why?", is_group=True), OPERATOR, ANSWER).action is Action.ASK


def test_a_message_that_answers_nothing_goes_to_the_chat_with_what_it_quotes() -> None:
    decision = decide(message("which?", quoted="one\ntwo"), OPERATOR, None)
    assert (decision.action, decision.continues) == (Action.ASK, False)
    assert decision.text == "> one\n> two\n\nwhich?"


@pytest.mark.parametrize(
    ("text", "word", "argument"),
    [
        ("/run morning brief", "run", "morning brief"),
        ("!today", "today", ""),
        ("/NEW every day at 9: Sum up", "new", "every day at 9: Sum up"),
        ("/new\nevery day at 9: a b", "new", "every day at 9: a b"),
    ],
)
def test_a_command_has_a_word_and_an_argument(text: str, word: str, argument: str) -> None:
    decision = decide(message(text), OPERATOR, None)
    assert (decision.action, decision.word, decision.text) == (Action.COMMAND, word, argument)


def test_stop_needs_no_slash_and_a_path_is_no_command() -> None:
    assert decide(message("Stop!"), OPERATOR, ANSWER).action is Action.STOP
    assert decide(message("stop the newsletter"), OPERATOR, ANSWER).action is Action.ASK
    assert decide(message("/ what is this"), OPERATOR, None).action is Action.ASK


def test_a_code_of_a_paired_person_is_exactly_as_it_was_shown() -> None:
    assert decide(message("ABCD-EFGH"), OPERATOR, None).action is Action.PAIR
    for text in ("well-kept", "abcd-efgh", "ABCDEFGH", "ABCD-EFGH please"):
        assert decide(message(text), OPERATOR, None).action is Action.ASK, text


def test_what_is_no_text_is_refused_in_words() -> None:
    decision = decide(message(unreadable="a voice message"), OPERATOR, ANSWER)
    assert decision.action is Action.REFUSE
    assert "a voice message" in decision.text
    assert decide(message("  "), OPERATOR, None).action is Action.IGNORE
    assert decide(message("x" * 60_000), OPERATOR, None).action is Action.REFUSE


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("ABCD-EFGH", "ABCDEFGH"),
        (" abcd efgh ", "ABCDEFGH"),
        ("ABCD-EFG", ""),
        ("ABCD-EFG0", ""),
        ("my code is ABCD-EFGH", ""),
    ],
)
def test_a_code_stands_alone(text: str, code: str) -> None:
    assert code_in(text) == code


@pytest.mark.parametrize(
    "text", ["ok\n\nbut change the address", "approve\n\nThanks, but not now", "yes\n\nDear Ben"]
)
def test_a_letter_that_goes_on_approves_nothing(text: str) -> None:
    found = decide(message(text, is_letter=True), OPERATOR, QUESTION)
    assert (found.action, found.word) == (Action.REFUSE, "")


@pytest.mark.parametrize(
    ("text", "word", "reason"),
    [
        ("approve\n\nAnna Meier\nACME", "approve", ""),
        ("Reject, because\nit rains\n\nAnna", "reject", "because it rains"),
        ("ok\nbut later", None, None),
        ("Dear bot,\n\napprove", None, None),
    ],
)
def test_the_first_paragraph_of_a_letter_decides(
    text: str, word: str | None, reason: str | None
) -> None:
    found = decide(message(text, is_letter=True), OPERATOR, QUESTION)
    expected = (Action.REFUSE, "") if word is None else (Action.PRESS, word)
    assert (found.action, found.word) == expected
    assert word is None or found.text == reason
    in_chat = decide(message(text), OPERATOR, QUESTION)
    assert in_chat.action is (Action.PRESS if word == "reject" else Action.REFUSE)


def test_a_command_in_a_letter_ends_with_its_paragraph_unless_it_has_a_long_text() -> None:
    found = decide(message("/run brief\n\nAnna", is_letter=True), OPERATOR, None)
    assert (found.word, found.text) == ("run", "brief")
    assert decide(message("Stop.\n\nAnna", is_letter=True), OPERATOR, None).action is Action.STOP
    long = decide(message("/ask one\n\ntwo", is_letter=True), OPERATOR, None)
    assert (long.action, long.text) == (Action.ASK, "one\n\ntwo")
    assert code_in("abcd-efgh\n\nAnna") == "ABCDEFGH"


def test_a_picture_is_a_prompt_and_never_a_decision_in_a_chat() -> None:
    def picture(text: str = "", **given: object) -> Update:
        return message(text, pictures=("p",), **given)

    alone = decide(picture(), OPERATOR, None)
    assert (alone.action, alone.text) == (Action.ASK, "")
    assert decide(picture("/ask who is this?"), OPERATOR, None).text == "who is this?"
    assert decide(picture("approve"), OPERATOR, QUESTION).action is Action.REFUSE
    assert decide(picture("approve", is_letter=True), OPERATOR, QUESTION).action is Action.PRESS
    assert decide(picture("snooze"), OPERATOR, ANSWER).action is Action.ASK
    assert decide(picture(), READER, None).text == READER_HINT
    assert decide(picture(), READER, ANSWER).continues
    assert decide(picture(), STRANGER, None).action is Action.STRANGER
    assert decide(picture(is_addressed=False), OPERATOR, None).action is Action.IGNORE
