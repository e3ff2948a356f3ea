"""Prefect's notification blocks as channels, each with a server that speaks its protocol.

If a block fixes the host (Slack, Discord), the test points apprise's plugin at its own server; the
block itself is Prefect's.
"""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import pytest
from apprise.plugins.discord import NotifyDiscord
from apprise.plugins.opsgenie import OPSGENIE_API_LOOKUP
from apprise.plugins.pagerduty import PAGERDUTY_API_LOOKUP
from apprise.plugins.sendgrid import NotifySendGrid
from apprise.plugins.slack import NotifySlack
from apprise.plugins.twilio import NotifyTwilio
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.notifications import (
    CustomWebhookNotificationBlock,
    DiscordWebhook,
    MattermostWebhook,
    MicrosoftTeamsWebhook,
    OpsgenieWebhook,
    PagerDutyWebHook,
    SendgridEmail,
    SlackWebhook,
    TwilioSMS,
)
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.types import SecretDict
from pydantic import SecretStr

from daybook.delivery import channels
from daybook.delivery.channels import NotDelivered
from daybook.errors import Ambiguous, InvalidInput, UnknownName
from tests.contract.channels.conftest import LONG, row
from tests.receiver import Receiver, Request, answer

pytestmark = pytest.mark.anyio

TOKEN = "JHMHI8qBe7bk2ZwO5U711o3dV"
UI = "http://127.0.0.1:4200/runs/flow-run/7d1"


def slack(server: Receiver) -> NotificationBlock:
    return SlackWebhook(url=SecretStr(f"https://hooks.slack.com/services/T0JJ3/B0TD4/{TOKEN}"))


def discord(server: Receiver) -> NotificationBlock:
    return DiscordWebhook(webhook_id=SecretStr("4174216298"), webhook_token=SecretStr(TOKEN))


def teams(server: Receiver) -> NotificationBlock:
    flow = f"https://127.0.0.1:{server.port}/workflows/a1b2c3/triggers/manual/paths/invoke"
    query = f"api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig={TOKEN}"
    return MicrosoftTeamsWebhook(url=SecretStr(f"{flow}?{query}"))


def mattermost(server: Receiver) -> NotificationBlock:
    return MattermostWebhook(hostname="127.0.0.1", port=server.port, token=SecretStr(TOKEN))


def custom(server: Receiver) -> NotificationBlock:
    return CustomWebhookNotificationBlock(
        name="custom",
        url=f"{server.address}/notified?key={{{{key}}}}",
        json_data={"title": "{{subject}}", "text": "{{body}}"},
        secrets=SecretDict({"key": TOKEN}),
    )


def pager_duty(server: Receiver) -> NotificationBlock:
    return PagerDutyWebHook(integration_key=SecretStr("i" * 32), api_key=SecretStr(TOKEN))


def opsgenie(server: Receiver) -> NotificationBlock:
    return OpsgenieWebhook(apikey=SecretStr(TOKEN))


def sendgrid(server: Receiver) -> NotificationBlock:
    return SendgridEmail(
        api_key=SecretStr(TOKEN),
        sender_email="daybook@here.example",
        to_emails=["me@there.example"],
    )


def twilio(server: Receiver) -> NotificationBlock:
    return TwilioSMS(
        account_sid="AC" + "0" * 32,
        auth_token=SecretStr(TOKEN),
        from_phone_number="15551230000",
        to_phone_numbers=["15551230001"],
    )


def slack_says(request: Request) -> tuple[str, str]:
    body = json.loads(request.body)
    [attachment] = body["attachments"]
    assert body["mrkdwn"] is True
    return attachment["title"], attachment["text"]


def discord_says(request: Request) -> tuple[str, str]:
    body = json.loads(request.body)
    assert "allow_mentions" not in body
    title, _, text = body["content"].partition("\r\n")
    return title, text


def teams_says(request: Request) -> tuple[str, str]:
    body = json.loads(request.body)
    assert body["type"] == "message"
    [card] = body["attachments"]
    assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert card["content"]["type"] == "AdaptiveCard"
    title, text = [each for each in card["content"]["body"] if each["type"] == "TextBlock"]
    assert text["wrap"] is True
    return title["text"], text["text"]


def mattermost_says(request: Request) -> tuple[str, str]:
    title, _, text = json.loads(request.body)["text"].partition("\r\n")
    return title, text


def custom_says(request: Request) -> tuple[str, str]:
    body = json.loads(request.body)
    return body["title"], body["text"]


def pager_duty_says(request: Request) -> tuple[str, str]:
    body = json.loads(request.body)
    assert (body["routing_key"], body["event_action"]) == ("i" * 32, "trigger")
    payload = body["payload"]
    return payload["summary"].strip(), payload["custom_details"]["Prefect Notification Body"]


def opsgenie_says(request: Request) -> tuple[str, str]:
    assert request.headers["authorization"] == f"GenieKey {TOKEN}"
    body = json.loads(request.body)
    return body["message"], body["description"]


def sendgrid_says(request: Request) -> tuple[str, str]:
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    body = json.loads(request.body)
    assert body["personalizations"] == [{"to": [{"email": "me@there.example"}]}]
    [content] = body["content"]
    assert content["type"] == "text/html"
    assert set(re.findall("<[^>]*>", content["value"])) <= {"<br/>"}
    text = html.unescape(content["value"].replace("<br/>", "\n"))
    return body["subject"], text.replace("\xa0", " ")


def twilio_says(request: Request) -> tuple[str, str]:
    form = dict(parse_qsl(request.body.decode()))
    assert (form["From"], form["To"]) == ("+15551230000", "+15551230001")
    title, _, text = form["Body"].partition("\r\n")
    return title, text


@dataclass(frozen=True)
class Kind:
    """Kind of block: how to make one, what its service receives, and its length limit.

    If ``shared``, ``limit`` covers title and text together; None means no limit. ``rings`` marks a
    chat service, in which a text can mention people.
    """

    name: str
    make: Callable[[Receiver], NotificationBlock]
    path: str
    says: Callable[[Request], tuple[str, str]]
    limit: int | None
    shared: bool = False
    tls: bool = False
    status: int = 200
    body: bytes = b"ok"
    rings: bool = True
    form: str = "application/json"


KINDS = [
    Kind("slack", slack, f"/services/T0JJ3/B0TD4/{TOKEN}", slack_says, 35_000),
    Kind("discord", discord, f"/api/webhooks/4174216298/{TOKEN}", discord_says, 2_000, True),
    Kind("teams", teams, "/workflows/a1b2c3/triggers/manual/paths/invoke", teams_says, 1_000,
         tls=True, status=202),
    Kind("mattermost", mattermost, f"/hooks/{TOKEN}", mattermost_says, 4_000, True),
    Kind("pager duty", pager_duty, "/pagerduty", pager_duty_says, 32_768, status=202),
    Kind("opsgenie", opsgenie, "/opsgenie", opsgenie_says, 15_000,
         status=202, body=b'{"result": "Request will be processed", "requestId": "43a29c5c"}'),
    Kind("sendgrid", sendgrid, "/sendgrid", sendgrid_says, 32_768, status=202, rings=False),
    Kind("twilio", twilio, "/twilio", twilio_says, 160, True, status=201,
         form="application/x-www-form-urlencoded"),
    Kind("custom", custom, "/notified", custom_says, None, rings=False),
]  # fmt: skip


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
async def service(kind: Kind, endpoint: Receiver, https: Receiver, client: PrefectClient,
                  monkeypatch: pytest.MonkeyPatch) -> Receiver:  # fmt: skip
    """Return the server to which the channel `team`, a block of this kind, sends."""
    server = https if kind.tls else endpoint
    monkeypatch.setattr(NotifySlack, "webhook_url", f"{endpoint.address}/services")
    monkeypatch.setattr(NotifyDiscord, "notify_url", f"{endpoint.address}/api/webhooks")
    for host in PAGERDUTY_API_LOOKUP:
        monkeypatch.setitem(PAGERDUTY_API_LOOKUP, host, f"{endpoint.address}/pagerduty")
    for host in OPSGENIE_API_LOOKUP:
        monkeypatch.setitem(OPSGENIE_API_LOOKUP, host, f"{endpoint.address}/opsgenie")
    monkeypatch.setattr(NotifySendGrid, "notify_url", f"{endpoint.address}/sendgrid")
    monkeypatch.setattr(NotifyTwilio, "notify_sms_url", f"{endpoint.address}/twilio")
    server.steps = [answer(kind.status, kind.body)]
    await kind.make(server).asave("team", client=client)
    return server


@pytest.mark.slow
async def test_each_service_gets_the_message_in_its_format(
    kind: Kind, service: Receiver, client: PrefectClient
) -> None:
    text = "**All** is <well> & quiet.\n\n```\n  if x:\n```"
    await channels.send(client, row("team", text))

    [request] = service.requests
    assert (request.method, request.path.partition("?")[0]) == ("POST", kind.path)
    assert request.headers["content-type"].partition(";")[0] == kind.form
    title, full_text = kind.says(request)
    assert title == "morning-brief: succeeded"
    escaped = {"&": "&amp;", "<": "&lt;", ">": "&gt;"} if kind.name == "slack" else {}
    for sign, instead in escaped.items():
        text = text.replace(sign, instead)
    assert full_text == text


@pytest.mark.slow
async def test_a_long_message_is_cut_and_says_how_much_is_missing(
    kind: Kind, service: Receiver, client: PrefectClient
) -> None:
    assert len(LONG) == 40_000
    await channels.send(client, row("team", LONG), UI)

    [request] = service.requests
    title, text = kind.says(request)
    if kind.limit is None:
        assert text == LONG
        return
    assert kind.limit * 0.8 < len(text) + kind.shared * len(title) <= kind.limit
    head, _, last = text.rpartition("\n")
    assert LONG.startswith(f"{head}\n")  # whole lines
    missing = f"{len(LONG) - len(head):,}"
    where = f", or {UI}" if kind.limit > 200 else ""
    assert last == f"[… {missing} more characters: `daybook show 4f0c2a91d3e7`{where}]"


@pytest.mark.parametrize("status", [404, 500])
@pytest.mark.slow
async def test_an_error_status_is_a_temporary_failure_that_leaks_no_secret(
    kind: Kind,
    service: Receiver,
    client: PrefectClient,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    service.steps = [answer(status, b"no")]
    with pytest.raises(NotDelivered, match=str(status)) as failed:
        await channels.send(client, row("team"))

    assert failed.value.temporary
    assert len(service.requests) == 1  # only the outbox retries
    assert TOKEN not in str(failed.value) + caplog.text


@pytest.mark.slow
async def test_a_dropped_connection_is_a_failure_that_leaks_no_secret(
    kind: Kind, service: Receiver, client: PrefectClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def hangs_up(_: Any, writer: Any) -> None:
        writer.transport.abort()

    service.steps = [hangs_up]
    with pytest.raises(NotDelivered, match="team") as failed:
        await channels.send(client, row("team"))
    assert TOKEN not in str(failed.value) + caplog.text


@pytest.mark.slow
async def test_the_text_of_a_message_cannot_mention_people(
    kind: Kind, service: Receiver, client: PrefectClient
) -> None:
    text = "<!channel> <@U123> @everyone <@&77> !here>"
    await channels.send(client, row("team", text))
    _, full_text = kind.says(service.requests[0])
    if not kind.rings:
        assert full_text == text
        return
    for bell in ("<!channel>", "<@U123>", "@everyone", "<@&77>", "@here", "<!here>"):
        assert bell not in full_text


# --- names


@pytest.mark.slow
async def test_a_notification_block_is_a_channel_by_its_name(
    client: PrefectClient, endpoint: Receiver
) -> None:
    built_in = {"inbox": "inbox", "file": "file", "console": "console"}
    assert await channels.names(client) == built_in
    await custom(endpoint).asave("ops", client=client)
    await mattermost(endpoint).asave("team", client=client)
    assert await channels.names(client) == built_in | {
        "ops": "custom-webhook",
        "team": "mattermost-webhook",
    }
    await channels.check(client, "team", "")
    with pytest.raises(UnknownName, match="known: console, file, inbox, ops, team") as unknown:
        await channels.check(client, "nope", "")
    assert unknown.value.field == "channel"
    with pytest.raises(NotDelivered, match='unknown "nope"') as failed:
        await channels.send(client, row("nope"))
    assert failed.value.temporary  # the block may be created later


async def test_two_blocks_of_one_name_need_their_types_in_the_channel_name(
    client: PrefectClient, endpoint: Receiver
) -> None:
    for name in ("ops", "inbox"):
        await custom(endpoint).asave(name, client=client)
    await mattermost(endpoint).asave("ops", client=client)

    found = await channels.names(client)
    assert set(found) == {"inbox", "file", "console", "custom-webhook/inbox",
                          "custom-webhook/ops", "mattermost-webhook/ops"}  # fmt: skip
    with pytest.raises(Ambiguous, match=r"mattermost-webhook/ops"):
        await channels.check(client, "ops", "")
    await channels.send(client, row("mattermost-webhook/ops"))
    assert endpoint.requests[-1].path == f"/hooks/{TOKEN}"
    await channels.send(client, row("inbox"))
    await channels.send(client, row("custom-webhook/inbox"))
    assert [each.path.partition("?")[0] for each in endpoint.requests[1:]] == ["/notified"]


async def test_a_block_with_an_invalid_address_is_refused(client: PrefectClient) -> None:
    """Apprise only logs the problem, and then has no recipient."""
    await SlackWebhook(url=SecretStr(f"nonsense-{TOKEN}")).asave("team", client=client)
    with pytest.raises(InvalidInput, match='the block "team"') as refused:
        await channels.check(client, "team", "")
    with pytest.raises(NotDelivered, match='the block "team"') as failed:
        await channels.send(client, row("team"))
    assert TOKEN not in str(refused.value) + str(failed.value)


async def test_a_block_broken_in_prefect_is_reported_without_its_secret(
    client: PrefectClient, https: Receiver
) -> None:
    await teams(https).asave("team", client=client)
    document = await client.read_block_document_by_name(
        "team", "ms-teams-webhook", include_secrets=True
    )
    broken = {**document.data, "url": f"https://elsewhere.example/{TOKEN}"}
    await client.update_block_document(document.id, BlockDocumentUpdate(data=broken))
    with pytest.raises(NotDelivered, match="cannot be used") as failed:
        await channels.send(client, row("team"))
    assert TOKEN not in str(failed.value)
