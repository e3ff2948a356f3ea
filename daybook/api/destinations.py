"""Operations on callback destinations: add, list, rotate, test, remove.

`rotate` returns a new secret, and `add` returns the secret if it has created one. The receiver
needs the secret to verify signatures. No other operation returns a secret.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from daybook import home as homes
from daybook import settings as home_settings
from daybook.api.documents import Documents, stored_jobs
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery import destinations
from daybook.delivery import home_secret as secrets
from daybook.delivery.callbacks import CallbackSender
from daybook.delivery.outbox import CALLBACK, queue_of_url
from daybook.errors import InvalidInput, NotFound
from daybook.http.guard import Guard, Rule
from daybook.http.secrets import SecretDestination
from daybook.instants import UtcTime
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from daybook.prefect import client as prefect
from daybook.resources import secrets as secret_blocks
from daybook.signing_secrets import signing_key

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

TEST_EVENT = {
    "version": 1,
    "event": "test",
    "corrects": None,
    "message": "This is a test of Daybook's callbacks; no run ended.",
}
"""The body of a test event. It has the first fields of a callback's body, and a message."""


class DestinationDetails(destinations.DestinationInfo, frozen=True):
    """A destination with the names of the jobs that call it."""

    jobs: list[str]


class SavedDestination(DestinationDetails, frozen=True):
    """A destination that was stored, with hints for the user in ``notes``.

    ``secret`` is None unless this call created it.
    """

    secret: str | None = Field(repr=False)
    notes: list[str]


class RotatedSecret(BaseModel, frozen=True):
    """A new secret of a destination, or of the home if ``name`` is None.

    Until ``rotating_until``, callbacks are also signed with the old secret. ``rotating_until`` is
    None if the old secret stopped signing at once.
    """

    name: str | None
    secret: str = Field(repr=False)
    rotating_until: UtcTime | None


class DestinationTest(BaseModel, frozen=True):
    """Result of a test event. ``id`` is the value of its header `webhook-id`.

    ``status_code`` is None if no response arrived. ``error`` is empty if ``ok`` is true.
    """

    id: str
    url: str
    ok: bool
    status_code: int | None
    seconds: float
    error: str | None
    note: str


async def add(
    url: str,
    *,
    name: str | None = None,
    secret: str | None = None,
    replace: bool = False,
    **settings: Any,
) -> SavedDestination:
    """Store a destination, and return it.

    If ``name`` is missing, derive it from the URL. If ``secret`` is missing, create one. With
    ``replace``, replace the destination with this name; if ``secret`` is missing, keep the stored
    secret. ``settings`` are the other fields of `DestinationSettings`. Raise `InvalidInput`; after
    this error, nothing was changed.
    """
    if not name:
        from slugify import slugify

        name = slugify(url.partition("://")[2].partition("?")[0], max_length=64) or "destination"
    async with prefect.answering() as client:
        known_secret = secret or (await _secret_of(client, name) if replace else None)
        made = await destinations.add(
            client, name, url, secret=known_secret, replace=replace, **settings
        )
        return SavedDestination(
            **dict(await DOCUMENTS.read(client, made.name)),
            secret=None if known_secret else made.secret,
            notes=await _token_notes(client, made),
        )


async def _secret_of(client: PrefectClient, name: str) -> str | None:
    """Return the destination's secret, or None if it has no usable secret.

    Raise `InvalidInput` during a rotation.
    """
    document = await destinations.STORE.find(client, name, include_secrets=True)
    if document is None:
        return None
    try:
        destination = destinations.build(name, dict(document.data))
    except InvalidInput:  # the replacement fixes the stored settings
        secret = str(document.data.get("secret"))
        return secret if signing_key(secret) else None
    secrets.check_rotation(destination.secrets(SYSTEM_CLOCK.now()), secrets.ROTATION_GRACE)
    return destination.secret


class _Destinations(Documents[DestinationDetails]):
    """The destinations, and the jobs that call each of them."""

    async def more(
        self, client: PrefectClient, documents: Sequence[BlockDocument]
    ) -> Callable[[str, Mapping[str, Any]], Mapping[str, Any]]:
        known, now = await destinations.load_index(client), SYSTEM_CLOCK.now()
        users: dict[str, list[str]] = {}
        for each in await stored_jobs():
            for name in {_name_of(known, url) for url in each.job.notify.callbacks.values() if url}:
                users.setdefault(name, []).append(each.row.name)
        return lambda name, data: {
            **destinations.unstored(data, now),
            "jobs": users.get(name, []),
        }

    async def edit(self, name: str, changes: Mapping[str, Any]) -> DestinationDetails:
        async with prefect.answering() as client:
            await destinations.change(client, name, changes)
            return await self.read(client, name)


DOCUMENTS = _Destinations(destinations.STORE, DestinationDetails)
list_destinations = DOCUMENTS.list


def home_secret_location() -> str:
    """Return the variable or file with the secret that signs where a destination has none."""
    if home_settings.load().webhook_secret.get_secret_value():
        return "DAYBOOK_WEBHOOK_SECRET"
    return str(homes.current_home().webhook_secret)


async def rotate(name: str | None, *, at_once: bool = False) -> RotatedSecret:
    """Create a new secret for a destination, or for the home if ``name`` is None.

    With ``at_once``, stop signing with the old secret now; otherwise both secrets sign for
    `secrets.ROTATION_GRACE`. Raise `NotFound` for an unknown name. Raise `InvalidInput` for invalid
    stored settings, and if the setting `webhook_secret` contains the home's secret. Raise it also
    during an earlier rotation, unless ``at_once`` is true.
    """
    now, keep = SYSTEM_CLOCK.now(), timedelta() if at_once else secrets.ROTATION_GRACE
    if name is None:
        secret = secrets.rotate_default(homes.current_home(), now, keep=keep)
    else:
        async with prefect.answering() as client:
            secret = (await destinations.rotate(client, name, now, keep=keep)).secret
    until = None if at_once else now + keep
    return RotatedSecret(name=name, secret=secret, rotating_until=until)


async def test(ref: str) -> DestinationTest:
    """Send one signed `test` event to the destination or URL ``ref``. Return the result.

    Raise `NotFound` for an unknown name, and `InvalidInput` for an invalid URL.
    """
    async with prefect.answering() as client:
        url = ref if "://" in ref else await _url_of(client, ref)
        Guard.from_settings(Rule.OPERATOR).check(url)
        now = SYSTEM_CLOCK.now()
        row = OutboxRow(
            key="test",
            purpose=CALLBACK,
            event="test",
            queue=queue_of_url(url),
            address=url,
            body=json.dumps(TEST_EVENT),
            next_at=now,
            created_at=now,
        )
        async with CallbackSender(client, SYSTEM_CLOCK.now) as post:
            tried = await post.send(row)
    return DestinationTest(
        id=row.id,
        url=row.queue,
        ok=tried.status == Delivery.DELIVERED,
        status_code=tried.status_code,
        seconds=round(tried.seconds, 3),
        error=tried.error,
        note=tried.note,
    )


async def remove(name: str) -> list[str]:
    """Delete a destination; return the names of the jobs that used it. Raise `NotFound`."""
    users = next((each.jobs for each in await list_destinations() if each.name == name), [])
    await DOCUMENTS.remove(name)
    return users


async def _url_of(client: PrefectClient, name: str) -> str:
    listed = await destinations.list_destinations(client, SYSTEM_CLOCK.now())
    for each in listed:
        if each.name == name:
            return str(each.url)
    raise NotFound("destination", name, known=[each.name for each in listed])


def _name_of(known: destinations.DestinationIndex, url: str) -> str:
    """Return the name of the destination for the URL; empty if no destination can be used."""
    try:
        destination = known.find(url)
    except InvalidInput:  # `DestinationInfo.problem` reports it
        return ""
    return destination.name if destination else ""


async def _token_notes(client: PrefectClient, made: destinations.Destination) -> list[str]:
    """Return hints for a token that does not exist or is not bound to the destination's host."""
    if not made.token:
        return []
    target = SecretDestination.of_url(Guard(Rule.OPERATOR).check(made.url))
    for each in await secret_blocks.list_secrets(client):
        if each.name == made.token:
            # The hosts of an edited block need not be a list.
            hosts = each.hosts if isinstance(each.hosts, list) else []
            if each.problem or target.known_as.isdisjoint(hosts):
                # List all hosts, because --replace removes the hosts that are not given again.
                fix = _add_secret_command(made.token, [*hosts, target.shown], " --replace")
                return [
                    f"the secret {made.token} is not bound to {target.shown}; bind it with {fix}"
                ]
            return []
    fix = _add_secret_command(made.token, [target.shown])
    return [f"the secret {made.token} does not exist, so callbacks fail; add it with {fix}"]


def _add_secret_command(secret: str, hosts: list[str], more: str = "") -> str:
    bound = "".join(f" --host {each}" for each in hosts)
    return f"`daybook secrets add {secret}{bound}{more}`"
