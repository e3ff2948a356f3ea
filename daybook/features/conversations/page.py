"""The pages of accounts that hear: their forms, the people, and what was heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from daybook.features.conversations import accounts, operations
from daybook.features.conversations.people import Role
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.documents import (
    FormDocument,
    Listed,
    Saved,
    StoredPages,
    TestFailed,
    Variant,
    only_operator,
)
from daybook.web.pages.forms import Form
from daybook.web.pages.site import Page, SettingsLink, Site

PEOPLE = "/settings/people"
MESSAGES = {
    "code-made": "Write this code to the account, in a private chat. It is valid for 10 minutes.",
    "quiet-hours-set": "The quiet hours are stored.",
    "person-unpaired": "The person may no longer talk to the account.",
}


class AccountPages(StoredPages):
    """The pages of the accounts of one service."""

    columns = ("Name there", "Agent")
    removal = "Its people are no longer paired. What was said stays in the sessions."
    test_label = "Try it"
    test_help = "Asks the service for the account’s name."
    has_users = False
    is_chat = True

    def __init__(self, kind: accounts.AccountKind) -> None:
        self.kind, self.documents = kind, operations.DOCUMENTS[kind.word]
        self.path = f"/settings/{kind.word}"
        self.title, self.noun = kind.title, f"{kind.title} account"
        self.about = f"{kind.title} accounts that send messages, and hear people."
        self.note = kind.about
        secrets = [
            name for name, each in kind.store.model.model_fields.items() if each.is_required()
        ]
        self.first = (*secrets, "agent")

    def variants(self) -> Sequence[Variant]:
        return [
            replace(each, preset=self.kind.word, paste=self.kind.to_paste)
            for each in super().variants()
        ]

    async def read(self, ref: str) -> FormDocument:
        found = await super().read(ref)
        return replace(found, variant=replace(found.variant, note=""))

    async def entries(self) -> Sequence[Listed]:
        states = {each.channel: each for each in await operations.states()}
        listed = []
        for each in await self.documents.list():
            state = states.get(each.name)
            problem = each.problem or (state.problem if state else None)
            identity = state.identity if state else ""
            listed.append(Listed(each.name, (identity, each.agent), (), problem))
        return listed

    async def add(self, name: str, variant: Variant, given: dict[str, Any], form: Form) -> Saved:
        connected = await operations.connect(self.kind.word, name, given)
        note = f"Write this code to {connected.identity}, in a private chat, within 10 minutes."
        return Saved(name, [note], connected.code.code)

    async def test(self, document: FormDocument, form: Form) -> list[str]:
        state = await operations.try_stored(self.kind, document.ref)
        if state.problem:
            raise TestFailed(state.problem)
        return [f"It is {state.identity}."]


async def people(site: Site, request: Request) -> Response:
    """List the people who may talk to accounts, and what they have said and pressed."""
    only_operator(request)
    return site.render(
        request,
        "people.html",
        people=await operations.list_people(),
        heard=await operations.heard(),
        channels=await operations.channels(),
        services=[(each.word, each.title) for each in accounts.KINDS],
        roles=[Role.OPERATOR.value, Role.READER.value],
    )


async def pair(ref: str, form: Form) -> Done:
    """Make a code for one person, and show it once."""
    code = await operations.make_code(form.get("channel"), form.get("role"))
    return Done(PEOPLE, "code-made", secret=code.code)


async def unpair(ref: str, form: Form) -> Done:
    """End what a person may do."""
    await operations.unpair(ref)
    return Done(PEOPLE, "person-unpaired")


async def quiet(ref: str, form: Form) -> Done:
    """Set a person's quiet hours."""
    await operations.set_quiet_hours(ref, form.get("quiet_hours"))
    return Done(PEOPLE, "quiet-hours-set")


async def _count() -> str:
    return str(len(await operations.list_people()) or "none")


SETTINGS = (
    SettingsLink(PEOPLE, "People in chats", "Who may talk to agents in a messenger.", _count),
)
DOCUMENTS = tuple(AccountPages(each) for each in accounts.KINDS)
ROUTES = (Page(PEOPLE, people),)
ACTIONS = (
    PageAction(PEOPLE, pair, people, ("channel", "role"), once=True),
    PageAction(PEOPLE + "/{ref}/quiet", quiet, people),
    PageAction(PEOPLE + "/{ref}/unpair", unpair, people),
)
