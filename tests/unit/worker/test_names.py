"""Names of the workers of a home."""

from __future__ import annotations

import os
from pathlib import Path

from daybook.home import Home
from daybook.keeper import leadership
from daybook.runs import workers
from daybook.worker import names


def test_two_workers_of_a_home_have_two_names_which_a_restart_keeps(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    first, held = names.reserve(home)
    second, other = names.reserve(home)
    assert (first, second) == (f"{home.worker_name}-2", f"{home.worker_name}-3")
    os.close(held)
    again, held = names.reserve(home)
    assert again == first
    os.close(held)
    os.close(other)


def test_another_home_on_the_machine_has_other_names(tmp_path: Path) -> None:
    one, held = names.reserve(Home(tmp_path / "one"))
    two, other = names.reserve(Home(tmp_path / "two"))
    assert one != two
    os.close(held)
    os.close(other)


def test_two_machines_with_one_host_name_and_one_path_have_two_names(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    found = list[str]()
    for _ in range(2):
        name, held = names.reserve(home)
        os.close(held)
        assert names.reserve(home)[0] == name
        assert home.worker_id.stat().st_mode & 0o777 == 0o600
        found.append(name)
        home.worker_id.unlink()  # the other machine has its own file
    assert found[0] != found[1]


def test_a_holder_contains_the_name_of_its_worker_and_is_new_at_each_start() -> None:
    first, second = (leadership.new_holder("a host/1:2") for _ in range(2))
    assert first != second
    assert first.split(":")[3:] == second.split(":")[3:] == ["a_host_1_2"]
    assert len(leadership.new_holder().split(":")) == 3


def test_the_ledger_has_one_form_of_the_name_of_a_worker() -> None:
    """`daybook workers list` and `Run.worker` show the same name."""
    assert workers.plain_name("a host/1:2") == leadership.new_holder("a host/1:2").split(":")[3]
    assert workers.plain_name("host-1a2b3c.example_2") == "host-1a2b3c.example_2"
