"""One attempt to send a callback: the signature, the request, and the meaning of the response.

==================================  ============================================================
2xx                                 delivered
410                                 failed: the recipient refuses all later requests
an address that is not allowed      failed: a later attempt is not allowed either
anything else                       retried by `backoff`, and failed after the last attempt
↳ with a ``Retry-After``            retried no earlier than that time
↳ for the wake of a live agent      failed: another wake follows
==================================  ============================================================

Daybook follows no redirect, so a callback goes only to the URL that the job names. Daybook sends
the body exactly as the ledger stores it, because the signature is a signature of the body's bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from math import floor
from typing import TYPE_CHECKING, Self, TypeVar

import httpx
from standardwebhooks import Webhook

from daybook import home
from daybook.delivery import backoff, destinations, home_secret
from daybook.delivery.destinations import Destination, DestinationIndex
from daybook.delivery.sending import GONE_STATUS, DeliveryResult
from daybook.errors import InvalidInput, OutgoingRefused, PrefectUnreachable
from daybook.http import guard, request, secrets
from daybook.http.guard import Guard, Rule
from daybook.http.httpx_transport import HttpxTransport
from daybook.http.request import NoResponse, Response, retry_after, status_text
from daybook.jobs import limits, secret_references
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from daybook.resources.secrets import PrefectSecretStore

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

T = TypeVar("T")

CONNECTION_REUSE_SECONDS = 10.0
"""Time after the check of an address during which new requests may use the same connection."""
MAX_RESPONSE_BYTES = 64 * 1024
"""Maximum number of bytes of a response to read and discard, to reuse its connection."""
PREFECT_TIMEOUT_SECONDS = 10.0
"""Timeout of a request to Prefect.

If the server is gone, Prefect's client would retry for minutes.
"""
TOKEN_WITHHELD_NOTE = (
    "sent without the token: an agent's job sends it only to the destination's own URL"
)
HOME_SECRET_NOTE = "signed with the home's secret: the URL has no destination"


class CallbackSender:
    """Sends callbacks, one attempt each. Use it as an async context manager.

    ``now`` returns the ledger's time. The sender reads the destinations and each token once from
    Prefect, through ``client``, when it first needs them.
    """

    def __init__(self, client: PrefectClient, now: Callable[[], datetime]) -> None:
        self._client, self._now, self._home = client, now, home.current_home()
        self._known: DestinationIndex | None = None
        self._homes: list[home_secret.SigningSecret] = []
        self._tokens: dict[tuple[str, str], str] = {}
        self._transports: dict[Rule, HttpxTransport] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for transport in self._transports.values():
            await transport.aclose()

    async def send(self, row: OutboxRow) -> DeliveryResult:
        """Make one attempt. The request takes at most the destination's timeout.

        Raise `PrefectUnreachable` or the client's own error if the destinations or the token cannot
        be read from Prefect. After these errors, no attempt was made.
        """
        if self._known is None:
            self._known = await self._answered(destinations.load_index(self._client))
        known = self._known
        started, destination = time.perf_counter(), Destination()
        answer: Response | None = None
        final = False
        try:
            # Check the URL here as well, because a run that was missed had no claim that checked
            # it.
            owner_limits = limits.load_limits(row.owner)
            Guard(Rule.OPERATOR, limits=owner_limits).check(row.address)
            limits.check_callback(row.address, "url", owner_limits.approve if owner_limits else ())
            destination = known.find(row.address) or destination
            answer = await self._ask(row, destination)
        except NoResponse as error:
            # A status is conclusive even if the rest of the response is missing.
            answer, problem = error.part, str(error)
        except OutgoingRefused as error:
            final, problem = True, str(error)
        except (InvalidInput, OSError) as error:
            problem = str(error)
        else:
            problem = ""
        seconds = time.perf_counter() - started
        if answer is not None:
            address = guard.origin(httpx.URL(row.address))
            succeeded = 200 <= answer.status < 300
            problem = "" if succeeded else f"{address} answered {status_text(answer.status)}"
            final = answer.status == GONE_STATUS
        return self._tried(row, destination, answer, problem, seconds, ends=final)

    async def _ask(self, row: OutboxRow, destination: Destination) -> Response:
        now, body = self._now(), row.body.encode("utf-8", errors="replace")
        if destination.secret:
            signing_secrets = destination.secrets(now)
        else:
            self._homes = self._homes or home_secret.read_secrets(self._home)
            signing_secrets = home_secret.valid_secrets(self._homes, now)
        transport = self._transport(Rule.for_owner(row.owner, row.writer))
        token = await self._token(row, destination)
        return await request.request(
            transport,
            "POST",
            row.address,
            headers=headers(row, body, signing_secrets, token, now),
            body=body,
            secret={AUTHORIZATION} if token else (),
            timeout=destination.timeout,
            limit=MAX_RESPONSE_BYTES,
        )

    def _transport(self, rule: Rule) -> HttpxTransport:
        transport = self._transports.get(rule)
        if transport is None:
            transport = HttpxTransport(
                Guard.from_settings(rule), follow=False, kept_for=CONNECTION_REUSE_SECONDS
            )
            self._transports[rule] = transport
        return transport

    async def _token(self, row: OutboxRow, destination: Destination) -> str | None:
        """Return the token to send, or None. Only the hosts of the token's secret get the token."""
        if not _has_token(row, destination):
            return None
        target = secrets.SecretDestination.of_url(Guard(Rule.OPERATOR).check(row.address))
        key = (destination.token, target.shown)
        if key not in self._tokens:
            source = PrefectSecretStore(self._client)
            text = secret_references.reference(destination.token)
            filled = secrets.fill("token", text, target, source, secrets.FilledSecrets())
            self._tokens[key] = await self._answered(filled)
        return self._tokens[key]

    async def _answered(self, question: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(PREFECT_TIMEOUT_SECONDS):
                return await question
        except TimeoutError:
            why = f"no answer within {PREFECT_TIMEOUT_SECONDS:g} s"
            raise PrefectUnreachable(str(self._client.api_url), why) from None

    def _tried(
        self,
        row: OutboxRow,
        destination: Destination,
        answer: Response | None,
        problem: str,
        seconds: float,
        *,
        ends: bool,
    ) -> DeliveryResult:
        status_code = answer.status if answer else None
        note = "" if destination.name else HOME_SECRET_NOTE
        if destination.token and not _has_token(row, destination):
            note = TOKEN_WITHHELD_NOTE
        now = self._now()
        if not problem:
            return DeliveryResult(
                row.id, row.fence, Delivery.DELIVERED, None, seconds, status_code, note=note
            )
        asked = retry_after(answer.headers.get("retry-after", ""), now) if answer else None
        failed = backoff.failed(
            row, now, problem, seconds, final=ends, asked=asked, tries=destination.tries
        )
        went_out = failed.went_out or answer is not None
        return replace(failed, status_code=status_code, note=note, went_out=went_out)


def _has_token(row: OutboxRow, destination: Destination) -> bool:
    """Return whether the callback contains the destination's token.

    An agent chooses its job's URL, which may be below the destination's URL and only for the
    operator. So its callback contains the token only if it goes to exactly the destination's URL.
    """
    allowed = Rule.for_owner(row.owner, row.writer) is not Rule.AGENT or destination.is_at(
        row.address
    )
    return bool(destination.token) and allowed


AUTHORIZATION = "Authorization"


def headers(
    row: OutboxRow, body: bytes, secrets: Sequence[str], token: str | None, now: datetime
) -> dict[str, str]:
    """Return the headers of one attempt to send ``row`` with ``body`` at ``now`` (UTC).

    ``secrets`` are signing secrets that `signing_secrets.signing_key` accepts, newest first.
    """
    text = body.decode("utf-8")
    result = {
        "Content-Type": "application/json",
        "Idempotency-Key": row.id,
        "webhook-id": row.id,
        "webhook-timestamp": str(floor(now.timestamp())),
        "webhook-signature": " ".join(Webhook(each).sign(row.id, now, text) for each in secrets),
        "X-CronEvent": row.event,
    }
    if row.run_id:
        result["X-CronRun-ID"] = row.run_id
    if token:
        result[AUTHORIZATION] = f"Bearer {token}"
    return result
