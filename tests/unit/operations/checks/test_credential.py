"""A Prefect that asks for another credential: said with what to set, and the exit code 4."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from daybook.errors import PrefectRefused, PrefectUnreachable
from daybook.home import Home
from daybook.operations import browser, home_lock
from daybook.prefect import address as reach
from daybook.prefect import client as connection
from tests.unit.operations.checks.conftest import Answers, as_prefect

UNAUTHORIZED = (401, {"exception_message": "Unauthorized"})


@pytest.fixture
def asks(answers: Answers) -> Iterator[str]:
    """The address of a Prefect that answers its health check, and refuses the rest."""
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
    )  # what is stored here is brought there later
    assert address in str(caught.value)
    return caught.value


async def test_a_wrong_credential_is_said_and_not_shown(daybook_home: Home, asks: str) -> None:
    told = str(await refused(asks, "ana:hunter2"))
    assert "the credential in PREFECT_API_AUTH_STRING is wrong" in told
    assert "set PREFECT_API_AUTH_STRING to the user:password of that server" in told
    assert "hunter2" not in told


async def test_a_missing_credential_is_said(daybook_home: Home, asks: str) -> None:
    assert "no credential was sent" in str(await refused(asks, None))


async def test_for_the_own_server_the_command_is_named(daybook_home: Home, asks: str) -> None:
    with home_lock.hold(daybook_home):
        daybook_home.up_file.write_text(json.dumps({"api_url": asks, "own_server": True}))
        assert 'eval "$(daybook env)"' in str(await refused(asks, "daybook:old"))


async def test_a_refusal_in_the_middle_is_the_same_error(daybook_home: Home, asks: str) -> None:
    given = {PREFECT_API_URL: asks, PREFECT_API_AUTH_STRING: "a:b"}
    with temporary_settings(updates=given), pytest.raises(PrefectRefused):
        async with connection.connected() as client:
            (await client._client.get("/flows/1")).raise_for_status()


def test_the_variables_for_other_programs_are_those_in_force(daybook_home: Home) -> None:
    given = {PREFECT_API_URL: "http://127.0.0.1:4999/api", PREFECT_API_AUTH_STRING: "a:b c"}
    with temporary_settings(updates=given):
        assert reach.client_environment() == {
            "PREFECT_API_URL": "http://127.0.0.1:4999/api",
            "PREFECT_API_AUTH_STRING": "a:b c",
            "DO_NOT_TRACK": "1",
        }
    with temporary_settings(updates={PREFECT_API_URL: None}), pytest.raises(PrefectUnreachable):
        reach.client_environment()


async def test_a_link_to_the_own_server_needs_its_credential(
    daybook_home: Home, asks: str, answers: Answers
) -> None:
    daybook_home.ensure_credential()
    facts = {"api_url": asks, "ui_url": answers.address, "own_server": True}
    with home_lock.hold(daybook_home):
        daybook_home.up_file.write_text(json.dumps(facts))
        with pytest.raises(PrefectUnreachable):  # what listens there knows no such path
            await browser.link()
        daybook_home.up_file.write_text(json.dumps({**facts, "own_server": False}))
        made = await browser.link()
    assert made == {"url": answers.address, "expires_in_seconds": None}
