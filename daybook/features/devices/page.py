"""The page with the browsers that are logged in: rename one, or revoke it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daybook.features.devices import store
from daybook.web.login import admitted
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.forms import Form
from daybook.web.pages.site import OnlyShown, Page, SettingsLink, Site

PATH = "/settings/devices"

MESSAGES = {
    "device-renamed": "The device was renamed.",
    "device-revoked": "The device is logged out.",
}


async def index(site: Site, request: Request) -> Response:
    """List the devices."""
    session = admitted(request).session
    if session.viewer:
        raise OnlyShown
    devices = await store.all_devices()
    return site.render(request, "devices.html", devices=devices, own=session.id)


async def rename(ref: str, form: Form) -> Done:
    """Change the name of a device."""
    await store.rename(ref, form.get("name"))
    return Done(PATH, "device-renamed")


async def revoke(ref: str, form: Form) -> Done:
    """Log a device out, at once."""
    await store.remove(ref)
    return Done(PATH, "device-revoked")


async def _count() -> str:
    return str(len(await store.all_devices()) or "none")


SETTINGS = (SettingsLink(PATH, "Devices", "Browsers and phones that are logged in.", _count),)
ROUTES = (Page(PATH, index),)
ACTIONS = (
    PageAction(PATH + "/{ref}/rename", rename, index, ("name",)),
    PageAction(PATH + "/{ref}/revoke", revoke, index),
)
