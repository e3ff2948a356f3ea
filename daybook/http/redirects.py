"""What a redirect asks for, by RFC 9110 and what browsers do. Pure.

=============  ==============================  =================
status         becomes                         had by the first?
=============  ==============================  =================
301, 302       POST: GET without a body        POST: yes
303            GET without a body (HEAD: HEAD)  yes
307, 308       the same, body and all          no
=============  ==============================  =================

At another origin only what says nothing about the sender goes along: any other header may be a
credential under a name that nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from daybook.errors import OutgoingRefused
from daybook.http import guard
from daybook.http.addresses import PORTS

MOST = 5

_STATUSES = {301, 302, 303, 307, 308}
_OF_THE_BODY = {"content-type", "content-length", "content-encoding", "content-language"}
_HARMLESS = _OF_THE_BODY | {
    "accept",
    "accept-encoding",
    "accept-language",
    "idempotency-key",
    "user-agent",
}

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Next:
    """The next request; ``had`` says that what asked for it has had its effect already.

    ``as_it_is`` says that it is the same request, at the same origin.
    """

    method: str
    url: httpx.URL
    headers: Headers
    with_body: bool
    had: bool
    as_it_is: bool = False


def location(status: int, headers: httpx.Headers) -> str | None:
    """Where an answer leads; None when it leads nowhere."""
    return headers.get("location") if status in _STATUSES else None


def follow(
    status: int,
    where: str,
    *,
    method: str,
    url: httpx.URL,
    headers: Iterable[tuple[str, str]],
    rule: str,
) -> Next:
    """The request that ``where`` asks for; raises `OutgoingRefused` for one that is not followed.

    Its address is not judged here.
    """
    shown = guard.origin(url)
    try:
        target = url.join(where)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise OutgoingRefused(shown, "it redirects to what is no address", rule) from None
    if url.scheme == "https" and target.scheme == "http":
        why = "a redirect from https to http is not followed"
        raise OutgoingRefused(guard.origin(target), why, rule)
    same = method in {"GET", "HEAD"} or status in {307, 308}
    same = same or (status in {301, 302} and method != "POST")
    kept = [(name, value) for name, value in headers if name.lower() != "host"]
    if not same:
        kept = [(name, value) for name, value in kept if name.lower() not in _OF_THE_BODY]
    elsewhere = _origin(target) != _origin(url)
    if elsewhere:
        kept = [(name, value) for name, value in kept if name.lower() in _HARMLESS]
    had = not same or status == 303
    return Next(method if same else "GET", target, kept, same, had, same and not elsewhere)


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host.lower(), url.port or PORTS.get(url.scheme)
