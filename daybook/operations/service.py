"""The service that starts `daybook up` at boot and restarts it: definition, state and findings.

A service belongs to one home, which the service's name and definition identify. There are two kinds
of services: a user's own service, and the system's service, which an administrator installs for a
user. `service_units` has the texts. systemctl, journalctl, loginctl and launchctl do the rest::

    define ──► install ──► start ──► state, log_command ──► uninstall
    installed ──► find, findings (doctor): have the interpreter, home or settings changed?
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from daybook import markers, plain_text, settings
from daybook.errors import DaybookError, InvalidInput
from daybook.finding import Finding, passed, problem, warning
from daybook.home import Home, current_home, sync_folder, write_private_draft
from daybook.operations import home_lock
from daybook.operations.server import absolute_python_path
from daybook.operations.service_units import (
    START_TIMEOUT_SECONDS,
    STOP_TIMEOUT_SECONDS,
    SYSTEM_HOME,
    ServiceDefinition,
    folder,
    is_macos,
    parse,
    texts,
)
from daybook.processes import children, environment

SYSTEMD_RUNS = Path("/run/systemd/system")
"""Folder that exists if systemd manages this machine."""
LINGER = Path("/var/lib/systemd/linger")
"""Folder with a file for each user whose services run without a login."""
TEMPORARY_FOLDERS = (Path("/tmp"), Path("/var/tmp"))
"""Folders in whose place the service has private, empty folders (`PrivateTmp`)."""
COPIED_VARIABLES = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables that the service's definition copies from the shell of the installation."""
COMMAND_TIMEOUT_SECONDS = START_TIMEOUT_SECONDS + STOP_TIMEOUT_SECONDS + 10.0
TAIL_LINES = 20


class ServiceState(BaseModel, frozen=True):
    """State of an installed service, as its manager reports it.

    ``state`` is the manager's word, such as `active (running)`. ``enabled`` is true if the manager
    starts the service at boot. ``pid`` is None while `up` does not run. ``restarts`` is None if the
    manager does not count restarts. ``problems`` has the findings that are problems or warnings.
    """

    name: str
    scope: Literal["user", "system"]
    file: Path
    python: str
    home: Path
    running: bool
    state: str
    enabled: bool
    pid: int | None
    restarts: int | None
    problems: list[Finding] = []


# --- definition


def define(*, system: bool, run_as: str = "") -> ServiceDefinition:
    """Return the service for this home, this interpreter and this shell's PATH.

    ``run_as`` is the user of the system's service. The default is the user who called sudo; without
    sudo, the user of this process. Raise `InvalidInput` for an unknown user, for ``run_as`` without
    ``system``, for paths that a service cannot use, and for invalid settings.
    """
    if run_as and not system:
        raise InvalidInput("run_as", "is only for --system", "add --system, or leave it out")
    user = (run_as or os.environ.get("SUDO_USER") or user_name()) if system else ""
    try:
        user_home = pwd.getpwnam(user).pw_dir if system else os.path.expanduser("~")
    except KeyError:
        hint = f"create it, for example with `useradd --create-home {shlex.quote(user)}`"
        raise InvalidInput("run_as", f"there is no user {user}", hint) from None
    given = settings.load()
    marked = markers.marked(type(given).model_fields, "folder")
    folders = (*given.work_dir_roots, *(getattr(given, name) for name in marked))
    writable = [
        re.sub(r"^~(?=/|$)", lambda _: user_home, each)
        for each in folders
        if each.startswith(("/", "~"))
    ]
    ledger = given.ledger_address.partition(":///")[2].partition("?")[0]
    if given.ledger_address.startswith("sqlite") and ledger:
        writable.append(str(Path(ledger).parent))
    home = current_home().path
    service = ServiceDefinition(
        home,
        sys.executable,
        {
            "PATH": environment.search_path(),
            **environment.select(COPIED_VARIABLES),
            **absolute_python_path(),
        },
        tuple(dict.fromkeys(each for each in writable if not Path(each).is_relative_to(home))),
        user,
        given.command_server and not is_macos(),
    )
    _check(service)
    return service


def _check(service: ServiceDefinition) -> None:
    paths = {"home": str(service.home), "interpreter": service.python}
    marked = markers.marked(settings.all_settings().model_fields, "folder")
    folders = {" or ".join(("allowed_work_dirs", *marked)): " ".join(service.writable)}
    values = {**paths, **folders, **service.variables}
    for name, value in values.items():
        if not value.isprintable():
            raise InvalidInput(name, f"{value!r} has a control character", "use another path")
    if is_macos():
        return
    if re.search(r"""["'\\]""", service.python):
        hint = "install Daybook in a folder without quotes and backslashes in its path"
        raise InvalidInput("interpreter", f"systemd cannot start {service.python}", hint)


def _check_folders(service: ServiceDefinition) -> None:
    """Raise `InvalidInput` if the home or the interpreter is in a temporary folder (systemd)."""
    for name, path in {"home": str(service.home), "interpreter": service.python}.items():
        if any(Path(path).is_relative_to(each) for each in TEMPORARY_FOLDERS):
            problem = f"{path} is in a temporary folder, and a service has its own ones"
            raise InvalidInput(name, problem, "use another folder")


def shell_variables() -> list[str]:
    """Return the names of this shell's variables that `up` uses, but a service would not get.

    Raise the error of `read_environment`.
    """
    from daybook.agents.providers import DEFAULT_MODELS

    names = [name for name in os.environ if name.startswith(("DAYBOOK_", "PREFECT_"))]
    names += [name for name in DEFAULT_MODELS if os.environ.get(name)]
    known = {"DAYBOOK_HOME", "PREFECT_HOME"} | read_environment(current_home()).keys()
    return sorted(set(names) - known)


def read_environment(home: Home) -> dict[str, str]:
    """Return the variables in the home's `service_environment`; {} if there is no such file.

    A line is blank, a comment that starts with `#`, or `NAME=value`. The value may be in quotes.
    Raise `InvalidInput` for any other line. The error does not repeat the line, because the line
    may contain a secret.
    """
    file = home.service_environment
    try:
        lines = plain_text.read(file).splitlines()
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise InvalidInput(
            str(file), "is not UTF-8 text", "write NAME=value in each line"
        ) from None
    variables = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or "\0" in value or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise InvalidInput(str(file), f"line {number} is no variable", "write NAME=value")
        is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        variables[name] = value[1:-1] if is_quoted else value
    return variables


def installed() -> list[ServiceDefinition]:
    """Return the services of Daybook that are installed for this user and for the system."""
    found = []
    for is_system in (False, True):
        pattern = "daybook*.plist" if is_macos() else "daybook*.service"
        for file in sorted(folder(is_system).glob(pattern)):
            try:
                service = parse(file.read_text(encoding="utf-8"), is_system=is_system)
            except (OSError, UnicodeDecodeError):
                continue
            if service is not None:
                found.append(service)
    return found


def find(home: Home, *, system: bool | None = None) -> ServiceDefinition | None:
    """Return the installed service of ``home``, preferably a user's own; None if there is none.

    ``system`` limits the search to one of the two.
    """
    for service in installed():
        if service.home == home.path and system in (None, service.is_system):
            return service
    return None


# --- the manager


def shown_texts(service: ServiceDefinition) -> dict[Path, str]:
    """Return the files that `install` would write: their texts, by path.

    If no service manager answers, they are for the installed version of systemd, and if there is
    none, for the newest one.
    """
    try:
        return texts(service, _version(service))
    except DaybookError:
        pass
    try:
        return texts(service, _number(_run(["systemctl", "--version"])))
    except DaybookError:
        return texts(service)


def install(service: ServiceDefinition) -> None:
    """Write the definition of the service, and enable the service. `start` starts it.

    Raise `InvalidInput` if this user lacks the rights, if a path of the service is temporary, if
    the home of a system's service does not exist, or if an `up` that no service started runs in the
    home. Raise `DaybookError` if the service manager does not answer or reports an error.
    """
    _require_rights(service, "install")
    if not is_macos():
        _check_folders(service)
    running = Home(service.home).running()
    if running is not None and running.get("started_by") != "service":
        raise home_lock.already_running(Home(service.home))
    version = _version(service)
    if not service.is_system:
        Home(service.home).make()
    elif service.home != SYSTEM_HOME and not service.home.is_dir():
        owner = shlex.quote(service.user)
        hint = f"install -d -m 700 -o {owner} {shlex.quote(str(service.home))}"
        raise InvalidInput("home", f"{service.home} does not exist", hint)
    if is_macos() and service.file.exists():
        _run(["launchctl", "bootout", _target(service)], check=False)
    written = texts(service, version)
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = write_private_draft(path, text)
        draft.chmod(0o644)
        draft.replace(path)
        sync_folder(path.parent)
    for path in _files(service):
        if path not in written:  # this file is the command server's unit of an earlier installation
            _systemctl(service, "stop", path.name, check=False)
            path.unlink()
    if is_macos():
        _run(["launchctl", "bootstrap", _domain(service), str(service.file)])
    else:
        _systemctl(service, "daemon-reload")
        _systemctl(service, "enable", f"{service.name}.service")


def start(service: ServiceDefinition, *, restart: bool = False) -> None:
    """Start an installed service, or with ``restart`` restart it, and return when it has started.

    Raise `DaybookError` if the start fails.
    """
    if is_macos():  # `install` has ended an older service
        _run(["launchctl", "kickstart", _target(service)])
    else:
        _systemctl(service, "restart" if restart else "start", f"{service.name}.service")


def uninstall(service: ServiceDefinition) -> list[Path]:
    """Stop the service and remove its definition; return the removed files.

    The home stays. Raise `InvalidInput` if this user lacks the rights, and `DaybookError` if the
    service manager does not answer or reports an error.
    """
    _require_rights(service, "uninstall")
    if is_macos():
        _run(["launchctl", "bootout", _target(service)], check=False)
    else:
        _systemctl(service, "disable", "--now", f"{service.name}.service")
    files = _files(service)
    for path in files:
        path.unlink()
    if not is_macos():
        _systemctl(service, "daemon-reload")
    return files


def _files(service: ServiceDefinition) -> list[Path]:
    """Return the existing files of the service, including files of an earlier definition."""
    largest = replace(service, command_server=not is_macos())
    return [path for path in texts(largest) if path.exists()]


def state(service: ServiceDefinition) -> ServiceState:
    """Return the state of an installed service.

    Raise `DaybookError` if no service manager answers.
    """
    restarts: int | None = None
    if is_macos():
        printed = _run(["launchctl", "print", _target(service)], check=False)
        shown = dict(re.findall(r"^\t(state|pid) = (.*)$", printed, re.MULTILINE))
        word, enabled = shown.get("state", "not loaded"), bool(printed)
        pid = int(shown.get("pid", 0)) or None
        running = pid is not None
    else:
        names = "ActiveState,SubState,UnitFileState,MainPID,NRestarts"
        printed = _systemctl(service, "show", f"{service.name}.service", f"--property={names}")
        shown = dict(re.findall(r"^(\w+)=(.*)$", printed, re.MULTILINE))
        word = f"{shown.get('ActiveState', 'unknown')} ({shown.get('SubState', 'unknown')})"
        enabled = shown.get("UnitFileState") == "enabled"
        pid, restarts = int(shown.get("MainPID") or 0) or None, int(shown.get("NRestarts") or 0)
        running = shown.get("ActiveState") == "active"
    return ServiceState(
        name=service.name,
        scope="system" if service.is_system else "user",
        file=service.file,
        python=service.python,
        home=service.home,
        running=running,
        state=word,
        enabled=enabled,
        pid=pid,
        restarts=restarts,
        problems=[each for each in findings_of(service) if each.severity != "ok"],
    )


def is_alive(service: ServiceDefinition) -> bool:
    """Return whether the manager runs or starts the service; raise the error of `state`."""
    shown = state(service)
    return shown.running or shown.state.startswith("activating")


def log_command(service: ServiceDefinition, lines: int, *, follow: bool = False) -> list[str]:
    """Return the command that shows the log of the service."""
    if is_macos():
        log = str(Home(service.home).logs / "up.log")
        return ["tail", "-n", str(lines), *(["-F"] if follow else []), log]
    scope = [] if service.is_system else ["--user"]
    words = ["--unit", f"{service.name}.service", "--lines", str(lines)]
    return ["journalctl", *scope, *words, *(["--follow"] if follow else ["--no-pager"])]


def log_tail(service: ServiceDefinition) -> str:
    """Return the last `TAIL_LINES` lines of the log, or "" if this user cannot read it.

    Raise `DaybookError` if there is no `journalctl`.
    """
    if is_macos():
        return children.read_tail(Home(service.home).logs / "up.log", 0, TAIL_LINES)
    return _run(log_command(service, TAIL_LINES), check=False).rstrip()


def lingers(service: ServiceDefinition) -> bool:
    """Return whether the service runs while its user is not logged in."""
    return service.is_system or is_macos() or (LINGER / user_name()).exists()


def linger_command() -> list[str]:
    """Return the command that lets this user's services run without a login."""
    return ["loginctl", "enable-linger", user_name()]


def enable_linger() -> None:
    _run(linger_command())


def _require_rights(service: ServiceDefinition, verb: str) -> None:
    if service.is_system and os.geteuid() != 0:
        program = shlex.quote(str(Path(sys.executable).with_name("daybook")))
        hint = f"run it with sudo: `sudo {program} service {verb} --system`"
        raise InvalidInput("system", "needs an administrator", hint)


def _version(service: ServiceDefinition) -> int:
    """Return the service manager's version; 0 on macOS.

    Raise `DaybookError` if the manager does not answer.
    """
    if is_macos():
        return 0
    return _number(_systemctl(service, "show", "--property=Version", "--value"))


def _number(text: str) -> int:
    found = re.search(r"\d+", text)
    return int(found[0]) if found else 0


def _domain(service: ServiceDefinition) -> str:
    return "system" if service.is_system else f"gui/{os.getuid()}"


def _target(service: ServiceDefinition) -> str:
    return f"{_domain(service)}/{service.name}"


def _systemctl(service: ServiceDefinition, *words: str, check: bool = True) -> str:
    scope = [] if service.is_system else ["--user"]
    return _run(["systemctl", *scope, *words], check=check)


def _run(command: Sequence[str], *, check: bool = True) -> str:
    """Return the output of a command.

    Raise `DaybookError` if there is no such program, or if the command takes longer than
    `COMMAND_TIMEOUT_SECONDS`. With ``check``, raise it also if the command fails.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        hint = "`daybook service install --print` shows the definition, for another manager"
        raise DaybookError(f"there is no {command[0]} on this machine; {hint}") from None
    except subprocess.TimeoutExpired as error:
        raise DaybookError(f"{shlex.join(command)} took too long") from error
    if check and done.returncode != 0:
        hint = _no_manager_hint(done.stderr)
        raise DaybookError(f"{shlex.join(command)} failed: {done.stderr.strip()}{hint}")
    return done.stdout


def _no_manager_hint(error: str) -> str:
    """Return what to do if ``error`` means that no service manager answers, otherwise ""."""
    if not re.search(r"connect to (system scope |user scope )?bus|not been booted", error):
        return ""
    if not SYSTEMD_RUNS.exists():
        return (
            "; systemd does not manage this machine (it may be a container), so run "
            "`daybook up --detach`, or give another manager the definition of "
            "`daybook service install --print`"
        )
    return (
        f"; this shell has no session of systemd, as after `su` and `sudo`: log in as "
        f"{user_name()} directly, or run `{shlex.join(linger_command())}` and "
        f"`export XDG_RUNTIME_DIR=/run/user/{os.getuid()}`, and repeat the command"
    )


def user_name() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


# --- findings


def findings() -> list[Finding]:
    """Check the service of this home, and all services whose home no longer exists."""
    found = []
    for service in installed():
        if service.home == current_home().path or _is_gone(service.home):
            found += findings_of(service)
    return found


def findings_of(service: ServiceDefinition) -> list[Finding]:
    """Return findings about changes since the installation of the service."""
    scope = " --system" if service.is_system else ""
    again, name = f"daybook service install{scope}", f"the service {service.name}"
    if _is_gone(service.home) and service.home != SYSTEM_HOME:
        remove = f"DAYBOOK_HOME={shlex.quote(str(service.home))} daybook service uninstall{scope}"
        message = f"{name} has the home {service.home}, which no longer exists"
        return [problem("service", message, f"{remove}, then {again}")]
    if _is_gone(Path(service.python)):
        message = f"{name} starts {service.python}, which no longer exists"
        return [problem("service", message, again)]
    found = []
    if service.python != sys.executable:
        message = f"{name} starts {service.python}, and this command runs in {sys.executable}"
        found.append(warning("service", message, f"{again}, if the second one is right"))
    if closed := sorted(set(_wanted_folders(service)) - set(service.writable)):
        message = f"{name} may not write to {', '.join(closed)}, which the settings allow"
        found.append(warning("service", message, again))
    for setting, missing in _missing_folders(service):
        message = f"{name} cannot create {missing}, the folder of the setting {setting}"
        owner = f"-o {shlex.quote(service.user)} " if service.is_system else ""
        create = f"install -d -m 700 {owner}{shlex.quote(missing)}"
        found.append(warning("service", message, f"{create} && {again}"))
    if not lingers(service):
        message = f"{name} runs only while {user_name()} is logged in"
        found.append(warning("service", message, shlex.join(linger_command())))
    return found or [passed("service", f"{service.name}, {service.file}")]


def _is_gone(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # the path belongs to another user
        pass
    return False


def _missing_folders(service: ServiceDefinition) -> list[tuple[str, str]]:
    """Return the settings whose folder the service of this home cannot create, with the folder.

    A service may write only to certain folders.
    """
    if is_macos() or service.home != current_home().path:
        return []
    try:
        given = settings.load()
    except InvalidInput:
        return []
    writable = [service.home, *map(Path, service.writable)]
    found = []
    for name, field in type(given).model_fields.items():
        if markers.of(field).folder == "made" and (folder := getattr(given, name)):
            path = Path(folder).expanduser()
            may_create = any(path.parent.is_relative_to(each) for each in writable)
            if _is_gone(path) and not may_create:
                found.append((name, str(path)))
    return found


def _wanted_folders(service: ServiceDefinition) -> tuple[str, ...]:
    """Return the folders to which the present settings let the service write.

    Return () if the service belongs to another home, if the settings are invalid, or on macOS.
    """
    if is_macos() or service.home != current_home().path:
        return ()
    try:
        return define(system=service.is_system, run_as=service.user).writable
    except InvalidInput:
        return ()
