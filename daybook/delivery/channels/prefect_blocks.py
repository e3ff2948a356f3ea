"""Prefect's notification blocks as channels, under the names that they have in Prefect.

Each block document whose type has the capability `notify` is one, also of types that somebody else
made, where the package that has the class is installed.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from daybook.delivery.channels import apprise_plugins, prefect_private, threads
from daybook.delivery.channels.apprise_plugins import Form
from daybook.delivery.channels.base import UNBOUNDED, Message, NotDelivered
from daybook.errors import InvalidInput, UnknownName

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

_PAGE = 200
_SHORTEST_SECRET = 4
_SHORTEST_PART = 8


async def every(client: PrefectClient) -> list[tuple[str, str]]:
    """The type slug and the name of each block that can notify, by name."""
    found: list[tuple[str, str]] = []
    for offset in range(0, 1_000_000, _PAGE):
        asked = {
            "block_documents": {"is_anonymous": {"eq_": False}},
            "block_schemas": {"block_capabilities": {"all_": ["notify"]}},
            "include_secrets": False,
            "limit": _PAGE,
            "offset": offset,
        }
        answer = await client.request("POST", "/block_documents/filter", json=asked)
        page = answer.json()
        found += [(each["block_type"]["slug"], each["name"]) for each in page if each["name"]]
        if len(page) < _PAGE:
            break
    return found


async def read(client: PrefectClient, slug: str, name: str) -> PrefectBlock:
    """The channel that a block is; raises `InvalidInput` where it cannot be one as it stands."""
    from prefect.exceptions import ObjectNotFound

    try:
        document = await client.read_block_document_by_name(name, slug, include_secrets=True)
    except ObjectNotFound:  # someone was faster
        raise UnknownName("channel", name, ()) from None
    # Apart: apprise is imported with all its plugins, which is work of a tenth of a second.
    return await threads.done(lambda heard: _built(slug, name, document, heard))


def _built(slug: str, name: str, document: BlockDocument, heard: list[str]) -> PrefectBlock:
    import prefect.blocks.notifications  # noqa: F401 - it makes the types known
    from prefect.blocks.core import Block, UnknownBlockType

    schema = document.block_schema
    assert schema is not None
    secret = secrets(document.data, schema.fields.get("secret_fields", ()))
    try:
        block = Block.get_block_class_from_schema(schema).model_validate(document.data)
    except UnknownBlockType:
        lacks = f'"{name}" is of the type {slug}, whose class is not installed here'
        raise InvalidInput("channel", lacks, "install the package that has it") from None
    except Exception as error:  # what stands in it may hold a secret
        why = scrubbed("; ".join(heard) or type(error).__name__, secret)
        told = f'the block "{name}" cannot be used: {why}'
        raise InvalidInput("channel", told, "mend it in Prefect") from None
    return PrefectBlock(slug, name, block, secret, heard)


class PrefectBlock:
    """One block."""

    needs_chat_id = False

    def __init__(
        self, slug: str, name: str, block: Any, secret: Sequence[str], heard: Sequence[str]
    ) -> None:
        self._what = f'the block "{name}" ({slug})'
        self._block = block
        self._secret = secret
        self._client = prefect_private.apprise_of(block)
        self._form: Form | None = None
        if self._client is not None:
            if not len(self._client):
                why = scrubbed("; ".join(heard), secret) or "apprise does not understand its URL"
                raise InvalidInput("channel", f"{self._what} cannot be used: {why}", "mend it")
            self._form = apprise_plugins.prepared(self._client)
        elif hasattr(block, "notify_type"):
            self._form = Form()
        self.limit = self._form.limit if self._form else UNBOUNDED

    async def send(self, message: Message) -> None:
        subject, body = self._form.filled(message) if self._form else _plain(message)
        await threads.done(lambda heard: self._notify(subject, body, heard))

    def _notify(self, subject: str, body: str, heard: list[str]) -> None:
        """In a thread without a loop, where the block's `notify` is not a coroutine."""
        try:
            with self._block.raise_on_failure():
                answer = self._block.notify(body, subject or None)
                if inspect.iscoroutine(answer):  # of a block that has no other way
                    asyncio.run(answer)
        except Exception as error:
            why = "; ".join(heard) or _words(error)
            raise NotDelivered(f"{self._what}: {scrubbed(why, self._secret)}") from None


def _plain(message: Message) -> tuple[str, str]:
    return " ".join(message.subject.split()), message.body.strip() or message.subject


def _words(error: Exception) -> str:
    import httpx
    from prefect.blocks.abstract import NotificationError

    if isinstance(error, httpx.HTTPStatusError):  # its own words hold the address
        return f"it answered {error.response.status_code}"
    if isinstance(error, NotificationError):
        return error.log or "apprise says that it failed, and not why"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


# --- secrets


def secrets(data: Mapping[str, Any], fields: Sequence[str]) -> list[str]:
    """What of a block's data nobody may read, the longest first; of an address its parts too."""
    found: set[str] = set()
    for field in fields:
        for value in _texts(data.get(field.partition(".")[0])):
            found |= {value, *_parts(value)}
    return sorted((each for each in found if len(each) >= _SHORTEST_SECRET), key=len, reverse=True)


def scrubbed(words: str, secret: Sequence[str]) -> str:
    """``words`` without them."""
    for each in secret:
        words = words.replace(each, "…")
    return words


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _parts(url: str) -> Iterator[str]:
    """The password of an address, and what is long before its host, in its path and its query.

    Its host is told. Each is there as it was written, as it is meant, and as others write it.
    """
    for each in _pieces(url):
        meant = unquote(each)
        yield from (each, meant, quote(meant, safe=""))


def _pieces(url: str) -> Iterator[str]:
    try:
        split = urlsplit(url)
        user, _, host = split.netloc.rpartition("@")
        name, _, password = user.partition(":")
        yield from filter(None, (password, *password.split(":")))
        query = (pair.partition("=")[2] for pair in re.split("[&;]", split.query))
        long = [name, *split.path.split("/"), *query, split.fragment]
        if "." not in host:  # a token, where a service has no host
            long += host.split(":")
        yield from (each for each in long if len(each) >= _SHORTEST_PART)
    except ValueError:  # it is no address
        yield from (each for each in re.split(r"[^\w-]+", url) if len(each) >= _SHORTEST_PART)
