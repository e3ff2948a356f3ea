"""The home's signing secret: for callbacks to addresses that have none of their own.

It is that of the setting, else the one in `<home>/webhook-secret`, which is made when it is first
needed. The file is complete or not there, and readable by its owner only::

    whsec_…                                     the secret
    whsec_… 2027-01-16T12:00:00+00:00           the one before, and until when it signs as well
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from daybook import settings
from daybook.errors import InvalidInput
from daybook.home import Home, make_private_file, private_draft

OVERLAP = timedelta(hours=24)
"""How long the secret before the present one signs as well."""


Kept = tuple[str, datetime | None]


def new_secret() -> str:
    """A fresh signing secret, as Standard Webhooks write it."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def default_secrets(home: Home, now: datetime) -> list[str]:
    """The home's secrets that are valid at ``now``, the newest first; raises as `every` does."""
    return valid(every(home), now)


def every(home: Home) -> list[Kept]:
    """The home's secrets, each with the time until which it is valid.

    Raises `InvalidInput` where the file holds none, and OSError where it cannot be read or made.
    """
    given = settings.load().webhook_secret.get_secret_value()
    if given:
        return [(given, None)]
    return _read(home.webhook_secret) or _made(home.webhook_secret)


def valid(kept: Iterable[Kept], now: datetime) -> list[str]:
    """Those of ``kept`` that are valid at ``now``."""
    return [secret for secret, until in kept if until is None or now < until]


def default_secret(home: Home, now: datetime) -> str:
    """The newest of them."""
    return default_secrets(home, now)[0]


def rotate_default(home: Home, now: datetime, *, keep: timedelta = OVERLAP) -> str:
    """Give the home a new secret; the old one signs beside it for ``keep``. Returns the new one."""
    if settings.load().webhook_secret.get_secret_value():
        told = "the home's secret is the one of DAYBOOK_WEBHOOK_SECRET"
        raise InvalidInput("secret", told, "change it there, or rotate a destination's own")
    old = default_secrets(home, now)
    refuse_third(old, keep)
    new = new_secret()
    lines = [new, f"{old[0]} {(now + keep).isoformat()}"] if keep else [new]
    draft = private_draft(home.webhook_secret, "".join(f"{line}\n" for line in lines))
    draft.rename(home.webhook_secret)
    return new


def refuse_third(valid: list[str], keep: timedelta) -> None:
    """Raise `InvalidInput` if a rotation would end a secret that has to be valid still."""
    if keep and len(valid) > 1:
        raise InvalidInput(
            "secret",
            "the one before the present is still valid, and a receiver may know no other",
            "wait until its 24 hours are over, or end all old ones with --now",
        )


def _made(file: Path) -> list[Kept]:
    """Make it, or take the one of who was faster."""
    make_private_file(file, f"{new_secret()}\n")
    made = _read(file)
    assert made is not None
    return made


def _read(file: Path) -> list[Kept] | None:
    """What the file holds; None where there is none. Its text is never repeated in an error."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
        found = [_of_line(line) for line in lines if line.strip()]
    except FileNotFoundError:
        return None
    except ValueError:
        found = []
    if not found or found[0][1] is not None:
        legal = f"{settings.LEGAL_SECRET}; without the file a new one is made"
        raise InvalidInput(str(file), "holds no signing secret", legal)
    return found


def _of_line(line: str) -> Kept:
    secret, _, until = line.strip().partition(" ")
    ends = datetime.fromisoformat(until) if until else None
    if not settings.signing_key(secret) or (ends is not None and ends.tzinfo is None):
        raise ValueError
    return secret, ends
