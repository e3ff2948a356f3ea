"""What a person has written in a letter, without quotes and signatures."""

from __future__ import annotations

import time

import pytest

from daybook.features.conversations import reply_text
from tests import rows

ORIGINAL = "approve this\nor not"
QUOTE = "> approve this\n> or not"
ENDS = {
    "Gmail": f"On Mon, Nov 28, 2026 at 9:12 AM Daybook <d@example.org> wrote:\n\n{QUOTE}",
    "Gmail, folded": f"On Mon, Nov 28, 2026 at 9:12 AM Daybook <\nd@example.org> wrote:\n{QUOTE}",
    "Apple": f"> On 28. Nov 2026, at 09:12, Daybook wrote:\n> \n{QUOTE}",
    "no marks": f"On 28 Nov 2026, Daybook <d@example.org> wrote:\n\n{ORIGINAL}",
    "German": f"Am 28.11.2026 um 09:12 schrieb Daybook <d@example.org>:\n{QUOTE}",
    "French": f"Le lun. 28 nov. 2026 à 09:12, Daybook <d@example.org> a écrit :\n{QUOTE}",
    "Spanish": f"El 28 nov 2026, Daybook <d@example.org> escribió:\n{ORIGINAL}",
    "Italian": f"Il giorno 28 nov 2026 Daybook ha scritto:\n{ORIGINAL}",
    "Dutch": f"Op 28 nov 2026 om 09:12 schreef Daybook:\n{QUOTE}",
    "Swedish": f"Den 28 nov 2026 kl. 09:12 skrev Daybook:\n{QUOTE}",
    "Polish": f"W dniu 28.11.2026 Daybook napisał(a):\n{QUOTE}",
    "Outlook": f"-----Original Message-----\nFrom: Daybook\n{ORIGINAL}",
    "Outlook, German": f"-----Ursprüngliche Nachricht-----\nVon: Daybook\n{ORIGINAL}",
    "Outlook block": f"From: Daybook <d@example.org>\nSent: Monday\nTo: Anna\n\n{ORIGINAL}",
    "Outlook HTML": f"**From:** Daybook\n**Sent:** Monday\n\n{ORIGINAL}",
    "Outlook, lines": f"____________________\nVon: Daybook\nGesendet: Montag\n{ORIGINAL}",
    "French block": f"De : Daybook\nEnvoyé : lundi\nÀ : Anna\n\n{ORIGINAL}",
    "signature": f"-- \nAnna\n{ORIGINAL}",
    "phone": f"Sent from my phone\n\nOn 28 Nov, Daybook wrote:\n{QUOTE}",
    "nothing": "",
}


def test_a_reply_is_what_is_above_the_original() -> None:
    for (_, end), row in rows.each(list(ENDS.items())):
        with row:
            for text in ("no, because\nit rains", ""):
                found = reply_text.written(f"{text}\n\n{end}".replace("\n", "\r\n"))
                assert found.text == text
                assert found.rest.split() == end.split()


def test_a_reply_below_and_between_quoted_lines_is_kept() -> None:
    text = f"On 28 Nov 2026, Daybook wrote:\n{QUOTE}\n\nreject\n\n> why?\n\nIt rains."
    assert reply_text.written(text).text == "reject\n\n\nIt rains."


@pytest.mark.parametrize(
    "text",
    [
        "From: here we go\n\nno other field",
        "My plan is this:\n- one\n- two",
        "He wrote a letter.\nI read it at 9.",
        "Date: tomorrow",
        "- one\n-- two",
    ],
)
def test_a_text_that_only_looks_like_a_quote_is_kept(text: str) -> None:
    assert reply_text.written(text).text == text


def test_a_new_letter_loses_only_its_signature() -> None:
    text = "See what Eve wrote at 9:\n> hello"
    assert reply_text.without_signature(f"{text}\n-- \nAnna") == text


@pytest.mark.parametrize(
    "line",
    ["On " + "a " * 500_000, ">" * 1_000_000, "wrote: 1 " * 100_000, "* " * 500_000, "-" * 10**6],
)
def test_hostile_lines_need_little_time(line: str) -> None:
    started = time.process_time()
    reply_text.written(line)
    reply_text.written("\n".join([line[:20]] * 50_000))
    assert time.process_time() - started < 5
