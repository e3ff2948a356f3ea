"""Login links, by which a browser logs in to the servers of this home's `daybook up`."""

from __future__ import annotations

import base64

from pydantic import BaseModel, Field

from daybook import home as homes
from daybook import settings
from daybook.errors import PageUnreachable, PrefectUnreachable
from daybook.home import Home
from daybook.operations import login

TIMEOUT_SECONDS = 10.0


class LoginLink(BaseModel, frozen=True):
    """A one-time link to Daybook's pages or to Prefect's UI.

    If `daybook up` did not start the Prefect server, ``url`` is the plain address of the UI, and
    ``expires_in_seconds`` is None.
    """

    url: str = Field(repr=False)
    expires_in_seconds: int | None


async def link(home: Home | None = None, *, is_public: bool = False) -> LoginLink:
    """Return a link to Daybook's pages. Raise `PageUnreachable`.

    With ``is_public``, the link is for the public URL, if the settings have one. Never pass such a
    link as an argument of a process, because the server does not check which user opens it.
    """
    home = home or homes.current_home()
    address = str((home.running() or {}).get("web_url") or "")
    if not address:
        raise PageUnreachable(None)
    made = await _one_time(home, address, settings.load().public_url if is_public else "")
    if isinstance(made, str):
        raise PageUnreachable(address, made)
    return made


async def prefect_link() -> LoginLink:
    """Return a link to Prefect's UI. Raise `PrefectUnreachable`."""
    home = homes.current_home()
    running = home.running() or {}
    ui_url, api_url = str(running.get("ui_url") or ""), str(running.get("api_url") or "")
    if running.get("own_server") and api_url:
        made = await _one_time(home, ui_url)
        if isinstance(made, str):
            raise PrefectUnreachable(api_url, made)
        return made
    if not ui_url:
        from prefect.settings import get_current_settings

        of_prefect = get_current_settings()
        if of_prefect.api.url is None:
            raise PrefectUnreachable(None)
        ui_url = of_prefect.ui_url or of_prefect.api.url.removesuffix("/api")
    return LoginLink(url=ui_url, expires_in_seconds=None)


async def _one_time(home: Home, address: str, public_url: str = "") -> LoginLink | str:
    """Return a one-time link to the server at ``address``. If there is none, return the reason."""
    import httpx

    basic = base64.b64encode(home.credential().encode()).decode()
    headers = {"Authorization": f"Basic {basic}"}
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            place = f"?{login.PUBLIC}" if public_url else ""
            response = await client.post(f"{address}{login.LINKS_PATH}{place}", headers=headers)
        created = response.json() if response.status_code == httpx.codes.CREATED else None
    except (httpx.TransportError, ValueError) as error:
        return str(error) or type(error).__name__
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return f"{home.credential_file} has changed since `daybook up` started; restart it"
    if created is None:
        return f"it returned status {response.status_code}"
    url = f"{public_url or address}{login.LOGIN_PATH}?token={created['token']}"
    return LoginLink(url=url, expires_in_seconds=created["expires_in"])
