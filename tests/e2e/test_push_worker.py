"""The service worker in Chromium: a push shows a notification with the page to open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from daybook.features.push.page import PATH
from daybook.ledger.engine import Ledger
from tests.e2e.browsers import NEEDS_CHROMIUM, Watched, serving, started_chromium

pytestmark = [pytest.mark.e2e, pytest.mark.slow, NEEDS_CHROMIUM]


async def nothing(ledger: Ledger) -> None:
    """Leave the ledger empty."""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """Yield a logged-in page with the permission to show notifications."""
    with ExitStack() as stack:
        served = stack.enter_context(serving(tmp_path, nothing))
        context = stack.enter_context(started_chromium()).new_context()
        context.grant_permissions(["notifications"], origin=served.url)
        watched = Watched(context, served.url)
        watched.page.goto(served.link)
        watched.open(PATH)
        yield watched.page


def test_a_pushed_message_is_a_notification_that_names_its_page(page: Any) -> None:
    page.evaluate("navigator.serviceWorker.register('/static/sw.js', { scope: '/' })")
    page.evaluate("navigator.serviceWorker.ready.then(() => 1)")
    client = page.context.new_cdp_session(page)
    registrations: list[dict[str, Any]] = []
    client.on(
        "ServiceWorker.workerRegistrationUpdated",
        lambda event: registrations.extend(event["registrations"]),
    )
    client.send("ServiceWorker.enable")
    page.wait_for_function("navigator.serviceWorker.ready.then((each) => each.active !== null)")
    assert [each["scopeURL"] for each in registrations] == [page.url.removesuffix(PATH) + "/"]
    message = {"title": "brief: failed", "tag": "m1", "path": "/runs/r1"}
    shown = "navigator.serviceWorker.ready.then((each) => each.getNotifications())"
    for body in ("no network", "no network, twice"):  # the second one replaces the first
        client.send(
            "ServiceWorker.deliverPushMessage",
            {
                "origin": page.url.removesuffix(PATH),
                "registrationId": registrations[0]["registrationId"],
                "data": json.dumps(message | {"body": body}),
            },
        )
        is_last = f"all.at(-1)?.body === {json.dumps(body)}"
        page.wait_for_function(f"{shown}.then((all) => {is_last})")
    fields = "({ title, body, tag, data }) => [title, body, tag, data]"
    (found,) = page.evaluate(f"{shown}.then((all) => all.map({fields}))")
    assert found == ["brief: failed", "no network, twice", "m1", {"path": "/runs/r1"}]


def test_a_browser_that_cannot_subscribe_says_why(page: Any) -> None:
    """This Chromium has no push service, as one without a network."""
    page.get_by_role("button", name="Notify this browser").click()
    page.wait_for_selector("#push-problem:not([hidden])")
    assert page.locator("#push-problem").text_content()
    assert page.url.endswith(PATH)
