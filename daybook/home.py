"""The home directory, and the Prefect server that this process uses.

The process uses the first of these servers that exists:

1. the server whose address is in Prefect's own settings,
2. the server of the ledger that this home has joined (`Home.joined_prefect`),
3. the server of this home's running `daybook up`,
4. a temporary server that Prefect starts, with its files under `<home>/prefect`.

So two homes on one machine never share a server by accident. Call `configure_prefect` before
Prefect is imported, because Prefect reads its environment once.

The server of `daybook up` requires a credential, stored in a file of the home that only its owner
can read. `configure_prefect` reads the credential from this file. So the credential need not be in
a process's initial environment, which other processes of the same user can read in `/proc`.
"""

from __future__ import annotations

import fcntl
import hashlib
import html
import json
import os
import re
import secrets
import socket
import sys
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, cast
from urllib.parse import urlsplit

from daybook import plain_text
from daybook.errors import InvalidInput

MIN_FREE_BYTES = 2**20
"""Free space below which a disk counts as full."""
CLIENT_CREDENTIAL = "PREFECT_API_AUTH_STRING"
SERVER_CREDENTIAL = "PREFECT_SERVER_API_AUTH_STRING"
"""Prefect's two settings for the credential: one for the client, the other for the server."""
_NOT_IN_A_HOME = re.compile(r"[?\x00-\x1f\x7f\ud800-\udfff]")
"""Characters that the path of a home cannot contain.

Prefect's and the ledger's addresses of a SQLite file end at `?`, so the databases would be outside
of the home. Files of services are lines of text in UTF-8.
"""
_DIRECT_HOSTS = ("localhost", "127.0.0.1", "::1")
"""Hosts to which no process of Daybook connects through a proxy."""
_CERTIFICATE_FILES = ("SSL_CERT_FILE", "PREFECT_API_SSL_CERT_FILE")
"""Variables with a file of certificates that every client of Prefect reads."""


class RecordedChild(TypedDict):
    """A child of `daybook up` in `up.json`: `home_lock.ChildEntry`."""

    name: str
    pid: int
    started: str


class RecordedRestart(TypedDict):
    """A restart of a child in `up.json`: `home_lock.Restart`."""

    name: str
    at: str
    why: str


class RunningUp(TypedDict, total=False):
    """The content of `up.json`: `home_lock.UpRecord`.

    An `up` of another version may omit some keys.
    """

    pid: int
    started: str
    api_url: str
    ui_url: str
    pages_url: str
    own_server: bool
    web_url: str
    ledger: dict[str, Any]
    children: list[RecordedChild]
    leftovers: list[RecordedChild]
    restarts: list[RecordedRestart]
    ready_at: str | None
    started_by: Literal["", "detach", "service"]
    command: str


@dataclass(frozen=True)
class Home:
    """Paths of one home. `make` creates its folders."""

    path: Path

    @property
    def worker_name(self) -> str:
        """Return the name of `up`'s worker in the pool: stable, and different for each home.

        Its six characters come from the path and `make_worker_id`, because the homes of several
        machines may have the same path, and cloned machines the same host name. Further workers of
        the home have a number after it (`daybook.worker.names`).
        """
        identity = f"{self.path}:{_read_secret(self.worker_id)}"
        return f"{socket.gethostname()}-{hashlib.sha256(identity.encode()).hexdigest()[:6]}"

    @property
    def worker_id(self) -> Path:
        """Return the file with the home's random part of the names of its workers."""
        return self.path / "worker-id"

    def make_worker_id(self) -> None:
        """Create `worker_id` before the first worker starts; keep an existing one.

        On a full disk, the names come from the path alone.
        """
        with suppress(OSError):
            _ensure_secret(self.worker_id, secrets.token_hex(8))

    @property
    def mark(self) -> str:
        """Return six characters, derived from the path, that distinguish the machine's homes."""
        return hashlib.sha256(str(self.path).encode()).hexdigest()[:6]

    @property
    def prefect(self) -> Path:
        """Return the `PREFECT_HOME` of the embedded server and of direct calls."""
        return self.path / "prefect"

    @property
    def logs(self) -> Path:
        """Return the folder for the output of the processes of `up`."""
        return self.path / "logs"

    @property
    def up_file(self) -> Path:
        """Return the file with the JSON state of `up` (`daybook.operations.home_lock.UpRecord`)."""
        return self.path / "up.json"

    @property
    def up_lock(self) -> Path:
        """Return the file that is locked (flock) while a `daybook up` of this home runs.

        `down`, `restore` and `ledger move` also lock it while they work.
        """
        return self.path / "up.lock"

    @property
    def holders(self) -> Path:
        """Return the folder with the lock files of the workers (`daybook.runs.holders`)."""
        return self.path / "holders"

    @property
    def command_socket(self) -> Path:
        """Return the socket of `up`'s command server (`daybook.cli.command_server`)."""
        return self.path / "commands.sock"

    @property
    def command_key_file(self) -> Path:
        """Return the file with the key that a client of the command server has to send."""
        return self.path / "command-key"

    @property
    def webhook_secret(self) -> Path:
        """Return the file with the default signing secret for callbacks.

        `daybook.delivery.home_secret` creates it.
        """
        return self.path / "webhook-secret"

    @property
    def credential_file(self) -> Path:
        """Return the file with the credential of `up`'s Prefect server, as `user:password`."""
        return self.path / "prefect-credential"

    @property
    def joined_prefect(self) -> Path:
        """Return the file with the Prefect server of a ledger that this home has joined."""
        return self.path / "prefect-server.json"

    @property
    def browser_key_file(self) -> Path:
        """Return the file with the key that signs browser sessions (`daybook.operations.login`)."""
        return self.path / "browser-key"

    @property
    def service_environment(self) -> Path:
        """Return the user's file with variables for the service (`daybook.operations.service`)."""
        return self.path / "service.env"

    def credential(self) -> str:
        """Return the credential in `credential_file`; empty if the file does not exist yet."""
        return _read_secret(self.credential_file)

    def ensure_credential(self, given: str = "") -> str:
        """Return the credential in `credential_file`; create it if it is missing.

        If ``given`` is not empty, it replaces the stored credential. Raise `InvalidInput` if
        ``given`` cannot be sent in a header.
        """
        if given and not (given.isascii() and given.isprintable()):
            raise InvalidInput(
                SERVER_CREDENTIAL, "has a character that HTTP cannot send", "use printable ASCII"
            )
        if given and given != self.credential():
            write_private_draft(self.credential_file, f"{given}\n").replace(self.credential_file)
        return given or _ensure_secret(self.credential_file, f"daybook:{secrets.token_urlsafe(32)}")

    def write_joined_prefect(self, address: str, credential: str) -> None:
        """Let processes of this home use the Prefect server at ``address``."""
        server = {"api_url": address, "auth_string": credential}
        replace_private_file(self.joined_prefect, json.dumps(server))

    def read_joined_prefect(self) -> tuple[str, str]:
        """Return the address and the credential in `joined_prefect`; empty without the file."""
        with suppress(OSError, ValueError):
            server = json.loads(plain_text.read(self.joined_prefect))
            return str(server["api_url"]), str(server["auth_string"])
        return "", ""

    def browser_key(self) -> str:
        """Return the key that signs browser sessions; create it on first use."""
        return _ensure_secret(self.browser_key_file, secrets.token_urlsafe(32))

    def write_redirect_page(self, url: str) -> Path:
        """Write a page, readable by its owner only, that redirects to ``url``; return its path."""
        page = self.path / "open.html"
        address = html.escape(url, quote=True)
        refresh = f'<meta http-equiv="refresh" content="0;url={address}">\n'
        write_private_draft(page, refresh).replace(page)
        return page

    @property
    def restoring(self) -> Path:
        """Return the folder that exists during a restore; meanwhile nothing opens the ledger."""
        return self.path / ".restoring"

    @property
    def moving(self) -> Path:
        """Return the file that exists from the start to the end of a `daybook ledger move`."""
        return self.path / ".moving"

    @property
    def ledger_key(self) -> Path:
        """Return the file with the key for the ledger's copies (`daybook.resources.encryption`)."""
        return self.path / "ledger-key"

    def make(self) -> Home:
        """Create the folders, readable by their owner only. An existing folder keeps its mode.

        It may contain other files; `daybook doctor` warns if other users can read it.
        """
        for folder in (self.path, self.prefect, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    def running(self) -> RunningUp | None:
        """Return the state that this home's running `daybook up` wrote; None if no `up` runs.

        The state is empty until `up` has written `up.json`. While another command holds the lock
        (`up_lock`), the command counts as an `up`.
        """
        try:
            with self.up_lock.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None  # no process holds the lock
        except BlockingIOError:
            pass
        except (FileNotFoundError, NotADirectoryError):
            return None
        return self.recorded()  # empty if its state is not written yet

    def recorded(self) -> RunningUp:
        """Return the content of `up.json`, whose `up` may have been killed; empty without one."""
        try:
            content = json.loads(self.up_file.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return cast("RunningUp", content) if isinstance(content, dict) else {}


def free_bytes(path: Path) -> int:
    """Return the free space, in bytes, on the disk of ``path``; the path need not exist."""
    nearest = next(each for each in (path, *path.parents) if each.exists())
    status = os.statvfs(nearest)
    return status.f_bavail * status.f_frsize


def is_disk_full(path: Path) -> bool:
    """Return whether the disk of ``path`` has too little space for a database; False if unknown."""
    try:
        return free_bytes(path) < MIN_FREE_BYTES
    except OSError:
        return False


def full_disk(folders: Iterable[Path]) -> Path | None:
    """Return the first of ``folders`` whose disk is full; None if no disk is full."""
    return next((each for each in folders if is_disk_full(each)), None)


def home_path() -> Path:
    """Return the home directory: `DAYBOOK_HOME`, by default `~/.daybook`.

    Raise `InvalidInput` if it begins with `~` and that user does not exist. Raise it also for a
    path with one of `_NOT_IN_A_HOME`.
    """
    path = Path(os.environ.get("DAYBOOK_HOME") or "~/.daybook")
    try:
        path = path.expanduser().absolute()
    except RuntimeError:
        problem = f"names no folder: there is no home of {path.parts[0]}"
        raise InvalidInput("DAYBOOK_HOME", problem, "write an absolute path") from None
    if wrong := _NOT_IN_A_HOME.search(str(path)):
        problem = f"the path {str(path)!r} of a home cannot contain {wrong[0]!r}"
        raise InvalidInput("DAYBOOK_HOME", problem, "use another folder")
    return path


def current_home() -> Home:
    """Return the home of this process."""
    return Home(home_path())


def is_configured_by_user() -> bool:
    """Return whether the user's Prefect settings, or a joined ledger, name a server."""
    return bool(_configured_address())


def _configured_address() -> str:
    """Return `user_prefect`; else the server of a joined ledger; empty if there is none."""
    return user_prefect() or current_home().read_joined_prefect()[0]


def user_prefect() -> str:
    """Return the server address in the user's own Prefect settings; empty if they name none.

    Raise `InvalidInput` if the variable with the address has no valid URL.
    """
    if address := os.environ.get("PREFECT_API_URL"):
        try:
            urlsplit(address)
        except ValueError as error:  # Prefect itself would fail when it is imported
            legal = "write for example http://127.0.0.1:4200/api"
            raise InvalidInput("PREFECT_API_URL", f"is no URL: {error}", legal) from None
        return address
    if "PREFECT_HOME" in os.environ and Path(os.environ["PREFECT_HOME"]) == current_home().prefect:
        return ""
    folder = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        profiles = tomllib.loads(plain_text.read(folder / "profiles.toml"))
    except (OSError, tomllib.TOMLDecodeError):
        return ""
    name = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    return str(profiles.get("profiles", {}).get(name, {}).get("PREFECT_API_URL") or "")


def configure_prefect() -> str | None:
    """Configure Prefect for the right server, before Prefect is imported; return the address.

    Return None if the user's Prefect profile names the server, or if no server is known yet
    (Prefect then starts a temporary server for a direct call). Also set the credential
    (`use_credential`), and turn off the telemetry of Prefect's client. If Prefect was already
    imported, change only the variables for proxies and certificates. Raise `InvalidInput` if
    `PREFECT_API_URL` is no URL, and the errors of `_configure_proxies` and `_check_certificates`.
    """
    if "prefect" in sys.modules:
        _configure_proxies()
        _check_certificates()
        return os.environ.get("PREFECT_API_URL")
    return set_prefect_variables()


def set_prefect_variables() -> str | None:
    """Do the work of `configure_prefect`, whether Prefect was imported or not."""
    _configure_proxies()
    _check_certificates()
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if configured := _configured_address():
        joined, credential = current_home().read_joined_prefect()
        if configured == joined:
            os.environ["PREFECT_API_URL"] = joined
            if credential:
                os.environ.setdefault(CLIENT_CREDENTIAL, credential)
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


def _configure_proxies() -> None:
    """Let connections of this process, and of those that it starts, to this machine use no proxy.

    Prefect's clients would use the proxy of the environment for `up`'s own server too. All other
    connections use the proxy as before. Raise `InvalidInput` if httpx cannot use a proxy's address
    or a host of `NO_PROXY`: its clients would fail for every host.
    """
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return
    from urllib.request import getproxies_environment

    import httpx

    proxies = getproxies_environment()
    given = {f"{each}_proxy": proxies[each] for each in ("http", "https", "all") if each in proxies}
    for name, address in given.items():
        try:
            httpx.Proxy(address if "://" in address else f"http://{address}")
        except (ValueError, httpx.InvalidURL):  # the text may contain a password
            variable = name if name in os.environ else name.upper()
            raise InvalidInput(
                variable,
                "is not the address of a usable proxy",
                "write http://HOST:PORT; the scheme may also be https, socks5 or socks5h",
            ) from None
    direct = [each.strip() for each in proxies.get("no", "").split(",") if each.strip()]
    if given and direct != ["*"]:  # a `*` beside other names has not the same meaning everywhere
        direct += [each for each in _DIRECT_HOSTS if each not in direct]
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(direct)
    try:
        httpx.Client(verify=False).close()  # without certificates, which are slow to read
    except httpx.InvalidURL:
        hint = "write hosts and addresses with commas between them: no [::1], no IPv6 network"
        raise InvalidInput("NO_PROXY", "contains an invalid host", hint) from None


def _check_certificates() -> None:
    """Raise `InvalidInput` if a variable of `_CERTIFICATE_FILES` names no file of certificates.

    Make its path absolute, because the processes of `up` run in another folder.
    """
    for name in _CERTIFICATE_FILES:
        if not (given := os.environ.get(name)):
            continue
        hint = f"write the path of a file with certificates, or unset {name}"
        try:
            Path(given).read_bytes()
        except OSError as error:
            raise InvalidInput(name, f"{given} cannot be read: {error.strerror}", hint) from None
        if not _has_certificate(given):
            raise InvalidInput(name, f"{given} contains no valid certificate", hint)
        os.environ[name] = os.path.abspath(given)


def _has_certificate(path: str) -> bool:
    """Return whether a file has certificates, all of which the clients of this process can read."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except OSError:  # ssl.SSLError is one
        return False
    return context.cert_store_stats()["x509"] > 0


def use_credential(address: str) -> None:
    """Make this process's Prefect clients send the credential of the server at ``address``.

    The server of this home's `daybook up` gets the home's credential. Another server on this
    machine gets `PREFECT_SERVER_API_AUTH_STRING`, unless `PREFECT_API_AUTH_STRING` is set. For any
    other server, change nothing.
    """
    if is_own_server(address):
        if credential := current_home().credential():
            os.environ[CLIENT_CREDENTIAL] = credential
    elif (expected := os.environ.get(SERVER_CREDENTIAL)) and _endpoint(address)[0] == "127.0.0.1":
        os.environ.setdefault(CLIENT_CREDENTIAL, expected)


def is_own_server(address: str) -> bool:
    """Return whether this home's `daybook up` started the server at ``address`` and runs it now."""
    running = current_home().running() or {}
    own = str(running.get("api_url") or "")
    return bool(running.get("own_server") and own and _endpoint(own) == _endpoint(address))


def forget_stopped_server() -> None:
    """Unset the variables that `daybook env` exported to this shell, if no `daybook up` runs now.

    The variables name the server of an earlier `daybook up`; the next one starts its own server.
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
    """Return ``environment`` without Prefect's credentials, for a process that reads the home's."""
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
        return plain_text.read(file).strip()
    return ""


def _ensure_secret(file: Path, new: str) -> str:
    """Return the secret in ``file``; write ``new`` there first if it is missing or empty."""
    try:
        empty = not file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        # If several processes do this at once, the file of the first process stays.
        make_private_file(file, f"{new}\n")
    else:
        if empty:  # of several processes, only the first writes the secret
            with file.open("r+", encoding="ascii") as opened:
                fcntl.flock(opened, fcntl.LOCK_EX)
                if not opened.read().strip():
                    opened.write(f"{new}\n")
                    opened.flush()
                    os.fsync(opened.fileno())
    file.chmod(0o600)  # a backup may have restored it with another mode
    return _read_secret(file)


def write_private_draft(file: Path, text: str) -> Path:
    """Write ``text`` to a draft, a new file next to ``file``; sync the draft and return its path.

    Only the owner can read the draft. After an error, such as a full disk, no draft is left.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as writing:
            writing.write(text)
            writing.flush()
            os.fsync(writing.fileno())
    except BaseException:
        draft.unlink()
        raise
    return draft


def make_private_file(file: Path, text: str) -> None:
    """Create ``file`` with mode 0600, completely or not at all. Keep an existing file unchanged."""
    draft = write_private_draft(file, text)
    try:
        with suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink()
    sync_folder(file.parent)


def replace_private_file(file: Path, text: str) -> None:
    """Write ``file`` with mode 0600, completely or not at all; replace an existing file."""
    write_private_draft(file, text).replace(file)
    sync_folder(file.parent)


def sync_folder(path: Path) -> None:
    """Sync a folder, so that a power cut cannot lose the names of its files."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
