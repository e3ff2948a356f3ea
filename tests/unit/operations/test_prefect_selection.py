"""The port that a home's server gets: at each start the same, where that is free."""

from __future__ import annotations

import socket

import pytest

from daybook.home import Home
from daybook.operations import prefect_selection, server
from tests.servers import free_port


@pytest.fixture
def first_choice(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port in the place of 4200 that nobody listens on."""
    port = free_port()
    monkeypatch.setattr(server, "PORT", port)
    return port


def next_port(home: Home) -> tuple[int, list[str]]:
    said: list[str] = []
    return prefect_selection._port(home, said.append), said


@pytest.mark.parametrize("written", [None, "", "soon\n", "0\n", "-1\n", "70000\n"])
def test_without_a_port_of_its_own_a_home_gets_the_first_choice(
    daybook_home: Home, first_choice: int, written: str | None
) -> None:
    if written is not None:
        (daybook_home.path / "port").write_text(written)
    assert next_port(daybook_home) == (first_choice, [])


def test_the_port_of_the_last_start_is_taken_again_without_a_word(
    daybook_home: Home, first_choice: int
) -> None:
    last = free_port()
    (daybook_home.path / "port").write_text(f"{last}\n")
    assert next_port(daybook_home) == (last, [])


def test_where_the_port_of_the_last_start_is_taken_another_is_told(
    daybook_home: Home, first_choice: int
) -> None:
    with socket.create_server((server.HOST, 0)) as taken:
        last = taken.getsockname()[1]
        (daybook_home.path / "port").write_text(f"{last}\n")
        port, said = next_port(daybook_home)
    assert port == first_choice
    assert said == [f"Port {last} is taken; Prefect uses port {port}"]


def test_where_the_first_choice_is_taken_too_any_other_is_told(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((server.HOST, 0)) as taken:
        first = taken.getsockname()[1]
        monkeypatch.setattr(server, "PORT", first)
        port, said = next_port(daybook_home)
    assert port != first
    assert said == [f"Port {first} is taken; Prefect uses port {port}"]
