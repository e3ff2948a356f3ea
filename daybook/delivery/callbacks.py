"""One try of a callback: whom it is signed for, the request, and what its answer means.

==================================  ============================================================
2xx                                 delivered
410                                 failed: its receiver wants no more of it
an address that is not allowed      failed: no later try is allowed it either
anything else                       tried again by `backoff`, and failed after the last try
↳ with a ``Retry-After``            not before that
↳ and it is a session's wake       failed: the next cycle is its next try
==================================  ============================================================

A redirect is not followed: where a callback goes is what was asked for. The body is sent as it
stands in the ledger, byte by byte, since that is what is signed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import httpx

from daybook import home
from daybook.delivery import backoff, destinations, home_secret, outbox, signing
from daybook.delivery.destinations import Destination, Known
from daybook.delivery.sending import GONE, Tried
from daybook.errors import InvalidInput, OutgoingRefused, PrefectUnreachable
from daybook.home import Home
from daybook.http import guard, request, secrets
from daybook.http.guard import Guard, Rule
from daybook.http.httpx_transport import HttpxTransport
from daybook.http.request import Answer, NoAnswer, retry_after, words_of
from daybook.jobs import limits
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from daybook.resources.secrets import PrefectSecrets

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

T = TypeVar("T")

KEPT_FOR = 10.0
"""Seconds for which connections to a judged address are kept."""
LIMIT = 64 * 1024
"""Bytes of an answer that are read: nothing is done with them, but a connection can go on."""
ASKING = 10.0
"""Seconds for a question to Prefect: its client asks a server that went away for minutes."""
KEPT_BACK = "sent without the token: a job of an agent has it at the destination's own address only"
HOMES = "signed with the home's secret: the address has no destination of its own"


class Post:
    """Sends callbacks, one try each; use it as an async context manager.

    ``now`` is the ledger's clock, ``client`` Prefect's: it is asked for destinations and tokens,
    once each and not before they are needed. Where it does not answer `PrefectUnreachable` is
    raised, or what the client raises.
    """

    def __init__(
        self, client: PrefectClient, now: Callable[[], datetime], place: Home | None = None
    ) -> None:
        self._client, self._now = client, now
        self._home = place or home.here()
        self._known: Known | None = None
        self._homes: list[home_secret.Kept] = []
        self._tokens: dict[tuple[str, str], str] = {}
        self._transports: dict[Rule, HttpxTransport] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for transport in self._transports.values():
            await transport.aclose()

    async def send(self, row: OutboxRow) -> Tried:
        """One try, of at most its destination's timeout.

        It raises where Prefect cannot be asked for destinations or a token: no try was made then.
        """
        known = await self._destinations()
        began, destination = time.perf_counter(), Destination()
        answer: Answer | None = None
        ends = False
        try:
            # Also of what never came to a claim: it is told of due times that were missed.
            Guard(Rule.OPERATOR, limits=limits.of_owner(row.owner)).check(row.address)
            destination = known.of(row.address) or destination
            answer = await self._ask(row, destination)
        except NoAnswer as error:
            # A status that came says what it says, whatever is missing of the words to it.
            answer, told = error.part, str(error)
        except OutgoingRefused as error:
            ends, told = True, str(error)
        except (InvalidInput, OSError) as error:
            told = str(error)
        else:
            told = ""
        seconds = time.perf_counter() - began
        if answer is not None:
            address = guard.origin(httpx.URL(row.address))
            told = "" if _took_it(answer) else f"{address} answered {words_of(answer.status)}"
            ends = answer.status == GONE
        return self._tried(row, destination, answer, told, seconds, ends=ends)

    async def _destinations(self) -> Known:
        if self._known is None:
            self._known = await self._answered(destinations.known(self._client))
        return self._known

    async def _ask(self, row: OutboxRow, destination: Destination) -> Answer:
        now, body = self._now(), row.body.encode("utf-8", errors="replace")
        valid = destination.secrets(now) if destination.secret else self._of_home(now)
        transport = self._transport(Rule.of(row.owner, row.writer))
        token = await self._token(row, destination)
        return await request.request(
            transport,
            "POST",
            row.address,
            headers=signing.headers(row, body, valid, token, now),
            body=body,
            secret={signing.AUTHORIZATION} if token else (),
            timeout=destination.timeout,
            limit=LIMIT,
        )

    def _of_home(self, now: datetime) -> list[str]:
        if not self._homes:
            self._homes = home_secret.every(self._home)
        return home_secret.valid(self._homes, now)

    def _transport(self, rule: Rule) -> HttpxTransport:
        found = self._transports.get(rule)
        if found is None:
            found = HttpxTransport(Guard.here(rule), follow=False, kept_for=KEPT_FOR)
            self._transports[rule] = found
        return found

    async def _token(self, row: OutboxRow, destination: Destination) -> str | None:
        """The secret that the destination names; it goes to its hosts only."""
        if not _has_token(row, destination):
            return None
        goes = secrets.Destination.of_url(Guard(Rule.OPERATOR).check(row.address))
        key = (destination.token, goes.shown)
        if key not in self._tokens:
            source = PrefectSecrets(self._client)
            text = f"{{{{secret:{destination.token}}}}}"
            filling = secrets.fill("token", text, goes, source, secrets.Filled())
            self._tokens[key] = await self._answered(filling)
        return self._tokens[key]

    async def _answered(self, question: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(ASKING):
                return await question
        except TimeoutError:
            why = f"no answer within {ASKING:g} s"
            raise PrefectUnreachable(str(self._client.api_url), why) from None

    def _tried(
        self,
        row: OutboxRow,
        destination: Destination,
        answer: Answer | None,
        told: str,
        seconds: float,
        *,
        ends: bool,
    ) -> Tried:
        code = answer.status if answer else None
        note = "" if destination.name else HOMES
        if destination.token and not _has_token(row, destination):
            note = KEPT_BACK
        now = self._now()
        if not told:
            return Tried(row.id, row.fence, Delivery.DELIVERED, None, seconds, code, note=note)
        asked = retry_after(answer.headers.get("retry-after", ""), now) if answer else None
        once = ends or row.purpose == outbox.WAKE
        again = None if once else backoff.next_try(row, now, asked, destination.tries)
        status = Delivery.FAILED if again is None else Delivery.PENDING
        went_out = answer is not None or not ends
        return Tried(row.id, row.fence, status, again, seconds, code, told, note, went_out)


def _has_token(row: OutboxRow, destination: Destination) -> bool:
    """Whether the destination's token goes with it.

    An agent chooses its job's address, and below that of a destination there may be what nobody
    but the operator is to ask for.
    """
    own = Rule.of(row.owner, row.writer) is not Rule.AGENT or destination.is_at(row.address)
    return bool(destination.token) and own


def _took_it(answer: Answer) -> bool:
    return 200 <= answer.status < 300
