"""A conversation by e-mail: from the brief to the answer, with a real Prefect and a mail host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daybook import api
from daybook.errors import InvalidInput
from daybook.features.conversations import accounts, listening, operations
from tests import certificates, mail_host
from tests.calling import ModelAgent, calls
from tests.conversing import KEEPS, NOTES, Conversing, listening_to
from tests.imap_server import PASSWORD, USER
from tests.mail_host import ANNA, MailHost, SentMail
from tests.pictures import PNG, sent_to_model
from tests.toolbox import install
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]


@dataclass
class Letters(Conversing):
    """Anna's letters with the mailbox, and the processes that a worker and a keeper would be."""

    host: MailHost

    async def answer(self, text: str, reply_to: SentMail | None = None, **more: Any) -> SentMail:
        """Write, let the requested run happen, and return the answer."""
        before = len(self.host.sent)
        self.host.write(text, reply_to=reply_to, **more)
        await self.works_until(lambda: len(self.host.sent) > before)
        return self.host.sent[-1]


@pytest.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MailHost]:
    certificate = certificates.localhost(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with mail_host.serving(certificate) as found:
        yield found


@pytest.fixture
async def letters(
    world: PrefectWorld, host: MailHost, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Letters]:
    """Yield the letters of Anna, who is paired as an operator with the channel `mail`."""
    monkeypatch.setattr(listening, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(listening, "TYPING_SECONDS", 0.1)
    host.write("/jobs", person="eve@eve.example")  # before the mailbox is connected
    connected = await operations.connect("mail", "mail", host.settings)
    assert connected.identity == USER
    found = Letters(world, host)
    host.write(f"{connected.code.code}\n-- \nAnna")  # before the first connection of the keeper
    async with listening_to(world):
        await found.works_until(lambda: host.sent)
        assert "You are paired as operator" in host.sent[0].plain
        yield found
    assert {each.to for each in host.sent} <= {ANNA}
    await accounts.MAIL.remove(world.client, "mail")


@pytest.mark.slow
async def test_a_letter_that_arrived_before_the_new_password_is_answered(
    world: PrefectWorld, host: MailHost
) -> None:
    letters = Letters(world, host)
    agent = await world.agents.add(KEEPS)
    connected = await operations.connect("mail", "mail", host.settings | {"agent": agent.name})
    try:
        host.write(f"{connected.code.code}\n-- \nAnna")
        async with listening_to(world):
            await letters.works_until(lambda: host.sent)
        host.write("why?")  # nothing hears it, as while the server refuses the old password
        await operations.connect("mail", "mail", host.settings, replace=True)
        async with listening_to(world):
            await letters.works_until(lambda: len(host.sent) > 1)
        assert [each.plain for each in host.sent[1:]] == ["answer to why?"]
    finally:
        await accounts.MAIL.remove(world.client, "mail")


async def test_a_brief_is_answered_and_goes_on_in_its_session(letters: Letters) -> None:
    world = letters.world
    agent = await world.agents.add(KEEPS)
    stored = await world.deploy(
        on_demand=True,
        prompt="Brief me",
        agent=agent.name,
        channel="mail",
        chat_id="Anna@Example.com",
    )
    await world.executions.complete_here(await world.prefect.custom_run(stored))
    await letters.send()
    brief = await letters.host.message("answer to Brief me")
    assert brief.subject == f"{stored.job.name}: succeeded"

    # The server has not verified this reply, but the thread has Anna's code.
    answer = await letters.answer("which is urgent?", brief, verified=False)
    assert answer.plain == "answer to which is urgent?"
    assert answer.subject == f"Re: {stored.job.name}: succeeded"
    again = await letters.answer("why?\n-- \nAnna", answer, subject=f"AW: {answer.subject}")
    assert again.plain == "answer to why?"
    assert again.subject == answer.subject
    assert again.mail["In-Reply-To"] == again.mail["References"]

    shown = await api.sessions.show(stored.job.name)
    assert [each.content for each in shown.history if each.role == "user"] == [
        *("Brief me", "which is urgent?", "why?")
    ]
    assert agent.effect_count == 3
    assert [each.seen for each in letters.host.imap.folders["INBOX"]] == [False, *[True] * 3]


@pytest.mark.slow
async def test_a_reply_with_a_picture_is_answered_by_an_agent_that_gets_none(
    letters: Letters, model_agent: ModelAgent
) -> None:
    world = letters.world
    await model_agent.given()
    model_agent.fake_provider.script = ["Good morning.", "Hello."]
    stored = await world.deploy(
        on_demand=True, prompt="Brief me", agent=model_agent.name, channel="mail", chat_id=ANNA
    )
    await world.executions.complete_here(await world.prefect.custom_run(stored))
    await letters.send()
    brief = await letters.host.message("Good morning.")
    answer = await letters.answer("hello", brief, attachment="logo.png", content=PNG)
    assert answer.plain == "Hello."
    request = model_agent.fake_provider.requests[-1]
    assert sent_to_model(request.body) == []
    assert "[picture: logo.png]\n\nYou do not get the pictures." in request.prompt


@pytest.mark.slow
async def test_a_call_is_approved_with_a_reply_and_made_once(
    letters: Letters, model_agent: ModelAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, host = letters.world, letters.host
    notes = world.home.path / "notes"
    install(world.home.path / "site", NOTES.format(notes=str(notes)), "note")
    monkeypatch.syspath_prepend(str(world.home.path / "site"))
    await model_agent.given("note")
    model_agent.fake_provider.script = [calls("note", text="rain"), "Done."]
    stored = await world.deploy(
        on_demand=True, agent=model_agent.name, approve=["note"], channel="mail", chat_id=ANNA
    )
    await world.executions.complete_here(await world.prefect.custom_run(stored))
    await letters.send()
    question = await host.message("wants to call note")
    assert question.plain.endswith("Reply with one of these words: approve · reject")
    html = '<div>Hm.</div><div class="gmail_quote"><blockquote>approve</blockquote></div>'
    quoted = await letters.answer("", question, html=html)
    assert "To decide, reply with" in quoted.plain
    assert not notes.exists()

    await letters.answer("Approve\n\nAnna Meier\nSent from my phone", question)
    await letters.works_until(lambda: any("Done." in each.plain for each in host.sent))
    assert notes.read_text() == "rain\n"
    await letters.works_until(lambda: any("Approved:" in each.plain for each in host.sent))
    run = await api.runs.show((await world.runs.row()).id)
    assert run.approvals[0].decided_by == f"{ANNA} (mail)"


async def test_a_refused_password_stores_nothing(world: PrefectWorld, host: MailHost) -> None:
    host.password = "other"
    with pytest.raises(InvalidInput) as refused:
        await operations.connect("mail", "mail", host.settings)
    assert PASSWORD not in str(refused.value)
    assert await operations.DOCUMENTS["mail"].list() == []
