"""The home's folder, and which Prefect this process talks to.

The Prefect address is Prefect's own setting. Where none is configured, the server that this
home's `daybook up` runs is used, and without that Prefect's temporary server with its files under
`<home>/prefect`; so two homes on one machine never meet. `enter` has to be called before Prefect
is imported, because Prefect reads its environment once.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daybook.settings import home_path


@dataclass(frozen=True)
class Home:
    """The files of one home. `make` creates the folder, readable by its owner only."""

    path: Path

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
        """What signs callbacks where nothing else is said: `daybook.outbox.home_secret`."""
        return self.path / "webhook-secret"

    def make(self) -> Home:
        for folder in (self.path, self.prefect, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
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
    if os.environ.get("PREFECT_API_URL"):
        return True
    if "PREFECT_HOME" in os.environ and Path(os.environ["PREFECT_HOME"]) == here().prefect:
        return False
    folder = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        profiles = tomllib.loads((folder / "profiles.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return False
    name = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    return bool(profiles.get("profiles", {}).get(name, {}).get("PREFECT_API_URL"))


def enter() -> str | None:
    """Point Prefect, before it is imported, at the right server; returns what address was set.

    None means that the user's own Prefect settings were left as they are, or that no server is
    known yet (Prefect then starts a temporary one for a direct call).
    """
    if "prefect" in sys.modules or configured_elsewhere():
        return os.environ.get("PREFECT_API_URL")
    home = here().make()
    os.environ.setdefault("PREFECT_HOME", str(home.prefect))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
    if (running := home.running()) and (address := running.get("api_url")):
        os.environ["PREFECT_API_URL"] = str(address)
        return str(address)
    return None
