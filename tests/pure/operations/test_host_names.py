"""Names of hosts in the headers `Host` and `Origin`: exactly a name, and a port or nothing."""

from __future__ import annotations

import pytest

from daybook.operations.host_names import AllowedNames, SameOriginGuard, host_name, origin_name
from daybook.operations.login import is_from_own_page
from daybook.operations.prefect_login import _without_auth
from tests.rows import each

FOREIGN = [
    "",
    "evil.example",
    "127.0.0.1:4280.evil.example",
    "127.0.0.1:x",
    "127.0.0.1:",
    "127.0.0.1:999999",
    "127.0.0.1:80:80",
    "127.0.0.1/evil",
    "127.0.0.1#evil",
    "127.0.0.1?evil",
    "127.0.0.1\\\\evil",
    "127.0.0.1 evil",
    "127.0.0.1\t",
    "127.0.0.1\n",
    " 127.0.0.1",
    "user@127.0.0.1",
    "127.0.0.1@evil.example",
    "[::1].evil.example",
    "[::1",
    "::1",
    "[[::1]]",
    "127.0.0.1..",
    "127.0.0.1%00",
    "127.0.0.1,evil.example",
]


def test_only_a_name_and_a_port_are_a_host() -> None:
    for name in ("localhost", "LOCALHOST.", "127.0.0.1:4280", "[::1]", "[::1]:80"):
        assert AllowedNames().refusal({"headers": [(b"host", name.encode())]}) == ""
    for name, trying in each(FOREIGN):
        with trying:
            scope = {"headers": [(b"host", name.encode())]}
            assert AllowedNames().refusal(scope) == "not a name of this server"
            assert AllowedNames(any_address=True).refusal(scope) == "not a name of this server"
            guard = SameOriginGuard(None, ["http://127.0.0.1:4200", "http://[::1]:4200"])  # type: ignore[arg-type]
            assert not guard._is_allowed(scope)
            body = b'{"api_url": "http://127.0.0.1:4200/api"}'
            assert b"evil" not in _without_auth(body, name)


@pytest.mark.parametrize("start", ["http://", "https://"])
def test_only_a_scheme_a_name_and_a_port_are_an_origin(start: str) -> None:
    assert origin_name(f"{start}Localhost:80") == host_name("localhost") == "localhost"
    for name, trying in each([*FOREIGN, "127.0.0.1/"]):
        with trying:
            headers = [(b"host", b"localhost"), (b"origin", f"{start}{name}".encode())]
            assert AllowedNames().refusal({"headers": headers}) == "not from this origin"
            is_own = is_from_own_page({b"host": name, b"origin": f"{start}{name}"}, safe=True)
            assert is_own == (name in ("evil.example", "127.0.0.1.."))
    for origin in ("null", "localhost", "file://localhost", "//localhost", "ftp://localhost"):
        assert origin_name(origin) == ""
