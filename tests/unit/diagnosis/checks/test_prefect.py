"""Checks of the Prefect server, its clock and its UI, against a fake server."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook.diagnosis.checks import prefect
from daybook.finding import Severity, passed
from daybook.home import Home
from daybook.operations import server as own
from tests.servers import free_port
from tests.unit.diagnosis.checks.conftest import Answers, Connect, as_prefect, running

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def short_clock_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect, "CLOCK_RETRY_INTERVAL", timedelta(seconds=0.01))


async def only(found: Any) -> Any:
    (problem,) = await found
    assert problem.severity is Severity.PROBLEM
    return problem


async def test_a_supported_prefect_has_no_problems(
    daybook_home: Home, answers: Answers, connect: Connect
) -> None:
    answers.paths = as_prefect("3.8.8")
    async with connect(f"{answers.address}/api") as client:
        assert await prefect.server(client) == [
            passed("prefect", f"{answers.address}/api, version 3.8.8")
        ]
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
async def test_the_fix_of_a_server_that_is_not_prefect_unsets_its_address(
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


@pytest.mark.parametrize("version", ["2.20.1", "3.8.7", "4.0.0rc1"])
async def test_an_unsupported_prefect_version_is_reported(
    daybook_home: Home, answers: Answers, connect: Connect, version: str
) -> None:
    answers.paths = as_prefect(version)
    async with connect(f"{answers.address}/api") as client:
        problem = await only(prefect.server(client))
    assert problem.severity is Severity.PROBLEM
    assert f"Prefect {version} of the server at {answers.address}/api is outside" in problem.message
    assert "pip install 'prefect<3.10,>=3.8.8'" in problem.fix


@pytest.mark.parametrize(("version", "severity"), [("3.9.4", "ok"), ("3.11.0", "warning")])
async def test_a_newer_minor_version_of_the_server_is_a_warning(
    daybook_home: Home, answers: Answers, connect: Connect, version: str, severity: str
) -> None:
    answers.paths = as_prefect(version)
    async with connect(f"{answers.address}/api") as client:
        (found,) = await prefect.server(client)
    assert (found.severity, version in found.message) == (severity, True)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_prefect_that_denies_access_is_reported_with_the_credential_to_set(
    daybook_home: Home, answers: Answers, connect: Connect, status: int
) -> None:
    answers.paths = {"/api/health": (status, {"exception_message": "Unauthorized"})}
    async with connect(f"{answers.address}/api") as client:
        problem = await only(prefect.server(client))
    assert f"denies access ({status})" in problem.message
    assert problem.fix.startswith("export PREFECT_API_AUTH_STRING=")


async def test_a_prefect_with_a_server_error_is_reported_with_its_status(
    daybook_home: Home, answers: Answers, connect: Connect
) -> None:
    answers.paths = {"/api/health": (503, {})}
    async with connect(f"{answers.address}/api") as client:
        problem = await only(prefect.server(client))
    assert problem.message.endswith("returned status 503")


async def test_the_fix_of_a_server_that_does_not_answer_is_daybook_up(
    daybook_home: Home, connect: Connect
) -> None:
    address = own.api_url(free_port())
    async with connect(address) as client:
        problem = await only(prefect.server(client))
    assert problem.message.startswith(f"Prefect at {address} does not answer")
    assert problem.fix.startswith("daybook up")


async def test_a_prefect_address_that_differs_from_that_of_up_is_a_problem(
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
            assert [each.severity for each in await prefect.server(client)] == ["ok"]


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [(30, "ahead of"), (3, "ahead of"), (0, None), (-3, "behind"), (-7200, "behind")],
)
async def test_a_server_clock_that_differs_too_much_is_reported(
    daybook_home: Home, answers: Answers, connect: Connect, ahead: int, expected: str | None
) -> None:
    answers.paths = as_prefect("3.8.8")
    answers.ahead = timedelta(seconds=ahead)
    async with connect(f"{answers.address}/api") as client:
        found = await prefect.clock(client)
    if expected is None:
        assert found == []
    else:
        (problem,) = found
        assert f"s {expected} this machine's" in problem.message


async def test_the_clock_check_repeats_after_outdated_answers(
    daybook_home: Home, answers: Answers, connect: Connect
) -> None:
    answers.paths = as_prefect("3.8.8")
    answers.stale = [timedelta(seconds=4), timedelta(seconds=3)]
    async with connect(f"{answers.address}/api") as client:
        assert await prefect.clock(client) == []
    assert answers.stale == []


async def test_a_missing_ui_or_one_with_a_wrong_api_address_is_reported(
    daybook_home: Home, answers: Answers, connect: Connect
) -> None:
    api_url = f"{answers.address}/api"
    answers.paths = as_prefect("3.8.8")
    async with connect(api_url) as client:
        problem = await only(prefect.ui(client))
        assert f"no Prefect UI answers at {answers.address}" in problem.message
        for right in (api_url, "/api"):
            answers.paths["/ui-settings"] = (200, {"api_url": right})
            assert await prefect.ui(client) == [passed("ui", answers.address)]
        nobody = own.api_url(free_port())
        answers.paths["/ui-settings"] = (200, {"api_url": nobody})
        problem = await only(prefect.ui(client))
        assert f"the UI uses {nobody}, where Prefect does not answer" in problem.message
        assert problem.fix.endswith(f"PREFECT_UI_API_URL={api_url}")
        with running(daybook_home, api_url=api_url, ui_url=answers.address, own_server=True):
            problem = await only(prefect.ui(client))
            assert problem.fix == "daybook down, then daybook up"
