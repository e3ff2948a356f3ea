from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daybook import repository
from daybook.errors import DaybookError


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Create a folder with the layout of the repository and make it the root in this test."""
    place = tmp_path / "place"
    (place / "daybook").mkdir(parents=True)
    (place / "flows").mkdir()
    (place / "blocks").mkdir()
    (place / "blocks" / "agents.py").write_text("WHOSE = 'ours'\n")
    (place / "blocks" / "__init__.py").write_text("from .agents import WHOSE\n")
    monkeypatch.setattr(repository, "_PACKAGE", place / "daybook")
    before = set(sys.modules)
    yield place
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_root_of_a_checkout_contains_the_package() -> None:
    root = repository.root()
    assert (root / "daybook" / "repository.py").samefile(repository.__file__)


def test_entry_points_inside_the_package_take_precedence_over_those_beside_it(
    checkout: Path,
) -> None:
    assert repository.root() == checkout
    inside = checkout / "daybook" / "_repo"
    (inside / "flows").mkdir(parents=True)
    (inside / "blocks").mkdir()
    (inside / "blocks" / "agents.py").write_text("")
    assert repository.root() == inside


def test_an_installation_without_entry_points_is_an_error(checkout: Path) -> None:
    (checkout / "blocks" / "agents.py").unlink()
    with pytest.raises(DaybookError, match="has no flows"):
        repository.root()


def test_enter_changes_to_the_root_and_puts_it_first_in_the_import_path(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/elsewhere", str(checkout)])
    assert repository.enter() == {"directory": str(checkout)}
    assert os.getcwd() == os.path.realpath(checkout)
    assert sys.path == [str(checkout), "/elsewhere"]


def test_another_package_with_the_same_name_stays_imported(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "foreign"
    (foreign / "blocks").mkdir(parents=True)
    (foreign / "blocks" / "__init__.py").write_text("WHOSE = 'theirs'\n")
    monkeypatch.syspath_prepend(foreign)
    for name in [n for n in sys.modules if n.split(".")[0] == "blocks"]:
        monkeypatch.delitem(sys.modules, name)
    import blocks

    door = repository.load_entry_point("blocks/__init__.py")
    assert door.WHOSE == "ours"
    assert sys.modules["blocks"] is blocks
    assert vars(blocks)["WHOSE"] == "theirs"
    assert repository.load_entry_point("blocks/__init__.py") is door


def test_a_missing_or_broken_entry_point_leaves_no_module_loaded(checkout: Path) -> None:
    before = set(sys.modules)
    with pytest.raises(DaybookError, match="has no entry point"):
        repository.load_entry_point("blocks/none.py")
    (checkout / "blocks" / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        repository.load_entry_point("blocks/broken.py")
    assert set(sys.modules) == before
