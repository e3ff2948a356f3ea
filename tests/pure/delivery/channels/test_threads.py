"""Timeouts of the work that channels do in threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daybook.delivery.channels import apprise, prefect_blocks, threads
from daybook.delivery.channels.base import NotDelivered

pytestmark = pytest.mark.anyio


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that does not end before the test; its thread is given up after 0.05 s."""
    within = partial(threads.run_capturing_logs, within=0.05)
    monkeypatch.setattr(threads, "run_capturing_logs", within)
    may_end = threading.Event()
    yield lambda *_: may_end.wait()
    may_end.set()


async def test_a_timeout_while_a_channel_is_read_is_no_uncertain_delivery(
    hang: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read(*_: object, **__: object) -> Any:
        return SimpleNamespace(data={})

    client = cast(Any, SimpleNamespace(read_block_document_by_name=read))
    monkeypatch.setattr(type(apprise.STORE), "read", read)
    monkeypatch.setattr(apprise, "build", hang)
    monkeypatch.setattr(prefect_blocks, "_build", hang)
    monkeypatch.setattr(apprise, "validate", hang)
    for reading in (
        partial(apprise.read, client, "team"),
        partial(apprise.add, client, "team", "ntfy://topic"),
        partial(prefect_blocks.read, client, "slack-webhook", "team"),
    ):
        with pytest.raises(NotDelivered) as caught:
            await reading()
        assert str(caught.value) == "no result within 0.05 s"
        assert caught.value.temporary


async def test_a_timeout_while_a_message_is_sent_is_an_uncertain_delivery(
    hang: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = apprise.build("team", {"url": "ntfy://topic"})
    monkeypatch.setattr(channel, "_send", hang)
    message = cast(Any, SimpleNamespace(chat_id=""))
    with pytest.raises(NotDelivered, match="; it may have arrived"):
        await channel.send(message)


async def test_a_failure_has_the_reason_of_an_unexpected_error() -> None:
    with threads.capture_logs() as captured:
        try:
            raise OSError("no certificates in /gone.pem")
        except OSError:
            logging.getLogger("apprise").exception("Unhandled Notification Exception")
    reason = "Unhandled Notification Exception: OSError: no certificates in /gone.pem"
    assert captured == [reason]
