"""The browsers that are logged in: listed, renamed, renewed when they are used, and revoked."""

from __future__ import annotations

import re
from datetime import timedelta

import httpx
import pytest

from daybook import api, feature
from daybook.features.devices import store
from daybook.features.devices.page import MESSAGES, PATH
from daybook.ledger.engine import sharing
from daybook.operations.login import LoginSession
from daybook.web import login
from daybook.web.live import LiveUpdates, _Stream
from daybook.web.login import Admitted, PageLogin
from tests import rows
from tests.unit.web.conftest import OWN, client, site_of
from tests.unit.web.submitting import Forms, post, submit
from tests.world import World

pytestmark = pytest.mark.anyio

PHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)


async def devices(world: World) -> list[store.Device]:
    with sharing(world.ledger):
        return await store.all_devices()


async def test_a_login_is_listed_with_its_name_renamed_and_revoked_at_once(
    world: World, server: PageLogin, browser: httpx.AsyncClient
) -> None:
    async with client(server) as phone:
        phone.headers["user-agent"] = PHONE
        assert (await phone.get(server.new_link())).status_code == 200
        assert (await phone.get("/")).status_code == 200
        page = (await browser.get(PATH)).text
        assert "Safari on iPhone" in page and page.count("this browser") == 1
        (of_phone,) = [each for each in await devices(world) if each.name == "Safari on iPhone"]

        rename = f"{PATH}/{of_phone.id}/rename"
        _, after = await submit(browser, PATH, rename, name="Maria's <b>phone</b>")
        assert after.status == MESSAGES["device-renamed"]
        assert "Maria&#39;s &lt;b&gt;phone" in (await browser.get(PATH)).text
        answer, _ = await submit(browser, PATH, rename, name="x" * 61)
        assert answer.status_code == 400

        await submit(browser, PATH, f"{PATH}/{of_phone.id}/revoke")
        refused = await phone.get("/")
        assert (refused.status_code, "was logged out" in refused.text) == (401, True)
        forms = Forms((await browser.get("/daybook/logout")).text).forms
        assert (await post(phone, "/daybook/logout", forms[0].fields)).status_code == 401
        assert len(await devices(world)) == 1
        assert (await browser.get("/")).status_code == 200
        answer = await post(browser, rename, forms[0].fields)
        assert answer.status_code == 404


async def test_logging_out_revokes_the_device_also_for_a_copy_of_its_cookie(
    world: World, server: PageLogin, browser: httpx.AsyncClient
) -> None:
    (form,) = Forms((await browser.get("/daybook/logout")).text).forms
    assert PATH in (await browser.get("/daybook/logout")).text
    (cookie,) = browser.cookies.jar
    copy = {"cookie": f"{cookie.name}={cookie.value}"}
    assert (await post(browser, "/daybook/logout", form.fields)).status_code == 200
    assert await devices(world) == []
    # After a restart, the server has forgotten the logouts, but not the devices.
    again = login.protect(server.application, 4280, site_of(server))
    async with client(again) as stolen:
        assert (await stolen.get("/", headers=copy)).status_code == 401


async def test_a_device_stays_logged_in_while_it_is_used_and_ends_after_thirty_days_without(
    world: World, server: PageLogin
) -> None:
    async with client(server) as browser:
        server._clock = lambda: world.clock.now().timestamp()
        assert (await browser.get(server.new_link())).status_code == 200
        (first,) = [str(each.value) for each in browser.cookies.jar]
        form = Forms((await browser.get("/jobs/new")).text).forms[0]
        for days in (0.5, 20, 20, 20):
            world.clock.move(timedelta(days=days))
            answer = await browser.get("/")
            assert answer.status_code == 200
            assert ("set-cookie" in answer.headers) == (days > 1)
        (last,) = [str(each.value) for each in browser.cookies.jar]
        assert last != first
        assert int(last.split(".")[0]) - world.clock.now().timestamp() == pytest.approx(
            30 * 86400, abs=2
        )
        (device,) = await devices(world)
        assert device.used_at == world.clock.now()
        # A form from before the renewal is still valid: its token does not depend on the expiry.
        csrf = dict(form.fields)[login.CSRF_FIELD]
        renewed = Forms((await browser.get("/jobs/new")).text).forms[0]
        assert dict(renewed.fields)[login.CSRF_FIELD] == csrf

        world.clock.move(timedelta(days=31))
        assert (await browser.get("/")).status_code == 401
        assert await store.delete_old(world.ledger, None) == 1  # type: ignore[arg-type]
        assert await store.delete_old(world.ledger, None) == 0  # type: ignore[arg-type]
        assert await devices(world) == []


async def test_a_revoked_device_loses_its_open_stream(
    world: World, server: PageLogin, browser: httpx.AsyncClient
) -> None:
    (device,) = await devices(world)
    with sharing(world.ledger):
        before = await api.changes.read()
        await store.remove(device.id)
        after = await api.changes.read()
    assert device.id in before.valid and device.id not in after.valid
    assert before.text == after.text

    async def read() -> object:
        return after

    updates = LiveUpdates(read)  # type: ignore[arg-type]
    session = LoginSession(f"{device.id}.local.", 0)
    for is_stored in (True, False):
        stream = _Stream(Admitted(session, lambda: True, is_stored))
        updates._streams = {stream}
        updates._publish(after.valid)
        assert stream.is_closed == is_stored
        updates._publish(None)


async def test_a_shared_link_is_no_device_and_does_not_see_them(
    world: World, server: PageLogin, browser: httpx.AsyncClient
) -> None:
    with sharing(world.ledger):
        link = (await api.tokens.share("hall")).url.removeprefix(OWN)
    async with client(server) as viewer:
        assert (await viewer.get(link)).status_code == 200
        assert (await viewer.get(PATH)).status_code == 403
        assert (await viewer.get("/")).status_code == 200
    assert len(await devices(world)) == 1


async def test_a_forged_or_changed_cookie_is_no_device(
    world: World, server: PageLogin, browser: httpx.AsyncClient
) -> None:
    (cookie,) = browser.cookies.jar
    expires, rest = str(cookie.value).split(".", 1)
    async with client(server) as thief:
        for value in (
            f"{int(expires) + 9}.{rest}",
            rest,
            f"{expires}.x{rest}",
            "",
            "....",
            "a.b.c.d.e",
        ):
            answer = await thief.get("/", headers={"cookie": f"{cookie.name}={value}"})
            assert answer.status_code == 401, value


async def test_without_the_feature_a_login_is_only_its_cookie(
    server: PageLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature, "loaded", lambda field: iter(()))
    site = site_of(server)
    site.__dict__.pop("devices", None)
    async with client(server) as browser:
        assert (await browser.get(server.new_link())).status_code == 200
        assert site.devices is None
        assert (await browser.get("/daybook/logout")).status_code == 200


def test_a_device_has_the_name_of_its_browser_and_system() -> None:
    table = (
        (PHONE, "Safari on iPhone"),
        (
            "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
            "Firefox on Linux",
        ),
        (
            "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0"
            " Mobile Safari/537.36",
            "Chrome on Android",
        ),
        ("python-httpx/0.27", "python-httpx"),
        ("", "a browser"),
        ("<script>alert(1)</script>", "scriptalert1"),
        ("x" * 5000, "x" * 60),
    )
    for (given, name), trying in rows.each(table):
        with trying:
            assert store.name_of(given) == name
            assert re.fullmatch(r"[\w./ -]+", name)
