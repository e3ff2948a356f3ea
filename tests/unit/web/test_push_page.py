"""The page on which a browser subscribes to notifications."""

from __future__ import annotations

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from daybook import api
from daybook.features.push import encryption, store
from daybook.features.push.page import MESSAGES, PATH
from daybook.ledger.engine import sharing
from daybook.web.login import PageLogin
from tests.unit.web.conftest import OWN, client
from tests.unit.web.submitting import Forms, post, submit
from tests.world import World

pytestmark = pytest.mark.anyio


async def test_a_browser_subscribes_and_its_subscription_is_removed(
    world: World, server: PageLogin, browser: httpx.AsyncClient
) -> None:
    (form,) = Forms((await browser.get(PATH)).text).forms
    key = encryption.encode(encryption.public_bytes(ec.generate_private_key(ec.SECP256R1())))
    sent = {"endpoint": "https://push.example.org/s3cr3t", "public_key": key}
    sent["auth"] = encryption.encode(b"x" * 16)
    refused = await post(browser, PATH, form.fields)
    assert refused.status_code == 400
    fields = [(name, sent.get(name, value)) for name, value in form.fields]
    assert (await post(browser, PATH, fields)).status_code == 303
    page = (await browser.get(PATH)).text
    assert "push.example.org" in page and "s3cr3t" not in page and key not in page
    with sharing(world.ledger):
        (found,) = await store.subscriptions()
        link = (await api.tokens.share("hall")).url.removeprefix(OWN)
    async with client(server) as viewer:
        await viewer.get(link)
        assert (await viewer.get(PATH)).status_code == 403
    _, after = await submit(browser, PATH, f"{PATH}/{found.id}/remove")
    assert after.status == MESSAGES["push-off"]
    with sharing(world.ledger):
        assert await store.subscriptions() == []


async def test_the_worker_serves_the_whole_site_and_is_never_stale(
    browser: httpx.AsyncClient,
) -> None:
    worker = await browser.get("/static/sw.js")
    assert worker.headers["service-worker-allowed"] == "/"
    assert worker.headers["cache-control"] == "no-cache"
    manifest = await browser.get("/static/manifest.webmanifest")
    assert manifest.headers["content-type"] == "application/manifest+json"
    assert "manifest-src 'self'" in (await browser.get("/")).headers["content-security-policy"]
