"""Destinations of callbacks: the signing secret, token, timeout and number of attempts for a URL.

A destination is a block document of Daybook's own type, and Prefect encrypts its secret. A
destination applies to its own URL, with or without a query, and to every URL below its own. If
several destinations match, the destination with the longest path applies. The home's secret signs
callbacks to URLs without a destination (`home_secret`).

::

    https://ops.example.org/hook     applies to  …/hook  …/hook/a  …/hook?x=1     not to  …/hooks

Each Prefect client reads the destinations at most once a minute, and again after it has changed
one. The functions raise Prefect's connection errors, because a process that cannot read the
destinations cannot send, and retries later. Functions that change a destination also change its
copy in the ledger, and raise `LedgerUnreachable` if they cannot.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

import httpx

from daybook.delivery.destination_settings import (
    DEFAULT_ATTEMPTS,
    DEFAULT_TIMEOUT_SECONDS,
    DestinationSettings,
)
from daybook.delivery.home_secret import ROTATION_GRACE, new_secret, rotated, rotating_until
from daybook.errors import InvalidInput
from daybook.http.addresses import DEFAULT_PORTS
from daybook.instants import UtcTime
from daybook.json_text import JsonObject
from daybook.resources.store import BlockStore, DocumentView, block_data

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

log = logging.getLogger(__name__)

CACHE_SECONDS = 60.0
"""Time for which a client uses the destinations that it has read from Prefect."""


class DestinationInfo(DocumentView, frozen=True):
    """A stored destination, without its secrets.

    ``timeout`` is in seconds. If the stored block is invalid, ``problem`` is the reason, and
    ``url``, ``token``, ``timeout`` and ``tries`` are the unchecked JSON values in the block. Until
    ``rotating_until``, the previous secret also signs callbacks; None means that no rotation is in
    progress.
    """

    name: str
    url: Any
    token: Any
    timeout: Any
    tries: Any
    rotating_until: UtcTime | None
    problem: str | None


STORE = BlockStore(
    slug="daybook-destination",
    title="Daybook destination",
    noun="destination",
    model=DestinationSettings,
)


@dataclass(frozen=True)
class Destination:
    """A validated destination.

    ``name`` is empty if there is no destination for a URL; the home's secret signs its callbacks.
    """

    name: str = ""
    url: str = ""
    secret: str = field(default="", repr=False)
    previous_secret: str = field(default="", repr=False)
    previous_until: datetime | None = None
    token: str = ""
    timeout: float = DEFAULT_TIMEOUT_SECONDS
    tries: int = DEFAULT_ATTEMPTS

    def is_at(self, url: str) -> bool:
        """Return whether ``url`` is exactly the destination's URL, which has no query."""
        try:
            return str(httpx.URL(url)) == self.url
        except (httpx.InvalidURL, TypeError, ValueError):
            return False

    def secrets(self, now: datetime) -> list[str]:
        """Return the secrets that are valid at ``now``, newest first."""
        valid = [self.secret]
        if self.previous_secret and self.previous_until and now < self.previous_until:
            valid.append(self.previous_secret)
        return valid


def build(name: str, data: Mapping[str, Any]) -> Destination:
    """Return the destination with these stored settings.

    Raise `InvalidInput` if they are invalid.
    """
    stored = STORE.parse(name, data)
    if not stored.secret.get_secret_value():
        raise InvalidInput(
            "destination", f'"{name}" has no secret', "edit the block in Prefect's UI"
        )
    return Destination(
        name,
        stored.url,
        stored.secret.get_secret_value(),
        stored.previous_secret.get_secret_value(),
        stored.previous_until,
        stored.token,
        stored.timeout,
        stored.tries,
    )


# --- the destination of a URL

_UrlParts = tuple[str, str, int, str]
"""Scheme, host, port and path of a URL."""


@dataclass(frozen=True)
class DestinationIndex:
    """All destinations and their secrets, as they were at one time."""

    documents: tuple[tuple[_UrlParts, str, JsonObject], ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, documents: Iterable[BlockDocument]) -> Self:
        """Build the index from documents with secrets. Skip documents without a valid URL."""
        entries = [
            (parts, str(each.name), dict(each.data))
            for each in documents
            if (parts := _url_parts(str(each.data.get("url", "")))) is not None
        ]
        return cls(tuple(entries))

    def find(self, url: str) -> Destination | None:
        """Return the destination that applies to ``url``, or None.

        Raise `InvalidInput` if the settings of the destination are invalid.
        """
        parts = _url_parts(url) if self.documents else None
        matching = [each for each in self.documents if parts and _is_under(parts, each[0])]
        if not matching:
            return None
        _, name, data = max(matching, key=lambda each: (len(each[0][3]), each[1]))
        return build(name, data)


def _url_parts(url: str) -> _UrlParts | None:
    """Return the normalised parts of a URL. Return None if it is not a web address."""
    try:
        parsed = httpx.URL(url.strip())
    except (httpx.InvalidURL, TypeError, ValueError):
        return None
    if parsed.scheme not in DEFAULT_PORTS or not parsed.raw_host:
        return None
    path = parsed.raw_path.partition(b"?")[0].decode("ascii").rstrip("/")
    host = parsed.raw_host.decode("ascii").lower().removesuffix(".")
    return parsed.scheme, host, parsed.port or DEFAULT_PORTS[parsed.scheme], path


def _is_under(url: _UrlParts, base: _UrlParts) -> bool:
    path, base_path = url[3], base[3]
    return url[:3] == base[:3] and (path == base_path or path.startswith(f"{base_path}/"))


_read: WeakKeyDictionary[PrefectClient, tuple[float, DestinationIndex]] = WeakKeyDictionary()


async def load_index(client: PrefectClient) -> DestinationIndex:
    """Return all destinations. Use those that ``client`` has read in the last `CACHE_SECONDS`."""
    cached = _read.get(client)
    if cached is None or time.monotonic() - cached[0] > CACHE_SECONDS:
        documents = await STORE.documents(client, include_secrets=True)
        cached = _read[client] = (time.monotonic(), DestinationIndex.read(documents))
    return cached[1]


async def find(client: PrefectClient, url: str) -> Destination | None:
    """Return the destination that applies to ``url``, or None.

    Raise `InvalidInput` if its settings are invalid.
    """
    return (await load_index(client)).find(url)


# --- storage


async def list_destinations(client: PrefectClient, now: datetime) -> list[DestinationInfo]:
    """Return all destinations, sorted by name, without their secrets."""
    return [
        DestinationInfo.of(STORE, str(each.name), each.data, **unstored(each.data, now))
        for each in await STORE.documents(client)
    ]


def unstored(data: Mapping[str, Any], now: datetime) -> JsonObject:
    """Return the fields of `DestinationInfo` that are not copied from the stored settings."""
    return {"token": data.get("token") or "", "rotating_until": rotating_until(STORE, data, now)}


async def add(
    client: PrefectClient,
    name: str,
    url: str,
    *,
    secret: str | None = None,
    replace: bool = False,
    **settings: Any,
) -> Destination:
    """Save a destination, and return it. If ``secret`` is None, create a secret.

    ``settings`` are further fields of `DestinationSettings`. Raise `InvalidInput` for an invalid
    name, for invalid settings, for a URL that another destination has, and for a block type that is
    not registered. Without ``replace``, raise it also for a name that is in use.
    """
    checked = STORE.validate({"url": url, "secret": secret or new_secret()} | settings)
    await check_url(client, name, checked.url)
    return await _save(client, name, checked, replace=replace)


async def change(client: PrefectClient, name: str, changes: Mapping[str, Any]) -> Destination:
    """Change only the given settings of a destination, and return it.

    Raise `NotFound`, and the errors of `add` for settings.
    """
    document = await STORE.get(client, name, include_secrets=True)
    checked = STORE.validate({**document.data, **changes})
    await check_url(client, name, checked.url)
    return await _save(client, name, checked, replace=True)


async def check_url(client: PrefectClient, name: str, url: str) -> None:
    """Raise `InvalidInput` if another destination than ``name`` has this URL."""
    parts = _url_parts(url)
    for each in await STORE.documents(client):
        if each.name != name and _url_parts(str(each.data.get("url", ""))) == parts:
            raise InvalidInput(
                "url", f'"{each.name}" has the same URL', "change or remove that destination"
            )


async def rotate(
    client: PrefectClient, name: str, now: datetime, *, keep: timedelta = ROTATION_GRACE
) -> Destination:
    """Give the destination a new secret, and return the destination.

    The old secret also signs until ``keep`` has passed; zero expires all old secrets. Raise
    `NotFound`, and `InvalidInput` for invalid stored settings or, unless ``keep`` is zero, during
    another rotation.
    """
    document = await STORE.get(client, name, include_secrets=True)
    old = build(name, dict(document.data))
    changed = rotated(old.secrets(now), new_secret(), now, keep)
    return await _save(client, name, STORE.validate(document.data | changed), replace=True)


async def _save(
    client: PrefectClient, name: str, settings: DestinationSettings, *, replace: bool
) -> Destination:
    await STORE.save(client, name, settings, replace=replace)
    _read.pop(client, None)
    return build(name, block_data(settings))
