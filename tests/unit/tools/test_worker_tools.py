"""Whether a running worker finds a Python tool of this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import daybook
from daybook import registry
from daybook.settings import config_file
from daybook.tools import worker_tools
from tests.toolbox import install
from tests.world import World

pytestmark = pytest.mark.anyio

PLUGIN = "import daybook\n@daybook.tool('reindex')\ndef reindex() -> None: ...\n"


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the plugin `search_plugin` and the installed tool `feeds` on the path of this process."""
    (tmp_path / "search_plugin.py").write_text(PLUGIN)
    install(tmp_path, "def feeds() -> None: ...\n", "feeds")
    with registry.isolated():
        yield
    sys.modules.pop("search_plugin", None)


async def missing(world: World, tool: str) -> list[str]:
    async with world.ledger.read() as session:
        return await worker_tools.workers_without(session, tool, world.ledger.now())


async def test_a_tool_that_a_worker_has_recorded_is_not_missing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await missing(world, "reindex") == []  # no worker is known
    with monkeypatch.context() as worker:
        worker.syspath_prepend(tmp_path)
        worker.setenv("DAYBOOK_PLUGINS", "search_plugin")
        await worker_tools.record(world.ledger, "w1")
    assert await missing(world, "reindex") == []
    assert await missing(world, "feeds") == []
    await worker_tools.record(world.ledger, "w2")  # its environment is that of this process
    assert await missing(world, "other") == ["w1", "w2"]
    await worker_tools.forget(world.ledger, "w1")
    world.passes(minutes=4)
    assert await missing(world, "other") == []  # both have ended
    world.passes(hours=24)
    await worker_tools.record(world.ledger, "w3")
    assert await missing(world, "other") == ["w3"]


@pytest.mark.usefixtures("daybook_home")
@pytest.mark.parametrize(
    ("variable", "tool", "is_missing"),
    [
        # The plugin is in the file of settings, which the worker reads again for each run.
        (None, "reindex", False),
        # The variable is set in this shell, and was not when the worker started.
        ("DAYBOOK_PLUGINS", "reindex", True),
        ("PYTHONPATH", "reindex", True),
        # A package that was installed after the worker started; the worker finds it.
        ("PYTHONPATH", "feeds", False),
        # Only this program has the tool.
        (None, "mine", True),
    ],
)
async def test_a_worker_with_the_same_environment_finds_a_new_tool(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    variable: str | None,
    tool: str,
    is_missing: bool,
) -> None:
    await worker_tools.record(world.ledger, "w1")
    monkeypatch.syspath_prepend(tmp_path)
    config_file().write_text('plugins = "search_plugin"\n')
    if variable:
        values = {"DAYBOOK_PLUGINS": "search_plugin", "PYTHONPATH": str(tmp_path)}
        monkeypatch.setenv(variable, values[variable])
    registry.load_plugins()
    daybook.tool("mine")(lambda: None)
    assert tool in registry.names(registry.TOOLS)
    assert await missing(world, tool) == (["w1"] if is_missing else [])


async def test_a_worker_of_another_installation_lacks_an_installed_tool(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as worker:
        worker.setattr(sys, "prefix", "/opt/other")
        await worker_tools.record(world.ledger, "w1")
    monkeypatch.syspath_prepend(tmp_path)
    assert await missing(world, "feeds") == ["w1"]
