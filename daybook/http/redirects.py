"""The request that follows a redirect, as in RFC 9110 and in browsers. Pure functions.

=============  ===================  ==========================  ==================
status         method               next request                first had effect?
=============  ===================  ==========================  ==================
301, 302       POST                 GET without a body          yes
301, 302       any other            same method, with its body  no
303            HEAD                 HEAD without a body         yes
303            any other            GET without a body          yes
307, 308       any                  same method, with its body  no
=============  ===================  ==========================  ==================

A request to another origin keeps only the headers in `_SAFE_HEADERS`, because any other header may
be a credential under an unknown name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from daybook.errors import OutgoingRefused
from daybook.http import guard
from daybook.http.addresses import DEFAULT_PORTS

MAX_REDIRECTS = 5

_REDIRECT_STATUSES = {301, 302, 303, 307, 308}
_BODY_HEADERS = {"content-type", "content-length", "content-encoding", "content-language"}
_SAFE_HEADERS = _BODY_HEADERS | {
    "accept",
    "accept-encoding",
    "accept-language",
    "idempotency-key",
    "user-agent",
}

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class RedirectedRequest:
    """The request that follows a redirect.

    ``had_effect`` is true if the previous request already had its effect. ``unchanged`` is true if
    the method and the origin are the same as in the previous request.
    """

    method: str
    url: httpx.URL
    headers: Headers
    with_body: bool
    had_effect: bool
    unchanged: bool = False


def location(status: int, headers: httpx.Headers) -> str | None:
    """Return the Location of a redirect. Return None if there is no redirect or no Location."""
    return headers.get("location") if status in _REDIRECT_STATUSES else None


def next_request(
    status: int,
    where: str,
    *,
    method: str,
    url: httpx.URL,
    headers: Iterable[tuple[str, str]],
    rule: str,
) -> RedirectedRequest:
    """Return the request for the Location ``where`` of a redirect.

    The caller must let the guard check the host of the new URL. Raise `OutgoingRefused` for a
    redirect to an invalid URL, and for a redirect from https to http.
    """
    shown = guard.origin(url)
    try:
        target = url.join(where)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise OutgoingRefused(shown, "it redirects to an invalid URL", rule) from None
    if url.scheme == "https" and target.scheme == "http":
        why = "Daybook does not follow a redirect from https to http"
        raise OutgoingRefused(guard.origin(target), why, rule)
    with_body = status in {307, 308} or (status in {301, 302} and method != "POST")
    kept = [(name, value) for name, value in headers if name.lower() != "host"]
    if not with_body:
        kept = [(name, value) for name, value in kept if name.lower() not in _BODY_HEADERS]
    other_origin = _origin(target) != _origin(url)
    if other_origin:
        kept = [(name, value) for name, value in kept if name.lower() in _SAFE_HEADERS]
    next_method = method if with_body or method == "HEAD" else "GET"
    return RedirectedRequest(
        next_method,
        target,
        kept,
        with_body,
        had_effect=not with_body,
        unchanged=next_method == method and not other_origin,
    )


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host.lower(), url.port or DEFAULT_PORTS.get(url.scheme)
