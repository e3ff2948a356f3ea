"""Signatures of the three schemes, against published vectors and other implementations."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from standardwebhooks import Webhook

from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.home_secret import new_secret
from daybook.features.hooks.signatures import MAX_ID_LENGTH, SCHEMES, SchemeName, Signed, is_id

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
BODY = b'{"action": "opened"}'
LINE = "a secret of some length"


def secret_of(name: SchemeName) -> str:
    return new_secret() if name == "standard" else LINE


def test_the_vector_of_standard_webhooks_is_valid() -> None:
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    signed = Signed("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330)
    assert SCHEMES["standard"].verify([secret], headers, body) == signed


def test_the_vector_of_github_is_valid() -> None:
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    headers = {"x-hub-signature-256": f"sha256={digest}", "x-github-delivery": "72d3162e"}
    secret, body = "It's a Secret to Everybody", b"Hello, World!"
    assert SCHEMES["github"].verify([secret], headers, body) == Signed("72d3162e", None)


def test_a_signature_of_the_library_of_standard_webhooks_is_valid() -> None:
    secret = new_secret()
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(NOON.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", NOON, BODY.decode()),
    }
    svix = {name.replace("webhook-", "svix-"): text for name, text in headers.items()}
    for sent in (headers, svix, headers | {"svix-id": "msg_2"}):
        signed = SCHEMES["standard"].verify([secret], sent, BODY)
        assert signed == Signed("msg_1", int(NOON.timestamp()))
    # All three headers have the same beginning.
    mixed = svix | {"svix-id": "", "webhook-id": "msg_1"}
    assert SCHEMES["standard"].verify([secret], mixed, BODY) is None
    made = SCHEMES["standard"].sign(secret, "msg_2", BODY, SYSTEM_CLOCK.now())
    assert Webhook(secret).verify(BODY, made) == json.loads(BODY)


def test_a_signature_made_as_stripe_documents_it_is_valid() -> None:
    digest = hmac.new(LINE.encode(), b"1795161603." + BODY, hashlib.sha256).hexdigest()
    headers = {"stripe-signature": f"t=1795161603,v1={'0' * 64},v1={digest},v0=abc"}
    assert SCHEMES["stripe"].verify([LINE], headers, BODY) == Signed(None, 1795161603)
    assert SCHEMES["stripe"].id_in({"id": "evt_1"}) == "evt_1"


@pytest.mark.parametrize("name", get_args(SchemeName))
def test_only_a_valid_secret_over_the_same_request_verifies(name: SchemeName) -> None:
    scheme, secret, other = SCHEMES[name], secret_of(name), new_secret()
    headers = scheme.sign(secret, "msg_1", BODY, NOON)
    assert scheme.verify([secret], headers, BODY)
    assert scheme.verify([other, secret], headers, BODY)  # a rotation
    refused = [
        scheme.verify([other], headers, BODY),
        scheme.verify([secret], headers, BODY + b" "),
        scheme.verify([secret], {}, BODY),
        scheme.verify([], headers, BODY),
        *(scheme.verify([secret], headers | {key: ""}, BODY) for key in signed_headers(name)),
        *(scheme.verify([secret], headers | {key: "v1,é"}, BODY) for key in signed_headers(name)),
    ]
    assert refused == [None] * len(refused)


def signed_headers(name: SchemeName) -> list[str]:
    """Return the headers that a signature covers, and the signature itself."""
    return {
        "standard": ["webhook-id", "webhook-timestamp", "webhook-signature"],
        "github": ["x-hub-signature-256"],
        "stripe": ["stripe-signature"],
    }[name]


@pytest.mark.parametrize("timestamp", ["-1", "1.5", "1e9", "", "٣", "1" * 400, "0x10"])
def test_a_timestamp_that_is_no_number_is_refused(timestamp: str) -> None:
    secret = new_secret()
    scheme = SCHEMES["standard"]
    signature = scheme._signature(secret, "msg_1", timestamp, BODY)  # type: ignore[attr-defined]
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
    assert scheme.verify([secret], headers, BODY) is None


def test_a_signature_is_current_for_five_minutes_before_and_after() -> None:
    at = int(NOON.timestamp())
    for seconds, current in {0: True, 300: True, 301: False, -300: True, -301: False}.items():
        assert Signed("x", at).is_current(NOON + timedelta(seconds=seconds)) is current
    assert Signed("x", None).is_current(NOON)


def test_an_id_is_short_visible_ascii() -> None:
    for good in ("x", "msg_p5jXN8AQM9LWM0D4loKWxJek", "a" * MAX_ID_LENGTH):
        assert is_id(good)
    for bad in ("", " ", "a b", "é", "a\n", "a" * (MAX_ID_LENGTH + 1), None, 7, ["x"]):
        assert not is_id(bad)


def test_only_the_ids_of_standard_webhooks_have_no_dot() -> None:
    """A dot separates the parts of the signed text, so another id could have the same text."""
    secret, standard = new_secret(), SCHEMES["standard"]
    signed = standard.sign(secret, "msg", b"1795161603.{}", NOON)
    moved = {
        "webhook-id": f"msg.{signed['webhook-timestamp']}",
        "webhook-timestamp": "1795161603",
        "webhook-signature": signed["webhook-signature"],
    }
    assert (other := standard.verify([secret], moved, b"{}"))
    assert not standard.is_id(other.id)
    assert [name for name in SCHEMES if SCHEMES[name].is_id("msg.1")] == ["github", "stripe"]


def test_the_form_of_a_secret_depends_on_the_scheme() -> None:
    assert [name for name in SCHEMES if SCHEMES[name].is_secret(new_secret())] == [*SCHEMES]
    assert [name for name in SCHEMES if SCHEMES[name].is_secret(LINE)] == ["github", "stripe"]
    for bad in ("", "short", f"{LINE}\n", f" {LINE}", "two\nlines of some length"):
        assert not any(scheme.is_secret(bad) for scheme in SCHEMES.values())
