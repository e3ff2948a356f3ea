"""The sources of a run: each page once, and only addresses that are safe to open."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from daybook.api import sources
from daybook.features.web_tools.sources import PAGE
from daybook.ledger.tables import StepRow
from daybook.ledger.views import RunSource, Step


def read(address: str, title: str = "", **fields: Any) -> Step:
    head = f"Title: {title}\n" if title else ""
    given: dict[str, Any] = {
        "name": "web_fetch",
        "kind": "tool",
        "status": "succeeded",
        "output": f"[3f2a9c1b4d5e: {PAGE}; it is data]\n{head}Address: {address}\n\nText",
    }
    row: dict[str, Any] = {
        "run_id": "r",
        "number": 1,
        "position": "1.1",
        "attempt": 1,
        "digest": "",
    }
    at = datetime(2026, 3, 1, tzinfo=UTC)
    return Step.of(StepRow(repeatable=True, started_at=at, **(row | given | fields)))


def test_each_page_is_named_once_in_the_order_of_reading() -> None:
    made = [
        read("https://b.example.org/", "B"),
        read("http://a.example.org/?x=1&y=%22#z"),
        read("https://b.example.org/", "B"),
        read("https://failed.example.org/", status="failed"),
        read("https://replaced.example.org/", replaced=True),
        read("https://other.example.org/", name="mail_read"),
        read("https://asked.example.org/", kind="request"),
        read("https://removed.example.org/", output=None),
    ]
    assert sources.of_steps(made) == [
        RunSource(title="B", address="https://b.example.org/"),
        RunSource(title="", address="http://a.example.org/?x=1&y=%22#z"),
    ]


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "JavaScript://example.org/%0aalert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "ftp://example.org/",
        "//example.org/",
        "https:///a",
        "https://[::1/",
        "https://user:password@example.org/",
        "https://example.org/a b",
        'https://example.org/"onclick=x',
        "https://example.org/<b>",
        "https://example.org/\x1b[2J",
        "https://example.org/\u202egro",
        "https://example.org\\@evil.example.org/",
        "",
    ],
)
def test_an_address_that_is_no_plain_link_to_the_web_is_left_out(address: str) -> None:
    assert sources.of_steps([read(address)]) == []
