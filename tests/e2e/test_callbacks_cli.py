"""`daybook callbacks destinations`, and deliveries of a run, with a real Prefect and receiver.

The tests check signatures with Python's own `hmac`, not with the library that makes them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from daybook.clock import SYSTEM_CLOCK
from daybook.delivery import destinations
from daybook.home import Home
from daybook.operations import setup
from daybook.resources import secrets
from daybook.runs import claims
from tests.at_prefect import typed, with_client
from tests.commands import DaybookJson
from tests.receiver import Receiver, Request, answer, serving
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
TOKEN = "t0k3n-of-the-receiver"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(serving()) as server,
    ):
        yield server


def hook(receiver: Receiver) -> str:
    return f"{receiver.address}/hook"


def valid(secret: str, request: Request) -> bool:
    """Return whether one of the request's signatures was made with this secret."""
    headers, body = request.headers, request.body
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    made = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return f"v1,{made}" in headers["webhook-signature"].split(" ")


async def forget(client: Any) -> None:
    for each in await destinations.list_destinations(client, SYSTEM_CLOCK.now()):
        await destinations.STORE.remove(client, each.name)
    for secret in await secrets.list_secrets(client):
        await secrets.STORE.remove(client, secret.name)


@pytest.fixture
def prepared(prefect_server: Any, daybook_home: Home) -> Iterator[Home]:
    """Yield a home whose Prefect has no destination and no secret, before and after the test."""
    with_client(setup.prepare)
    with_client(forget)
    yield daybook_home
    with_client(forget)


DESTINATIONS = ("callbacks", "destinations")


def test_a_destination_signs_with_its_own_secret_and_rotates_it(
    daybook_json: DaybookJson, receiver: Receiver
) -> None:
    made = daybook_json(*DESTINATIONS, "add", hook(receiver), "--timeout", "20s", "--tries", "3")
    name, first = made["name"], made["secret"]
    assert name == f"127-0-0-1-{receiver.port}-hook"
    assert made == {
        "name": name,
        "url": hook(receiver),
        "token": "",
        "timeout": 20.0,
        "tries": 3,
        "rotating_until": None,
        "problem": None,
        "jobs": [],
        "secret": first,
        "notes": [],
    }

    tried = daybook_json(*DESTINATIONS, "test", name)
    assert (tried["ok"], tried["status_code"], tried["error"]) == (True, 200, "")
    headers, body = receiver.requests[-1].headers, receiver.requests[-1].body
    assert (headers["webhook-id"], headers["x-cronevent"]) == (tried["id"], "test")
    assert json.loads(body).keys() == {"version", "event", "corrects", "message"}
    assert valid(first, receiver.requests[-1])

    rotated = daybook_json(*DESTINATIONS, "rotate", name)
    until = datetime.fromisoformat(rotated["rotating_until"])
    assert timedelta(hours=23) < until - SYSTEM_CLOCK.now() <= timedelta(hours=24)
    (listed,) = daybook_json(*DESTINATIONS, "list")
    assert listed["rotating_until"] == rotated["rotating_until"]
    daybook_json(*DESTINATIONS, "test", name)
    assert valid(first, receiver.requests[-1])
    assert valid(rotated["secret"], receiver.requests[-1])

    refused = daybook_json(*DESTINATIONS, "rotate", name, code=2)["error"]["message"]
    assert "--now" in refused
    last = daybook_json(*DESTINATIONS, "rotate", name, "--now")
    assert last["rotating_until"] is None
    daybook_json(*DESTINATIONS, "test", name)
    assert [valid(each, receiver.requests[-1]) for each in (first, rotated["secret"])] == [
        False,
        False,
    ]
    assert valid(last["secret"], receiver.requests[-1])


def test_a_list_of_destinations_names_their_jobs_and_shows_no_secret(
    daybook_json: DaybookJson, receiver: Receiver
) -> None:
    secret = daybook_json(*DESTINATIONS, "add", hook(receiver), "--name", "ops")["secret"]
    job = daybook_json("add", "Hello", "--on-demand", "--on-fail", f"{hook(receiver)}/deep?x=1")
    other = daybook_json("add", "Hi", "--on-demand", "--on-fail", f"{hook(receiver)}s")
    shown = typed(*DESTINATIONS, "list")
    assert "ops" in shown.stdout
    assert secret not in shown.stdout + shown.stderr
    assert "webhook-secret" in shown.stderr
    (listed,) = daybook_json(*DESTINATIONS, "list")
    assert (listed["name"], listed["jobs"]) == ("ops", [job["name"]])
    assert listed.keys() == {
        *("name", "url", "token", "timeout", "tries", "rotating_until", "problem", "jobs")
    }
    assert other["name"] not in listed["jobs"]
    edited = typed("edit", other["id"], "--channel", "inbox", "--on-fail", "")
    assert "notifies  completed, failed → inbox" in edited.stdout
    assert daybook_json(*DESTINATIONS, "remove", "ops") == {"removed": "ops", "jobs": [job["name"]]}
    assert daybook_json(*DESTINATIONS, "list") == []


def test_a_callback_without_a_destination_is_signed_with_the_homes_secret(
    daybook_json: DaybookJson, prepared: Home, receiver: Receiver
) -> None:
    receiver.steps = [answer(500)]
    tried = daybook_json(*DESTINATIONS, "test", f"{hook(receiver)}?token=abc", code=1)
    assert (tried["ok"], tried["status_code"], tried["url"]) == (False, 500, hook(receiver))
    assert "500" in tried["error"]
    assert "home's secret" in tried["note"]
    first = prepared.webhook_secret.read_text().strip()
    assert valid(first, receiver.requests[-1])

    new = daybook_json(*DESTINATIONS, "rotate", "--home")["secret"]
    receiver.steps = [answer(204)]
    assert daybook_json(*DESTINATIONS, "test", hook(receiver))["status_code"] == 204
    assert valid(first, receiver.requests[-1])
    assert valid(new, receiver.requests[-1])


def test_a_destinations_token_is_a_secret_bound_to_its_host(
    daybook_json: DaybookJson, receiver: Receiver
) -> None:
    made = daybook_json(
        *DESTINATIONS, "add", hook(receiver), "--name", "ops", "--token", "ops-token"
    )
    (note,) = made["notes"]
    assert f"daybook secrets add ops-token --host {receiver.host}" in note
    assert "ops-token" in daybook_json(*DESTINATIONS, "test", "ops", code=1)["error"]
    assert receiver.requests == []

    result = typed("secrets", "add", "ops-token", "--host", receiver.host, given=TOKEN)
    assert result.returncode == 0, result.stderr
    again = daybook_json(
        *(*DESTINATIONS, "add", hook(receiver), "--name", "ops"),
        *("--token", "ops-token", "--tries", "2", "--replace"),
    )
    assert (again["notes"], again["secret"], again["tries"]) == (
        [],
        None,
        2,
    )  # the destination keeps its secret
    daybook_json(*DESTINATIONS, "test", "ops")
    headers = receiver.requests[-1].headers
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert valid(made["secret"], receiver.requests[-1])

    refused = daybook_json("secrets", "remove", "ops-token", code=2)["error"]["message"]
    assert "the destination ops" in refused


def test_a_secret_is_read_from_standard_input_and_never_printed(
    prepared: Home, receiver: Receiver
) -> None:
    add = (*DESTINATIONS, "add", hook(receiver), "--name", "ops")
    output = typed(*add, "--secret-from-stdin", given=f"{SECRET}\n")
    assert output.returncode == 0, output.stderr
    tried = typed(*DESTINATIONS, "test", "ops")
    assert tried.returncode == 0, tried.stderr
    assert valid(SECRET, receiver.requests[-1])
    for each in (output, tried, typed(*DESTINATIONS, "list", "--json")):
        assert SECRET not in each.stdout + each.stderr


@pytest.mark.timeout(300)
def test_a_refused_command_stores_nothing_and_repeats_no_secret(
    prepared: Home, receiver: Receiver
) -> None:
    add, bad = (*DESTINATIONS, "add", hook(receiver)), SECRET.replace("whsec_", "wsec_")
    for tokens, given, code, words in (
        ((*add, "--secret-from-stdin"), bad, 2, "whsec_ followed by 24 to 64 bytes"),
        ((*add, "--secret-from-stdin"), "", 2, "standard input is empty"),
        ((*add, "--secret", SECRET), "", 2, "cannot be passed on the command line"),
        ((*add, "--timeout", "5"), "", 2, "--timeout"),
        ((*add, "--timeout", "2m"), "", 2, "--timeout"),
        ((*add, "--tries", "0"), "", 2, "--tries"),
        ((*add, "--name", "Ops"), "", 2, "--name"),
        ((*DESTINATIONS, "add", f"{hook(receiver)}?token=abc"), "", 2, "query"),
        ((*DESTINATIONS, "add", "http://169.254.169.254/x"), "", 2, "metadata"),
        ((*DESTINATIONS, "test", "nobody"), "", 3, 'destination "nobody" not found'),
        ((*DESTINATIONS, "test", "http://169.254.169.254/x"), "", 2, "metadata"),
        ((*DESTINATIONS, "rotate", "nobody"), "", 3, 'destination "nobody" not found'),
        ((*DESTINATIONS, "rotate"), "", 2, "--home"),
        ((*DESTINATIONS, "remove", "nobody"), "", 3, 'destination "nobody" not found'),
    ):
        output = typed(*tokens, given=given)
        assert (output.returncode, output.stdout) == (code, ""), output
        assert words in output.stderr, output.stderr
        assert SECRET[6:] not in output.stderr
    assert typed(*DESTINATIONS, "list", "--json").stdout == "[]\n"
    assert receiver.requests == []


# --- runs


async def asked_to_wait(name: str, request_id: str, *more: str) -> tuple[int, str]:
    """Return code and output of `daybook run NAME --wait` for the run of an earlier request."""
    command = ["run", name, "--wait", "--request-id", request_id, *more]
    done = await asyncio.to_thread(typed, *command)
    return done.returncode, done.stdout


@pytest.mark.floor("C", "A failing receiver does not change the run's status")
@pytest.mark.anyio
@pytest.mark.parametrize(("receives", "delivery"), [(200, "delivered"), (500, "pending")])
async def test_run_wait_shows_the_deliveries_and_exits_with_the_runs_code(
    world: PrefectWorld, receives: int, delivery: str
) -> None:
    async with serving() as receiver:
        receiver.steps = [answer(receives)]
        agent = await world.agents.add("print('Yes.')")
        url = f"{receiver.address}/hook"
        job = await world.deploy(
            on_demand=True, agent=agent.name, on_complete=url, channel="inbox", events=["completed"]
        )
        row = await claims.request(world.ledger, job, "once", "manual")
        run = await world.prefect.keyed_run(job, f"{world.ledger.id}:{row.occurrence}:1")
        await claims.link_prefect_run(world.ledger, row, str(run.id))
        await world.executions.complete_here(run)

        ended, output = await asked_to_wait(job.row.name, "once", "--json")
        text_code, words = await asked_to_wait(job.row.name, "once")

    found = json.loads(output)
    assert (ended, text_code) == (0, 0)
    assert (found["status"], found["delivery"]) == ("succeeded", delivery)
    assert {each["to"]: each["status"] for each in found["deliveries"]} == {
        "inbox": "delivered",
        url: delivery,
    }
    assert "inbox: delivered" in words
    assert f"{url}: {delivery}" in words
