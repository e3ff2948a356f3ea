"""SSRF guard: refused and public addresses by rule, and the operator's allowed hosts."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import product

import httpx
import pytest

from daybook.errors import InvalidInput, OutgoingRefused
from daybook.http import addresses
from daybook.http.guard import AllowedHosts, Guard, Rule, system_resolver
from daybook.jobs.limits import Limits
from tests import rows
from tests.rows import each
from tests.unit.http.tricks import (
    PRIVATE,
    PUBLIC,
    PUBLIC_IPV6,
    REACHED,
    REFUSED,
    Dns,
    Trick,
)

pytestmark = pytest.mark.anyio


def test_an_agents_job_has_the_agent_rule_and_a_users_job_the_operator_rule() -> None:
    assert Rule.for_owner("agent:scout") is Rule.AGENT
    assert Rule.for_owner("user") is Rule.OPERATOR


async def test_an_agent_reaches_only_the_hosts_in_its_limits_even_by_a_redirect() -> None:
    dns = Dns({"a.example.org": (("93.184.215.14",),), "b.example.org": (("93.184.215.14",),)})
    limits = Limits(hosts=("A.example.org",))
    guard = Guard(Rule.AGENT, None, dns, limits)
    first = await guard.target("https://a.example.org/")
    assert first.exposed
    for url in ("https://b.example.org/", "https://93.184.215.14/"):
        with pytest.raises(OutgoingRefused, match="limits do not list this host"):
            await guard.target(url, first.addresses[0])
    # An address that the operator chose, such as a saved server's, needs no limit.
    assert (await guard.for_operator().target("https://b.example.org/")).exposed


def _guard(rule: Rule, trick: Trick | None = None, allowed: str = "") -> Guard:
    return Guard(rule, AllowedHosts.parse(allowed), Dns.of(trick) if trick else Dns({}))


def test_the_table_has_at_least_40_tricks_with_unique_names() -> None:
    assert len(REFUSED) >= 40
    assert len({trick.name for trick in REFUSED}) == len(REFUSED)


async def test_an_agents_job_reaches_no_address_of_the_table() -> None:
    for trick, row in rows.each(REFUSED):
        with row:
            with pytest.raises(InvalidInput) as refused:
                await _guard(Rule.AGENT, trick).target(trick.url)
            assert refused.value.field == "url"
            assert "password" not in str(refused.value) or "contains" in refused.value.problem


async def test_an_operators_job_reaches_private_addresses_but_no_metadata() -> None:
    for trick, row in rows.each(REFUSED):
        guard = _guard(Rule.OPERATOR, trick)
        with row:
            if trick.operator:
                assert (await guard.target(trick.url)).addresses
            else:
                with pytest.raises(InvalidInput):
                    await guard.target(trick.url)


async def test_both_rules_reach_public_addresses() -> None:
    for (trick, rule), row in rows.each(product(REACHED, Rule)):
        with row:
            target = await _guard(rule, trick).target(trick.url)
            assert target.exposed
            assert not target.excepted


async def test_a_target_contains_the_checked_addresses_in_order_without_duplicates() -> None:
    dns = Dns({"public.example": ((PUBLIC_IPV6, PUBLIC, PUBLIC),)})
    target = await Guard(Rule.AGENT, resolver=dns).target("https://Public.example.:8443/x?y")
    assert (target.addresses, target.name, target.port) == (
        (PUBLIC_IPV6, PUBLIC),
        "public.example",
        8443,
    )
    assert dns.asked == ["public.example"]


async def test_an_unknown_host_name_is_a_network_error() -> None:
    with pytest.raises(OSError, match=r"nowhere\.example"):
        await _guard(Rule.AGENT).target("http://nowhere.example/")
    with pytest.raises(OSError, match="no address"):
        await Guard(Rule.AGENT, resolver=Dns({"a.example": ((),)})).target("http://a.example/")


async def test_addresses_from_the_system_resolver_are_checked() -> None:
    assert set(await system_resolver("localhost", 80)) <= {"127.0.0.1", "::1"}
    target = await Guard(Rule.OPERATOR).target("http://localhost:8080/")
    assert not target.exposed
    with pytest.raises(OutgoingRefused, match="this host"):
        await Guard(Rule.AGENT).target("http://localhost:8080/")


def test_a_refusal_names_address_and_rule_but_no_path_or_query() -> None:
    with pytest.raises(OutgoingRefused) as refused:
        _guard(Rule.AGENT).check("http://10.0.0.1:8080/path?key=hush#part")
    assert (refused.value.address, refused.value.rule) == ("http://10.0.0.1:8080", "agent")
    assert "a private network" in str(refused.value)
    assert "DAYBOOK_ALLOWED_HOSTS" in refused.value.hint
    assert "hush" not in str(refused.value)
    assert "path" not in str(refused.value)


async def test_a_refusal_of_a_host_name_contains_its_ip_address() -> None:
    dns = Dns({"intranet.example": ((PRIVATE,),)})
    with pytest.raises(OutgoingRefused) as refused:
        await Guard(Rule.AGENT, resolver=dns).target("http://intranet.example/")
    assert refused.value.address == f"http://intranet.example ({PRIVATE})"


@pytest.mark.parametrize(
    ("allowed", "url", "reached"),
    [
        ("10.0.0.0/8", "http://10.9.8.7/", True),
        ("10.0.0.0/8", "http://11.0.0.1/", True),
        ("10.0.0.0/8", "http://192.168.0.1/", False),
        ("192.168.0.1", "http://192.168.0.1:9000/", True),
        ("192.168.0.1", "http://192.168.0.2/", False),
        ("fd00::/8, [::1]", "http://[fd00::7]/", True),
        ("fd00::/8, [::1]", "http://[::1]/", True),
        ("10.0.0.0/8", "http://[::ffff:10.0.0.1]/", False),
        ("intranet.example", "http://intranet.example/", True),
        ("Intranet.Example.", "http://INTRANET.example./", True),
        ("intranet.example", "http://other.example/", False),
        ("intranet.example", f"http://{PRIVATE}/", False),
        ("example", "http://intranet.example/", False),
        (PRIVATE, "http://intranet.example/", True),
        ("localhost", "http://localhost/", True),
        ("0.0.0.0/0", "http://127.0.0.1/", True),
    ],
)
async def test_allowed_hosts_extend_the_reachable_addresses(
    allowed: str, url: str, reached: bool
) -> None:
    names = ("intranet.example", "other.example", "localhost")
    dns = Dns({name: ((PRIVATE,),) for name in names})
    guard = Guard(Rule.AGENT, AllowedHosts.parse(allowed), dns)
    if reached:
        target = await guard.target(url)
        assert bool(target.excepted) is not target.exposed
    else:
        with pytest.raises(OutgoingRefused):
            await guard.target(url)


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("allowed", ["169.254.0.0/16", "0.0.0.0/0", "meta.example", "169.254.1.1"])
async def test_an_allowed_network_or_name_does_not_include_metadata(
    allowed: str, rule: Rule
) -> None:
    guard = Guard(rule, AllowedHosts.parse(allowed), Dns({"meta.example": (("169.254.169.254",),)}))
    for url in ("http://169.254.169.254/", "http://meta.example/"):
        with pytest.raises(OutgoingRefused, match="metadata"):
            await guard.target(url)


@pytest.mark.parametrize("rule", Rule)
async def test_a_metadata_address_is_allowed_only_by_its_exact_entry(rule: Rule) -> None:
    guard = Guard(
        rule, AllowedHosts.parse("100.100.100.200, metadata"), Dns({"metadata": ((PUBLIC,),)})
    )
    assert (await guard.target("http://100.100.100.200/")).excepted
    with pytest.raises(OutgoingRefused):
        await guard.target("http://169.254.169.254/")
    assert (await guard.target("http://metadata/")).addresses == (PUBLIC,)


async def test_a_redirect_from_a_public_to_a_private_address_is_refused() -> None:
    dns = Dns({"public.example": ((PUBLIC,),), "intranet.example": ((PRIVATE,),)})
    guard = Guard(Rule.OPERATOR, AllowedHosts.parse("intranet.example"), dns)
    for url in ("http://intranet.example/", "http://127.0.0.1/", "http://[fd00::1]/"):
        with pytest.raises(OutgoingRefused, match="from a public to a private"):
            await guard.target(url, PUBLIC)
        assert (await guard.target(url, PRIVATE)).addresses
    assert (await guard.target("http://public.example/", PRIVATE)).addresses == (PUBLIC,)


EMBEDDING: list[tuple[str, Callable[[int], int], str]] = [
    # How to embed an IPv4 address; whether the IPv6 address can then be a server of the internet,
    # and a server of this network, if the IPv4 address is the one or the other.
    ("mapped", lambda number: (0xFFFF << 32) + number, "as embedded"),
    ("translated", lambda number: (0xFFFF << 48) + number, "as embedded"),
    ("compatible", lambda number: number, "as embedded"),
    ("NAT64", lambda number: (0x64FF9B << 96) + number, "as embedded"),
    ("own NAT64", lambda number: (0x64FF9B0001 << 80) + number, "also private"),
    ("6to4", lambda number: (0x2002 << 112) + (number << 80) + 1, "both"),
    (
        "Teredo",
        lambda number: (0x20010000 << 96) + (0x08080808 << 64) + (number ^ 0xFFFFFFFF),
        "both",
    ),
    ("ISATAP", lambda number: (0x2A00 << 112) + (0x5EFE << 32) + number, "also public"),
    ("ISATAP, u", lambda number: (0x2A00 << 112) + (0x02005EFE << 32) + number, "also public"),
    ("private ISATAP", lambda number: (0xFD00 << 112) + (0x5EFE << 32) + number, "also private"),
    ("local ISATAP", lambda number: (0xFE80 << 112) + (0x5EFE << 32) + number, "also private"),
]


@pytest.mark.parametrize("embedded", [PUBLIC, PRIVATE, "127.0.0.1"])
async def test_an_address_that_embeds_another_one_counts_as_itself_and_as_the_embedded_one(
    embedded: str,
) -> None:
    guard = Guard(Rule.OPERATOR)
    for (_, form, counts), trying in each(EMBEDDING):
        with trying:
            address = str(IPv6Address(form(int(IPv4Address(embedded)))))
            may_be_public = embedded == PUBLIC or counts in ("also public", "both")
            may_be_private = embedded != PUBLIC or counts in ("also private", "both")
            # A public source redirects to no private address.
            redirected = guard.target(f"http://{PRIVATE}/", address)
            if may_be_public:
                with pytest.raises(OutgoingRefused, match="from a public to a private"):
                    await redirected
            else:
                assert (await redirected).addresses == (PRIVATE,)
            redirected = guard.target(f"http://[{address}]/", PUBLIC)
            if may_be_private:
                with pytest.raises(OutgoingRefused, match="from a public to a private"):
                    await redirected
            else:
                assert (await redirected).addresses == (address,)
            assert (await guard.target(f"http://{PUBLIC}/", address)).addresses == (PUBLIC,)


def test_public_addresses_are_those_of_ianas_registry() -> None:
    for text in ("1.1.1.1", "192.31.196.1", "2620:4f:8000::1", "2001:200::1", "3ffe::1"):
        assert addresses.non_public_reason(ip_address(text)) == "", text
    for text in ("100.127.255.255", "2001:1ff::1", "4000::1", "1::1", "64:ff9b::c0a8:1"):
        assert addresses.non_public_reason(ip_address(text)), text


def test_a_parsed_url_is_checked_as_well() -> None:
    guard = _guard(Rule.AGENT)
    assert guard.check(httpx.URL("https://public.example/a")).path == "/a"
    with pytest.raises(OutgoingRefused):
        guard.check(httpx.URL("https://127.0.0.1/a"))


@pytest.mark.parametrize(
    ("owner", "writer", "rule"),
    [
        ("user", "cli", Rule.OPERATOR),
        ("plugin", "api", Rule.OPERATOR),
        ("prefect", "prefect", Rule.OPERATOR),
        ("user", "mcp", Rule.AGENT),
        ("user", "run", Rule.AGENT),
        ("agent:cleo", "cli", Rule.AGENT),
        ("user", "agent:cleo", Rule.AGENT),
    ],
)
def test_a_job_that_a_model_wrote_has_the_agent_rule_for_any_owner(
    owner: str, writer: str, rule: Rule
) -> None:
    assert Rule.for_owner(owner, writer) is rule
