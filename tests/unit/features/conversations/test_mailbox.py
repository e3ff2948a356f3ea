"""The mailbox adapter, with a local mail host that speaks IMAP and SMTP over TLS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from daybook import api
from daybook.delivery.attachments import Attachment
from daybook.errors import InvalidInput
from daybook.features.conversations import (
    accounts,
    handling,
    listening,
    mailbox,
    people,
    store,
    words,
)
from daybook.features.conversations.mailbox import MailboxAccount, MailboxPlatform
from daybook.features.conversations.platform import AccessRevoked, PlatformError, Post, Update
from daybook.features.conversations.settings import MailboxSettings
from daybook.ledger.tables import OutboxRow
from tests import certificates, mail_host
from tests.imap_server import PASSWORD, USER
from tests.mail_host import ANNA, MailHost
from tests.pictures import PNG
from tests.waiting import becomes_true
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.localhost(tmp_path_factory.mktemp("localhost"))


@pytest.fixture
async def host(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MailHost]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with mail_host.serving(certificate) as found:
        yield found


def account(host: MailHost, **given: object) -> MailboxAccount:
    return MailboxAccount("mail", MailboxSettings.model_validate(host.settings | given))


@pytest.fixture
async def box(host: MailHost) -> AsyncIterator[MailboxPlatform]:
    """Yield an open mailbox that was connected when it was empty."""
    async with account(host).open() as found:
        assert await found.receive(None) == ()
        yield found


async def received(box: MailboxPlatform) -> Update:
    [found] = await box.receive(box.position)
    return found


async def test_only_mail_after_the_first_connection_is_heard_once(host: MailHost) -> None:
    host.write("older")
    async with account(host).open() as box:
        assert await box.identity() == USER
        assert list(await box.receive(None)) == []
        start = box.position
        host.write("newer", person=f"Anna Ø <{ANNA}>")
        found = await received(box)
        assert (found.text, found.person_name) == ("newer", "Anna Ø")
        assert found.person_id == found.chat_id == ANNA
        assert found.is_verified
        assert found.position == box.position
        # Nothing is marked before it was stored, so it is received again after a kill.
        assert not host.imap.folders["INBOX"][1].seen
    async with account(host).open() as again:
        assert [each.id for each in await again.receive(start)] == [found.id]
        await again.confirm([found])
        assert [each.seen for each in host.imap.folders["INBOX"]] == [False, True]


async def test_a_new_mail_ends_the_wait(host: MailHost, box: MailboxPlatform) -> None:
    waiting = asyncio.create_task(received(box))
    assert await asyncio.to_thread(host.imap.watched.wait, 20)
    host.write("hello")
    assert (await waiting).text == "hello"


async def test_without_idle_the_mailbox_is_searched_again(
    host: MailHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "POLL_SECONDS", 0.01)
    host.imap.capabilities = "IMAP4rev1 AUTH=PLAIN"
    async with account(host).open() as box:
        await box.receive(None)
        assert await box.receive(box.position) == ()
        host.write("hello")
        assert (await received(box)).text == "hello"
    assert "IDLE" not in host.imap.commands


async def test_a_wait_that_is_cancelled_ends_at_once(host: MailHost, box: MailboxPlatform) -> None:
    waiting = asyncio.create_task(box.receive(box.position))
    assert await asyncio.to_thread(host.imap.watched.wait, 20)
    async with asyncio.timeout(20):
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_copy_has_the_same_id_and_new_numbers_lose_nothing(
    host: MailHost, box: MailboxPlatform
) -> None:
    host.write("one")
    first = await received(box)
    host.imap.deliver("", content=host.imap.folders["INBOX"][0].content)
    assert (await received(box)).id == first.id
    await box.confirm([first])
    after = box.position
    host.imap.validity += 1
    host.write("two")
    async with account(host).open() as again:
        found = list(await again.receive(after))
        assert [each.text for each in found] == ["one", "two"]  # the copy was not marked
        assert found[0].id == first.id
        assert after is not None
        assert again.position is not None
        assert again.position > after
        host.write("three")
        assert (await received(again)).text == "three"


async def test_what_no_person_has_written_is_passed_over(
    host: MailHost, box: MailboxPlatform
) -> None:
    for name, value in (
        ("Auto-Submitted", "auto-replied"),
        ("Precedence", "bulk"),
        ("List-Id", "<list.example.org>"),
        ("Return-Path", "<>"),
        ("From", f"Me <{USER}>"),
        ("From", "Mail Delivery <MAILER-DAEMON@example.org>"),
        ("From", "a@example.com, b@example.com"),
        ("From", "no address"),
    ):
        host.write("hello", headers={name: value})
    assert list(await box.receive(box.position)) == []
    host.write("a person")
    assert (await received(box)).text == "a person"
    assert [each.seen for each in host.imap.folders["INBOX"]] == [False] * 9


async def test_hostile_mails_do_not_stop_the_others(host: MailHost, box: MailboxPlatform) -> None:
    head = f"From: {ANNA}\r\nMessage-ID: <x@y>\r\n".encode()
    for each in (
        b"",
        b"\xff\xfe\x00",
        head + b"Content-Type: text/plain; charset=no-such\r\n\r\ncaf\xe9",
        head + b"Content-Type: multipart/mixed\r\n\r\n--x\r\n\r\nbroken",
        head + b"Content-Type: text/plain; " + b"a=b; " * 50_000 + b"\r\n\r\nx",
        head + b"Subject: =?utf-8?b?////?=\r\n\r\n" + b"> " * 300_000,
        head + b"Subject: x\r\nIn-Reply-To: " + b"<" * 5_000 + b"\r\n\r\nOn " + b"a " * 100_000,
        b"From: " + b"(" * 20_000 + b"\r\n\r\nx",
    ):
        host.imap.deliver("", content=each)
    await box.receive(box.position)
    host.write("still here", headers={"Subject": "fine"})
    assert (await received(box)).text == "still here"


async def test_a_huge_mail_is_read_up_to_the_limit(host: MailHost, box: MailboxPlatform) -> None:
    host.write("beginning\n" + "x" * 70 + "\n" * 3 + ("y" * 70 + "\n") * 40_000)
    found = await received(box)
    assert found.text.startswith("beginning")
    assert 900_000 < len(found.text) <= mailbox.MAX_MAIL_BYTES


async def test_a_letter_has_html_files_and_words_and_names_its_thread(
    host: MailHost, box: MailboxPlatform
) -> None:
    post = Post(
        ANNA,
        "**Bold** & <b>",
        "See https://example.org/run",
        [("approve", "Approve"), ("reject", "Reject")],
        "1@client.example.com",
        [Attachment("r.csv", "text/csv", b"a,b\r\n")],
        key="o1.0",
        subject="Re: brief\r\nBcc: all@example.org",
    )
    id_ = await box.send(post)
    [sent] = host.sent
    assert (sent.to, sent.id) == (ANNA, f"<{id_}>")
    assert sent.subject == "Re: brief Bcc: all@example.org"
    assert sent.mail["Bcc"] is None
    assert sent.mail["In-Reply-To"] == sent.mail["References"] == "<1@client.example.com>"
    assert sent.mail["Auto-Submitted"] == "auto-generated"
    assert "<strong>Bold</strong> &amp; &lt;b&gt;" in sent.html
    assert sent.plain.endswith("Reply with one of these words: approve · reject")
    assert sent.files == {"r.csv": b"a,b\r\n"}
    assert await box.send(post) == id_  # a second attempt is recognized
    assert await box.send(Post(ANNA, key="o2.0")) != id_


async def test_a_long_id_of_a_thread_stays_readable(host: MailHost, box: MailboxPlatform) -> None:
    long = "a" * 600 + "@client.example.com"
    await box.send(Post(ANNA, "x", reply_to=long, key="o.0"))
    await box.send(Post(ANNA, "x", reply_to="a@b>\r\nBcc: <x@y", key="o.1"))
    assert host.sent[0].mail["In-Reply-To"] == f"<{long}>"
    assert host.sent[1].mail["In-Reply-To"] is host.sent[1].mail["Bcc"] is None


async def test_refusals_of_smtp_are_temporary_or_final(
    host: MailHost, box: MailboxPlatform
) -> None:
    for answer, is_temporary in (("554 no such user", False), ("451 later", True)):
        host.answer = answer
        with pytest.raises(PlatformError, match=answer) as refused:
            await box.send(Post(ANNA, "x", key="o.0"))
        assert refused.value.is_temporary is is_temporary
    with pytest.raises(PlatformError, match="is no address") as refused:
        await box.send(Post("anna@example.com\r\nBcc: x@y.example", "x"))
    assert not refused.value.is_temporary
    assert host.sent == []


async def test_a_wrong_password_is_reported_and_never_shown(
    host: MailHost, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    host.imap.password, host.imap.echoes = "other", True
    async with account(host).open() as box:
        with pytest.raises(AccessRevoked) as refused:
            await box.receive(None)
    assert PASSWORD not in str(refused.value)
    host.imap.password, host.password = PASSWORD, "other"
    async with account(host).open() as box:
        with pytest.raises(AccessRevoked) as refused:
            await box.identity()
    assert PASSWORD not in f"{refused.value} {caplog.text} {''.join(capfd.readouterr())}"


async def test_a_server_without_a_trusted_certificate_gets_no_password(
    host: MailHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    async with account(host).open() as box:
        with pytest.raises(PlatformError, match="certificate"):
            await box.receive(None)
        with pytest.raises(PlatformError, match="certificate"):
            await box.send(Post(ANNA, "x"))
    assert host.imap.commands == []
    assert host.sent == []


async def test_a_lost_connection_is_a_temporary_problem(
    host: MailHost, box: MailboxPlatform
) -> None:
    host.imap.raw["NOOP"] = b"* BYE shutting down\r\n"
    host.imap.raw["UID SEARCH"] = b"\xff\xff not IMAP\r\n"
    with pytest.raises(PlatformError) as refused:
        await box.receive(box.position)
    assert refused.value.is_temporary
    host.imap.raw.clear()
    host.write("after it")
    assert (await received(box)).text == "after it"


async def test_an_unknown_folder_is_named(host: MailHost) -> None:
    async with account(host, folder="Robots").open() as box:
        with pytest.raises(InvalidInput, match="use one of: INBOX"):
            await box.identity()


class Handled:
    """Letters that are received, stored and handled at once, as the leading keeper does."""

    def __init__(self, world: World, host: MailHost, box: MailboxPlatform) -> None:
        self.world, self.host, self.box = world, host, box

    async def write(self, text: str = "", **more: Any) -> str:
        """Write a letter. Return the answer in the outbox; "" if there is none."""
        self.host.write(text, **more)
        return await self.next()

    async def next(self) -> str:
        ledger = self.world.ledger
        async with ledger.read() as session:
            after = await store.last_position(session, "mail", None, ledger.now())
        updates = await self.box.receive(after)
        before = await self._answers()
        await store.put(ledger, "mail", updates, self.box.position)
        await self.box.confirm(updates)
        await handling.handle_new(ledger, account(self.host), self.box)
        return "".join((await self._answers())[len(before) :])

    async def _answers(self) -> list[str]:
        async with self.world.ledger.read() as session:
            query = select(OutboxRow.body).order_by(col(OutboxRow.created_at))
            return list((await session.execute(query)).scalars())


@pytest.mark.usefixtures("shared_ledger")
async def test_a_forged_or_copied_letter_does_nothing(
    world: World, host: MailHost, box: MailboxPlatform
) -> None:
    letters = Handled(world, host, box)
    host.write("/jobs")
    assert await letters.next() == ""  # it is older than the first connection
    code = await people.make_code("mail")
    assert "paired as operator" in await letters.write(f"{code.code}\n-- \nAnna", verified=False)
    stored = await world.jobs.add("brief", cron="0 9 * * *")
    forged = {"Authentication-Results": "mx.eve.example; dmarc=pass header.from=example.com"}
    for more in (
        {"verified": False},
        {"headers": forged},
        {"headers": {"Auto-Submitted": "auto-replied"}},
        {"headers": {"In-Reply-To": "<o.0.c0de@example.org>"}, "verified": False},
    ):
        assert await letters.write("/pause brief", **more) == ""
        world.passes(days=2)
    assert await letters.write("/pause brief", person="eve@eve.example") == words.STRANGER_TEXT
    assert await letters.write("/pause brief", person="eve@eve.example") == ""
    assert (await api.jobs.show(stored.id)).enabled

    answered = {"In-Reply-To": f"<{await box.send(Post(ANNA, 'hello', key='o.0'))}>"}
    assert "paused" in await letters.write("/pause brief", headers=answered, verified=False)
    await api.jobs.resume(stored.id)
    host.imap.deliver("", content=host.imap.folders["INBOX"][-1].content)
    assert await letters.next() == ""
    assert (await api.jobs.show(stored.id)).enabled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("address", "Anna <a@b.example>"),
        ("address", "a@b.example\r\nBcc: x"),
        ("imap_host", "imaps://imap.example.org"),
        ("smtp_host", "host/path"),
        ("imap_port", 0),
        ("user", "a\0b"),
        ("password", "s3cr3t\n"),
        ("password", ""),
    ],
)
def test_invalid_settings_are_refused(
    host_settings: dict[str, object], name: str, value: object
) -> None:
    with pytest.raises(InvalidInput) as refused:
        accounts.MAIL.validate(host_settings | {name: value})
    assert refused.value.field == name
    assert "s3cr3t" not in str(refused.value)


@pytest.fixture
def host_settings() -> dict[str, object]:
    hosts = {"imap_host": "i.example.org", "smtp_host": "s.example.org"}
    return {"address": USER, "password": PASSWORD, **hosts}


@pytest.mark.usefixtures("shared_ledger")
@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
async def test_a_listener_that_is_cancelled_ends_at_once(
    world: World, host: MailHost, password: str
) -> None:
    """It ends while it waits for mail, and while it pauses after an error."""
    listener = listening._Listener(world.ledger, account(host, password=password))
    running = asyncio.create_task(listener.run())
    if password == PASSWORD:
        assert await asyncio.to_thread(host.imap.watched.wait, 20)
    else:

        async def has_problem() -> bool:
            async with world.ledger.read() as session:
                return any(each.problem for each in await store.accounts(session))

        assert await becomes_true(has_problem, 20)
    running.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await running


# --- pictures


async def test_attached_pictures_are_read_beside_the_wait_for_mail(
    host: MailHost, box: MailboxPlatform
) -> None:
    host.write("what is this?", attachment="../photo.png", content=PNG)
    host.write("with a logo", attachment="logo.png", content=PNG, shown=True)
    picture, logo = await box.receive(box.position)
    assert (picture.text, logo.pictures) == ("what is this?", ())
    waiting = asyncio.create_task(box.receive(box.position))
    assert await asyncio.to_thread(host.imap.watched.wait, 20)
    [found] = await box.read_pictures(picture.pictures)
    assert (found.name, found.content) == ("../photo.png", PNG)
    host.write("hello")  # the other connection still hears
    [after] = await waiting
    assert after.text == "hello"
    assert not host.imap.folders["INBOX"][0].seen


async def test_a_mail_of_a_picture_alone_is_heard(host: MailHost, box: MailboxPlatform) -> None:
    host.write("", attachment="photo.png", content=PNG)
    update = await received(box)
    assert (update.text, update.unreadable) == ("", "")
    assert len(update.pictures) == 1


async def test_a_picture_behind_the_part_that_is_read_is_found(
    host: MailHost, box: MailboxPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.write("what is this?", attachment="photo.png", content=PNG)
    content = host.imap.folders["INBOX"][0].content
    monkeypatch.setattr(mailbox, "MAX_MAIL_BYTES", content.index(b"Content-Type: image"))
    update = await received(box)
    assert update.text == "what is this?"
    [found] = await box.read_pictures(update.pictures)
    assert found.content == PNG


async def test_a_mail_that_is_gone_or_renumbered_has_no_picture(
    host: MailHost, box: MailboxPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.write("x", attachment="photo.png", content=PNG)
    [place] = (await received(box)).pictures
    validity, _, uid = place.partition(":")
    for gone in (f"{validity}:{int(uid) + 5}", f"{int(validity) + 1}:{uid}"):
        with pytest.raises(InvalidInput, match="no longer there"):
            await box.read_pictures([gone])
    monkeypatch.setattr(mailbox, "MAX_PICTURE_MAIL_BYTES", 100)
    with pytest.raises(InvalidInput, match="the mail has more than"):
        await box.read_pictures([place])
    host.imap.password = "another"
    with pytest.raises(AccessRevoked) as refused:
        await box.read_pictures([place])
    assert PASSWORD not in str(refused.value)
