"""What programs register: by decorator and by entry point, once a name."""

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
    """A folder on the path: a module that registers a tool, and one that cannot be imported."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "registered_here.py").write_text(PLUGIN)
    (folder / "registered_broken.py").write_text("raise SystemExit('no licence')")
    monkeypatch.syspath_prepend(folder)
    return folder


async def test_a_tool_of_a_plugin_is_called_by_its_name(
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


async def test_a_plugin_that_cannot_be_imported_is_told_where_its_tool_is_missing(
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


def test_one_function_may_be_registered_in_both_ways_and_two_may_not_share_a_name(
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


def test_a_name_is_one_functions_and_legal() -> None:
    @daybook.tool("twice")
    def first() -> None: ...

    assert daybook.tool("twice")(first) is first  # a module that is loaded again
    with pytest.raises(InvalidInput, match="two functions have the name"):

        @daybook.tool("twice")
        def second() -> None: ...

    for name in ("", " blank", "line\nbreak", "x" * 201):
        with pytest.raises(InvalidInput, match="tool: "):
            daybook.tool(name)(first)
    with pytest.raises(InvalidInput, match="is not a function"):
        daybook.listener(name="a")(int)


def test_a_listener_is_known_by_its_module_and_its_name() -> None:
    @daybook.listener
    def heard(run: dict[str, object]) -> None: ...

    name = f"{__name__}.{heard.__qualname__}"
    assert registry.known_names(registry.LISTENERS) == [name]
    assert registry.find(registry.LISTENERS, name) is heard
    assert registry.find(registry.LISTENERS, "nobody") is None


def test_an_entry_point_that_leaves_as_it_is_imported_ends_nobody(site: Path) -> None:
    about = site / "registered-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: registered\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[daybook.tools]\nleaves = registered_broken:leaves\n")
    with pytest.raises(InvalidInput, match=r"cannot load registered_broken:leaves: SystemExit: no"):
        python_tools.info("leaves")
