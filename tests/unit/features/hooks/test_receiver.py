"""`POST /hooks/<name>` at the real server: each answer, its metric and its line in the log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, get_args
from urllib.parse import urlencode
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from daybook.delivery.home_secret import new_secret
from daybook.errors import InvalidInput
from daybook.features.hooks import documents, index, operations
from daybook.features.hooks.documents import STORE
from daybook.features.hooks.settings import HookSettings
from daybook.features.hooks.signatures import SCHEMES, SchemeName
from daybook.home import Home
from daybook.jobs.store import StoredJob
from daybook.operations import connections
from daybook.resources import copies
from daybook.resources.store import block_data
from daybook.runs import disabled_jobs
from daybook.web import request_bodies
from tests.rows import each
from tests.timings import expire_timeout
from tests.unit.web.conftest import Served
from tests.world import World

pytestmark = pytest.mark.anyio

SECRET, OTHER = new_secret(), new_secret()
LINE = "a secret of some length"
PAYLOAD = {"action": "opened", "title": "TOP SECRET"}


@pytest.fixture
async def job(world: World) -> StoredJob:
    return await world.jobs.add(on_demand=True)


@pytest.fixture(autouse=True)
def _fresh_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAX_AGE_SECONDS", 0.0)


async def save(
    world: World, home: Home, job: StoredJob, name: str = "pulls", **fields: Any
) -> None:
    """Write the copy of a hook, as `STORE.save` does after Prefect has stored it."""
    settings = STORE.validate({"job": job.id, "secret": SECRET, **fields})
    async with world.ledger.write() as session:
        key = await copies.get_or_create_key(session, home)
        await copies.put(
            session, (STORE.slug, name), "t", block_data(settings), key=key, now=world.ledger.now()
        )


class Sender:
    """Sends requests as the sender of a hook does, signed at the ledger's time."""

    def __init__(self, world: World, page: httpx.AsyncClient) -> None:
        self._world, self.page = world, page
        self.opened: list[asyncio.StreamWriter] = []

    def headers(
        self, body: bytes, delivery_id: str, secret: str, scheme: Any, **moved: float
    ) -> dict[str, str]:
        now = self._world.ledger.now() + timedelta(**moved)
        return SCHEMES[scheme].sign(secret, delivery_id, body, now)

    async def send(
        self,
        delivery_id: str = "msg_1",
        payload: Any = PAYLOAD,
        *,
        body: bytes | None = None,
        name: str = "pulls",
        secret: str = SECRET,
        scheme: Any = "standard",
        headers: dict[str, str] | None = None,
        **moved: float,
    ) -> httpx.Response:
        body = json.dumps(payload).encode() if body is None else body
        signed = self.headers(body, delivery_id, secret, scheme, **moved)
        return await self.page.post(
            f"/hooks/{name}", content=body, headers=signed | (headers or {})
        )

    async def results(self) -> dict[str, float]:
        """Return the results that `/metrics` counts, without those that never happened."""
        families = text_string_to_metric_families((await self.page.get("/metrics")).text)
        samples = [each for family in families for each in family.samples]
        named = [each for each in samples if each.name == "daybook_hook_requests_total"]
        return {each.labels["result"]: each.value for each in named if each.value}


@pytest.fixture
async def sender(
    world: World, pages: Callable[[], Served], daybook_home: Home, job: StoredJob
) -> AsyncIterator[Sender]:
    await save(world, daybook_home, job)
    async with pages() as page:
        found = Sender(world, page)
        yield found
        for writer in found.opened:
            writer.close()


async def test_a_signed_request_starts_a_run(world: World, sender: Sender) -> None:
    answer = await sender.send()
    (row,) = await world.runs.rows()
    assert (answer.status_code, answer.json()) == (202, {"run_id": row.id, "repeated": False})
    assert (row.trigger, row.found) == ("hook", {"payload": PAYLOAD})
    assert await sender.results() == {"accepted": 1}


def body_of(kind: str, payload: Any) -> bytes:
    """Return the body that a sender with this content type sends."""
    text = json.dumps(payload)
    return urlencode({"payload": text}).encode() if "form" in kind else text.encode()


FORM = "application/x-www-form-urlencoded"
SENDERS = [
    # The scheme, the content type, and the beginning of the names of the headers.
    ("github", FORM, "x-"),  # GitHub's default
    ("github", "application/json", "x-"),
    ("github", "application/json; charset=utf-8", "x-"),
    ("standard", "application/json", "webhook-"),
    ("standard", "application/json", "svix-"),
    ("standard", FORM, "svix-"),
    ("standard", "", "webhook-"),  # no content type
    ("stripe", "application/json; charset=utf-8", "stripe-"),
    ("stripe", FORM, "stripe-"),
]


async def test_every_sender_is_understood_with_each_of_its_content_types(
    world: World, sender: Sender, daybook_home: Home, job: StoredJob
) -> None:
    for (scheme, kind, prefix), trying in each(SENDERS):
        with trying:
            secret = SECRET if scheme == "standard" else LINE
            await save(world, daybook_home, job, scheme=scheme, secret=secret)
            payload = PAYLOAD | {"id": f"evt_{uuid4().hex}"}
            body = body_of(kind, payload)
            signed = sender.headers(body, payload["id"], secret, scheme)
            headers = {name.replace("webhook-", prefix): text for name, text in signed.items()}
            headers |= {"content-type": kind} if kind else {}
            answer = await sender.page.post("/hooks/pulls", content=body, headers=headers)
            assert answer.status_code == 202, answer.text
            row = await world.runs.row(answer.json()["run_id"])
            assert row.found == {"payload": payload}


async def test_a_ping_is_refused_if_its_events_could_not_be_read(
    world: World, sender: Sender, daybook_home: Home, job: StoredJob
) -> None:
    await save(world, daybook_home, job, scheme="github", secret=LINE)
    for body, status in ((b"payload=%7B%7D", 200), (b"{}", 200), (b"a=b", 400), (b"", 400)):
        ping = {"X-GitHub-Event": "ping"}
        answer = await sender.send(body=body, scheme="github", secret=LINE, headers=ping)
        assert answer.status_code == status, body
    assert await world.runs.rows() == []


@pytest.mark.parametrize("scheme", get_args(SchemeName))
async def test_each_scheme_starts_one_run_for_each_delivery(
    world: World, sender: Sender, daybook_home: Home, job: StoredJob, scheme: SchemeName
) -> None:
    secret = SECRET if scheme == "standard" else LINE
    await save(world, daybook_home, job, scheme=scheme, secret=secret)
    for delivery_id in ("evt_1", "evt_2", "evt_1"):
        payload = PAYLOAD | {"id": delivery_id}
        answer = await sender.send(delivery_id, payload, scheme=scheme, secret=secret)
        assert answer.status_code == 202, answer.text
    assert len(await world.runs.rows()) == 2
    assert await sender.results() == {"accepted": 2, "repeated": 1}


async def test_a_ping_of_github_starts_nothing(
    world: World, sender: Sender, daybook_home: Home, job: StoredJob
) -> None:
    await save(world, daybook_home, job, scheme="github", secret=LINE)
    answer = await sender.send(scheme="github", secret=LINE, headers={"X-GitHub-Event": "ping"})
    assert (answer.status_code, answer.json()["run_id"]) == (200, None)
    assert await world.runs.rows() == []


async def test_a_replay_is_the_same_run_after_a_restart_too(
    world: World, pages: Callable[[], Served], sender: Sender
) -> None:
    body = json.dumps(PAYLOAD).encode()
    headers = sender.headers(body, "msg_1", SECRET, "standard")
    answers = [
        await page.post("/hooks/pulls", content=body, headers=headers)
        for page in (sender.page, sender.page)
    ]
    async with pages() as page:  # another process of the web server
        answers.append(await page.post("/hooks/pulls", content=body, headers=headers))
        world.passes(minutes=5, seconds=2)
        late = await page.post("/hooks/pulls", content=body, headers=headers)
    (row,) = await world.runs.rows()
    assert [each.json() for each in answers] == [
        {"run_id": row.id, "repeated": False},
        *[{"run_id": row.id, "repeated": True}] * 2,
    ]
    assert late.status_code == 400


async def test_a_request_that_no_secret_signed_and_an_unknown_hook_get_the_same_answer(
    world: World, sender: Sender
) -> None:
    body = json.dumps(PAYLOAD).encode()
    refused = [
        await sender.send(secret=OTHER),
        await sender.send(scheme="github", secret=LINE),
        await sender.page.post("/hooks/pulls", content=body),
        await sender.page.post("/hooks/pulls", content=b""),
        await sender.send(headers={"webhook-id": "msg_2"}),
        await sender.send(headers={"svix-id": "msg_2", "webhook-id": ""}),
        await sender.send(name="nobody"),
        await sender.send(name="nobody", body=b"not JSON"),
        await sender.send(name="No%20Body%0a"),
    ]
    assert {each.status_code for each in refused} == {401}
    assert len({(each.text, str(sorted(each.headers.keys()))) for each in refused}) == 1
    assert await sender.results() == {"unauthorized": len(refused)}
    assert await world.runs.rows() == []


async def test_old_and_future_timestamps_are_refused(world: World, sender: Sender) -> None:
    for seconds in (-301, 301, -86_400):
        answer = await sender.send(seconds=seconds)
        assert (answer.status_code, "5 minutes" in answer.text) == (400, True)
    assert await world.runs.rows() == []
    for place, seconds in enumerate((-299, 299)):
        assert (await sender.send(f"msg_{place}", seconds=seconds)).status_code == 202


async def test_a_body_that_is_not_json_is_refused(world: World, sender: Sender) -> None:
    bodies = (b"", b"{", b"a=%7B%7D", b"\xff", b"[" * 200_000, b"NaN", b"[1e999]", b"payload=1e999")
    for body in bodies:
        answer = await sender.send(body=body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("the body is not JSON: ")
    assert await sender.results() == {"invalid": len(bodies)}
    assert await world.runs.rows() == []


async def test_a_delivery_without_a_usable_id_is_refused(
    world: World, sender: Sender, daybook_home: Home, job: StoredJob
) -> None:
    for delivery_id in ("x" * 101, "msg.1"):
        assert (await sender.send(delivery_id)).status_code == 400
    await save(world, daybook_home, job, scheme="stripe", secret=LINE)
    payloads: list[Any] = [PAYLOAD, [], PAYLOAD | {"id": 7}]
    for payload in payloads:
        assert (await sender.send(payload=payload, scheme="stripe", secret=LINE)).status_code == 400
    assert await world.runs.rows() == []


async def test_a_body_of_ten_mebibytes_is_refused_and_a_larger_one_is_not_received(
    sender: Sender,
) -> None:
    large = b"x" * (10 * 2**20)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 2**16):
            yield large[start : start + 2**16]

    for content in (large, chunks()):
        answer = await sender.page.post("/hooks/pulls", content=content)
        assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    host, port = sender.page.base_url.host, sender.page.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    length = request_bodies.MAX_RECEIVED_BYTES + 1
    head = f"POST /hooks/pulls HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    writer.write(head.encode())
    assert (await reader.readline()).split()[1] == b"413"
    writer.close()
    largest = json.dumps({"x": "y" * (2**20 - 9)}).encode()
    assert len(largest) == 2**20
    assert (await sender.send(body=largest)).status_code == 202
    assert (await sender.send("msg_2", body=largest + b" ")).status_code == 413
    assert await sender.results() == {"too_large": 4, "accepted": 1}


async def begin(sender: Sender) -> asyncio.StreamReader:
    """Send the head and the first byte of an unsigned request."""
    host, port = sender.page.base_url.host, sender.page.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"POST /hooks/pulls HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
    sender.opened.append(writer)
    return reader


async def statuses(readers: list[asyncio.StreamReader]) -> list[bytes]:
    return [(await reader.readline()).split()[1] for reader in readers]


async def test_slow_senders_take_no_place_from_others(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = request_bodies.BODY_TIMEOUT_SECONDS - 1
    monkeypatch.setattr(request_bodies, "BODY_TIMEOUT_SECONDS", seconds)
    count = connections.MAX_REQUESTS + 10  # more than the slots of hooks, and of all pages
    monkeypatch.setattr(request_bodies, "MAX_RECEIVING", count)

    async def begun(number: int) -> list[asyncio.StreamReader]:
        found = [await begin(sender) for _ in range(number)]
        # Once it answers, the server has read the heads of these requests.
        assert (await sender.page.get("/metrics")).status_code == 200
        return found

    oldest, _, others = await begun(10), await begun(1), await begun(count - 11)
    assert (await sender.send()).status_code == 202
    more = await begun(10)
    assert await statuses(oldest) == [b"503"] * 10  # those that have been slow for longest
    assert (await sender.send("msg_2")).status_code == 202
    await expire_timeout(seconds)
    assert set(await statuses([*others, *more])) == {b"408"}
    assert (await sender.send("msg_3")).status_code == 202


async def test_the_memory_of_all_bodies_is_bounded_and_the_slowest_is_refused(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = await begin(sender)
    monkeypatch.setattr(request_bodies, "MAX_MEMORY_BYTES", 40)
    assert (await sender.send(body=b'"' + b"x" * 38 + b'"')).status_code == 202
    assert await statuses([slow]) == [b"503"]
    for _ in range(3):
        assert (await sender.send("msg_2", body=b'"' + b"x" * 39 + b'"')).status_code == 503
    assert (await sender.send("msg_2", body=b"{}")).status_code == 202


async def test_a_rotated_secret_is_valid_until_its_stated_time(
    world: World, sender: Sender, daybook_home: Home, job: StoredJob
) -> None:
    rotation = {"previous_secret": OTHER, "previous_until": world.at(hours=24).isoformat()}
    await save(world, daybook_home, job, **rotation)
    assert (await sender.send("msg_1", secret=OTHER)).status_code == 202
    assert (await sender.send("msg_2", secret=SECRET)).status_code == 202
    world.passes(hours=24)
    assert (await sender.send("msg_3", secret=OTHER)).status_code == 401
    assert (await sender.send("msg_3", secret=SECRET)).status_code == 202


async def test_a_payload_that_does_not_fit_the_filters_starts_nothing(
    world: World, sender: Sender, daybook_home: Home, job: StoredJob
) -> None:
    await save(world, daybook_home, job, filters=["action == opened", "draft == null"])
    answer = await sender.send(payload={"action": "closed"})
    why = "the filter action == opened does not fit"
    assert (answer.status_code, answer.json()) == (200, {"run_id": None, "reason": why})
    assert await world.runs.rows() == []
    assert (await sender.send()).status_code == 202  # nothing was recorded for this id
    assert await sender.results() == {"ignored": 1, "accepted": 1}


async def test_more_runs_than_the_rate_are_refused_and_refused_requests_do_not_count(
    world: World,
    pages: Callable[[], Served],
    sender: Sender,
    daybook_home: Home,
    job: StoredJob,
) -> None:
    await save(world, daybook_home, job, rate=2)
    for _ in range(5):
        assert (await sender.send(secret=OTHER)).status_code == 401
    answers = [await sender.send(f"msg_{n}") for n in range(3)]
    assert [each.status_code for each in answers] == [202, 202, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60
    assert len(await world.runs.rows()) == 2
    async with pages() as page:  # another web server, or the same one after a restart
        body = json.dumps(PAYLOAD).encode()
        headers = sender.headers(body, "msg_3", SECRET, "standard")
        assert (await page.post("/hooks/pulls", content=body, headers=headers)).status_code == 429
    world.passes(seconds=60)
    assert (await sender.send("msg_0")).json()["repeated"]
    assert (await sender.send("msg_4")).status_code == 202


async def test_a_full_hook_refuses_only_new_deliveries(
    world: World, sender: Sender, daybook_home: Home, job: StoredJob
) -> None:
    await save(world, daybook_home, job, rate=1, scheme="github", filters=["action == opened"])
    github: dict[str, Any] = {"scheme": "github"}
    first, second = [await sender.send(each, **github) for each in ("id-1", "id-2")]
    assert (first.status_code, second.status_code) == (202, 429)

    again = await sender.send("id-1", **github)
    other = await sender.send("id-3", {"action": "closed"}, **github)
    ping = await sender.send("id-4", headers={"x-github-event": "ping"}, **github)

    repeated = {"run_id": first.json()["run_id"], "repeated": True}
    assert (again.status_code, again.json()) == (202, repeated)
    assert (other.status_code, ping.status_code) == (200, 200)
    assert len(await world.runs.rows()) == 1
    counted = {"accepted": 1, "rate_limited": 1, "repeated": 1, "ignored": 2}
    assert await sender.results() == counted


@pytest.mark.parametrize("removed", [False, True])
async def test_a_repetition_has_its_run_after_the_job_was_paused_or_removed(
    world: World, sender: Sender, job: StoredJob, removed: bool
) -> None:
    first = await sender.send("msg_1")
    if removed:
        await world.jobs.archive(job)
    else:
        await world.jobs.edit(job.id, enabled=False)
        await disabled_jobs.skip_all(world.ledger)
        assert (await world.runs.row()).status == "skipped"

    again = await sender.send("msg_1")

    assert (again.status_code, again.json()) == (202, first.json() | {"repeated": True})
    assert (await sender.send("msg_2")).status_code == (409 if removed else 202)


async def test_a_hook_whose_job_was_removed_is_a_conflict(
    world: World, sender: Sender, job: StoredJob
) -> None:
    await world.jobs.archive(job)
    answer = await sender.send()
    assert (answer.status_code, answer.json()["error"]) == (
        409,
        "the job of the hook pulls was removed",
    )


async def test_a_removed_hook_and_one_with_invalid_settings_are_unknown(
    world: World, sender: Sender, daybook_home: Home, job: StoredJob
) -> None:
    assert (await sender.send("msg_1")).status_code == 202
    async with world.ledger.write() as session:
        key = await copies.get_or_create_key(session, daybook_home)
        data = {"job": job.id, "secret": "short"}
        await copies.put(session, (STORE.slug, "pulls"), "t", data, key=key, now=world.ledger.now())
    assert (await sender.send("msg_2")).status_code == 401
    async with world.ledger.write() as session:
        assert await copies.remove(session, (STORE.slug, "pulls"))
    assert (await sender.send("msg_3")).status_code == 401


async def test_without_the_key_of_the_ledger_hooks_are_unavailable(
    sender: Sender, daybook_home: Home
) -> None:
    daybook_home.ledger_key.unlink()
    answer = await sender.send()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "key" not in answer.text


async def test_a_refusal_is_logged_with_its_hook_and_reason_and_without_its_content(
    world: World,
    sender: Sender,
    daybook_home: Home,
    job: StoredJob,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await save(world, daybook_home, job, "code", scheme="github", secret=LINE)
    with caplog.at_level(logging.WARNING, "daybook.features.hooks.receiver"):
        for _ in range(3):
            await sender.send(secret=OTHER)
            await sender.send(name="unknown")
            await sender.send(name="no-one")
            await sender.send(name="%0aforged%20line")
        await sender.send(body=b"TOP SECRET")
        await sender.send(name="code")
        await sender.send(name="code", body=b"a=TOP+SECRET", scheme="github", secret=LINE)
    lines = [
        each.getMessage().removeprefix("hooks: refused a request to ") for each in caplog.records
    ]
    assert lines == [
        "pulls from 127.0.0.1: 401 none of its secrets made the signature",
        "unknown from 127.0.0.1: 401 there is no hook with this name",
        "pulls from 127.0.0.1: 400 the body is not JSON: Expecting value: line 1 column 1 (char 0)",
        "code from 127.0.0.1: 401 the signature is of the scheme standard, but the hook has github",
        "code from 127.0.0.1: 400 the body is not JSON: Expecting value: line 1 column 1 (char 0)",
    ]
    assert not any(each in caplog.text for each in ("TOP SECRET", SECRET, OTHER, LINE, "v1,"))


async def test_only_post_reaches_a_hook_and_only_from_this_host(sender: Sender) -> None:
    for method in ("GET", "HEAD"):
        assert (await sender.page.request(method, "/hooks/pulls")).status_code == 405
    assert (await sender.page.put("/hooks/pulls")).status_code == 405
    assert (await sender.page.post("/hooks/pulls/more")).status_code == 404
    assert (await sender.page.post("/hooks")).status_code == 405
    assert (await sender.send(headers={"host": "evil.example"})).status_code == 403
    assert (await sender.send(headers={"origin": "https://evil.example"})).status_code == 403


def test_the_settings_show_no_secret() -> None:
    settings = HookSettings(job="x", secret=SECRET, previous_secret=OTHER)  # type: ignore[arg-type]
    hook = documents.build("pulls", block_data(settings))
    assert not any(each in f"{settings!r}{hook!r}" for each in (SECRET, OTHER))


@pytest.mark.parametrize("delivery_id", ["größe", "a b", "x" * 101])
async def test_a_test_with_an_invalid_delivery_id_is_refused_before_it_is_sent(
    delivery_id: str,
) -> None:
    with pytest.raises(InvalidInput, match="use 1 to 100 visible ASCII characters") as refused:
        await operations.test("pulls", url="http://127.0.0.1:9", delivery_id=delivery_id)
    assert refused.value.field == "delivery_id"


@pytest.mark.parametrize("url", ["http://\ud800", "http://[::1", "http://127.0.0.1:70000"])
async def test_a_test_with_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await operations.test("pulls", url=url)
    assert refused.value.field == "url"


@pytest.mark.parametrize("payload", [{"half": "\ud83d"}, {"a set": {1}}])
async def test_a_test_with_a_payload_that_no_json_contains_is_refused(payload: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        await operations.test("pulls", payload)
    assert refused.value.field == "payload"
