"""The Telegram adapter, through its real library, against a local Bot API."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.responses import RedirectResponse

from daybook.agents.pictures import MAX_PICTURE_BYTES
from daybook.delivery.attachments import Attachment
from daybook.errors import InvalidInput
from daybook.features.conversations import accounts, pictures
from daybook.features.conversations.platform import (
    AccessRevoked,
    PlatformError,
    Post,
    UpdateKind,
    UsedElsewhere,
)
from daybook.features.conversations.settings import TelegramSettings
from daybook.features.conversations.telegram import TelegramAccount, TelegramBot
from tests import bot_api
from tests.bot_api import TOKEN, BotApi
from tests.chat_service import Cut, Hanging
from tests.pictures import JPEG

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api() -> AsyncIterator[BotApi]:
    async with bot_api.serving() as found:
        yield found


def account(api: BotApi, token: str = TOKEN) -> TelegramAccount:
    settings = TelegramSettings.model_validate({"token": token, "api_url": api.address})
    return TelegramAccount("telegram", settings)


@pytest.fixture
async def bot(api: BotApi) -> AsyncIterator[TelegramBot]:
    async with account(api).open() as found:
        yield found


async def test_what_people_do_becomes_updates(api: BotApi, bot: TelegramBot) -> None:
    answer = await bot.send(Post("1", "**Brief**", buttons=[("snooze", "Later")]))
    [sent] = api.sent
    api.write("which is urgent?", reply_to=sent)
    api.write("@daybook_bot hello", chat=-5)
    api.write("nothing for it", chat=-5)
    api.write(voice={"file_id": "v", "file_unique_id": "v", "duration": 1})
    origin = {"type": "hidden_user", "date": 1, "sender_user_name": "Eve"}
    api.write("approve", forward_origin=origin)
    api.press(sent, "snooze")
    found = list(await bot.receive(None))
    reply, mention, aside, voice, forwarded, press = found
    assert [each.position for each in found] == sorted(each.position for each in found)
    assert (reply.text, reply.reply_to, reply.chat_id) == ("which is urgent?", answer, "1")
    assert reply.quoted == "Brief"
    assert (reply.person_id, reply.person_name, reply.is_group) == ("1", "Anna", False)
    assert (mention.text.strip(), mention.is_addressed, mention.is_group) == ("hello", True, True)
    assert not aside.is_addressed
    assert voice.unreadable == "a voice message"
    assert forwarded.is_forwarded
    assert (press.kind, press.button, press.message_id) == (UpdateKind.PRESS, "snooze", answer)


async def test_updates_are_confirmed_only_by_the_next_request(
    api: BotApi, bot: TelegramBot
) -> None:
    api.write("one")
    [first] = await bot.receive(None)
    assert [each.id for each in await bot.receive(None)] == [first.id]
    api.write("two")
    [second] = await bot.receive(first.position)
    assert second.text == "two"


async def test_a_message_has_the_markup_buttons_and_reply_of_telegram(
    api: BotApi, bot: TelegramBot
) -> None:
    question = api.write("question")
    text = "## Plan\n\n- one\n- *two*\n\n```\nx  <b>\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    buttons = [("approve", "Approve"), ("reject", "Reject"), ("log", "Show log")]
    post = Post("1", text, "See <x>", buttons, reply_to=str(question))
    await bot.send(post)
    [sent] = api.sent
    assert "<b>Plan</b>" in sent.text
    assert "• <i>two</i>" in sent.text
    assert "<pre>x  &lt;b&gt;\n</pre>" in sent.text
    assert "1 · 2" in sent.text
    assert sent.text.endswith("See &lt;x&gt;")
    assert sent.buttons == {label: word for word, label in buttons}
    assert sent.reply_to == question
    await bot.remove_buttons("1", str(sent.id))
    assert sent.buttons == {}
    await bot.remove_buttons("1", str(sent.id))  # a second time changes nothing
    await bot.edit(str(sent.id), replace(post, text="Done", note=""))
    assert sent.text == "Done"


async def test_a_message_is_deleted_once_and_a_late_edit_finds_none(
    api: BotApi, bot: TelegramBot
) -> None:
    id_ = await bot.send(Post("1", "so far"))
    for _ in range(2):
        await bot.delete("1", id_)
    assert api.sent[0].is_deleted
    with pytest.raises(PlatformError) as refused:
        await bot.edit(id_, Post("1", "so far, and more"))
    assert not refused.value.is_temporary
    api.fail("deleteMessage", bot_api.too_many(3))
    with pytest.raises(PlatformError) as limited:
        await bot.delete("1", id_)
    assert (limited.value.is_temporary, limited.value.retry_after) == (True, 3.0)
    api.fail("sendMessage", bot_api.too_many(3))
    with pytest.raises(PlatformError, match="3 s"):  # at once: the listener follows other chats
        await bot.send(Post("1", "so far", is_draft=True))


async def test_a_file_is_a_document(api: BotApi, bot: TelegramBot) -> None:
    await bot.send(Post("1", files=[Attachment("report.csv", "text/csv", b"a,b\n1,2\n")]))
    assert api.sent[0].document == ("report.csv", b"a,b\n1,2\n")


async def test_a_text_that_telegram_cannot_read_arrives_as_plain_text(
    api: BotApi, bot: TelegramBot
) -> None:
    api.fail("sendMessage", bot_api.error(400, "Bad Request: can't parse entities: oops"))
    await bot.send(Post("1", "**bold**", "note"))
    assert [each.text for each in api.sent] == ["**bold**\n\nnote"]


async def test_a_short_wait_is_kept_and_a_long_one_reported(api: BotApi, bot: TelegramBot) -> None:
    api.fail("sendMessage", bot_api.too_many(0.05))
    await bot.send(Post("1", "one"))
    assert len(api.sent) == 1
    api.fail("sendMessage", bot_api.too_many(60))
    with pytest.raises(PlatformError) as refused:
        await bot.send(Post("1", "two"))
    assert (refused.value.retry_after, refused.value.is_temporary) == (60.0, True)
    assert len(api.sent) == 1


async def test_errors_say_what_to_do_and_never_the_token(
    api: BotApi, bot: TelegramBot, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    faults = {
        bot_api.bad_gateway: True,
        bot_api.error(403, "Forbidden: bot was blocked by the user"): False,
        bot_api.error(400, f"Bad Request: chat not found bot{TOKEN}"): False,
    }
    for fault, is_temporary in faults.items():
        api.fail("sendMessage", fault)
        with pytest.raises(PlatformError) as refused:
            await bot.send(Post("1", "one"))
        assert refused.value.is_temporary is is_temporary
        assert TOKEN not in str(refused.value)
    async with account(api, "12:wrong-s3cr3t").open() as wrong:
        with pytest.raises(AccessRevoked):
            await wrong.identity()
    assert api.sent == []
    assert not [each for each in caplog.messages if "s3cr3t" in each]


async def test_a_second_program_with_the_token_is_told_so(api: BotApi, bot: TelegramBot) -> None:
    api.fail("getUpdates", bot_api.error(409, "Conflict: terminated by other getUpdates request"))
    with pytest.raises(UsedElsewhere):
        await bot.receive(None)


async def test_an_unreachable_server_is_a_temporary_problem(api: BotApi) -> None:
    settings = TelegramSettings.model_validate({"token": TOKEN, "api_url": "http://127.0.0.1:1"})
    async with TelegramAccount("telegram", settings).open() as gone:
        with pytest.raises(PlatformError) as refused:
            await gone.identity()
    assert refused.value.is_temporary
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("token", ["", "hello", "12:", "12:a b", "12:a/b", "x:y"])
def test_what_is_no_token_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        accounts.TELEGRAM.validate({"token": token})
    assert refused.value.field == "token"
    assert not token or token not in str(refused.value)


# --- pictures


async def test_a_picture_is_read_by_its_id_in_its_largest_size(
    api: BotApi, bot: TelegramBot
) -> None:
    api.sends(JPEG, "what is this?")
    document = {"file_id": "file-0", "file_unique_id": "d", "mime_type": "image/png"}
    api.write(document=document)
    api.write(document=document | {"mime_type": "application/pdf"})
    api.write(document=document | {"mime_type": "image/svg+xml"})
    photo, file, *others = await bot.receive(None)
    assert (photo.text, photo.pictures, photo.unreadable) == ("what is this?", ("file-0",), "")
    assert file.pictures == ("file-0",)
    assert [(each.pictures, each.unreadable) for each in others] == [((), "a file")] * 2
    [found] = await bot.read_pictures(photo.pictures)
    assert (found.name, found.content) == ("file-0.jpg", JPEG)


async def test_a_picture_that_telegram_does_not_give_says_why_without_the_token(
    api: BotApi,
    bot: TelegramBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    api.sends(JPEG)
    secret = tmp_path / "secret"
    secret.write_text("s3cr3t of this machine")
    monkeypatch.setattr(pictures, "DOWNLOAD_SECONDS", 0.2)

    async def refused(problem: str, *, is_temporary: bool) -> None:
        with pytest.raises(PlatformError, match=problem) as error:
            await bot.read_pictures(["file-0"])
        assert error.value.is_temporary is is_temporary
        assert "s3cr3t" not in str(error.value)

    api.fail("file", bot_api.bad_gateway, Hanging, Cut)
    await refused("HTTP 502", is_temporary=True)
    await refused("in time|Timeout", is_temporary=True)
    await refused("RemoteProtocolError", is_temporary=True)
    redirect = RedirectResponse(f"http://127.0.0.1:{api.port}/elsewhere")
    api.fail("file", lambda: redirect)
    await refused("HTTP 307", is_temporary=False)
    api.files["file-0"] = str(secret), JPEG
    await refused("does not say where", is_temporary=False)
    api.files.clear()
    await refused("Wrong file_id", is_temporary=False)
    assert "/elsewhere" not in api.calls
    assert TOKEN not in caplog.text


async def test_a_large_picture_is_not_read_to_its_end(api: BotApi, bot: TelegramBot) -> None:
    api.sends(JPEG + bytes(2 * MAX_PICTURE_BYTES))
    with pytest.raises(InvalidInput, match="more than"):
        await bot.read_pictures(["file-0"])
