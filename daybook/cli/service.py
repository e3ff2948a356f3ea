"""The `daybook service` commands."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import home as homes
from daybook import operations
from daybook.cli import output
from daybook.cli.command import Answer, command
from daybook.cli.machine import JsonReporter, TerminalReporter
from daybook.cli.options import Json, Yes, check_limit, is_confirmed, prepare_prefect
from daybook.errors import DaybookError, NotFound
from daybook.operations import service as services
from daybook.operations import service_units

if TYPE_CHECKING:
    from daybook.operations.service import ServiceState
    from daybook.operations.service_units import ServiceDefinition

_SYSTEM = Parameter(
    name="--system", negative="--user", help="The system's service instead of this user's own."
)


async def install_(
    *,
    system: Annotated[bool, _SYSTEM] = False,
    run_as: Annotated[
        str, Parameter(help="User of the system's service. [default: the user who called sudo]")
    ] = "",
    show: Annotated[
        bool, Parameter(name="--print", help="Print the definition, and change nothing.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Start Daybook now, at boot and after a failure.

    Installs a systemd unit (on macOS a launchd job) for this home and this interpreter, and starts
    it. Repeat the command after you have moved one of them. The service does not get the variables
    of your shell: write those that it needs to `service.env` in the home.

    Example: daybook service install
    """
    _use_home(system)
    service = services.define(system=system, run_as=run_as)
    if show:
        shown = services.shown_texts(service)
        if as_json:
            output.print_json({str(path): text for path, text in shown.items()})
            return 0
        for path, text in shown.items():
            output.line(text if len(shown) == 1 else f"# {path}\n{text}")
        return 0
    services.install(service)
    output.say(f"Installed {service.file}")
    if not services.lingers(service):
        _offer_linger(yes)
    if names := services.shell_variables():
        file = homes.current_home().service_environment
        output.say(f"! The service does not get {', '.join(names)} from this shell. If it needs")
        output.say(f"! them, write NAME=value lines to {file} (mode 600), and repeat this command.")
    await _start(service, as_json)
    return 0


@command()
async def status_(*, system: Annotated[bool | None, _SYSTEM] = None) -> Answer:
    """Show whether the service of this home runs, and what is wrong with it.

    Exits with 0 if it runs, 1 if it does not, 3 if none is installed.

    Example: daybook service status
    """
    state = services.state(_installed(system))
    yield state, 0 if state.running else 1
    _print_state(state)


def logs_(
    *,
    system: Annotated[bool | None, _SYSTEM] = None,
    lines: Annotated[
        int, Parameter(alias="-n", help="Maximum number of lines.", show_default=True)
    ] = 50,
    follow: Annotated[bool, Parameter(alias="-f", help="Print new lines until Ctrl-C.")] = False,
) -> int:
    """Print the log of the service.

    Example: daybook service logs --follow
    """
    check_limit(lines, "lines")
    command = services.log_command(_installed(system), lines, follow=follow)
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise DaybookError(f"there is no {command[0]} on this machine") from None


def uninstall_(*, system: Annotated[bool | None, _SYSTEM] = None, as_json: Json = False) -> int:
    """Stop the service, and remove it. The home with its jobs stays.

    Example: daybook service uninstall
    """
    service = _installed(system)
    removed = services.uninstall(service)
    if as_json:
        output.print_json({"name": service.name, "removed": [str(each) for each in removed]})
    else:
        output.say(f"Stopped {service.name}, and removed {', '.join(map(str, removed))}.")
    return 0


def _use_home(system: bool | None) -> None:
    """Use the state directory of the system's service, unless `DAYBOOK_HOME` is set."""
    if system and not os.environ.get("DAYBOOK_HOME"):
        os.environ["DAYBOOK_HOME"] = str(service_units.SYSTEM_HOME)


def _installed(system: bool | None) -> ServiceDefinition:
    """Return the service of this home. Without --system or --user, prefer this user's service.

    With --system, or if this home has no service and neither option is given, use the home of the
    system's service, unless `DAYBOOK_HOME` is set. Raise `NotFound` if no service is installed.
    """
    _use_home(system)
    home = homes.current_home()
    found = services.find(home, system=system)
    if found is None and system is None:
        _use_home(True)
        found = services.find(homes.current_home(), system=True)
    if found is None:
        message = f"no service is installed for {home.path}; `daybook service install` installs one"
        raise NotFound("service", str(home.path), message)
    return found


def _offer_linger(yes: bool) -> None:
    command = shlex.join(services.linger_command())
    output.say("Without lingering, it starts when you log in, and stops when you log out.")
    if not (yes or sys.stdin.isatty()):
        output.say(f"To start it at boot: {command}")
    elif is_confirmed(f"Run `{command}`, so that it starts at boot", yes):
        services.enable_linger()


async def _start(service: ServiceDefinition, as_json: bool) -> None:
    if service.is_system:  # its files are another user's, so open none of them here
        output.say("Starting it")
        await asyncio.to_thread(services.start, service, restart=True)
        if as_json:
            output.print_json(services.state(service))
        program = shlex.quote(str(Path(sys.executable).with_name("daybook")))
        variable = f"DAYBOOK_HOME={shlex.quote(str(service.home))}"
        output.say(f"It runs. To use it: sudo -u {service.user} {variable} {program} status")
        return
    prepare_prefect()

    reporter = JsonReporter() if as_json else TerminalReporter(browser=False)
    await operations.up.show_service_start(service, reporter, restart=True)


def _print_state(state: ServiceState) -> None:
    style = "bold green" if state.running else "bold red"
    output.line("running" if state.running else "not running", style=style)
    pairs = [
        ("service", f"{state.name}, {state.scope}"),
        ("state", state.state),
        ("at boot", "enabled" if state.enabled else "disabled"),
        ("pid", str(state.pid or "")),
        ("restarts", "" if state.restarts is None else str(state.restarts)),
        ("file", str(state.file)),
        ("python", state.python),
        ("home", str(state.home)),
    ]
    output.fields([(name, value) for name, value in pairs if value])
    for each in state.problems:
        output.line(f"! {each}", style="yellow")
