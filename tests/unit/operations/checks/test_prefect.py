"""Servers that are not the right one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from daybook.home import Home
from daybook.operations import home_lock
from daybook.operations import server as own
from daybook.operations.checks import prefect
from daybook.operations.findings import Severity
from tests.servers import free_port
from tests.unit.operations.checks.conftest import Answers, Connect, as_prefect

pytestmark = pytest.mark.anyio


async def only(found: Any) -> Any:
    (problem,) = await found
    assert problem.severity is Severity.PROBLEM
    return problem


async def test_a_known_prefect_is_sound(
    daybook_home: Home, answers: Answers, connect: Connect
) -> None:
    answers.paths = as_prefect("3.8.8")
    async with connect(f"{answers.address}/api") as client:
        assert await prefect.server(client) == []
        assert await prefect.clock(client) == []


@pytest.mark.parametrize(
    "paths",
    [
        {},
        {"/api/health": (200, "<html>hello</html>")},
        {"/api/health": (200, True), "/api/admin/version": (200, "<html>hello</html>")},
        {"/api/health": (200, True), "/api/admin/version": (200, "the newest")},
        {"/api/health": (200, True)},
    ],
)
async def test_what_is_no_prefect_is_said_and_forgotten(
    daybook_home: Home,
    answers: Answers,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    paths: dict[str, tuple[int, Any]],
) -> None:
    answers.paths = paths
    async with connect(f"{answers.address}/api") as client:
        monkeypatch.setenv("PREFECT_API_URL", f"{answers.address}/api")
        problem = await only(prefect.server(client))
        assert f"the server at {answers.address}/api is not Prefect" in problem.message
        assert problem.fix == "unset PREFECT_API_URL"
        monkeypatch.delenv("PREFECT_API_URL")
        problem = await only(prefect.server(client))
        assert problem.fix == "prefect config unset PREFECT_API_URL"


@pytest.mark.parametrize("version", ["2.20.1", "3.9.0", "3.8.7", "4.0.0rc1"])
async def test_a_prefect_of_another_version_is_named(
    daybook_home: Home, answers: Answers, connect: Connect, version: str
) -> None:
    answers.paths = as_prefect(version)
    async with connect(f"{answers.address}/api") as client:
        problem = await only(prefect.server(client))
    assert f"is Prefect {version}, outside of <3.9,>=3.8.8" in problem.message
    assert "pip install 'prefect<3.9,>=3.8.8'" in problem.fix


@pytest.mark.parametrize("status", [401, 403])
async def test_a_prefect_that_refuses_us_asks_for_its_password(
    daybook_home: Home, answers: Answers, connect: Connect, status: int
) -> None:
    answers.paths = {"/api/health": (status, {"exception_message": "Unauthorized"})}
    async with connect(f"{answers.address}/api") as client:
        problem = await only(prefect.server(client))
    assert f"denies access ({status})" in problem.message
    assert problem.fix.startswith("export PREFECT_API_AUTH_STRING=")


async def test_a_prefect_in_trouble_is_no_stranger(
    daybook_home: Home, answers: Answers, connect: Connect
) -> None:
    answers.paths = {"/api/health": (503, {})}
    async with connect(f"{answers.address}/api") as client:
        problem = await only(prefect.server(client))
    assert problem.message.endswith("answers 503")


async def test_a_server_that_does_not_answer_is_begun(daybook_home: Home, connect: Connect) -> None:
    address = own.api_url(free_port())
    async with connect(address) as client:
        problem = await only(prefect.server(client))
    assert problem.message.startswith(f"Prefect at {address} does not answer")
    assert problem.fix.startswith("daybook up")


@contextmanager
def running(home: Home, **facts: Any) -> Iterator[None]:
    """As while an `up` runs that wrote this down."""
    with home_lock.hold(home):
        home.up_file.write_text(json.dumps(facts))
        yield
    home.up_file.unlink(missing_ok=True)


async def test_another_server_than_that_of_up_is_a_wrong_one(
    daybook_home: Home, answers: Answers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers.paths = as_prefect("3.8.8")
    monkeypatch.setenv("PREFECT_API_URL", f"{answers.address}/api")
    async with connect(f"{answers.address}/api") as client:
        with running(daybook_home, api_url="http://127.0.0.1:1/api"):
            problem = await only(prefect.server(client))
            assert answers.address in problem.message
            assert "http://127.0.0.1:1/api" in problem.message
            assert problem.fix == "unset PREFECT_API_URL"
        with running(daybook_home, api_url=f"{answers.address}/api"):
            assert await prefect.server(client) == []


@pytest.mark.parametrize(
    ("ahead", "said"),
    [(30, "ahead of"), (3, "ahead of"), (0, None), (-3, "behind"), (-7200, "behind")],
)
async def test_a_clock_more_than_a_second_off_is_named(
    daybook_home: Home, answers: Answers, connect: Connect, ahead: int, said: str | None
) -> None:
    answers.paths = as_prefect("3.8.8")
    answers.ahead = timedelta(seconds=ahead)
    async with connect(f"{answers.address}/api") as client:
        found = await prefect.clock(client)
    if said is None:
        assert found == []
    else:
        (problem,) = found
        assert f"s {said} this machine's" in problem.message


async def test_a_busy_server_that_tells_an_old_time_is_asked_again(
    daybook_home: Home, answers: Answers, connect: Connect
) -> None:
    answers.paths = as_prefect("3.8.8")
    answers.stale = [timedelta(seconds=4), timedelta(seconds=3)]
    async with connect(f"{answers.address}/api") as client:
        assert await prefect.clock(client) == []
    assert answers.stale == []


async def test_a_ui_that_is_not_there_or_asks_somewhere_else_is_named(
    daybook_home: Home, answers: Answers, connect: Connect
) -> None:
    here = f"{answers.address}/api"
    answers.paths = as_prefect("3.8.8")
    async with connect(here) as client:
        problem = await only(prefect.ui(client))
        assert f"no Prefect UI answers at {answers.address}" in problem.message
        for right in (here, "/api"):
            answers.paths["/ui-settings"] = (200, {"api_url": right})
            assert await prefect.ui(client) == []
        nobody = own.api_url(free_port())
        answers.paths["/ui-settings"] = (200, {"api_url": nobody})
        problem = await only(prefect.ui(client))
        assert f"the UI uses {nobody}, where Prefect does not answer" in problem.message
        assert problem.fix.endswith(f"PREFECT_UI_API_URL={here}")
        with running(daybook_home, api_url=here, ui_url=answers.address, own_server=True):
            problem = await only(prefect.ui(client))
            assert problem.fix == "daybook down, then daybook up"
