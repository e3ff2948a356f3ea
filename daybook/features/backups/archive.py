"""The file of a backup: a compressed tar archive, encrypted with a passphrase.

::

    daybook backup 1\\n   salt (16)   nonce (7)      the header, authenticated with each block
    block, block, … , last block                    1 MiB and a tag (16); the last may be shorter

Numbers in parentheses are sizes in bytes. scrypt derives the key from the passphrase and the salt,
and AES-256-GCM encrypts each block. The nonce of a block contains the block's number, and a mark if
it is the last block. So a reader detects if blocks are missing or exchanged.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from daybook.errors import DiskFull, InvalidInput
from daybook.home import sync_folder

MAGIC = b"daybook backup 1\n"
_SALT_BYTES = 16
_NONCE_BYTES = 7
_TAG_BYTES = 16
BLOCK_BYTES = 2**20
SCRYPT_COST = 2**16
"""scrypt's cost `n`. One guess of the passphrase needs 64 MiB and about a fifth of a second."""

MIN_PASSPHRASE_LENGTH = 8
MAX_MEMBER_BYTES = 16 * 2**20
"""Maximum size of a file in a backup, except of the ledger, for which the disk needs space."""
DRAFT_SUFFIX = ".draft"
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Errors of `os.link` on a file system without hard links."""


class _Blocks:
    """Cipher of one file. It numbers the file's blocks."""

    def __init__(self, header: bytes, passphrase: str) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        salt = header[len(MAGIC) : len(MAGIC) + _SALT_BYTES]
        scrypt = Scrypt(salt=salt, length=32, n=SCRYPT_COST, r=8, p=1)
        self.cipher, self._header = AESGCM(scrypt.derive(passphrase.encode())), header
        self._number = 0

    def next(self, *, last: bool) -> tuple[bytes, bytes]:
        """Return the nonce of the next block and its associated data."""
        nonce = self._header[-_NONCE_BYTES:] + self._number.to_bytes(4, "big") + bytes([last])
        self._number += 1
        return nonce, self._header


class _Writer:
    """Writer that encrypts its input. `finish` writes the last block."""

    def __init__(self, file: BinaryIO, passphrase: str) -> None:
        header = MAGIC + os.urandom(_SALT_BYTES + _NONCE_BYTES)
        self._file, self._blocks, self._buffer = file, _Blocks(header, passphrase), bytearray()
        file.write(header)

    def write(self, data: bytes) -> int:
        self._buffer += data
        while len(self._buffer) > BLOCK_BYTES:
            self._put(bytes(self._buffer[:BLOCK_BYTES]), last=False)
            del self._buffer[:BLOCK_BYTES]
        return len(data)

    def finish(self) -> None:
        self._put(bytes(self._buffer), last=True)

    def _put(self, data: bytes, *, last: bool) -> None:
        nonce, header = self._blocks.next(last=last)
        self._file.write(self._blocks.cipher.encrypt(nonce, data, header))


class _Reader:
    """Reader that decrypts a file.

    It raises `InvalidInput` if the passphrase or the file is invalid.
    """

    def __init__(self, file: BinaryIO, passphrase: str, name: str) -> None:
        self._file, self._name, self._buffer = file, name, b""
        header = file.read(len(MAGIC) + _SALT_BYTES + _NONCE_BYTES)
        if not header.startswith(MAGIC) or len(header) < len(MAGIC) + _SALT_BYTES + _NONCE_BYTES:
            hint = "use a file that `daybook backup` has written"
            raise InvalidInput("file", f"{name} is not a backup of Daybook", hint)
        self._blocks = _Blocks(header, passphrase)
        self._ahead = file.read(BLOCK_BYTES + _TAG_BYTES)
        self._ended, self._first = False, True

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size and not self._ended:
            self._buffer += self._next()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def drain(self) -> None:
        """Read to the end, to check that the file is complete.

        Raise `InvalidInput` if it is not.
        """
        while not self._ended:
            self._next()

    def _next(self) -> bytes:
        from cryptography.exceptions import InvalidTag

        block, self._ahead = self._ahead, self._file.read(BLOCK_BYTES + _TAG_BYTES)
        self._ended = not self._ahead
        nonce, header = self._blocks.next(last=self._ended)
        try:
            data = self._blocks.cipher.decrypt(nonce, block, header)
        except (InvalidTag, ValueError):
            if self._first:
                problem = f"does not open {self._name}, or the file is damaged"
                raise InvalidInput("passphrase", problem, "use the one of that backup") from None
            problem = f"{self._name} is damaged or incomplete"
            raise InvalidInput("file", problem, "use another backup") from None
        self._first = False
        return data


def absolute(file: str | Path) -> Path:
    """Return the absolute path of a file that the user named. A leading `~` is the user's home."""
    return Path(file).expanduser().absolute()


def check_passphrase(passphrase: str) -> None:
    """Raise `InvalidInput` for a NUL character, because scrypt ignores NULs at the end."""
    if "\0" in passphrase:
        raise InvalidInput("passphrase", "contains a NUL character", "write text only")


def new_file(file: str | Path, *, replace: bool) -> Path:
    """Return the absolute path of ``file``, which the caller wants to write.

    Raise `InvalidInput` if the file exists, unless ``replace`` is true and the file is a plain one.
    """
    path = absolute(file)
    if not replace and path.exists():
        raise exists(path)
    if replace and os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        hint = "use another name; only a plain file can be replaced"
        raise InvalidInput("file", f"{path} is not a plain file", hint)
    return path


def new_draft(file: Path) -> Path:
    """Return an unused path in the same folder for the draft of ``file``."""
    return file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}{DRAFT_SUFFIX}")


def write(
    file: Path,
    contents: Iterable[Path],
    passphrase: str,
    *,
    replace: bool,
    draft: Path | None = None,
) -> int:
    """Write ``contents`` to the backup ``file``, completely or not at all.

    Return the size in bytes. Only the file's owner can read the backup. If the process is killed,
    the file ``draft`` (by default `new_draft`) stays. Raise the errors of `new_file` and
    `check_passphrase`, and OSError if the backup cannot be written.
    """
    check_passphrase(passphrase)
    draft = draft or new_draft(file)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as writing:
            encrypted = _Writer(writing, passphrase)
            with tarfile.open(fileobj=cast("BinaryIO", encrypted), mode="w|gz") as archive:
                for each in contents:
                    archive.add(each, arcname=each.name, recursive=False)
            encrypted.finish()
            writing.flush()
            os.fsync(writing.fileno())
            draft_size = writing.tell()
        if replace:
            draft.replace(new_file(file, replace=True))
        else:
            _rename_to_new(draft, file)
        sync_folder(file.parent)
        return draft_size
    finally:
        draft.unlink(missing_ok=True)


def _rename_to_new(draft: Path, file: Path) -> None:
    """Rename ``draft`` to ``file``. Raise `InvalidInput` if another process has created ``file``.

    On a file system without hard links, such as exFAT, a kill may leave an empty ``file``.
    """
    try:
        try:
            os.link(draft, file)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            try:
                draft.replace(file)
            except OSError:
                file.unlink(missing_ok=True)
                raise
    except FileExistsError:
        raise exists(file) from None


def exists(file: Path) -> InvalidInput:
    """Return the error for a backup file that already exists."""
    return InvalidInput("file", f"{file} exists", "use another name, or --replace")


@contextmanager
def _opened(file: Path, passphrase: str) -> Iterator[_Reader]:
    check_passphrase(passphrase)
    try:
        reading = file.open("rb")
    except OSError as error:
        problem = f"{file} cannot be read: {error.strerror}"
        raise InvalidInput("file", problem, "use the path of a backup") from error
    with reading:
        yield _Reader(reading, passphrase, str(file))


def extract(
    file: Path, folder: Path, names: Iterable[str], passphrase: str, *, large: str = ""
) -> None:
    """Extract the files with these ``names`` from a backup to ``folder``, and sync each of them.

    Only the file named ``large`` may have more than `MAX_MEMBER_BYTES`. Raise `InvalidInput` if the
    passphrase is wrong, or if ``file`` cannot be read, is not a backup, is damaged or incomplete,
    has a file twice, or has a file that is too large. Raise `DiskFull` if ``large`` is larger than
    the free space. After an error, ``folder`` may contain some of the files; do not
    use them.
    """
    known, extracted = set(names), set[str]()
    with _opened(file, passphrase) as reader:
        try:
            with tarfile.open(fileobj=cast("BinaryIO", reader), mode="r|gz") as archive:
                for member in archive:
                    data = archive.extractfile(member) if member.isfile() else None
                    if member.name not in known or data is None:
                        continue
                    if member.name in extracted:
                        raise _invalid(file, f"has {member.name} twice")
                    extracted.add(member.name)
                    if member.name != large and member.size > MAX_MEMBER_BYTES:
                        raise _invalid(file, f"has a {member.name} of {member.size:,} bytes")
                    if member.size > shutil.disk_usage(folder).free:
                        raise DiskFull(str(folder))
                    descriptor = os.open(
                        folder / member.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
                    )
                    with os.fdopen(descriptor, "wb") as writing:
                        while part := data.read(BLOCK_BYTES):
                            writing.write(part)
                        writing.flush()
                        os.fsync(writing.fileno())
        except tarfile.TarError as error:
            raise _invalid(file, f"is damaged: {error}") from error
        reader.drain()
    sync_folder(folder)


def _invalid(file: Path, problem: str) -> InvalidInput:
    return InvalidInput("file", f"{file} {problem}", "use another backup")
