"""Tools and listeners that programs register by decorator or entry point."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import daybook
from daybook import registry
from daybook.errors import InvalidInput, UnknownName
from daybook.home import Home
from daybook.http.guard import Guard, Rule
from daybook.ledger.states import Status
from daybook.tools import catalog, python_tools
from tests.contract.tools.conftest import Saved

pytestmark = pytest.mark.anyio

PLUGIN = """
import daybook

@daybook.tool("reindex")
async def reindex(full: bool = False) -> str:
    "Build the index again."
    return f"full: {full}"
"""


@pytest.fixture(autouse=True)
def nobody_else(daybook_home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with registry.isolated():
        yield
    for name in [each for each in sys.modules if each.startswith("registered_")]:
        del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on the path with a module that registers a tool, and a broken module."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "registered_here.py").write_text(PLUGIN)
    (folder / "registered_broken.py").write_text("raise SystemExit('no licence')")
    monkeypatch.syspath_prepend(folder)
    return folder


async def test_a_tool_of_a_plugin_is_found_and_called_by_its_name(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "reindex" not in python_tools.names()
    monkeypatch.setenv("DAYBOOK_PLUGINS", "registered_here")
    assert "reindex" in python_tools.names()
    info = python_tools.info("reindex")
    assert info.description == "Build the index again."
    assert info.schema["properties"]["full"]["type"] == "boolean"
    called = await python_tools.call("reindex", {"full": True}, "o-1", timeout=10.0)
    assert (called.outcome.status, called.outcome.output) == (Status.SUCCEEDED, "full: True")


async def test_the_error_for_an_unknown_tool_names_plugins_that_failed_to_import(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_PLUGINS", "registered_broken,registered_here")
    assert "reindex" in python_tools.names()
    with pytest.raises(UnknownName) as refused:
        await catalog.find("reindx", Saved({}), Guard.from_settings(Rule.OPERATOR))
    why = "the plugin registered_broken cannot be imported: SystemExit: no licence"
    assert why in str(refused.value) and "reindex" in str(refused.value)
    _, absent = await catalog.list_tools(Saved({}))
    assert absent["registered_broken"] == why


def test_a_function_may_be_registered_twice_but_two_cannot_share_a_name(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = site / "registered-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: registered\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[daybook.tools]\nreindex = registered_here:reindex\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("DAYBOOK_PLUGINS", "registered_here")
    assert python_tools.info("reindex").description == "Build the index again."

    with registry.isolated():
        daybook.tool("reindex")(lambda: None)
        with pytest.raises(
            InvalidInput, match=r"several functions have its name: .*registered_here:reindex"
        ):
            python_tools.info("reindex")


def test_a_registered_name_must_be_valid_and_unique() -> None:
    @daybook.tool("twice")
    def first() -> None: ...

    assert daybook.tool("twice")(first) is first  # as when a module is loaded again
    with pytest.raises(InvalidInput, match="two functions have the name"):

        @daybook.tool("twice")
        def second() -> None: ...

    for name in ("", " blank", "line\nbreak", "x" * 201):
        with pytest.raises(InvalidInput, match="tool: "):
            daybook.tool(name)(first)
    with pytest.raises(InvalidInput, match="is not a function"):
        daybook.listener(name="a")(int)


def test_a_listener_is_registered_under_its_module_and_name() -> None:
    @daybook.listener
    def listener(run: dict[str, object]) -> None: ...

    name = f"{__name__}.{listener.__qualname__}"
    assert registry.known_names(registry.LISTENERS) == [name]
    assert registry.find(registry.LISTENERS, name) is listener
    assert registry.find(registry.LISTENERS, "nobody") is None


def test_an_entry_point_that_exits_on_import_raises_invalid_input(site: Path) -> None:
    about = site / "registered-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: registered\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[daybook.tools]\nleaves = registered_broken:leaves\n")
    with pytest.raises(InvalidInput, match=r"cannot load registered_broken:leaves: SystemExit: no"):
        python_tools.info("leaves")
