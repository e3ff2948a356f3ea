"""Who may reach which address: the table, by both rules, and the operator's exceptions."""

from __future__ import annotations

from ipaddress import ip_address

import httpx
import pytest

from daybook.errors import InvalidInput, OutgoingRefused
from daybook.http import addresses
from daybook.http.guard import AllowedHosts, Guard, Rule, system_resolver
from daybook.jobs.limits import Limits
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


def test_an_agents_job_has_the_agents_rule() -> None:
    assert Rule.for_owner("agent:scout") is Rule.AGENT
    assert Rule.for_owner("user") is Rule.OPERATOR


async def test_an_agent_reaches_the_hosts_of_its_limits_and_no_redirect_leads_around() -> None:
    dns = Dns({"a.example.org": (("93.184.215.14",),), "b.example.org": (("93.184.215.14",),)})
    limits = Limits(hosts=("A.example.org",))
    guard = Guard(Rule.AGENT, None, dns, limits)
    first = await guard.target("https://a.example.org/")
    assert first.exposed
    for url in ("https://b.example.org/", "https://93.184.215.14/"):
        with pytest.raises(OutgoingRefused, match="limits do not list this host"):
            await guard.target(url, first.addresses[0])
    # What the operator chose, such as a saved server's address, is no agent's choice.
    assert (await guard.for_operator().target("https://b.example.org/")).exposed


def _guard(rule: Rule, trick: Trick | None = None, allowed: str = "") -> Guard:
    return Guard(rule, AllowedHosts.parse(allowed), Dns.of(trick) if trick else Dns({}))


def test_the_table_is_long_enough_and_each_trick_has_its_name() -> None:
    assert len(REFUSED) >= 40
    assert len({trick.name for trick in REFUSED}) == len(REFUSED)


@pytest.mark.parametrize("trick", REFUSED, ids=str)
async def test_an_agents_job_reaches_none_of_them(trick: Trick) -> None:
    with pytest.raises(InvalidInput) as refused:
        await _guard(Rule.AGENT, trick).target(trick.url)
    assert refused.value.field == "url"
    assert "password" not in str(refused.value) or "contains" in refused.value.problem


@pytest.mark.parametrize("trick", REFUSED, ids=str)
async def test_an_operators_job_reaches_what_is_private_and_no_metadata(trick: Trick) -> None:
    guard = _guard(Rule.OPERATOR, trick)
    if trick.operator:
        assert (await guard.target(trick.url)).addresses
    else:
        with pytest.raises(InvalidInput):
            await guard.target(trick.url)


@pytest.mark.parametrize("trick", REACHED, ids=str)
@pytest.mark.parametrize("rule", Rule)
async def test_what_is_public_is_reached_by_both(trick: Trick, rule: Rule) -> None:
    target = await _guard(rule, trick).target(trick.url)
    assert target.exposed
    assert not target.excepted


async def test_the_target_is_the_checked_addresses_in_their_order() -> None:
    dns = Dns({"public.example": ((PUBLIC_IPV6, PUBLIC, PUBLIC),)})
    target = await Guard(Rule.AGENT, resolver=dns).target("https://Public.example.:8443/x?y")
    assert (target.addresses, target.name, target.port) == (
        (PUBLIC_IPV6, PUBLIC),
        "public.example",
        8443,
    )
    assert dns.asked == ["public.example"]


async def test_a_name_that_nobody_knows_is_an_error_of_the_network() -> None:
    with pytest.raises(OSError, match=r"nowhere\.example"):
        await _guard(Rule.AGENT).target("http://nowhere.example/")
    with pytest.raises(OSError, match="no address"):
        await Guard(Rule.AGENT, resolver=Dns({"a.example": ((),)})).target("http://a.example/")


async def test_this_machines_resolver_is_asked_and_judged() -> None:
    assert set(await system_resolver("localhost", 80)) <= {"127.0.0.1", "::1"}
    target = await Guard(Rule.OPERATOR).target("http://localhost:8080/")
    assert not target.exposed
    with pytest.raises(OutgoingRefused, match="this host"):
        await Guard(Rule.AGENT).target("http://localhost:8080/")


def test_a_refusal_names_the_address_and_the_rule_and_nothing_else() -> None:
    with pytest.raises(OutgoingRefused) as refused:
        _guard(Rule.AGENT).check("http://10.0.0.1:8080/path?key=hush#part")
    assert (refused.value.address, refused.value.rule) == ("http://10.0.0.1:8080", "agent")
    assert "a private network" in str(refused.value)
    assert "DAYBOOK_ALLOWED_HOSTS" in refused.value.hint
    assert "hush" not in str(refused.value)
    assert "path" not in str(refused.value)


async def test_a_refused_name_is_told_with_what_it_means() -> None:
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
async def test_the_operator_allows_more(allowed: str, url: str, reached: bool) -> None:
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
async def test_metadata_is_not_meant_by_a_network_or_a_name(allowed: str, rule: Rule) -> None:
    guard = Guard(rule, AllowedHosts.parse(allowed), Dns({"meta.example": (("169.254.169.254",),)}))
    for url in ("http://169.254.169.254/", "http://meta.example/"):
        with pytest.raises(OutgoingRefused, match="metadata"):
            await guard.target(url)


@pytest.mark.parametrize("rule", Rule)
async def test_metadata_is_meant_by_its_very_address(rule: Rule) -> None:
    guard = Guard(
        rule, AllowedHosts.parse("100.100.100.200, metadata"), Dns({"metadata": ((PUBLIC,),)})
    )
    assert (await guard.target("http://100.100.100.200/")).excepted
    with pytest.raises(OutgoingRefused):
        await guard.target("http://169.254.169.254/")
    assert (await guard.target("http://metadata/")).addresses == (PUBLIC,)


async def test_nothing_leads_from_public_to_private() -> None:
    dns = Dns({"public.example": ((PUBLIC,),), "intranet.example": ((PRIVATE,),)})
    guard = Guard(Rule.OPERATOR, AllowedHosts.parse("intranet.example"), dns)
    for url in ("http://intranet.example/", "http://127.0.0.1/", "http://[fd00::1]/"):
        with pytest.raises(OutgoingRefused, match="from a public to a private"):
            await guard.target(url, PUBLIC)
        assert (await guard.target(url, PRIVATE)).addresses
    assert (await guard.target("http://public.example/", PRIVATE)).addresses == (PUBLIC,)


def test_what_is_public_is_told_as_ianas_registry_tells_it() -> None:
    for text in ("1.1.1.1", "192.31.196.1", "2620:4f:8000::1", "2001:200::1", "3ffe::1"):
        assert addresses.non_public_reason(ip_address(text)) == "", text
    for text in ("100.127.255.255", "2001:1ff::1", "4000::1", "1::1", "64:ff9b::c0a8:1"):
        assert addresses.non_public_reason(ip_address(text)), text


def test_an_address_that_was_parsed_is_judged_as_well() -> None:
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
def test_what_a_model_wrote_has_the_strict_rule_whoever_owns_it(
    owner: str, writer: str, rule: Rule
) -> None:
    assert Rule.for_owner(owner, writer) is rule
