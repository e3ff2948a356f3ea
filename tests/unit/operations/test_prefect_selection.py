"""The port of a home's Prefect server: the same at each start, if it is free."""

from __future__ import annotations

import json
import os
import socket
import sys

import pytest

from daybook.home import Home
from daybook.operations import home_lock, prefect_selection, server
from daybook.processes import children, proc
from tests.receiver import answer, serving
from tests.servers import free_port


@pytest.fixture
def first_choice(monkeypatch: pytest.MonkeyPatch) -> int:
    """Replace the default port 4200 by a free port, and return it."""
    port = free_port()
    monkeypatch.setattr(server, "PORT", port)
    return port


def next_port(home: Home) -> tuple[int, list[str]]:
    lines: list[str] = []
    return prefect_selection._port(home, lines.append), lines


@pytest.mark.parametrize("written", [None, "", "soon\n", "0\n", "-1\n", "70000\n"])
def test_a_home_without_a_valid_stored_port_gets_the_default_port(
    daybook_home: Home, first_choice: int, written: str | None
) -> None:
    if written is not None:
        (daybook_home.path / "port").write_text(written)
    assert next_port(daybook_home) == (first_choice, [])


def test_the_port_of_the_last_start_is_reused_without_a_message(
    daybook_home: Home, first_choice: int
) -> None:
    last = free_port()
    (daybook_home.path / "port").write_text(f"{last}\n")
    assert next_port(daybook_home) == (last, [])


def test_a_taken_port_of_the_last_start_is_replaced_with_a_message(
    daybook_home: Home, first_choice: int
) -> None:
    with socket.create_server((server.HOST, 0)) as taken:
        last = taken.getsockname()[1]
        (daybook_home.path / "port").write_text(f"{last}\n")
        port, lines = next_port(daybook_home)
    assert port == first_choice
    assert lines == [f"Port {last} is taken; Prefect uses port {port}"]


def test_a_taken_default_port_is_replaced_by_a_free_one_with_a_message(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((server.HOST, 0)) as taken:
        first = taken.getsockname()[1]
        monkeypatch.setattr(server, "PORT", first)
        port, lines = next_port(daybook_home)
    assert port != first
    assert lines == [f"Port {first} is taken; Prefect uses port {port}"]


async def test_a_server_that_cannot_be_recorded_is_ended(
    daybook_home: Home, first_choice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[children.Child] = []

    async def start(home: Home, port: int, forked_from: object) -> children.Child:
        forever = [sys.executable, "-c", "import signal; signal.pause()"]
        log = home.logs / "server.log"
        started.append(
            await children.start(
                "server", forever, environment=os.environ, log=log, folder=home.path
            )
        )
        return started[-1]

    say = list[str]().append
    monkeypatch.setattr(server, "start", start)
    with home_lock.hold(daybook_home) as record:
        daybook_home.up_file.with_suffix(
            ".new"
        ).mkdir()  # the file is written under this name first
        with pytest.raises(IsADirectoryError):
            await prefect_selection._start(
                daybook_home, record, say, progress=say, forked_from=None
            )
    (child,) = started
    assert proc.find(child.pid, child.process.started) is None


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"default_ui": "v2", "v1_base_url": "/", "v2_base_url": "/v2"}, "/v2"),
        ({"default_ui": "v1", "v1_base_url": "/", "v2_base_url": "/v2"}, ""),
        ({"default_ui": "v2", "v1_base_url": "/ui", "v2_base_url": "/ui/v2"}, "/ui/v2"),
        ({"default_ui": "v2", "v2_base_url": None}, ""),
        ({"api_url": "/api"}, ""),  # an older server
        ([], ""),
    ],
)
async def test_links_lead_to_the_default_version_of_the_ui(settings: object, path: str) -> None:
    async with serving() as web:
        web.steps = [answer(200, json.dumps(settings).encode())]
        assert await prefect_selection.pages_url(web.address) == f"{web.address}{path}"
    assert [each.path for each in web.requests] == ["/ui-settings"]
    assert await prefect_selection.pages_url(web.address) == web.address  # it has ended
    assert await prefect_selection.pages_url("") == ""
