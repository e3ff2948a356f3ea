"""Prefect's notification blocks as channels, under their names in Prefect.

Every named block document whose type has the capability `notify` is a channel. Block types of other
authors are included. Such a channel can be used if the package with the class of the type is
installed.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from daybook.delivery.channels import apprise_plugins, text, threads
from daybook.delivery.channels.apprise_plugins import MessageFormat
from daybook.delivery.channels.base import UNBOUNDED, Message, NotDelivered
from daybook.errors import InvalidInput, UnknownName
from daybook.redaction import redact

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

_PAGE = 200
_MIN_SECRET_LENGTH = 4
_MIN_PART_LENGTH = 8


async def list_blocks(client: PrefectClient) -> list[tuple[str, str]]:
    """Return the type slug and the name of each block that can send notifications."""
    found: list[tuple[str, str]] = []
    for offset in range(0, 1_000_000, _PAGE):
        query = {
            "block_documents": {"is_anonymous": {"eq_": False}},
            "block_schemas": {"block_capabilities": {"all_": ["notify"]}},
            "include_secrets": False,
            "limit": _PAGE,
            "offset": offset,
        }
        response = await client.request("POST", "/block_documents/filter", json=query)
        page = response.json()
        found += [(each["block_type"]["slug"], each["name"]) for each in page if each["name"]]
        if len(page) < _PAGE:
            break
    return found


async def read(client: PrefectClient, slug: str, name: str) -> PrefectBlock:
    """Return the channel for a block. Raise `InvalidInput` if the block cannot be used.

    Raise `UnknownName` if the block does not exist any more, and `NotDelivered` if it does not load
    in time.
    """
    from prefect.exceptions import ObjectNotFound

    try:
        document = await client.read_block_document_by_name(name, slug, include_secrets=True)
    except ObjectNotFound:  # a user has removed the block in the meantime
        raise UnknownName("channel", name, ()) from None
    # Use a thread, because importing apprise with all its plugins takes a tenth of a second.
    return await threads.run_capturing_logs(lambda logged: _build(slug, name, document, logged))


def _build(slug: str, name: str, document: BlockDocument, logged: list[str]) -> PrefectBlock:
    import prefect.blocks.notifications  # noqa: F401 - this import registers the block types
    from prefect.blocks.core import Block, UnknownBlockType

    schema = document.block_schema
    assert schema is not None
    secret = secret_texts(document.data, schema.fields.get("secret_fields", ()))
    try:
        block = Block.get_block_class_from_schema(schema).model_validate(document.data)
    except UnknownBlockType:
        problem = f'"{name}" has the type {slug}, whose class is not installed'
        raise InvalidInput("channel", problem, "install the package that contains it") from None
    except Exception as error:  # the text of the error may contain a secret
        why = redact("; ".join(logged) or type(error).__name__, secret)
        problem_text = f'the block "{name}" cannot be used: {why}'
        raise InvalidInput("channel", problem_text, "fix it in Prefect") from None
    return PrefectBlock(slug, name, block, secret, logged)


class PrefectBlock:
    """A channel that sends through a Prefect block."""

    needs_chat_id = False
    carries_files = False

    def __init__(
        self, slug: str, name: str, block: Any, secret: Mapping[str, str], logged: Sequence[str]
    ) -> None:
        self._what = f'the block "{name}" ({slug})'
        self._block = block
        self._secret = secret
        self._client = apprise_of(block)
        self._form: MessageFormat | None = None
        if self._client is not None:
            if not len(self._client):
                why = redact("; ".join(logged), secret) or "apprise does not understand its URL"
                raise InvalidInput(
                    "channel", f"{self._what} cannot be used: {why}", "fix it in Prefect"
                )
            self._form = apprise_plugins.prepare(self._client)
        elif hasattr(block, "notify_type"):
            self._form = MessageFormat()
        self.limit = self._form.limit if self._form else UNBOUNDED

    async def send(self, message: Message) -> None:
        if self._form:
            sent = self._form.render(replace(message, is_markdown=False))
            subject, body = sent.subject, sent.body
        else:
            subject = " ".join(message.subject.split())
            body = text.truncate(message, UNBOUNDED) or message.subject
        await threads.run_capturing_logs(
            lambda logged: self._notify(subject, body, logged), sends=True
        )

    def _notify(self, subject: str, body: str, logged: list[str]) -> None:
        """Send the notification in a thread without an event loop.

        There, Prefect's `notify` methods run synchronously. Raise `NotDelivered`.
        """
        try:
            with self._block.raise_on_failure():
                result = self._block.notify(body, subject or None)
                if inspect.iscoroutine(result):  # the block has only an async `notify`
                    asyncio.run(result)
        except Exception as error:
            why = "; ".join(logged) or _error_text(error)
            raise NotDelivered(f"{self._what}: {redact(why, self._secret)}") from None


def _error_text(error: Exception) -> str:
    import httpx
    from prefect.blocks.abstract import NotificationError

    if isinstance(error, httpx.HTTPStatusError):  # the text of this error contains the URL
        return f"it answered {error.response.status_code}"
    if isinstance(error, NotificationError):
        return error.log or "apprise reported a failure without a reason"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


# --- secrets


def secret_texts(data: Mapping[str, Any], fields: Sequence[str]) -> dict[str, str]:
    """Return the secret strings in a block's data and the parts of secret URLs, for `redact`.

    Omit strings shorter than `_MIN_SECRET_LENGTH` characters.
    """
    texts: set[str] = set()
    for field in fields:
        for value in _texts(data.get(field.partition(".")[0])):
            texts |= {value, *_parts(value)}
    return dict.fromkeys((each for each in texts if len(each) >= _MIN_SECRET_LENGTH), "…")


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
    """Yield the secret parts of a URL as written, decoded and encoded.

    These are the password, long parts of the other components, and a host without a dot.
    """
    for each in _split_url(url):
        decoded = unquote(each)
        yield from (each, decoded, quote(decoded, safe=""))


def _split_url(url: str) -> Iterator[str]:
    try:
        split = urlsplit(url)
        user, _, host = split.netloc.rpartition("@")
        name, _, password = user.partition(":")
        yield from filter(None, (password, *password.split(":")))
        query = (pair.partition("=")[2] for pair in re.split("[&;]", split.query))
        long = [name, *split.path.split("/"), *query, split.fragment]
        if "." not in host:  # the text is a token if the service has no host
            long += host.split(":")
        yield from (each for each in long if len(each) >= _MIN_PART_LENGTH)
    except ValueError:  # the text is not a URL
        yield from (each for each in re.split(r"[^\w-]+", url) if len(each) >= _MIN_PART_LENGTH)


log = logging.getLogger(__name__)


def apprise_of(block: Any) -> Any | None:
    """Return the `Apprise` with which a notification block sends; None if the block has none.

    Return None, and log a warning, also if the block has its `Apprise` in an unexpected place. Then
    the limits of the block's service are unknown, and apprise's own processing of a message cannot
    be disabled.
    """
    from prefect.blocks.notifications import AbstractAppriseNotificationBlock

    if not isinstance(block, AbstractAppriseNotificationBlock):
        return None
    client = getattr(block, "_apprise_client", None)
    if all(hasattr(client, each) for each in ("find", "asset", "notify")):
        return client
    log.warning(
        "Prefect's block %s has no apprise client where it was expected", type(block).__name__
    )
    return None
