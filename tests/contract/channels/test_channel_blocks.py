"""Our channel blocks: e-mail to a real mail server, chats by id, failures, and refused settings."""

from __future__ import annotations

import asyncio
import html
import json
import logging
import re
import threading
from functools import partial
from typing import Any

import pytest
from apprise.plugins.telegram import NotifyTelegram
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentUpdate
from pydantic import SecretStr

import blocks
from daybook.delivery import channels
from daybook.delivery.channels import NotDelivered, apprise, threads
from daybook.delivery.channels.base import UNBOUNDED
from daybook.errors import InvalidInput, NotFound, UnknownName
from tests.contract.channels.conftest import LONG, Letters, row
from tests.receiver import Receiver, answer, hang

pytestmark = pytest.mark.anyio

PASSWORD = "s3cr3t-of-the-mail"


def text_of(mail: Any, kind: str) -> str:
    [part] = [each for each in mail.walk() if each.get_content_type() == kind]
    return str(part.get_payload(decode=True).decode()).replace("\r\n", "\n")


# --- e-mail


@pytest.mark.slow
async def test_a_mail_has_safe_html_its_text_and_a_single_line_subject(
    client: PrefectClient, letters: Letters
) -> None:
    await apprise.add(client, "mail", letters.url())
    text = "**All** is well.\n<img src=//evil.example/x onerror=y> & <b>\n  indented"
    await channels.send(client, row("mail", text, subject="brief:\r\nBcc: all@there.example"))

    [mail], [to] = letters.got, letters.to
    assert to == ["me@there.example"]
    assert mail["Subject"] == "brief: Bcc: all@there.example"
    assert mail["Bcc"] is None
    page = text_of(mail, "text/html")
    assert (
        "<p><strong>All</strong> is well.\n&lt;img src=//evil.example/x onerror=y&gt; &amp;" in page
    )
    assert text_of(mail, "text/plain") == text


async def test_a_long_mail_is_cut_and_says_how_much_is_missing(
    client: PrefectClient, letters: Letters
) -> None:
    await apprise.add(client, "mail", letters.url("&overflow=split"))
    await channels.send(client, row("mail", LONG))

    [mail] = letters.got
    lines = text_of(mail, "text/plain").splitlines()
    head = "\n".join(lines[:-1])
    assert 30_000 < len(head) <= 32_768
    assert LONG.startswith(f"{head}\n")
    missing = f"{len(LONG) - len(head):,}"
    assert lines[-1] == f"[… {missing} more characters: `daybook show 4f0c2a91d3e7`]"


@pytest.mark.parametrize("reply", ["554 no such user", "451 later"])
@pytest.mark.slow
async def test_a_mail_refused_by_the_server_is_a_temporary_failure(
    client: PrefectClient, letters: Letters, reply: str
) -> None:
    letters.answer = reply
    await apprise.add(client, "mail", letters.url("&optional=yes"))
    with pytest.raises(NotDelivered, match='the channel "mail": Sending email') as failed:
        await channels.send(client, row("mail"))
    assert failed.value.temporary
    assert letters.got == []


@pytest.mark.slow
async def test_an_unreachable_mail_server_is_reported_without_the_password(
    client: PrefectClient, unused_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"mailto://daybook:{PASSWORD}@127.0.0.1:{unused_port}?from=a@b.example&to=c@d.example"
    await apprise.add(client, "mail", url)
    with pytest.raises(NotDelivered, match="Connection error") as failed:
        await channels.send(client, row("mail"))
    assert PASSWORD not in str(failed.value) + caplog.text


# --- chats


@pytest.mark.floor("E", "A job names a channel and a chat id")
async def test_one_channel_serves_many_chats(client: PrefectClient, endpoint: Receiver) -> None:
    await apprise.add(client, "chats", f"json://127.0.0.1:{endpoint.port}/{{chat_id}}/say")
    await channels.check(client, "chats", "general")
    with pytest.raises(InvalidInput, match="serves several chats") as refused:
        await channels.check(client, "chats", "")
    assert refused.value.field == "chat_id"
    with pytest.raises(NotDelivered, match="chat_id is missing"):
        await channels.send(client, row("chats"))
    assert endpoint.requests == []

    for chat in ("general", "-1001", "@me:b.example"):
        await channels.send(client, row("chats", chat_id=chat))
    paths = [each.path for each in endpoint.requests]
    assert paths == ["/general/say", "/-1001/say", "/@me:b.example/say"]


@pytest.mark.parametrize(
    "chat",
    ["../other", "..", "a/b", "a?b=c", "a&b=c", "a#b", "a%2Fb", "a b", "a\n", "a\r\nb", "a[b]"],
)
@pytest.mark.slow
async def test_a_malformed_chat_id_is_refused_and_nothing_is_sent(
    client: PrefectClient, endpoint: Receiver, chat: str
) -> None:
    await apprise.add(client, "chats", f"json://127.0.0.1:{endpoint.port}/to/{{chat_id}}/say")
    with pytest.raises(InvalidInput, match="is not a chat id") as refused:
        await channels.check(client, "chats", chat)
    assert refused.value.field == "chat_id"
    with pytest.raises(NotDelivered) as failed:
        await channels.send(client, row("chats", chat_id=chat))
    assert not failed.value.temporary
    assert endpoint.requests == []


@pytest.mark.parametrize(
    "chat",
    [f"a@one.example{join}b@two.example" for join in (",", ";", ":", "=", "!")]
    + [f"+491234567801{join}+491234567802" for join in ("", ",", "-")],
)
@pytest.mark.slow
async def test_a_chat_id_with_several_recipients_is_refused(
    client: PrefectClient, letters: Letters, chat: str
) -> None:
    url = f"mailto://127.0.0.1:{letters.port}?from=daybook@here.example&to={{chat_id}}"
    await apprise.add(client, "mail", url)
    with pytest.raises(InvalidInput, match="one recipient"):
        await channels.check(client, "mail", chat)
    with pytest.raises(NotDelivered):
        await channels.send(client, row("mail", chat_id=chat))
    assert letters.to == []
    await channels.send(client, row("mail", chat_id="a+daybook@one.example"))
    assert letters.to == [["a+daybook@one.example"]]


@pytest.mark.slow
async def test_a_telegram_message_is_escaped_and_fits_the_limit(
    client: PrefectClient, endpoint: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NotifyTelegram, "notify_url", f"{endpoint.address}/bot")
    endpoint.steps = [answer(200, b'{"ok": true, "result": {}}')]
    await apprise.add(client, "chats", f"tgram://123456789:{PASSWORD}/{{chat_id}}")
    text = "**Hi** <b>&</b> <a href=//evil.example>x</a>"
    await channels.send(client, row("chats", text, chat_id="-1001", subject="a <b>job</b>"))
    await channels.send(client, row("chats", LONG, chat_id="-1001"))

    short, long = [json.loads(each.body) for each in endpoint.requests]
    assert [each.path for each in endpoint.requests] == [
        f"/bot123456789:{PASSWORD}/sendMessage"
    ] * 2
    assert (short["chat_id"], short["parse_mode"]) == (-1001, "HTML")
    title, _, full_text = short["text"].partition("\r\n")
    assert title == "<b>a &lt;b&gt;job&lt;/b&gt;</b>"
    assert full_text.startswith("<b>Hi</b> ") and full_text.count("<") == 2
    assert html.unescape(full_text).endswith(text.removeprefix("**Hi**"))
    read = html.unescape(re.sub("<[^>]*>|\r", "", long["text"]))  # Telegram ignores tags and \r
    assert 3_500 < len(read) <= 4_096
    assert "more characters" in read.rpartition("\n")[2]


@pytest.mark.slow
async def test_apprise_gets_the_message_type_that_matches_the_event(
    client: PrefectClient, endpoint: Receiver
) -> None:
    await apprise.add(client, "team", f"json://127.0.0.1:{endpoint.port}")
    for event in ("completed", "failed", "missed", "progress"):
        await channels.send(client, row("team", event=event))
    bodies = [json.loads(each.body) for each in endpoint.requests]
    assert [each["type"] for each in bodies] == ["success", "failure", "warning", "info"]
    assert {(each["title"], each["message"]) for each in bodies} == {
        ("morning-brief: succeeded", "All is well.")
    }


@pytest.mark.slow
async def test_an_empty_message_is_sent_with_its_subject_as_the_text(
    client: PrefectClient, endpoint: Receiver
) -> None:
    await apprise.add(client, "team", f"json://127.0.0.1:{endpoint.port}")
    await channels.send(client, row("team", "  \n"))
    assert json.loads(endpoint.requests[0].body)["message"] == "morning-brief: succeeded"


# --- failures


@pytest.mark.parametrize("query", ["", "?optional=yes", "?retry=2", "?optional=yes&retry=1"])
@pytest.mark.slow
async def test_apprise_options_cannot_hide_a_failure_or_repeat_the_request(
    client: PrefectClient, endpoint: Receiver, query: str
) -> None:
    endpoint.steps = [answer(503)]
    await apprise.add(client, "team", f"json://127.0.0.1:{endpoint.port}/{query}")
    with pytest.raises(NotDelivered, match="503"):
        await channels.send(client, row("team"))
    assert len(endpoint.requests) == 1


@pytest.mark.slow
async def test_a_hanging_endpoint_fails_after_a_time_limit_and_blocks_no_other_message(
    client: PrefectClient, endpoint: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.steps = [hang, answer(200)]
    await apprise.add(client, "slow", f"json://127.0.0.1:{endpoint.port}/a?rto=600")
    within_5_s = partial(threads.run_capturing_logs, within=5.0)
    monkeypatch.setattr(threads, "run_capturing_logs", within_5_s)
    slow = asyncio.ensure_future(channels.send(client, row("slow")))
    while not endpoint.requests and not slow.done():  # this loop serves the request
        await asyncio.wait({slow}, timeout=0.01)
    with pytest.raises(NotDelivered, match="no result within 5 s; it may have arrived"):
        await slow
    [thread] = [each for each in threading.enumerate() if each.name == "daybook-channel"]
    assert thread.daemon  # so it does not keep the process alive
    await channels.send(client, row("slow"))


async def test_only_apprise_logs_of_our_own_thread_are_captured(
    client: PrefectClient, endpoint: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Daybook captures only its own thread's logs; the embedding program's logs stay visible."""
    endpoint.steps = [answer(500)]
    await apprise.add(client, "team", f"json://127.0.0.1:{endpoint.port}")
    with pytest.raises(NotDelivered):
        await channels.send(client, row("team"))
    assert not [each for each in caplog.records if each.name == "apprise"]
    logging.getLogger("apprise").warning("the program's own")
    assert [each.message for each in caplog.records if each.name == "apprise"] == [
        "the program's own"
    ]


# --- the block


@pytest.mark.slow
async def test_a_channel_is_added_replaced_and_removed(client: PrefectClient) -> None:
    await apprise.add(client, "team", "ntfy://first-topic")
    assert (await channels.names(client))["team"] == "daybook-channel"
    with pytest.raises(InvalidInput, match="taken"):
        await apprise.add(client, "team", "ntfy://another-topic")
    await apprise.add(client, "team", "tgram://123456789:abcdefg_hijklmnop/{chat_id}", replace=True)
    channel = await apprise.read(client, "team")
    assert (channel.limit, channel.needs_chat_id) == (4096, True)
    await apprise.STORE.remove(client, "team")
    with pytest.raises(NotFound, match='channel "team" not found'):
        await apprise.STORE.remove(client, "team")
    with pytest.raises(UnknownName, match="known: console, file, inbox"):
        await channels.check(client, "team", "")


async def test_a_channel_block_saved_in_python_is_a_channel(
    client: PrefectClient, endpoint: Receiver
) -> None:
    url = f"json://127.0.0.1:{endpoint.port}/{PASSWORD}"
    block = blocks.ChannelBlock(url=SecretStr(url))
    await block.asave("team", client=client)
    assert block.get_channel().limit < UNBOUNDED
    await channels.send(client, row("team"))
    assert endpoint.requests[0].path.startswith(f"/{PASSWORD}")
    document = await apprise.STORE.find(client, "team")
    assert document is not None
    assert PASSWORD not in str(document.data) + repr(block)


@pytest.mark.parametrize(
    ("name", "url", "field"),
    [
        ("Team", "ntfy://topic", "name"),
        ("team", "nothing", "url"),
        ("team", f"nope://{PASSWORD}", "url"),
        ("team", f" ntfy://{PASSWORD}", "url"),
        ("team", f"tgram://{PASSWORD}", "url"),
        ("team", f"json://{PASSWORD}@{{chat_id}}/x", "url"),
        ("team", f"tgram://123456789:{PASSWORD}/{{chat_id}}?format=text", "url"),
        ("team", f"tgram://123456789:{PASSWORD}/1?mdv=2;%46ormat=markdown", "url"),
    ],
    ids=["name", "no scheme", "unknown", "blank", "wrong", "host", "text", "markdown"],
)
async def test_an_invalid_channel_is_refused_and_not_stored(
    client: PrefectClient, name: str, url: str, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await apprise.add(client, name, url)
    assert refused.value.field == field
    assert PASSWORD not in str(refused.value) + caplog.text
    assert set(await channels.names(client)) == {"inbox", "file", "console"}


async def test_a_channel_made_invalid_in_prefect_is_reported_without_its_secret(
    client: PrefectClient,
) -> None:
    await apprise.add(client, "team", "ntfy://topic")
    document = await apprise.STORE.find(client, "team")
    assert document is not None
    changed = BlockDocumentUpdate(data={"url": f"nope://{PASSWORD}"})
    await client.update_block_document(document.id, changed)
    with pytest.raises(
        NotDelivered, match='"team" is invalid: url: apprise does not understand'
    ) as failed:
        await channels.send(client, row("team"))
    assert PASSWORD not in str(failed.value)


@pytest.mark.slow
async def test_without_the_block_type_only_the_built_in_channels_exist(
    client: PrefectClient,
) -> None:
    block_type = await client.read_block_type_by_slug(apprise.STORE.slug)
    await client.delete_block_type(block_type.id)
    try:
        assert set(await channels.names(client)) == {"inbox", "file", "console"}
        with pytest.raises(InvalidInput, match="daybook up"):
            await apprise.add(client, "team", "ntfy://topic")
    finally:
        await blocks.register(client)
