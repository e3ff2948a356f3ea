"""The page of Python functions: what each does, where it comes from, and why one is unusable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from daybook import registry
from daybook.delivery import listeners
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("alone")]

PATH = "/settings/functions"


@pytest.fixture
def alone() -> Iterator[None]:
    with registry.isolated():
        yield


async def test_a_tool_and_the_listeners_of_any_process_are_listed(
    world: World, browser: httpx.AsyncClient
) -> None:
    @registry.tool("reindex")
    def reindex(full: bool = False) -> str:
        """Build the <index> again.

        In the night.
        """
        return str(full)

    @registry.tool("broken")
    def broken(given: Any, /) -> None:
        """Do nothing."""

    @registry.listener(name="log")
    def log(run: dict[str, Any]) -> None:
        """Write a line."""

    await listeners.announce(world.ledger, ["log", "elsewhere"])
    page = (await browser.get(PATH)).text
    for text in ("Build the &lt;index&gt; again.", "Write a line.", "elsewhere"):
        assert text in page, text
    assert page.count(f"<code>{__name__}.") == 3
    assert "In the night" not in page
    assert "cannot be passed by name" in page
    assert page.count("another process") == 1


async def test_a_plugin_that_is_not_imported_is_named(
    browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_PLUGINS", "no_such_plugin")
    page = (await browser.get(PATH)).text
    assert "no_such_plugin</code> was not imported: ModuleNotFoundError" in page
    assert "No function is a tool." in page
