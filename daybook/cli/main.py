"""The `daybook` program: its commands, and the translation of errors to messages and exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, takewhile
from typing import Any, NamedTuple

from cyclopts import App, CycloptsError, Group, Parameter

from daybook import __version__
from daybook.errors import DaybookError, DiskFull, InvalidInput, NotFound

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_FIRST = Group("Commands", sort_key=1)
_MORE = Group("More", sort_key=2)
_OPERATE = Group("Operate", sort_key=3)
_OPTIONS = Group("Options", sort_key=9)

app = App(
    name="daybook",
    help="Schedule the jobs of AI agents and record the outcome of every due time.",
    help_epilogue="First `daybook up`, then `daybook add --help`. All commands: `daybook --help "
    "--all`.",
    help_format="markdown",
    version=__version__,
    version_flags=("--version", "-V"),
    default_parameter=Parameter(negative=(), show_default=False),
    group_commands=_FIRST,
    group_parameters=_OPTIONS,
    print_error=False,
    exit_on_error=False,
)


class _CommandGroup(NamedTuple):
    """Commands that begin with the same words, such as `daybook task session …`."""

    path: str
    help: str
    """The group's help, to which the names of its commands are added."""
    section: Group | None
    functions: str
    """The module, a colon, and the common prefix of the functions' names."""
    commands: tuple[str, ...]


_COMMANDS = (
    (_FIRST, "machine", ("up", "down", "status", "doctor")),
    (_FIRST, "today", ("today",)),
    (_FIRST, "jobs", ("add",)),
    (_FIRST, "job_list", ("list",)),
    (_FIRST, "jobs", ("show", "edit", "pause", "resume", "remove")),
    (_FIRST, "due", ("next",)),
    (_FIRST, "runs", ("run", "runs", "logs", "cancel")),
    (_MORE, "runs", ("ask", "retry")),
    (_MORE, "approvals", ("approve", "reject")),
    (_MORE, "machine", ("open",)),
    (_MORE, "skips", ("skip", "snooze")),
    (_MORE, "backfill", ("backfill",)),
    (_MORE, "inbox", ("inbox",)),
    (_MORE, "spend", ("spend",)),
    (_MORE, "files", ("apply", "diff", "export", "schema")),
    (_MORE, "mcp", ("mcp",)),
    (_MORE, "completion", ("completion",)),
    (_OPERATE, "machine", ("env", "worker", "keeper")),
    (_OPERATE, "web", ("web",)),
    (_OPERATE, "backup", ("backup", "restore")),
    (_OPERATE, "sync", ("sync", "conflicts")),
    (_OPERATE, "imports", ("import",)),
)
"""Commands of one word: the section in `--help`, the module, and the names of its commands."""

_COMMAND_GROUPS = (
    _CommandGroup(
        "maintenance",
        "Plan times in which no job starts",
        _OPERATE,
        "maintenance:",
        ("plan", "list", "remove"),
    ),
    _CommandGroup(
        "service",
        "Start Daybook at boot",
        _OPERATE,
        "service:",
        ("install", "status", "logs", "uninstall"),
    ),
    _CommandGroup("ledger", "Maintain the ledger", _OPERATE, "ledger:", ("prune", "rekey", "move")),
    _CommandGroup(
        "heartbeat",
        "Manage an agent's standing orders",
        _MORE,
        "heartbeat:",
        ("on", "off", "status"),
    ),
    _CommandGroup(
        "callbacks",
        "Show and retry callbacks and messages",
        _MORE,
        "callbacks:",
        ("list", "show", "retry"),
    ),
    _CommandGroup(
        "callbacks destinations",
        "Manage callback URLs that have their own secret",
        None,
        "destinations:",
        ("add", "list", "rotate", "test", "remove"),
    ),
    _CommandGroup(
        "hooks",
        "Manage signed requests that start a job",
        _MORE,
        "hooks:",
        ("add", "list", "show", "rotate", "test", "remove"),
    ),
    _CommandGroup(
        "session",
        "Show and continue stored sessions with agents",
        _MORE,
        "sessions:",
        ("list", "show", "send"),
    ),
    _CommandGroup(
        "task",
        "Manage the queue of tasks that live agents claim",
        _MORE,
        "task:",
        (
            *("add", "list", "show", "next", "heartbeat", "complete", "fail", "release"),
            *("retry", "recover", "cancel", "pause", "resume"),
        ),
    ),
    _CommandGroup(
        "task session",
        "Manage the live agents that claim tasks",
        None,
        "task_session:",
        ("register", "report", "list", "show", "remove"),
    ),
    _CommandGroup(
        "task scheduler",
        "Control the task scheduler",
        None,
        "task_scheduler:",
        ("status", "pause", "resume", "drain", "backlog", "cycle", "rebuild"),
    ),
    _CommandGroup(
        "agents",
        "Manage agents",
        _MORE,
        "agents:",
        ("add", "list", "show", "edit", "test", "remove"),
    ),
    _CommandGroup(
        "channels",
        "Manage channels for answers and alerts",
        _MORE,
        "channels:",
        ("list", "add", "test", "remove"),
    ),
    _CommandGroup(
        "secrets",
        "Manage secrets for {{secret:name}} in jobs",
        _MORE,
        "secrets:",
        ("add", "list", "remove"),
    ),
    _CommandGroup(
        "tokens",
        "Manage tokens for MCP clients that use HTTP",
        _OPERATE,
        "tokens:",
        ("add", "list", "remove"),
    ),
    _CommandGroup(
        "tools",
        "Manage tools and tool servers",
        _MORE,
        "tools:",
        ("list", "show", "call", "test", "add", "remove"),
    ),
)
"""Groups of commands, in the order of `--help`. The group that contains another one comes first."""

_ALIASES = {"list": ("ls",), "remove": ("rm",)}
"""Other names of commands, also of commands in groups."""

_MAX_COMMANDS_IN_HELP = 8
_group_apps: dict[str, App] = {}


def _register_commands() -> None:
    order = count()
    for section, module, names in _COMMANDS:
        for name in names:
            _add_lazy_command(app, f"{module}:{name}_", name, group=section, sort_key=next(order))
    for group in _COMMAND_GROUPS:
        parent_path, _, name = group.path.rpartition(" ")
        _group_apps[group.path] = App(
            name=name,
            help=f"{group.help}: {_command_names(group)}",
            help_epilogue="",
            group=group.section,
            default_parameter=app.default_parameter,  # `App.generate_docs` needs this
            sort_key=next(order),
        )
        _group_apps.get(parent_path, app).command(_group_apps[group.path])
        for name in group.commands:
            function = f"{group.functions}{name}_"
            _add_lazy_command(_group_apps[group.path], function, name, sort_key=next(order))
    for flag in ("--help", "--version"):
        app[flag].group = (_OPTIONS,)


def _command_names(group: _CommandGroup) -> str:
    subgroups = (each.path.partition(f"{group.path} ")[2] for each in _COMMAND_GROUPS)
    names = [*group.commands, *filter(None, subgroups)]
    if len(names) > _MAX_COMMANDS_IN_HELP:
        return f"{', '.join(names[:4])}, …"
    return f"{', '.join(names)}."


def _add_lazy_command(parent: App, path: str, name: str, **settings: Any) -> None:
    """Add a command whose module is imported when it is called or when its help is shown."""
    parent.command(
        f"daybook.cli.{path}",
        name=name,
        alias=_ALIASES.get(name, ()),
        help_epilogue="",
        **settings,
    )


_register_commands()


def main(tokens: Sequence[str] | None = None) -> int:
    """Run a command line (default: `sys.argv`). Return the exit code."""
    arguments = list(sys.argv[1:] if tokens is None else tokens)
    # A supervisor may start a program with closed streams.
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - until the exit
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    try:
        code = _run_command_line(arguments)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has closed it
        code = EXIT_BROKEN_PIPE
    try:
        sys.stdout.flush()
    except OSError:  # redirect stdout so that the flush at exit succeeds
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run_command_line(tokens: list[str]) -> int:
    try:
        tokens = _choose_help(_with_stdin_as_file(tokens))
        _load_for_help(tokens)
        with _usage_errors_as_invalid_input():
            command, bound, _ = app.parse_args(tokens)
        result: int | Coroutine[Any, Any, int] | None = command(*bound.args, **bound.kwargs)
        if isinstance(result, Coroutine):
            import asyncio

            result = asyncio.run(result)
        sys.stdout.flush()
        return result or 0
    except DaybookError as error:
        return report_error(error, tokens)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            from daybook.home import home_path, is_disk_full

            # If the error names no file, the full disk may be the disk of the output.
            if error.filename or is_disk_full(home_path()):
                return report_error(DiskFull(str(error.filename or home_path())), tokens)
        if sys.flags.dev_mode:
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        wrapped = DaybookError(
            f"{text} (unexpected error; run `python -X dev -m daybook …` for a traceback)"
        )
        return report_error(wrapped, tokens)


def _with_stdin_as_file(tokens: list[str]) -> list[str]:
    """Return the tokens with `@-` in place of the prompt `-`.

    The parser would read `-` as an option.
    """
    is_prompt = tokens[:1] in (["add"], ["edit"], ["run"], ["ask"])
    if not (is_prompt or tokens[:2] == ["session", "send"]) or "--" in tokens:
        return tokens
    return ["@-" if token == "-" else token for token in tokens]


def _load_for_help(tokens: list[str]) -> None:
    """Import the commands that a help page lists, to read the first line of their docstrings."""
    group, depth = app, 0
    while subgroup := _group_apps.get(" ".join(tokens[: depth + 1])) if tokens[depth:] else None:
        group, depth = subgroup, depth + 1
    next_tokens = tokens[depth : depth + 1]
    if not next_tokens or next_tokens[0] in ("-h", "--help"):
        for name in group:
            group[name]


def _choose_help(tokens: list[str]) -> list[str]:
    """Choose the short help pages or, for `--all`, the whole pages. Return the other tokens."""
    options = set(takewhile(lambda token: token != "--", tokens))
    if tokens[:1] == ["__complete"] or (tokens and options.isdisjoint(("-h", "--help"))):
        return tokens
    from daybook.cli.help import CommandsInShort, OptionsInShort

    is_whole = "--all" in options
    app.help_formatter = None if is_whole else CommandsInShort()
    for name in ("add", "edit"):
        app[name].help_formatter = None if is_whole else OptionsInShort()
        hint = f"`daybook {name} --help --all` shows all options."
        app[name].help_epilogue = "" if is_whole else hint
    return [token for token in tokens if token != "--all"] if is_whole else tokens


@contextmanager
def _usage_errors_as_invalid_input() -> Iterator[None]:
    try:
        yield
    except CycloptsError as error:
        from daybook.cli import error_text

        raise error_text.usage_error(error) from error


def report_error(error: DaybookError, tokens: list[str]) -> int:
    from daybook.cli import error_text, output

    spellings: dict[str, str] = {}
    if isinstance(error, InvalidInput):
        _, apps, _ = app.parse_commands(tokens)
        if apps[-1].default_command is not None:
            spellings = error_text.option_spellings(apps[-1], tokens)
    message = error_text.error_message(error, spellings)
    if isinstance(error, NotFound):  # this is, for example, the job `list` of `run list`
        message += error_text.other_meaning(tokens)
    output.say(f"daybook: {message}")
    if "--json" in takewhile(lambda token: token != "--", tokens):
        try:
            output.print_json(error_text.error_as_json(error, spellings))
        except BrokenPipeError:
            raise
        except OSError:  # the disk is full, but stderr has the message
            pass
    return error.exit_code
