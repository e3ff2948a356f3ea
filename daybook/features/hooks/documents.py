"""Hooks as settings documents: their job, secret, scheme, filters and rate.

A hook is a block document of Daybook's own type. Prefect encrypts its secrets, and the ledger has
an encrypted copy of the document. Functions that take Prefect's async client raise the client's
connection errors unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from daybook.delivery.home_secret import ROTATION_GRACE, new_secret, rotated
from daybook.errors import InvalidInput
from daybook.features.hooks.settings import HookSettings, check_secret
from daybook.features.hooks.signatures import SCHEMES, Scheme, SchemeName
from daybook.resources.store import BlockStore, block_data

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

SECRET_FIELDS = ("secret", "previous_secret", "previous_until")
"""The fields of a replaced hook that the new hook keeps, unless the new hook gets a secret."""

STORE = BlockStore(slug="daybook-hook", title="Daybook hook", noun="hook", model=HookSettings)


@dataclass(frozen=True)
class Hook:
    """A validated hook.

    ``job`` is the id of the job that the hook starts. ``rate`` is the maximum number of runs per
    minute.
    """

    name: str
    job: str
    scheme_name: SchemeName
    filters: tuple[str, ...]
    rate: int
    secret: str = field(repr=False)
    previous_secret: str = field(repr=False)
    previous_until: datetime | None

    @property
    def scheme(self) -> Scheme:
        return SCHEMES[self.scheme_name]

    def secrets(self, now: datetime) -> list[str]:
        """Return the secrets that are valid at ``now``, newest first."""
        return [self.secret, *([self.previous_secret] if self.rotating_until(now) else [])]

    def rotating_until(self, now: datetime) -> datetime | None:
        """Return until when the previous secret is valid; None if it is invalid at ``now``."""
        until = self.previous_until
        return until if self.previous_secret and until and now < until else None


def build(name: str, data: Mapping[str, Any]) -> Hook:
    """Build the hook from stored settings. Raise `InvalidInput` if the settings are invalid."""
    stored = STORE.parse(name, data)
    if not stored.secret.get_secret_value():
        raise InvalidInput("hook", f'"{name}" has no secret', "edit the block in Prefect's UI")
    return Hook(
        name=name,
        job=stored.job,
        scheme_name=stored.scheme,
        filters=tuple(stored.filters),
        rate=stored.rate,
        secret=stored.secret.get_secret_value(),
        previous_secret=stored.previous_secret.get_secret_value(),
        previous_until=stored.previous_until,
    )


async def read(client: PrefectClient, name: str) -> Hook:
    """Return a hook. Raise `NotFound`, and `InvalidInput` for invalid stored settings."""
    document = await STORE.get(client, name, include_secrets=True)
    return build(name, dict(document.data))


async def save(
    client: PrefectClient, name: str, data: Mapping[str, Any], *, replace: bool = False
) -> Hook:
    """Save a hook, and return it.

    Raise the errors of `BlockStore.save`, and `InvalidInput` for invalid settings.
    """
    settings = STORE.validate(data)
    await STORE.save(client, name, settings, replace=replace)
    return build(name, block_data(settings))


def check_scheme(scheme: str) -> None:
    """Raise `InvalidInput` for an unknown scheme."""
    if scheme not in SCHEMES:
        raise InvalidInput("scheme", f'"{scheme}" is unknown', f"known: {', '.join(SCHEMES)}")


def secret_for(scheme: SchemeName, given: str | None) -> str:
    """Return the secret ``given``; if it is None, return a new secret.

    Raise `InvalidInput` for an unknown scheme and for an invalid secret. If only the sender can
    create a secret of the scheme, also raise `InvalidInput` if ``given`` is None.
    """
    check_scheme(scheme)
    if given is None and SCHEMES[scheme].brings_secret:
        problem = f"is missing: the sender makes the secrets of the scheme {scheme}"
        raise InvalidInput("secret", problem, "pass it on standard input")
    if given is not None and not given.strip("*"):
        raise InvalidInput("secret", "is blank")
    secret = new_secret() if given is None else given
    check_secret(scheme, secret)
    return secret


async def rotate(
    client: PrefectClient,
    name: str,
    now: datetime,
    *,
    secret: str | None = None,
    keep: timedelta = ROTATION_GRACE,
) -> Hook:
    """Give the hook a new secret, and return it. Keep the old secret valid for ``keep``.

    Raise `NotFound`, and `InvalidInput` for invalid stored settings, an invalid new ``secret`` or,
    unless ``keep`` is zero, during another rotation.
    """
    document = await STORE.get(client, name, include_secrets=True)
    old = build(name, dict(document.data))
    changed = rotated(old.secrets(now), secret_for(old.scheme_name, secret), now, keep)
    return await save(client, name, document.data | changed, replace=True)
