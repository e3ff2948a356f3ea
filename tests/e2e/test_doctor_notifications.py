"""`daybook doctor` at a real Prefect: missing channels, broken destinations, callback secrets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from daybook.api import destinations as service
from daybook.delivery import destinations
from daybook.delivery.destination_settings import DEFAULT_TIMEOUT_SECONDS
from daybook.diagnosis.checks import delivery
from daybook.finding import Severity
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.operations import setup
from daybook.resources.store import create_in_prefect

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

HOOK = "https://ops.example.org/hook"


@pytest.fixture
async def client(prefect_server: Any, daybook_home: Home) -> AsyncIterator[Any]:
    """Yield a client of a Prefect that has no destination, before and after the test."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        await setup.prepare(client)
        await forget(client)
        yield client
        await forget(client)


async def forget(client: Any) -> None:
    for each in await destinations.STORE.documents(client):
        await destinations.STORE.remove(client, str(each.name))


async def add(home: Home, name: str, **fields: Any) -> None:
    address = f"sqlite+aiosqlite:///{home.path}/ledger.db"
    async with Ledger(address) as ledger, ledger.write() as session:
        job = new_job(now=ledger.now(), prompt="Hello?", name=name, on_demand=True, **fields)
        await store.add(session, job, name, ledger.now())


async def test_doctor_names_a_missing_channel_and_its_jobs(client: Any, daybook_home: Home) -> None:
    await add(daybook_home, "well", channel="inbox")
    assert await delivery.channels(client) == []
    await add(daybook_home, "brief", channel="gone")
    await add(daybook_home, "weekly", channel="gone")

    (problem,) = await delivery.channels(client)

    assert problem.message.startswith(
        'brief, weekly cannot send to the channel gone: channel: unknown "'
    )
    assert "daybook channels list" in problem.fix
    assert "daybook edit brief --channel" in problem.fix
    assert problem.severity is Severity.PROBLEM


@pytest.mark.slow
async def test_doctor_names_a_missing_alert_channel(
    client: Any, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALERT_CHANNEL", "gone")
    (problem,) = await delivery.channels(client)
    assert problem.message.startswith("alerts cannot reach the operator: ")
    assert "DAYBOOK_ALERT_CHANNEL" in problem.fix


async def test_doctor_warns_about_callbacks_signed_with_the_homes_secret(
    client: Any, daybook_home: Home
) -> None:
    await destinations.add(client, "ops", HOOK)
    await add(daybook_home, "known", on_fail=f"{HOOK}/deep")
    assert await delivery.destinations(client) == []

    await add(daybook_home, "brief", on_complete="https://else.example.org", on_fail=HOOK)

    (note,) = await delivery.destinations(client)
    assert note.message.startswith("callbacks of brief are signed")
    assert note.severity is Severity.WARNING
    assert "daybook callbacks destinations add" in note.fix
    assert not daybook_home.webhook_secret.exists()  # the check creates no secret

    daybook_home.webhook_secret.write_text("whsec_n0nsense\n")
    broken, _ = await delivery.destinations(client)
    assert broken.severity is Severity.PROBLEM
    assert str(daybook_home.webhook_secret) in broken.message
    assert broken.fix.startswith("mv ")
    assert "n0nsense" not in broken.message


async def test_doctor_names_an_invalid_destination_and_its_fix_repairs_it(
    client: Any, daybook_home: Home
) -> None:
    secret = "whsec_" + "A" * 32
    data = {"url": HOOK, "secret": secret, "timeout": 900}
    await create_in_prefect(client, await destinations.STORE.registered_type(client), "ops", data)
    (problem,) = await delivery.destinations(client)
    assert problem.message.startswith("the destination ops: timeout")
    assert problem.fix == f"daybook callbacks destinations add {HOOK} --name ops --replace"

    made = await service.add(HOOK, name="ops", replace=True)

    assert made.secret is None  # it keeps its secret
    destination = await destinations.STORE.find(client, "ops", include_secrets=True)
    assert destination is not None
    found = destinations.build("ops", dict(destination.data))
    assert (found.secret, found.timeout) == (secret, DEFAULT_TIMEOUT_SECONDS)
    assert await delivery.destinations(client) == []
