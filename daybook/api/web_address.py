"""The local and the public address of the web server of `daybook up`."""

from __future__ import annotations

from daybook import home as homes
from daybook import settings

LOGIN_PATH = "/daybook/login"
"""Path of the links by which a browser logs in."""


def url() -> str:
    """Return the public URL. If the setting is empty, return the `local_url`."""
    return settings.load().public_url or local_url()


def local_url() -> str:
    """Return the server's address on this machine; if no server runs, the address it would have."""
    running = homes.current_home().running() or {}
    return running.get("web_url") or f"http://127.0.0.1:{settings.load().web_port}"
