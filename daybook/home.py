"""The home's folder, and which Prefect this process talks to.

The Prefect address is Prefect's own setting. Where none is configured, the server that this
home's `daybook up` runs is used, and without that Prefect's temporary server with its files under
`<home>/prefect`; so two homes on one machine never meet. `enter` has to be called before Prefect
is imported, because Prefect reads its environment once.

The server of `daybook up` requires a credential. It is stored in a file of the home that only its
owner can read. `enter` finds it there, so it need not stand in the environment with which a process
is started, which other processes of the same user can read in `/proc`.
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
"""Prefect's own settings: what a client sends, and what a server asks for."""


@dataclass(frozen=True)
class Home:
    """The files of one home. `make` creates the folder, readable by its owner only."""

    path: Path

    @property
    def worker_name(self) -> str:
        """The name of `up`'s worker in the pool: the same at each start, another for each home."""
        mark = hashlib.sha256(str(self.path).encode()).hexdigest()[:6]
        return f"{socket.gethostname()}-{mark}"

    @property
    def prefect(self) -> Path:
        """`PREFECT_HOME` of the embedded server and of direct calls."""
        return self.path / "prefect"

    @property
    def logs(self) -> Path:
        """What the processes of `up` print."""
        return self.path / "logs"

    @property
    def up_file(self) -> Path:
        """What `daybook up` runs: JSON with `pid`, `api_url`, `ui_url` and its children."""
        return self.path / "up.json"

    @property
    def up_lock(self) -> Path:
        """Locked (flock) for as long as a `daybook up` of this home runs."""
        return self.path / "up.lock"

    @property
    def webhook_secret(self) -> Path:
        """What signs callbacks where nothing else is said: `daybook.delivery.home_secret`."""
        return self.path / "webhook-secret"

    @property
    def credential_file(self) -> Path:
        """What the Prefect server of `up` asks for, as `user:password`."""
        return self.path / "prefect-credential"

    @property
    def browser_key_file(self) -> Path:
        """The key that signs the sessions of browsers: `daybook.operations.login`."""
        return self.path / "browser-key"

    def credential(self) -> str:
        """The credential; empty if there is none yet."""
        return _read_secret(self.credential_file)

    def ensure_credential(self, given: str = "") -> str:
        """Return the credential, after making it if it is missing.

        ``given`` replaces it. Raises `InvalidInput` if ``given`` cannot be sent in a header.
        """
        if given and not (given.isascii() and given.isprintable()):
            raise InvalidInput(SERVER_CREDENTIAL, "has other characters than printable ASCII")
        if given and given != self.credential():
            private_draft(self.credential_file, f"{given}\n").replace(self.credential_file)
        return given or _ensure_secret(self.credential_file, f"daybook:{secrets.token_urlsafe(32)}")

    def browser_key(self) -> str:
        """The key that signs the sessions of browsers, made at its first use."""
        return _ensure_secret(self.browser_key_file, secrets.token_urlsafe(32))

    def leading_to(self, url: str) -> Path:
        """Write a page that leads a browser to ``url``, and that the owner alone can read."""
        page = self.path / "open.html"
        address = html.escape(url, quote=True)
        refresh = f'<meta http-equiv="refresh" content="0;url={address}">\n'
        private_draft(page, refresh).replace(page)
        return page

    @property
    def ledger_key(self) -> Path:
        """The key of what the ledger keeps of secrets: `daybook.resources.encryption`."""
        return self.path / "ledger-key"

    def make(self) -> Home:
        """Make the folders, for their owner alone. One that exists keeps its mode.

        It may be a folder with other things in it. `daybook doctor` warns if others can read it.
        """
        for folder in (self.path, self.prefect, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    def running(self) -> dict[str, Any] | None:
        """What the live `daybook up` of this home wrote down, or None when none runs."""
        try:
            with self.up_lock.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None  # nobody holds it
        except BlockingIOError:
            pass
        except FileNotFoundError:
            return None
        try:
            return dict(json.loads(self.up_file.read_text()))
        except (FileNotFoundError, ValueError):
            return {}  # it runs, and has not written its first lines yet


def here() -> Home:
    """The home of this process."""
    return Home(home_path())


def configured_elsewhere() -> bool:
    """Whether the user's own Prefect settings name a server (environment or active profile)."""
    return bool(_configured_address())


def _configured_address() -> str:
    """The address of the server that the user's own Prefect settings name; empty if none."""
    if address := os.environ.get("PREFECT_API_URL"):
        return address
    if "PREFECT_HOME" in os.environ and Path(os.environ["PREFECT_HOME"]) == here().prefect:
        return ""
    folder = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        profiles = tomllib.loads((folder / "profiles.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return ""
    name = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    return str(profiles.get("profiles", {}).get(name, {}).get("PREFECT_API_URL") or "")


def enter() -> str | None:
    """Point Prefect, before it is imported, at the right server; returns what address was set.

    None means that the user's own Prefect settings were left as they are, or that no server is
    known yet (Prefect then starts a temporary one for a direct call). Also sets the credential of
    the server that this home's `daybook up` runs, and that Prefect's client sends no telemetry.
    """
    if "prefect" in sys.modules:
        return os.environ.get("PREFECT_API_URL")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if configured := _configured_address():
        use_credential(configured)
        return os.environ.get("PREFECT_API_URL")
    home = here().make()
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

    For the server of this home's `daybook up` it is the home's. For another server on this
    machine, `PREFECT_SERVER_API_AUTH_STRING` is used if `PREFECT_API_AUTH_STRING` is not set.
    """
    if is_own_server(address):
        if credential := here().credential():
            os.environ[CLIENT_CREDENTIAL] = credential
    elif (given := os.environ.get(SERVER_CREDENTIAL)) and _place(address)[0] == "127.0.0.1":
        os.environ.setdefault(CLIENT_CREDENTIAL, given)


def is_own_server(address: str) -> bool:
    """Whether ``address`` is the server that this home's `daybook up` has started and runs now."""
    running = here().running() or {}
    known = str(running.get("api_url") or "")
    return bool(running.get("own_server") and known and _place(known) == _place(address))


def forget_prepared() -> None:
    """Forget the server that `daybook env` named in this shell, if no `up` of this home runs.

    It was this home's own, which `daybook up` starts anew.
    """
    credential = here().credential()
    if credential and os.environ.get(CLIENT_CREDENTIAL) == credential and not here().running():
        for name in ("PREFECT_API_URL", CLIENT_CREDENTIAL):
            os.environ.pop(name, None)


def without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` for a process that finds the home's credential by itself (`enter`)."""
    hidden = (CLIENT_CREDENTIAL, SERVER_CREDENTIAL)
    return {name: value for name, value in environment.items() if name not in hidden}


def _place(address: str) -> tuple[str, int | None]:
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
    """Return the secret in ``file``, after writing ``new`` there if it is missing or empty."""
    try:
        empty = not file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        make_private_file(file, f"{new}\n")  # of several processes here, the first one's file stays
    else:
        if empty:  # of several processes here, the first one fills it
            with file.open("r+", encoding="ascii") as opened:
                fcntl.flock(opened, fcntl.LOCK_EX)
                if not opened.read().strip():
                    opened.write(f"{new}\n")
                    opened.flush()
                    os.fsync(opened.fileno())
    file.chmod(0o600)  # it may come from a backup
    return _read_secret(file)


def private_draft(file: Path, text: str) -> Path:
    """Write ``text`` to a new file beside ``file``, readable by its owner only, and sync it."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as writing:
        writing.write(text)
        writing.flush()
        os.fsync(writing.fileno())
    return draft


def make_private_file(file: Path, text: str) -> None:
    """Make ``file`` with mode 0600: complete or not at all. A file that exists stays as it is."""
    draft = private_draft(file, text)
    try:
        with suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink()
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # without it the name can be lost in a power cut
    finally:
        os.close(folder)
