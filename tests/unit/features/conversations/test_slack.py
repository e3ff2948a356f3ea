"""The Slack adapter, through its real library, against a local Slack."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from starlette.responses import RedirectResponse

from daybook.agents.pictures import MAX_PICTURE_BYTES
from daybook.delivery.attachments import Attachment
from daybook.errors import InvalidInput
from daybook.features.conversations import accounts, pictures, slack
from daybook.features.conversations.platform import (
    AccessRevoked,
    PlatformError,
    Post,
    Update,
    UpdateKind,
)
from daybook.features.conversations.settings import SlackSettings
from daybook.features.conversations.slack import FILES_URL, SlackAccount, SlackApp
from tests import slack_api
from tests.pictures import JPEG, PNG
from tests.slack_api import ME, SlackApi

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api() -> AsyncIterator[SlackApi]:
    async with slack_api.serving() as found:
        yield found


def account(api: SlackApi, **given: str) -> SlackAccount:
    return SlackAccount("slack", SlackSettings.model_validate({**api.settings, **given}))


@pytest.fixture
async def app(api: SlackApi) -> AsyncIterator[SlackApp]:
    async with account(api).open() as found:
        yield found


async def received(app: SlackApp, count: int) -> list[Update]:
    """Return the next updates, and acknowledge them."""
    found = list[Update]()
    while len(found) < count:
        updates = await app.receive(None)
        await app.confirm(updates)
        found += updates
    return found


async def test_what_people_do_becomes_updates(api: SlackApi, app: SlackApp) -> None:
    answer = await app.send(Post("D1", "**Brief**", buttons=[("snooze", "Later")]))
    [sent] = api.sent
    api.write("which is &lt;urgent&gt;?", reply_to=sent)
    api.write("see <https://example.org/a|this> &amp; <mailto:a@b.org|a@b.org>")
    api.write("nothing for it", chat="C5")
    api.write(f"<@{ME}> hello <@U2>", chat="C5", types=("message", "app_mention"))
    api.write("an aside", chat="C5", thread_ts="1.1", parent_user_id="U2")
    api.write(files=[{"mimetype": "audio/mp4", "subtype": "slack_audio"}], subtype="file_share")
    api.press(sent, "snooze")
    reply, flat, mention, again, aside, voice, press = found = await received(app, 7)
    assert [each.position for each in found] == sorted(each.position for each in found)
    assert (reply.text, reply.thread_id, reply.chat_id) == ("which is <urgent>?", answer, "D1")
    assert reply.message_id.startswith(f"{answer}/")
    assert (reply.person_id, reply.person_name, reply.is_group) == ("U1", "Anna", False)
    assert (flat.text, flat.thread_id) == ("see this (https://example.org/a) & a@b.org", "")
    assert (mention.text, mention.is_addressed, mention.is_group) == ("hello @U2", True, True)
    assert again == mention
    assert (aside.is_addressed, aside.thread_id) == (False, "1.1")
    assert voice.unreadable == "a voice message"
    assert (press.kind, press.button, press.message_id) == (UpdateKind.PRESS, "snooze", answer)


async def test_a_reply_in_a_thread_of_the_app_is_for_it(api: SlackApi, app: SlackApp) -> None:
    first = await app.send(Post("C5", "Brief"))
    api.write("why?", chat="C5", reply_to=api.sent[0])
    [update] = await received(app, 1)
    assert (update.is_addressed, update.is_group, update.thread_id) == (True, True, first)


async def test_what_is_no_message_of_a_person_is_acknowledged_and_ignored(
    api: SlackApi, app: SlackApp
) -> None:
    base = {"type": "message", "channel": "D1", "user": "U1", "text": "x", "ts": "1.1"}
    for each in (
        {"subtype": "message_changed", "message": base},
        {"subtype": "channel_join"},
        {"bot_id": "B1"},
        {"user": ME},
        {"type": "reaction_added"},
    ):
        api.deliver_event({**base, **each})
    api.write("hello")
    [update] = await received(app, 1)
    assert update.text == "hello"
    await api.until(lambda: not api.unacknowledged, 10)


async def test_an_update_is_delivered_again_until_it_is_acknowledged(api: SlackApi) -> None:
    api.write("hello")
    async with account(api).open() as first:
        [update] = await first.receive(None)
    async with account(api).open() as second:
        [again] = await second.receive(None)
        assert again == update
        await second.confirm([again])
        await api.until(lambda: not api.unacknowledged, 10)


async def test_a_connection_that_ends_is_replaced_without_a_loss(
    api: SlackApi, app: SlackApp
) -> None:
    api.write("one")
    [one] = await received(app, 1)
    await api.disconnect("refresh_requested")
    api.write("two")
    [two] = await received(app, 1)
    assert (one.text, two.text) == ("one", "two")
    await api.until(lambda: len(api.sockets) == 1, 10)
    assert api.calls.count("apps.connections.open") == 2


async def test_a_message_is_not_lost_if_the_name_of_its_person_comes_after_the_poll_ends(
    api: SlackApi, app: SlackApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def name(_: str) -> str:
        is_over = asyncio.Event()
        asyncio.get_running_loop().call_later(2 * slack.POLL_SECONDS, is_over.set)
        await is_over.wait()
        return "Anna"

    monkeypatch.setattr(slack, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(app, "_name", name)
    api.write("hello")
    async with asyncio.timeout(30):
        [update] = await received(app, 1)
    assert (update.text, update.person_name) == ("hello", "Anna")


async def test_a_lost_connection_and_socket_mode_that_is_off_are_problems(
    api: SlackApi, app: SlackApp
) -> None:
    api.write("one")
    await received(app, 1)
    await api.until(lambda: not api.unacknowledged, 10)
    await api.sockets[0].close()
    with pytest.raises(PlatformError, match="lost") as lost:
        await app.receive(None)
    assert lost.value.is_temporary
    api.write("two")
    await received(app, 1)
    await api.disconnect("link_disabled")
    with pytest.raises(PlatformError, match="Socket Mode is off"):
        await app.receive(None)


async def test_a_message_has_the_markup_and_buttons_of_slack(api: SlackApi, app: SlackApp) -> None:
    text = "## Plan\n\n- one\n- *two*\n\n```\nx  <b>\n```\n\n[a](https://x.org) <!channel> <@U2>"
    buttons = [("approve", "Approve"), ("reject", "Reject")]
    post = Post("D1", text, "See <x>", buttons)
    id_ = await app.send(post)
    [sent] = api.sent
    assert "*Plan*\n\n• one\n• _two_" in sent.text
    assert "```\nx  &lt;b&gt;\n```" in sent.text
    assert "<https://x.org|a> &lt;!channel&gt; &lt;@U2&gt;" in sent.text
    assert sent.text.endswith("See &lt;x&gt;")
    assert sent.plain.endswith("See <x>")
    assert sent.buttons == {"Approve": "approve", "Reject": "reject"}
    await app.remove_buttons("D1", id_)
    assert (sent.buttons, sent.plain.endswith("See <x>")) == ({}, True)
    edits = len(sent.edits)
    await app.remove_buttons("D1", id_)  # a second time changes nothing
    await app.remove_buttons("D1", "1.1")
    assert len(sent.edits) == edits
    await app.edit(id_, replace(post, text="Done", note="", buttons=()))
    assert (sent.text, sent.blocks) == ("Done", [])


async def test_a_message_is_deleted_once_and_a_late_edit_finds_none(
    api: SlackApi, app: SlackApp
) -> None:
    id_ = await app.send(Post("D1", "so far"))
    for _ in range(2):
        await app.delete("D1", id_)
    assert api.sent[0].is_deleted
    with pytest.raises(PlatformError) as refused:
        await app.edit(id_, Post("D1", "so far, and more"))
    assert not refused.value.is_temporary
    api.fail("chat.delete", slack_api.too_many(3))
    with pytest.raises(PlatformError) as limited:
        await app.delete("D1", id_)
    assert (limited.value.is_temporary, limited.value.retry_after) == (True, 3.0)
    api.fail("chat.postMessage", slack_api.too_many(3))
    with pytest.raises(PlatformError, match="3 s"):  # at once: the listener follows other chats
        await app.send(Post("D1", "so far", is_draft=True))


async def test_a_long_text_with_buttons_becomes_several_sections(
    api: SlackApi, app: SlackApp
) -> None:
    await app.send(Post("D1", "a & b " * 500, buttons=[("ok", "OK" * 50)]))
    [sent] = api.sent
    assert [each["type"] for each in sent.blocks] == ["section", "section", "actions"]


async def test_an_answer_is_in_a_thread_where_the_question_was(
    api: SlackApi, app: SlackApp
) -> None:
    cases: Sequence[tuple[str, str, str | None]] = [
        ("D1", "5.1", None),  # a direct message needs no thread
        ("D1", "4.1/5.1", "4.1"),
        ("C5", "5.1", "5.1"),
        ("C5", "4.1/5.1", "4.1"),
    ]
    for chat_id, reply_to, thread_ts in cases:
        await app.show_typing(chat_id, reply_to)
        await app.show_typing(chat_id, reply_to)
        assert (chat_id, "5.1") in api.reactions
        await app.send(Post(chat_id, "so far", reply_to=reply_to, is_draft=True))
        assert (chat_id, "5.1") in api.reactions  # it is still being answered
        id_ = await app.send(Post(chat_id, "answer", reply_to=reply_to, buttons=[("a", "A")]))
        assert api.sent[-1].reply_to == thread_ts
        assert id_ == (f"{thread_ts}/{api.sent[-1].id}" if thread_ts else api.sent[-1].id)
        assert not api.reactions
        await app.remove_buttons(chat_id, id_)
        assert not api.sent[-1].buttons
    assert api.calls.count("reactions.add") == len(cases)


async def test_a_press_in_a_thread_is_confirmed_there(api: SlackApi, app: SlackApp) -> None:
    id_ = await app.send(Post("C5", "?", reply_to="4.1", buttons=[("a", "A")]))
    api.press(api.sent[0], "a", person="U2")
    [press] = await received(app, 1)
    assert (press.message_id, press.person_name, press.is_group) == (id_, "Ben", True)
    await app.acknowledge(press.press_id, "<done>")
    assert api.acknowledged == [("U2", "&lt;done&gt;")]


async def test_a_file_is_uploaded_into_the_thread(api: SlackApi, app: SlackApp) -> None:
    files = [Attachment("report.csv", "text/csv", b"a,b\n1,2\n")]
    id_ = await app.send(Post("C5", reply_to="4.1", files=files))
    assert api.sent[0].document == ("report.csv", b"a,b\n1,2\n")
    assert (api.sent[0].reply_to, id_.startswith("4.1/F")) == ("4.1", True)


async def test_a_short_wait_is_kept_and_a_long_one_reported(api: SlackApi, app: SlackApp) -> None:
    api.fail("chat.postMessage", slack_api.too_many(60))
    with pytest.raises(PlatformError) as refused:
        await app.send(Post("D1", "one"))
    assert (refused.value.retry_after, refused.value.is_temporary) == (60.0, True)
    api.fail("chat.postMessage", slack_api.too_many(0.05))
    await app.send(Post("D1", "two"))
    assert [each.text for each in api.sent] == ["two"]


async def test_errors_say_what_to_do_and_never_a_token(
    api: SlackApi, app: SlackApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api.write("hello")
    await received(app, 1)
    faults = {
        slack_api.bad_gateway: ("HTTP 502", True),
        slack_api.refused("channel_not_found"): ("channel_not_found", False),
        slack_api.refused("internal_error"): ("internal_error", True),
        slack_api.refused("missing_scope", needed="files:write"): ("add this scope", False),
    }
    for fault, (text, is_temporary) in faults.items():
        api.fail("chat.postMessage", fault)
        with pytest.raises(PlatformError, match=text) as refused:
            await app.send(Post("D1", "one"))
        assert refused.value.is_temporary is is_temporary
    for wrong in ({"token": "xoxb-s3cr3t"}, {"app_token": "xapp-s3cr3t"}):
        async with account(api, **wrong).open() as other:
            with pytest.raises(AccessRevoked, match="refuses the token"):
                await other.identity()
    async with account(api, api_url="http://127.0.0.1:1").open() as gone:
        with pytest.raises(PlatformError) as refused:
            await gone.identity()
        assert refused.value.is_temporary
    assert api.sent == []
    assert not [each for each in caplog.messages if "s3cr3t" in each]


async def test_an_account_is_its_app_whatever_its_tokens(api: SlackApi) -> None:
    assert account(api).account_id == account(api, app_token="xapp-1-A1-9-new").account_id == "A1"
    other = account(api, app_token="xapp-s3cr3t").account_id
    assert (len(other), "s3cr3t" in other) == (16, False)


async def test_the_identity_needs_all_scopes(api: SlackApi, app: SlackApp) -> None:
    assert await app.identity() == "@daybook"
    api.scopes = api.scopes.replace("files:read,", "")  # an older app hears all the same
    assert await app.identity() == "@daybook"
    api.scopes = api.scopes.replace("im:history", "im:read")
    with pytest.raises(PlatformError, match="lacks im:history"):
        await app.identity()


@pytest.mark.parametrize(
    ("field", "token"),
    [("token", "xapp-1"), ("token", "xoxb-"), ("token", "xoxb-1 2"), ("app_token", "xoxb-1")],
)
def test_what_is_no_token_is_refused_without_being_shown(field: str, token: str) -> None:
    given = {"token": "xoxb-1", "app_token": "xapp-1", field: token}
    with pytest.raises(InvalidInput) as refused:
        accounts.SLACK.validate(given)
    assert refused.value.field == field
    assert token not in str(refused.value).removesuffix("xoxb-")


# --- pictures


async def test_a_picture_is_read_with_the_token_by_its_id(api: SlackApi, app: SlackApp) -> None:
    api.sends(PNG, "what is this?")
    pdf = {"id": "F7", "mimetype": "application/pdf"}
    api.write(files=[{"id": "F6", "mimetype": "image/png"}, pdf], subtype="file_share")
    picture, mixed = await received(app, 2)
    assert (picture.text, picture.unreadable) == ("what is this?", "")
    assert (mixed.pictures, mixed.unreadable) == ((), "a file")
    [found] = await app.read_pictures(picture.pictures)
    assert (found.name, found.content) == ("photo.jpg", PNG)


async def test_a_large_picture_is_read_in_the_smaller_size_of_slack(
    api: SlackApi, app: SlackApp
) -> None:
    api.sends(bytes(MAX_PICTURE_BYTES + 1))
    [picture] = await received(app, 1)
    [id_] = picture.pictures
    with pytest.raises(InvalidInput, match="more than"):
        await app.read_pictures([id_])
    api.contents["small"] = JPEG
    api.files[id_]["thumb_1024"] = f"{api.address}/files-pri/small"
    [found] = await app.read_pictures([id_])
    assert found.content == JPEG


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://files.slack.com/files-pri/F1",  # the API of this test is another host
        "http://127.0.0.1/files-pri/F1",
        "http://{place}@evil.example/F1",
        "http://evil@{place}/files-pri/F1",
        "https://{place}/files-pri/F1",
        "file:///etc/passwd",
        "//[",
        "",
    ],
)
async def test_the_token_goes_to_no_other_place(api: SlackApi, app: SlackApp, url: str) -> None:
    api.sends(PNG)
    [picture] = await received(app, 1)
    [id_] = picture.pictures
    place = f"127.0.0.1:{api.port}"
    api.files[id_]["url_private"] = url.format(place=place)
    with pytest.raises(PlatformError, match="another host") as refused:
        await app.read_pictures([id_])
    assert not refused.value.is_temporary
    assert "file" not in api.calls


def test_only_slacks_own_host_has_its_pictures() -> None:
    origin = FILES_URL
    for wrong in (
        "http://files.slack.com/a",
        "https://files.slack.com.evil.example/a",
        "https://files.slack.com:8443/a",
        "https://slack.com/a",
        "https://files.slack.com@evil.example/a",
        "https://files.slack.com\\@evil.example/a",
    ):
        assert not pictures.is_at(wrong, origin), wrong
    assert pictures.is_at("https://files.slack.com/files-pri/T1-F1/photo.jpg", origin)
    assert pictures.is_at("https://FILES.slack.com:443/a", origin)


async def test_a_page_for_a_login_and_a_missing_file_are_no_pictures(
    api: SlackApi, app: SlackApp
) -> None:
    api.sends(PNG)
    [picture] = await received(app, 1)
    api.fail("file", lambda: RedirectResponse(f"{api.address}/login"))
    with pytest.raises(PlatformError, match="HTTP 307") as refused:
        await app.read_pictures(picture.pictures)
    assert not refused.value.is_temporary
    api.fail("file", slack_api.too_many(7))
    with pytest.raises(PlatformError) as limited:
        await app.read_pictures(picture.pictures)
    assert (limited.value.is_temporary, limited.value.retry_after) == (True, 7.0)
    api.fail("file", slack_api.too_many(10**400))
    with pytest.raises(PlatformError) as long:
        await app.read_pictures(picture.pictures)
    assert long.value.retry_after == pictures.MAX_RETRY_AFTER_SECONDS
    api.files.clear()
    with pytest.raises(PlatformError, match="file_not_found"):
        await app.read_pictures(picture.pictures)
