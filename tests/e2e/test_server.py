"""The embedded Prefect server: its port, its UI, its credential, and what it survives."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from websockets import Subprotocol
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from daybook.errors import PrefectUnreachable
from daybook.home import Home
from daybook.operations import home_lock, login, prefect_selection, server
from daybook.prefect import private_names
from daybook.prefect.address import ui_address
from daybook.processes import children, open_files, proc
from tests.at_prefect import basic
from tests.servers import free_port, migrate
from tests.waiting import becomes_true

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow]

WRITERS = 16
DEPLOYMENTS = 48


@pytest.fixture
def unconfigured(daybook_home: Home) -> Iterator[pytest.MonkeyPatch]:
    """Remove this process's Prefect settings for the test, and restore them afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("PREFECT_")]:
            patch.delenv(name)
        # Set and deleted, so that the patch later removes what the code under test sets.
        patch.setenv("PREFECT_API_URL", "")
        patch.delenv("PREFECT_API_URL")
        patch.setenv("PREFECT_HOME", str(daybook_home.prefect))
        private_names.reload_settings()
        yield patch
    private_names.reload_settings()


async def read(url: str, **headers: str) -> httpx.Response:
    """Send a GET request without the credential."""
    async with httpx.AsyncClient(trust_env=False, timeout=50.0) as client:
        return await client.get(url, headers=headers)


async def settings_of(api_url: str, credential: str) -> Any:
    async with httpx.AsyncClient(trust_env=False, auth=basic(credential)) as client:
        answer = await client.get(f"{api_url}/admin/settings")
    assert credential not in answer.text
    return answer.json()["server"]


async def test_the_server_takes_another_port_and_says_so_if_4200_is_taken(
    daybook_home: Home, unconfigured: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    with ExitStack() as stack:
        with suppress(OSError):  # another process has taken it, which is as good
            stack.enter_context(socket.create_server((server.HOST, server.PORT)))
        lock = stack.enter_context(home_lock.hold(migrate(daybook_home)))
        selected = await prefect_selection.find_or_start(daybook_home, lock, lines.append)
        assert selected.child is not None
        try:
            port = int(selected.ui_url.rpartition(":")[2])
            assert port != server.PORT
            assert f"Port 4200 is taken; Prefect uses port {port}" in lines
            assert any(selected.ui_url in line for line in lines)
            assert (await read(f"{selected.api_url}/health")).json() is True
            ui = (await read(f"{selected.ui_url}/ui-settings")).json()
            assert ui["api_url"] == selected.api_url == f"http://127.0.0.1:{port}/api"
            settings = await settings_of(selected.api_url, daybook_home.credential())
            assert settings["analytics_enabled"] is False
            assert settings["services"]["scheduler"]["enabled"] is True
            assert "flow_runs" in settings["services"]["db_vacuum"]["enabled"]
            assert settings["services"]["db_vacuum"]["retention_period"] == "P90D"
            running = daybook_home.running()
            assert running is not None
            assert running["own_server"] is True
            assert running["api_url"] == selected.api_url
            assert ui_address() == f"{selected.ui_url}/v2"
            assert [c["name"] for c in running["children"]] == ["server"]
            assert os.environ["PREFECT_API_URL"] == selected.api_url
            assert os.environ["PREFECT_API_AUTH_STRING"] == daybook_home.credential()
            assert await the_clients_address() == selected.api_url + "/"
            for file in daybook_home.prefect.iterdir():
                assert file.stat().st_mode & 0o077 == 0, file
            assert selected.child.tail() == ""  # no warning
            assert (daybook_home.path / "port").read_text() == f"{port}\n"
        finally:
            await selected.child.terminate()
            lock.remove_child(selected.child)


async def the_clients_address() -> str:
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        return str(client.api_url)


async def test_a_configured_server_is_used(daybook_home: Home, prefect_server: Any) -> None:
    lines: list[str] = []
    with home_lock.hold(daybook_home) as lock:
        selected = await prefect_selection.find_or_start(daybook_home, lock, lines.append)
        running = daybook_home.running()
    assert selected == prefect_selection.SelectedPrefect(
        prefect_server.api_url, prefect_server.ui_url
    )
    assert lines == [f"Prefect: {prefect_server.api_url}, as configured"]
    assert running is not None
    assert running["own_server"] is False
    # Links lead to the version of the UI to which the server redirects its start page.
    assert running["pages_url"] == f"{prefect_server.ui_url}/v2"


async def test_a_configured_server_that_does_not_answer_is_an_error(
    daybook_home: Home, unconfigured: pytest.MonkeyPatch
) -> None:
    address = server.api_url(free_port())
    unconfigured.setenv("PREFECT_API_URL", address)
    private_names.reload_settings()
    with home_lock.hold(daybook_home) as lock, pytest.raises(PrefectUnreachable) as caught:
        await prefect_selection.find_or_start(daybook_home, lock, lambda line: None)
    assert caught.value.address == address
    assert lock.children == []


async def test_an_interrupted_start_leaves_no_process_and_no_setting(
    daybook_home: Home, unconfigured: pytest.MonkeyPatch
) -> None:
    waiting = asyncio.Event()

    def say(line: str) -> None:
        if line.startswith("Waiting"):
            waiting.set()

    with home_lock.hold(daybook_home) as lock:
        start = asyncio.create_task(prefect_selection.find_or_start(daybook_home, lock, say))
        async with asyncio.timeout(30):
            await waiting.wait()
        child = proc.find(lock.children[0].pid)
        assert child is not None
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert lock.children == []
        assert proc.find(child.pid, child.started) is None
    assert "PREFECT_API_URL" not in os.environ


async def test_the_ui_requires_a_login_and_refuses_foreign_origins_and_hosts(
    prefect_server: Any,
) -> None:
    # A browser without a login gets a page that says how to log in.
    page = await read(f"{prefect_server.ui_url}/", accept="text/html")
    assert page.status_code == 401
    assert "daybook open" in page.text
    cookie = await logged_in(prefect_server)
    page = await read(f"{prefect_server.ui_url}/", accept="text/html", cookie=cookie)
    assert page.status_code == 307
    assert page.headers["location"] == "/v2/"
    page = await read(f"{prefect_server.ui_url}/v2/", accept="text/html", cookie=cookie)
    assert "<html" in page.text
    own = await read(f"{prefect_server.api_url}/health", origin=prefect_server.ui_url)
    assert own.headers["access-control-allow-origin"] == prefect_server.ui_url
    assert (await read(f"{prefect_server.api_url}/health", origin="http://a.b")).status_code == 403
    assert (await read(f"{prefect_server.api_url}/health", host="a.b")).status_code == 403


async def last_bytes(reader: asyncio.StreamReader) -> bytes:
    """Return what the server sent before it closed the connection."""
    try:
        return await reader.read()
    except ConnectionResetError:  # closed while bytes of the request were unread
        return b""


async def test_half_open_connections_are_closed_and_do_not_keep_others_out(
    prefect_server: Any,
) -> None:
    """More of them than a process may usually have open files, here and in the server."""
    url = httpx.URL(prefect_server.api_url)
    open_files.raise_limit(server.MAX_OPEN_FILES)
    readers, writers = [], []
    for _ in range(1_500):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-")
        readers.append(reader)
        writers.append(writer)
    assert (await read(f"{prefect_server.api_url}/health")).json() is True
    async with asyncio.timeout(60):
        assert {await last_bytes(each) for each in readers} == {b""}
    for writer in writers:
        writer.close()


async def logged_in(prefect_server: Any) -> str:
    """Return the cookies of a browser that opened a login link."""
    async with httpx.AsyncClient(trust_env=False, timeout=50.0) as browser:
        made = await browser.post(f"{prefect_server.ui_url}{login.LINKS_PATH}", auth=basic())
        token = made.json()["token"]
        await browser.get(f"{prefect_server.ui_url}{login.LOGIN_PATH}", params={"token": token})
        return "; ".join(f"{name}={value}" for name, value in browser.cookies.items())


async def test_each_api_path_answers_401_without_the_credential(prefect_server: Any) -> None:
    """Another user of the machine, or an agent with a tool that fetches URLs, has no credential."""
    async with httpx.AsyncClient(trust_env=False, auth=basic()) as client:
        schema = (await client.get(f"{prefect_server.api_url}/openapi.json")).json()
    paths = {path: methods for path, methods in schema["paths"].items()}
    assert len(paths) > 100
    asked = Counter[int]()
    async with httpx.AsyncClient(
        base_url=prefect_server.ui_url, trust_env=False, timeout=50.0
    ) as client:
        for path, methods in paths.items():
            if path in ("/health", "/ready"):
                continue
            for method in methods:
                where = re.sub(r"{\w+}", "00000000-0000-0000-0000-000000000000", path)
                for auth in (None, ("daybook", "guessed"), ("", "")):
                    given = {"include_secrets": "true"}
                    answer = await client.request(
                        method, f"/api{where}", params=given, json={}, auth=auth
                    )
                    asked[answer.status_code] += 1
                    assert answer.status_code == 401, (method, path)
    assert asked.total() > 300


WEBSOCKETS = ("events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled")


@pytest.mark.parametrize("path", WEBSOCKETS)
async def test_a_websocket_without_the_credential_is_closed(prefect_server: Any, path: str) -> None:
    address = f"{prefect_server.api_url.replace('http', 'ws')}/{path}"
    for token in (None, "daybook:guessed"):
        async with connect(address, subprotocols=[Subprotocol("prefect")]) as stream:
            await stream.send(json.dumps({"type": "auth", "token": token}))
            with pytest.raises(ConnectionClosed) as closed:
                await stream.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
    with pytest.raises((ConnectionClosed, InvalidStatus)):  # as old clients connect
        async with connect(address) as stream:
            await stream.recv()


async def test_a_logged_in_browser_can_open_the_event_stream(prefect_server: Any) -> None:
    cookie = await logged_in(prefect_server)
    headers = {"cookie": cookie, "origin": prefect_server.ui_url}
    async with connect(
        f"{prefect_server.api_url.replace('http', 'ws')}/events/out",
        subprotocols=[Subprotocol("prefect")],
        additional_headers=headers,
    ) as stream:
        await stream.send(json.dumps({"type": "auth", "token": None}))
        assert json.loads(await stream.recv())["type"] == "auth_success"


async def test_many_concurrent_deployments_get_no_503(prefect_server: Any) -> None:
    async with httpx.AsyncClient(
        base_url=prefect_server.api_url, auth=basic(), trust_env=False, timeout=60
    ) as client:
        flow = (await client.post("/flows/", json={"name": "at-once"})).json()["id"]
        gate = asyncio.Semaphore(WRITERS)

        async def make(number: int) -> int:
            body = {
                "name": f"at-once-{number}",
                "flow_id": flow,
                "schedules": [{"schedule": {"cron": "0 9 * * *"}, "active": True}],
            }
            async with gate:
                return (await client.post("/deployments/", json=body)).status_code

        codes = Counter(await asyncio.gather(*(make(n) for n in range(DEPLOYMENTS))))
        assert codes == {201: DEPLOYMENTS}
        flow_filter = {"flows": {"name": {"any_": ["at-once"]}}}
        assert (await client.post("/deployments/count", json=flow_filter)).json() == DEPLOYMENTS


async def test_repeated_polls_of_a_worker_rarely_write_the_deployments(
    prefect_server: Any,
) -> None:
    async with get_client() as client:
        pool = await client.create_work_pool(WorkPoolCreate(name="polled", type="process"))
        try:
            flow_id = await client.create_flow_from_name("polled")
            deployment_id = await client.create_deployment(
                flow_id, "polled", work_pool_name=pool.name
            )
            recorded, start = set[Any](), time.monotonic()
            for _ in range(8):
                (queue,) = await client.read_work_queues(work_pool_name=pool.name)
                await client.get_scheduled_flow_runs_for_work_pool(pool.name)

                async def is_recorded(before: Any = queue.last_polled) -> bool:
                    (polled,) = await client.read_work_queues(work_pool_name=pool.name)
                    return bool(polled.last_polled != before)

                assert await becomes_true(is_recorded, 30.0)
                recorded.add((await client.read_deployment(deployment_id)).last_polled)
            seconds = time.monotonic() - start
        finally:
            await client.delete_work_pool(pool.name)
    interval = server.POLL_RECORD_INTERVAL.total_seconds()
    assert len(recorded - {None}) <= 1 + seconds // interval
    assert recorded - {None}  # the first poll made it ready


async def test_an_acknowledged_write_survives_a_kill_of_the_server(daybook_home: Home) -> None:
    port = free_port()
    variable = {"name": "kept", "value": "before the kill"}
    first = await server.start(migrate(daybook_home), port)
    try:
        await server.wait_until_healthy(server.api_url(port), child=first)
        async with httpx.AsyncClient(
            base_url=server.api_url(port), auth=basic(), trust_env=False
        ) as client:
            assert (await client.post("/variables/", json=variable)).status_code == 201
        os.kill(first.pid, signal.SIGKILL)
        assert await first.wait() == -signal.SIGKILL
    finally:
        await first.terminate()
    second = await server.start(daybook_home, port)  # the same port at once
    try:
        await server.wait_until_healthy(server.api_url(port), child=second)
        async with httpx.AsyncClient(auth=basic(), trust_env=False) as client:
            response = await client.get(f"{server.api_url(port)}/variables/name/kept")
        assert response.json()["value"] == "before the kill"
    finally:
        await second.terminate()


CHANGED_PREFECT = """
import prefect.server.api.server as api
import prefect.server.database.dependencies as dependencies
from daybook.operations import server

del {name}
server.run({port})
"""


async def changed(home: Home, port: int, name: str) -> children.Child:
    migrate(home)
    return await children.start(
        "server",
        [sys.executable, "-c", CHANGED_PREFECT.format(port=port, name=name)],
        environment=server.environment(home, port),
        log=home.logs / "server.log",
        folder=home.path,
    )


async def test_the_server_starts_although_prefects_database_internals_changed(
    daybook_home: Home,
) -> None:
    """The log mentions the fallback, and the server runs."""
    port = free_port()
    slot = 'dependencies.MODELS_DEPENDENCIES["database_config"]'
    child = await changed(daybook_home, port, slot)
    try:
        await server.wait_until_healthy(server.api_url(port), child=child)
        settings = await settings_of(server.api_url(port), daybook_home.credential())
        assert settings["analytics_enabled"] is False
        ui = (await read(f"{server.ui_url(port)}/ui-settings")).json()
        assert ui["api_url"] == server.api_url(port)
        assert "keeps deferred transactions and its cache" in child.log.read_text()
    finally:
        await child.terminate()


async def test_a_prefect_that_cannot_be_guarded_does_not_start(daybook_home: Home) -> None:
    """The error that `up` shows says what to do instead."""
    port = free_port()
    child = await changed(daybook_home, port, "api.create_app")
    try:
        with pytest.raises(PrefectUnreachable) as caught:
            await server.wait_until_healthy(server.api_url(port), child=child)
        assert child.exit_code == server.EXIT_UNGUARDED
        for words in ("web pages", "requirements.lock", "prefect server start", "PREFECT_API_URL"):
            assert words in str(caught.value)
    finally:
        await child.terminate()
