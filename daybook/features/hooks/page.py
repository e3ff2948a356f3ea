"""The pages of hooks: the forms, the address to post to, and a sample delivery."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from daybook.api import web_address
from daybook.errors import InvalidInput
from daybook.features.hooks import operations
from daybook.features.hooks.signatures import SCHEMES
from daybook.web.pages.documents import (
    AT_ONCE,
    NEW_SECRET,
    FormDocument,
    Listed,
    Recent,
    Saved,
    StoredPages,
    TestFailed,
    Variant,
)
from daybook.web.pages.fields import Field
from daybook.web.pages.forms import Form

SAMPLE_HELP = 'A JSON object, as the sender would send it. Empty: `{"test": true}`.'


class HookPages(StoredPages):
    """The pages of hooks."""

    path = "/settings/hooks"
    title = "Hooks"
    noun = "hook"
    about = "Signed requests from outside, each of which starts a run of a job."
    columns = ("Job", "Address")
    has_users = False
    removal = "Its requests are refused from then on. Its runs stay."
    test_label = "Send a sample delivery"
    test_help = "Sends a signed request, as the sender would. The run that it starts is a real run."
    test_fields = (Field("payload", "Payload", SAMPLE_HELP, "text"),)
    rotate_help = "For 24 hours, the old secret is valid too, so that the sender can switch."
    rotate_fields = (
        Field(NEW_SECRET, "New secret", "Empty: Daybook makes one, and shows it once.", "secret"),
        AT_ONCE,
    )
    documents = operations.DOCUMENTS
    first = ("job", "scheme")
    note = (
        "Leave the secret empty: Daybook makes one, and shows it once, for the sender. Only for "
        f"{', '.join(name for name, each in SCHEMES.items() if each.brings_secret)}, type the one "
        "that the sender shows."
    )

    async def entries(self) -> Sequence[Listed]:
        return [
            Listed(each.name, (each.job or "(removed)", _address(each.path)), (), each.problem)
            for each in await operations.list_hooks()
        ]

    async def read(self, ref: str) -> FormDocument:
        found, hook = await super().read(ref), await operations.show(ref)
        facts: list[tuple[str, str | datetime]] = [
            ("POST to", _address(hook.path)),
            ("Signed as", str(hook.scheme)),
        ]
        if hook.rotating_until:
            facts.append(("Old secret valid until", hook.rotating_until))
        settings = {**found.settings, "job": hook.job or found.settings.get("job", "")}
        return FormDocument(
            found.name,
            found.ref,
            found.variant,
            settings,
            found.stored,
            found.problem,
            found.users,
            facts,
            recent=[
                Recent(f"/runs/{each.id}", str(each.status), each.queued_at)
                for each in await operations.deliveries(hook)
            ],
        )

    async def add(self, name: str, variant: Variant, given: dict[str, Any], form: Form) -> Saved:
        added = await operations.add(name, given.pop("job", ""), **given)
        return Saved(name, added.notes, added.secret or "")

    async def rotate(self, document: FormDocument, form: Form) -> Saved:
        secret, at_once = form.get(NEW_SECRET) or None, AT_ONCE.read(form) == "true"
        made = await operations.rotate(document.ref, secret=secret, at_once=at_once)
        return Saved(document.ref, secret=made.secret or "")

    async def test(self, document: FormDocument, form: Form) -> list[str]:
        payload = None
        if text := form.get("payload").strip():
            try:
                payload = json.loads(text)
            except ValueError as error:
                raise InvalidInput("payload", f"is not JSON: {error}", "use an object") from None
        tested = await operations.test(document.ref, payload)
        if not tested.ok:
            raise TestFailed(f"{tested.url}: {tested.status_code or 'no answer'} {tested.answer}")
        return [f"{tested.url} answered {tested.status_code}: {tested.answer}"]


def _address(path: str) -> str:
    return f"{web_address.url()}{path}"


DOCUMENTS = (HookPages(),)
ROUTES = ()
