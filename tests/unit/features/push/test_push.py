"""Push: a local push service receives what needs a person, and only the browser can read it."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from daybook.delivery import outbox
from daybook.errors import InvalidInput, OutgoingRefused
from daybook.features.devices import store as devices
from daybook.features.push import encryption, store
from daybook.features.push.loops import content, push
from daybook.home import Home
from daybook.ledger.engine import sharing
from daybook.ledger.tables import OutboxRow
from tests import rows
from tests.receiver import Receiver, answer, serving
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]

STATIC = Path(encryption.__file__).parents[2] / "web" / "static"


class Phone:
    """A browser: it has the private key of its subscription, and decrypts as the RFC says."""

    def __init__(self, service: Receiver, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.auth = name.encode().ljust(16, b"-")
        self.endpoint = f"{service.address}/send/{name}-s3cr3t"
        self.device = name

    async def subscribe(self) -> None:
        await devices.add(self.device, "public", "")
        public = encryption.encode(encryption.public_bytes(self.key))
        await store.subscribe(self.device, self.endpoint, public, encryption.encode(self.auth))

    def read(self, body: bytes) -> dict[str, str]:
        salt, length = body[:16], body[20]
        sender, sealed = body[21 : 21 + length], body[21 + length :]
        theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender)
        info = b"WebPush: info\0" + encryption.public_bytes(self.key) + sender
        secret = HKDF(hashes.SHA256(), 32, self.auth, info).derive(
            self.key.exchange(ec.ECDH(), theirs)
        )
        key, nonce = (
            HKDF(hashes.SHA256(), size, salt, b"Content-Encoding: " + name + b"\0").derive(secret)
            for name, size in ((b"aes128gcm", 16), (b"nonce", 12))
        )
        opened = AESGCM(key).decrypt(nonce, sealed, None)
        assert opened.endswith(b"\x02")
        found: dict[str, str] = json.loads(opened[:-1])
        return found


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    """Yield a push service on localhost, which the operator allows."""
    monkeypatch.setenv("DAYBOOK_ALLOWED_HOSTS", "127.0.0.1")
    async with serving() as found:
        yield found


async def alert(world: World, key: str = "a", **given: Any) -> str:
    fields: dict[str, Any] = {"purpose": outbox.ALERT, "event": "failed", "channel": "inbox"}
    fields |= {"subject": "brief: failed", "body": "brief failed: no network\ndue 9:00"}
    async with world.ledger.write() as session:
        row = await outbox.enqueue_message(
            session, key=key, run_id="r1", now=world.clock.now(), **fields | given
        )
        assert row is not None
        return row.id


def verified(header: str) -> tuple[dict[str, Any], bytes]:
    """Return the claims of a signature that is valid, and the public key."""
    kind, _, fields = header.partition(" ")
    assert kind == "vapid"
    token, key = (each.partition("=")[2] for each in fields.split(", "))
    signed, _, signature = token.rpartition(".")
    raw = encryption.decode(signature)
    r, s = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
    public = encryption.decode(key)
    ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public).verify(
        encode_dss_signature(r, s), signed.encode(), ec.ECDSA(hashes.SHA256())
    )
    return json.loads(encryption.decode(signed.partition(".")[2])), public


async def test_each_phone_reads_one_signed_message_about_what_needs_a_person(
    world: World, service: Receiver, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", "https://daybook.example.org")
    first, second = Phone(service, "first"), Phone(service, "second")
    with sharing(world.ledger):
        await alert(world, "before")  # no browser had subscribed
        world.clock.move(timedelta(minutes=1))
        await first.subscribe()
        await second.subscribe()
        id_ = await alert(world)
        await alert(world, "quiet", event="recovered", subject="brief: recovered")
        await alert(world, "news", purpose=outbox.MESSAGE, event="completed", subject="News")
        for _ in range(2):
            await push(world.ledger)
    assert len(service.requests) == 2
    for phone in (first, second):
        (request,) = [each for each in service.requests if phone.device in each.path]
        assert phone.read(request.body) == {
            "title": "brief: failed",
            "body": "brief failed: no network due 9:00",
            "tag": id_,
            "path": "/runs/r1",
        }
        assert b"brief" not in request.body
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert headers["content-encoding"] == "aes128gcm" and int(headers["ttl"]) > 0
        claims, public = verified(headers["authorization"])
        assert claims["aud"] == service.address
        assert claims["sub"] == "https://daybook.example.org"
        assert 0 < claims["exp"] - world.clock.now().timestamp() <= 24 * 3600
        assert public == encryption.public_bytes(encryption.home_key(daybook_home))
    mode = stat.S_IMODE((daybook_home.path / "push-key").stat().st_mode)
    assert mode == 0o600
    with sharing(world.ledger):
        assert {each.error for each in await store.subscriptions()} == {""}


@pytest.mark.parametrize("status", [404, 410])
async def test_a_subscription_that_has_ended_is_deleted(
    world: World, service: Receiver, status: int
) -> None:
    service.steps = [answer(status)]
    with sharing(world.ledger):
        await Phone(service, "old").subscribe()
        await alert(world)
        await push(world.ledger)
        assert await store.subscriptions() == []


async def test_another_error_is_shown_without_the_secret_address_and_the_next_message_is_sent(
    world: World, service: Receiver
) -> None:
    service.steps = [answer(500), answer(201)]
    phone = Phone(service, "phone")
    with sharing(world.ledger):
        await phone.subscribe()
        await alert(world)
        await push(world.ledger)
        (found,) = await store.subscriptions()
        assert found.error == f"{service.address} answered 500"
        assert "s3cr3t" not in repr(found)
        await alert(world, "next", subject="next")
        await push(world.ledger)
        (found,) = await store.subscriptions()
        assert found.error == "" and found.pushed_at is not None
    assert phone.read(service.requests[-1].body)["title"] == "next"


async def test_a_revoked_device_gets_nothing(world: World, service: Receiver) -> None:
    with sharing(world.ledger):
        await Phone(service, "lost").subscribe()
        await devices.remove("lost")
        await alert(world)
        await push(world.ledger)
        assert await store.subscriptions() == []
    assert service.requests == []


async def test_an_alert_that_waits_or_was_withdrawn_is_not_pushed(
    world: World, service: Receiver
) -> None:
    with sharing(world.ledger):
        await Phone(service, "phone").subscribe()
        id_ = await alert(world)
        async with world.ledger.write() as session:
            row = await session.get(OutboxRow, id_)
            assert row is not None
            row.next_at = world.clock.now() + timedelta(minutes=30)
            session.add(row)
        await push(world.ledger)
        assert service.requests == []
        world.clock.move(timedelta(minutes=31))
        await push(world.ledger)
        assert len(service.requests) == 1
        world.clock.move(timedelta(days=2))
        assert await store.delete_old(world.ledger, None) == 1  # type: ignore[arg-type]
        await push(world.ledger)  # too old to push again
    assert len(service.requests) == 1


async def test_an_address_of_this_network_and_wrong_keys_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAYBOOK_ALLOWED_HOSTS", raising=False)
    good = encryption.encode(encryption.public_bytes(ec.generate_private_key(ec.SECP256R1())))
    auth = encryption.encode(b"x" * 16)
    table = (
        ("http://127.0.0.1:9/x", good, auth),
        ("http://169.254.169.254/latest", good, auth),
        ("http://192.168.1.1/x", good, auth),
        ("file:///etc/passwd", good, auth),
        ("", good, auth),
        (f"https://push.example.org/{'x' * 3000}", good, auth),
        ("https://push.example.org/x", good[:-4], auth),
        ("https://push.example.org/x", encryption.encode(b"\x04" + b"\x01" * 64), auth),
        ("https://push.example.org/x", "é!", auth),
        ("https://push.example.org/x", good, ""),
        ("https://push.example.org/x", good, encryption.encode(b"x" * 17)),
    )
    with sharing(world.ledger):
        for (endpoint, key, secret), trying in rows.each(table):
            with trying, pytest.raises((InvalidInput, OutgoingRefused)):
                await store.subscribe("d", endpoint, key, secret)
        for number in range(store.MAX_SUBSCRIPTIONS):
            await store.subscribe("d", f"https://push.example.org/{number}", good, auth)
        await store.subscribe("d", "https://push.example.org/0", good, auth)  # the same again
        with pytest.raises(InvalidInput, match="20 browsers already"):
            await store.subscribe("d", "https://push.example.org/more", good, auth)


def test_a_message_is_encrypted_as_in_the_example_of_the_rfc() -> None:
    """RFC 8291, appendix A."""
    public = (
        "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
    )
    private = int.from_bytes(encryption.decode("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"))
    made = encryption.encrypt(
        b"When I grow up, I want to be a watermelon",
        encryption.decode(public),
        encryption.decode("BTBZMqHH6r4Tts7J_aSIgg"),
        own=ec.derive_private_key(private, ec.SECP256R1()),
        salt=encryption.decode("DGv6ra1nlYgDCS1FRnbzlw"),
    )
    assert encryption.encode(made) == (
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS"
        "6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qu"
        "lcy4a-fN"
    )


def test_the_content_fits_into_one_record() -> None:
    fields: dict[str, Any] = {"id": "m", "subject": "😀" * 200, "body": "😀" * 9_000}
    assert len(content(OutboxRow(**fields, run_id="r" * 32))) <= encryption.MAX_MESSAGE_BYTES


def test_the_app_can_be_installed() -> None:
    manifest = json.loads((STATIC / "manifest.webmanifest").read_text())
    # Relative to `/static/`, so also below a prefix.
    assert (manifest["start_url"], manifest["scope"]) == ("../", "../")
    assert manifest["display"] == "standalone"
    for icon in manifest["icons"]:
        data = (STATIC / icon["src"]).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
        assert icon["sizes"] == f"{width}x{height}"
