"""The files of a home that hold a credential, and which process finds it there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.home import CLIENT_CREDENTIAL, SERVER_CREDENTIAL, Home, forget_stopped_server
from daybook.operations import home_lock

OWN = "http://127.0.0.1:4200/api"

ENTERS = """
import os
from daybook import home
home.configure_prefect()
print(os.environ.get("PREFECT_API_URL"), os.environ.get("PREFECT_API_AUTH_STRING"))
print(os.environ.get("DO_NOT_TRACK"))
"""


def entered(home: Home, **variables: str) -> list[str]:
    """What a process has set after `enter`: the address, the credential, `DO_NOT_TRACK`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "DO_NOT"))}
    environment = {**kept, "HOME": str(home.path), "DAYBOOK_HOME": str(home.path), **variables}
    done = subprocess.run(
        [sys.executable, "-c", ENTERS], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@contextmanager
def running(home: Home, **facts: Any) -> Iterator[None]:
    """As while an `up` runs that wrote this down."""
    with home_lock.hold(home):
        home.up_file.write_text(json.dumps({"pid": 1, **facts}))
        yield
    home.up_file.unlink(missing_ok=True)


def test_the_credential_is_made_once_and_its_owner_alone_reads_it(daybook_home: Home) -> None:
    assert daybook_home.credential() == ""
    made = daybook_home.ensure_credential()
    assert len(made) > 40
    assert daybook_home.ensure_credential() == daybook_home.credential() == made
    daybook_home.credential_file.chmod(0o644)  # as a backup may bring it back
    daybook_home.ensure_credential()
    assert stat.S_IMODE(daybook_home.credential_file.stat().st_mode) == 0o600
    names = sorted(each.name for each in daybook_home.path.iterdir() if each.is_file())
    assert names == ["prefect-credential"]  # no draft is left


def test_of_those_that_make_it_at_once_the_first_one_wins(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):  # one time in eight it was lost to a second one
            home = Home(tmp_path / str(number)).make()
            if number % 2:
                home.credential_file.touch()  # as a power cut may leave it
            made = set(pool.map(lambda _, home=home: home.ensure_credential(), range(16)))
            assert made == {home.credential()}


def test_an_empty_file_holds_no_credential(daybook_home: Home) -> None:
    daybook_home.credential_file.write_text("")
    assert len(daybook_home.ensure_credential()) > 40


def test_what_the_operator_gives_is_kept_and_must_fit_in_a_header(daybook_home: Home) -> None:
    daybook_home.ensure_credential()
    assert daybook_home.ensure_credential("ana:word") == daybook_home.credential() == "ana:word"
    assert daybook_home.ensure_credential() == "ana:word"
    for bad in ("ana:wörd", "ana:two\nlines"):
        with pytest.raises(InvalidInput, match=SERVER_CREDENTIAL) as caught:
            daybook_home.ensure_credential(bad)
        assert bad not in str(caught.value)
    assert daybook_home.credential() == "ana:word"


def test_a_process_finds_the_credential_of_the_server_of_up(daybook_home: Home) -> None:
    credential = daybook_home.ensure_credential()
    with running(daybook_home, api_url=OWN, own_server=True):
        assert entered(daybook_home) == [OWN, credential, "1"]
        assert entered(daybook_home, PREFECT_API_URL=OWN)[1] == credential
        # A shell that was prepared for an earlier credential.
        stale = {"PREFECT_API_URL": OWN, CLIENT_CREDENTIAL: "daybook:old"}
        assert entered(daybook_home, **stale)[1] == credential


def test_no_other_server_gets_the_credential_of_up(daybook_home: Home) -> None:
    daybook_home.ensure_credential()
    other = "http://127.0.0.1:4999/api"
    assert entered(daybook_home, PREFECT_API_URL=OWN)[1] == "None"  # no `up` runs
    with running(daybook_home, api_url=OWN, own_server=True):
        assert entered(daybook_home, PREFECT_API_URL=other)[1] == "None"
        assert entered(daybook_home, PREFECT_API_URL="http://[broken/api")[1] == "None"
    with running(daybook_home, api_url=OWN, own_server=False):
        assert entered(daybook_home, PREFECT_API_URL=OWN)[1] == "None"


@pytest.mark.parametrize(
    ("address", "given", "sent"),
    [
        ("http://localhost:4999/api", {SERVER_CREDENTIAL: "ana:word"}, "ana:word"),
        ("https://prefect.example.org/api", {SERVER_CREDENTIAL: "ana:word"}, "None"),
        ("https://prefect.example.org/api", {CLIENT_CREDENTIAL: "ana:word"}, "ana:word"),
        (
            "http://localhost:4999/api",
            {SERVER_CREDENTIAL: "ana:word", CLIENT_CREDENTIAL: "ana:other"},
            "ana:other",
        ),
    ],
)
def test_what_the_user_has_set_is_sent_to_a_configured_server(
    daybook_home: Home, address: str, given: dict[str, str], sent: str
) -> None:
    assert entered(daybook_home, PREFECT_API_URL=address, **given)[:2] == [address, sent]


@pytest.mark.parametrize(
    ("given", "is_up", "left"),
    [("the home's", False, None), ("the home's", True, OWN), ("daybook:other", False, OWN)],
)
def test_up_starts_its_server_anew_in_a_shell_that_daybook_env_prepared(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, given: str, is_up: bool, left: str | None
) -> None:
    credential = daybook_home.ensure_credential()
    monkeypatch.setenv("PREFECT_API_URL", OWN)
    monkeypatch.setenv(CLIENT_CREDENTIAL, given.replace("the home's", credential))
    with running(daybook_home) if is_up else nullcontext():
        forget_stopped_server()
    assert os.environ.get("PREFECT_API_URL") == left


def test_the_users_word_about_telemetry_stays(daybook_home: Home) -> None:
    assert entered(daybook_home, DO_NOT_TRACK="0")[2] == "0"
    assert entered(daybook_home, PREFECT_API_URL="http://127.0.0.1:1/api")[2] == "1"
