"""The pages of tool servers, channels, destinations and secrets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from daybook import api
from daybook.errors import InvalidInput
from daybook.web.pages.documents import (
    AT_ONCE,
    DocumentPages,
    FormDocument,
    Listed,
    Saved,
    StoredPages,
    TestFailed,
    Variant,
)
from daybook.web.pages.fields import Field
from daybook.web.pages.forms import Form

TOKEN = Field(
    "preset_token",
    "Access token",
    "Stored as a secret with the name of the server, for its host only. Empty if that secret "
    "exists already.",
    "secret",
)
_OF_PROGRAM, _OF_URL = ("command", "environment", "work_dir"), ("url", "headers")
"""Settings of a server that is a program, and of one at a URL."""
CHAT_HELP = "Only for a channel whose URL has {chat_id}: the chat that gets the message."


class ToolServerPages(StoredPages):
    """The pages of tool servers: programs and URLs that speak MCP."""

    path = "/settings/servers"
    title = "Tool servers"
    noun = "tool server"
    about = "MCP servers whose tools jobs and agents may call: programs of this machine, or URLs."
    columns = ("Program or URL",)
    test_label = "Connect and list its tools"
    test_help = "Starts the program, or connects to the URL, and calls no tool."
    documents = api.tools.SERVERS

    def variants(self) -> Sequence[Variant]:
        return [
            self._variant("program", "A program", ("command",)),
            self._variant("url", "A URL", ("url", "headers")),
            *map(self._of_preset, api.tools.PRESETS),
        ]

    def _variant(self, word: str, label: str, first: tuple[str, ...]) -> Variant:
        others = _OF_URL if word == "program" else _OF_PROGRAM
        return Variant(word, label, self.documents.store.model.model_fields, first, omitted=others)

    def _of_preset(self, name: str) -> Variant:
        found = api.tools.preset_form(name)
        return Variant(
            name,
            name,
            self.documents.store.model.model_fields,
            () if found.is_url else ("command",),
            found.settings,
            found.needs,
            name,
            omitted=_OF_PROGRAM if found.is_url else _OF_URL,
            more_secrets=(TOKEN,) if found.is_url else (),
        )

    def suggested_name(self, variant: Variant) -> str:
        return self.documents.store.suggested_name(variant.preset)

    async def entries(self) -> Sequence[Listed]:
        return [
            Listed(
                each.name,
                (each.settings.get("url") or " ".join(map(str, each.settings.get("command", ()))),),
                problem=each.problem,
            )
            for each in await api.tools.list_servers()
        ]

    async def read(self, ref: str) -> FormDocument:
        found = await self.documents.form(ref)
        word = "url" if found.settings.get("url") else "program"
        return FormDocument(
            found.name,
            found.name,
            self.variant(word),
            found.settings,
            problem=found.problem,
            users=found.users,
        )

    async def add(self, name: str, variant: Variant, given: dict[str, Any], form: Form) -> Saved:
        token = given.pop(TOKEN.name, "")
        if token:
            await self._add_token(name, variant.preset, given, token)
        added = await api.tools.add(name, given, preset=variant.preset, is_complete=True)
        return Saved(name, [_answer(added.tools, added.problem), *added.notes])

    async def _add_token(self, name: str, preset: str, given: dict[str, Any], token: str) -> None:
        """Store the secret of a new server, unless the server cannot be stored."""
        self.documents.store.check_name(name)
        self.documents.validate(given)
        if name in [each.name for each in await api.tools.list_servers()]:
            raise self.documents.store.name_taken(name)
        if preset in [each.name for each in await api.secrets.list_secrets()]:
            problem = f'cannot be stored: there is a secret "{preset}" already'
            raise InvalidInput(TOKEN.name, problem, "leave the field empty to use that one")
        host = urlsplit(str(given["url"])).netloc
        try:
            await api.secrets.add(preset, {"value": token, "hosts": [host]})
        except InvalidInput as error:
            raise InvalidInput(TOKEN.name, error.problem, error.hint) from None

    async def test(self, document: FormDocument, form: Form) -> list[str]:
        [tested] = await api.tools.test(document.ref)
        if tested.problem is not None:
            raise TestFailed(tested.problem)
        return [f"It answered in {tested.seconds:.1f} s. {_answer(tested.tools, None)}"]


def _answer(tools: list[str] | None, problem: str | None) -> str:
    if tools is None:
        return f"It does not answer now: {problem}"
    return f"It has {len(tools)} tools: {', '.join(tools)}" if tools else "It has no tools."


class ChannelPages(DocumentPages):
    """The pages of channels. Daybook's own kinds, and the blocks of Prefect, cannot be changed."""

    path = "/settings/channels"
    title = "Channels"
    noun = "channel"
    about = "Where jobs send their messages and alerts: mail, chats, push services."
    columns = ("Kind",)
    removal = "Its URL is deleted."
    test_label = "Send a test"
    test_help = "Sends one message to the channel now."
    test_fields = (Field("chat_id", "Chat", CHAT_HELP, "line"),)

    def variants(self) -> Sequence[Variant]:
        return [Variant("", "", api.channels.FIELDS)]

    async def entries(self) -> Sequence[Listed]:
        return [
            Listed(each.name, (_KINDS.get(each.kind, each.kind),), each.jobs, each.problem)
            for each in await api.channels.list_channels()
        ]

    async def read(self, ref: str) -> FormDocument:
        found = await api.channels.show(ref)
        is_own = found.kind == api.channels.OWN_KIND
        facts = [("Kind", _KINDS.get(found.kind, found.kind))]
        if found.chat_id:
            facts.append(("Chat", "each job names its chat"))
        return FormDocument(
            found.name,
            found.name,
            self.variants()[0],
            {},
            ("url",) if is_own else (),
            found.problem,
            found.jobs,
            facts,
            editable=is_own,
            removable=is_own,
        )

    async def add(self, name: str, variant: Variant, given: dict[str, Any], form: Form) -> Saved:
        await api.channels.add(name, given.get("url", ""))
        return Saved(name)

    async def edit(self, document: FormDocument, changes: dict[str, Any]) -> Saved:
        await api.channels.add(document.name, changes["url"], replace=True)
        return Saved(document.ref)

    async def remove(self, ref: str) -> None:
        await api.channels.remove(ref)

    async def test(self, document: FormDocument, form: Form) -> list[str]:
        tested = await api.channels.test(document.ref, form.get("chat_id").strip())
        if tested.problem is not None:
            raise TestFailed(tested.problem)
        return [f"The message was sent in {tested.seconds:.1f} s."]


_KINDS = {
    "inbox": "the inbox of these pages",
    "file": "files in Daybook’s home",
    "console": "the terminal of `daybook up`",
    api.channels.OWN_KIND: "a URL",
}


class DestinationPages(StoredPages):
    """The pages of callback destinations."""

    path = "/settings/destinations"
    title = "Callback destinations"
    noun = "destination"
    about = "URLs that get signed callbacks, each with a secret of its own."
    columns = ("URL",)
    removal = "Callbacks to its URL are then signed with the secret of this home."
    test_label = "Send a test event"
    test_help = "Sends one signed event to the URL, and shows what it answers."
    documents = api.destinations.DOCUMENTS
    rotate_help = (
        "Callbacks get a new secret. For 24 hours, they are signed with the old one too, so that "
        "the receiver can switch."
    )
    rotate_fields = (AT_ONCE,)
    first = ("url",)
    note = "Leave the secret empty: Daybook makes one, and shows it once, for the receiver."

    async def entries(self) -> Sequence[Listed]:
        return [
            Listed(each.name, (str(each.url),), each.jobs, each.problem)
            for each in await api.destinations.list_destinations()
        ]

    async def add(self, name: str, variant: Variant, given: dict[str, Any], form: Form) -> Saved:
        url = given.pop("url", "")
        added = await api.destinations.add(url, name=name or None, **given)
        return Saved(added.name, added.notes, added.secret or "")

    async def rotate(self, document: FormDocument, form: Form) -> Saved:
        at_once = AT_ONCE.read(form) == "true"
        made = await api.destinations.rotate(document.ref, at_once=at_once)
        return Saved(document.ref, secret=made.secret)

    async def test(self, document: FormDocument, form: Form) -> list[str]:
        tested = await api.destinations.test(document.ref)
        if not tested.ok:
            raise TestFailed(f"{tested.url}: {tested.error or tested.status_code}")
        return [f"{tested.url} answered {tested.status_code} in {tested.seconds:.1f} s."]


class SecretPages(StoredPages):
    """The pages of secrets."""

    path = "/settings/secrets"
    title = "Secrets"
    noun = "secret"
    about = "Values that jobs name as {{secret:name}}. Each goes only to its hosts."
    columns = ("Hosts",)
    removal = "Its value is deleted."
    documents = api.secrets.DOCUMENTS

    async def entries(self) -> Sequence[Listed]:
        return [
            Listed(
                each.name,
                (", ".join(map(str, each.hosts)) if isinstance(each.hosts, list) else "–",),
                [*each.jobs, *each.servers, *each.destinations],
                each.problem,
            )
            for each in await api.secrets.list_secrets()
        ]


SERVERS, CHANNELS = ToolServerPages(), ChannelPages()
DOCUMENTS = (SERVERS, CHANNELS, DestinationPages(), SecretPages())
ROUTES = ()
