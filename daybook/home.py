"""The home directory, and the Prefect server that this process uses.

Prefect's own settings name its address. If they name none, this process uses the server that this
home's `daybook up` runs, and without one Prefect's temporary server with its files under
`<home>/prefect`. So two homes on one machine never share a server by accident. Call
`configure_prefect` before Prefect is imported, because Prefect reads its environment once.

The server of `daybook up` requires a credential. It is stored in a file of the home that only its
owner can read. `configure_prefect` finds it there, so it need not stand in the environment with
which a process is started, which other processes of the same user can read in `/proc`.
"""

from __future__ import annotations

import fcntl
import hashlib
import html
import json
import os
import secrets
import socket
import sys
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from daybook.errors import InvalidInput
from daybook.settings import home_path

CLIENT_CREDENTIAL = "PREFECT_API_AUTH_STRING"
SERVER_CREDENTIAL = "PREFECT_SERVER_API_AUTH_STRING"
"""Prefect's own settings: the credential that a client sends, and the one that a server requires.
"""


@dataclass(frozen=True)
class Home:
    """Paths of one home. `make` creates the folder, readable by its owner only."""

    path: Path

    @property
    def worker_name(self) -> str:
        """Name of `up`'s worker in the pool: stable over restarts, different for each home."""
        mark = hashlib.sha256(str(self.path).encode()).hexdigest()[:6]
        return f"{socket.gethostname()}-{mark}"

    @property
    def prefect(self) -> Path:
        """`PREFECT_HOME` of the embedded server and of direct calls."""
        return self.path / "prefect"

    @property
    def logs(self) -> Path:
        """Output of the processes of `up`."""
        return self.path / "logs"

    @property
    def up_file(self) -> Path:
        """State of the running `daybook up`: JSON with `pid`, `api_url`, `ui_url`, children."""
        return self.path / "up.json"

    @property
    def up_lock(self) -> Path:
        """Locked (flock) for as long as a `daybook up` of this home runs."""
        return self.path / "up.lock"

    @property
    def webhook_secret(self) -> Path:
        """The default secret that signs callbacks: `daybook.delivery.home_secret`."""
        return self.path / "webhook-secret"

    @property
    def credential_file(self) -> Path:
        """The credential that the Prefect server of `up` requires, as `user:password`."""
        return self.path / "prefect-credential"

    @property
    def browser_key_file(self) -> Path:
        """The key that signs browser sessions: `daybook.operations.login`."""
        return self.path / "browser-key"

    def credential(self) -> str:
        """Return the credential; empty if there is none yet."""
        return _read_secret(self.credential_file)

    def ensure_credential(self, given: str = "") -> str:
        """Return the credential; create it if it is missing.

        ``given`` replaces it. Raises `InvalidInput` if ``given`` cannot be sent in a header.
        """
        if given and not (given.isascii() and given.isprintable()):
            raise InvalidInput(
                SERVER_CREDENTIAL, "has a character that HTTP cannot send", "use printable ASCII"
            )
        if given and given != self.credential():
            write_private_draft(self.credential_file, f"{given}\n").replace(self.credential_file)
        return given or _ensure_secret(self.credential_file, f"daybook:{secrets.token_urlsafe(32)}")

    def browser_key(self) -> str:
        """Return the key that signs browser sessions; create it at first use."""
        return _ensure_secret(self.browser_key_file, secrets.token_urlsafe(32))

    def write_redirect_page(self, url: str) -> Path:
        """Write a page that redirects a browser to ``url``, readable by its owner only."""
        page = self.path / "open.html"
        address = html.escape(url, quote=True)
        refresh = f'<meta http-equiv="refresh" content="0;url={address}">\n'
        write_private_draft(page, refresh).replace(page)
        return page

    @property
    def ledger_key(self) -> Path:
        """The key of the encrypted copies in the ledger: `daybook.resources.encryption`."""
        return self.path / "ledger-key"

    def make(self) -> Home:
        """Create the folders, readable by their owner only. An existing folder keeps its mode.

        It may be a folder with other things in it. `daybook doctor` warns if others can read it.
        """
        for folder in (self.path, self.prefect, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    def running(self) -> dict[str, Any] | None:
        """Return what the running `daybook up` of this home recorded; None if none runs.

        Empty if it runs and has not written its state yet.
        """
        try:
            with self.up_lock.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None  # no process holds it
        except BlockingIOError:
            pass
        except FileNotFoundError:
            return None
        try:
            return dict(json.loads(self.up_file.read_text()))
        except (FileNotFoundError, ValueError):
            return {}  # it runs and has not written its state yet


def current_home() -> Home:
    """Return the home of this process."""
    return Home(home_path())


def is_configured_by_user() -> bool:
    """Return whether the user's own Prefect environment or active profile names a server."""
    return bool(_configured_address())


def _configured_address() -> str:
    """Return the server address in the user's own Prefect settings; empty if there is none."""
    if address := os.environ.get("PREFECT_API_URL"):
        return address
    if "PREFECT_HOME" in os.environ and Path(os.environ["PREFECT_HOME"]) == current_home().prefect:
        return ""
    folder = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        profiles = tomllib.loads((folder / "profiles.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return ""
    name = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    return str(profiles.get("profiles", {}).get(name, {}).get("PREFECT_API_URL") or "")


def configure_prefect() -> str | None:
    """Configure Prefect, before it is imported, for the right server; return the new address.

    None means that the user's own Prefect settings were left as they are, or that no server is
    known yet (Prefect then starts a temporary one for a direct call). Also sets the credential of
    the server that this home's `daybook up` runs, and turns off the telemetry of Prefect's client.
    """
    if "prefect" in sys.modules:
        return os.environ.get("PREFECT_API_URL")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if configured := _configured_address():
        use_credential(configured)
        return os.environ.get("PREFECT_API_URL")
    home = current_home().make()
    os.environ.setdefault("PREFECT_HOME", str(home.prefect))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
    if (running := home.running()) and (address := running.get("api_url")):
        os.environ["PREFECT_API_URL"] = str(address)
        use_credential(str(address))
        return str(address)
    return None


def use_credential(address: str) -> None:
    """Have Prefect's clients of this process send the credential of the server at ``address``.

    For the server of this home's `daybook up` this is the home's credential. For another server on
    this machine it is `PREFECT_SERVER_API_AUTH_STRING`, if `PREFECT_API_AUTH_STRING` is not set.
    """
    if is_own_server(address):
        if credential := current_home().credential():
            os.environ[CLIENT_CREDENTIAL] = credential
    elif (expected := os.environ.get(SERVER_CREDENTIAL)) and _endpoint(address)[0] == "127.0.0.1":
        os.environ.setdefault(CLIENT_CREDENTIAL, expected)


def is_own_server(address: str) -> bool:
    """Return whether this home's `daybook up` started ``address`` and runs it now."""
    running = current_home().running() or {}
    own = str(running.get("api_url") or "")
    return bool(running.get("own_server") and own and _endpoint(own) == _endpoint(address))


def forget_stopped_server() -> None:
    """Remove the server that `daybook env` exported to this shell, if no `up` of this home runs.

    It was this home's own server, which `daybook up` starts again.
    """
    credential = current_home().credential()
    if (
        credential
        and os.environ.get(CLIENT_CREDENTIAL) == credential
        and not current_home().running()
    ):
        for name in ("PREFECT_API_URL", CLIENT_CREDENTIAL):
            os.environ.pop(name, None)


def without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` for a process that reads the credential from the home."""
    credentials = (CLIENT_CREDENTIAL, SERVER_CREDENTIAL)
    return {name: value for name, value in environment.items() if name not in credentials}


def _endpoint(address: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(address)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return "", None
    return "127.0.0.1" if host in ("localhost", "::1") else host, port


def _read_secret(file: Path) -> str:
    with suppress(FileNotFoundError, NotADirectoryError):
        return file.read_text(encoding="utf-8").strip()
    return ""


def _ensure_secret(file: Path, new: str) -> str:
    """Return the secret in ``file``; write ``new`` there first if it is missing or empty."""
    try:
        empty = not file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        # If several processes do this at once, the first one's file stays.
        make_private_file(file, f"{new}\n")
    else:
        if empty:  # of several processes, the first one fills it
            with file.open("r+", encoding="ascii") as opened:
                fcntl.flock(opened, fcntl.LOCK_EX)
                if not opened.read().strip():
                    opened.write(f"{new}\n")
                    opened.flush()
                    os.fsync(opened.fileno())
    file.chmod(0o600)  # a backup may have restored it with another mode
    return _read_secret(file)


def write_private_draft(file: Path, text: str) -> Path:
    """Write ``text`` to a new file next to ``file``, readable only by its owner, and sync it."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as writing:
        writing.write(text)
        writing.flush()
        os.fsync(writing.fileno())
    return draft


def make_private_file(file: Path, text: str) -> None:
    """Create ``file`` with mode 0600, completely or not at all. An existing file stays as it is."""
    draft = write_private_draft(file, text)
    try:
        with suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink()
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # otherwise a power cut can lose the name
    finally:
        os.close(folder)
