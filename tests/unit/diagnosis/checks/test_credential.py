"""A Prefect that refuses the credential: the error says what to set, and has exit code 4."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from daybook.diagnosis.checks.prefect import unreachable
from daybook.errors import PrefectRefused, PrefectUnreachable
from daybook.home import Home
from daybook.operations import browser, home_lock
from daybook.prefect import address as reach
from daybook.prefect import client as connection
from tests.unit.diagnosis.checks.conftest import Answers, as_prefect

UNAUTHORIZED = (401, {"exception_message": "Unauthorized"})


@pytest.fixture
def asks(answers: Answers) -> Iterator[str]:
    """Yield the address of a Prefect that answers its health check but refuses other requests."""
    address = f"{answers.address}/api"
    answers.paths = {**as_prefect("3.8.8"), "/api/admin/version": UNAUTHORIZED}
    answers.paths["/api/flows/1"] = UNAUTHORIZED
    yield address


async def refused(address: str, sent: str | None) -> PrefectRefused:
    given = {PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: sent}
    with temporary_settings(updates=given), pytest.raises(PrefectRefused) as caught:
        async with connection.connected() as client:
            await connection.check_connection(client)
    assert caught.value.exit_code == 4
    assert isinstance(
        caught.value, PrefectUnreachable
    )  # so callers store the change, and sync it later
    assert address in str(caught.value)
    return caught.value


async def test_a_wrong_credential_is_reported_without_its_value(
    daybook_home: Home, asks: str
) -> None:
    message = str(await refused(asks, "ana:hunter2"))
    assert "the credential in PREFECT_API_AUTH_STRING is wrong" in message
    assert "set PREFECT_API_AUTH_STRING to the user:password of that server" in message
    assert "hunter2" not in message


async def test_a_missing_credential_is_reported(daybook_home: Home, asks: str) -> None:
    assert "no credential was sent" in str(await refused(asks, None))


async def test_the_error_names_daybook_env_for_the_server_of_up(
    daybook_home: Home, asks: str
) -> None:
    with home_lock.hold(daybook_home):
        daybook_home.up_file.write_text(json.dumps({"api_url": asks, "own_server": True}))
        assert 'eval "$(daybook env)"' in str(await refused(asks, "daybook:old"))


async def test_a_401_of_a_later_request_raises_the_same_error(
    daybook_home: Home, asks: str
) -> None:
    given = {PREFECT_API_URL: asks, PREFECT_API_AUTH_STRING: "a:b"}
    with temporary_settings(updates=given), pytest.raises(PrefectRefused):
        async with connection.connected() as client:
            (await client._client.get("/flows/1")).raise_for_status()


async def check(address: str) -> None:
    given = {PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: "ana:hunter2"}
    with temporary_settings(updates=given | {PREFECT_CLIENT_MAX_RETRIES: 0}):
        async with connection.connected() as client:
            await connection.check_connection(client)


async def test_a_403_is_reported_as_a_denied_access(daybook_home: Home, answers: Answers) -> None:
    answers.paths = {**as_prefect("3.8.8"), "/api/health": (403, {"detail": "Forbidden"})}
    with pytest.raises(PrefectRefused) as caught:
        await check(f"{answers.address}/api")
    assert "denies access (403): the credential in PREFECT_API_AUTH_STRING" in str(caught.value)
    assert unreachable(caught.value).message.endswith("denies access (403)")


@pytest.mark.parametrize("path", ["/api/health", "/api/admin/version"])
@pytest.mark.parametrize("status", [500, 502])
async def test_a_server_error_is_no_connection(
    daybook_home: Home, answers: Answers, path: str, status: int
) -> None:
    answers.paths = {**as_prefect("3.8.8"), path: (status, {"detail": "starting"})}
    with pytest.raises(PrefectUnreachable) as caught:
        await check(f"{answers.address}/api")
    assert f"/api does not answer: it returned status {status} starting; check that it" in str(
        caught.value
    )


async def test_a_server_without_a_version_is_a_connection(
    daybook_home: Home, answers: Answers
) -> None:
    answers.paths = {"/api/health": (200, True)}
    await check(f"{answers.address}/api")


def test_client_environment_has_the_prefect_settings_in_force(daybook_home: Home) -> None:
    given = {PREFECT_API_URL: "http://127.0.0.1:4999/api", PREFECT_API_AUTH_STRING: "a:b c"}
    with temporary_settings(updates=given):
        assert reach.client_environment() == {
            "PREFECT_API_URL": "http://127.0.0.1:4999/api",
            "PREFECT_API_AUTH_STRING": "a:b c",
            "DO_NOT_TRACK": "1",
        }
    with temporary_settings(updates={PREFECT_API_URL: None}), pytest.raises(PrefectUnreachable):
        reach.client_environment()


async def test_a_login_link_is_requested_only_from_the_server_of_up(
    daybook_home: Home, asks: str, answers: Answers
) -> None:
    daybook_home.ensure_credential()
    facts = {"api_url": asks, "ui_url": answers.address, "own_server": True}
    with home_lock.hold(daybook_home):
        daybook_home.up_file.write_text(json.dumps(facts))
        with pytest.raises(PrefectUnreachable):  # the fake server has no path for login links
            await browser.prefect_link()
        daybook_home.up_file.write_text(json.dumps({**facts, "own_server": False}))
        made = await browser.prefect_link()
    assert (made.url, made.expires_in_seconds) == (answers.address, None)
