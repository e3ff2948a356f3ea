"""Definitions of services, and their texts: systemd units, and launchd property lists.

::

    Service ── systemd_units, launchd_job ──► texts, by file name
       ▲                                          │
       └────────────────── parse ◄────────────────┘

The functions do not write files or start programs.

On Linux a service has two units, or one if the setting `command_server` is off. systemd confines
`up` and the agents: they may write only to the home and to the allowed work directories. The
command server runs the commands of people, whose terminals are not confined. So the command server
has a unit of its own (decision 0065).
"""

from __future__ import annotations

import os
import plistlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from daybook.home import Home

SYSTEM_HOME = Path("/var/lib/daybook")
"""Home of the system's service if `DAYBOOK_HOME` is not set: the service's state directory."""
SYSTEM_UNITS, SYSTEM_JOBS = Path("/etc/systemd/system"), Path("/Library/LaunchDaemons")
BACKOFF_VERSION = 254
"""First version of systemd that can increase the delay before each restart."""
START_TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS = 1200, 90
"""Maximum time of a start, and of a stop.

A start has more time than each wait in a start (`Timing.max_start`).
"""
WATCHDOG_SECONDS = 120


@dataclass(frozen=True)
class ServiceDefinition:
    """Definition of a service; ``python`` is its interpreter, ``home`` its `DAYBOOK_HOME`.

    ``variables`` are further environment variables, including PATH. ``writable`` has the folders to
    which the service may write, besides the home. ``user`` is the user of the system's service, and
    empty for a user's own service. With ``command_server``, the service has a second unit for it.
    """

    home: Path
    python: str
    variables: Mapping[str, str] = field(default_factory=dict)
    writable: tuple[str, ...] = ()
    user: str = ""
    command_server: bool = True

    @property
    def is_system(self) -> bool:
        return bool(self.user)

    @property
    def name(self) -> str:
        """Return `daybook` for the default home.

        For another home, return `daybook-` and the home's mark (`Home.mark`).
        """
        default = SYSTEM_HOME if self.is_system else Path("~/.daybook").expanduser()
        return "daybook" if self.home == default else f"daybook-{Home(self.home).mark}"

    @property
    def file(self) -> Path:
        return folder(self.is_system) / f"{self.name}{'.plist' if is_macos() else '.service'}"

    @property
    def environment(self) -> dict[str, str]:
        return {**self.variables, "DAYBOOK_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}


def background_command(started_by: Literal["detach", "service"], python: str = "") -> list[str]:
    """Return the command that runs `up` in the background, for `up --detach` and the service."""
    # -P: Python does not import another `daybook` from the current folder, such as another
    # checkout.
    return [python or sys.executable, "-P", "-m", "daybook", "up", "--started-by", started_by]


# --- systemd: the texts


def systemd_units(service: ServiceDefinition, version: int = BACKOFF_VERSION) -> dict[str, str]:
    """Return the units of the service for this version of systemd: their texts, by file name."""
    units = {f"{service.name}.service": _up_unit(service, version)}
    if service.command_server:
        units[f"{service.name}-commands.service"] = _command_unit(service)
    return units


def _up_unit(service: ServiceDefinition, version: int) -> str:
    scope = "" if service.is_system else "--user "
    network = ["Wants=network-online.target", "After=network-online.target postgresql.service"]
    lines = [
        "# Written by `daybook service install`, which replaces changes.",
        f"# For settings of your own: systemctl {scope}edit {service.name}",
        "[Unit]",
        f"Description=Daybook ({_escaped(str(service.home))})",
        *([f"Wants={service.name}-commands.service"] if service.command_server else []),
        *(network if service.is_system else []),
        "# It never gives up: it waits longer instead.",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        *_process_lines(service, background_command("service", service.python)),
        f"TimeoutStartSec={START_TIMEOUT_SECONDS}",
        "# `up` itself ends its processes, in the right order.",
        "KillMode=mixed",
        f"TimeoutStopSec={STOP_TIMEOUT_SECONDS}",
        f"WatchdogSec={WATCHDOG_SECONDS}",
        "WatchdogSignal=SIGTERM",
        "Restart=on-failure",
        *_delay_lines(version),
        "# If memory is short, the kernel ends one process; the others continue.",
        "OOMPolicy=continue",
        *_confinement(service),
        "",
        "[Install]",
        f"WantedBy={'multi-user' if service.is_system else 'default'}.target",
    ]
    return "\n".join(lines) + "\n"


def _command_unit(service: ServiceDefinition) -> str:
    command = [service.python, "-P", "-m", "daybook.cli.command_server"]
    lines = [
        "# Written by `daybook service install`, which replaces changes.",
        "# Runs the commands of people, so it is confined no more than their terminals.",
        "[Unit]",
        f"Description=Commands of Daybook ({_escaped(str(service.home))})",
        f"BindsTo={service.name}.service",
        f"After={service.name}.service",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        *_process_lines(service, command),
        "TimeoutStopSec=10",
        "Restart=on-failure",
        "RestartSec=30",
    ]
    return "\n".join(lines) + "\n"


def _process_lines(service: ServiceDefinition, command: Sequence[str]) -> list[str]:
    assignments = (f"{name}={value}" for name, value in service.environment.items())
    return [
        f"ExecStart={' '.join([_quoted(command[0]), *command[1:]])}",
        *(f"Environment={_quoted(each)}" for each in assignments),
        *([f"User={service.user}"] if service.user else []),
        "UMask=0077",
    ]


def _delay_lines(version: int) -> list[str]:
    if version >= BACKOFF_VERSION:
        # systemd counts all failures since the last manual start, even failures of months ago.
        return ["RestartSec=5", "RestartSteps=6", "RestartMaxDelaySec=60"]
    return ["RestartSec=30"]


def _confinement(service: ServiceDefinition) -> list[str]:
    has_state_directory = service.is_system and service.home == SYSTEM_HOME
    # With "-", systemd accepts a missing folder.
    folders = [f"-{each}" for each in service.writable]
    folders += [] if has_state_directory else [str(service.home)]
    state_directory = [f"StateDirectory={SYSTEM_HOME.name}", "StateDirectoryMode=0700"]
    return [
        "",
        "# `up`, the agents and all that they start may write only to these folders.",
        "ProtectSystem=strict",
        *(f"ReadWritePaths={_quoted(each)}" for each in folders),
        *(state_directory if has_state_directory else []),
        "PrivateTmp=yes",
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap",
        "SystemCallErrorNumber=EPERM",
        *(_SYSTEM_CONFINEMENT if service.is_system else []),
    ]


_SYSTEM_CONFINEMENT = (
    "CapabilityBoundingSet=",
    "PrivateDevices=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
)
"""Lines that a user's own manager may not apply.

Namespaces stay allowed, because sandboxes use them.
"""


def _escaped(text: str) -> str:
    """Return ``text`` for a unit. A line must not end with it: it may end with a backslash."""
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    r"""Return ``text`` as one word of a unit: `"a \"b\" 100%%"`."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_escaped(escaped)}"'


# --- launchd: the text


def launchd_job(service: ServiceDefinition) -> dict[str, str]:
    """Return the property list of the service, by file name."""
    log = str(Home(service.home).logs / "up.log")
    job = {
        "Label": service.name,
        "ProgramArguments": background_command("service", service.python),
        "EnvironmentVariables": service.environment,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 30,
        "ExitTimeOut": STOP_TIMEOUT_SECONDS,
        "Umask": 0o077,
        "StandardOutPath": log,
        "StandardErrorPath": log,
        **({"UserName": service.user} if service.user else {}),
    }
    return {f"{service.name}.plist": plistlib.dumps(job).decode()}


def texts(service: ServiceDefinition, version: int = BACKOFF_VERSION) -> dict[Path, str]:
    """Return the files of the service on this system: their texts, by path."""
    found = launchd_job(service) if is_macos() else systemd_units(service, version)
    return {folder(service.is_system) / name: text for name, text in found.items()}


# --- installed definitions


def folder(is_system: bool) -> Path:
    """Return the folder of the definitions of the system's services, or of this user's services."""
    if is_macos():
        return SYSTEM_JOBS if is_system else Path("~/Library/LaunchAgents").expanduser()
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return SYSTEM_UNITS if is_system else Path(config) / "systemd" / "user"


def parse(text: str, *, is_system: bool) -> ServiceDefinition | None:
    """Return the service that a unit or property list defines; None if it is not Daybook's."""
    if text.startswith("<?xml"):
        return _parse_job(text)
    values: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        values.setdefault(name, []).append(_words(value))
    (command,) = values.get("ExecStart", [[]])[-1:]
    assignments = [each.partition("=") for line in values.get("Environment", []) for each in line]
    variables = {name: value for name, _, value in assignments}
    home = variables.pop("DAYBOOK_HOME", "")
    variables.pop("PYTHONUNBUFFERED", None)
    if not home or command[1:] != background_command("service")[1:]:
        return None
    folders = [each for line in values.get("ReadWritePaths", []) for each in line]
    users = [each for line in values.get("User", []) for each in line]
    wants = [each for line in values.get("Wants", []) for each in line]
    return ServiceDefinition(
        Path(home),
        command[0],
        variables,
        tuple(each[1:] for each in folders if each.startswith("-")),
        (users or ["root"])[-1] if is_system else "",
        any(each.endswith("-commands.service") for each in wants),
    )


def _words(text: str) -> list[str]:
    try:
        return [each.replace("%%", "%") for each in shlex.split(text)]
    except ValueError:
        return []


def _parse_job(text: str) -> ServiceDefinition | None:
    try:
        job = plistlib.loads(text.encode())
        variables = dict(job["EnvironmentVariables"])
        command, home = job["ProgramArguments"], Path(variables.pop("DAYBOOK_HOME"))
    except Exception:
        # The property list is not Daybook's, and the parser raises many types of errors.
        return None
    if command[1:] != background_command("service")[1:]:
        return None
    variables.pop("PYTHONUNBUFFERED", None)
    return ServiceDefinition(
        home, command[0], variables, (), job.get("UserName", ""), command_server=False
    )


def is_macos() -> bool:
    return sys.platform == "darwin"
