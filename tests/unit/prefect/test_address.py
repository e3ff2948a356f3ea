"""A long-lived process uses the Prefect server that `daybook up` runs now."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from daybook.home import Home

# Simulates two starts of `daybook up` with different servers during the life of one process.
LIVES = """
import fcntl, json, os, sys
from daybook import home
from daybook.prefect import address

def print_settings():
    from prefect.settings import get_current_settings
    api = get_current_settings().api
    print(api.url)
    print("sent:", api.auth_string and api.auth_string.get_secret_value(), file=sys.stderr)

def up(address):
    here.credential_file.unlink(missing_ok=True)
    here.ensure_credential(f"up:{address}")
    here.up_file.write_text(json.dumps({"api_url": address, "own_server": True}))

here = home.current_home().make()
if "IMPORTED" in os.environ:  # by the program, before Daybook was asked for anything
    import prefect
address.use_current_server()
assert ("prefect" in sys.modules) is ("IMPORTED" in os.environ)
print_settings()
lock = here.up_lock.open("w")
fcntl.flock(lock, fcntl.LOCK_EX)
for port in (4200, 4201):
    up(f"http://127.0.0.1:{port}/api")
    address.use_current_server()
    print_settings()
fcntl.flock(lock, fcntl.LOCK_UN)
address.use_current_server()
print_settings()
"""


def lived(**variables: str) -> list[str]:
    return run(**variables).stdout.split()


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
    }
    return subprocess.run(
        [sys.executable, "-c", LIVES],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture(autouse=True)
def nobody_elses(daybook_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(daybook_home.path))


@pytest.mark.parametrize("before", [{}, {"IMPORTED": "1"}], ids=["", "imported"])
def test_a_process_uses_the_server_that_daybook_up_runs_now(before: dict[str, str]) -> None:
    first, second = "http://127.0.0.1:4200/api", "http://127.0.0.1:4201/api"
    assert lived(**before) == ["None", first, second, second]


@pytest.mark.parametrize("before", [{}, {"IMPORTED": "1"}], ids=["", "imported"])
@pytest.mark.parametrize("named", [{}, {"PREFECT_API_URL": "http://localhost:4200/api"}])
@pytest.mark.slow
def test_a_process_sends_the_credential_only_to_the_server_of_daybook_up(
    before: dict[str, str], named: dict[str, str]
) -> None:
    lines = [line for line in run(**before, **named).stderr.splitlines() if line.startswith("sent")]
    first, second = (f"sent: up:http://127.0.0.1:{port}/api" for port in (4200, 4201))
    # The server in the user's settings never gets the credential of another server.
    assert lines == ["sent: None", first, first if named else second, first if named else second]


@pytest.mark.parametrize("before", [{}, {"IMPORTED": "1"}], ids=["", "imported"])
@pytest.mark.slow
def test_an_api_url_set_by_the_user_is_kept(before: dict[str, str]) -> None:
    theirs = "http://prefect.example.org/api"
    assert lived(PREFECT_API_URL=theirs, **before) == [theirs] * 4
