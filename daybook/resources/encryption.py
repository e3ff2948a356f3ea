"""Encryption of the ledger's copies of secrets: AES-256-GCM, with a key from the home.

The key is 256 random bits in `<home>/ledger-key`, mode 0600, created when it is first needed. It is
not in the ledger, so a copy of the database alone reveals no secret. The ledger holds only the
key's id, by which a wrong key is recognised before it is used (`daybook.resources.copies`).

Each text is bound to a label, so an encrypted text is invalid in any other row.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path

from daybook import plain_text
from daybook.errors import CopyDamaged, LedgerKeyMissing
from daybook.home import make_private_file

_MARK = "dbk_"
_VERSION = "v1."
_KEY_BYTES = 32
_NONCE_BYTES = 12


class Key:
    """Encryption key. ``id`` is a digest of the key, which may be shown."""

    def __init__(self, raw: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(raw)
        self.id = hashlib.sha256(b"daybook ledger key" + raw).hexdigest()[:12]

    def seal(self, label: str, text: str) -> str:
        """Encrypt ``text`` for ``label``; each call returns a different result."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, text.encode(), label.encode())
        return _VERSION + base64.urlsafe_b64encode(sealed).decode()

    def unseal(self, label: str, sealed: str) -> str:
        """Decrypt ``sealed``; raise `CopyDamaged` if it is not a result of `seal` for ``label``."""
        from cryptography.exceptions import InvalidTag

        try:
            if not sealed.startswith(_VERSION):
                raise ValueError
            raw = base64.b64decode(sealed[len(_VERSION) :], altchars=b"-_", validate=True)
            nonce, rest = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
            return self._cipher.decrypt(nonce, rest, label.encode()).decode()
        except (InvalidTag, ValueError):
            raise CopyDamaged(label) from None


def read_key(file: Path) -> Key | None:
    """Return the key in ``file``; None if the file does not exist.

    Raise `LedgerKeyMissing` if the file cannot be read or has no valid key; the error never quotes
    the file's content.
    """
    try:
        key = parse_key(plain_text.read(file).strip())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerKeyMissing(f"{file} cannot be read ({error.strerror})") from None
    except ValueError:
        key = None
    if key is None:
        raise LedgerKeyMissing(f"{file} contains no key")
    return key


def parse_key(text: str) -> Key | None:
    """Return the key in the text of its file; None if it is no key."""
    try:
        raw = base64.b64decode(text.removeprefix(_MARK), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    return Key(raw) if len(raw) == _KEY_BYTES and text.startswith(_MARK) else None


def read_or_create_key(file: Path) -> Key:
    """Return the key in ``file``; create the file if it does not exist.

    Raise the errors of `read_key`, and OSError if the file cannot be created. Processes that
    create the file at the same time get the same key.
    """
    key = read_key(file)
    if key is None:
        text = _MARK + base64.urlsafe_b64encode(os.urandom(_KEY_BYTES)).decode()
        make_private_file(file, f"{text}\n")
        key = read_key(file)
        assert key is not None
    return key
