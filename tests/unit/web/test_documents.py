"""The generated forms of settings documents: secrets are only written, for every kind."""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import sqlalchemy

from daybook.agents import base
from daybook.api import agents, channels
from daybook.features.conversations import operations as conversations
from daybook.features.hooks.documents import STORE as HOOKS
from daybook.keeper.blocks import BLOCK_TYPES
from daybook.ledger.tables import OutboxRow
from daybook.prefect import client as connection
from daybook.tools import server_blocks
from daybook.web.login import PageLogin
from daybook.web.pages.documents import DELETE, DocumentPages, Variant
from daybook.web.pages.forms import MESSAGES
from tests.unit.resources.prefect_blocks import FakePrefect, Steps
from tests.unit.web.conftest import site_of
from tests.unit.web.submitting import Forms, post, submit
from tests.world import World

pytestmark = pytest.mark.anyio

KEYS = {name: f"whsec_{name * 8}" for name in ("AAAA", "BBBB", "CCCC")}
"""Signing secrets in base64."""


@dataclass
class Example:
    """Valid fields of a new document, and a field with a value that is not valid.

    ``beginnings`` are those of valid secrets, by the name of the field.
    """

    fields: dict[str, str]
    wrong: tuple[str, str] = ("name", "No Name")
    secrets: tuple[str, str] = ("canary-one", "canary-two")
    edit: tuple[str, str] = ("", "")
    beginnings: Mapping[str, str] = field(default_factory=dict)

    def typed(self, variant: Variant, canary: str) -> dict[str, str]:
        """Return a value with the canary for each secret of the form."""
        names = [each.name for each in variant.secrets]
        return {name: f"{self.beginnings.get(name, '')}{canary}" for name in names}


EXAMPLES = {
    "/agents": Example({"model": "openai:small", "command": "/bin/cat"}, edit=("tools", "a b")),
    "/settings/servers": Example(
        {"command": "/bin/cat\n/tmp", "url": "http://127.0.0.1:9/mcp"}, edit=("read_only", '" "')
    ),
    "/settings/channels": Example(
        {}, secrets=("ntfys://canary-one", "ntfys://canary-two"), edit=("url", "canary")
    ),
    "/settings/destinations": Example(
        {"url": "http://127.0.0.1:9/callbacks"},
        secrets=(KEYS["AAAA"], KEYS["BBBB"]),
        edit=("timeout", "0"),
    ),
    "/settings/secrets": Example({"hosts": "api.example.org"}, edit=("hosts", "https://x")),
    "/settings/hooks": Example(
        {"job": "brief"}, secrets=(KEYS["AAAA"], KEYS["BBBB"]), edit=("rate", "0")
    ),
    "/settings/telegram": Example({}, edit=("api_url", "none"), beginnings={"token": "12345:"}),
    "/settings/slack": Example(
        {}, edit=("api_url", "none"), beginnings={"token": "xoxb-1-", "app_token": "xapp-1-"}
    ),
    "/settings/mail": Example(
        {
            "address": "daybook@example.org",
            "imap_host": "imap.example.org",
            "smtp_host": "smtp.example.org",
        },
        edit=("imap_host", "no host"),
    ),
}
"""An example for each kind; the test of all kinds fails for a kind that is missing here."""


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> FakePrefect:
    """Return a Prefect without documents."""
    fake = FakePrefect(BLOCK_TYPES, Steps())
    fake.register()

    class Connected:
        async def __aenter__(self) -> FakePrefect:
            return fake

        async def __aexit__(self, *_: object) -> None:
            pass

    async def nothing(*_: Any) -> None:
        pass

    monkeypatch.setattr(connection, "connected", lambda *_: Connected())
    monkeypatch.setattr(connection, "check_connection", nothing)
    monkeypatch.setattr(conversations, "try_account", tried)
    return fake


def kinds_of(server: PageLogin) -> list[DocumentPages]:
    return list(site_of(server).kinds)


def canaries(example: Example) -> tuple[str, ...]:
    return tuple(each.removeprefix("ntfys://") for each in example.secrets)


async def tried(*_: Any) -> conversations.TriedAccount:
    """Stand in for the messaging service, which accepts the account."""
    return conversations.TriedAccount("@bot", None)


async def test_no_secret_of_any_kind_comes_back_to_the_browser(
    world: World,
    server: PageLogin,
    browser: httpx.AsyncClient,
    prefect: FakePrefect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    await world.jobs.add("brief", on_demand=True)
    kinds = kinds_of(server)
    with_secrets = {
        kind.path for kind in kinds if any(variant.secrets for variant in kind.variants())
    }
    assert with_secrets == EXAMPLES.keys()
    written = 0
    for kind in kinds:
        for number, variant in enumerate(kind.variants()):
            if variant.secrets:
                name = f"new-{number}"
                await _write(browser, prefect, kind, variant, name)
                written += len(variant.secrets)
    assert written >= 7
    for example in EXAMPLES.values():
        for canary in canaries(example):
            assert canary not in caplog.text


async def _write(
    browser: httpx.AsyncClient,
    prefect: FakePrefect,
    kind: DocumentPages,
    variant: Variant,
    name: str,
) -> None:
    """Add and edit a document with secrets, each with a mistake first; no answer has a secret."""
    example = EXAMPLES[kind.path]
    first, second = example.secrets
    texts = list[str]()
    prefect.documents.clear()

    async def send(page: str, action: str, **typed: str) -> Forms:
        answer, after = await submit(browser, page, action, **typed)
        texts.append(answer.text)
        if answer.status_code == 303:
            texts.append((await browser.get(answer.headers["location"])).text)
        for form in after.forms:
            for secret in variant.secrets:
                assert dict(form.fields).get(secret.name, "") == ""
        return after

    new = f"{kind.path}/new?variant={variant.word}"
    names = {each.name for each in variant.fields}
    fields = {each: text for each, text in example.fields.items() if each in names}
    given = fields | example.typed(variant, first) | {"name": name}
    after = await send(new, f"{kind.path}/new", **{**given, example.wrong[0]: example.wrong[1]})
    assert after.invalid == [example.wrong[0]], (kind.path, after.problems)
    assert "Type it again" in texts[-1]
    assert not any(first in str(each) for each in prefect.holds().values())

    after = await send(new, f"{kind.path}/new", **given)
    assert MESSAGES["document-added"] in after.status, (kind.path, texts[0])
    assert any(first in str(each) for each in prefect.holds().values())
    if own := [each for each in variant.secrets if each not in variant.more_secrets]:
        (ref,) = {
            form.action.removeprefix(f"{kind.path}/").removesuffix("/edit")
            for form in after.forms
            if form.action.endswith("/edit")
        }
        page = kind.address(ref)
        field, wrong = example.edit
        typed = example.typed(variant, second)
        again = {each.name: typed[each.name] for each in own}
        after = await send(page, page, **{**again, field: wrong})
        assert after.invalid == [field], (kind.path, after.problems)
        assert not any(second in str(each) for each in prefect.holds().values())
        await send(page, page, **again)
        assert any(second in str(each) for each in prefect.holds().values())
        await send(page, page)  # empty fields keep what is stored
        assert any(second in str(each) for each in prefect.holds().values())
        deleted = {f"{DELETE}{each.name}": "true" for each in own if each.can_be_empty}
        if deleted:
            form = next(
                each for each in Forms((await browser.get(page)).text).forms if each.action == page
            )
            assert (await post(browser, page, [*form.fields, *deleted.items()])).status_code == 303
            assert not any(second in str(each) for each in prefect.holds().values())
        texts.append((await browser.get(page)).text)
    for path in (kind.path, "/settings", "/start"):
        texts.append((await browser.get(path)).text)
    for canary in canaries(example):
        for text in texts:
            assert canary not in text, (kind.path, variant.word)


async def test_a_form_that_is_sent_twice_adds_one_document_and_shows_its_new_secret_once(
    world: World, browser: httpx.AsyncClient, prefect: FakePrefect
) -> None:
    await world.jobs.add("brief", on_demand=True)
    page = "/settings/hooks/new"
    (form,) = Forms((await browser.get(page)).text).forms
    typed = {"name": "pulls", "job": "brief"}
    fields = [(name, typed.get(name, value)) for name, value in form.fields]
    answers = [await post(browser, page, fields) for _ in range(2)]
    assert [each.status_code for each in answers] == [303, 303]
    (data,) = prefect.holds().values()
    secret = data["secret"]
    assert secret.startswith("whsec_")
    after = answers[1].headers["location"]
    assert after.startswith("/settings/hooks/pulls/edit?")
    assert secret in (await browser.get(after)).text
    assert secret not in (await browser.get(after)).text
    other = [(name, {"rate": "7"}.get(name, value)) for name, value in fields]
    assert (await post(browser, page, other)).status_code == 400  # this is another form
    assert prefect.holds() == {(HOOKS.slug, "pulls"): data}


@pytest.mark.parametrize(
    ("page", "slug", "data"),
    [
        ("/settings/hooks", HOOKS.slug, {"job": "none", "scheme": "standard"}),
        ("/settings/destinations", "daybook-destination", {"url": "http://127.0.0.1:9/a"}),
    ],
    ids=["hook", "destination"],
)
async def test_a_rotated_secret_is_shown_once_and_the_old_one_stays_valid_for_a_day(
    browser: httpx.AsyncClient, prefect: FakePrefect, page: str, slug: str, data: dict[str, Any]
) -> None:
    prefect.ui(slug, "ops", **data, secret=KEYS["AAAA"])
    edit, rotate = f"{page}/ops/edit", f"{page}/ops/rotate"

    first = (await browser.get(edit)).text
    form = next(each for each in Forms(first).forms if each.action == rotate)
    answer = await post(browser, rotate, form.fields)
    stored = prefect.holds()[slug, "ops"]
    assert stored["previous_secret"] == KEYS["AAAA"]
    assert stored["secret"].startswith("whsec_") and stored["secret"] != KEYS["AAAA"]
    after, again = [(await browser.get(answer.headers["location"])).text for _ in range(2)]
    assert MESSAGES["secret-rotated"] in after
    assert stored["secret"] in after and stored["secret"] not in again
    assert KEYS["AAAA"] not in after

    answer, refused = await submit(browser, edit, rotate)
    assert answer.status_code == 400
    assert "the previous secret is still valid" in "".join(refused.problems.values())
    assert prefect.holds()[slug, "ops"] == stored

    form = next(each for each in Forms(again).forms if each.action == rotate)
    done = await post(browser, rotate, [*form.fields, ("at_once", "true")])
    assert done.status_code == 303
    assert prefect.holds()[slug, "ops"]["previous_secret"] == ""


async def test_a_typed_new_secret_of_a_hook_does_not_come_back(
    browser: httpx.AsyncClient, prefect: FakePrefect
) -> None:
    """The sender makes the secrets of Stripe."""
    prefect.ui(HOOKS.slug, "pay", job="none", scheme="stripe", secret="whsec_the_old_secret")
    edit, rotate = "/settings/hooks/pay/edit", "/settings/hooks/pay/rotate"
    answer, after = await submit(browser, edit, rotate)
    assert (answer.status_code, after.invalid) == (400, ["new_secret"])
    answer, after = await submit(browser, edit, rotate, new_secret="whsec_canary_the_new_one")
    assert answer.status_code == 303
    stored = prefect.holds()[HOOKS.slug, "pay"]
    assert (stored["secret"], stored["previous_secret"]) == (
        "whsec_canary_the_new_one",
        "whsec_the_old_secret",
    )
    page = (await browser.get(answer.headers["location"])).text
    assert "canary" not in page and "canary" not in after.status
    assert "Old secret valid until" in page


async def test_another_users_edit_is_shown_and_not_overwritten(
    browser: httpx.AsyncClient, prefect: FakePrefect
) -> None:
    page, slug = "/settings/destinations/ops/edit", "daybook-destination"
    data = {"url": "http://127.0.0.1:9/a", "secret": KEYS["AAAA"], "tries": 3}
    prefect.ui(slug, "ops", **data)
    form = next(each for each in Forms((await browser.get(page)).text).forms if each.action == page)
    prefect.ui(slug, "ops", **{**data, "tries": 5})
    typed = {"timeout": "9", "secret": KEYS["BBBB"]}
    fields = [(name, typed.get(name, value)) for name, value in form.fields]
    answer = await post(browser, page, fields)
    assert answer.status_code == 400
    assert "ops was changed meanwhile" in answer.text
    assert "<del>3</del><ins>5</ins>" in answer.text
    assert KEYS["BBBB"] not in answer.text
    assert prefect.holds()[slug, "ops"]["secret"] == KEYS["AAAA"]


async def test_a_known_server_stores_its_token_for_its_host_only(
    browser: httpx.AsyncClient, prefect: FakePrefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, new = "/settings/servers/new?variant=github", "/settings/servers/new"
    given = {"name": "github", "preset_token": "canary-token", "url": "http://127.0.0.1:9/mcp"}
    _, after = await submit(browser, page, new, **given)
    assert MESSAGES["document-added"] in after.status
    assert prefect.holds()["daybook-secret", "github"] == {
        "value": "canary-token",
        "hosts": ["127.0.0.1:9"],
    }
    server = prefect.holds()["daybook-tool-server", "github"]
    assert server["headers"] == {"Authorization": "Bearer {{secret:github}}"}
    assert "canary" not in str(server)
    answer, after = await submit(browser, page, new, **{**given, "name": "other"})
    assert (answer.status_code, after.invalid) == (400, ["preset_token"])
    assert ("daybook-tool-server", "other") not in prefect.holds()


async def test_a_known_server_needs_its_folder(
    browser: httpx.AsyncClient, prefect: FakePrefect
) -> None:
    page = "/settings/servers/new?variant=filesystem"
    answer, after = await submit(browser, page, "/settings/servers/new", name="papers")
    assert (answer.status_code, after.invalid) == (400, ["command"])
    assert not prefect.holds()


async def test_a_server_cannot_have_the_name_of_tools_of_daybook(
    browser: httpx.AsyncClient, prefect: FakePrefect
) -> None:
    page, new = "/settings/servers/new?variant=memory", "/settings/servers/new"
    (form,) = (each for each in Forms((await browser.get(page)).text).forms if each.action == new)
    assert dict(form.fields)["name"] == "memory-server"
    for name in ("memory", "mailbox", "daybook"):
        answer, after = await submit(browser, page, new, name=name)
        assert (answer.status_code, after.invalid) == (400, ["name"])
        assert f"choose another, such as {name}-server" in answer.text
    assert not prefect.holds()
    assert server_blocks.OWN_TOOLS == base.OWN_TOOLS


async def test_a_channel_is_tested_and_a_failure_is_shown(
    world: World, browser: httpx.AsyncClient, prefect: FakePrefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "/settings/channels/inbox/edit"
    answer, after = await submit(browser, page, "/settings/channels/inbox/test")
    assert "The test succeeded" in after.status
    async with world.ledger.read() as session:
        (sent,) = (await session.execute(sqlalchemy.select(OutboxRow))).scalars()
    assert sent.body == channels.TEST_TEXT
    prefect.ui("daybook-channel", "phone", url="json://127.0.0.1:9/canary-path")
    page = "/settings/channels/phone"
    answer, after = await submit(browser, f"{page}/edit", f"{page}/test")
    assert answer.status_code == 500
    assert "canary-path" not in answer.text
    assert after.problems[""]


async def test_the_page_settings_counts_the_documents_and_says_what_is_wrong(
    browser: httpx.AsyncClient, prefect: FakePrefect
) -> None:
    prefect.ui("daybook-secret", "fine", value="x", hosts=["a.example.org"])
    prefect.ui("daybook-secret", "broken", value="x", hosts=[])
    text = (await browser.get("/settings")).text
    assert "does not work: broken" in text
    assert '<p class="fix">2</p>' in text


async def test_the_first_steps_add_the_default_agent_and_return(
    browser: httpx.AsyncClient, prefect: FakePrefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: Any) -> None:
        pass

    monkeypatch.setattr(agents, "_check_tools", nothing)
    prefect.ui("daybook-offline-agent", "default")
    given = {"model": "openai:small", "api_key": "canary-key"}
    answer, _ = await submit(browser, "/start", "/agents/new", **given)
    assert answer.headers["location"].startswith("/start?")
    stored = prefect.holds()
    assert stored.keys() == {("daybook-model-agent", "default")}
    agent = stored["daybook-model-agent", "default"]
    assert agent["api_key"] == "canary-key"
    assert agent["tools"] == agents.first_tools() != []
    text = (await browser.get("/start")).text
    assert "canary-key" not in text
    assert "/agents/daybook-model-agent/default/edit" in text
    assert not [each for each in Forms(text).forms if each.action == "/agents/new"]
    for word in ("telegram", "slack", "mail"):
        assert f'href="/settings/{word}/new?from=/start"' in text


async def test_the_login_leads_to_the_first_steps_until_there_is_a_job(
    world: World, server: PageLogin, browser: httpx.AsyncClient
) -> None:
    assert 'url=/start"' in (await browser.get(server.new_link())).text
    await world.jobs.add("brief")
    assert 'url=/"' in (await browser.get(server.new_link())).text


async def test_an_account_is_listed_without_a_problem_of_its_hidden_token(
    world: World, browser: httpx.AsyncClient, prefect: FakePrefect
) -> None:
    page = "/settings/telegram"
    await submit(browser, f"{page}/new", f"{page}/new", token="12345:canary")
    listed = (await browser.get(page)).text
    assert ">telegram</a>" in listed  # the name that the form suggests
    assert "wrong" not in listed.partition("<tbody>")[2]
    prefect.ui("daybook-telegram", "telegram", token="canary", agent="default")
    listed = (await browser.get(page)).text
    assert "is not a bot" in listed.partition("<tbody>")[2] and "canary" not in listed


async def test_the_form_of_a_slack_app_has_the_manifest_to_copy(
    world: World, browser: httpx.AsyncClient, prefect: FakePrefect
) -> None:
    text = (await browser.get("/settings/slack/new")).text
    (shown,) = re.findall(r'<pre[^>]* id="paste">(.*?)</pre>', text, re.DOTALL)
    assert json.loads(html.unescape(shown))["settings"]["socket_mode_enabled"] is True
    assert 'data-copy="paste" hidden>Copy</button>' in text
    assert '<a href="https://api.slack.com/apps" rel="noreferrer">' in text
    assert 'id="paste"' not in (await browser.get("/settings/telegram/new")).text
