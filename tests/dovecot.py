"""A Dovecot of the test's own: its configuration, its one user, and its processes."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = "/usr/sbin/dovecot"
PASSWORD = "correct-horse-1"
_CONFIGURATION = """
base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/log
protocols = imap
listen = 127.0.0.1
ssl = required
ssl_cert = <{certificate}
ssl_key = <{certificate}
mail_location = maildir:{folder}/mail
mail_uid = {uid}
mail_gid = {gid}
first_valid_uid = 0
default_internal_user = {user}
default_login_user = {login_user}
default_internal_group = {group}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {port}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
"""


@dataclass(frozen=True)
class Dovecot:
    """A running server, whose mails are in ``folder``."""

    port: int
    folder: Path
    user: str

    def deliver(self, content: bytes, name: str) -> None:
        """Deliver a mail as a program on the server does: complete, or not at all."""
        draft = self.folder / "mail" / "tmp" / name
        draft.write_bytes(content)
        shutil.chown(draft, self.user)
        draft.rename(self.folder / "mail" / "new" / name)

    def renumber(self) -> None:
        """Make the server give all mails new numbers, as after a restored backup.

        Keep its files about the last UIDVALIDITY: without them, the next one is the time in
        seconds, which may be the same as before.
        """
        for each in (self.folder / "mail").glob("dovecot[.-]*"):
            if not each.name.startswith("dovecot-uidvalidity"):
                each.unlink()

    def flags(self) -> list[str]:
        """Return the flags of the mails that a client has seen, such as `S`."""
        found = (self.folder / "mail" / "cur").iterdir()
        return sorted(each.name.rpartition(",")[2] for each in found)


@contextmanager
def running(certificate: Path) -> Iterator[Dovecot]:
    """Yield a server with the mailbox of one user; skip if Dovecot is not installed."""
    if not shutil.which(PROGRAM):
        pytest.skip("service absent: Dovecot")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # As root, it needs the users of its package, and a folder that they can read.
    own, group = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid()).gr_name
    names = (
        ("dovecot", "dovecot", "dovenull") if not own.pw_uid else (own.pw_name, group, own.pw_name)
    )
    user = pwd.getpwnam(names[0])
    with tempfile.TemporaryDirectory(prefix="dovecot-") as path:
        folder = Path(path)
        folder.chmod(0o755)
        for each in ("mail", "mail/tmp", "mail/new", "mail/cur"):
            (folder / each).mkdir()
            shutil.chown(folder / each, user.pw_name)
        given = {
            "folder": folder,
            "certificate": certificate,
            "port": port,
            "uid": user.pw_uid,
            "gid": user.pw_gid,
            **dict(zip(("user", "group", "login_user"), names, strict=True)),
            "password": PASSWORD,
        }
        configuration = folder / "dovecot.conf"
        configuration.write_text(_CONFIGURATION.format(**given))
        program = subprocess.Popen([PROGRAM, "-F", "-c", str(configuration)])
        try:
            yield Dovecot(port, folder, user.pw_name)
        finally:
            program.terminate()
            program.wait(20)
