"""`daybook doctor` at a real Prefect: channels that are not there, and who signs callbacks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from daybook.api import destinations as service
from daybook.delivery import destinations
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.operations import setup
from daybook.operations.checks import delivery
from daybook.operations.findings import Severity
from daybook.resources import documents

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

HOOK = "https://ops.example.org/hook"


@pytest.fixture
async def client(prefect_server: Any, daybook_home: Home) -> AsyncIterator[Any]:
    """A Prefect that holds no destination, before and after."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        await setup.prepare(client)
        await forget(client)
        yield client
        await forget(client)


async def forget(client: Any) -> None:
    for each in await documents.list_documents(client, destinations.TYPE):
        await destinations.remove(client, str(each.name))


async def add(home: Home, name: str, **told: Any) -> None:
    address = f"sqlite+aiosqlite:///{home.path}/ledger.db"
    async with Ledger(address) as ledger, ledger.write() as session:
        job = new_job(now=ledger.now(), prompt="Hello?", name=name, on_demand=True, **told)
        await store.add(session, job, name, ledger.now())


async def test_a_channel_that_is_gone_is_named_with_its_jobs(
    client: Any, daybook_home: Home
) -> None:
    await add(daybook_home, "well", channel="inbox")
    assert await delivery.channels(client) == []
    await add(daybook_home, "brief", channel="gone")
    await add(daybook_home, "weekly", channel="gone")

    (problem,) = await delivery.channels(client)

    assert problem.message.startswith(
        'brief, weekly cannot notify the channel gone: channel: unknown "'
    )
    assert "daybook channels list" in problem.fix
    assert "daybook edit brief --channel" in problem.fix
    assert problem.severity is Severity.PROBLEM


@pytest.mark.slow
async def test_an_operators_channel_that_is_gone_is_named(
    client: Any, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALERT_CHANNEL", "gone")
    (problem,) = await delivery.channels(client)
    assert problem.message.startswith("alerts cannot reach the operator: ")
    assert "DAYBOOK_ALERT_CHANNEL" in problem.fix


async def test_callbacks_that_the_home_signs_are_a_note(client: Any, daybook_home: Home) -> None:
    await destinations.add(client, "ops", HOOK)
    await add(daybook_home, "known", on_fail=f"{HOOK}/deep")
    assert await delivery.destinations(client) == []

    await add(daybook_home, "brief", on_complete="https://else.example.org", on_fail=HOOK)

    (note,) = await delivery.destinations(client)
    assert note.message.endswith("callbacks of brief")
    assert note.severity is Severity.WARNING
    assert "daybook callbacks destinations add" in note.fix
    assert not daybook_home.webhook_secret.exists()  # a look makes none

    daybook_home.webhook_secret.write_text("whsec_n0nsense\n")
    broken, _ = await delivery.destinations(client)
    assert broken.severity is Severity.PROBLEM
    assert str(daybook_home.webhook_secret) in broken.message
    assert broken.fix.startswith("mv ")
    assert "n0nsense" not in broken.message


async def test_a_destination_that_was_broken_in_the_ui_is_named_and_mended(
    client: Any, daybook_home: Home
) -> None:
    secret = "whsec_" + "A" * 32
    data = {"url": HOOK, "secret": secret, "timeout": 900}
    await documents.save(client, destinations.TYPE, "ops", data)
    (problem,) = await delivery.destinations(client)
    assert problem.message.startswith("the destination ops: timeout")
    assert problem.fix == f"daybook callbacks destinations add {HOOK} --name ops --replace"

    made = await service.add(HOOK, name="ops", replace=True)

    assert made["secret"] is None  # it has the one that it had
    kept = await documents.find(client, destinations.TYPE, "ops", include_secrets=True)
    assert kept is not None
    found = destinations.build("ops", dict(kept.data))
    assert (found.secret, found.timeout) == (secret, destinations.DEFAULT_TIMEOUT_SECONDS)
    assert await delivery.destinations(client) == []
