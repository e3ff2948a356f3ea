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
    """A folder laid out like the repository, which `root` answers in this test."""
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


def test_the_root_of_a_checkout_is_beside_the_package() -> None:
    here = repository.root()
    assert (here / "daybook" / "repository.py").samefile(repository.__file__)


def test_the_wheels_own_doors_come_before_what_stands_beside_the_package(checkout: Path) -> None:
    assert repository.root() == checkout
    inside = checkout / "daybook" / "_repo"
    (inside / "flows").mkdir(parents=True)
    (inside / "blocks").mkdir()
    (inside / "blocks" / "agents.py").write_text("")
    assert repository.root() == inside


def test_an_installation_without_doors_says_so(checkout: Path) -> None:
    (checkout / "blocks" / "agents.py").unlink()
    with pytest.raises(DaybookError, match="has no flows"):
        repository.root()


def test_entering_stands_in_the_root_and_imports_from_it_first(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/elsewhere", str(checkout)])
    assert repository.enter() == {"directory": str(checkout)}
    assert os.getcwd() == os.path.realpath(checkout)
    assert sys.path == [str(checkout), "/elsewhere"]


def test_a_foreign_package_of_the_same_name_is_left_alone(
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


def test_a_door_that_is_not_there_or_broken_leaves_nothing_loaded(checkout: Path) -> None:
    before = set(sys.modules)
    with pytest.raises(DaybookError, match="has no entry point"):
        repository.load_entry_point("blocks/none.py")
    (checkout / "blocks" / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        repository.load_entry_point("blocks/broken.py")
    assert set(sys.modules) == before
