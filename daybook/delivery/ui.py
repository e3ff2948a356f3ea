"""Address of Prefect's UI, for links to runs and jobs."""

from __future__ import annotations

from daybook import home


def ui_address() -> str | None:
    """Return the address of the pages of Prefect's UI, or None if it is not known."""
    from prefect.settings import get_current_settings

    running = home.current_home().running() or {}
    address = running.get("pages_url") or running.get("ui_url") or get_current_settings().ui_url
    return str(address).rstrip("/") if address else None
