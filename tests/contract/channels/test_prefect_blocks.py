"""Prefect's notification blocks as channels: each kind, to a server that speaks as its service.

Where a block fixes the host (Slack, Discord), apprise's plugin is pointed at the server here; the
block, and all that it does, is Prefect's.
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
        url=f"{server.address}/told?key={{{{key}}}}",
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


def slack_says(seen: Request) -> tuple[str, str]:
    body = json.loads(seen.body)
    [told] = body["attachments"]
    assert body["mrkdwn"] is True
    return told["title"], told["text"]


def discord_says(seen: Request) -> tuple[str, str]:
    body = json.loads(seen.body)
    assert "allow_mentions" not in body
    title, _, text = body["content"].partition("\r\n")
    return title, text


def teams_says(seen: Request) -> tuple[str, str]:
    body = json.loads(seen.body)
    assert body["type"] == "message"
    [card] = body["attachments"]
    assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert card["content"]["type"] == "AdaptiveCard"
    title, text = [each for each in card["content"]["body"] if each["type"] == "TextBlock"]
    assert text["wrap"] is True
    return title["text"], text["text"]


def mattermost_says(seen: Request) -> tuple[str, str]:
    title, _, text = json.loads(seen.body)["text"].partition("\r\n")
    return title, text


def custom_says(seen: Request) -> tuple[str, str]:
    body = json.loads(seen.body)
    return body["title"], body["text"]


def pager_duty_says(seen: Request) -> tuple[str, str]:
    body = json.loads(seen.body)
    assert (body["routing_key"], body["event_action"]) == ("i" * 32, "trigger")
    payload = body["payload"]
    return payload["summary"].strip(), payload["custom_details"]["Prefect Notification Body"]


def opsgenie_says(seen: Request) -> tuple[str, str]:
    assert seen.headers["authorization"] == f"GenieKey {TOKEN}"
    body = json.loads(seen.body)
    return body["message"], body["description"]


def sendgrid_says(seen: Request) -> tuple[str, str]:
    assert seen.headers["authorization"] == f"Bearer {TOKEN}"
    body = json.loads(seen.body)
    assert body["personalizations"] == [{"to": [{"email": "me@there.example"}]}]
    [content] = body["content"]
    assert content["type"] == "text/html"
    assert set(re.findall("<[^>]*>", content["value"])) <= {"<br/>"}
    text = html.unescape(content["value"].replace("<br/>", "\n"))
    return body["subject"], text.replace("\xa0", " ")


def twilio_says(seen: Request) -> tuple[str, str]:
    form = dict(parse_qsl(seen.body.decode()))
    assert (form["From"], form["To"]) == ("+15551230000", "+15551230001")
    title, _, text = form["Body"].partition("\r\n")
    return title, text


@dataclass(frozen=True)
class Kind:
    """A kind of block: how one is made, what its service is sent, and how much it takes.

    ``limit`` is for title and text together where ``shared``; None is as much as there is.
    ``rings`` says that it is a chat, in which a text can call people.
    """

    name: str
    make: Callable[[Receiver], NotificationBlock]
    path: str
    says: Callable[[Request], tuple[str, str]]
    limit: int | None
    shared: bool = False
    tls: bool = False
    took: int = 200
    body: bytes = b"ok"
    rings: bool = True
    form: str = "application/json"


KINDS = [
    Kind("slack", slack, f"/services/T0JJ3/B0TD4/{TOKEN}", slack_says, 35_000),
    Kind("discord", discord, f"/api/webhooks/4174216298/{TOKEN}", discord_says, 2_000, True),
    Kind("teams", teams, "/workflows/a1b2c3/triggers/manual/paths/invoke", teams_says, 1_000,
         tls=True, took=202),
    Kind("mattermost", mattermost, f"/hooks/{TOKEN}", mattermost_says, 4_000, True),
    Kind("pager duty", pager_duty, "/pagerduty", pager_duty_says, 32_768, took=202),
    Kind("opsgenie", opsgenie, "/opsgenie", opsgenie_says, 15_000,
         took=202, body=b'{"result": "Request will be processed", "requestId": "43a29c5c"}'),
    Kind("sendgrid", sendgrid, "/sendgrid", sendgrid_says, 32_768, took=202, rings=False),
    Kind("twilio", twilio, "/twilio", twilio_says, 160, True, took=201,
         form="application/x-www-form-urlencoded"),
    Kind("custom", custom, "/told", custom_says, None, rings=False),
]  # fmt: skip


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
async def service(kind: Kind, endpoint: Receiver, https: Receiver, client: PrefectClient,
                  monkeypatch: pytest.MonkeyPatch) -> Receiver:  # fmt: skip
    """The server that the channel `team`, a block of the kind, sends to."""
    here = https if kind.tls else endpoint
    monkeypatch.setattr(NotifySlack, "webhook_url", f"{endpoint.address}/services")
    monkeypatch.setattr(NotifyDiscord, "notify_url", f"{endpoint.address}/api/webhooks")
    for host in PAGERDUTY_API_LOOKUP:
        monkeypatch.setitem(PAGERDUTY_API_LOOKUP, host, f"{endpoint.address}/pagerduty")
    for host in OPSGENIE_API_LOOKUP:
        monkeypatch.setitem(OPSGENIE_API_LOOKUP, host, f"{endpoint.address}/opsgenie")
    monkeypatch.setattr(NotifySendGrid, "notify_url", f"{endpoint.address}/sendgrid")
    monkeypatch.setattr(NotifyTwilio, "notify_sms_url", f"{endpoint.address}/twilio")
    here.steps = [answer(kind.took, kind.body)]
    await kind.make(here).asave("team", client=client)
    return here


@pytest.mark.slow
async def test_the_service_is_sent_what_it_understands(
    kind: Kind, service: Receiver, client: PrefectClient
) -> None:
    text = "**All** is <well> & quiet.\n\n```\n  if x:\n```"
    await channels.send(client, row("team", text))

    [seen] = service.requests
    assert (seen.method, seen.path.partition("?")[0]) == ("POST", kind.path)
    assert seen.headers["content-type"].partition(";")[0] == kind.form
    title, said = kind.says(seen)
    assert title == "morning-brief: succeeded"
    escaped = {"&": "&amp;", "<": "&lt;", ">": "&gt;"} if kind.name == "slack" else {}
    for sign, instead in escaped.items():
        text = text.replace(sign, instead)
    assert said == text


@pytest.mark.slow
async def test_a_long_message_is_one_and_says_how_much_is_missing(
    kind: Kind, service: Receiver, client: PrefectClient
) -> None:
    assert len(LONG) == 40_000
    await channels.send(client, row("team", LONG), UI)

    [seen] = service.requests
    title, said = kind.says(seen)
    if kind.limit is None:
        assert said == LONG
        return
    assert kind.limit * 0.8 < len(said) + kind.shared * len(title) <= kind.limit
    kept, _, told = said.rpartition("\n")
    assert LONG.startswith(f"{kept}\n")  # whole lines
    missing = f"{len(LONG) - len(kept):,}"
    where = f", or {UI}" if kind.limit > 200 else ""
    assert told == f"[… {missing} more characters: `daybook show 4f0c2a91d3e7`{where}]"


@pytest.mark.parametrize("status", [404, 500])
@pytest.mark.slow
async def test_a_failure_is_a_failure_and_tells_no_secret(
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
    assert len(service.requests) == 1  # who tries again is the outbox
    assert TOKEN not in str(failed.value) + caplog.text


@pytest.mark.slow
async def test_an_endpoint_that_is_away_is_a_failure(
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
async def test_nobody_is_rung_by_what_a_model_wrote(
    kind: Kind, service: Receiver, client: PrefectClient
) -> None:
    text = "<!channel> <@U123> @everyone <@&77> !here>"
    await channels.send(client, row("team", text))
    _, said = kind.says(service.requests[0])
    if not kind.rings:
        assert said == text
        return
    for bell in ("<!channel>", "<@U123>", "@everyone", "<@&77>", "@here", "<!here>"):
        assert bell not in said


# --- names


@pytest.mark.slow
async def test_a_block_is_a_channel_by_its_name(client: PrefectClient, endpoint: Receiver) -> None:
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
    assert failed.value.temporary  # it may be made


async def test_two_blocks_of_one_name_are_told_apart_by_their_types(
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
    assert [each.path.partition("?")[0] for each in endpoint.requests[1:]] == ["/told"]


async def test_a_block_with_an_address_that_is_none_says_so_at_once(client: PrefectClient) -> None:
    """Apprise only logs it, and then has nobody to notify."""
    await SlackWebhook(url=SecretStr(f"nonsense-{TOKEN}")).asave("team", client=client)
    with pytest.raises(InvalidInput, match='the block "team"') as refused:
        await channels.check(client, "team", "")
    with pytest.raises(NotDelivered, match='the block "team"') as failed:
        await channels.send(client, row("team"))
    assert TOKEN not in str(refused.value) + str(failed.value)


async def test_a_block_that_was_broken_in_prefect_says_so(
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
