"""The service of a home: its installation by a fake systemctl, and what `doctor` says about it."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from daybook.diagnosis import doctor
from daybook.errors import DaybookError, InvalidInput
from daybook.finding import Severity
from daybook.home import Home
from daybook.operations import home_lock, service, service_units
from daybook.operations.service_units import ServiceDefinition
from tests.commands import Daybook

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fakes are of systemd")

FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >> {log}
case "$*" in
  *Version*) echo "252 (252.1-1)" ;;
  *ActiveState*) printf 'ActiveState=active\\nSubState=running\\nUnitFileState=enabled\\n'
    printf 'MainPID=12\\nNRestarts=3\\n' ;;
esac
"""

Calls = Callable[[], list[str]]


@pytest.fixture
def calls(daybook_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Replace systemd's programs by ones that succeed; return a function with their calls."""
    programs, log = tmp_path / "programs", tmp_path / "calls"
    programs.mkdir()
    for name in ("systemctl", "loginctl", "journalctl"):
        (programs / name).write_text(FAKE.format(log=log))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(service, "TEMPORARY_FOLDERS", ())
    monkeypatch.setattr(service, "LINGER", tmp_path / "linger")
    monkeypatch.setattr(service_units, "SYSTEM_UNITS", tmp_path / "system")

    def take() -> list[str]:
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    return take


def install() -> ServiceDefinition:
    defined = service.define(system=False)
    service.install(defined)
    return defined


def test_a_service_is_installed_enabled_started_and_removed(
    calls: Calls, daybook_home: Home
) -> None:
    defined = install()
    assert calls() == [
        "systemctl --user show --property=Version --value",
        "systemctl --user daemon-reload",
        f"systemctl --user enable {defined.name}.service",
    ]
    assert service.find(daybook_home) == defined
    assert service.find(daybook_home, system=True) is None
    assert "RestartSec=30" in defined.file.read_text()  # of version 252
    service.start(defined)
    service.start(defined, restart=True)
    verbs = [line.split()[2] for line in calls()]
    assert verbs == ["start", "restart"]
    state = service.state(defined)
    assert (state.running, state.pid, state.restarts) == (True, 12, 3)
    assert state.state == "active (running)"
    calls()
    removed = service.uninstall(defined)
    assert [each.name for each in removed] == [
        f"{defined.name}.service",
        f"{defined.name}-commands.service",
    ]
    assert calls()[0] == f"systemctl --user disable --now {defined.name}.service"
    assert service.installed() == []
    assert daybook_home.path.is_dir()


def test_the_unit_of_a_command_server_that_was_switched_off_is_removed(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    defined = install()
    commands = defined.file.with_name(f"{defined.name}-commands.service")
    text = commands.read_text()
    monkeypatch.setenv("DAYBOOK_COMMAND_SERVER", "false")
    calls()
    reduced = install()
    assert [each.name for each in defined.file.parent.iterdir()] == [defined.file.name]
    verbs = [line.split(" ", 2)[2] for line in calls()]
    assert verbs.index(f"stop {commands.name}") < verbs.index("daemon-reload")
    commands.write_text(text)  # left by an earlier version
    assert service.uninstall(reduced) == [defined.file, commands]
    assert list(defined.file.parent.iterdir()) == []


def test_the_files_of_a_service_are_synced_and_their_drafts_are_separate(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = set[int](), os.fsync

    def recorded(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", recorded)
    defined = service.define(system=False)
    defined.file.parent.mkdir(parents=True)
    other = defined.file.with_suffix(".new")  # the draft of another process
    other.write_text("half a unit")
    service.install(defined)
    assert other.read_text() == "half a unit"
    units = list(defined.file.parent.glob("*.service"))
    assert len(units) == 2
    assert {each.stat().st_ino for each in [defined.file.parent, *units]} <= synced
    assert {each.stat().st_mode & 0o777 for each in units} == {0o644}
    assert len(list(defined.file.parent.iterdir())) == 3


def test_nothing_is_written_while_another_up_runs_or_no_manager_answers(
    calls: Calls, daybook_home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with home_lock.hold(daybook_home), pytest.raises(InvalidInput, match="already running"):
        install()
    (tmp_path / "programs" / "systemctl").write_text("#!/bin/sh\necho no bus >&2; exit 1\n")
    with pytest.raises(DaybookError, match="no bus"):
        install()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DaybookError, match=r"there is no systemctl.*--print"):
        install()
    assert service.installed() == []


def test_what_a_service_cannot_use_is_refused(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="only for --system"):
        service.define(system=False, run_as="daybook")
    with pytest.raises(InvalidInput, match="there is no user missing-here"):
        service.define(system=True, run_as="missing-here")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InvalidInput, match=r"needs an administrator.*sudo .*install --system"):
        service.install(service.define(system=True))
    with monkeypatch.context() as patched:
        patched.setattr(service, "TEMPORARY_FOLDERS", (tmp_path,))
        with pytest.raises(InvalidInput, match=r"home: .* is in a temporary folder"):
            install()
        assert service.shown_texts(service.define(system=False))
    monkeypatch.setattr(sys, "executable", "/opt/it's/python")
    with pytest.raises(InvalidInput, match="interpreter: systemd cannot start"):
        service.define(system=False)
    monkeypatch.setenv("DAYBOOK_BACKUP_FOLDER", "/opt/a\nb")
    with pytest.raises(InvalidInput, match="control character"):
        service.define(system=False)


def test_doctor_reports_what_has_changed_since_the_installation(
    calls: Calls, daybook_home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert service.findings() == []
    assert dict(doctor.LOCAL_CHECKS)["service"] is service.findings
    user = service.user_name()
    defined = install()
    (lingering,) = service.findings()
    assert (lingering.severity, lingering.fix) == (
        Severity.WARNING,
        f"loginctl enable-linger {user}",
    )
    service.LINGER.mkdir()
    (service.LINGER / user).touch()
    (sound,) = service.findings()
    assert (sound.severity, str(defined.file) in sound.message) == (Severity.OK, True)

    monkeypatch.setenv("DAYBOOK_ALLOWED_WORK_DIRS", "~,/srv/work")
    (closed,) = service.findings()
    assert "may not write to /srv/work," in closed.message
    monkeypatch.delenv("DAYBOOK_ALLOWED_WORK_DIRS")

    service.install(replace(defined, python="/usr/bin/env"))
    (other,) = service.findings()
    assert (other.severity, "/usr/bin/env" in other.message) == (Severity.WARNING, True)
    service.install(replace(defined, python=str(tmp_path / "gone")))
    (gone,) = service.findings()
    assert (gone.severity, gone.fix) == (Severity.PROBLEM, "daybook service install")
    assert "no longer exists" in gone.message

    install()
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path / "moved"))
    assert service.findings() == []  # it is the sound service of another home
    daybook_home.path.rename(tmp_path / "moved")
    (moved,) = service.findings()
    assert f"the home {daybook_home.path}, which no longer exists" in moved.message
    assert moved.fix.startswith(f"DAYBOOK_HOME={daybook_home.path} daybook service uninstall")


def test_the_folders_of_backups_and_of_anna_are_writable(
    calls: Calls, daybook_home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install()
    backups, anna = tmp_path / "disk" / "backups", Path("~/anna").expanduser()
    monkeypatch.setenv("DAYBOOK_BACKUP_FOLDER", str(backups))
    monkeypatch.setenv("DAYBOOK_ANNA_FOLDER", "~/anna")
    monkeypatch.setenv("DAYBOOK_ALLOWED_WORK_DIRS", "~")
    messages = [each.message for each in service.findings()]
    assert f"may not write to {', '.join(sorted([str(anna), str(backups)]))}," in messages[0]
    assert f"cannot create {backups}, the folder of the setting backup_folder" in messages[1]

    defined = install()
    assert {str(backups), str(anna)} <= set(defined.writable)
    unit = defined.file.read_text()
    assert f'ReadWritePaths="-{backups}"' in unit
    assert f'ReadWritePaths="-{anna}"' in unit
    assert any("cannot create" in each.message for each in service.findings())
    backups.mkdir(parents=True)
    assert not any("disk" in each.message for each in service.findings())

    monkeypatch.setenv("DAYBOOK_BACKUP_FOLDER", "~/backups")  # the service can create it
    home = pwd.getpwnam("nobody").pw_dir
    of_other_user = service.define(system=True, run_as="nobody")
    assert {f"{home}/backups", f"{home}/anna"} <= set(of_other_user.writable)
    install()
    assert not any("backups" in each.message for each in service.findings())
    monkeypatch.setenv("DAYBOOK_ANNA_FOLDER", "anna")  # systemd has no current folder
    assert not any(each.endswith("anna") for each in service.define(system=False).writable)


def test_the_service_gets_variables_from_a_file(
    calls: Calls, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = daybook_home.service_environment
    assert service.read_environment(daybook_home) == {}
    file.write_text("# keys\n\nA_KEY=a=b #c\nB=' b '\nC=\"\n")
    read = service.read_environment(daybook_home)
    assert read == {"A_KEY": "a=b #c", "B": " b ", "C": '"'}
    file.write_text("OPENAI_API_KEY=x\nDAYBOOK_TIMEZONE=UTC\n")
    for name in ("OPENAI_API_KEY", "DAYBOOK_TIMEZONE", "DAYBOOK_MAX_LIGHT"):
        monkeypatch.setenv(name, "1")
    assert "DAYBOOK_MAX_LIGHT" in service.shell_variables()
    assert not {"OPENAI_API_KEY", "DAYBOOK_TIMEZONE"} & set(service.shell_variables())
    file.write_text("A=1\nsk-secret\n")
    with pytest.raises(InvalidInput, match="line 2 is no variable") as refused:
        service.read_environment(daybook_home)
    assert "secret" not in str(refused.value)
    for content, words in ((b"A=sk-secret\xff\n", "is not UTF-8"), (b"A=sk-secret\0\n", "line 1")):
        file.write_bytes(content)
        with pytest.raises(InvalidInput, match=words) as refused:
            service.read_environment(daybook_home)
        assert "secret" not in str(refused.value)


def test_the_commands_print_a_definition_and_a_state(calls: Calls, daybook: Daybook) -> None:
    printed = daybook("service", "install", "--print")
    assert printed.code == 0
    assert {each.split()[2] for each in calls()} == {"show"}  # it changes nothing
    assert "ProtectSystem=strict" in printed.out
    assert "Commands of Daybook" in printed.out
    definitions = json.loads(daybook("service", "install", "--print", "--json").out)
    assert "ProtectSystem=strict" in "".join(definitions.values())
    assert daybook("service", "status").code == 3
    defined = install()
    written = {str(each): each.read_text() for each in defined.file.parent.glob("*.service")}
    assert written == definitions
    shown = daybook("service", "status", "--json")
    assert (shown.code, json.loads(shown.out)["name"]) == (0, defined.name)
    assert "active (running)" in daybook("service", "status").out
    calls()
    assert daybook("service", "uninstall").code == 0
    assert calls()[0].startswith("systemctl --user disable --now")


def test_the_log_is_that_of_the_manager(calls: Calls) -> None:
    defined = service.define(system=False)
    assert service.log_command(defined, 7, follow=True) == [
        *("journalctl", "--user", "--unit", f"{defined.name}.service"),
        *("--lines", "7", "--follow"),
    ]
    system = service.log_command(service.define(system=True, run_as="root"), 7)
    assert "--user" not in system
    assert "--no-pager" in system


@pytest.mark.parametrize(
    ("is_managed", "words"),
    [
        (False, ["daybook up --detach", "daybook service install --print"]),
        (True, ["loginctl enable-linger", "XDG_RUNTIME_DIR=/run/user/"]),
    ],
)
def test_without_a_bus_the_definition_is_printed_and_the_error_says_what_to_do(
    is_managed: bool,
    words: list[str],
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(service, "SYSTEMD_RUNS", tmp_path if is_managed else tmp_path / "none")
    (tmp_path / "programs" / "systemctl").write_text(
        "#!/bin/sh\n"
        'if [ "$*" = --version ]; then echo "systemd 252 (252.1-1)"; exit; fi\n'
        'echo "Failed to connect to bus: No medium found" >&2; exit 1\n'
    )
    defined = service.define(system=False)
    assert service.shown_texts(defined) == service_units.texts(defined, 252)
    with pytest.raises(DaybookError, match="connect to bus") as caught:
        service.install(defined)
    for each in words:
        assert each in str(caught.value)
    assert service.installed() == []
