"""Files of a run as attachments: by a real mail server, and what other channels do with them."""

from __future__ import annotations

import email
import email.policy
import json
from typing import Any

import pytest
from apprise.plugins.telegram import NotifyTelegram
from prefect.client.orchestration import PrefectClient

from daybook.delivery import channels
from daybook.delivery.attachments import ATTEMPTS_WITH_FILES, WrittenFile
from daybook.delivery.channels import NotDelivered, apprise
from daybook.errors import InvalidInput
from daybook.home import Home
from tests.contract.channels.conftest import LONG, Letters, row
from tests.receiver import Receiver, answer

pytestmark = pytest.mark.anyio

FILES = [
    WrittenFile(
        "out/Übersicht für Anna, Montag bis Freitag – Grüße aus 東京.md", "Grüße\r\n".encode()
    ),
    WrittenFile("page.html", b"<script>1</script>"),
    WrittenFile("key.txt", None, "it contains a secret"),
]
SAVE = "To save them: daybook files 4f0c2a91d3e7 --save FOLDER"


def parts(letters: Letters) -> tuple[str, list[tuple[str | None, str, Any]]]:
    """Return the text of the only mail, and the name, type and content of each attachment."""
    [got] = letters.got
    mail = email.message_from_bytes(bytes(got), policy=email.policy.default)
    body = mail.get_body(("plain",))
    assert body is not None
    attached = [
        (each.get_filename(), each.get_content_type(), each.get_payload(decode=True))
        for each in mail.iter_attachments()
    ]
    return body.get_content(), attached


async def test_one_mail_carries_the_answer_and_the_files(
    client: PrefectClient, letters: Letters
) -> None:
    await apprise.add(client, "mail", letters.url())
    await channels.check(client, "mail", "", attaches_files=True)
    await channels.send(client, row("mail", LONG), None, FILES)

    text, attached = parts(letters)
    assert attached == [
        (
            "Übersicht für Anna, Montag bis Freitag – Grüße aus 東京.md",
            "text/markdown",
            "Grüße\r\n".encode(),
        ),
        ("page.html", "application/octet-stream", b"<script>1</script>"),
    ]
    # The long answer is cut, and the note after it is not.
    assert text.rstrip().endswith(
        "more characters: `daybook show 4f0c2a91d3e7`]\n\n"
        "Files that are not attached: key.txt (it contains a secret)"
    )
    # Mail programs read no name from a header that is encoded as a whole.
    headers = [each["Content-Disposition"] for each in letters.got[0].walk()]
    assert [each.split()[0] for each in headers if each] == ["attachment;"] * 2


async def test_a_refused_mail_is_sent_without_files_in_the_end(
    client: PrefectClient, letters: Letters
) -> None:
    await apprise.add(client, "mail", letters.url())
    letters.answer = "552 5.7.0 This message was blocked because of its content"
    with pytest.raises(NotDelivered) as failed:
        await channels.send(client, row("mail", attempts=ATTEMPTS_WITH_FILES - 1), None, FILES)
    assert failed.value.temporary
    assert letters.got == []

    letters.answer = "250 OK"
    await channels.send(client, row("mail", attempts=ATTEMPTS_WITH_FILES), None, FILES[1:2])
    text, attached = parts(letters)
    assert attached == []
    assert "page.html (4 attempts with the files have failed)" in text
    assert SAVE in text


async def test_telegram_gets_one_request_that_names_the_files(
    client: PrefectClient, endpoint: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NotifyTelegram, "notify_url", f"{endpoint.address}/bot")
    endpoint.steps = [answer(200, b'{"ok": true, "result": {}}')]
    await apprise.add(client, "chats", "tgram://123456789:abcdefghijklmnop/-1001")
    with pytest.raises(InvalidInput, match='the channel "chats" does not send mail') as refused:
        await channels.check(client, "chats", "", attaches_files=True)
    assert refused.value.field == "attach_files"

    await channels.send(client, row("chats"), None, FILES[1:])
    [request] = endpoint.requests
    assert request.path.endswith("/sendMessage")
    text = json.loads(request.body)["text"]
    assert "page.html (the channel does not carry files); key.txt (it contains a secret)" in text
    assert SAVE in text


@pytest.mark.parametrize("name", ["inbox", "file", "console"])
async def test_a_built_in_channel_with_attached_files_is_refused(
    daybook_home: Home, name: str
) -> None:
    with pytest.raises(InvalidInput, match="mailto://"):
        await channels.check(None, name, "", attaches_files=True)


async def test_the_entry_of_a_file_names_the_files(daybook_home: Home) -> None:
    await channels.send(None, row("file", "Done."), None, FILES[1:2])
    entry = (daybook_home.path / "out" / "daybook.md").read_text()
    assert entry.endswith(
        "\n\nDone.\n\nFiles that are not attached: page.html (the channel does not carry files)\n"
        f"{SAVE}\n\n"
    )
