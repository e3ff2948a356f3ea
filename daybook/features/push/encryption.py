"""Encryption and signature of push messages: RFC 8291 (aes128gcm) and RFC 8292 (VAPID).

Fifty lines with `cryptography`, which Daybook needs anyway; `pywebpush` would add aiohttp and
requests. The key of this home is in the file `push-key`, which only its owner can read. If it is
deleted, browsers have to subscribe again.
"""

from __future__ import annotations

import base64
import json
import os
from datetime import datetime, timedelta

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from daybook.home import Home, make_private_file

KEY_LENGTH = 65
"""Length of a public key in bytes: an uncompressed point of the curve P-256."""
AUTH_LENGTH = 16
RECORD_SIZE = 4096
MAX_MESSAGE_BYTES = 3_000
"""Maximum length of a message. All push services accept it in one record."""
TOKEN_LIFETIME = timedelta(hours=12)

PrivateKey = ec.EllipticCurvePrivateKey


def encode(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode(text: str) -> bytes:
    """Return the bytes of a text in base64url, with or without padding; raise `ValueError`."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def home_key(home: Home) -> PrivateKey:
    """Return the key that signs the messages of this home; create it on first use."""
    file = home.path / "push-key"
    if not file.exists():
        made = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        make_private_file(file, made.decode())
    found = serialization.load_pem_private_key(file.read_bytes(), None)
    assert isinstance(found, PrivateKey)
    return found


def public_bytes(key: PrivateKey) -> bytes:
    """Return the public key of ``key`` as a point of `KEY_LENGTH` bytes."""
    form = serialization.PublicFormat.UncompressedPoint
    return key.public_key().public_bytes(serialization.Encoding.X962, form)


def encrypt(
    text: bytes,
    public_key: bytes,
    auth: bytes,
    *,
    own: PrivateKey | None = None,
    salt: bytes = b"",
) -> bytes:
    """Return the body of a push message that only the browser with this key can read.

    ``own`` and ``salt`` are new for each message; tests pass those of the RFC. Raise `ValueError`
    if the public key is no point of the curve.
    """
    own, salt = own or ec.generate_private_key(ec.SECP256R1()), salt or os.urandom(16)
    theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
    shared, sender = own.exchange(ec.ECDH(), theirs), public_bytes(own)
    secret = _derive(auth, shared, b"WebPush: info\0" + public_key + sender, 32)
    key = _derive(salt, secret, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _derive(salt, secret, b"Content-Encoding: nonce\0", 12)
    head = salt + RECORD_SIZE.to_bytes(4) + bytes([len(sender)]) + sender
    return head + AESGCM(key).encrypt(nonce, text + b"\x02", None)


def authorization(key: PrivateKey, audience: str, subject: str, now: datetime) -> str:
    """Return the header that proves the sender to the push service with the origin ``audience``.

    ``subject`` is a URL by which the service could reach the sender's operator.
    """
    claims = {
        "aud": audience,
        "exp": int((now + TOKEN_LIFETIME).timestamp()),
        "sub": subject,
    }
    head = {"typ": "JWT", "alg": "ES256"}
    signed = ".".join(encode(json.dumps(each).encode()) for each in (head, claims))
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    token = f"{signed}.{encode(r.to_bytes(32) + s.to_bytes(32))}"
    return f"vapid t={token}, k={encode(public_bytes(key))}"


def _derive(salt: bytes, secret: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(secret)
