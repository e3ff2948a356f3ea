"""By which names a server of ours may be asked, and from which web pages.

A browser on this machine visits strange pages. CORS hides answers from such a page unless its owner
lets a name of his point to 127.0.0.1, which makes it the same origin: so the `Host` has to be one
of our names. An address is no name that can be pointed elsewhere, and where a server listens on
several, any is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class Names:
    """``given`` are taken beside those of this machine's own loopback.

    ``any_address``: and so is every address.
    """

    def __init__(self, given: Iterable[str] = (), *, any_address: bool = False) -> None:
        self._any_address = any_address
        self._names = LOCAL | {name.lower().rstrip(".") for name in given}

    def refusal(self, scope: Any) -> str:
        """Why a request of this ASGI scope is not let in; empty where it is."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._is_ours("//" + headers.get(b"host", "")):
            return "not a name of this server"
        if b"origin" in headers and not self._is_ours(headers[b"origin"]):
            return "not from this origin"
        return ""

    def _is_ours(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        host = "" if "@" in parts.netloc else (parts.hostname or "").rstrip(".")
        if host in self._names:
            return True
        return self._any_address and _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
