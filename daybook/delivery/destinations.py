"""Destinations of callbacks: who signs for an address, with what token, how long and how often.

One is a block document of a type of ours, whose secret Prefect encrypts. It is for every address
that begins with its own, up to a slash: of several the longest. An address without one is signed
with the home's secret (`home_secret`).

::

    https://ops.example.org/hook     is for  …/hook  …/hook/a  …/hook?x=1     not for  …/hooks

They are read once a minute and process. Prefect's own errors of connection are let through: who
cannot read them cannot send, and tries again later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

import httpx
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

from daybook import settings
from daybook.delivery import backoff
from daybook.delivery.home_secret import OVERLAP, new_secret, refuse_third
from daybook.errors import InvalidInput, NotFound
from daybook.http.addresses import PORTS
from daybook.http.guard import Guard, Rule
from daybook.resources import documents as block_documents
from daybook.resources.documents import BlockType

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

log = logging.getLogger(__name__)

SLUG = "daybook-destination"
TITLE = "Daybook destination"
DESCRIPTION = "Where callbacks go: the secret that signs them, a token, a timeout, the tries."
TYPE = BlockType(SLUG, TITLE, "destination")

TIMEOUT = 15.0
LONGEST_TIMEOUT = 45.0
"""Shorter than the lease on a row: who hangs so long does not lose it."""
MOST_TRIES = 20
FRESH = 60.0
"""Seconds for which what was read of Prefect is taken for true."""


class DestinationSettings(BaseModel):
    """One destination."""

    model_config = ConfigDict(extra="ignore")

    url: str = Field(
        description="An address without a query: it is for all that begin so, up to a slash.",
    )
    secret: SecretStr = Field(description="Signs the callbacks: whsec_…, as Standard Webhooks say.")
    previous_secret: SecretStr = Field(
        default=SecretStr(""),
        description="The secret before: it signs as well while a rotation lasts.",
    )
    previous_until: AwareDatetime | None = Field(
        default=None, description="Until when it does. Empty: it does not."
    )
    token: str = Field(
        default="",
        description="The name of a Daybook secret, bound to this host, that is sent as "
        "Authorization: Bearer. Empty: none.",
    )
    timeout: float = Field(
        default=TIMEOUT, ge=1, le=LONGEST_TIMEOUT, description="How many seconds one try may take."
    )
    tries: int = Field(
        default=backoff.TRIES, ge=1, le=MOST_TRIES, description="How often a callback is tried."
    )

    @field_validator("url")
    @classmethod
    def _an_address(cls, value: str) -> str:
        try:
            url = Guard(Rule.OPERATOR).check(value.strip())
        except InvalidInput as error:
            raise ValueError(f"{error.problem}; {error.hint}") from None
        if url.query or url.fragment:
            raise ValueError("has a query or a fragment; leave it out")
        return str(url)

    @field_validator("secret", "previous_secret")
    @classmethod
    def _a_secret(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        # A list of documents has asterisks in its place.
        if text.strip("*") and not settings.signing_key(text):
            raise ValueError(f"is none; {settings.LEGAL_SECRET}")
        return value


@dataclass(frozen=True)
class Destination:
    """One that can be used. ``name`` is empty for what is sent by the home's own settings."""

    name: str = ""
    url: str = ""
    secret: str = field(default="", repr=False)
    previous_secret: str = field(default="", repr=False)
    previous_until: datetime | None = None
    token: str = ""
    timeout: float = TIMEOUT
    tries: int = backoff.TRIES

    def is_at(self, url: str) -> bool:
        """Whether ``url`` is its own address and not one below it."""
        try:
            return str(httpx.URL(url)) == self.url
        except (httpx.InvalidURL, TypeError, ValueError):
            return False

    def secrets(self, now: datetime) -> list[str]:
        """Those that are valid at ``now``, the newest first."""
        known = [self.secret]
        if self.previous_secret and self.previous_until and now < self.previous_until:
            known.append(self.previous_secret)
        return known


def build(name: str, data: dict[str, Any]) -> Destination:
    """The destination of stored settings; raises `InvalidInput` when they are not legal.

    A block edited in the Prefect UI is not checked by the server, so this is where it shows.
    """
    try:
        found = DestinationSettings.model_validate(data)
        if not found.secret.get_secret_value():
            raise InvalidInput("destination", f'"{name}" has no secret', "mend the block")
    except ValidationError as error:
        where, problem = block_documents.problem(error)
        raise InvalidInput(
            "destination", f'"{name}": {where}: {problem}', "mend the block"
        ) from None
    return Destination(
        name,
        found.url,
        found.secret.get_secret_value(),
        found.previous_secret.get_secret_value(),
        found.previous_until,
        found.token,
        found.timeout,
        found.tries,
    )


# --- which one an address has

_Place = tuple[str, str, int, str]
"""Scheme, host, port and path of an address."""


@dataclass(frozen=True)
class Known:
    """All destinations, with their secrets, as they were read at one moment."""

    documents: tuple[tuple[_Place, str, dict[str, Any]], ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, documents: Iterable[BlockDocument]) -> Self:
        """Of documents with their secrets; one without an address is for none."""
        placed = [
            (place, str(each.name), dict(each.data))
            for each in documents
            if (place := _place(str(each.data.get("url", "")))) is not None
        ]
        return cls(tuple(placed))

    def of(self, url: str) -> Destination | None:
        """That of ``url``; None where it has none. Raises `InvalidInput` where its settings are
        bad.
        """
        wanted = _place(url) if self.documents else None
        fitting = [each for each in self.documents if wanted and _within(wanted, each[0])]
        if not fitting:
            return None
        _, name, data = max(fitting, key=lambda each: (len(each[0][3]), each[1]))
        return build(name, data)


def _place(url: str) -> _Place | None:
    """In its normal form; None of what is no web address."""
    try:
        parsed = httpx.URL(url.strip())
    except (httpx.InvalidURL, TypeError, ValueError):
        return None
    if parsed.scheme not in PORTS or not parsed.raw_host:
        return None
    path = parsed.raw_path.partition(b"?")[0].decode("ascii").rstrip("/")
    host = parsed.raw_host.decode("ascii").lower().removesuffix(".")
    return parsed.scheme, host, parsed.port or PORTS[parsed.scheme], path


def _within(wanted: _Place, place: _Place) -> bool:
    path, begins = wanted[3], place[3]
    return wanted[:3] == place[:3] and (path == begins or path.startswith(f"{begins}/"))


_read: WeakKeyDictionary[PrefectClient, tuple[float, Known]] = WeakKeyDictionary()


async def known(client: PrefectClient) -> Known:
    """All of them, read at most `FRESH` seconds ago by this process."""
    found = _read.get(client)
    if found is None or time.monotonic() - found[0] > FRESH:
        documents = await block_documents.every(client, TYPE, include_secrets=True)
        found = _read[client] = (time.monotonic(), Known.read(documents))
    return found[1]


async def find(client: PrefectClient, url: str) -> Destination | None:
    """Return the destination of an address, or None. Raises `InvalidInput` for a bad one."""
    return (await known(client)).of(url)


# --- keeping them


async def every(client: PrefectClient, now: datetime) -> list[dict[str, Any]]:
    """All of them by name, without their secrets.

    `{"name", "url", "token", "timeout", "tries", "rotating_until", "problem"}`
    """
    return [
        _shown(str(each.name), dict(each.data), now)
        for each in await block_documents.every(client, TYPE)
    ]


def _shown(name: str, data: dict[str, Any], now: datetime) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": name,
        "url": data.get("url"),
        "token": data.get("token") or "",
        "timeout": data.get("timeout", TIMEOUT),
        "tries": data.get("tries", backoff.TRIES),
        "rotating_until": None,
        "problem": None,
    }
    try:
        until = DestinationSettings.model_validate(data).previous_until
    except ValidationError as error:
        return shown | {"problem": ": ".join(block_documents.problem(error))}
    return shown | {"rotating_until": until if until and now < until else None}


async def add(
    client: PrefectClient,
    name: str,
    url: str,
    *,
    secret: str | None = None,
    token: str = "",
    timeout: float = TIMEOUT,
    tries: int = backoff.TRIES,
    replace: bool = False,
) -> Destination:
    """Keep one, with a fresh secret where none is given.

    Raises `InvalidInput` for a bad or taken name, bad settings, an address that another one has.
    """
    given = {"url": url, "token": token, "timeout": timeout, "tries": tries}
    data = _checked(given | {"secret": secret or new_secret()})
    for each in await block_documents.every(client, TYPE):
        if each.name != name and _place(str(each.data.get("url", ""))) == _place(data["url"]):
            raise InvalidInput(
                "url", f'"{each.name}" is for that address', "change or remove that one"
            )
    await block_documents.keep(client, TYPE, name, data, replace=replace)
    _read.pop(client, None)
    return build(name, data)


async def rotate(
    client: PrefectClient, name: str, now: datetime, *, keep: timedelta = OVERLAP
) -> Destination:
    """Give it a new secret; the old one signs beside it for ``keep``, and after it no more.

    Raises `NotFound`; `InvalidInput` while a rotation lasts, but for a ``keep`` of nothing, which
    ends all old secrets at once.
    """
    found = await block_documents.named(client, TYPE, name, include_secrets=True)
    if found is None:
        raise NotFound(TYPE.noun, name)
    old = build(name, dict(found.data))
    refuse_third(old.secrets(now), keep)
    changed: dict[str, Any] = {
        "secret": new_secret(),
        "previous_secret": "",
        "previous_until": None,
    }
    if keep:
        until = (now + keep).isoformat()
        changed |= {"previous_secret": old.secret, "previous_until": until}
    data = dict(found.data) | changed
    await block_documents.keep(client, TYPE, name, data, replace=True)
    _read.pop(client, None)
    return build(name, data)


async def remove(client: PrefectClient, name: str) -> None:
    """Forget one; raises `NotFound`."""
    await block_documents.forget(client, TYPE, name)
    _read.pop(client, None)


def _checked(data: dict[str, Any]) -> dict[str, Any]:
    """The settings as they are stored; raises `InvalidInput`, whose words hold no secret."""
    try:
        found = DestinationSettings.model_validate(data)
    except ValidationError as error:
        raise InvalidInput(*block_documents.problem(error)) from None
    return data | {"url": found.url}
