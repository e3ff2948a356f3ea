"""The Prefect credential in a home, and the processes that use it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import certifi
import httpx
import pytest
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from daybook.errors import InvalidInput
from daybook.home import (
    CLIENT_CREDENTIAL,
    SERVER_CREDENTIAL,
    Home,
    configure_prefect,
    forget_stopped_server,
    write_private_draft,
)
from daybook.operations import home_lock
from tests.receiver import serving

OWN = "http://127.0.0.1:4200/api"

ENTERS = """
import os
from daybook import home
home.configure_prefect()
print(os.environ.get("PREFECT_API_URL"), os.environ.get("PREFECT_API_AUTH_STRING"))
print(os.environ.get("DO_NOT_TRACK"))
"""


def entered(home: Home, **variables: str) -> list[str]:
    """Return address, credential and `DO_NOT_TRACK` that `configure_prefect` sets in a process."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "DO_NOT"))}
    environment = {**inherited, "HOME": str(home.path), "DAYBOOK_HOME": str(home.path), **variables}
    done = subprocess.run(
        [sys.executable, "-c", ENTERS], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@contextmanager
def running(home: Home, **facts: Any) -> Iterator[None]:
    """Act as if `daybook up` runs and has written ``facts`` to its file."""
    with home_lock.hold(home):
        home.up_file.write_text(json.dumps({"pid": 1, **facts}))
        yield
    home.up_file.unlink(missing_ok=True)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"up"', "7"])
def test_a_record_of_up_that_is_no_object_counts_as_empty(daybook_home: Home, text: str) -> None:
    with home_lock.hold(daybook_home):
        daybook_home.up_file.write_text(text)
        assert daybook_home.recorded() == {} == daybook_home.running()


def test_the_credential_is_created_once_and_only_its_owner_can_read_it(daybook_home: Home) -> None:
    assert daybook_home.credential() == ""
    made = daybook_home.ensure_credential()
    assert len(made) > 40
    assert daybook_home.ensure_credential() == daybook_home.credential() == made
    daybook_home.credential_file.chmod(0o644)  # as a restored backup may have it
    daybook_home.ensure_credential()
    assert stat.S_IMODE(daybook_home.credential_file.stat().st_mode) == 0o600
    names = sorted(each.name for each in daybook_home.path.iterdir() if each.is_file())
    assert names == ["prefect-credential"]  # no draft file remains


def test_concurrent_threads_create_one_shared_credential(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):  # enough to find a race that occurred one time in eight
            home = Home(tmp_path / str(number)).make()
            if number % 2:
                home.credential_file.touch()  # as after a power failure
            made = set(pool.map(lambda _, home=home: home.ensure_credential(), range(16)))
            assert made == {home.credential()}


def test_an_empty_credential_file_is_replaced(daybook_home: Home) -> None:
    daybook_home.credential_file.write_text("")
    assert len(daybook_home.ensure_credential()) > 40


def test_a_credential_given_by_the_operator_is_stored_if_it_fits_a_header(
    daybook_home: Home,
) -> None:
    daybook_home.ensure_credential()
    assert daybook_home.ensure_credential("ana:word") == daybook_home.credential() == "ana:word"
    assert daybook_home.ensure_credential() == "ana:word"
    for bad in ("ana:wörd", "ana:two\nlines"):
        with pytest.raises(InvalidInput, match=SERVER_CREDENTIAL) as caught:
            daybook_home.ensure_credential(bad)
        assert bad not in str(caught.value)
    assert daybook_home.credential() == "ana:word"


def test_a_process_uses_the_credential_of_the_server_of_daybook_up(daybook_home: Home) -> None:
    credential = daybook_home.ensure_credential()
    with running(daybook_home, api_url=OWN, own_server=True):
        assert entered(daybook_home) == [OWN, credential, "1"]
        assert entered(daybook_home, PREFECT_API_URL=OWN)[1] == credential
        # A shell that still has an earlier credential.
        stale = {"PREFECT_API_URL": OWN, CLIENT_CREDENTIAL: "daybook:old"}
        assert entered(daybook_home, **stale)[1] == credential


def test_no_other_server_gets_the_credential_of_daybook_up(daybook_home: Home) -> None:
    daybook_home.ensure_credential()
    other = "http://127.0.0.1:4999/api"
    assert entered(daybook_home, PREFECT_API_URL=OWN)[1] == "None"  # no `up` runs
    with running(daybook_home, api_url=OWN, own_server=True):
        assert entered(daybook_home, PREFECT_API_URL=other)[1] == "None"
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
def test_a_credential_set_by_the_user_is_sent_to_a_configured_server(
    daybook_home: Home, address: str, given: dict[str, str], sent: str
) -> None:
    assert entered(daybook_home, PREFECT_API_URL=address, **given)[:2] == [address, sent]


@pytest.mark.parametrize(
    ("given", "is_up", "left"),
    [("the home's", False, None), ("the home's", True, OWN), ("daybook:other", False, OWN)],
)
def test_an_address_from_daybook_env_is_dropped_unless_its_server_runs(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, given: str, is_up: bool, left: str | None
) -> None:
    credential = daybook_home.ensure_credential()
    monkeypatch.setenv("PREFECT_API_URL", OWN)
    monkeypatch.setenv(CLIENT_CREDENTIAL, given.replace("the home's", credential))
    with running(daybook_home) if is_up else nullcontext():
        forget_stopped_server()
    assert os.environ.get("PREFECT_API_URL") == left


def test_a_telemetry_setting_of_the_user_is_kept(daybook_home: Home) -> None:
    assert entered(daybook_home, DO_NOT_TRACK="0")[2] == "0"
    assert entered(daybook_home, PREFECT_API_URL="http://127.0.0.1:1/api")[2] == "1"


def test_a_draft_that_cannot_be_written_is_removed(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_private_draft(tmp_path / "secret", "\ud800")
    assert list(tmp_path.iterdir()) == []


def configure(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Configure Prefect in an environment that has no proxy and certificates but ``variables``."""
    dropped = {"SSL_CERT_FILE", "SSL_CERT_DIR"}
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    kept = {k: v for k, v in kept.items() if k not in dropped}
    monkeypatch.setattr(os, "environ", {**kept, **variables})
    configure_prefect()


@pytest.mark.anyio
@pytest.mark.parametrize("direct", [{}, {"NO_PROXY": ".corp.example"}, {"no_proxy": "10.0.0.1, "}])
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_only_connections_to_other_machines_use_a_proxy(
    name: str, direct: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server, serving() as proxy:
        configure(monkeypatch, **{name: proxy.address}, **direct)
        async with httpx.AsyncClient() as client:  # as Prefect and model providers create it
            for host in ("127.0.0.1", "localhost"):
                await client.get(f"http://{host}:{server.port}/api")
            await client.get("http://model.example/v1")
        websocket = f"ws://127.0.0.1:{server.port}/events"
        assert get_proxy(parse_uri(websocket)) is None
        assert len(server.requests) == 2
        assert [each.path for each in proxy.requests] == ["http://model.example/v1"]
        assert set("".join(direct.values()).strip(", ").split()) <= set(
            os.environ["NO_PROXY"].split(",")
        )


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY"])
async def test_a_socks_proxy_does_not_stop_a_client_of_this_machine(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:
        configure(monkeypatch, **{name: "socks5://proxy.example:1080"})
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{server.address}/api")).status_code == 200


def test_a_star_for_no_proxy_keeps_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, HTTP_PROXY="http://proxy.example:3128", NO_PROXY="*")
    assert os.environ["NO_PROXY"] == "*"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks://ana:hush-hush@proxy.example:1080"),
        ("https_proxy", "ftp://proxy.example"),
        ("HTTP_PROXY", "proxy.example:port"),
        ("NO_PROXY", ".corp.example,[::1]"),
        ("SSL_CERT_FILE", "/gone/certificates.pem"),
        ("SSL_CERT_FILE", "/"),
        ("SSL_CERT_FILE", os.devnull),
        ("PREFECT_API_SSL_CERT_FILE", "/gone/certificates.pem"),
    ],
)
def test_an_unusable_proxy_or_certificate_file_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput) as caught:
        configure(monkeypatch, **{name: value})
    assert caught.value.field == name
    assert caught.value.hint
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PRIVATE KEY", "CERTIFICATE", "X509 CRL"])
@pytest.mark.parametrize("content", ["", "MC4CAQAwBQYDK2VwBCIEIA==\n"])
def test_a_pem_file_without_a_certificate_is_named(
    kind: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.pem"
    file.write_text(f"-----BEGIN {kind}-----\n{content}-----END {kind}-----\n")
    with pytest.raises(InvalidInput, match=r"own\.pem contains no valid certificate") as caught:
        configure(monkeypatch, SSL_CERT_FILE=str(file))
    assert caught.value.field == "SSL_CERT_FILE"


def test_a_relative_certificate_file_stays_valid_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(certifi.where(), tmp_path / "own.pem")
    monkeypatch.chdir(tmp_path)
    configure(monkeypatch, SSL_CERT_FILE="own.pem")
    assert os.environ["SSL_CERT_FILE"] == str(tmp_path / "own.pem")
