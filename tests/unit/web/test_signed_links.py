"""The signed link of an approval: who knows it decides this one approval, once, in time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from sqlmodel import col, select

from daybook.api import tokens
from daybook.delivery import links as message_links
from daybook.features.approvals import links
from daybook.home import Home
from daybook.ledger.engine import sharing
from daybook.ledger.tables import ApprovalRow, OutboxRow
from daybook.operations import peers
from daybook.runs import approvals, claims
from daybook.runs.approvals import Question
from daybook.web import login, pages
from daybook.web.login import CSRF_FIELD, MAX_FORM_BYTES, PageLogin
from tests.unit.web.conftest import OWN, no_health
from tests.unit.web.submitting import Forms, post
from tests.unit.web.test_public_url import PUBLIC, browser_of
from tests.world import World

pytestmark = pytest.mark.anyio

MAIL = Question("1.1", "d" * 64, 0, "mail_send", 'to="<b>ann</b>"', timedelta(hours=1))
TEAM = {"channel": "team"}


@pytest.fixture
async def server(
    world: World, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PageLogin]:
    """Yield the pages with a public URL. Requests come from another user, as those of a proxy."""
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", PUBLIC)
    monkeypatch.setattr(peers, "is_another_user", lambda scope: True)
    application = pages.application(no_health, world.ledger)
    yield login.protect(application, 4280, application.state.site)
    await application.state.site.close()


@pytest.fixture
async def stranger(server: PageLogin) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a browser outside of this machine that is not logged in."""
    async with browser_of(server) as found:
        yield found


async def asked(world: World, name: str = "brief") -> str:
    job = await world.jobs.add(name, on_demand=True, notify=TEAM)
    granted = await world.runs.running(await world.runs.request(job))
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, MAIL)
    return granted.run_id


async def messages(world: World, run_id: str) -> list[OutboxRow]:
    async with world.ledger.read() as session:
        of_run = select(OutboxRow).where(col(OutboxRow.run_id) == run_id)
        return list((await session.execute(of_run)).scalars())


async def link_of(world: World, run_id: str, number: int = 1) -> str:
    """Return the path of the link that the message about an approval has."""
    (row,) = [
        each
        for each in await messages(world, run_id)
        if each.key == approvals.message_key(run_id, number)
    ]
    assert links.PATH not in row.body  # the ledger and the pages do not have it
    async with world.ledger.read() as session:
        (line,) = await message_links.read(session, row)
    assert "anyone with this link can" in line
    assert line.count(PUBLIC) == 1
    return line.partition(PUBLIC)[2]


async def approval(world: World, run_id: str, number: int = 1) -> ApprovalRow:
    async with world.ledger.read() as session:
        return (await approvals.of_run(session, run_id))[number - 1]


async def is_open(world: World, run_id: str) -> bool:
    return (await approval(world, run_id)).status == "open"


async def press(
    browser: httpx.AsyncClient, path: str, decision: str = "approve", **typed: str
) -> tuple[httpx.Response, Forms]:
    headers = {"origin": PUBLIC, "sec-fetch-site": "same-origin"}
    forms = Forms((await browser.get(path)).text).forms
    (form,) = [each for each in forms if ("decision", decision) in each.fields]
    fields = [(name, typed.get(name, value)) for name, value in form.fields]
    answer = await post(browser, form.action, fields, headers)
    page = answer if answer.status_code != 303 else await browser.get(answer.headers["location"])
    return answer, Forms(page.text)


@pytest.mark.parametrize("decision", ["approve", "reject"])
async def test_a_stranger_with_the_link_decides_once_and_reads_who_decided(
    world: World, stranger: httpx.AsyncClient, decision: str
) -> None:
    run_id = await asked(world)
    path = await link_of(world, run_id)
    page = await stranger.get(path)
    assert page.status_code == 200
    for text in ("mail_send", "&lt;b&gt;ann", "brief", "Anyone with this link can decide"):
        assert text in page.text
    assert "Jobs" not in page.text  # it links no page that needs a login
    assert page.headers["referrer-policy"] == "same-origin"  # other sites do not get the address
    assert "set-cookie" not in page.headers

    typed = {"reason": "No <i>."} if decision == "reject" else {}
    answer, after = await press(stranger, path, decision, **typed)
    assert answer.status_code == 303
    assert after.forms == []
    row = await approval(world, run_id)
    status = "approved" if decision == "approve" else "rejected"
    assert (row.status, row.decided_by, row.reason) == (
        *(status, "link in team", typed.get("reason", "")),
    )
    text = (await stranger.get(path)).text
    assert f"It was {status}" in text and "by link in team" in text and "<i>" not in text


async def test_a_mail_scanner_decides_nothing(world: World, stranger: httpx.AsyncClient) -> None:
    run_id = await asked(world)
    path = await link_of(world, run_id)
    cross = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    for method in ("GET", "HEAD", "GET"):
        for query in ("", "?decision=approve", "?done=decided"):
            answer = await stranger.request(method, path + query, headers=cross)
            assert answer.status_code == 200
    for method in ("OPTIONS", "PUT", "DELETE", "PATCH"):
        assert (await stranger.request(method, path)).status_code in (403, 405)
    assert await is_open(world, run_id)


async def test_a_reused_link_and_one_decided_elsewhere_say_who_decided(
    world: World, stranger: httpx.AsyncClient
) -> None:
    run_id = await asked(world)
    path = await link_of(world, run_id)
    forms = Forms((await stranger.get(path)).text).forms
    (approve,) = [each for each in forms if ("decision", "approve") in each.fields]
    await claims.decide_approval(
        world.ledger, run_id, 1, approve=False, by="maria (cli)", reason="wrong"
    )
    late = await post(stranger, path, approve.fields, {"origin": PUBLIC})
    assert late.status_code == 400 and "rejected by maria (cli): wrong" in late.text
    assert (await approval(world, run_id)).status == "rejected"
    text = (await stranger.get(path)).text
    assert "by maria (cli): wrong" in text and "<form" not in text


async def test_after_the_deadline_a_link_decides_nothing(
    world: World, stranger: httpx.AsyncClient
) -> None:
    run_id = await asked(world)
    path = await link_of(world, run_id)
    (form, *_) = Forms((await stranger.get(path)).text).forms
    world.clock.move(timedelta(hours=1))
    answer = await post(stranger, path, form.fields, {"origin": PUBLIC})
    assert answer.status_code == 400
    assert await is_open(world, run_id)  # the claim closes it
    text = (await stranger.get(path)).text
    assert "No person decided until" in text and "<form" not in text


async def test_a_link_decides_no_other_approval_and_no_later_one(
    world: World, stranger: httpx.AsyncClient
) -> None:
    first, other = await asked(world), await asked(world, "other")
    path = await link_of(world, first)
    await press(stranger, path)
    again = await world.runs.running(await world.runs.row(first))
    second = replace(MAIL, position="2.1", after=3)
    await claims.wait_for_approval(world.ledger, first, again.fence, second)
    (form, *_) = Forms((await stranger.get(await link_of(world, other))).text).forms

    later = await link_of(world, first, 2)
    for target in (path, later):  # with the form of the other link
        assert (await post(stranger, target, form.fields, {"origin": PUBLIC})).status_code == 403
    assert (await stranger.get(path)).text.count("It was approved") == 1
    assert (await approval(world, first, 2)).status == "open"
    assert await is_open(world, other)
    now = world.clock.now()
    for run_id, number, deadline in (
        (first, 3, now),
        (first, 2, now),  # another deadline than that of the approval
        ("f" * 32, 1, now),
    ):
        answer = await stranger.get(links.PATH + links.token(run_id, number, deadline))
        assert answer.status_code == 400 and "no longer stored" in answer.text


async def test_a_forged_token_and_one_of_another_home_are_refused(
    world: World, stranger: httpx.AsyncClient, daybook_home: Home
) -> None:
    run_id = await asked(world)
    path = await link_of(world, run_id)
    token = path.removeprefix(links.PATH)
    run, number, deadline, signature = token.split(".")
    forged = [
        f"{run}.2.{deadline}.{signature}",
        f"{run}.{number}.{int(deadline) + 1}.{signature}",
        f"{run}.{number}.{deadline}.{'0' * 32}",
        f"{run}.{number}.{deadline}.",
        f"{run}.{number}.{deadline}",
        *("...", ".", "%00", "é", "x" * 5_000, f"{token}x", token[:-1], token.upper()),
    ]
    for each in forged:
        for answer in (
            await stranger.get(links.PATH + each),
            await post(stranger, links.PATH + each, [("decision", "approve")], {"origin": PUBLIC}),
        ):
            assert answer.status_code in (400, 401, 403, 404), each
            assert "mail_send" not in answer.text
    for each in (f"{path}/", f"/decide/../runs/{run_id}", f"/decide//runs/{run_id}", "/decide/"):
        answer = await stranger.get(each)
        assert answer.status_code in (307, 400, 401, 404) and "mail_send" not in answer.text

    daybook_home.browser_key_file.unlink()  # as in another home: it makes a new key
    assert (await stranger.get(path)).status_code == 400
    assert await is_open(world, run_id)


async def test_a_write_needs_the_links_own_token_the_origin_and_a_short_body(
    world: World, server: PageLogin, stranger: httpx.AsyncClient
) -> None:
    run_id = await asked(world)
    path = await link_of(world, run_id)
    (form, *_) = Forms((await stranger.get(path)).text).forms
    own = {"origin": PUBLIC}
    with sharing(world.ledger):
        shared = (await tokens.share("hall")).url.removeprefix(PUBLIC)
    async with browser_of(server) as viewer, browser_of(server) as operator:
        assert (await viewer.get(shared)).status_code == 200
        assert (await operator.get(server.new_link(is_public=True))).status_code == 200
        (logout,) = Forms((await operator.get("/daybook/logout")).text).forms
        of_session = dict(logout.fields)[CSRF_FIELD]
        decide = ("decision", "approve")
        for browser in (stranger, viewer, operator):
            for fields, headers in (
                ([decide], own),
                ([decide, (CSRF_FIELD, "")], own),
                ([decide, (CSRF_FIELD, of_session)], own),
                (form.fields, {}),
                (form.fields, {"origin": "null"}),
                (form.fields, {"origin": "https://evil.example"}),
                (form.fields, {"origin": OWN}),
                (form.fields, own | {"sec-fetch-site": "cross-site"}),
            ):
                answer = await post(browser, path, fields, headers)
                assert answer.status_code == 403, (fields, headers)
        huge = [*form.fields, ("reason", "x" * MAX_FORM_BYTES)]
        assert (await post(stranger, path, huge, own)).status_code == 413
        too_long = [("reason", "x" * 501) if each[0] == "reason" else each for each in form.fields]
        too_long += [("reason", "x" * 501)] if too_long == form.fields else []
        answer = await post(stranger, path, too_long, own)
        assert answer.status_code == 400 and await is_open(world, run_id)
        # The link of a stranger gives no right to any other page.
        assert (await stranger.get(f"/runs/{run_id}")).status_code == 401
        # A viewer may not decide on the page of the run, and sees no link that could.
        assert links.PATH not in (await viewer.get(f"/runs/{run_id}")).text
        assert links.PATH not in (await viewer.get("/")).text


async def test_the_operator_can_require_a_login(
    world: World, server: PageLogin, stranger: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await asked(world)
    path = await link_of(world, run_id)
    (form, *_) = Forms((await stranger.get(path)).text).forms
    monkeypatch.setenv("DAYBOOK_APPROVAL_LINKS", "login")
    page = await stranger.get(path)
    assert f"/runs/{run_id}#approvals" in page.text and "mail_send" not in page.text
    answer = await post(stranger, path, form.fields, {"origin": PUBLIC})
    assert answer.status_code == 400 and await is_open(world, run_id)
    (row,) = await messages(world, run_id)
    async with world.ledger.read() as session:
        assert await message_links.read(session, row) == []
    assert message_links.page_of(row) == f"{PUBLIC}/runs/{run_id}"


async def test_no_log_has_the_token(
    world: World, stranger: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = await asked(world)
    path = await link_of(world, run_id)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the log of this test's browser
    with caplog.at_level(logging.DEBUG, "daybook"):
        await press(stranger, path)
        await stranger.get(f"{path}x")
    assert path.rpartition(".")[2] not in caplog.text
