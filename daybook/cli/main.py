"""The `daybook` program: the command tree; errors become messages and exit codes here."""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, takewhile
from typing import Any

from cyclopts import App, CycloptsError, Group, Parameter

from daybook import __version__
from daybook.errors import DaybookError

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_MACHINE = Group("This machine", sort_key=1)
_JOBS = Group("Jobs", sort_key=2)
_RUNS = Group("Runs", sort_key=3)
_AGENTS = Group("Agents and Prefect", sort_key=4)
_OPTIONS = Group("Options", sort_key=9)

app = App(
    name="daybook",
    help="Schedule the jobs of AI agents and record the outcome of every due time.",
    help_epilogue="Start with `daybook up`, then see `daybook add --help` in another terminal.",
    help_format="markdown",
    version=__version__,
    default_parameter=Parameter(negative=(), show_default=False),
    group_parameters=_OPTIONS,
    print_error=False,
    exit_on_error=False,
)
_agents = App(
    name="agents",
    help="Manage agents: add, list, show, test, remove.",
    help_epilogue="",
    group=_AGENTS,
)
_sessions = App(
    name="session",
    help="Show stored conversations: list, show.",
    help_epilogue="",
    group=_RUNS,
    sort_key=50,
)
_secrets = App(
    name="secrets",
    help="Manage secrets for {{secret:name}} in jobs: add, list, remove.",
    help_epilogue="",
    group=_AGENTS,
)
_tools = App(
    name="tools",
    help="Manage tools (list, show, call) and tool servers (test, add, remove).",
    help_epilogue="",
    group=_AGENTS,
)
_callbacks = App(
    name="callbacks",
    help="Show and retry callbacks and messages: list, show, retry, destinations.",
    help_epilogue="",
    group=_RUNS,
    sort_key=40,
)
_channels = App(
    name="channels",
    help="Manage channels for answers and alerts: list, add, test, remove.",
    help_epilogue="",
    group=_AGENTS,
)
_destinations = App(
    name="destinations",
    help="Manage callback addresses with their own secret: add, list, rotate, test, remove.",
    help_epilogue="",
    sort_key=90,
)
_tokens = App(
    name="tokens",
    help="Manage tokens of MCP clients over HTTP: add, list, remove.",
    help_epilogue="",
    group=_AGENTS,
)
_heartbeat = App(
    name="heartbeat",
    help="Manage standing orders of an agent: on, off, status.",
    help_epilogue="",
    group=_JOBS,
    sort_key=45,
)
_task = App(
    name="task",
    help="Manage the queue of tasks that live agents claim: add, list, show, next, …",
    help_epilogue="",
    group=_RUNS,
    sort_key=60,
)
_task_session = App(
    name="session",
    help="Manage the live agents that claim tasks: register, report, list, show, remove.",
    help_epilogue="",
    sort_key=90,
)
_task_scheduler = App(
    name="scheduler",
    help="Control the task scheduler: status, pause, resume, drain, backlog, cycle, rebuild.",
    help_epilogue="",
    sort_key=91,
)
_ledger = App(
    name="ledger",
    help="Maintain the ledger: prune, rekey.",
    help_epilogue="",
    group=_MACHINE,
    sort_key=60,
)
_COMMAND_GROUPS = {
    "agents": _agents,
    "callbacks": _callbacks,
    "callbacks destinations": _destinations,
    "channels": _channels,
    "heartbeat": _heartbeat,
    "ledger": _ledger,
    "secrets": _secrets,
    "session": _sessions,
    "task": _task,
    "task scheduler": _task_scheduler,
    "task session": _task_session,
    "tokens": _tokens,
    "tools": _tools,
}
_TASK_COMMANDS = (
    *("add", "list", "show", "next", "heartbeat", "complete", "fail", "release"),
    *("retry", "recover", "cancel", "pause", "resume"),
)
_SCHEDULER_COMMANDS = ("status", "pause", "resume", "drain", "backlog", "cycle", "rebuild")


def _register_commands() -> None:
    commands = [
        (
            _MACHINE,
            "machine",
            ("up", "open", "down", "status", "doctor", "env", "worker", "keeper"),
        ),
        (_MACHINE, "web", ("web",)),
        (_JOBS, "jobs", ("add", "list", "show", "edit", "pause", "resume", "remove")),
        (_JOBS, "skips", ("skip", "snooze")),
        (_JOBS, "due", ("next",)),
        (_RUNS, "runs", ("run", "runs", "logs", "cancel")),
        (_RUNS, "backfill", ("backfill",)),
        (_RUNS, "inbox", ("inbox",)),
        (_AGENTS, "sync", ("sync", "conflicts")),
        (_AGENTS, "mcp", ("mcp",)),
    ]
    order = count()
    for group, module, names in commands:
        for name in names:
            _add_lazy_command(app, f"{module}:{name}_", name, group=group, sort_key=next(order))
    group_commands = [
        (_agents, "agents:", ("add", "list", "show", "test", "remove")),
        (_secrets, "secrets:", ("add", "list", "remove")),
        (_tokens, "tokens:", ("add", "list", "remove")),
        (_heartbeat, "heartbeat:", ("on", "off", "status")),
        (_tools, "tools:", ("list", "show", "call", "test", "add", "remove")),
        (_channels, "channels:", ("list", "add", "test", "remove")),
        (_sessions, "sessions:", ("list", "show")),
        (_callbacks, "callbacks:", ("list", "show", "retry")),
        (_destinations, "callbacks:destinations_", ("add", "list", "rotate", "test", "remove")),
        (_ledger, "ledger:", ("prune", "rekey")),
        (_task, "task:", _TASK_COMMANDS),
        (_task_session, "task_session:", ("register", "report", "list", "show", "remove")),
        (_task_scheduler, "task_scheduler:", _SCHEDULER_COMMANDS),
    ]
    for parent, module_prefix, names in group_commands:
        for name in names:
            _add_lazy_command(parent, f"{module_prefix}{name}_", name, sort_key=next(order))
    for path, each in _COMMAND_GROUPS.items():
        parent_path, _, _ = path.rpartition(" ")
        (_COMMAND_GROUPS[parent_path] if parent_path else app).command(each)
    for flag in ("--help", "--version"):
        app[flag].group = (_OPTIONS,)


def _add_lazy_command(parent: App, path: str, name: str, **settings: Any) -> None:
    """Add a command whose module is imported when it is called or when its help is shown."""
    parent.command(f"daybook.cli.{path}", name=name, help_epilogue="", **settings)


_register_commands()


def main(tokens: Sequence[str] | None = None) -> int:
    """Run a command line (default: `sys.argv`) and return the exit code."""
    arguments = list(sys.argv[1:] if tokens is None else tokens)
    try:
        code = _run_command_line(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has closed it. Redirect stdout so that the flush at exit succeeds.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def _run_command_line(tokens: list[str]) -> int:
    try:
        _load_for_help(tokens)
        with _usage_errors_as_invalid_input():
            command, bound, _ = app.parse_args(tokens)
        result: int | Coroutine[Any, Any, int] | None = command(*bound.args, **bound.kwargs)
        if isinstance(result, Coroutine):
            import asyncio

            result = asyncio.run(result)
        return result or 0
    except DaybookError as error:
        return _report_error(error, tokens)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        wrapped = DaybookError(
            f"{text} (unexpected error; run `python -X dev -m daybook …` to see where)"
        )
        return _report_error(wrapped, tokens)


def _load_for_help(tokens: list[str]) -> None:
    """Import the commands that a help page lists, to read the first line of their docstrings."""
    group, depth = app, 0
    while (
        subgroup := _COMMAND_GROUPS.get(" ".join(tokens[: depth + 1])) if tokens[depth:] else None
    ):
        group, depth = subgroup, depth + 1
    next_tokens = tokens[depth : depth + 1]
    if not next_tokens or next_tokens[0] in ("-h", "--help"):
        for name in group:
            group[name]


@contextmanager
def _usage_errors_as_invalid_input() -> Iterator[None]:
    try:
        yield
    except CycloptsError as error:
        from daybook.cli import error_text

        raise error_text.usage_error(error) from error


def _report_error(error: DaybookError, tokens: list[str]) -> int:
    from daybook.cli import error_text, output

    spellings: dict[str, str] = {}
    _, apps, _ = app.parse_commands(tokens)
    if apps[-1].default_command is not None:
        spellings = error_text.option_spellings(apps[-1])
    output.say(f"daybook: {error_text.error_message(error, spellings)}")
    if "--json" in takewhile(lambda token: token != "--", tokens):
        output.print_json(error_text.error_as_json(error, spellings))
    return error.exit_code
