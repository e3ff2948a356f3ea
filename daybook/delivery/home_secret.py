"""The home's signing secret, for callbacks to URLs without a destination.

The secret is the value of the setting `DAYBOOK_WEBHOOK_SECRET`. If it is not set, the secret is in
the file `<home>/webhook-secret`, which Daybook creates when it first needs the secret. The file is
either complete or absent, and only its owner can read it::

    whsec_…                                     the secret
    whsec_… 2027-01-16T12:00:00+00:00           the previous secret, and when it expires
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daybook import plain_text, settings
from daybook.errors import InvalidInput
from daybook.home import Home, make_private_file, write_private_draft
from daybook.json_text import JsonObject
from daybook.signing_secrets import SIGNING_SECRET_FORMAT, signing_key

if TYPE_CHECKING:
    from daybook.resources.store import BlockStore

ROTATION_GRACE = timedelta(hours=24)
"""Time after a rotation in which the previous secret also signs callbacks, or verifies hooks."""


SigningSecret = tuple[str, datetime | None]


def new_secret() -> str:
    """Return a new signing secret in the format of Standard Webhooks."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def default_secrets(home: Home, now: datetime) -> list[str]:
    """Return the home's secrets that are valid at ``now``, newest first.

    Raise the same errors as `read_secrets`.
    """
    return valid_secrets(read_secrets(home), now)


def read_secrets(home: Home) -> list[SigningSecret]:
    """Return the home's secrets, newest first, each with the end of its validity (None: no end).

    Raise `InvalidInput` if the file contains no secret or a setting is invalid, and OSError if the
    file cannot be read or created.
    """
    setting = settings.load().webhook_secret.get_secret_value()
    if setting:
        return [(setting, None)]
    found = _read(home.webhook_secret)
    if found is None:
        # If another process creates the file first, this call leaves its secret unchanged.
        make_private_file(home.webhook_secret, f"{new_secret()}\n")
        found = _read(home.webhook_secret)
        assert found is not None
    return found


def as_text(kept: Iterable[SigningSecret]) -> str:
    """Return the content of a file with these secrets, which is secret too."""
    return "".join(
        f"{each} {until.isoformat()}\n" if until else f"{each}\n" for each, until in kept
    )


def valid_secrets(kept: Iterable[SigningSecret], now: datetime) -> list[str]:
    """Return the secrets in ``kept`` that are valid at ``now``, in the same order."""
    return [secret for secret, until in kept if until is None or now < until]


def default_secret(home: Home, now: datetime) -> str:
    """Return the newest of the home's secrets. Raise the same errors as `read_secrets`."""
    return default_secrets(home, now)[0]


def rotate_default(home: Home, now: datetime, *, keep: timedelta = ROTATION_GRACE) -> str:
    """Give the home a new secret, and return it. The old secret also signs callbacks for ``keep``.

    Raise `InvalidInput` if the setting contains the secret, and the errors of `read_secrets` and
    `check_rotation`.
    """
    if settings.load().webhook_secret.get_secret_value():
        problem = "DAYBOOK_WEBHOOK_SECRET sets the home's secret"
        raise InvalidInput(
            "secret", problem, "change that setting, or rotate a destination's own secret"
        )
    old = default_secrets(home, now)
    check_rotation(old, keep)
    new = new_secret()
    kept: list[SigningSecret] = [(new, None), (old[0], now + keep)] if keep else [(new, None)]
    draft = write_private_draft(home.webhook_secret, as_text(kept))
    draft.rename(home.webhook_secret)
    return new


def check_rotation(valid: list[str], keep: timedelta) -> None:
    """Raise `InvalidInput` if a previous secret is still valid, unless ``keep`` is zero."""
    if keep and len(valid) > 1:
        raise InvalidInput(
            "secret",
            "the previous secret is still valid, and a receiver may know only that one",
            "wait until its 24 hours are over, or end all old secrets at once (`--now`)",
        )


def rotated(valid: list[str], new: str, now: datetime, keep: timedelta) -> JsonObject:
    """Return the changed fields of a settings document that gets the secret ``new``.

    ``valid`` are the document's secrets that are valid now, newest first. The newest of them stays
    valid until ``keep`` has passed. Raise the error of `check_rotation`.
    """
    check_rotation(valid, keep)
    return {
        "secret": new,
        "previous_secret": valid[0] if keep else "",
        "previous_until": (now + keep).isoformat() if keep else None,
    }


def rotating_until(
    store: BlockStore[Any], data: Mapping[str, Any], now: datetime
) -> datetime | None:
    """Return the time until which a document's previous secret is valid; None if none is valid."""
    settings, _ = store.check(data)
    until: datetime | None = settings.previous_until if settings else None
    return until if until and now < until else None


def _read(file: Path) -> list[SigningSecret] | None:
    """Return the secrets in ``file``; None if the file does not exist.

    Raise `InvalidInput` for a file without a valid secret. No error contains a part of the file.
    """
    try:
        lines = plain_text.read(file).splitlines()
        secrets_found = [_of_line(line) for line in lines if line.strip()]
    except FileNotFoundError:
        return None
    except ValueError:
        secrets_found = []
    if not secrets_found or secrets_found[0][1] is not None:
        legal = f"{SIGNING_SECRET_FORMAT}; without the file, Daybook creates a new one"
        raise InvalidInput(str(file), "holds no signing secret", legal)
    return secrets_found


def _of_line(line: str) -> SigningSecret:
    secret, _, until = line.strip().partition(" ")
    ends = datetime.fromisoformat(until) if until else None
    if not signing_key(secret) or (ends is not None and ends.tzinfo is None):
        raise ValueError
    return secret, ends
