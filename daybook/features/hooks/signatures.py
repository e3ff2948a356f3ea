"""Signatures of requests to hooks: Standard Webhooks, and the schemes of GitHub and Stripe.

==========  ============================================  =====================================
scheme      signed text                                   id of the delivery
==========  ============================================  =====================================
standard    `webhook-id`.`webhook-timestamp`.body         `webhook-id`, or Svix's name `svix-id`
github      the body (`X-Hub-Signature-256`)              `X-GitHub-Delivery`
stripe      t.body (`Stripe-Signature: t=…,v1=…`)         `id` of the event in the body
==========  ============================================  =====================================

All signatures are HMAC-SHA256, and are compared in constant time. Svix's names of the three headers
of Standard Webhooks begin with `svix-` instead of `webhook-`. GitHub signs neither a time nor
the id. So a person who has read a delivery could send the same delivery again with another id.

To add a scheme, write its class here, and list it in `SCHEMES`, `SchemeName`, and the description
of `HookSettings.scheme`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from daybook.signing_secrets import signing_key

TOLERANCE = timedelta(minutes=5)
"""Maximum difference between a signed timestamp and the current time, in both directions."""
MAX_ID_LENGTH = 100
"""Maximum length of a delivery's id in characters. The id is a part of the run's occurrence key."""
ID_FORM = f"1 to {MAX_ID_LENGTH} visible ASCII characters"
MIN_SECRET_LENGTH = 16
"""Minimum length of a secret for GitHub or Stripe, in characters."""

SchemeName = Literal["standard", "github", "stripe"]

_MAX_TIMESTAMP_DIGITS = 12


@dataclass(frozen=True)
class Signed:
    """A request with a valid signature.

    ``id`` is the delivery's id; None if only the body contains the id. ``at`` is the time of the
    signature in seconds since 1970 (UTC); None if the scheme signs no time.
    """

    id: str | None
    at: int | None

    def is_current(self, now: datetime) -> bool:
        """Return whether the signed time, if any, differs from ``now`` by at most `TOLERANCE`."""
        if self.at is None:
            return True
        return abs(now.timestamp() - self.at) <= TOLERANCE.total_seconds()


class Scheme(ABC):
    """A way to sign requests. The methods take and return header names in lower case."""

    brings_secret = False
    """True if only the sender can create the secret."""
    id_form = ID_FORM
    """Description of the ids that `is_id` allows."""

    @abstractmethod
    def is_signed(self, headers: Mapping[str, str]) -> bool:
        """Return whether the request has the header with a signature of this scheme."""

    def is_id(self, delivery_id: object) -> bool:
        """Return whether a delivery of this scheme may have this id."""
        return is_id(delivery_id)

    def is_secret(self, secret: str) -> bool:
        """Return whether ``secret`` has the form of the scheme's secrets.

        Most schemes accept one line of at least `MIN_SECRET_LENGTH` characters.
        """
        is_line = secret.isprintable() and secret == secret.strip()
        return is_line and len(secret) >= MIN_SECRET_LENGTH

    @abstractmethod
    def verify(
        self, secrets: Sequence[str], headers: Mapping[str, str], body: bytes
    ) -> Signed | None:
        """Return the signed id and time, or None if none of ``secrets`` signed the request."""

    @abstractmethod
    def sign(self, secret: str, delivery_id: str, body: bytes, now: datetime) -> dict[str, str]:
        """Return the headers of a request of this scheme."""

    def id_in(self, payload: Any) -> Any:
        """Return the delivery's id, of any JSON type, in the payload; None if a header has it."""
        return None

    def is_probe(self, headers: Mapping[str, str]) -> bool:
        """Return whether the request only tests the connection, so that it must start no run."""
        return False


class Standard(Scheme):
    """Standard Webhooks. The secret is `whsec_`, followed by a key in base64.

    A dot separates the parts of the signed text, so it cannot be a part of an id: the id `a.1` and
    the time 2 have the same signed text as the id `a`, the time 1 and a body that begins with `2.`.
    """

    id_form = f"{ID_FORM} without a dot"

    def is_secret(self, secret: str) -> bool:
        return bool(signing_key(secret))

    def is_signed(self, headers: Mapping[str, str]) -> bool:
        return f"{_prefix(headers)}-signature" in headers

    def is_id(self, delivery_id: object) -> bool:
        return super().is_id(delivery_id) and "." not in str(delivery_id)

    def verify(
        self, secrets: Sequence[str], headers: Mapping[str, str], body: bytes
    ) -> Signed | None:
        delivery_id, timestamp, signatures = (
            headers.get(f"{_prefix(headers)}-{each}", "")
            for each in ("id", "timestamp", "signature")
        )
        sent = [
            signature
            for each in signatures.split(" ")
            if each.startswith("v1,") and (signature := each.removeprefix("v1,"))
        ]
        made = [self._signature(secret, delivery_id, timestamp, body) for secret in secrets]
        at = _seconds(timestamp)
        return Signed(delivery_id, at) if _match(made, sent) and at is not None else None

    def sign(self, secret: str, delivery_id: str, body: bytes, now: datetime) -> dict[str, str]:
        timestamp = str(int(now.timestamp()))
        return {
            "webhook-id": delivery_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{self._signature(secret, delivery_id, timestamp, body)}",
        }

    @staticmethod
    def _signature(secret: str, delivery_id: str, timestamp: str, body: bytes) -> str:
        content = f"{delivery_id}.{timestamp}.".encode("latin-1", "replace") + body
        made = hmac.digest(signing_key(secret), content, hashlib.sha256)
        return base64.b64encode(made).decode()


class GitHub(Scheme):
    """Webhooks of GitHub. The secret is any text of at least `MIN_SECRET_LENGTH` characters."""

    def is_signed(self, headers: Mapping[str, str]) -> bool:
        return "x-hub-signature-256" in headers

    def verify(
        self, secrets: Sequence[str], headers: Mapping[str, str], body: bytes
    ) -> Signed | None:
        made = [f"sha256={_hex(secret, body)}" for secret in secrets]
        is_valid = _match(made, [headers.get("x-hub-signature-256", "")])
        return Signed(headers.get("x-github-delivery", ""), None) if is_valid else None

    def sign(self, secret: str, delivery_id: str, body: bytes, now: datetime) -> dict[str, str]:
        return {
            "x-github-delivery": delivery_id,
            "x-hub-signature-256": f"sha256={_hex(secret, body)}",
        }

    def is_probe(self, headers: Mapping[str, str]) -> bool:
        # GitHub sends it when the webhook is created.
        return headers.get("x-github-event") == "ping"


class Stripe(Scheme):
    """Events of Stripe. Stripe creates the secret of each endpoint."""

    brings_secret = True

    def is_signed(self, headers: Mapping[str, str]) -> bool:
        return "stripe-signature" in headers

    def verify(
        self, secrets: Sequence[str], headers: Mapping[str, str], body: bytes
    ) -> Signed | None:
        pairs = [each.partition("=") for each in headers.get("stripe-signature", "").split(",")]
        timestamp = next((value for name, _, value in pairs if name.strip() == "t"), "")
        sent = [value for name, _, value in pairs if name.strip() == "v1"]
        content = f"{timestamp}.".encode("latin-1", "replace") + body
        at = _seconds(timestamp)
        is_valid = _match([_hex(secret, content) for secret in secrets], sent)
        return Signed(None, at) if is_valid and at is not None else None

    def sign(self, secret: str, delivery_id: str, body: bytes, now: datetime) -> dict[str, str]:
        timestamp = str(int(now.timestamp()))
        signature = _hex(secret, f"{timestamp}.".encode() + body)
        return {"stripe-signature": f"t={timestamp},v1={signature}"}

    def id_in(self, payload: Any) -> Any:
        return payload.get("id") if isinstance(payload, dict) else None


SCHEMES: dict[SchemeName, Scheme] = {
    "standard": Standard(),
    "github": GitHub(),
    "stripe": Stripe(),
}
"""The schemes by name."""
assert tuple(SCHEMES) == get_args(SchemeName)


def is_id(delivery_id: object) -> bool:
    """Return whether some delivery may have this id. `ID_FORM` describes the allowed ids."""
    return (
        isinstance(delivery_id, str)
        and 0 < len(delivery_id) <= MAX_ID_LENGTH
        and all("!" <= each <= "~" for each in delivery_id)
    )


def unsigned_reason(scheme_name: SchemeName, headers: Mapping[str, str]) -> str:
    """Return why no secret of a hook with this scheme can have signed the request, for the log."""
    used = [name for name, scheme in SCHEMES.items() if scheme.is_signed(headers)]
    if scheme_name in used:
        return "none of its secrets made the signature"
    if used:
        return f"the signature is of the scheme {used[0]}, but the hook has {scheme_name}"
    return f"there is no signature of the scheme {scheme_name}; set the secret at the sender"


def _prefix(headers: Mapping[str, str]) -> str:
    is_of_svix = "svix-signature" in headers and "webhook-signature" not in headers
    return "svix" if is_of_svix else "webhook"


def _match(made: Iterable[str], sent: Sequence[str]) -> bool:
    """Return whether ``made`` and ``sent`` have a signature in common.

    The comparison takes the same time for every signature, so its duration reveals nothing.
    """
    found = False
    for each in made:
        for other in sent:
            found |= hmac.compare_digest(each.encode(), other.encode("latin-1", "replace"))
    return found


def _hex(secret: str, content: bytes) -> str:
    return hmac.digest(secret.encode(), content, hashlib.sha256).hex()


def _seconds(timestamp: str) -> int | None:
    is_number = timestamp.isascii() and timestamp.isdigit()
    return int(timestamp) if is_number and len(timestamp) <= _MAX_TIMESTAMP_DIGITS else None
