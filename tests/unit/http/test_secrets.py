"""Secrets: references, the hosts they are bound to, literal secrets, and redaction."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from daybook.errors import InvalidInput, UnknownName
from daybook.http import secrets
from daybook.http.secrets import FilledSecrets, Secret, SecretDestination
from daybook.resources import secrets as secret_blocks

pytestmark = pytest.mark.anyio

VALUE = "s3cr3t-of-the-api"


@dataclass
class StoredSecrets:
    """Secret store with the hosts that a test sets."""

    hosts: Mapping[str, tuple[str, ...]]

    async def read(self, name: str) -> Secret:
        if name not in self.hosts:
            raise UnknownName("secret", name, self.hosts)
        return Secret(name, VALUE if name == "key" else f"value of {name}", self.hosts[name])


def _to(url: str) -> SecretDestination:
    return SecretDestination.of_url(httpx.URL(url))


async def _filled(text: str, url: str, *hosts: str) -> str:
    return await secrets.fill(
        "headers", text, _to(url), StoredSecrets({"key": hosts}), FilledSecrets()
    )


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (("api.example.org",), "https://api.example.org/"),
        (("api.example.org",), "https://API.example.org.:8443/"),
        (("other.example.org", "api.example.org:8443"), "https://api.example.org:8443/"),
        (("api.example.org:443",), "https://api.example.org/"),
        (("10.0.0.5",), "http://10.0.0.5:8080/"),
        (("::1",), "http://[::1]:8080/"),
        (("[::1]:8080",), "http://[::1]:8080/"),
        (("[::1]",), "http://[::1]/"),
        (("xn--bcher-kva.example",), "https://bücher.example/"),
    ],
)
async def test_a_secret_is_filled_in_for_the_hosts_it_is_bound_to(
    hosts: tuple[str, ...], url: str
) -> None:
    bound = secret_blocks.build("key", {"value": VALUE, "hosts": list(hosts)})
    assert await _filled("Bearer {{secret:key}}", url, *bound.hosts) == f"Bearer {VALUE}"


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (("api.example.org",), "https://evil.example.org/"),
        (("api.example.org",), "https://api.example.org.evil.example/"),
        (("api.example.org",), "https://x.api.example.org/"),
        (("example.org",), "https://api.example.org/"),
        (("api.example.org:8443",), "https://api.example.org/"),
        (("api.example.org:443",), "http://api.example.org/"),
        (("10.0.0.5",), "http://10.0.0.50/"),
        (("tool:api.example.org",), "https://api.example.org/"),
    ],
)
async def test_a_secret_is_refused_for_any_other_host(hosts: tuple[str, ...], url: str) -> None:
    with pytest.raises(InvalidInput, match=f"is bound to {hosts[0]}") as refused:
        await _filled("{{secret:key}}", url, *hosts)
    assert "is not for" in refused.value.problem
    assert VALUE not in str(refused.value)


async def test_a_text_with_several_references_is_filled_and_otherwise_unchanged() -> None:
    store = StoredSecrets({"key": ("a.example",), "user-2": ("a.example",)})
    filled = FilledSecrets()
    text = "{{ secret:user-2 }}:{{secret:key}} {{date}} {secret:key}"
    filled_text = await secrets.fill("headers", text, _to("https://a.example/"), store, filled)
    assert filled_text == f"value of user-2:{VALUE} {{{{date}}}} {{secret:key}}"
    assert filled.values == {VALUE, "value of user-2"}


async def test_a_secret_value_that_looks_like_a_reference_is_not_replaced() -> None:
    @dataclass
    class Nested:
        async def read(self, name: str) -> Secret:
            return Secret(name, "{{secret:other}}\\1", ("a.example",))

    filled_text = await secrets.fill(
        "", "{{secret:key}}", _to("https://a.example/"), Nested(), FilledSecrets()
    )
    assert filled_text == "{{secret:other}}\\1"


@pytest.mark.parametrize(
    "text",
    ["{{secret:}}", "{{secret:Key}}", "{{secret}}", "{{secret:a b}}", "{{secret:key}", "{{secret"],
)
def test_a_misspelt_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="misspelt") as refused:
        secrets.references("headers", f"Bearer {text} {{{{secret:good}}}}")
    assert "{{secret:name}}" in refused.value.hint


async def test_an_unknown_secret_is_refused_with_the_known_names() -> None:
    with pytest.raises(UnknownName, match="known: key"):
        await secrets.fill(
            "headers",
            "{{secret:nosuch}}",
            _to("https://a.example/"),
            StoredSecrets({"key": ()}),
            FilledSecrets(),
        )


async def test_references_in_nested_parameter_values_are_filled() -> None:
    store = StoredSecrets({"key": ("tool:search.reindex",)})
    params = {"a": ["{{secret:key}}", 1, None], "{{secret:key}}": {"b": True, "c": "plain"}}
    there = SecretDestination.of_tool("Search.Reindex")
    filled_text = await secrets.fill_params(params, there, store, FilledSecrets())
    assert filled_text == {"a": [VALUE, 1, None], "{{secret:key}}": {"b": True, "c": "plain"}}
    with pytest.raises(InvalidInput, match="is not for tool:other"):
        await secrets.fill_params(
            params, SecretDestination.of_tool("other"), store, FilledSecrets()
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Bearer abc"),
        ("authorization", "Basic dXNlcjpwYXNz"),
        ("X-Api-Key", "abc"),
        ("X-API-KEY", "1"),
        ("apikey", "abc"),
        ("Cookie", "session=1"),
        ("PRIVATE-TOKEN", "abc"),
        ("X-Auth-Token", "abc"),
        ("X-Goog-Api-Key", "abc"),
        ("X-Webhook-Secret", "abc"),
        ("X-Password", "abc"),
        ("X-Anything", "Bearer 0123456789abcdef"),
        ("X-Anything", "sk-" + "ant-api03-" + "x1" * 12),
        ("X-Anything", "sk_live_0123456789abcdefghij"),
        ("X-Anything", "ghp_0123456789abcdefghij0123456789abcdef"),
        ("X-Anything", "github_pat_0123456789abcdefghij"),
        ("X-Anything", "glpat-0123456789abcdefghij"),
        ("X-Anything", "xoxb-0123456789-abcdef"),
        ("X-Anything", "AKIA" + "A1B2C3D4E5F6G7H8"),
        ("X-Anything", "AIza" + "x" * 35),
        ("X-Anything", "pnu_0123456789abcdefghij"),
        ("X-Anything", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"),
        ("X-Anything", "-----BEGIN RSA PRIVATE KEY-----"),
        ("X-Anything", "{{secret:key}} and sk_live_0123456789abcdefghij"),
    ],
)
def test_a_header_that_looks_like_a_secret_is_refused_with_advice(name: str, value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        secrets.refuse_literal_headers({"Accept": "*/*", name: value})
    assert refused.value.field == "headers"
    assert "{{secret:name}}" in refused.value.hint
    assert name in refused.value.problem
    assert len(value) < 4 or value not in str(refused.value)
    replaced = secrets.replace_literals("headers", {"Accept": "*/*", name: value}, str.upper)
    assert replaced == {"Accept": "*/*", name: name.upper()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Bearer {{secret:key}}"),
        ("X-Api-Key", "{{ secret:key }}"),
        ("X-Api-Key", ""),
        ("X-Team", "research"),
        ("X-Token-Count", "15"),
        ("X-Plan", "Basic subscription"),
        ("X-Note", "Bearer instruments of the orchestra"),
        ("Accept", "application/vnd.github+json"),
        ("Idempotency", "550e8400-e29b-41d4-a716-446655440000"),
    ],
)
def test_headers_that_do_not_look_like_a_secret_are_accepted(name: str, value: str) -> None:
    secrets.refuse_literal_headers({name: value})
    assert secrets.replace_literals("headers", {name: value}, str.upper) == {name: value}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"api_key": "abc"}, "api_key"),
        ({"auth": {"password": "abc"}}, "auth.password"),
        ({"list": [{"client-secret": "abc"}]}, "list.client-secret"),
        ({"text": "use ghp_0123456789abcdefghij0123456789abcdef"}, "text"),
    ],
)
def test_parameters_that_look_like_a_secret_are_refused(params: Any, expected: str) -> None:
    with pytest.raises(InvalidInput, match=f'"{expected}" looks like a secret') as refused:
        secrets.refuse_literal_params(params)
    assert refused.value.field == "params"
    replaced = secrets.replace_literals("params", params, lambda path: "{{secret:other}}")
    secrets.refuse_literal_params(replaced)
    assert replaced != params


@pytest.mark.parametrize(
    "params",
    [
        {"api_key": "{{secret:key}}", "tokens": 5, "next_page_token": "abc", "password": ""},
        {"secret": None, "full": True},
        [],
        "text",
    ],
)
def test_parameters_that_do_not_look_like_a_secret_are_accepted(params: Any) -> None:
    secrets.refuse_literal_params(params)
    assert secrets.replace_literals("params", params, str.upper) == params


def test_a_name_that_marks_a_param_as_a_secret_does_not_mark_a_header() -> None:
    given = {"Private_Key": "none"}
    secrets.refuse_literal_headers(given)
    assert secrets.replace_literals("headers", given, str.upper) == given
    assert secrets.replace_literals("params", given, str.upper) == {"Private_Key": "PRIVATE_KEY"}


def test_a_filled_secret_is_hidden_in_an_answer_that_repeats_it() -> None:
    filled = FilledSecrets({'a"quoted', VALUE, f"{VALUE}-longer", "abc"})
    text = f'{{"got": "{VALUE}-longer", "and": "a\\"quoted", "it": "{VALUE}", "short": "abc"}}'
    assert filled.hide(text) == (
        '{"got": "********", "and": "********", "it": "********", "short": "abc"}'
    )
    assert VALUE not in repr(filled)
    assert VALUE not in repr(Secret("key", VALUE, ()))


@pytest.mark.parametrize("value", ['ab\\cd"ef', "it's both\"", "zwei\nZeilen", 'höf"lich', "it's"])
@pytest.mark.parametrize(
    "says",
    [repr, json.dumps, lambda it: json.dumps(it, ensure_ascii=False), lambda it: repr(f'"{it}')],
    ids=["in an error of Python", "in JSON", "in JSON of UTF-8", "in an error, and quoted"],
)
def test_a_filled_secret_is_hidden_in_quoted_and_escaped_forms(
    value: str, says: Callable[[str], str]
) -> None:
    text = FilledSecrets({value}).hide(f"{says(value)} is no number")
    assert re.sub("[\"']", "", text) == "******** is no number"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"value": "", "hosts": ["a.example"]}, "value: is empty"),
        ({"value": f"{VALUE}\n", "hosts": ["a.example"]}, "value: is empty, or begins or ends"),
        ({"value": VALUE, "hosts": []}, "hosts: is empty, or has an entry that is not a host"),
        (
            {"value": VALUE, "hosts": ["https://a.example"]},
            "hosts: is empty, or has an entry that is not a host",
        ),
        (
            {"value": VALUE, "hosts": ["*.example"]},
            "hosts: is empty, or has an entry that is not a host",
        ),
        (
            {"value": VALUE, "hosts": ["a.example/path"]},
            "hosts: is empty, or has an entry that is not a host",
        ),
        (
            {"value": VALUE, "hosts": ["a.example, b.example"]},
            "hosts: is empty, or has an entry that is not a host",
        ),
        ({"value": VALUE, "hosts": "a.example"}, "hosts: "),
        ({"value": VALUE}, "hosts: "),
        ({"hosts": ["a.example"]}, "value: "),
    ],
)
def test_an_invalid_secret_block_is_refused_without_quoting_its_value(
    data: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        secret_blocks.build("key", data)
    assert problem in refused.value.problem
    assert VALUE not in str(refused.value)
