"""The mailbox adapter with a real Dovecot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daybook.features.conversations import mailbox
from daybook.features.conversations.mailbox import MailboxAccount
from daybook.features.conversations.platform import AccessRevoked, PlatformError
from daybook.features.conversations.settings import MailboxSettings
from daybook.http.imap import MailConnection
from tests import certificates, dovecot
from tests.dovecot import PASSWORD, Dovecot
from tests.imap_server import USER
from tests.mail_host import ANNA
from tests.waiting import becomes_true

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("daybook_home")]


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Dovecot]:
    certificate = certificates.localhost(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with dovecot.running(certificate) as found:
        yield found


def account(server: Dovecot, password: str = PASSWORD) -> MailboxAccount:
    hosts = {"imap_host": "127.0.0.1", "imap_port": server.port, "smtp_host": "127.0.0.1"}
    given = {"address": USER, "password": password, **hosts}
    return MailboxAccount("mail", MailboxSettings.model_validate(given))


def mail(text: str) -> bytes:
    return f"From: {ANNA}\nMessage-ID: <{text}@client>\n\n{text}\n".encode()


async def test_new_mail_arrives_with_idle_and_is_marked_once_it_is_stored(
    server: Dovecot, monkeypatch: pytest.MonkeyPatch
) -> None:
    idles = asyncio.Event()
    loop, wait = asyncio.get_running_loop(), MailConnection.wait_for_news

    def waits(connection: MailConnection, seconds: float) -> None:
        loop.call_soon_threadsafe(idles.set)
        wait(connection, seconds)

    monkeypatch.setattr(MailConnection, "wait_for_news", waits)
    server.deliver(mail("old"), "1")

    async def connects() -> bool:
        async with account(server).open() as found:
            try:
                return await found.receive(None) == ()
            except PlatformError:  # it has not started yet
                return False

    assert await becomes_true(connects, 30)
    async with account(server).open() as box:
        await box.receive(None)
        start = box.position
        receiving = asyncio.create_task(box.receive(start))
        await idles.wait()
        server.deliver(mail("new"), "2")
        [found] = await receiving
        assert (found.text, found.message_id, found.is_verified) == ("new", "new@client", False)
        assert server.flags() == ["", ""]
        await box.confirm([found])
        assert server.flags() == ["", "S"]

    server.renumber()
    server.deliver(mail("next"), "3")
    async with account(server).open() as box:
        again = list(await box.receive(found.position))
        # The one that was never read is older than the connection, and looks like the others.
        assert {each.text for each in again} == {"old", "next"}
        assert box.position is not None
        assert box.position > found.position

    with pytest.raises(AccessRevoked):
        async with account(server, "wrong").open() as box:
            await box.receive(None)


async def test_a_wait_ends_without_news(server: Dovecot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "IDLE_SECONDS", 0.2)

    async def waits() -> bool:
        async with account(server).open() as box:
            try:
                await box.receive(None)
            except PlatformError:
                return False
            return [list(await box.receive(box.position)) for _ in range(2)] == [[], []]

    assert await becomes_true(waits, 30)
