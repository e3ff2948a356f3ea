"""What can be asked of the destinations of callbacks: add, list, rotate, test, remove.

A secret is given once, by `add` and `rotate`, because its receiver checks signatures by it.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from daybook import home as homes
from daybook import settings
from daybook.api import views
from daybook.clock import SYSTEM
from daybook.delivery import backoff, destinations
from daybook.delivery import home_secret as secrets
from daybook.delivery.outbox import CALLBACK, lane_of_url
from daybook.errors import InvalidInput, NotFound
from daybook.http.guard import Guard, Rule
from daybook.http.secrets import Destination as Goes
from daybook.jobs import store
from daybook.ledger.engine import open_ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from daybook.resources import documents

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

TEST = {
    "version": 1,
    "event": "test",
    "corrects": None,
    "message": "This is a test of Daybook's callbacks; no run ended.",
}
"""The body of a test: what a callback's begins with."""


async def add(
    url: str,
    *,
    name: str | None = None,
    token: str | None = None,
    timeout: float = destinations.TIMEOUT,
    tries: int = backoff.TRIES,
    secret: str | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Keep a destination; without a ``secret`` one is made, and ``name`` is made of the address.

    With ``replace`` it takes the place of the one of that name, whose secret stays where none is
    given. `{"name", "url", "token", "timeout", "tries", "secret", "notes"}`; `secret` is there when
    it was made, notes are what a person should know. Raises `InvalidInput`; nothing is changed
    then.
    """
    from daybook.prefect import client as prefect

    name = name or _name(url)
    async with prefect.connected() as client:
        await prefect.answers(client)
        kept = secret or (await _secret_of(client, name) if replace else None)
        made = await destinations.add(
            client,
            name,
            url,
            secret=kept,
            token=token or "",
            timeout=timeout,
            tries=tries,
            replace=replace,
        )
        notes = await _token_notes(client, made)
    return {
        "name": made.name,
        "url": made.url,
        "token": made.token,
        "timeout": made.timeout,
        "tries": made.tries,
        "secret": None if kept else made.secret,
        "notes": notes,
    }


async def _secret_of(client: PrefectClient, name: str) -> str | None:
    """The secret of the one of that name, which may have no second one that is valid."""
    kept = await documents.named(client, destinations.TYPE, name, include_secrets=True)
    if kept is None:
        return None
    try:
        found = destinations.build(name, dict(kept.data))
    except InvalidInput:  # this mends it
        secret = str(kept.data.get("secret"))
        return secret if settings.signing_key(secret) else None
    secrets.refuse_third(found.secrets(SYSTEM.now()), secrets.OVERLAP)
    return found.secret


async def list_destinations() -> list[dict[str, Any]]:
    """All destinations by name, without a secret.

    ``[{"name", "url", "token", "timeout", "tries", "rotating_until", "problem", "jobs"}]``:
    `timeout` in seconds, `rotating_until` is how long the secret before signs as well, `jobs` are
    the names of those that call it.
    """
    from daybook.prefect import client as prefect

    async with open_ledger() as ledger, ledger.read() as session:
        stored = await store.every(session)
    async with prefect.connected() as client:
        await prefect.answers(client)
        known = await destinations.known(client)
        found = await destinations.every(client, SYSTEM.now())
    users: dict[str, list[str]] = {}
    for each in stored:
        for name in {_name_of(known, url) for url in views.callbacks(each.job.notify)}:
            users.setdefault(name, []).append(each.row.name)
    return [
        each
        | {
            "rotating_until": views.utc(each["rotating_until"]),
            "jobs": users.get(each["name"], []),
        }
        for each in found
    ]


def home_secret() -> str:
    """Where the secret stands that signs for the addresses without one of their own."""
    if settings.load().webhook_secret.get_secret_value():
        return "DAYBOOK_WEBHOOK_SECRET"
    return str(homes.here().webhook_secret)


async def rotate(name: str | None, *, at_once: bool = False) -> dict[str, Any]:
    """Give a destination, or the home where ``name`` is None, a new secret.

    `{"name", "secret", "rotating_until"}`: until then the old one signs as well, unless it ends
    ``at_once``. Raises `NotFound`, and `InvalidInput` while an earlier rotation lasts.
    """
    from daybook.prefect import client as prefect

    now, keep = SYSTEM.now(), timedelta() if at_once else secrets.OVERLAP
    if name is None:
        secret = secrets.rotate_default(homes.here(), now, keep=keep)
    else:
        async with prefect.connected() as client:
            await prefect.answers(client)
            secret = (await destinations.rotate(client, name, now, keep=keep)).secret
    until = None if at_once else views.utc(now + keep)
    return {"name": name, "secret": secret, "rotating_until": until}


async def test(ref: str) -> dict[str, Any]:
    """Send a signed event `test`, once: to a destination's own address, or to any.

    `{"id", "url", "ok", "status_code", "seconds", "error", "note"}`: `id` is its `webhook-id`.
    Raises `NotFound` for the name, `InvalidInput` for the address.
    """
    from daybook.delivery.callbacks import Post
    from daybook.prefect import client as prefect

    async with prefect.connected() as client:
        await prefect.answers(client)
        url = ref if "://" in ref else await _url_of(client, ref)
        Guard.here(Rule.OPERATOR).check(url)
        now = SYSTEM.now()
        row = OutboxRow(
            key="test",
            purpose=CALLBACK,
            event="test",
            lane=lane_of_url(url),
            address=url,
            body=json.dumps(TEST),
            next_at=now,
            created_at=now,
        )
        async with Post(client, SYSTEM.now) as post:
            tried = await post.send(row)
    return {
        "id": row.id,
        "url": row.lane,
        "ok": tried.status == Delivery.DELIVERED,
        "status_code": tried.status_code,
        "seconds": round(tried.seconds, 3),
        "error": tried.error,
        "note": tried.note,
    }


async def remove(name: str) -> list[str]:
    """Forget a destination; raises `NotFound`. Returns the jobs whose callbacks went by it."""
    from daybook.prefect import client as prefect

    users: list[str] = next(
        (each["jobs"] for each in await list_destinations() if each["name"] == name), []
    )
    async with prefect.connected() as client:
        await prefect.answers(client)
        await destinations.remove(client, name)
    return users


async def _url_of(client: PrefectClient, name: str) -> str:
    for each in await destinations.every(client, SYSTEM.now()):
        if each["name"] == name:
            return str(each["url"])
    raise NotFound("destination", name)


def _name_of(known: destinations.Known, url: str) -> str:
    """The name of the address's destination; empty where there is none that can be used."""
    try:
        found = known.of(url)
    except InvalidInput:  # its problem is shown
        return ""
    return found.name if found else ""


def _name(url: str) -> str:
    """Made of the address: `ops-example-org-hook`."""
    from slugify import slugify

    return slugify(url.partition("://")[2].partition("?")[0], max_length=64) or "destination"


async def _token_notes(client: PrefectClient, made: destinations.Destination) -> list[str]:
    """What to do about a token that is not there, or not for that host."""
    from daybook.resources import secrets as secret_blocks

    if not made.token:
        return []
    goes = Goes.of_url(Guard(Rule.OPERATOR).check(made.url))
    for each in await secret_blocks.every(client):
        if each["name"] == made.token:
            if each["problem"] or goes.known_as.isdisjoint(each["hosts"]):
                # All of its hosts: --replace forgets those that are not given again.
                keep = _keep(made.token, [*each["hosts"], goes.shown], " --replace")
                return [f"the secret {made.token} does not go to {goes.shown}; {keep} binds it"]
            return []
    keep = _keep(made.token, [goes.shown])
    return [f"the secret {made.token} does not exist yet, so callbacks there fail; {keep} keeps it"]


def _keep(secret: str, hosts: list[str], more: str = "") -> str:
    bound = "".join(f" --host {each}" for each in hosts)
    return f"`daybook secrets add {secret}{bound}{more}`"
