"""The page on which a browser subscribes to notifications, and the subscribed browsers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daybook import home as homes
from daybook.features.push import encryption, store
from daybook.web.login import admitted
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.forms import Form
from daybook.web.pages.site import OnlyShown, Page, SettingsLink, Site

PATH = "/settings/push"

MESSAGES = {
    "push-on": "This browser gets a notification when a message needs you.",
    "push-off": "The browser gets no more notifications.",
}


async def index(site: Site, request: Request) -> Response:
    """Show the subscribed browsers, and the button that subscribes this one."""
    session = admitted(request).session
    if session.viewer:
        raise OnlyShown
    key = encryption.encode(encryption.public_bytes(encryption.home_key(homes.current_home())))
    found = await store.subscriptions()
    return site.render(request, "push.html", subscriptions=found, key=key, session_id=session.id)


async def subscribe(ref: str, form: Form) -> Done:
    """Store the subscription that the browser's script sends."""
    given = (form.get(name) for name in ("session", "endpoint", "public_key", "auth"))
    await store.subscribe(*given)
    return Done(PATH, "push-on")


async def unsubscribe(ref: str, form: Form) -> Done:
    """Delete a subscription."""
    await store.unsubscribe(ref)
    return Done(PATH, "push-off")


async def _count() -> str:
    return str(len(await store.subscriptions()) or "none")


SETTINGS = (
    SettingsLink(
        PATH,
        "Notifications",
        "Pushes to phones what needs a person.",
        _count,
    ),
)
ROUTES = (Page(PATH, index),)
ACTIONS = (
    PageAction(PATH, subscribe, index),
    PageAction(PATH + "/{ref}/remove", unsubscribe, index),
)
